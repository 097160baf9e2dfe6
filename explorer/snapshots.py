"""The page on which one points at a place of an image and sees where it looks: what is noted for it, and the file.

A note is (facts, arrays). facts: epoch, step, real, whether D looks at real images, and layers, a list of {network,
positions, keys, gamma}, positions and keys being rows and columns. arrays: of a network's name, the images that it
looks at, uint8 [K, H, W, C]; of layer number i, most_i, float32 [K, N], the largest share of each row of its map, and
shares_i, uint8 [K, N, M], 255 where a share is that. Where there are more than 256 positions, only the 32
largest shares of each row, in shares_i and keys_i, uint16, [K, N, 32], and the sum of the others in rest_i, [K, N].
"""

import collections
import json
import pathlib
import re

import numpy as np

from utils import atomic_write, to_uint8

IMAGES = 8  # of each network on the page
ALL_KEYS_UP_TO, KEYS_KEPT = 256, 32  # positions of a layer with all keys; keys of a position where there are more
PAGE_BYTES = 10e6  # at most; fewer epochs, then fewer images are put in
LEAST_EPOCHS = 4  # that stay, before images go
# What a layer makes of images [K, H, W, C] in [0, 1]: maps [K, rows, columns, rows of keys, columns of keys].
LayerMaps = collections.namedtuple('LayerMaps', 'network gamma images maps')


def make_snapshot(looks, epoch, step, real):
    """A note of looks, LayerMaps each, at the end of an epoch, or of none, 0; real: whether D looks at real images."""
    layers, arrays = [], {}
    for number, (network, gamma, images, maps) in enumerate(looks):
        positions, keys = maps.shape[1:3], maps.shape[3:]
        layers.append({'network': network, 'positions': positions, 'keys': keys, 'gamma': float(np.nan_to_num(gamma))})
        arrays[network] = to_uint8(images)
        shares = np.nan_to_num(maps.reshape(len(maps), np.prod(positions), -1).astype(np.float32))  # [K, N, M]
        most = shares.max(2)  # [K, N]
        if shares.shape[1] > ALL_KEYS_UP_TO:
            largest = np.argpartition(shares, -KEYS_KEPT)[:, :, -KEYS_KEPT:]  # [K, N, 32]
            arrays[f'keys_{number}'] = largest.astype(np.uint16)
            kept = np.take_along_axis(shares, largest, 2)
            arrays[f'rest_{number}'] = np.maximum(0, 1 - kept.sum(2))
            shares = kept
        arrays[f'most_{number}'] = most
        arrays[f'shares_{number}'] = to_uint8(shares / np.maximum(most, 1e-30)[:, :, None])
    return {'epoch': epoch, 'step': step, 'real': real, 'layers': layers}, arrays


def write_snapshot(folder, note):
    """Write a note into a folder of them, as <step>.npz."""
    facts, arrays = note
    with atomic_write(f'{folder}/{facts["step"]}.npz') as part, open(part, 'wb') as file:
        np.savez_compressed(file, facts=json.dumps(facts), **arrays)


def snapshot_paths(folder):
    """The files of the notes in a folder, {step: path}, in their order."""
    found = [(re.fullmatch(r'([0-9]+)\.npz', path.name), path) for path in pathlib.Path(folder).glob('*.npz')]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def read_snapshots(folder, *kept):
    """The notes in a folder in their order, as many as a page holds -> (notes, how many are left out).

    kept: steps whose notes are not left out. A damaged one is told.
    """
    paths = snapshot_paths(folder)
    chosen = list(paths.values())
    while len(chosen) >= 2 * LEAST_EPOCHS and sum(path.stat().st_size for path in chosen) * 4 / 3 > PAGE_BYTES:
        chosen = chosen[::-2][::-1]
    chosen = [path for step, path in paths.items() if path in chosen or step in kept]
    notes = []
    for path in chosen:
        try:
            with np.load(path) as arrays:
                notes.append((json.loads(str(arrays['facts'])),
                              {name: arrays[name] for name in arrays.files if name != 'facts'}))
        except Exception as error:  # there is no end to what a damaged one makes zipfile and NumPy raise
            print(f'{path} is damaged and left out ({error})')
    return notes, len(paths) - len(notes)

"""Attention snapshots: where each attention layer looks in a few images, recorded in one file per epoch.

A snapshot is a pair (metadata, arrays). metadata holds epoch, step, real (whether the discriminator looks at real
images) and layers. layers holds one {network, positions, keys, gamma} per attention layer; positions and keys are
(rows, columns). arrays holds, for K images, N positions and M keys:

    <network>    images of this network, uint8 [K, H, W, C]
    most_<i>     largest weight of each row of the map of layer i, float32 [K, N]
    shares_<i>   weights relative to the largest of their row, uint8 [K, N, M]; 255 stands for the largest

A layer with more than MAX_DENSE_POSITIONS positions keeps only the TOP_KEYS largest weights of each row:

    shares_<i>   these weights, uint8 [K, N, TOP_KEYS]
    keys_<i>     their keys, uint16 [K, N, TOP_KEYS]
    rest_<i>     sum of all other weights, float32 [K, N]
"""

import collections
import json
import pathlib
import re

import numpy as np

from utils import atomic_write, to_uint8

SNAPSHOT_IMAGES = 8  # per network
MAX_DENSE_POSITIONS = 256
TOP_KEYS = 32
PAGE_BYTES = 10e6  # size limit of the page
MIN_SNAPSHOTS = 4  # the size limit never reduces a page to fewer
BASE64_GROWTH = 4 / 3

# One attention layer on K images: images [K, H, W, C] in [0, 1], maps [K, rows, columns, key rows, key columns].
LayerMaps = collections.namedtuple('LayerMaps', 'network gamma images maps')


def make_snapshot(layers, epoch, step, real):
    """Return the snapshot of the given layers.

    Args:
        layers: list of LayerMaps, one per attention layer.
        epoch: number of completed epochs; 0 if unknown.
        step: number of completed training steps.
        real: whether the discriminator looks at real images.
    """
    layer_metadata, arrays = [], {}
    for i, (network, gamma, images, maps) in enumerate(layers):
        positions, keys = maps.shape[1:3], maps.shape[3:]
        layer_metadata.append({'network': network, 'positions': positions, 'keys': keys,
                               'gamma': float(np.nan_to_num(gamma))})
        arrays[network] = to_uint8(images)
        weights = np.nan_to_num(maps.reshape(len(maps), np.prod(positions), -1).astype(np.float32))  # [K, N, M]
        largest = weights.max(2)  # [K, N]
        if weights.shape[1] > MAX_DENSE_POSITIONS:
            top = np.argpartition(weights, -TOP_KEYS)[:, :, -TOP_KEYS:]  # [K, N, TOP_KEYS]
            weights = np.take_along_axis(weights, top, 2)  # [K, N, TOP_KEYS]
            arrays[f'keys_{i}'] = top.astype(np.uint16)
            arrays[f'rest_{i}'] = np.maximum(0, 1 - weights.sum(2))
        arrays[f'most_{i}'] = largest
        arrays[f'shares_{i}'] = to_uint8(weights / np.maximum(largest, 1e-30)[:, :, None])
    return {'epoch': epoch, 'step': step, 'real': real, 'layers': layer_metadata}, arrays


def write_snapshot(folder, snapshot):
    """Write a snapshot to <folder>/<step>.npz."""
    metadata, arrays = snapshot
    with atomic_write(f'{folder}/{metadata["step"]}.npz') as part, open(part, 'wb') as file:
        np.savez_compressed(file, facts=json.dumps(metadata), **arrays)


def read_snapshot(path):
    """Read one snapshot file."""
    with np.load(path) as file:
        metadata = json.loads(str(file['facts']))
        return metadata, {name: file[name] for name in file.files if name != 'facts'}


def snapshot_paths(folder):
    """Return {step: path} of the snapshots in a folder, sorted by step."""
    paths = {}
    for path in pathlib.Path(folder).glob('*.npz'):
        match = re.fullmatch(r'([0-9]+)\.npz', path.name)
        if match:
            paths[int(match[1])] = path
    return dict(sorted(paths.items()))


def read_snapshots(folder, *keep_steps):
    """Read the snapshots in a folder, sorted by step, up to the number that fits on a page.

    Every other snapshot is left out, repeatedly, until the rest fits or would be fewer than MIN_SNAPSHOTS. Damaged
    files are reported and left out.

    Args:
        keep_steps: steps that are never left out.

    Returns:
        (snapshots, number of snapshots left out)
    """
    paths = snapshot_paths(folder)
    steps = list(paths)
    while len(steps) >= 2 * MIN_SNAPSHOTS and (
            sum(paths[step].stat().st_size for step in steps) * BASE64_GROWTH > PAGE_BYTES):
        del steps[-2::-2]  # the last one stays
    snapshots = []
    for step, path in paths.items():
        if step in steps or step in keep_steps:
            try:
                snapshots.append(read_snapshot(path))
            except Exception as error:  # damaged files raise many types of errors in zipfile and NumPy
                print(f'{path} is left out of the attention page ({error}): delete this damaged file')
    return snapshots, len(paths) - len(snapshots)

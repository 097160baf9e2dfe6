"""Write images that a model generates: grids, interpolations and single images."""

import os

import numpy as np

from utils import Stream, atomic_folder, save_images, write_png

INTERPOLATIONS, INTERPOLATION_STEPS = 8, 10  # rows and columns of the grid


def write_grid(model, name, *key, suffix=''):
    """Write a grid of at least sample_num images and return its path.

    Args:
        name: file name without prefix and extension.
        key: integers that seed z.
        suffix: appended to the file name.
    """
    z, labels, size = model.draw_grid(*key)
    path = model.run.result_path(f'{name}.png', suffix)
    save_images(model.sample(z, labels), size, path)
    return path


def write_interpolation(model, seed, suffix=''):
    """Write a grid whose rows interpolate linearly between pairs of random z."""
    z = model.draw_z(2 * INTERPOLATIONS, seed, Stream.WALK_Z)
    start, end = z.reshape(2, INTERPOLATIONS, 1, -1)
    t = np.linspace(0, 1, INTERPOLATION_STEPS, dtype=np.float32)[:, None]  # [10, 1]
    z = ((1 - t) * start + t * end).reshape(INTERPOLATIONS * INTERPOLATION_STEPS, -1)  # [80, z_dim]
    labels = model.sampled_labels(INTERPOLATIONS)
    if labels is not None:
        labels = np.repeat(labels, INTERPOLATION_STEPS)
    save_images(model.sample(z, labels), (INTERPOLATIONS, INTERPOLATION_STEPS),
                model.run.result_path('interpolation.png', suffix))


def write_single_images(folder, pixels, z=None, labels=None):
    """Write each image as <folder>/00000.png, 00001.png, ..., and all of them as <folder>/samples.npz.

    samples.npz holds the pixels as arr_0 [N, H, W, 3] and, if given, the labels as arr_1 and z under its own name. An
    existing folder is replaced.

    Args:
        pixels: uint8 [N, H, W, C], with C = 1 or 3.
        z: [N, z_dim] or None.
        labels: [N] or None.
    """
    # The evaluation tools that read arr_0 accept only three channels.
    arrays = {'arr_0': np.broadcast_to(pixels, [*pixels.shape[:3], 3])}
    if labels is not None:
        arrays['arr_1'] = labels
    if z is not None:
        arrays['z'] = z
    with atomic_folder(folder) as part:
        os.makedirs(part)
        for number, image in enumerate(pixels):
            write_png(os.path.join(part, f'{number:05d}.png'), image)
        np.savez_compressed(os.path.join(part, 'samples.npz'), **arrays)

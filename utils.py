"""Grids of images, folders, files that are whole or not there, z: what the lineage has in utils.py."""

import contextlib
import enum
import math
import os
import pathlib
import re
import shutil

import imageio.v3 as imageio
import numpy as np

from options import UserError


class Stream(enum.IntEnum):
    """What random numbers are for: each use has a stream of its own, so that none depends on how often another is."""
    TRAIN_Z, SHUFFLE, FIXED_Z, EPOCH_Z, TEST_Z, FIGURE_Z, WALK_Z, EXPORT_Z, EVAL_Z, STATISTICS_Z = range(10)
    TRAIN_LABELS, STATISTICS_LABELS, FLIP = 10, 11, 12


@contextlib.contextmanager
def atomic_write(path):
    """Give a temporary name to write to: it becomes path when the block ends well, and is removed when it does not."""
    part = f'{path}.{os.getpid()}.part'
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # of a full disk Python does not say where
        raise
    finally:
        pathlib.Path(part).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """The same for a folder, which is to be made under that name."""
    part = f'{path}.{os.getpid()}.part'
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_abandoned(part):
    """Whether a temporary file, named as by atomic_write, was left by a process that is no more, or was this one."""
    writer = re.search(r'\.(\d+)\.part$', str(part))
    return not writer or int(writer[1]) == os.getpid() or not os.path.exists(f'/proc/{writer[1]}')


def make_folder(path):
    """Make the folder where it is missing -> path. Raises UserError where it cannot be made or written."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f'{path} cannot be made ({error.strerror}): choose another folder') from error
    if not os.access(path, os.W_OK):
        raise UserError(f'{path} cannot be written: choose another folder or change its permissions')
    return path


def draw_z(count, z_dim, *key, distribution='uniform'):
    """z [count, z_dim] float32, uniform in [-1, 1] or standard normal; depends on the key, whole numbers, alone."""
    rng = np.random.default_rng(key)
    z = rng.uniform(-1, 1, [count, z_dim]) if distribution == 'uniform' else rng.standard_normal([count, z_dim])
    return z.astype(np.float32)


def draw_labels(count, classes, *key):
    """Labels [count] from 0 to classes - 1, all alike, that depend on the key alone."""
    return np.random.default_rng(key).integers(classes, size=count)


def merge(images, size):
    """Lay images [N, H, W, C] out on a grid of size (rows, columns), row by row -> [rows*H, columns*W, C].

    Cells beyond the last image are 0.
    """
    count, height, width, channels = images.shape
    rows, columns = size
    grid = np.zeros([rows * columns, height, width, channels], images.dtype)
    grid[:count] = images
    grid = grid.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def grid_size(count):
    """(rows, columns) of the grid nearest to a square that holds count images, wider rather than higher."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def to_uint8(images):
    """[0, 1] -> 0..255; what is not a number becomes 0."""
    return np.uint8(np.round(255 * np.clip(np.nan_to_num(images), 0, 1)))


def save_images(images, size, path):
    """Write images [N, H, W, C] in [0, 1] as one PNG, a grid of size (rows, columns)."""
    write_png(path, to_uint8(merge(images, size)))


def write_png(path, pixels):
    """Write pixels, uint8 [H, W, C], as PNG."""
    with atomic_write(path) as part:
        pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        pathlib.Path(part).write_bytes(imageio.imwrite('<bytes>', pixels, extension='.png'))


def show_all_variables():
    """Print the trainable variables of the graph, each with its shape and its number of parameters, and the total."""
    from tf1 import tf

    total = 0
    for variable in tf.trainable_variables():
        count = variable.shape.num_elements()
        total += count
        print(f'{variable.op.name:<40} {str(variable.shape.as_list()):<20} {count:>12,}')
    print(f'{len(tf.trainable_variables())} trainable variables, {total:,} parameters')

"""Random streams, atomic file writes and image grids. This module never imports TensorFlow."""

import contextlib
import enum
import json
import math
import os
import pathlib
import re
import shutil

import imageio.v3 as imageio
import numpy as np
import psutil

from options import UserError

##################################################################################
# Random numbers
##################################################################################


class Stream(enum.IntEnum):
    """The purposes of random numbers.

    Each purpose has its own stream, so drawing from one stream never changes another. The values are part of the random
    keys: changing a value changes the results of every run.
    """
    TRAIN_Z = 0
    SHUFFLE = 1
    FIXED_Z = 2
    EPOCH_Z = 3
    TEST_Z = 4
    FIGURE_Z = 5
    WALK_Z = 6
    EXPORT_Z = 7
    EVAL_Z = 8
    STATISTICS_Z = 9
    TRAIN_LABELS = 10
    STATISTICS_LABELS = 11
    FLIP = 12


def draw_z(count, z_dim, *key, distribution='uniform'):
    """Return z [count, z_dim] float32, which depends only on the key.

    Args:
        key: non-negative integers, for example (seed, Stream.TRAIN_Z, step).
        distribution: 'uniform' in [-1, 1], or 'normal' with mean 0 and variance 1.
    """
    rng = np.random.default_rng(key)
    z = rng.uniform(-1, 1, [count, z_dim]) if distribution == 'uniform' else rng.standard_normal([count, z_dim])
    return z.astype(np.float32)


def draw_labels(count, class_counts, *key):
    """Return the labels [count] of random images. They depend only on the key.

    Args:
        class_counts: number of images of each class.
        key: as in draw_z.
    """
    ends = np.cumsum(class_counts)  # [K]; if the images were sorted by class, class k would end before ends[k]
    images = np.random.default_rng(key).integers(ends[-1], size=count)
    return np.searchsorted(ends, images, side='right')


def proportional_labels(count, class_counts):
    """Return labels [count] whose frequencies are those of the classes, rounded by largest remainder.

    The labels of each class are spread evenly, so that every prefix also has about these frequencies. If all classes
    are equally frequent, the labels cycle through the classes.

    Args:
        class_counts: number of images of each class.
    """
    class_counts = np.asarray(class_counts, np.int64)
    num_classes = len(class_counts)
    numbers, remainders = np.divmod(count * class_counts, class_counts.sum())  # [K]
    largest = np.argsort(-remainders, kind='stable')
    numbers[largest[:count - numbers.sum()]] += 1
    labels = np.repeat(np.arange(num_classes), numbers)  # [count], sorted
    index = np.arange(count) - np.repeat(np.cumsum(numbers) - numbers, numbers)  # [count], of a label within its class
    # The classes start at different fractions of their periods, so that the labels of rare classes do not bunch up.
    position = (index + (labels + 0.5) / num_classes) / class_counts[labels]  # [count]
    return labels[np.argsort(position, kind='stable')]


##################################################################################
# Files
##################################################################################

@contextlib.contextmanager
def atomic_write(path):
    """Yield a temporary path. Rename it to path if the block succeeds, and remove it otherwise.

    Raises:
        OSError: if the write fails. The error names the file, even if the disk is full.
    """
    part = f'{path}.{os.getpid()}.part'
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # a failed write to a full disk does not set filename
        raise
    finally:
        pathlib.Path(part).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """Yield a temporary path for a new folder, which replaces path if the block succeeds."""
    part = f'{path}.{os.getpid()}.part'
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_abandoned(part):
    """Return whether a temporary file is left over: no other running process is writing it.

    The process ID is part of the name that atomic_write chooses. A file without an ID counts as abandoned.
    """
    writer = re.search(r'\.(\d{1,9})\.part$', str(part))
    return not writer or int(writer[1]) == os.getpid() or not psutil.pid_exists(int(writer[1]))


def check_folder(path):
    """Raise UserError if a folder cannot be created, or exists but is read-only."""
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise UserError(f'{path} cannot be created ({existing} is not a folder): choose another folder')
    if not os.access(existing, os.W_OK):
        raise UserError(f'{existing} is read-only: choose another folder, or change its permissions')


def make_folder(path):
    """Create a folder unless it exists, and return its path.

    Raises:
        UserError: if the folder cannot be created or is read-only.
    """
    check_folder(path)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f'{path} cannot be created ({error.strerror}): choose another folder') from error
    return path


def list_first(items, count=3, total=None):
    """Join at most count strings with commas, and add how many others there are.

    Args:
        total: the number of all items. None means len(items).
    """
    if total is None:
        total = len(items)
    listed = ', '.join(items[:count])
    if total > count:
        listed += f' and {total - count} more'
    return listed


def write_json(content, path):
    """Write content to path as indented JSON."""
    with atomic_write(path) as part:
        pathlib.Path(part).write_text(json.dumps(content, indent=2) + '\n')


def write_png(path, pixels):
    """Write pixels, uint8 [H, W, C] with 1 or 3 channels, as a PNG."""
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    with atomic_write(path) as part:
        pathlib.Path(part).write_bytes(imageio.imwrite('<bytes>', pixels, extension='.png'))


##################################################################################
# Image grids
##################################################################################

MIN_GRID_SIZE = 560  # pixels of the longer side


def grid_size(count):
    """Return (rows, columns) of the squarest grid that holds count images, preferring wide over tall."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def merge(images, size):
    """Lay out images [N, H, W, C] row by row in a grid of size (rows, columns).

    Returns:
        The grid [rows*H, columns*W, C]. Cells without an image are 0.
    """
    count, height, width, channels = images.shape
    rows, columns = size
    grid = np.zeros([rows * columns, height, width, channels], images.dtype)
    grid[:count] = images
    grid = grid.reshape(rows, columns, height, width, channels)
    grid = grid.transpose(0, 2, 1, 3, 4)  # [rows, H, columns, W, C]
    return grid.reshape(rows * height, columns * width, channels)


def to_uint8(images):
    """Convert images in [0, 1] to uint8 in 0..255. NaN becomes 0."""
    return np.uint8(np.round(255 * np.clip(np.nan_to_num(images), 0, 1)))


def enlarge(pixels):
    """Repeat the pixels [H, W, ...] of a small grid until its longer side has at least MIN_GRID_SIZE pixels.

    Each pixel becomes a square of the same size.
    """
    factor = math.ceil(MIN_GRID_SIZE / max(pixels.shape[:2]))
    return pixels.repeat(factor, 0).repeat(factor, 1)


def save_images(images, size, path):
    """Write images [N, H, W, C] in [0, 1] as one PNG, a grid of size (rows, columns). A small grid is enlarged."""
    write_png(path, enlarge(to_uint8(merge(images, size))))


##################################################################################
# Variables
##################################################################################

def show_all_variables(variables, path):
    """Print how many variables and parameters each network has, and list all variables in a text file.

    Args:
        variables: a list of TensorFlow variables, named <network>/...
        path: path of the text file, which lists the name, shape and number of parameters of each variable.
    """
    rows, totals = [], {}
    for variable in variables:
        size = variable.shape.num_elements()
        rows.append(f'{variable.op.name:<40} {str(variable.shape.as_list()):<20} {size:>12,}\n')
        network = variable.op.name.split('/')[0]
        count, parameters = totals.get(network, (0, 0))
        totals[network] = count + 1, parameters + size
    with atomic_write(path) as part:
        pathlib.Path(part).write_text(''.join(rows))
    for network, (count, parameters) in totals.items():
        print(f'{network}: {count} variables, {parameters:,} parameters')

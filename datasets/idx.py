"""MNIST's IDX files."""

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from datasets.digits import draw_digits
from options import UserError
from utils import atomic_write

FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')


def find_file(folder, name):
    """Path of the IDX file of that name in folder, plain or gzipped; None where there is neither."""
    paths = os.path.join(folder, name), os.path.join(folder, name + '.gz')
    return next((path for path in paths if os.path.isfile(path)), None)


def load_mnist(dataset_name, data_dir='data'):
    """Read the four IDX files, plain or gzipped, in <data_dir>/<dataset_name>.

    Returns (train_images, train_labels), (test_images, test_labels): uint8 [N, 28, 28, 1] and uint8 [N] in 0..9.
    Raises UserError, which names the file, where one is missing, damaged or of another form.
    """
    folder = os.path.join(data_dir, dataset_name)
    arrays = []
    for name in FILES:
        path = find_file(folder, name)
        if not path:
            raise UserError(f'{os.path.join(folder, name)}.gz is missing: put the four files of {dataset_name} there')
        arrays.append(read_idx(path, (28, 28) if 'images' in name else ()))
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels, name in (train_images, train_labels, 'train'), (test_images, test_labels, 't10k'):
        if len(images) != len(labels):
            raise UserError(f'{folder}: {len(images)} images in {name}-images and {len(labels)} labels in '
                            f'{name}-labels do not belong together: put files of one data set there')
    return (train_images[..., None], train_labels), (test_images[..., None], test_labels)


def read_idx(path, shape):
    """Read an IDX file of uint8 items of that shape, (28, 28) for images and () for labels -> uint8 [N, *shape].

    Raises UserError where the file is damaged or holds something else.
    """
    way_out = 'replace it, or delete it to have it fetched anew'
    try:
        with (gzip.open if path.endswith('.gz') else open)(path, 'rb') as file:
            data = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path} is not a whole gzip file ({error}): {way_out}') from error

    form = 'labels' if shape == () else f'{shape[0]} x {shape[1]} images'
    header = np.frombuffer(data[:8 + 4 * len(shape)].ljust(8 + 4 * len(shape), b'\0'), '>u4')  # [magic, N, *shape]
    if header[0] != 0x801 + len(shape):
        raise UserError(f'{path} does not begin like an IDX file of {form}: {way_out}')
    if tuple(header[2:]) != shape:
        raise UserError(f'{path} holds images of {header[2]} x {header[3]}, not {form}: {way_out}')
    items = np.frombuffer(data, np.uint8)[header.nbytes:]
    if len(items) != header[1] * math.prod(shape) or len(items) == 0:
        raise UserError(f'{path} holds {len(items)} bytes where its header tells of {header[1]} {form}: {way_out}')
    if shape == () and items.max() > 9:
        raise UserError(f'{path} holds the label {items.max()}, which is not a digit: {way_out}')
    return items.reshape(-1, *shape)


def make_digits(folder, train=60000, test=10000, seed=0):
    """Draw the built-in data set into folder, as the four IDX files of MNIST; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    for names, count in (FILES[:2], train), (FILES[2:], test):
        for name, items in zip(names, draw_digits(count, rng), strict=True):
            header = np.array([0x800 + items.ndim, *items.shape], '>u4').tobytes()
            with atomic_write(os.path.join(folder, name + '.gz')) as part:
                # Without a time or a name in the gzip header, so that the same digits are the same bytes.
                pathlib.Path(part).write_bytes(gzip.compress(header + items.tobytes(), compresslevel=1, mtime=0))

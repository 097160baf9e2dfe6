"""The IDX format of MNIST. Fashion-MNIST and the built-in digits use it too."""

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from datasets.digits import draw_digits
from datasets.download import Source, download_files
from options import UserError
from utils import atomic_write, make_folder

FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')
SOURCES = {
    'mnist': Source(
        mirrors=('https://storage.googleapis.com/cvdf-datasets/mnist/',
                 'https://ossci-datasets.s3.amazonaws.com/mnist/'),
        algorithm='sha256',
        digests={f'{FILES[0]}.gz': '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
                 f'{FILES[1]}.gz': '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
                 f'{FILES[2]}.gz': '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
                 f'{FILES[3]}.gz': 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6'}),
    'fashion-mnist': Source(
        mirrors=('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',),
        algorithm='md5',
        digests={f'{FILES[0]}.gz': '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
                 f'{FILES[1]}.gz': '25c81989df183df01b3e8a0aad5dffbe',
                 f'{FILES[2]}.gz': 'bef4ecab320f06d8554ea6380940ec79',
                 f'{FILES[3]}.gz': 'bb300cfdad3c16e7a12a480ee83cd310'})}
DIGIT_NAMES = tuple('0123456789')
FASHION_NAMES = ('T-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot')


def find_mnist(dataset_name, data_dir='data'):
    """Make sure that the four IDX files are in <data_dir>/<dataset_name>. Download or draw missing ones.

    Returns:
        A message that reports where the data set is.

    Raises:
        UserError: if a missing file cannot be downloaded.
    """
    folder = os.path.join(data_dir, dataset_name)
    missing = [name for name in FILES if not find_file(folder, name)]
    if not missing:
        return f'Data set: {dataset_name} in {folder}'
    if dataset_name == 'digits':
        make_digits(make_folder(folder))
        return f'Data set: digits, the built-in data set, in {folder}'
    download_files(folder, SOURCES[dataset_name], [f'{name}.gz' for name in missing])
    return f'Data set: {dataset_name}, downloaded to {folder}'


def load_mnist(dataset_name, data_dir='data'):
    """Read the four IDX files in <data_dir>/<dataset_name>, each plain or gzipped.

    Returns:
        (train_images, train_labels), (test_images, test_labels): uint8 [N, 28, 28, 1] and uint8 [N] in 0..9.

    Raises:
        UserError: if a file is missing, damaged, or of another format.
    """
    folder = os.path.join(data_dir, dataset_name)
    return load_split(folder, 'train', *FILES[:2]), load_split(folder, 't10k', *FILES[2:])


def load_split(folder, split, images_name, labels_name):
    """Return the images uint8 [N, 28, 28, 1] and labels uint8 [N] of a split."""
    images = read_idx(existing_file(folder, images_name), (28, 28))
    labels = read_idx(existing_file(folder, labels_name), ())
    if len(images) != len(labels):
        raise UserError(f'the {split} files in {folder} do not match ({len(images)} images, {len(labels)} labels): put '
                        'the files of one data set there')
    return images[..., None], labels


def find_file(folder, name):
    """Return the path of a file in a folder, plain or gzipped, or None if there is neither."""
    for path in os.path.join(folder, name), os.path.join(folder, name + '.gz'):
        if os.path.isfile(path):
            return path
    return None


def existing_file(folder, name):
    """Return the path of a file in a folder, plain or gzipped. Raise UserError if there is neither."""
    path = find_file(folder, name)
    if not path:
        raise UserError(f'{os.path.join(folder, name)}.gz is missing: put the four files of the data set there')
    return path


def read_idx(path, item_shape):
    """Read an IDX file of uint8 items.

    Args:
        item_shape: (28, 28) for images, () for labels.

    Returns:
        uint8 [N, *item_shape].

    Raises:
        UserError: if the file is damaged or of another format.
    """
    advice = 'replace it, or delete it and run again to get a new one'
    open_file = gzip.open if path.endswith('.gz') else open
    try:
        with open_file(path, 'rb') as file:
            data = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path} is not a valid gzip file ({error}): {advice}') from error

    header_size = 4 * (2 + len(item_shape))
    magic, count, *dimensions = np.frombuffer(data[:header_size].ljust(header_size, b'\0'), '>u4')
    if magic != 0x801 + len(item_shape):
        kind = 'images' if item_shape else 'labels'
        raise UserError(f'{path} is not an IDX file of {kind} (its magic number is {magic}): {advice}')
    if tuple(dimensions) != item_shape:
        raise UserError(f'{path} holds images of another size ({dimensions[0]} x {dimensions[1]}, not 28 x 28): '
                        f'{advice}')
    items = np.frombuffer(data, np.uint8)[header_size:]
    expected = int(count) * math.prod(item_shape)
    if len(items) == 0 or len(items) != expected:
        raise UserError(f'{path} is damaged ({len(items)} bytes of data, {expected} according to its header): {advice}')
    if not item_shape and items.max() > 9:
        raise UserError(f'{path} is damaged (it holds the label {items.max()}, not 0 to 9): {advice}')
    return items.reshape(-1, *item_shape)


def make_digits(folder, train=60000, test=10000, seed=0):
    """Draw the built-in data set and write it to a folder as the four IDX files. The same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    for names, count in (FILES[:2], train), (FILES[2:], test):
        for name, items in zip(names, draw_digits(count, rng), strict=True):
            header = np.array([0x800 + items.ndim, *items.shape], '>u4').tobytes()
            with atomic_write(os.path.join(folder, name + '.gz')) as part:
                # Without a time in the gzip header, the same digits give the same bytes.
                pathlib.Path(part).write_bytes(gzip.compress(header + items.tobytes(), compresslevel=1, mtime=0))

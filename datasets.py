"""Data sets: found, downloaded, checked and read; the batch of a step."""

import functools
import gzip
import hashlib
import math
import os
import pathlib
import queue
import threading
import urllib.request
import zlib
from http.client import HTTPException

import numpy as np
from tqdm import tqdm

from digits import draw_digits
from options import UserError
from utils import Use, check_folder, replacing

CLASSES = 10  # of each data set
FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')

# Where the files, gzipped, come from, and the digests that tell that they arrived whole, in the order of FILES.
SOURCES = {
    'mnist': {
        'mirrors': ('https://storage.googleapis.com/cvdf-datasets/mnist/',
                    'https://ossci-datasets.s3.amazonaws.com/mnist/'),
        'algorithm': 'sha256',
        'digests': ('440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
                    '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
                    '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
                    'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6')},
    'fashion-mnist': {
        'mirrors': ('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',),
        'algorithm': 'md5',
        'digests': ('8d4fb7e6c68d591d4c3dfef9ec88bf0d', '25c81989df183df01b3e8a0aad5dffbe',
                    'bef4ecab320f06d8554ea6380940ec79', 'bb300cfdad3c16e7a12a480ee83cd310')},
}
PATIENCE = 6  # seconds without a byte after which a mirror is given up, so that two mirrors take less than 15


def find_dataset(name, data_dir='data'):
    """Make sure that the files of a data set lie in <data_dir>/<name>: fetch mnist and fashion-mnist, make digits.

    name 'auto' is mnist where it is at hand or can be downloaded, else digits.
    Returns (the name of the data set found, a sentence that says which it is and why).
    Raises UserError where a data set cannot be had, OSError where the folder cannot be written.
    """
    if name == 'auto':
        try:
            return find_dataset('mnist', data_dir)
        except UserError as error:
            name, why = find_dataset('digits', data_dir)
            return name, f'{why}, instead of MNIST: {error}'

    folder = os.path.join(data_dir, name)
    missing = [file for file in FILES if not find_file(folder, file)]
    if not missing:
        return name, f'Data set: {name} in {folder}'
    if name == 'digits':
        make_digits(check_folder(folder))
        return name, f'Data set: digits, the built-in one, in {folder}'
    download(name, folder, missing)
    return name, f'Data set: {name}, downloaded to {folder}'


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


def download(name, folder, missing):
    """Fetch the missing files, gzipped, of a data set into folder, each from the first mirror that has it whole.

    Raises UserError, which names the folder and the files, where no mirror gives one.
    """
    source = SOURCES[name]
    mirrors = list(source['mirrors'])
    for file in missing:
        while True:
            try:
                fetch(f'{mirrors[0]}{file}.gz', os.path.join(folder, file + '.gz'), source['algorithm'],
                      source['digests'][FILES.index(file)])
                break
            except ConnectionError as error:
                mirrors.pop(0)
                if not mirrors:
                    raise UserError(f'{name} cannot be downloaded ({error}): put {", ".join(FILES)} (or .gz) in '
                                    f'{folder}, or use --dataset digits, which needs no network') from error


def fetch(url, path, algorithm, digest):
    """Download url to path, showing a progress bar; path appears once the digest is right.

    Raises ConnectionError where the file does not come, or not whole, or nothing arrives for PATIENCE seconds.
    """
    chunks = queue.Queue()

    def receive():
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                chunks.put(response.length)
                while chunk := response.read(1 << 16):
                    chunks.put(chunk)
            chunks.put(b'')
        except (OSError, HTTPException) as error:
            chunks.put(error)

    def next_chunk():
        try:
            chunk = chunks.get(timeout=PATIENCE)
        except queue.Empty:
            raise ConnectionError(f'{url}: no answer within {PATIENCE} s') from None
        if isinstance(chunk, Exception):
            raise ConnectionError(f'{url}: {chunk}') from chunk
        return chunk

    # In a thread of its own, because looking up a host's name obeys no timeout.
    threading.Thread(target=receive, daemon=True).start()
    length = next_chunk()
    check = hashlib.new(algorithm)
    check_folder(os.path.dirname(path))
    with replacing(path) as part:
        with open(part, 'wb') as file, tqdm(desc=os.path.basename(path), total=length, unit='B', unit_scale=True,
                                            disable=None) as bar:
            while chunk := next_chunk():
                file.write(chunk)
                check.update(chunk)
                bar.update(len(chunk))
        if check.hexdigest() != digest:
            raise ConnectionError(f'{url}: not the expected file, its {algorithm} is {check.hexdigest()}')


def make_digits(folder, train=60000, test=10000, seed=0):
    """Draw the built-in data set into folder, as the four IDX files of MNIST; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    for names, count in (FILES[:2], train), (FILES[2:], test):
        for name, items in zip(names, draw_digits(count, rng), strict=True):
            header = np.array([0x800 + items.ndim, *items.shape], '>u4').tobytes()
            with replacing(os.path.join(folder, name + '.gz')) as part:
                # Without a time or a name in the gzip header, so that the same digits are the same bytes.
                pathlib.Path(part).write_bytes(gzip.compress(header + items.tobytes(), compresslevel=1, mtime=0))


def steps_of_a_pass(count, batch_size, dataset_name):
    """The number of whole batches in count images. Raises UserError where there is none."""
    if count < batch_size:
        raise UserError(f'--batch_size {batch_size} is more than the {count} images of {dataset_name}: choose a '
                        'smaller one')
    return count // batch_size


def batch(images, labels, batch_size, seed, number):
    """Batch number number of images uint8 [N, H, W, C] and labels [N] -> float32 [B, H, W, C] in [0, 1], labels [B].

    The order depends on the seed alone: each pass through the data, of N // batch_size batches, has its own.
    """
    data_pass, part = divmod(number, len(images) // batch_size)
    chosen = shuffled(seed, data_pass, len(images))[part * batch_size:(part + 1) * batch_size]
    return images[chosen].astype(np.float32) / 255, labels[chosen]


@functools.lru_cache(maxsize=1)
def shuffled(seed, data_pass, count):
    """The order in which a pass through the data takes its images: a permutation [count]."""
    return np.random.default_rng([seed, Use.SHUFFLE, data_pass]).permutation(count)

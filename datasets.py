"""Data sets: found, downloaded, checked and read; the batch of a step."""

import functools
import gzip
import hashlib
import math
import os
import pathlib
import shutil
import tarfile
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from digits import draw_digits
from downloads import download
from options import SHAPES, UserError
from pictures import fit, load_pictures
from utils import Use, check_folder, replacing

FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')
CIFAR_FILES = *(f'data_batch_{number}.bin' for number in range(1, 6)), 'test_batch.bin'
CIFAR_ARCHIVE = 'cifar-10-binary.tar.gz'

# Where the files come from, and the digests that tell that they arrived whole.
SOURCES = {
    'mnist': {
        'mirrors': ('https://storage.googleapis.com/cvdf-datasets/mnist/',
                    'https://ossci-datasets.s3.amazonaws.com/mnist/'),
        'algorithm': 'sha256',
        'files': {
            f'{FILES[0]}.gz': '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
            f'{FILES[1]}.gz': '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
            f'{FILES[2]}.gz': '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
            f'{FILES[3]}.gz': 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6'}},
    'fashion-mnist': {
        'mirrors': ('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',),
        'algorithm': 'md5',
        'files': {
            f'{FILES[0]}.gz': '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
            f'{FILES[1]}.gz': '25c81989df183df01b3e8a0aad5dffbe',
            f'{FILES[2]}.gz': 'bef4ecab320f06d8554ea6380940ec79',
            f'{FILES[3]}.gz': 'bb300cfdad3c16e7a12a480ee83cd310'}},
    'cifar10': {
        'mirrors': ('https://www.cs.toronto.edu/~kriz/',),
        'algorithm': 'md5',
        'files': {CIFAR_ARCHIVE: 'c32a1d4ab5d03f1284b67883e8d87530'}}}
DIGITS = tuple('0123456789')
CLASS_NAMES = {
    'mnist': DIGITS, 'digits': DIGITS,
    'fashion-mnist': ('T-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot'),
    'cifar10': ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')}


class Dataset(NamedTuple):
    """train and test: (images uint8 [N, H, W, C], labels [N], or None); class_names, empty where there are no labels;
    digest: that of own pictures, taken when they were prepared; else None: see digest_of.
    """
    train: tuple
    test: tuple
    class_names: tuple
    digest: str | None = None


def find_dataset(name, data_dir='data'):
    """Make sure that a data set lies in <data_dir>/<name>: fetch it, draw digits; own pictures must be there.

    name 'auto' is mnist where it is at hand or can be downloaded, else digits.
    Returns (the name of the data set found, a sentence that says which it is and why).
    Raises UserError where a data set cannot be had, OSError where the folder cannot be written.
    """
    if name == 'auto':
        try:
            return find_dataset('mnist', data_dir)
        except UserError:
            name, why = find_dataset('digits', data_dir)
            return name, f'{why}\nMNIST is not in {data_dir}, and cannot be downloaded; --dataset mnist says why'

    folder = os.path.join(data_dir, name)
    if name not in SHAPES:
        if not os.path.isdir(folder):
            raise UserError(f'{folder} is no folder: put pictures there, or choose another --dataset ('
                            f'{", ".join(SHAPES)}) or --data_dir')
        return name, f'Data set: the pictures in {folder}'
    files = CIFAR_FILES if name == 'cifar10' else FILES
    missing = [file for file in files if not find_file(folder, file)]
    if not missing:
        return name, f'Data set: {name} in {folder}'
    if name == 'digits':
        make_digits(check_folder(folder))
        return name, f'Data set: digits, the built-in one, in {folder}'
    source = SOURCES[name]
    archive = os.path.join(folder, CIFAR_ARCHIVE)
    if name == 'cifar10' and os.path.exists(archive):
        unpack_cifar10(archive)
        return name, f'Data set: cifar10, unpacked in {folder}'
    wanted = {file: digest for file, digest in source['files'].items()
              if file.removesuffix('.gz') in missing or file == CIFAR_ARCHIVE}
    try:
        download(folder, wanted, source['mirrors'], source['algorithm'])
    except ConnectionError as error:
        raise UserError(f'{name} cannot be downloaded ({error}): put {", ".join(source["files"])} in {folder}, or '
                        'use --dataset digits, which needs no network') from error
    if name == 'cifar10':
        unpack_cifar10(archive)
        pathlib.Path(archive).unlink(missing_ok=True)
    return name, f'Data set: {name}, downloaded to {folder}'


def load_dataset(name, data_dir='data', shape=(28, 28, 1), most=None):
    """Read the data set in <data_dir>/<name>, its images brought to shape (H, W, C) -> Dataset.

    most: images of each split that are wanted of a built-in one; all if None.
    Raises UserError where something is missing or damaged.
    """
    folder = os.path.join(data_dir, name)
    if name not in SHAPES:
        found = load_pictures(folder, shape)
        train, test = ((found.images[part], None if found.labels is None else found.labels[part])
                       for part in (slice(found.train), slice(found.train, None)))
        return Dataset(train, test, tuple(found.class_names), found.digest)
    splits = load_cifar10(folder) if name == 'cifar10' else load_mnist(name, data_dir)
    return Dataset(*((resized(images[:most], shape), labels[:most]) for images, labels in splits), CLASS_NAMES[name])


def digest_of(dataset):
    """What tells the training split of a Dataset from others: its digest, or else the sha256 of images and labels."""
    if dataset.digest:
        return dataset.digest
    images, labels = dataset.train
    digest = hashlib.sha256(np.ascontiguousarray(images))
    if labels is not None:
        digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


def resized(images, shape):
    """Images uint8 [N, h, w, c] as uint8 [N, H, W, C] of that shape; 28 pixels become 32 by two black ones around."""
    if images.shape[1:3] == (28, 28) and shape[:2] == (32, 32):
        images = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    if images.shape[1:3] == shape[:2] and images.shape[3] == 1:
        images = np.repeat(images, shape[2], 3)
    if images.shape[1:] == shape:
        return images
    found = np.empty([len(images), *shape], np.uint8)
    for number, image in enumerate(tqdm(images, desc='Resizing', leave=False, disable=None)):
        found[number] = fit(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), shape)
    return found


##################################################################################
# Files
##################################################################################


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


def unpack_cifar10(path):
    """Take the six files of CIFAR-10 out of the archive at path, to lie beside it.

    Raises UserError where it is not the archive that is known, or has in it what could be written elsewhere.
    """
    try:
        with open(path, 'rb') as file:
            if hashlib.file_digest(file, 'md5').hexdigest() != SOURCES['cifar10']['files'][CIFAR_ARCHIVE]:
                raise UserError(f'{path} is not the known archive of CIFAR-10: delete it to have it fetched anew')
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for member in members:
                if not (member.isfile() or member.isdir()) or '..' in member.name.split('/') or member.name[0] == '/':
                    raise UserError(f'{path} has {member.name!r} in it, which is no plain file of CIFAR-10: delete it')
            found = {os.path.basename(member.name): member for member in members if member.isfile()}
            for name in CIFAR_FILES:
                with replacing(os.path.join(os.path.dirname(path), name)) as part, open(part, 'wb') as file:
                    shutil.copyfileobj(archive.extractfile(found[name]), file)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, KeyError) as error:
        raise UserError(f'{path} is not the whole archive of CIFAR-10 ({error}): delete it') from error


def load_cifar10(folder):
    """Read the six files of CIFAR-10's binary version in folder -> train, test: (uint8 [N, 32, 32, 3], labels [N]).

    Raises UserError, which names the file, where one is missing or damaged.
    """
    parts = []
    for name in CIFAR_FILES:
        path = find_file(folder, name)
        if not path:
            raise UserError(f'{os.path.join(folder, name)} is missing: put the six .bin files of CIFAR-10 there')
        items = np.fromfile(path, np.uint8)
        if len(items) == 0 or len(items) % 3073 or items[::3073].max() > 9:
            raise UserError(f'{path} does not hold images of CIFAR-10: delete it to have it fetched anew')
        items = items.reshape(-1, 3073)  # a label, then 32 x 32 of red, of green, of blue
        parts.append((items[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), items[:, 0]))
    train = tuple(np.concatenate(part) for part in zip(*parts[:-1], strict=True))
    return train, parts[-1]


def make_digits(folder, train=60000, test=10000, seed=0):
    """Draw the built-in data set into folder, as the four IDX files of MNIST; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    for names, count in (FILES[:2], train), (FILES[2:], test):
        for name, items in zip(names, draw_digits(count, rng), strict=True):
            header = np.array([0x800 + items.ndim, *items.shape], '>u4').tobytes()
            with replacing(os.path.join(folder, name + '.gz')) as part:
                # Without a time or a name in the gzip header, so that the same digits are the same bytes.
                pathlib.Path(part).write_bytes(gzip.compress(header + items.tobytes(), compresslevel=1, mtime=0))


##################################################################################
# The batch of a step
##################################################################################


def steps_of_a_pass(count, batch_size, dataset_name):
    """The number of whole batches in count images. Raises UserError where there is none."""
    if count < batch_size:
        raise UserError(f'--batch_size {batch_size} is more than the {count} images of {dataset_name}: choose a '
                        'smaller one')
    return count // batch_size


def batch(images, labels, batch_size, seed, number, flip=False):
    """Batch number number of images uint8 [N, H, W, C] and labels [N], or None -> float32 [B, H, W, C] in [0, 1],
    labels [B], or None. With flip about half of the images are mirrored.

    The order and what is mirrored depend on the seed alone: each pass, of N // batch_size batches, has its own order.
    """
    data_pass, part = divmod(number, len(images) // batch_size)
    chosen = shuffled(seed, data_pass, len(images))[part * batch_size:(part + 1) * batch_size]
    found = images[chosen].astype(np.float32) / 255
    if flip:
        mirrored = np.random.default_rng([seed, Use.FLIP, number]).integers(2, size=batch_size) == 1
        found[mirrored] = found[mirrored, :, ::-1]
    return found, labels if labels is None else labels[chosen]


@functools.lru_cache(maxsize=1)
def shuffled(seed, data_pass, count):
    """The order in which a pass through the data takes its images: a permutation [count]."""
    return np.random.default_rng([seed, Use.SHUFFLE, data_pass]).permutation(count)

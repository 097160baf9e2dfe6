"""Data sets: found, downloaded, checked and read."""

import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.cifar import CIFAR_ARCHIVE, CIFAR_FILES, CIFAR_MD5, load_cifar10, unpack_cifar10
from datasets.download import download
from datasets.idx import FILES, find_file, load_mnist, make_digits
from datasets.image_folder import center_crop_resize, load_image_folder
from options import SHAPES, UserError
from utils import make_folder

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
        'files': {CIFAR_ARCHIVE: CIFAR_MD5}}}
DIGITS = tuple('0123456789')
CLASS_NAMES = {
    'mnist': DIGITS, 'digits': DIGITS,
    'fashion-mnist': ('T-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'boot'),
    'cifar10': ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')}


class Dataset(NamedTuple):
    """train and test: (images uint8 [N, H, W, C], labels [N], or None); class_names, empty where there are no labels;
    digest: that of own pictures, taken when they were prepared; else None: see dataset_digest.
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
        make_digits(make_folder(folder))
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
        found = load_image_folder(folder, shape)
        train, test = ((found.images[part], None if found.labels is None else found.labels[part])
                       for part in (slice(found.train), slice(found.train, None)))
        return Dataset(train, test, tuple(found.class_names), found.digest)
    splits = load_cifar10(folder) if name == 'cifar10' else load_mnist(name, data_dir)
    return Dataset(*((resize_images(images[:most], shape), labels[:most]) for images, labels in splits), CLASS_NAMES[name])


def dataset_digest(dataset):
    """What tells the training split of a Dataset from others: its digest, or else the sha256 of images and labels."""
    if dataset.digest:
        return dataset.digest
    images, labels = dataset.train
    digest = hashlib.sha256(np.ascontiguousarray(images))
    if labels is not None:
        digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


def resize_images(images, shape):
    """Images uint8 [N, h, w, c] as uint8 [N, H, W, C] of that shape; 28 pixels become 32 by two black ones around."""
    if images.shape[1:3] == (28, 28) and shape[:2] == (32, 32):
        images = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    if images.shape[1:3] == shape[:2] and images.shape[3] == 1:
        images = np.repeat(images, shape[2], 3)
    if images.shape[1:] == shape:
        return images
    found = np.empty([len(images), *shape], np.uint8)
    for number, image in enumerate(tqdm(images, desc='Resizing', leave=False, disable=None)):
        found[number] = center_crop_resize(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), shape)
    return found

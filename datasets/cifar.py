"""The binary versions of CIFAR-10 and CIFAR-100 (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import os
import tarfile
import zlib
from typing import NamedTuple

import numpy as np

from datasets.dataset import Dataset
from options import UserError

NAME = 'CIFAR files'
SHAPE = 32, 32, 3
IMAGE_SIZE = 3 * 32 * 32  # bytes: the red, green and blue planes
CLASS_NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')  # CIFAR-10
MAX_FILE_SIZE = 200_000_000  # bytes; the largest file in the archives is 154 MB
ADVICE = 'replace it'


class Version(NamedTuple):
    """A version of the data set: its names, and the format of its records."""
    title: str
    folder: str  # inside the archive
    archive: str
    train_files: tuple
    test_file: str
    label_size: int  # bytes; the last one is the class
    num_classes: int
    names_file: str | None  # with one name per line
    python_names: tuple  # of the Python version, which is not read


CIFAR10 = Version(
    'CIFAR-10', 'cifar-10-batches-bin', 'cifar-10-binary.tar.gz',
    tuple(f'data_batch_{number}.bin' for number in range(1, 6)), 'test_batch.bin', 1, 10, None,
    ('cifar-10-batches-py', 'cifar-10-python.tar.gz', 'data_batch_1'))
CIFAR100 = Version(
    'CIFAR-100', 'cifar-100-binary', 'cifar-100-binary.tar.gz', ('train.bin',), 'test.bin', 2, 100,
    'fine_label_names.txt', ('cifar-100-python', 'cifar-100-python.tar.gz'))
VERSIONS = CIFAR10, CIFAR100


def matches(path):
    """Return whether a path is a CIFAR archive, or a folder that holds a CIFAR archive or its files."""
    return find_version(path) is not None or find_python_version(path) is not None


def native_shape(path):
    """Return the shape (H, W, C) of the images. Raise UserError if the path holds only the Python version."""
    refuse_python_version(path)
    return SHAPE


def load(path):
    """Read CIFAR-10, or CIFAR-100 with its fine labels, as a Dataset.

    Args:
        path: the folder that holds the files, the parent of that folder, a folder that holds the archive, or the
            archive itself. The archive is read without being unpacked.

    Raises:
        UserError: if a file is missing or damaged, or if the path holds only the Python version.
    """
    refuse_python_version(path)
    version, place = find_version(path)
    content = read_files(version, place)
    splits = []
    for names in version.train_files, (version.test_file,):
        images, labels = zip(*(parse_records(version, content, place, name) for name in names), strict=True)
        splits.append((np.concatenate(images), np.concatenate(labels)))
    return Dataset(*splits, read_class_names(version, content, place))


def is_complete(path):
    """Return whether a folder holds all files of a version, or its archive."""
    version_and_place = find_version(path)
    if version_and_place is None:
        return False
    version, place = version_and_place
    return os.path.isfile(place) or has_all_files(version, place)


def find_version(path):
    """Return (Version, folder of its files or path of its archive), or None if there is neither.

    A complete folder is preferred to an archive, and an archive to an incomplete folder.
    """
    incomplete = None
    for version in VERSIONS:
        folders = [path, os.path.join(path, version.folder)]
        archives = [os.path.join(path, version.archive)]
        if os.path.basename(path) == version.archive:
            archives.append(path)
        for folder in folders:
            if has_all_files(version, folder):
                return version, folder
            names_are_specific = version is CIFAR10 or os.path.basename(folder) == version.folder  # not train.bin
            if names_are_specific and any(os.path.isfile(file) for file in files_in(version, folder)):
                incomplete = incomplete or (version, folder)
        for archive in archives:
            if os.path.isfile(archive):
                return version, archive
    return incomplete


def files_in(version, folder):
    """Return the paths of the files with images in a folder."""
    return [os.path.join(folder, name) for name in (*version.train_files, version.test_file)]


def has_all_files(version, folder):
    return all(os.path.isfile(file) for file in files_in(version, folder))


def find_python_version(path):
    """Return (Version, path of its Python version), or None if there is none at a path."""
    for version in VERSIONS:
        for name in version.python_names:
            if os.path.basename(path) == name and os.path.exists(path):
                return version, path
            if os.path.exists(os.path.join(path, name)):
                return version, os.path.join(path, name)
    return None


def refuse_python_version(path):
    """Raise UserError if a path holds the Python version and no other."""
    python_version = find_python_version(path)
    if python_version is not None and find_version(path) is None:
        version, place = python_version
        raise UserError(f'{place} cannot be used (it is the Python version of {version.title}, a pickle, which may run '
                        f'arbitrary code): download the binary version, {version.archive}')


def read_files(version, place):
    """Return {name: bytes} of the files in a folder or in an archive. Raise UserError if the archive is damaged."""
    wanted = {*version.train_files, version.test_file, version.names_file}
    content = {}
    if os.path.isdir(place):
        for name in wanted & set(os.listdir(place)):
            with open(os.path.join(place, name), 'rb') as file:
                content[name] = file.read(MAX_FILE_SIZE)
        return content
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if member.isfile() and name in wanted:
                    content[name] = archive.extractfile(member).read(MAX_FILE_SIZE)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if getattr(error, 'errno', None):
            raise  # a system error, which may be temporary
        raise UserError(f'{place} is not a complete {version.title} archive ({error}): {ADVICE}') from error
    return content


def parse_records(version, content, place, name):
    """Return the images uint8 [N, 32, 32, 3] and the labels uint8 [N] of one file."""
    path = os.path.join(place, name)
    if name not in content:
        raise UserError(f'{path} is missing: put all .bin files of {version.title}, or {version.archive}, there')
    data = np.frombuffer(content[name], np.uint8)
    record_size = version.label_size + IMAGE_SIZE
    if len(data) == 0 or len(data) % record_size:
        raise UserError(f'{path} is not a {version.title} file (its size, {len(data)} bytes, is not a '
                        f'positive multiple of {record_size}): {ADVICE}')
    records = data.reshape(-1, record_size)
    labels = records[:, version.label_size - 1]
    if labels.max() >= version.num_classes:
        raise UserError(f'{path} is not a {version.title} file (it holds the label {labels.max()}): {ADVICE}')
    planes = records[:, version.label_size:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), labels


def read_class_names(version, content, place):
    """Return the names of the classes. If CIFAR-100's file of names is missing, return numbers."""
    if version is CIFAR10:
        return CLASS_NAMES
    names = content.get(version.names_file, b'').decode(errors='replace').split()
    if not names:
        return tuple(str(number) for number in range(version.num_classes))
    if len(set(names)) != version.num_classes:
        raise UserError(f'{os.path.join(place, version.names_file)} is damaged ({len(set(names))} names, not '
                        f'{version.num_classes}): {ADVICE}')
    return tuple(names)

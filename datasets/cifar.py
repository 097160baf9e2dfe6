"""The binary version of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import gzip
import hashlib
import os
import pathlib
import shutil
import tarfile
import zlib

import numpy as np

from datasets.download import Source, download_files
from options import UserError
from utils import atomic_write

TRAIN_FILES = tuple(f'data_batch_{number}.bin' for number in range(1, 6))
TEST_FILE = 'test_batch.bin'
FILES = *TRAIN_FILES, TEST_FILE
ARCHIVE = 'cifar-10-binary.tar.gz'
SOURCE = Source(mirrors=('https://www.cs.toronto.edu/~kriz/',), algorithm='md5',
                digests={ARCHIVE: 'c32a1d4ab5d03f1284b67883e8d87530'})
CLASS_NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
RECORD_SIZE = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes of an image


def find_cifar10(dataset_name, data_dir='data'):
    """Make sure that the six files are in <data_dir>/<dataset_name>. If not, unpack or download the archive.

    Returns:
        A message that reports where the data set is.

    Raises:
        UserError: if the archive cannot be downloaded or is damaged.
    """
    folder = os.path.join(data_dir, dataset_name)
    if all(os.path.isfile(os.path.join(folder, name)) for name in FILES):
        return f'Data set: {dataset_name} in {folder}'
    archive = os.path.join(folder, ARCHIVE)
    if os.path.exists(archive):
        unpack_cifar10(archive)
        return f'Data set: {dataset_name}, unpacked in {folder}'
    download_files(folder, SOURCE, [ARCHIVE])
    unpack_cifar10(archive)
    pathlib.Path(archive).unlink(missing_ok=True)  # another process may have removed it
    return f'Data set: {dataset_name}, downloaded to {folder}'


def unpack_cifar10(path):
    """Extract the six files from the archive at path into its folder.

    Raises:
        UserError: if the archive is not the published one, or has a member that could be written outside the folder.
    """
    advice = 'replace it, or delete it to download it again'
    with open(path, 'rb') as file:
        if hashlib.file_digest(file, SOURCE.algorithm).hexdigest() != SOURCE.digests[ARCHIVE]:
            raise UserError(f'{path} is not the published archive of CIFAR-10 (its {SOURCE.algorithm} differs): '
                            f'{advice}')
    try:
        with tarfile.open(path) as archive:
            members = {}
            for member in archive.getmembers():
                if member.name.startswith('/') or '..' in member.name.split('/') or not (
                        member.isfile() or member.isdir()):
                    raise UserError(f'{path} is not safe to unpack (it contains {member.name!r}): {advice}')
                if member.isfile():
                    members[os.path.basename(member.name)] = member
            for name in FILES:
                with atomic_write(os.path.join(os.path.dirname(path), name)) as part, open(part, 'wb') as file:
                    shutil.copyfileobj(archive.extractfile(members[name]), file)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, KeyError) as error:
        raise UserError(f'{path} is not a complete archive of CIFAR-10 ({error}): {advice}') from error


def load_cifar10(dataset_name='cifar10', data_dir='data'):
    """Read the six files in <data_dir>/<dataset_name>.

    Returns:
        (train_images, train_labels), (test_images, test_labels): uint8 [N, 32, 32, 3] and uint8 [N] in 0..9.

    Raises:
        UserError: if a file is missing or damaged.
    """
    folder = os.path.join(data_dir, dataset_name)
    images, labels = zip(*(read_records(os.path.join(folder, name)) for name in TRAIN_FILES), strict=True)
    return (np.concatenate(images), np.concatenate(labels)), read_records(os.path.join(folder, TEST_FILE))


def read_records(path):
    """Return the images uint8 [N, 32, 32, 3] and labels uint8 [N] of one file."""
    if not os.path.isfile(path):
        raise UserError(f'{path} is missing: put the six .bin files of CIFAR-10 there')
    data = np.fromfile(path, np.uint8)
    if len(data) == 0 or len(data) % RECORD_SIZE or data[::RECORD_SIZE].max() > 9:
        raise UserError(f'{path} is not a file of CIFAR-10 (wrong size or labels): replace it, or delete it to '
                        'download it again')
    records = data.reshape(-1, RECORD_SIZE)
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), records[:, 0]

"""The binary version of CIFAR-10."""

import gzip
import hashlib
import os
import shutil
import tarfile
import zlib

import numpy as np

from datasets.idx import find_file
from options import UserError
from utils import atomic_write

CIFAR_FILES = *(f'data_batch_{number}.bin' for number in range(1, 6)), 'test_batch.bin'
CIFAR_ARCHIVE = 'cifar-10-binary.tar.gz'
CIFAR_MD5 = 'c32a1d4ab5d03f1284b67883e8d87530'


def unpack_cifar10(path):
    """Take the six files of CIFAR-10 out of the archive at path, to lie beside it.

    Raises UserError where it is not the archive that is known, or has in it what could be written elsewhere.
    """
    try:
        with open(path, 'rb') as file:
            if hashlib.file_digest(file, 'md5').hexdigest() != CIFAR_MD5:
                raise UserError(f'{path} is not the known archive of CIFAR-10: delete it to have it fetched anew')
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for member in members:
                if not (member.isfile() or member.isdir()) or '..' in member.name.split('/') or member.name[0] == '/':
                    raise UserError(f'{path} has {member.name!r} in it, which is no plain file of CIFAR-10: delete it')
            found = {os.path.basename(member.name): member for member in members if member.isfile()}
            for name in CIFAR_FILES:
                with atomic_write(os.path.join(os.path.dirname(path), name)) as part, open(part, 'wb') as file:
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

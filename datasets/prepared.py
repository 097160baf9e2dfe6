"""Prepared images: the converted images of a folder in a memory-mapped file, and their metadata in another."""

import json
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from utils import atomic_write, is_abandoned

PREPARED = re.compile(r'prepared_[0-9]+x[0-9]+x[13]_[0-9a-f]{16}\.(bytes|json)(\.[0-9]+\.part)?')


class ImageFolder(NamedTuple):
    """The images of a folder, those of the training split first.

    images: uint8 [N, H, W, C], memory-mapped.
    labels: int32 [N], or None if there are no classes.
    class_names: empty if there are no classes.
    num_train: the size of the training split.
    digest: the SHA-256 of the training split.
    held_out: what the rest consists of: 'test/', 'valid/', ... or 'every tenth image'.
    num_left_out: the number of files that are not used.
    left_out: [[path, reason]] of the first of these files, damaged images before other files.
    notes: one sentence for each guess, omission and conversion.
    reading: what earlier versions of the program read differently, as phrases such as '.tif files'.
    """
    images: np.ndarray
    labels: np.ndarray | None
    class_names: list
    num_train: int
    digest: str
    held_out: str
    num_left_out: int
    left_out: list
    notes: list
    reading: tuple


def prepared_folder(path):
    """Return the folder for the prepared files of a folder or zip file.

    This is the folder itself, or <name>.prepared beside a zip file. If that place is read-only, it is a folder in the
    user's cache.
    """
    is_zip = not os.path.isdir(path)
    if os.access(os.path.dirname(os.path.abspath(path)) if is_zip else path, os.W_OK):
        return os.path.splitext(path)[0] + '.prepared' if is_zip else path
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return os.path.join(cache, 'sagan', os.path.realpath(path).strip('/').replace('/', '-'))


def remove_outdated(folder, prefix, key):
    """Remove prepared files of this prefix with another key, and temporary files of processes that were killed."""
    for name in os.listdir(folder):
        if not PREPARED.fullmatch(name) or not name.startswith(prefix):
            continue
        outdated = is_abandoned(name) if name.endswith('.part') else key not in name
        if outdated:
            pathlib.Path(folder, name).unlink(missing_ok=True)


def write_metadata(prepared, **metadata):
    """Write <prepared>.json."""
    with atomic_write(prepared + '.json') as part:
        pathlib.Path(part).write_text(json.dumps(metadata))


def read_prepared(prepared, shape):
    """Read <prepared>.bytes and <prepared>.json as an ImageFolder.

    Raises:
        OSError, ValueError, KeyError, TypeError: if a file is missing or damaged.
    """
    metadata = json.loads(pathlib.Path(prepared + '.json').read_text())
    count, labels = metadata.pop('count'), metadata.pop('labels')
    if os.path.getsize(prepared + '.bytes') != count * np.prod(shape):
        raise ValueError('wrong size')
    if not 0 < metadata['num_train'] <= count:
        raise ValueError('wrong split')
    for name in 'class_names', 'notes', 'reading':
        if not isinstance(metadata[name], list) or not all(isinstance(text, str) for text in metadata[name]):
            raise ValueError(f'wrong {name}')
    if labels is not None:
        if len(labels) != count or not set(labels) <= set(range(len(metadata['class_names']))):
            raise ValueError('wrong labels')
        labels = np.array(labels, np.int32)
    images = np.memmap(prepared + '.bytes', np.uint8, 'r', shape=(count, *shape))
    return ImageFolder(images, labels, **{**metadata, 'reading': tuple(metadata['reading'])})

"""Prepared images: the converted images of a folder in a memory-mapped file, and their metadata in another."""

import json
import os
import pathlib
import re

import numpy as np

from datasets.dataset import Dataset
from utils import atomic_write, is_abandoned

PREPARED = re.compile(r'prepared_[0-9]+x[0-9]+x[13]_[0-9a-f]{16}\.(bytes|json)(\.[0-9]+\.part)?')
# The keys of <prepared>.json. count is the number of images; the first num_train of them are the training split. labels
# is a list of class numbers, or null if there are no classes. The other keys are fields of Dataset.
KEYS = {'count', 'num_train', 'labels', 'class_names', 'digest', 'held_out', 'notes', 'num_left_out', 'left_out',
        'reading'}


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
    """Write <prepared>.json, with the values of KEYS."""
    with atomic_write(prepared + '.json') as part:
        pathlib.Path(part).write_text(json.dumps(metadata))


def read_prepared(prepared, shape):
    """Read <prepared>.bytes and <prepared>.json as a Dataset with memory-mapped images and int32 labels.

    Raises:
        OSError, ValueError, TypeError: if a file is missing or damaged.
    """
    metadata = json.loads(pathlib.Path(prepared + '.json').read_text())
    if set(metadata) != KEYS:
        raise ValueError('wrong keys')
    count, num_train, labels = metadata['count'], metadata['num_train'], metadata['labels']
    if os.path.getsize(prepared + '.bytes') != count * np.prod(shape):
        raise ValueError('wrong size')
    if not 0 < num_train <= count:
        raise ValueError('wrong split')
    for name in 'class_names', 'notes', 'reading':
        if not isinstance(metadata[name], list) or not all(isinstance(text, str) for text in metadata[name]):
            raise ValueError(f'wrong {name}')
    train_labels = test_labels = None
    if labels is not None:
        if len(labels) != count or not set(labels) <= set(range(len(metadata['class_names']))):
            raise ValueError('wrong labels')
        labels = np.array(labels, np.int32)
        train_labels, test_labels = labels[:num_train], labels[num_train:]
    images = np.memmap(prepared + '.bytes', np.uint8, 'r', shape=(count, *shape))
    return Dataset((images[:num_train], train_labels), (images[num_train:], test_labels),
                   tuple(metadata['class_names']), metadata['digest'], metadata['held_out'], tuple(metadata['notes']),
                   metadata['num_left_out'], tuple(map(tuple, metadata['left_out'])), tuple(metadata['reading']))

"""NumPy archives (.npz), with the keys of Keras, MedMNIST or np.savez."""

import contextlib
import math
import os
import zipfile
import zlib

import numpy as np

from datasets.dataset import check_labels, dataset_from_arrays, image_shape
from options import UserError
from utils import list_first

NAME = 'npz file'
# {split: (key of the images, key of the labels)}. The first layout whose training images exist applies.
LAYOUTS = (
    {'train': ('x_train', 'y_train'), 'val': ('x_val', 'y_val'), 'test': ('x_test', 'y_test')},
    {'train': ('train_images', 'train_labels'), 'val': ('val_images', 'val_labels'),
     'test': ('test_images', 'test_labels')},
    {'train': ('images', 'labels')},
    {'train': ('arr_0', 'arr_1')})


def matches(path):
    """Return whether a path is an npz file, or a folder with at least one npz file in it."""
    return os.path.isfile(path) and path.endswith('.npz') or len(npz_files(path)) > 0


def native_shape(path):
    """Return the shape (H, W, C) of the images. Arguments and errors are those of load."""
    with open_archive(path) as archive:
        key, _ = choose_layout(archive)['train']
        dtype, shape = read_header(archive, key)
        return image_shape(dtype, shape, title(archive, key))


def load(path):
    """Read an npz file, or the only one in a folder, as a Dataset. Nothing is unpickled.

    Raises:
        UserError: if the file is damaged, if a folder holds several, or if the arrays are not images and labels.
    """
    with open_archive(path) as archive:
        layout = choose_layout(archive)
        splits, keys = {}, set(keys_of(archive))
        has_labels = layout['train'][1] in keys
        for split, (images_key, labels_key) in layout.items():
            if images_key not in keys:
                continue
            images = read_array(archive, images_key)
            images = images.reshape(-1, *image_shape(images.dtype, images.shape, title(archive, images_key)))
            labels = None
            if has_labels:
                labels = check_labels(read_array(archive, labels_key), len(images), title(archive, labels_key))
            splits[split] = images, labels
            keys -= {images_key, labels_key}
        shapes = {split: images.shape[1:] for split, (images, _) in splits.items()}
        if len(set(shapes.values())) > 1:
            raise UserError(f'{archive.filename} holds splits of different image sizes ({shapes}): store images of one '
                            'size')
        return dataset_from_arrays(splits, {}, left_out=[(key, 'not images or their labels') for key in sorted(keys)])


def npz_files(folder):
    """Return the names of the npz files in a folder."""
    if not os.path.isdir(folder):
        return []
    return [name for name in sorted(os.listdir(folder)) if name.endswith('.npz') and not name.startswith('.')]


@contextlib.contextmanager
def open_archive(path):
    """Open an npz file, or the only one in a folder, as a ZipFile. Report damage to it as a UserError."""
    if os.path.isdir(path):
        names = npz_files(path)
        if len(names) > 1:
            raise UserError(f'{path} holds several npz files ({list_first(names)}): choose one, for '
                            f'example --dataset {os.path.join(path, names[0])}')
        path = os.path.join(path, names[0])
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise UserError(f'{path} is not a complete npz file ({" ".join(str(error).split())}): replace it') from error


def title(archive, key):
    """Return the name of an array for messages."""
    return f'{key} in {archive.filename}'


def keys_of(archive):
    return [name.removesuffix('.npy') for name in archive.namelist() if name.endswith('.npy')]


def choose_layout(archive):
    """Return the element of LAYOUTS that applies. Raise UserError if the archive has no training images."""
    keys = keys_of(archive)
    for layout in LAYOUTS:
        if layout['train'][0] in keys:
            return layout
    names = ', '.join(layout['train'][0] for layout in LAYOUTS)
    raise UserError(f'{archive.filename} has no training images (its keys are {", ".join(keys) or "none"}): store '
                    f'them as one of {names}')


def read_header(archive, key):
    """Return (dtype, shape) of an array. Raise UserError if it is missing or damaged, or holds Python objects."""
    if key not in keys_of(archive):
        raise UserError(f'{title(archive, key)} is missing: store labels for all splits, or for none')
    info = archive.getinfo(f'{key}.npy')
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise UserError(f'{title(archive, key)} cannot be used (it holds pickled objects, which may run arbitrary '
                            'code): store arrays of numbers')
        size = math.prod(shape) * dtype.itemsize
        if info.file_size - file.tell() != size:
            raise UserError(f'{title(archive, key)} is damaged ({info.file_size - file.tell()} bytes of data, {size} '
                            'according to its header): replace it')
    return dtype, shape


def read_array(archive, key):
    """Return an array. Errors are those of read_header."""
    read_header(archive, key)
    with archive.open(f'{key}.npy') as file:
        return np.lib.format.read_array(file, allow_pickle=False)

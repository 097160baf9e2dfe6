"""Data sets: find, download and load them.

To add a format, write its module, and add it to FORMATS below.
"""

import os

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets import cifar, idx, image_folder, npz, sources
from datasets.dataset import Dataset, dataset_digest, describe
from datasets.sources import CLASS_NAMES
from options import FOLDER_SHAPE, SHAPES, UserError, last_component

# The formats in the order in which they are tried. A format that reads arrays is a module with these members:
# NAME                what the format is called in messages
# matches(path)       whether a path holds data of this format; the path need not exist
# native_shape(path)  the shape (H, W, C) of the images, read without loading them
# load(path)          a Dataset of images of that shape
# Image folders have no shape of their own: image_folder.load(path, shape) converts each image.
FORMATS = idx, cifar, image_folder, npz

__all__ = ['CLASS_NAMES', 'Dataset', 'dataset_digest', 'find_dataset', 'load_dataset', 'native_shape', 'saved_name']


def find_dataset(name, data_dir='data'):
    """Make sure that a data set is available. Download or draw a built-in one that is missing.

    Args:
        name: a built-in data set, another one in data_dir, a path, or 'auto'. 'auto' is mnist if that is available,
            else digits.

    Returns:
        The name of the data set, as saved_name returns it, and a message that reports a download or a choice, or ''.

    Raises:
        UserError: if the data set is not available.
        OSError: if its folder cannot be written.
    """
    if name == 'auto':
        try:
            return find_dataset('mnist', data_dir)
        except UserError:
            name, message = find_dataset('digits', data_dir)
            choice = (f'MNIST is not in {data_dir} and cannot be downloaded: using the built-in digits. To see the '
                      'cause, use --dataset mnist')
            return name, f'{message}\n{choice}' if message else choice
    name = saved_name(name, data_dir)
    path, data_format = locate(name, data_dir)
    if name == 'digits' and data_format is not idx:
        return name, sources.complete(name, os.path.join(data_dir, name))
    if name in sources.FORMATS and data_format in (None, sources.FORMATS[name]):
        return name, sources.complete(name, path)
    if data_format is None:
        raise not_found(path)
    return name, ''


def native_shape(name, data_dir='data'):
    """Return the shape (H, W, C) that the images of a data set have without --img_size and --c_dim.

    Nothing is downloaded or written. Raises UserError if the data set is missing, unless it is built in.
    """
    name = saved_name(name, data_dir)
    if name in SHAPES:
        return SHAPES[name]
    path, data_format = locate(name, data_dir)
    if data_format is None:
        raise not_found(path)
    return FOLDER_SHAPE if data_format is image_folder else data_format.native_shape(path)


def load_dataset(name, data_dir='data', shape=None, limit=None):
    """Load a data set as a Dataset of images of shape (H, W, C). None is the native shape.

    Args:
        limit: the number of images to load from each split; None loads all. Image folders are always loaded as a whole,
            because they are memory-mapped.

    Raises:
        UserError: if the data set is missing or damaged.
    """
    name = saved_name(name, data_dir)
    path, data_format = locate(name, data_dir)
    if data_format is None:
        raise not_found(path)
    shape = shape or native_shape(name, data_dir)
    if data_format is image_folder:
        dataset = image_folder.load(path, shape)
    else:
        dataset = data_format.load(path)
        if data_format is idx and name in CLASS_NAMES:
            dataset = dataset._replace(class_names=built_in_names(name, dataset.class_names))
        before = dataset.train[0].shape[1:]
        if before != shape:
            note = 'The images are converted from {} x {} x {}'.format(*before)
            dataset = dataset._replace(notes=(*dataset.notes, note))
        dataset = dataset._replace(**{split: first_images(getattr(dataset, split), limit, shape)
                                      for split in ('train', 'test')})
    if data_format is not sources.FORMATS.get(name, image_folder):
        dataset = dataset._replace(reading=(data_format.NAME, *dataset.reading))
    title = f'Data set: {last_component(name)} in {path} ({data_format.NAME})'
    return dataset._replace(description=describe(dataset, title))


def first_images(split, limit, shape):
    """Return the first images of a split (images, labels), converted to shape (H, W, C), and their labels."""
    images, labels = split
    return resize_images(images[:limit], shape), None if labels is None else labels[:limit]


def built_in_names(name, numbers):
    """Return the class names of a built-in data set for the labels that occur, which are given as strings."""
    names = {str(number): class_name for number, class_name in enumerate(CLASS_NAMES[name])}
    return tuple(names.get(number, number) for number in numbers)


##################################################################################
# Names and places
##################################################################################

def saved_name(name, data_dir):
    """Return the name under which a data set is saved with a run.

    It is an absolute path if the data set is only outside data_dir, and relative to data_dir otherwise. It has no .npz
    or .zip if the data set is found without it.
    """
    name = absolute_or_in(data_dir, with_slashes(name))
    stem = last_component(name)
    shorter = name.removesuffix(name.rsplit('/')[-1]) + stem
    if shorter != name and locate(shorter, data_dir) == locate(name, data_dir):
        return shorter
    return name


def absolute_or_in(data_dir, name):
    """Return an absolute path if the data set is only outside data_dir, else a name relative to data_dir."""
    if '/' not in name and not name.startswith('~'):
        return name
    path, root = with_slashes(os.path.abspath(os.path.expanduser(name))), with_slashes(os.path.abspath(data_dir))
    if path.startswith(root + '/'):
        return path.removeprefix(root + '/')
    if name.startswith(('/', '~', './', '../')):
        return path
    name = with_slashes(os.path.normpath(name))
    in_data_dir, elsewhere = (find_format(candidate) is not None for candidate in (os.path.join(data_dir, name), path))
    return path if elsewhere and not in_data_dir else name


def with_slashes(path):
    """Return a path with slashes instead of the backslashes of Windows."""
    return path.replace(os.sep, '/')


def locate(name, data_dir):
    """Return (path, format) of a data set.

    If the data set does not exist, format is None, and path is where the data set is expected.

    Args:
        name: as saved_name returns it.
    """
    base = os.path.join(data_dir, name)
    candidates = [base, f'{base}.npz', f'{base}.zip']
    if name in sources.CIFAR_VERSIONS:
        version = sources.CIFAR_VERSIONS[name]
        candidates += [os.path.join(data_dir, version.folder), os.path.join(data_dir, version.archive)]
    for path in candidates:
        data_format = find_format(path)
        if data_format is not None:
            return path, data_format
    return base, None


def find_format(path):
    """Return the first of FORMATS that matches a path, or None."""
    for data_format in FORMATS:
        if data_format.matches(path):
            return data_format
    return None


def not_found(path):
    """Return the UserError for a path without a data set."""
    advice = f'choose another --dataset ({", ".join(SHAPES)}, or a name or path of your own) or --data_dir'
    if not os.path.exists(path):
        return UserError(f'{path} does not exist: put a data set there, or {advice}')
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    content = f' (it holds {", ".join(names[:3])}{", ..." if len(names) > 3 else ""})' if names else ''
    return UserError(f'{path} holds no images, IDX files, npz file or CIFAR files{content}: put a data set there, or '
                     f'{advice}')


##################################################################################
# Conversion
##################################################################################

def resize_images(images, shape):
    """Convert images uint8 [N, h, w, c] to shape (H, W, C).

    A black border of 2 pixels turns 28 x 28 images into 32 x 32, as is usual for MNIST. Other sizes are resized.
    """
    if images.shape[1:] == shape:
        return images
    if images.shape[1:3] == (28, 28) and shape[:2] == (32, 32):
        images = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)])
    if images.shape[1:3] == shape[:2] and images.shape[3] == 1:
        return np.repeat(images, shape[2], axis=3)
    resized = np.empty([len(images), *shape], np.uint8)  # [N, H, W, C]
    for index, image in enumerate(tqdm(images, desc='Resizing images', leave=False, disable=None)):
        if image.shape[2] == 1:
            image = image[:, :, 0]  # Pillow expects grey images without a channel axis
        resized[index] = image_folder.center_crop_resize(Image.fromarray(image), shape)
    return resized

"""Data sets: find, download and load them.

To add a format, write its module, and add it to BUILT_IN below and to options.SHAPES.
"""

import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets import cifar, idx, image_folder
from options import UserError


class BuiltIn(NamedTuple):
    """The functions that find and load a built-in data set.

    find: (dataset_name, data_dir) -> a message that reports where the data set is. Downloads missing files.
    load: (dataset_name, data_dir) -> (train_images, train_labels), (test_images, test_labels), all of them uint8.
    class_names: the name of each label.
    """
    find: Callable
    load: Callable
    class_names: tuple


BUILT_IN = {
    'mnist': BuiltIn(idx.find_mnist, idx.load_mnist, idx.DIGIT_NAMES),
    'fashion-mnist': BuiltIn(idx.find_mnist, idx.load_mnist, idx.FASHION_NAMES),
    'digits': BuiltIn(idx.find_mnist, idx.load_mnist, idx.DIGIT_NAMES),
    'cifar10': BuiltIn(cifar.find_cifar10, cifar.load_cifar10, cifar.CLASS_NAMES)}
CLASS_NAMES = {name: built_in.class_names for name, built_in in BUILT_IN.items()}


class Dataset(NamedTuple):
    """A loaded data set.

    train, test: (images uint8 [N, H, W, C], labels [N] or None).
    class_names: empty if there are no labels.
    digest: the hash of the training split if it is already known, else None.
    """
    train: tuple
    test: tuple
    class_names: tuple
    digest: str | None = None


def find_dataset(name, data_dir='data'):
    """Make sure that a data set is in <data_dir>/<name>: download or generate it if necessary.

    Args:
        name: a built-in data set, a folder of images, or 'auto'. 'auto' is mnist if that is available, else digits.

    Returns:
        The name of the data set, and a message that reports where it is.

    Raises:
        UserError: if the data set is not available.
        OSError: if its folder cannot be written.
    """
    if name == 'auto':
        try:
            return find_dataset('mnist', data_dir)
        except UserError:
            name, message = find_dataset('digits', data_dir)
            return name, (f'{message}\nMNIST is not in {data_dir} and cannot be downloaded: use '
                         '--dataset mnist to see why')
    if name in BUILT_IN:
        return name, BUILT_IN[name].find(name, data_dir)
    folder = os.path.join(data_dir, name)
    image_folder.check_image_folder(folder)
    return name, f'Data set: the images in {folder}'


def load_dataset(name, data_dir='data', shape=(28, 28, 1), limit=None):
    """Load the data set in <data_dir>/<name> as a Dataset of images of shape (H, W, C).

    Args:
        limit: the number of images to load of each split of a built-in data set; None loads all.

    Raises:
        UserError: if a file is missing or damaged.
    """
    if name in BUILT_IN:
        (train_images, train_labels), (test_images, test_labels) = BUILT_IN[name].load(name, data_dir)
        train = resize_images(train_images[:limit], shape), train_labels[:limit]
        test = resize_images(test_images[:limit], shape), test_labels[:limit]
        return Dataset(train, test, CLASS_NAMES[name])

    content = image_folder.load_image_folder(os.path.join(data_dir, name), shape)
    images, labels, num_train = content.images, content.labels, content.num_train
    train_labels, test_labels = (None, None) if labels is None else (labels[:num_train], labels[num_train:])
    return Dataset((images[:num_train], train_labels), (images[num_train:], test_labels), tuple(content.class_names),
                   content.digest)


def dataset_digest(dataset):
    """Return a hash that identifies the training split: the known digest, or else the SHA-256 of its arrays."""
    if dataset.digest:
        return dataset.digest
    images, labels = dataset.train
    digest = hashlib.sha256(np.ascontiguousarray(images))
    if labels is not None:
        digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


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

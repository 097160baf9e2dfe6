"""A loaded data set, and the checks of arrays that several formats share."""

import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np

from options import UserError
from utils import list_first

MAX_LISTED_CLASSES, MAX_LISTED_FILES = 10, 3  # in the description


class Dataset(NamedTuple):
    """A loaded data set.

    train, test: (images uint8 [N, H, W, C], labels [N] or None). The images of test are held out for scoring.
    class_names: the name of each label; empty if there are no labels.
    digest: the hash of the training split if it is already known, else None.
    held_out: what the test split consists of; may be empty if it is the data set's own test split.
    notes: the guesses, conversions and omissions to report, each a sentence without a full stop.
    num_left_out: the number of files and arrays that are not used.
    left_out: (name, reason) of at least the first MAX_LISTED_FILES of these files and arrays.
    reading: what earlier versions of this program read differently, as phrases such as '.tif files'.
    description: one or two lines for the user.
    """
    train: tuple
    test: tuple
    class_names: tuple
    digest: str | None = None
    held_out: str = ''
    notes: tuple = ()
    num_left_out: int = 0
    left_out: tuple = ()
    reading: tuple = ()
    description: str = ''

    @property
    def class_counts(self):
        """The number of training images of each class; empty if there are no labels."""
        _, labels = self.train
        if labels is None:
            return ()
        return tuple(np.bincount(labels, minlength=len(self.class_names)).tolist())

    def of_class(self, label):
        """Return a Dataset with only the images of one class. The names of all classes are kept."""
        train, test = ((images[labels == label], labels[labels == label]) for images, labels in (self.train, self.test))
        return self._replace(train=train, test=test, digest=None)


def dataset_digest(dataset):
    """Return a hash that identifies the training split: the known digest, or else the SHA-256 of its arrays."""
    if dataset.digest:
        return dataset.digest
    images, labels = dataset.train
    digest = hashlib.sha256(np.ascontiguousarray(images))
    if labels is not None:
        digest.update(np.ascontiguousarray(labels))
    return digest.hexdigest()


def describe(dataset, title):
    """Return one or two lines that report what was read.

    Args:
        title: the name, place and format of the data set.
    """
    (images, labels), (test_images, _) = dataset.train, dataset.test
    held_out = f' ({dataset.held_out})' if dataset.held_out else ''
    classes = 'no classes'
    if labels is not None:
        items = [f'{name} ({count})' for name, count in zip(dataset.class_names, dataset.class_counts, strict=True)]
        classes = f'{len(items)} classes: {list_first(items, MAX_LISTED_CLASSES)}'
    height, width, channels = images.shape[1:]
    lines = [f'{title}: {len(images)} training and {len(test_images)} test images{held_out} of {height} x {width} x '
             f'{channels}, {classes}']
    remarks = list(dataset.notes)
    if dataset.left_out:
        items = [f'{name} ({reason})' for name, reason in dataset.left_out]
        remarks.append(f'Left out: {list_first(items, MAX_LISTED_FILES, dataset.num_left_out)}')
    if remarks:
        lines.append('. '.join(remarks))
    return '\n'.join(lines)


def dataset_from_arrays(splits, names, notes=(), left_out=()):
    """Return arrays as a Dataset.

    The classes are the labels that occur in the training split, if there are at least two. Without a test split, the
    validation split is held out, or else every tenth image.

    Args:
        splits: {'train' and possibly 'val' and 'test': (images uint8 [N, H, W, C], labels [N] or None)}.
        names: {label: name of the class}. Other labels are named by their number.
    """
    train, notes, left_out = splits['train'], list(notes), tuple(left_out)
    if 'test' in splits:
        test, held_out = splits['test'], ''
        if 'val' in splits:
            notes.append(f'The {len(splits["val"][0])} images of the validation split are not used, because there is a '
                         'test split')
    elif 'val' in splits:
        test, held_out = splits['val'], 'the validation split'
    else:
        train, test = hold_out_every_tenth(*train)
        held_out = 'every tenth image'
    if train[1] is not None and train[1].min() == train[1].max():
        notes.append(f'No classes, because all training labels are {train[1][0]}')
        train, test = (train[0], None), (test[0], None)
    if train[1] is None:
        return Dataset((train[0], None), (test[0], None), (), None, held_out, tuple(notes), len(left_out), left_out)

    values = np.unique(train[1])
    known = np.isin(test[1], values)
    if not known.all():
        notes.append(f'Test images of classes without training images are not used ({np.sum(~known)})')
        test = test[0][known], test[1][known]
    dtype = np.uint8 if len(values) <= 256 else np.int32
    train, test = ((images, np.searchsorted(values, labels).astype(dtype)) for images, labels in (train, test))
    if is_grouped(train[1]) or is_grouped(test[1]):
        notes.append('The images are stored class by class. They are reordered so that the classes alternate')
        train, test = interleave_classes(*train), interleave_classes(*test)
    class_names = tuple(names.get(value, str(value)) for value in values.tolist())
    return Dataset(train, test, class_names, None, held_out, tuple(notes), len(left_out), left_out)


def hold_out_every_tenth(images, labels):
    """Split (images, labels) into a training and a test split. A class never loses all its training images."""
    is_test = np.arange(len(images)) % 10 == 9
    if labels is not None:
        is_test &= np.isin(labels, labels[~is_test])
    return tuple((images[rows], None if labels is None else labels[rows]) for rows in (~is_test, is_test))


def is_grouped(labels):
    """Return whether there are several classes and the images of each class are stored contiguously."""
    num_classes = len(np.unique(labels))
    return 1 < num_classes == 1 + np.count_nonzero(np.diff(labels)) < len(labels)


def interleave_classes(images, labels):
    """Sort images and labels so that each class is spread evenly."""
    order = spread_evenly(labels.tolist())
    return images[order], labels[order]


def spread_evenly(labels):
    """Return an order [N] in which each class is spread evenly, because scores and figures use the first images.

    Args:
        labels: a list of the class of each image.
    """
    totals, seen, positions = Counter(labels), Counter(), []
    for label in labels:
        positions.append((seen[label] + 0.5) / totals[label])  # in 0..1
        seen[label] += 1
    return np.argsort(positions, kind='stable')


def image_shape(dtype, shape, source):
    """Return (H, W, C) of an array of images.

    Args:
        dtype, shape: those of the array.
        source: the name of the array for the message.

    Raises:
        UserError: if the array is not uint8 [N, H, W] or [N, H, W, C] with N > 0 and C 1 or 3.
    """
    if dtype != np.uint8:
        raise UserError(f'{source} cannot be used as images (the values are {dtype}, not uint8): scale them to 0..255 '
                        'and store them as uint8')
    if len(shape) == 3:
        shape = *shape, 1
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise UserError(f'{source} cannot be used as images (the shape is {list(shape)}): store [N, H, W] or '
                        '[N, H, W, C] with 1 or 3 channels')
    if 0 in shape:
        raise UserError(f'{source} holds no images (the shape is {list(shape)}): choose another --dataset')
    return tuple(shape[1:])


def check_labels(labels, count, source):
    """Return labels [N] for an array of integers [N] or [N, 1].

    Raises:
        UserError: if the array does not hold exactly one class for each of count images.
    """
    if labels.dtype.kind not in 'iu':
        raise UserError(f'{source} cannot be used as labels (the values are {labels.dtype}): store integers')
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise UserError(f'{source} cannot be used as labels (the shape is {list(labels.shape)}, several values per '
                        'image): store one class number per image')
    if len(labels) != count:
        raise UserError(f'{source} does not match the images ({count} images, {len(labels)} labels): use files from '
                        'the same data set')
    if len(labels) and labels.min() < 0:
        raise UserError(f'{source} cannot be used as labels (it holds {labels.min()}): number the classes from 0')
    return labels

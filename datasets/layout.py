"""Splits and classes of images, from the names of their folders or from label files."""

import csv
import io
import json
import os
import posixpath
import reprlib
from typing import NamedTuple

from datasets.dataset import spread_evenly
from options import UserError
from utils import list_first

SPLITS = {'train': 'train', 'training': 'train', 'test': 'test', 'testing': 'test',
          'val': 'val', 'valid': 'val', 'validation': 'val'}  # {name of a folder in lower case: split}


class Labels(NamedTuple):
    """The content of the label files.

    sources: the paths of these files.
    classes: {path of an image: class}. Classes are ints if all of them are integers, otherwise strs.
    notes: one sentence for each omission.
    """
    sources: list
    classes: dict
    notes: list


class Layout(NamedTuple):
    """The splits and classes of images.

    train, test: paths of images. Each class is spread evenly.
    classes: {path: class}. It is empty if there are no classes.
    held_out: the folder of the test split, or None if it is every tenth image.
    left_out: [(path, reason)] of the images without a split or a label.
    notes: one sentence for each guess and omission.
    reading: what earlier versions of the program read differently, as phrases such as '.tif files'.
    """
    train: list
    test: list
    classes: dict
    held_out: str | None
    left_out: list
    notes: list
    reading: list


##################################################################################
# Splits and classes
##################################################################################

def arrange(paths, labels):
    """Assign images to splits and classes.

    The splits are folders (see split_by_folders), or else every tenth image is a test image. The classes are those of
    the labels, or else the folders at the next level. There are no classes if there is only one such folder, or if an
    image is outside these folders. The name of a folder that holds all images, or all images of each split, is ignored.

    Args:
        paths: the paths of the images, sorted.
        labels: the Labels of these images.

    Returns:
        A Layout.

    Raises:
        UserError: if a class is only in the held-out folder, or if no training image has a label.
    """
    names, split_of, folders = split_by_folders(paths)
    sources = and_list(labels.sources)
    left_out = [(path, f'outside {and_list(folders.values())}') for path in paths if split_of[path] is None]
    notes, reading = list(labels.notes), [f'labels of {sources}'] if sources else []
    if labels.classes:
        left_out += [(path, f'no label in {sources}') for path in paths
                     if path not in labels.classes and split_of[path] is not None]
        paths = [path for path in paths if path in labels.classes]
    train, test, val = ([path for path in paths if split_of[path] == split] for split in ('train', 'test', 'val'))
    if not train:
        raise UserError(f'no labels for training images in {sources}: add labels for {folders["train"]}')
    if test and val:
        notes.append(f'The {len(val)} images in {folders["val"]} are not used, because test images are in '
                     f'{folders["test"]}')
    held_out = folders['test'] if test else folders['val'] if val else None
    test = test or val
    if held_out is None:
        train, test = [path for index, path in enumerate(train) if index % 10 != 9], train[9::10]
    if folders and (folders['train'], held_out) != ('train/', 'test/'):
        reading.append(f'splits {and_list(folders.values())}')

    inner = {path: names[path] for path in sorted(train + test)}
    classes = {path: labels.classes[path] for path in inner if path in labels.classes}
    if not sources:
        stripped = strip_common_folders(inner, [train, test] if held_out else [list(inner)])
        classes = classes_of_folders(stripped)
        if classes and stripped != inner:
            reading.append(f'classes in {printable(train[0].removesuffix(stripped[train[0]]))}')
        if not classes:
            notes += stray_images(stripped)
    if len(set(classes.values())) < 2:
        return Layout(train, test, {}, held_out, left_out, notes, reading)

    train_classes = {classes[path] for path in train}
    test_only = [path for path in test if classes[path] not in train_classes]
    if test_only and held_out:
        raise UserError(f'the class {str(classes[test_only[0]])!r} has no training images (it is only in {held_out}): '
                        f'put images of this class in {folders["train"]}')
    train = sorted(train + test_only)
    test = [path for path in test if classes[path] in train_classes]
    return Layout(interleave_classes(train, classes), interleave_classes(test, classes), classes, held_out, left_out,
                  notes, reading)


def split_by_folders(paths):
    """Split images by the names of their folders, if these are names of splits (see find_splits).

    Returns:
        {path: path within the folder of its split}, {path: split or None}, {split: its folders, joined by 'and'}. If
        the folders are not splits, all images are training images, and the last dictionary is empty.
    """
    inner = strip_common_folders({path: path for path in paths}, [paths])
    splits = find_splits(inner.values())
    if not splits:
        return {path: path for path in paths}, dict.fromkeys(paths, 'train'), {}
    wrapper = paths[0].removesuffix(inner[paths[0]])
    folders = {split: and_list(f'{wrapper}{folder}/' for folder in splits if splits[folder] == split)
               for split in ('train', 'val', 'test') if split in splits.values()}
    split_of = {path: splits.get(top_folder(name)) for path, name in inner.items()}
    return {path: name.split('/', 1)[-1] for path, name in inner.items()}, split_of, folders


def strip_common_folders(inner, groups):
    """Remove the first folder of all names while it is the only one in each group.

    Args:
        inner: {path: name}.
        groups: lists of these paths.

    Returns:
        {path: the rest of the name}.
    """
    while all(len({top_folder(inner[path]) for path in group}) == 1 and '/' in inner[group[0]] for group in groups):
        inner = {path: name.split('/', 1)[1] for path, name in inner.items()}
    return inner


def top_folder(path):
    """Return the first folder of a path, or '' if there is none."""
    return path.split('/')[0] if '/' in path else ''


def find_splits(paths):
    """Find the folders that are splits.

    Folders are splits if all of them have names of splits, and if there is a training split and a held-out split. Other
    folders are allowed beside train/ if test/ or val/ exists. Images outside the splits are not used.

    Returns:
        {folder: split}, sorted by folder. It is empty if the folders are not splits.
    """
    folders = sorted({top_folder(path) for path in paths} - {''})
    splits = {folder: SPLITS[folder.lower()] for folder in folders if folder.lower() in SPLITS}
    has_train_and_held_out = 'train' in splits.values() and len(set(splits.values())) > 1
    if has_train_and_held_out and (
            len(splits) == len(folders) or 'train' in folders and ('test' in folders or 'val' in folders)):
        return splits
    return {}


def classes_of_folders(inner):
    """Return the first folder of each image {path: name} as its class, or {} if these folders are not classes."""
    classes = {path: top_folder(name) for path, name in inner.items()}
    return {} if '' in classes.values() or len(set(classes.values())) < 2 else classes


def stray_images(inner):
    """Return [note] if there are no classes only because of images beside the class folders, else [].

    Args:
        inner: {path: name} of the images.
    """
    stray = [path for path, name in inner.items() if '/' not in name]
    rest = {path: name for path, name in inner.items() if '/' in name}
    if not stray or not rest or not classes_of_folders(strip_common_folders(rest, [list(rest)])):
        return []
    return [f'No classes, because there are images beside the class folders ({and_more(stray)}). To use classes, move '
            'them into these folders']


def interleave_classes(paths, classes):
    """Sort paths so that each class is spread evenly."""
    return [paths[index] for index in spread_evenly([classes[path] for path in paths])]


def and_list(names):
    """Join names with commas and 'and'. Return '' if there are none."""
    names = [printable(name) for name in names]
    return ' and '.join([', '.join(names[:-1]), names[-1]]) if len(names) > 1 else ''.join(names)


def and_more(paths):
    """Return the first path, and how many more there are."""
    return list_first([printable(paths[0])], 1, len(paths))


def printable(name):
    """Replace control characters, and bytes that are not UTF-8, in a name."""
    return ''.join(character if character.isprintable() else '\N{REPLACEMENT CHARACTER}' for character in str(name))


##################################################################################
# Label files
##################################################################################

def read_labels(root, paths, images, open_file):
    """Read dataset.json and labels.csv in the root, in the folder that holds all images or splits, and in each split.

    Args:
        root: the folder or zip file, for messages.
        paths: the paths of all files.
        images: the paths of the images among them.
        open_file: a function that opens a path as a binary file.

    Returns:
        Labels.

    Raises:
        UserError: if such a file is damaged, names none of the images, or has several labels for an image.
    """
    inner = strip_common_folders({path: path for path in images}, [images])
    wrapper = images[0].removesuffix(inner[images[0]])
    splits = find_splits(inner.values())
    folders = {'', wrapper, *(f'{wrapper}{folder}/' for folder in splits)}
    images, sources, classes, notes = set(images), [], {}, []
    for path in paths:
        folder, name = path[:path.rfind('/') + 1], path[path.rfind('/') + 1:]
        if folder not in folders or name not in PARSERS:
            continue
        try:
            with open_file(path) as file:
                rows = PARSERS[name](file.read())
        except (ValueError, RecursionError, csv.Error) as error:
            raise UserError(f'{printable(os.path.join(root, path))} cannot be used ({error}): correct it, or rename it '
                            'to ignore its labels') from error
        if rows is None:
            notes.append(f'{printable(path)} is not used: {EXPECTED[name]}')
            continue
        sources.append(path)
        if not rows:
            notes.append(f'No classes, because {printable(path)} lists no labels')
        add_rows(rows, os.path.join(root, path), [folder, wrapper], images, classes, notes)
    if all(is_integer(label) for label in classes.values()):
        classes = {path: int(label) for path, label in classes.items()}
    return Labels(sources, classes, notes)


def add_rows(rows, path, folders, images, classes, notes):
    """Add the (file name, label) rows of a label file to classes, {image: label}, and report unknown names.

    Args:
        path: the path of the label file, for messages.
        folders: the folders to which the names may be relative.
        images: the set of all paths of images.
    """
    unknown = []
    for name, label in rows:
        relative = posixpath.normpath(name.replace('\\', '/'))
        image = next((folder + relative for folder in folders if folder + relative in images), None)
        if image is None:
            unknown.append(name)
        elif classes.setdefault(image, label) != label:
            raise UserError(f'{printable(path)} has several labels for {printable(image)} ({classes[image]} and '
                            f'{label}): keep one label per image')
    if unknown and len(unknown) == len(rows):
        raise UserError(f'{printable(path)} names none of the images (its first name is {unknown[0]!r}): use paths '
                        'relative to its folder')
    if unknown:
        notes.append(f'{printable(os.path.basename(path))} names images that do not exist ({and_more(unknown)})')


def is_integer(label):
    """Return whether a label is an integer in its usual notation."""
    return len(label) < 20 and label.removeprefix('-').isdecimal() and label == str(int(label))


def parse_json(content):
    """Return the [(file name, label)] of StyleGAN's dataset.json, or None if it has no key "labels".

    Raises:
        ValueError: if it is damaged, or if a label is not an integer.
    """
    content = json.loads(content)
    if not isinstance(content, dict) or 'labels' not in content:
        return None
    rows = content['labels']
    if rows is None:  # StyleGAN's tool writes null if there are no labels
        return []
    if not isinstance(rows, list):
        raise ValueError('"labels" is not a list')
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str):
            raise ValueError(f'{reprlib.repr(row)} is not [file name, label]')
        if type(row[1]) is not int:
            raise ValueError(f'the label of {row[0]!r} is {reprlib.repr(row[1])}, not an integer')
    return [(name, str(label)) for name, label in rows]


def parse_csv(content):
    """Return the [(file name, label)] of labels.csv, or None if it has no such columns.

    Rows without a label are skipped.

    Raises:
        ValueError, csv.Error: if it is damaged.
    """
    rows = list(csv.reader(io.StringIO(content.decode('utf-8-sig'), newline='')))
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    if 'file_name' not in columns or 'label' not in columns:
        return None
    name_column, label_column = columns.index('file_name'), columns.index('label')
    rows = [row for row in rows[1:] if len(row) > max(name_column, label_column)]
    rows = [(row[name_column].strip(), printable(row[label_column].strip())) for row in rows]
    return [(name, label) for name, label in rows if label]


PARSERS = {'dataset.json': parse_json, 'labels.csv': parse_csv}
EXPECTED = {'dataset.json': 'it has no key "labels"', 'labels.csv': 'its header is not file_name,label'}

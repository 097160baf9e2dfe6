"""The IDX format of MNIST, which Fashion-MNIST, KMNIST, EMNIST, QMNIST and the built-in digits also use."""

import contextlib
import glob
import gzip
import math
import os
import re
import zlib

import numpy as np

from datasets.dataset import check_labels, dataset_from_arrays, image_shape
from options import UserError
from utils import atomic_write

NAME = 'IDX files'
FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte', 't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')
ROLES = ('train', 'images'), ('train', 'labels'), ('test', 'images'), ('test', 'labels')  # of FILES
FILE_NAME = re.compile(r'(.*?)-?(train|t10k|test)-(images|labels)[-.]idx[1-4]-(?:ubyte|int)(?:\.gz)?')
SUBFOLDERS = '', 'raw', 'gzip'  # of torchvision and of EMNIST's archive
DTYPES = {0x08: '>u1', 0x09: '>i1', 0x0b: '>i2', 0x0c: '>i4', 0x0d: '>f4', 0x0e: '>f8'}  # by type code
QMNIST_COLUMNS = 8  # of its labels; the first one is the class
ADVICE = 'replace it'


def matches(path):
    """Return whether a path is a folder with IDX files, or the prefix of such files, as in <folder>/emnist-letters."""
    return bool(find_data_sets(path))


def native_shape(path):
    """Return the shape (H, W, C) of the images. Arguments and errors are those of load."""
    prefix, files = choose_data_set(path)
    images_path = existing_file(prefix, files, 'train', 'images')
    with open_file(images_path) as file, reported_damage(images_path):
        dtype, shape, _ = parse_header(file.read(4 + 4 * 4), images_path)
    shape = image_shape(dtype, shape, images_path)
    return transposed(shape) if is_transposed(prefix) else shape


def load(path):
    """Read the IDX files at a path, each plain or gzipped, as a Dataset.

    EMNIST's images are stored transposed. They are transposed back. If <prefix>-mapping.txt exists, it names the
    classes.

    Raises:
        UserError: if a file is missing, damaged or of another format, or as in choose_data_set.
    """
    prefix, files = choose_data_set(path)
    splits, notes = {}, []
    for split in 'train', 'test':
        if split == 'train' or any((split, kind) in files for kind in ('images', 'labels')):
            images_path = existing_file(prefix, files, split, 'images')
            labels_path = existing_file(prefix, files, split, 'labels')
            images = read_idx(images_path)
            images = images.reshape(-1, *image_shape(images.dtype, images.shape, images_path))
            if is_transposed(prefix):
                images = images.transpose(0, 2, 1, 3)
            splits[split] = images, read_labels(labels_path, len(images))
    if is_transposed(prefix):
        notes.append('The images are transposed back')
    return dataset_from_arrays(splits, read_mapping(files, prefix), notes, list_other_files(path))


##################################################################################
# Files
##################################################################################

def find_data_sets(path):
    """Return the data sets at a path, {prefix: {(split, kind): file}}."""
    if os.path.isdir(path):
        return find_in_folder(path)
    parent, prefix = os.path.split(path)
    folder = find_prefix(parent, prefix)
    files = find_in_folder(folder).get(prefix) if folder and prefix else None
    return {prefix: files} if files else {}


def find_prefix(parent, prefix):
    """Return the folder that holds files with a prefix, or None.

    It is parent, a folder in it, or one of their SUBFOLDERS: the files of <parent>/emnist-letters may be in
    <parent>/EMNIST/raw.
    """
    parent, names = glob.escape(parent), [glob.escape(file_name(prefix, *role)) for role in ROLES]
    for folder in parent, os.path.join(parent, '*'):
        for subfolder in SUBFOLDERS:
            for name in *names, *(f'{name}.gz' for name in names):
                paths = sorted(glob.glob(os.path.join(folder, subfolder, name)))
                if paths:
                    return os.path.dirname(paths[0])
    return None


def file_name(prefix, split, kind):
    """Return the name of an uncompressed file of MNIST, or of EMNIST if there is a prefix."""
    name = FILES[ROLES.index((split, kind))]
    return f'{prefix}-{name.replace("t10k", "test")}' if prefix else name


def find_in_folder(folder):
    """Return the data sets in a folder and in its SUBFOLDERS. A plain file is preferred to a gzipped one."""
    data_sets = {}
    for subfolder in SUBFOLDERS:
        place = os.path.join(folder, subfolder) if subfolder else folder
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
            match = FILE_NAME.fullmatch(name)
            if match and os.path.isfile(os.path.join(place, name)):
                prefix, split, kind = match.groups()
                role = 'train' if split == 'train' else 'test', kind
                data_sets.setdefault(prefix, {}).setdefault(role, os.path.join(place, name))
    return data_sets


def choose_data_set(path):
    """Return (prefix, {(split, kind): file}) of the data set at a path, preferably of the one without a prefix.

    Raises:
        UserError: if there are several data sets, all with a prefix.
    """
    data_sets = find_data_sets(path)
    if len(data_sets) == 1:
        return next(iter(data_sets.items()))
    if '' in data_sets:
        return '', data_sets['']
    names = sorted(data_sets)
    raise UserError(f'{path} holds several data sets ({", ".join(names)}): choose one, for example --dataset '
                    f'{os.path.join(path, names[0])}')


def missing_files(folder):
    """Return the names in FILES for which an MNIST folder has neither a plain nor a gzipped file."""
    files = find_in_folder(folder).get('', {})
    return [name for name, role in zip(FILES, ROLES, strict=True) if role not in files]


def existing_file(prefix, files, split, kind):
    """Return the file of a split and kind. Raise UserError if it is missing."""
    if (split, kind) in files:
        return files[split, kind]
    folder = os.path.dirname(next(iter(files.values())))
    raise UserError(f'{os.path.join(folder, file_name(prefix, split, kind))}.gz is missing: put all files of the data '
                    'set there')


def list_other_files(path):
    """Return (name, reason) of the entries of a folder that are not IDX files or their mapping."""
    if not os.path.isdir(path):
        return []
    names = [name for name in sorted(os.listdir(path)) if not FILE_NAME.fullmatch(name) and name not in SUBFOLDERS
             and not name.endswith('-mapping.txt') and not name.startswith('.')]
    return [(name, 'not an IDX file') for name in names]


def is_transposed(prefix):
    """Return whether the files with a prefix hold images that are stored column by column."""
    return prefix.lower().startswith('emnist')


def transposed(shape):
    height, width, channels = shape
    return width, height, channels


def read_mapping(files, prefix):
    """Return {label: name} from <prefix>-mapping.txt, whose lines hold a label and a character code.

    Without a prefix, the file may have any name that ends in -mapping.txt, if there is only one.

    Raises:
        UserError: if the file is damaged.
    """
    folder = glob.escape(os.path.dirname(next(iter(files.values()))))
    paths = glob.glob(f'{folder}/{glob.escape(prefix) if prefix else "*"}-mapping.txt')
    if len(paths) != 1:
        return {}
    names = {}
    with open(paths[0], errors='replace') as file:
        for line in file:
            words = line.split()
            if not words:
                continue
            try:
                label, name = parse_class(words)
                names[label] = name
            except (ValueError, IndexError, OverflowError) as error:
                raise UserError(f'{paths[0]} is damaged (the line {line.strip()!r} is not a label and a character '
                                'code): correct it, or move it away to use the labels as class names') from error
    return names


def parse_class(words):
    """Return the label and the name of a class from the words of a line of a mapping file.

    Raises:
        ValueError, IndexError, OverflowError: if the words are not a label and the code of a printable character.
    """
    label, name = int(words[0]), chr(int(words[1]))  # EMNIST letters: A, although a is in the same class
    if not name.isprintable():
        raise ValueError
    return label, name


##################################################################################
# Content
##################################################################################

def open_file(path):
    """Open a plain or gzipped file for reading."""
    return gzip.open(path, 'rb') if path.endswith('.gz') else open(path, 'rb')


@contextlib.contextmanager
def reported_damage(path):
    """Report a damaged gzip file as a UserError."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path} is not a valid gzip file ({error}): {ADVICE}') from error


def parse_header(data, path):
    """Return (dtype, shape, size of the header in bytes) of an IDX file that starts with data.

    Raises:
        UserError: if the file is not an IDX file.
    """
    magic = data[:4]
    if len(magic) < 4 or magic[:2] != b'\0\0' or magic[2] not in DTYPES or not 1 <= magic[3] <= 4:
        raise UserError(f'{path} is not an IDX file (it starts with the bytes {magic.hex(" ") or "none"}): {ADVICE}')
    size = 4 + 4 * magic[3]
    if len(data) < size:
        raise UserError(f'{path} is damaged (its header is incomplete): {ADVICE}')
    return np.dtype(DTYPES[magic[2]]), tuple(np.frombuffer(data[4:size], '>u4').tolist()), size


def read_idx(path):
    """Return the array in an IDX file. Raise UserError if the file is damaged or of another format."""
    with open_file(path) as file, reported_damage(path):
        data = file.read()
    dtype, shape, header_size = parse_header(data, path)
    size, expected = len(data) - header_size, math.prod(shape) * dtype.itemsize
    if size != expected:
        raise UserError(f'{path} is damaged ({size} bytes of data, {expected} according to its header): {ADVICE}')
    return np.frombuffer(data, dtype, offset=header_size).reshape(shape)


def read_labels(path, count):
    """Return the labels [N] in an IDX file, one for each of count images."""
    labels = read_idx(path)
    if labels.ndim == 2 and labels.shape[1] == QMNIST_COLUMNS:
        labels = labels[:, 0]
    return check_labels(labels, count, path)


def write_idx(path, items):
    """Write uint8 items [N, ...] as a gzipped IDX file. The same items give the same bytes."""
    header = np.array([0x800 + items.ndim, *items.shape], '>u4').tobytes()
    with atomic_write(path) as part, open(part, 'wb') as file:
        file.write(gzip.compress(header + items.tobytes(), compresslevel=1, mtime=0))  # no timestamp in the gzip header

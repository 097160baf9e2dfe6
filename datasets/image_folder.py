"""A folder of images of any kind and size, converted once into a memory-mapped array."""

import concurrent.futures
import errno
import hashlib
import json
import os
import pathlib
import re
import stat
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from options import SHAPES, UserError
from utils import atomic_write, is_abandoned, make_folder

EXTENSIONS = '.png', '.jpg', '.jpeg', '.bmp', '.webp', '.gif'
FORMATS = 'PNG', 'JPEG', 'BMP', 'WEBP', 'GIF'  # formats that Pillow may decode, whatever the extension
PREPARED = re.compile(r'prepared_[0-9]+x[0-9]+x[13]_[0-9a-f]{16}\.(bytes|json)(\.[0-9]+\.part)?')
CHUNK_SIZE = 256  # images decoded before they are written


class ImageFolder(NamedTuple):
    """The images of a folder, those of the training split first.

    images: uint8 [N, H, W, C], memory-mapped.
    labels: int32 [N], or None if there are no classes.
    class_names: empty if there are no classes.
    num_train: the size of the training split.
    digest: the SHA-256 of the training split.
    num_skipped: the number of files that are not used.
    """
    images: np.ndarray
    labels: np.ndarray | None
    class_names: list
    num_train: int
    digest: str
    num_skipped: int


def load_image_folder(folder, shape):
    """Load all images below a folder, center-cropped and resized to shape (H, W, C), as an ImageFolder.

    The first call writes them to prepared_<H>x<W>x<C>_<key>.bytes and .json in the folder, or in the user's cache if
    the folder is read-only. The key is a hash of the names, sizes and modification times of all files. If a file
    changes, the images are prepared again. Several processes may prepare them at the same time.

    Raises:
        UserError: if the folder does not exist, has no training image, or has a class that is in test/ only.
    """
    check_image_folder(folder)
    files = list_files(folder)
    key = hashlib.sha256(repr((shape, [(os.fsencode(path), size, time) for path, size, time in files])).encode())
    key = key.hexdigest()[:16]
    prefix = 'prepared_{}x{}x{}_'.format(*shape)
    prepared_folder = folder if os.access(folder, os.W_OK) else cache_folder(folder)
    prepared = os.path.join(prepared_folder, prefix + key)
    try:
        content = read_prepared(prepared, shape)
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
        make_folder(prepared_folder)
        remove_outdated(prepared_folder, prefix, key)
        prepare(folder, [path for path, _, _ in files], shape, prepared)
        content = read_prepared(prepared, shape)
    if content.num_skipped:
        print(f'Skipped files in {folder}: {content.num_skipped}. They are damaged, too large, outside train/ and '
              f'test/, or not {", ".join(EXTENSIONS)}', flush=True)
    return content


def check_image_folder(folder):
    """Raise UserError if the folder does not exist."""
    if not os.path.isdir(folder):
        raise UserError(f'{folder} is not a folder: put images there, or choose another --dataset '
                        f'({", ".join(SHAPES)}) or --data_dir')


##################################################################################
# Files, splits and classes
##################################################################################

def list_files(folder):
    """Return (path relative to the folder, size in bytes, time in ns) of every file below a folder, sorted.

    Links are followed; broken ones have size 0. Hidden and prepared files are left out.
    """
    files = []

    def visit(prefix, ancestors):
        """List the folder at prefix. Its ancestors are (device, inode) pairs: links to ancestors are not followed."""
        with os.scandir(os.path.join(folder, prefix)) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.name.startswith('.') or PREPARED.fullmatch(path):
                    continue
                try:
                    info = entry.stat()
                except OSError:
                    files.append((path, 0, 0))
                    continue
                identity = info.st_dev, info.st_ino
                if stat.S_ISREG(info.st_mode):
                    files.append((path, info.st_size, info.st_mtime_ns))
                elif stat.S_ISDIR(info.st_mode) and identity not in ancestors:
                    visit(path + '/', ancestors | {identity})

    info = os.stat(folder)
    visit('', {(info.st_dev, info.st_ino)})
    return sorted(files)


def split_and_classify(paths):
    """Assign images to splits and classes by their paths.

    If both train/ and test/ hold images, they are the splits. Otherwise every tenth image is a test image. The classes
    are the folders at the next level. There are no classes if there is only one such folder, or if an image is outside
    these folders.

    Returns:
        The paths of the training images, the paths of the test images, and {path: class}, empty without classes.

    Raises:
        UserError: if a class is in test/ only.
    """
    parts = {path: path.split('/') for path in paths}
    has_splits = {'train', 'test'} <= {folder for folder, *rest in parts.values() if rest}
    if has_splits:
        train = [path for path in paths if path.startswith('train/')]
        test = [path for path in paths if path.startswith('test/')]
        parts = {path: parts[path][1:] for path in train + test}
    else:
        train = [path for index, path in enumerate(paths) if index % 10 != 9]
        test = paths[9::10]

    classes = {path: part[0] for path, part in parts.items()}
    if len(set(classes.values())) < 2 or any(len(part) == 1 for part in parts.values()):
        return train, test, {}

    train_classes = {classes[path] for path in train}
    test_only = [path for path in test if classes[path] not in train_classes]
    if test_only and has_splits:
        raise UserError(f'the class {classes[test_only[0]]!r} has no training images (it is only in test/): put images '
                        'of it in train/')
    train = sorted(train + test_only)
    test = [path for path in test if classes[path] in train_classes]
    return interleave_classes(train, classes), interleave_classes(test, classes), classes


def interleave_classes(paths, classes):
    """Sort paths so that each class is spread evenly, because scores and figures use the first images."""
    by_class = {}
    for path in paths:
        by_class.setdefault(classes[path], []).append(path)
    position = {}  # in 0..1
    for members in by_class.values():
        for index, path in enumerate(members):
            position[path] = (index + 0.5) / len(members)
    return sorted(paths, key=position.get)


##################################################################################
# Prepared files
##################################################################################

def cache_folder(folder):
    """Return the folder in the user's cache for the prepared files of a read-only folder."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return os.path.join(cache, 'sagan', os.path.realpath(folder).strip('/').replace('/', '-'))


def remove_outdated(folder, prefix, key):
    """Remove prepared files of this prefix with another key, and temporary files of processes that were killed."""
    for name in os.listdir(folder):
        if not PREPARED.fullmatch(name) or not name.startswith(prefix):
            continue
        outdated = is_abandoned(name) if name.endswith('.part') else key not in name
        if outdated:
            pathlib.Path(folder, name).unlink(missing_ok=True)


def prepare(folder, paths, shape, prepared):
    """Convert the images among the files of a folder and write <prepared>.bytes and <prepared>.json.

    Raises:
        UserError: if there is no training image, or if a class is in test/ only.
    """
    train, test, classes = split_and_classify([path for path in paths if path.lower().endswith(EXTENSIONS)])
    print(f'Preparing {len(train + test)} images of {folder} at {shape[1]} x {shape[0]} pixels (only once)', flush=True)
    image_classes, digest = [], hashlib.sha256()
    with atomic_write(prepared + '.bytes') as part, open(part, 'wb') as file:
        for path, pixels in read_images(folder, train, shape):
            file.write(pixels)
            digest.update(pixels)
            image_classes.append(classes.get(path))
        num_train = len(image_classes)
        if num_train == 0:
            raise UserError(f'{folder} has no training images ({", ".join(EXTENSIONS)}): put images there')
        for path, pixels in read_images(folder, test, shape):
            file.write(pixels)
            image_classes.append(classes.get(path))

    class_names = sorted(set(image_classes)) if len(set(image_classes)) > 1 else []  # of readable images only
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = [label_of.get(name, 0) for name in image_classes]
    digest.update(np.array(labels[:num_train], np.int32))
    metadata = {'count': len(labels), 'train': num_train, 'digest': digest.hexdigest(),
                'left_out': len(paths) - len(labels),
                'class_names': [os.fsencode(name).decode(errors='replace') for name in class_names],
                'labels': labels if class_names else None}
    with atomic_write(prepared + '.json') as part:
        pathlib.Path(part).write_text(json.dumps(metadata))


def read_prepared(prepared, shape):
    """Read the files that prepare has written, as an ImageFolder.

    Raises:
        OSError, ValueError, KeyError, TypeError: if a file is missing or damaged.
    """
    metadata = json.loads(pathlib.Path(prepared + '.json').read_text())
    count, num_train = metadata['count'], metadata['train']
    labels, class_names = metadata['labels'], metadata['class_names']
    if os.path.getsize(prepared + '.bytes') != count * np.prod(shape):
        raise ValueError('wrong size')
    if not 0 < num_train <= count:
        raise ValueError('wrong split')
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise ValueError('wrong class names')
    if labels is not None:
        if len(labels) != count or not set(labels) <= set(range(len(class_names))):
            raise ValueError('wrong labels')
        labels = np.array(labels, np.int32)
    images = np.memmap(prepared + '.bytes', np.uint8, 'r', shape=(count, *shape))
    return ImageFolder(images, labels, class_names, num_train, metadata['digest'], metadata['left_out'])


##################################################################################
# Decoding
##################################################################################

def read_images(folder, paths, shape):
    """Decode images on all cores. Yield (path, uint8 [H, W, C]) in order, without the files that are not images."""
    def read(path):
        try:
            return read_image(os.path.join(folder, path), shape)
        except Exception as error:  # Pillow raises exceptions of all kinds for damaged images
            if getattr(error, 'errno', None) not in (None, errno.ENOENT, errno.ELOOP):
                raise  # a system error, which may be temporary
            return None

    with (warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
          tqdm(desc='Reading images', total=len(paths), leave=False, disable=None) as bar):
        warnings.simplefilter('ignore')
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        for start in range(0, len(paths), CHUNK_SIZE):
            chunk = paths[start:start + CHUNK_SIZE]
            for path, pixels in zip(chunk, threads.map(read, chunk), strict=True):
                bar.update()
                if pixels is not None:
                    yield path, pixels


def read_image(path, shape):
    """Read an image, apply its EXIF orientation, and crop and resize it to uint8 [H, W, C]."""
    with Image.open(path, formats=FORMATS) as image:
        image.draft(None, (2 * shape[1], 2 * shape[0]))  # decodes a large JPEG at a fraction of its size
        ImageOps.exif_transpose(image, in_place=True)
        return center_crop_resize(image, shape)


def center_crop_resize(image, shape):
    """Return the center of a Pillow image, resized to shape (H, W, C), as uint8. C is 1 or 3.

    The crop is the largest one with the aspect ratio of that shape. Transparent pixels become white.
    """
    height, width, channels = shape
    if image.mode.startswith('I'):  # 16 bits; Pillow would clip them to 8
        grey = np.asarray(image)
        grey = np.where(grey == image.info.get('transparency'), 0xffff, grey)
        image = Image.fromarray(np.uint8(grey >> 8))
    if image.has_transparency_data:
        background = Image.new('RGBA', image.size, 'white')
        background.alpha_composite(image.convert('RGBA'))
        image = background
    image = image.convert('RGB' if channels == 3 else 'L')
    scale = min(image.width / width, image.height / height)
    crop_width, crop_height = max(1, round(scale * width)), max(1, round(scale * height))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    image = image.crop((left, top, left + crop_width, top + crop_height))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)).reshape(shape)

"""A folder of pictures of any kind and size -> one array of bytes beside them, which is mapped, not read."""

import concurrent.futures
import errno
import hashlib
import json
import os
import pathlib
import re
import stat
import warnings
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from options import UserError
from utils import atomic_write, is_abandoned, make_folder

EXTENSIONS = '.png', '.jpg', '.jpeg', '.bmp', '.webp', '.gif'
FORMATS = 'PNG', 'JPEG', 'BMP', 'WEBP', 'GIF'  # no others, whatever a file's name says
PREPARED = re.compile(r'prepared_[0-9]+x[0-9]+x[13]_[0-9a-f]{16}\.(bytes|json)(\.[0-9]+\.part)?')
CHUNK = 256  # pictures decoded before they are written


class ImageFolder(NamedTuple):
    """images uint8 [N, H, W, C], mapped; labels [N], or None; the names of the classes, [] for none; how many of the
    images, from the first on, are the training split; the sha256 of that; how many files were left out.
    """
    images: Any
    labels: Any
    class_names: list
    train: int
    digest: str
    left_out: int


def load_image_folder(folder, shape):
    """The pictures below a folder, brought to shape (H, W, C) -> ImageFolder.

    They are read once and kept in the folder, in prepared_<shape>_<key>.bytes and .json, where the key tells names,
    sizes and times of the files: when these change, they are read anew. Two programs may do so at once. For a folder
    that cannot be written they are kept in the user's folder of caches.
    Raises UserError where there are none.
    """
    if not os.path.isdir(folder):
        raise UserError(f'{folder} is no folder: put pictures there, or choose another --dataset or --data_dir')
    files = list_files(folder)
    key = hashlib.sha256(repr((shape, [(os.fsencode(name), *what) for name, *what in files])).encode()).hexdigest()[:16]
    name = 'prepared_{}x{}x{}_'.format(*shape)
    place = folder
    if not os.access(folder, os.W_OK):
        caches = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
        place = os.path.join(caches, 'sagan', os.path.realpath(folder).strip('/').replace('/', '-'))
    path = os.path.join(place, name + key)
    try:
        found = read_prepared(path, shape)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
        make_folder(place)
        for other in filter(PREPARED.fullmatch, os.listdir(place)):  # of other files, or of a program that died
            if other.startswith(name) and (is_abandoned(other) if other.endswith('.part') else key not in other):
                pathlib.Path(place, other).unlink(missing_ok=True)
        prepare(folder, [name for name, *_ in files], shape, path)
        found = read_prepared(path, shape)
    if found.left_out:
        print(f'{found.left_out} files in {folder} are left out: no pictures ({", ".join(EXTENSIONS)}), damaged, too '
              'large, or beside its train and test', flush=True)
    return found


def list_files(folder):
    """All files below a folder, through links too -> [(path below it, bytes, time in ns)] by path.

    What begins with a dot is passed over, and what was prepared; a link that leads nowhere has no bytes.
    """
    found = []

    def visit(below, above):
        with os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                name = below + entry.name
                if entry.name.startswith('.') or not below and PREPARED.fullmatch(entry.name):
                    continue
                try:
                    info = entry.stat()
                except OSError:
                    found.append((name, 0, 0))
                    continue
                here = info.st_dev, info.st_ino
                if stat.S_ISREG(info.st_mode):
                    found.append((name, info.st_size, info.st_mtime_ns))
                elif stat.S_ISDIR(info.st_mode) and here not in above:
                    visit(name + '/', above | {here})

    info = os.stat(folder)
    visit('', {(info.st_dev, info.st_ino)})
    return sorted(found)


def arrange(names):
    """Which pictures, by their paths, train and which test, and their classes -> ([path], [path], {path: class}).

    train/ and test/ are the splits where both have pictures, else every tenth picture tests. The classes are the first
    folders below, {} where a picture lies in none or where there is but one.
    """
    parts = {name: name.split('/') for name in names}
    split = {'train', 'test'} <= {part[0] for part in parts.values() if len(part) > 1}
    if split:
        train, test = ([name for name in names if parts[name][0] == part and len(parts[name]) > 1]
                       for part in ('train', 'test'))
        parts = {name: parts[name][1:] for name in train + test}
    else:
        train, test = [name for place, name in enumerate(names) if place % 10 != 9], names[9::10]
    classes = {name: part[0] for name, part in parts.items()}
    if len(set(classes.values())) < 2 or any(len(part) == 1 for part in parts.values()):
        return train, test, {}
    trained = {classes[name] for name in train}
    lonely = [name for name in test if classes[name] not in trained]
    if lonely and split:
        raise UserError(f'the class {classes[lonely[0]]!r} is in test and not in train: put pictures of it there too')
    return (mixed(sorted(train + lonely), classes), mixed([name for name in test if classes[name] in trained], classes),
            classes)


def mixed(names, classes):
    """Names in an order through which each class is spread evenly: scores and figures take the first of them."""
    of_class = {}
    for name in names:
        of_class.setdefault(classes[name], []).append(name)
    place = {name: (number + 0.5) / len(found) for found in of_class.values() for number, name in enumerate(found)}
    return sorted(names, key=place.get)


def prepare(folder, names, shape, path):
    """Read the pictures of these names in a folder and write what read_prepared reads. Raises UserError for none."""
    pictures = [name for name in names if name.lower().endswith(EXTENSIONS)]
    train, test, classes = arrange(pictures)
    print(f'Preparing {len(train + test)} pictures of {folder} in {shape[1]} x {shape[0]}, once', flush=True)
    found, digest, kept = [], hashlib.sha256(), []
    with atomic_write(path + '.bytes') as part, open(part, 'wb') as file:
        for names_of_split in train, test:
            for name, pixels in read_all(folder, names_of_split, shape):
                file.write(pixels)
                found.append(classes.get(name))
                if names_of_split is train:
                    digest.update(pixels)
            kept.append(len(found))
        if not kept[0]:
            raise UserError(f'{folder} has no picture to train on ({", ".join(EXTENSIONS)}): put some there')
    class_names = sorted(set(found)) if len(set(found)) > 1 else []  # of pictures that can be read
    number = {name: place for place, name in enumerate(class_names)}
    labels = [number.get(name, 0) for name in found]
    digest.update(np.array(labels[:kept[0]], np.int32))
    facts = {'count': len(labels), 'train': kept[0], 'digest': digest.hexdigest(), 'left_out': len(names) - len(labels),
             'class_names': [os.fsencode(name).decode(errors='replace') for name in class_names],
             'labels': labels if class_names else None}
    with atomic_write(path + '.json') as part:
        pathlib.Path(part).write_text(json.dumps(facts))


def read_prepared(path, shape):
    """What prepare has written -> ImageFolder. Raises what Python does where it is not there, or not whole."""
    facts = json.loads(pathlib.Path(path + '.json').read_text())
    if os.path.getsize(path + '.bytes') != facts['count'] * np.prod(shape):
        raise ValueError
    labels, names = facts['labels'], facts['class_names']
    if not (0 < facts['train'] <= facts['count'] and isinstance(names, list) and all(isinstance(n, str) for n in names)
            and (labels is None or set(labels) <= set(range(len(names))) and len(labels) == facts['count'])):
        raise ValueError
    images = np.memmap(path + '.bytes', np.uint8, 'r', shape=(facts['count'], *shape))
    labels = labels and np.array(labels, np.int32)
    return ImageFolder(images, labels, names, facts['train'], facts['digest'], facts['left_out'])


def read_all(folder, names, shape):
    """Read pictures with all cores -> (name, uint8 [H, W, C]) of each that is one, in their order."""
    def read(name):
        try:
            return read_image(os.path.join(folder, name), shape)
        except Exception as error:  # there is no end to what a damaged picture makes Pillow raise
            if getattr(error, 'errno', None) not in (None, errno.ENOENT, errno.ELOOP):
                raise  # the system's error, which may be gone another time
            return None

    with (warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
          tqdm(desc='Pictures', total=len(names), leave=False, disable=None) as bar):
        warnings.simplefilter('ignore')
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        for start in range(0, len(names), CHUNK):
            chunk = names[start:start + CHUNK]
            for name, pixels in zip(chunk, threads.map(read, chunk), strict=True):
                bar.update()
                if pixels is not None:
                    yield name, pixels


def read_image(path, shape):
    """Read a picture, turned as its EXIF data say -> uint8 [H, W, C], as center_crop_resize makes it. Raises what Pillow does."""
    with Image.open(path, formats=FORMATS) as image:
        image.draft(None, (2 * shape[1], 2 * shape[0]))  # a JPEG need not be decoded larger
        ImageOps.exif_transpose(image, in_place=True)
        return center_crop_resize(image, shape)


def center_crop_resize(image, shape):
    """The middle of a picture of Pillow, on white where it is transparent, resized -> uint8 [H, W, C] of that shape.

    The middle is the largest part with the sides' proportion; C is 1 or 3.
    """
    height, width, channels = shape
    if image.mode.startswith('I'):  # 16 bits, of which Pillow would keep what fits in 8
        grey = np.asarray(image)
        grey = np.where(grey == image.info.get('transparency'), 0xffff, grey)
        image = Image.fromarray(np.uint8(grey >> 8))
    if image.has_transparency_data:
        white = Image.new('RGBA', image.size, 'white')
        white.alpha_composite(image.convert('RGBA'))
        image = white
    image = image.convert('RGB' if channels == 3 else 'L')
    part = min(image.width / width, image.height / height)
    size = max(1, round(part * width)), max(1, round(part * height))
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    image = image.crop((left, top, left + size[0], top + size[1]))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)).reshape(shape)

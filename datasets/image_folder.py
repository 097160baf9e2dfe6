"""A folder or zip file of images of any kind and size, converted once into a memory-mapped array."""

import concurrent.futures
import contextlib
import errno
import functools
import hashlib
import os
import stat
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from datasets.bit_depth import choose_scale, describe_scale, is_finite, kind_of, scale_to_8_bits, value_range
from datasets.dataset import MAX_LISTED_FILES
from datasets.layout import and_more, arrange, printable, read_labels
from datasets.prepared import PREPARED, prepared_folder, read_prepared, remove_outdated, write_metadata
from datasets.zip_folder import list_members, open_member, open_zip
from options import UserError
from system import available_cores
from utils import atomic_write, make_folder

try:
    from PIL import AvifImagePlugin
    HAS_AVIF = AvifImagePlugin.SUPPORTED
except ImportError:  # Pillow before 11.3
    HAS_AVIF = False

# File names and formats of images. Earlier versions of the program read only the old ones. Pillow may decode only these
# formats, whatever the extension. EPS is excluded, because an EPS file is a program.
OLD_EXTENSIONS = '.png', '.jpg', '.jpeg', '.bmp', '.webp', '.gif'
NEW_EXTENSIONS = '.jfif', '.tif', '.tiff', '.ppm', '.pgm', '.avif'
EXTENSIONS = OLD_EXTENSIONS + NEW_EXTENSIONS
NEW_FORMATS = 'TIFF', 'PPM', *(['AVIF'] if HAS_AVIF else [])
FORMATS = 'PNG', 'JPEG', 'BMP', 'WEBP', 'GIF', *NEW_FORMATS

NAME = 'images'  # of this format
RULES = 2  # the version of the rules in this package: raise it to prepare all images again
CHUNK_SIZE = 256  # images decoded before they are written


def matches(path):
    """Return whether a path is a zip file, or a folder that holds at least one image at any depth."""
    if not os.path.isdir(path):
        return path.lower().endswith('.zip') and os.path.isfile(path)
    return any(is_image(name) for name, _, _ in walk(path))


def load(path, shape):
    """Load all images in a folder or zip file, centre-cropped and resized to shape (H, W, C), as a Dataset.

    The first call writes them to prepared_<H>x<W>x<C>_<key>.bytes and .json in the folder that prepared_folder returns.
    The key depends on the names, sizes, and modification times or checksums of all files. If a file changes, the images
    are prepared again. Several processes may prepare them at the same time.

    Raises:
        UserError: if there is no training image, if a class occurs only in the held-out folder, or if a label or zip
            file is damaged.
    """
    if os.path.isdir(path):
        files, open_file = sorted(walk(path)), functools.partial(open_in_folder, path)
        return load_files(path, files, open_file, [], shape)
    with open_zip(path) as archive:
        members, left_out = list_members(archive)
        files = [(name, info.file_size, info.CRC) for name, info in members.items()]
        return load_files(path, files, lambda name: open_member(archive, members[name]), left_out, shape)


def load_files(path, files, open_file, left_out, shape):
    """Load the images among files. Prepare them first if necessary.

    Args:
        files: (path, size in bytes, time or checksum) of all files, sorted.
        open_file: a function that opens one of these paths as a binary file.
        left_out: [(path, reason)] of other files.
    """
    key = repr((RULES, FORMATS, shape, [(os.fsencode(name), size, time) for name, size, time in files], left_out))
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    prefix = 'prepared_{}x{}x{}_'.format(*shape)
    folder = prepared_folder(path)
    prepared = os.path.join(folder, prefix + key)
    try:
        return read_prepared(prepared, shape)
    except (OSError, ValueError, TypeError):  # missing or damaged
        pass
    try:
        prepare(path, [name for name, _, _ in files], open_file, left_out, shape, prepared)
    except UserError:
        if folder != path:
            with contextlib.suppress(OSError):  # the folder may hold other files
                os.rmdir(folder)
        raise
    remove_outdated(folder, prefix, key)
    return read_prepared(prepared, shape)


##################################################################################
# Files
##################################################################################

def is_image(name):
    """Return whether a file has the extension of an image."""
    return name.lower().endswith(EXTENSIONS)


def open_in_folder(folder, name):
    """Open a file of a folder."""
    return open(os.path.join(folder, name), 'rb')


def walk(folder):
    """Yield (path relative to the folder, size in bytes, time in ns) of every file below a folder.

    Links are followed; broken ones have size 0. Hidden and prepared files are left out.
    """
    def visit(prefix, ancestors):
        """Visit the folder at prefix. Its ancestors are (device, inode) pairs: links to ancestors are not followed."""
        with os.scandir(os.path.join(folder, prefix)) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.name.startswith('.') or PREPARED.fullmatch(entry.name):
                    continue
                try:
                    info = entry.stat()
                except OSError:
                    yield path, 0, 0
                    continue
                if stat.S_ISREG(info.st_mode):
                    yield path, info.st_size, info.st_mtime_ns
                elif stat.S_ISDIR(info.st_mode):
                    info = os.stat(entry.path)  # on Windows, entry.stat() has neither device nor inode
                    identity = info.st_dev, info.st_ino
                    if identity not in ancestors:
                        yield from visit(path + '/', ancestors | {identity})

    info = os.stat(folder)
    yield from visit('', {(info.st_dev, info.st_ino)})


##################################################################################
# Preparation
##################################################################################

def prepare(path, names, open_file, left_out, shape, prepared):
    """Convert the images among the files of a folder and write <prepared>.bytes and <prepared>.json.

    Raises:
        UserError: see load.
    """
    images = [name for name in names if is_image(name)]
    if not images:
        raise no_training_images(path, left_out)
    labels = read_labels(path, names, images, open_file)
    layout = arrange(images, labels)
    train, test, classes = layout.train, layout.test, layout.classes
    print(f'Preparing {len(train + test)} images in {path} at {shape[1]} x {shape[0]} pixels. This is done only once: '
          f'the result is stored in {os.path.dirname(prepared)}', flush=True)
    damaged, image_classes, digest = [], [], hashlib.sha256()
    scales, notes, reading = survey_images(open_file, train + test)
    read = functools.partial(read_image, shape=shape, scales=scales)
    make_folder(os.path.dirname(prepared))
    with atomic_write(prepared + '.bytes') as part, open(part, 'wb') as file:
        for name, pixels in map_images(read, open_file, train, damaged, 'Reading images'):
            file.write(pixels)
            digest.update(pixels)
            image_classes.append(classes.get(name))
        num_train = len(image_classes)
        if num_train == 0:
            raise no_training_images(path, damaged + layout.left_out + left_out)
        for name, pixels in map_images(read, open_file, test, damaged, 'Reading images'):
            file.write(pixels)
            image_classes.append(classes.get(name))

    class_names = sorted(set(image_classes)) if len(set(image_classes)) > 1 else []  # of readable images only
    label_of = {name: label for label, name in enumerate(class_names)}
    image_labels = [label_of.get(name, 0) for name in image_classes]
    digest.update(np.array(image_labels[:num_train], np.int32))
    others = [(name, 'not an image file') for name in names if not is_image(name) and name not in labels.sources]
    left_out = damaged + layout.left_out + left_out + others
    write_metadata(prepared, count=len(image_labels), labels=image_labels if class_names else None,
                   class_names=[os.fsencode(str(name)).decode(errors='replace') for name in class_names],
                   num_train=num_train, digest=digest.hexdigest(), held_out=layout.held_out or 'every tenth image',
                   num_left_out=len(left_out),
                   left_out=[(printable(name), reason) for name, reason in left_out[:MAX_LISTED_FILES]],
                   notes=layout.notes + notes, reading=layout.reading + reading)


def no_training_images(path, left_out):
    """Return a UserError that names the first image that cannot be used."""
    cause = ''
    if left_out:
        name, reason = left_out[0]
        cause = f' ({printable(name)}: {reason})'
    return UserError(f'{path} has no training images{cause}: put images there ({", ".join(EXTENSIONS)})')


##################################################################################
# Survey
##################################################################################

class Properties(NamedTuple):
    """The properties of an image that the survey collects.

    kind: see bit_depth.kind_of.
    range: (low, high) of a high-bit-depth image, otherwise None.
    """
    format: str
    has_frames: bool
    kind: str | None
    range: tuple | None
    is_finite: bool


def survey_images(open_file, paths):
    """Inspect all images before they are converted. Damaged ones are ignored.

    Returns:
        scales: {kind: the Scale that all high-bit-depth images of this kind share}.
        notes: one sentence for each conversion and omission.
        reading: what earlier versions of the program read differently, as phrases such as '.tif files'.
    """
    ranges, new, with_frames, not_finite = {}, set(), [], []
    for path, image in map_images(inspect_image, open_file, paths, [], 'Inspecting images'):
        extension = os.path.splitext(path)[1].lower()
        if extension in NEW_EXTENSIONS:
            new.add(extension)
        elif image.format in NEW_FORMATS:
            new.add(image.format)
        if image.kind:
            ranges.setdefault(image.kind, []).append(image.range)
        if image.has_frames:
            with_frames.append(path)
        if not image.is_finite:
            not_finite.append(path)

    scales = {}
    for kind, pairs in sorted(ranges.items()):
        scales[kind] = choose_scale(kind, min(low for low, _ in pairs), max(high for _, high in pairs))
    conversions = [describe_scale(kind, scale) for kind, scale in scales.items() if scale.bits != 16]
    notes = [f'Pixels: {conversion} are scaled to 0..255' for conversion in conversions]
    if with_frames:
        notes.append(f'Only the first image of each file with several images is used ({and_more(with_frames)})')
    if not_finite:
        notes.append(f'NaN becomes black, and infinite pixels become black or white ({and_more(not_finite)})')
    return scales, notes, [f'{name} files' for name in sorted(new)] + conversions


def inspect_image(file):
    """Return the Properties of an image. Only high-bit-depth images are decoded."""
    with Image.open(file, formats=FORMATS) as image:
        kind, image_format = kind_of(image), image.format
        limits, finite = (value_range(image), is_finite(image)) if kind else (None, True)
        return Properties(image_format, has_frames(image), kind, limits, finite)


def has_frames(image):
    """Return whether a file holds several images. A photo (MPO) may hold another view, which is not reported."""
    try:
        return image.format != 'MPO' and getattr(image, 'is_animated', False)
    except Exception:  # a damaged frame, although the first image is readable
        return True


##################################################################################
# Decoding
##################################################################################

def map_images(function, open_file, paths, damaged, description):
    """Call a function with each open file, on all cores.

    Args:
        function: binary file -> result.
        open_file: a function that opens one of the paths.
        damaged: a list, to which (path, reason) is added for each file that Pillow cannot read.
        description: the label of the progress bar.

    Yields:
        (path, result) of the other files, in order.
    """
    def call(path):
        """Return (result, None), or (None, reason) if the file cannot be read."""
        try:
            with open_file(path) as file:
                return function(file), None
        except Exception as error:  # Pillow raises exceptions of all kinds for damaged images
            if getattr(error, 'errno', None) not in (None, errno.ENOENT, errno.ELOOP):
                raise  # a system error, which may be temporary
            return None, describe_error(error, path)

    with (warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(len(available_cores())) as threads,
          tqdm(desc=description, total=len(paths), leave=False, disable=None) as bar):
        warnings.simplefilter('ignore')
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        for start in range(0, len(paths), CHUNK_SIZE):
            chunk = paths[start:start + CHUNK_SIZE]
            for path, (result, reason) in zip(chunk, threads.map(call, chunk), strict=True):
                bar.update()
                if reason is None:
                    yield path, result
                else:
                    damaged.append((path, reason))


def describe_error(error, path):
    """Return why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        if path.lower().endswith('.avif') and not HAS_AVIF:
            return 'this version of Pillow cannot read AVIF'
        return 'not an image, or damaged'
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f'more than {Image.MAX_IMAGE_PIXELS:,} pixels'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error) or type(error).__name__)


def read_image(file, shape, scales):
    """Read an image, apply its EXIF orientation, and crop and resize it to uint8 [H, W, C].

    Args:
        file: a binary file, or its path.
        scales: the scales that survey_images returns.
    """
    with Image.open(file, formats=FORMATS) as image:
        image.draft(None, (2 * shape[1], 2 * shape[0]))  # decodes a large JPEG at a fraction of its size
        ImageOps.exif_transpose(image, in_place=True)
        kind = kind_of(image)
        return center_crop_resize(scale_to_8_bits(image, scales.get(kind)) if kind else image, shape)


def center_crop_resize(image, shape):
    """Return the centre of a Pillow image, resized to shape (H, W, C), as uint8. C is 1 or 3.

    The crop is the largest one with the aspect ratio of that shape. Transparent pixels become white.
    """
    height, width, channels = shape
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

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, linux_only
from PIL import Image

from datasets import image_folder
from datasets.bit_depth import Scale
from datasets.image_folder import center_crop_resize, load, read_image
from options import UserError

SHAPE = 8, 8, 3
SCALES = {'I': Scale(0, 65535, 16)}
RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def write(path, image=None, **options):
    """Write an image, by default a red one, create its folder, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image is None:
        image = Image.new('RGB', (8, 8), RED)
    image.save(path, **options)
    return path


def noise(seed, width=8, height=8):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, [height, width, 3]).astype(np.uint8))


def write_noise(folder, paths):
    """Write different images: the i-th is noise(i)."""
    for seed, path in enumerate(paths):
        write(folder / path, noise(seed))


def seeds_of(images):
    """Return the noise seed, below 100, of each image."""
    seeds = {noise(seed).tobytes(): seed for seed in range(100)}
    return [seeds[pixels.tobytes()] for pixels in images]


@pytest.fixture
def folder(tmp_path):
    """Return an empty folder for images."""
    (tmp_path / 'own').mkdir()
    return tmp_path / 'own'


##################################################################################
# Decoding
##################################################################################

def halves(mode, left, right):
    """Return an 8 x 8 image whose left half has one value and whose right half has another."""
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


def palette():
    image = halves('P', 0, 1)
    image.putpalette([*RED, *GREEN])
    return image


DEEP = Image.fromarray(np.repeat(np.uint16([[0x0000] * 4 + [0x80ff] * 4]), 8, 0))
# The image, the options to save it with, and the colours of its halves.
KINDS = {
    'RGB': (halves('RGB', RED, GREEN), {}, RED, GREEN),
    'RGB with a transparent colour': (halves('RGB', RED, GREEN), {'transparency': GREEN}, RED, WHITE),
    'RGBA': (halves('RGBA', (*RED, 255), (0, 0, 0, 0)), {}, RED, WHITE),
    'half transparent': (halves('RGBA', (*RED, 255), (0, 0, 0, 128)), {}, RED, (127, 127, 127)),
    'palette': (palette(), {}, RED, GREEN),
    'palette with a transparent colour': (palette(), {'transparency': 1}, RED, WHITE),
    'palette with alpha': (palette(), {'transparency': bytes([255, 0])}, RED, WHITE),
    'grey': (halves('L', 0, 77), {}, (0, 0, 0), (77, 77, 77)),
    'grey with alpha': (halves('LA', (0, 255), (0, 0)), {}, (0, 0, 0), WHITE),
    'grey with a transparent value': (halves('L', 0, 77), {'transparency': 77}, (0, 0, 0), WHITE),
    '1 bit': (halves('1', 0, 1), {}, (0, 0, 0), WHITE),
    '16 bits': (DEEP, {}, (0, 0, 0), (128, 128, 128)),
    '16 bits with a transparent value': (DEEP, {'transparency': 0x80ff}, (0, 0, 0), WHITE)}


@pytest.mark.parametrize('kind', KINDS)
def test_read_image_converts_every_kind_of_png_to_rgb(kind, tmp_path):
    image, options, left, right = KINDS[kind]
    pixels = read_image(write(tmp_path / 'a.png', image, **options), SHAPE, SCALES)
    assert pixels.dtype == np.uint8 and pixels.shape == SHAPE
    assert (pixels[:, :4] == left).all() and (pixels[:, 4:] == right).all()


@pytest.mark.parametrize('kind', KINDS)
def test_read_image_converts_every_kind_of_png_to_grey(kind, tmp_path):
    """The luma of ITU-R 601-2."""
    image, options, left, right = KINDS[kind]
    pixels = read_image(write(tmp_path / 'a.png', image, **options), (8, 8, 1), SCALES)
    luma = np.dot([left, right], [0.299, 0.587, 0.114])
    assert [pixels[0, 0, 0], pixels[0, 7, 0]] == pytest.approx(luma, abs=1)


def test_read_image_converts_cmyk(tmp_path):
    path = write(tmp_path / 'a.jpg', Image.new('CMYK', (16, 16), (255, 0, 0, 0)), quality=95)
    assert np.abs(read_image(path, SHAPE, SCALES).astype(int) - [0, 255, 255]).max() < 60


@pytest.mark.parametrize('name, options', [('a.png', {}), ('a.webp', {'lossless': True})])
def test_read_image_applies_the_exif_orientation(tmp_path, name, options):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    pixels = read_image(write(tmp_path / name, halves('RGB', RED, GREEN), exif=exif, **options), SHAPE, SCALES)
    assert (pixels[:4] == RED).all() and (pixels[4:] == GREEN).all()


def test_read_image_uses_the_first_frame(tmp_path):
    path = write(tmp_path / 'a.gif', save_all=True, append_images=[Image.new('RGB', (8, 8), GREEN)])
    assert (read_image(path, SHAPE, SCALES) == RED).all()


def test_read_image_of_a_large_jpeg_is_close_to_the_original(tmp_path):
    """A JPEG is decoded at a fraction of its size and then resized."""
    smooth = noise(0, 5, 4).resize((640, 480), Image.Resampling.BICUBIC)
    pixels = read_image(write(tmp_path / 'a.jpg', smooth, quality=95), (32, 32, 3), SCALES)
    assert np.abs(pixels.astype(int) - center_crop_resize(smooth, (32, 32, 3))).max() < 12


@pytest.mark.parametrize('width, height', [(320, 240), (20, 300), (8, 8), (31, 5)])
def test_center_crop_resize_resizes_the_central_square(width, height):
    image = noise(0, width, height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.LANCZOS)
    assert (center_crop_resize(image, (16, 16, 3)) == np.asarray(expected)).all()


def test_center_crop_resize_keeps_the_aspect_ratio():
    """For 12 x 16 pixels, the central 15 rows of the 20 x 20 image are used."""
    image = noise(0, 20, 20)
    expected = image.crop((0, 2, 20, 17)).convert('L').resize((16, 12), Image.Resampling.LANCZOS)
    pixels = center_crop_resize(image, (12, 16, 1))
    assert pixels.shape == (12, 16, 1) and (pixels[:, :, 0] == np.asarray(expected)).all()


##################################################################################
# Splits and classes
##################################################################################

def test_load_uses_every_tenth_image_for_testing(folder):
    write_noise(folder, [f'{seed:02d}.png' for seed in range(30)])
    dataset = load(folder, SHAPE)
    assert seeds_of(dataset.train[0]) == [seed for seed in range(30) if seed % 10 != 9]
    assert seeds_of(dataset.test[0]) == [9, 19, 29]


def test_load_takes_classes_from_folders(folder):
    write_noise(folder, ['b/0.png', 'a/1.png', 'a/deep/2.png'])
    dataset = load(folder, SHAPE)
    images, labels = dataset.train
    assert dataset.class_names == ('a', 'b')
    assert dict(zip(seeds_of(images), labels.tolist(), strict=True)) == {0: 1, 1: 0, 2: 0}


def test_load_alternates_between_the_classes(folder):
    write_noise(folder, [f'{"abc"[seed % 3]}/{seed:02d}.png' for seed in range(60)])
    paths = sorted(f'{"abc"[seed % 3]}/{seed:02d}' for seed in range(60))
    train = [path for index, path in enumerate(paths) if index % 10 != 9]  # 18 of each class
    alternating = [path for turn in range(18) for path in train[turn::18]]
    dataset = load(folder, SHAPE)
    for (images, labels), expected in (dataset.train, alternating), (dataset.test, paths[9::20] + paths[19::20]):
        assert seeds_of(images) == [int(path[2:]) for path in expected]
        assert labels.tolist() == ['abc'.index(path[0]) for path in expected]


def test_load_returns_int32_labels(folder):
    write_noise(folder, ['a/0.png', 'b/1.png'])
    assert load(folder, SHAPE).train[1].dtype == np.int32


@pytest.mark.parametrize('paths', [['a/0.png', 'b/1.png', 'flat.png'], ['a/0.png', 'a/1.png'], ['0.png', '1.png']],
                         ids=['an image in no class', 'one class', 'no folders'])
def test_load_has_no_classes(folder, paths):
    write_noise(folder, paths)
    dataset = load(folder, SHAPE)
    assert (dataset.train[1], dataset.test[1], dataset.class_names) == (None, None, ())
    assert len(dataset.train[0]) == len(paths)


def test_load_uses_train_and_test_folders(folder):
    write_noise(folder, ['train/b/0.png', 'train/a/0.png', 'test/b/0.png', 'test/a/0.png'])
    dataset = load(folder, SHAPE)
    assert seeds_of(dataset.train[0]) == [1, 0] and seeds_of(dataset.test[0]) == [3, 2]
    assert dataset.class_names == ('a', 'b') and dataset.train[1].tolist() == dataset.test[1].tolist() == [0, 1]


def test_load_skips_images_beside_train_and_test(folder):
    write_noise(folder, ['train/0.png', 'test/1.png', 'other/2.png', '3.png'])
    dataset = load(folder, SHAPE)
    assert (seeds_of(dataset.train[0]), seeds_of(dataset.test[0]), dataset.num_left_out) == ([0], [1], 2)


def test_load_rejects_a_class_without_training_images(folder):
    write_noise(folder, ['train/a/0.png', 'train/b/1.png', 'test/a/2.png', 'test/c/3.png'])
    with pytest.raises(UserError, match="the class 'c' has no training images"):
        load(folder, SHAPE)


def test_load_has_no_classes_if_a_test_image_has_none(folder):
    write_noise(folder, ['train/a/0.png', 'train/b/1.png', 'test/2.png'])
    dataset = load(folder, SHAPE)
    assert dataset.train[1] is None and dataset.test[1] is None


def test_load_trains_on_the_only_image_of_a_class(folder):
    """The position of the image would make it a test image."""
    write_noise(folder, [f'a/{seed}.png' for seed in range(9)] + ['b/0.png'])
    dataset = load(folder, SHAPE)
    assert dataset.class_names == ('a', 'b') and dataset.train[1].tolist() == [0] * 5 + [1] + [0] * 4


def test_load_ignores_classes_without_a_readable_image(folder):
    write_noise(folder, ['a/0.png', 'b/1.png', 'b/2.png', 'c/3.png'])
    (folder / 'b' / '1.png').write_text('not an image')
    (folder / 'c' / '3.png').write_text('not an image')
    dataset = load(folder, SHAPE)
    assert dataset.class_names == ('a', 'b') and dataset.train[1].tolist() == [0, 1]


def test_load_has_no_classes_if_only_one_is_readable(folder):
    write_noise(folder, ['a/0.png', 'b/1.png'])
    (folder / 'b' / '1.png').write_text('not an image')
    dataset = load(folder, SHAPE)
    assert dataset.class_names == () and dataset.train[1] is None


##################################################################################
# Which files are read
##################################################################################

# {extension: the format that Pillow writes}
LOSSLESS = {'png': 'PNG', 'bmp': 'BMP', 'gif': 'GIF', 'tif': 'TIFF', 'tiff': 'TIFF', 'ppm': 'PPM'}
LOSSY = {'jpg': 'JPEG', 'jpeg': 'JPEG', 'jfif': 'JPEG', 'webp': 'WEBP'}
if image_folder.HAS_AVIF:
    LOSSY['avif'] = 'AVIF'


@pytest.mark.parametrize('extension', [*LOSSLESS, *LOSSY])
def test_load_reads_every_format(folder, extension):
    write(folder / f'a.{extension}', halves('RGB', RED, GREEN), format={**LOSSLESS, **LOSSY}[extension])
    pixels = load(folder, SHAPE).train[0][0].astype(int)
    assert np.abs(pixels - np.asarray(halves('RGB', RED, GREEN))).max() <= (0 if extension in LOSSLESS else 100)


def test_load_reads_portable_graymaps(folder):
    (folder / 'a.pgm').write_bytes(b'P5 8 8 255 ' + bytes(range(64)))
    assert load(folder, (8, 8, 1)).train[0].ravel().tolist() == list(range(64))


@pytest.mark.parametrize('name', ['plain.png', "it's %s {0}\n.png", 'ÄÖ ☃.PNG', 'a.jpg', 'a.jpeg', 'a.bmp', 'a.webp',
                                  'a.gif', 'folder.png/inside.png'])
def test_load_reads_files_by_extension(folder, name):
    write(folder / name)
    dataset = load(folder, SHAPE)
    assert len(dataset.train[0]) == 1 and dataset.num_left_out == 0


def test_load_reads_names_that_are_not_unicode(folder):
    write(folder / 'a.png').rename(os.fsdecode(os.path.join(os.fsencode(folder), b'\xff.png')))
    assert len(load(folder, SHAPE).train[0]) == 1


def test_load_decodes_names_of_classes_that_are_not_unicode(folder):
    write_noise(folder, ['a/0.png', 'b/1.png'])
    (folder / 'b').rename(os.fsdecode(os.path.join(os.fsencode(folder), b'b\xff')))
    assert load(folder, SHAPE).class_names == ('a', 'b\N{REPLACEMENT CHARACTER}')


def truncated_jpeg(path):
    write(path, noise(0, 64, 64))
    os.truncate(path, path.stat().st_size // 2)


SKIPPED = {
    'notes.txt': lambda path: path.touch(),
    'empty.jpg': lambda path: path.touch(),
    'text.png': lambda path: path.write_text('not an image'),
    'truncated.jpg': truncated_jpeg,
    'large.png': lambda path: write(path, Image.new('1', (101, 100))),
    'program.png': lambda path: write(path, format='EPS'),
    'loop.png': lambda path: path.symlink_to('loop.png')}


@pytest.mark.parametrize('name', SKIPPED)
def test_load_skips_a_file_that_it_cannot_use(folder, monkeypatch, name):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10000)
    write(folder / 'a.png')
    SKIPPED[name](folder / name)
    dataset = load(folder, SHAPE)
    assert len(dataset.train[0]) == 1 and dataset.num_left_out == 1


def test_load_names_files_that_are_left_out(folder):
    """Damaged images come first."""
    write_noise(folder, [f'{number}.png' for number in range(6)])
    for number in range(1, 6):
        (folder / f'{number}.png').write_text('not an image')
    (folder / '0.txt').touch()
    dataset = load(folder, SHAPE)
    assert dataset.num_left_out == 6
    assert dataset.left_out == tuple((f'{number}.png', 'not an image, or damaged') for number in (1, 2, 3))


REASONS = {
    'notes.txt': 'not an image file', 'empty.jpg': 'not an image, or damaged', 'large.png': 'more than 10,000 pixels',
    'truncated.jpg': 'image file is truncated', 'program.png': 'not an image, or damaged',
    'loop.png': 'Too many levels of symbolic links'}


@pytest.mark.parametrize('name', REASONS)
def test_load_reports_why_a_file_is_left_out(folder, monkeypatch, name):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10000)
    write(folder / 'a.png')
    SKIPPED[name](folder / name)
    (path, reason), = load(folder, SHAPE).left_out
    assert path == name and reason.startswith(REASONS[name])


def test_load_does_not_leave_out_label_files(folder):
    write_noise(folder, ['a.png', 'b.png'])
    (folder / 'labels.csv').write_text('file_name,label\na.png,10\nb.png,9')
    dataset = load(folder, SHAPE)
    assert dataset.num_left_out == 0
    assert dataset.class_names == ('9', '10') and dataset.train[1].tolist() == [1, 0]


def test_load_names_the_damaged_image_if_there_is_no_other(folder):
    (folder / 'a.png').touch()
    with pytest.raises(UserError, match='no training images .a.png: not an image, or damaged.: put images there'):
        load(folder, SHAPE)


def write_prepared(folder):
    folder.mkdir()
    (folder / 'prepared_8x8x1_0123456789abcdef.bytes').touch()


UNLISTED = {
    'hidden file': lambda folder: write(folder / '.hidden.png'),
    'hidden folder': lambda folder: write(folder / '.git' / 'a.png'),
    'link to a parent': lambda folder: (folder / 'up').symlink_to('.'),
    'prepared images of a subfolder': lambda folder: write_prepared(folder / 'a'),
    'pipe': lambda folder: os.mkfifo(folder / 'pipe.png')}


@linux_only
@pytest.mark.parametrize('kind', UNLISTED)
def test_load_does_not_list(folder, kind):
    write(folder / 'a.png')
    UNLISTED[kind](folder)
    dataset = load(folder, SHAPE)
    assert len(dataset.train[0]) == 1 and dataset.num_left_out == 0


def test_load_follows_links_to_other_folders(folder, tmp_path):
    write(tmp_path / 'elsewhere' / 'a.png')
    (folder / 'link').symlink_to(tmp_path / 'elsewhere')
    assert len(load(folder, SHAPE).train[0]) == 1


class WindowsEntry:
    """A directory entry as os.scandir returns it on Windows, without device and inode numbers."""

    def __init__(self, entry):
        self.name, self.path, self.entry = entry.name, entry.path, entry

    def stat(self):
        info = self.entry.stat()
        return SimpleNamespace(st_mode=info.st_mode, st_size=info.st_size, st_mtime_ns=info.st_mtime_ns, st_dev=0,
                               st_ino=0)


def test_load_lists_nested_folders_on_windows(folder, monkeypatch):
    write(folder / 'train' / 'a' / '1.png')
    write(folder / 'train' / 'b' / '2.png')
    write(folder / 'test' / 'a' / '3.png')
    scandir = os.scandir
    monkeypatch.setattr(os, 'scandir', lambda path: contextlib.nullcontext(map(WindowsEntry, scandir(path))))
    dataset = load(folder, SHAPE)
    assert (len(dataset.train[0]), len(dataset.test[0]), dataset.class_names) == (2, 1, ('a', 'b'))


def test_load_rejects_a_folder_without_images(folder):
    (folder / 'text.png').write_text('not an image')
    with pytest.raises(UserError, match='own has no training images'):
        load(folder, SHAPE)
    assert os.listdir(folder) == ['text.png']


def test_load_raises_system_errors(folder, monkeypatch):
    """System errors may be temporary, so the image is not skipped as damaged."""
    write(folder / 'a.png')
    monkeypatch.setattr(image_folder, 'read_image', lambda file, **_: os.listdir(file.name))  # ENOTDIR
    with pytest.raises(NotADirectoryError):
        load(folder, SHAPE)
    assert os.listdir(folder) == ['a.png']


##################################################################################
# Images with more than 8 bits, with several frames, and in other formats
##################################################################################

def make_grey(value, dtype=np.uint16):
    return Image.fromarray(np.full([8, 8], value, dtype))


def test_load_scales_all_16_bit_images_by_the_same_number_of_bits(folder):
    """The largest value, 4000, is in the test split. 8-bit images are not scaled."""
    for number in range(9):
        write(folder / f'{number}.png', make_grey(16 * number))
    write(folder / '9.png', make_grey(4000))
    write(folder / 'grey.png', Image.new('L', (8, 8), 77))
    dataset = load(folder, (8, 8, 1))
    assert dataset.train[0][:, 0, 0, 0].tolist() == [*range(9), 77] and dataset.test[0][:, 0, 0, 0].tolist() == [250]
    assert dataset.notes == ('Pixels: 12-bit values are scaled to 0..255',) and dataset.reading == ('12-bit values',)


def test_load_does_not_report_images_that_use_all_16_bits(folder):
    write(folder / 'a.png', make_grey(2 ** 14))
    dataset = load(folder, SHAPE)
    assert (dataset.train[0] == 64).all() and (dataset.notes, dataset.reading) == ((), ())


def test_load_scales_floats_by_the_values_of_the_data_set(folder):
    for number, value in enumerate([-1, 0, 3]):
        write(folder / f'{number}.tiff', make_grey(value, np.float32))
    dataset = load(folder, (8, 8, 1))
    assert dataset.train[0][:, 0, 0, 0].tolist() == [0, 64, 255]
    assert dataset.notes == ('Pixels: float values from -1 to 3 are scaled to 0..255',)


def test_load_reports_pixels_that_are_not_finite(folder):
    image = np.full([8, 8], 1, np.float32)
    image[0, 0] = np.nan
    write(folder / 'a.tiff', Image.fromarray(image))
    write(folder / 'b.tiff', make_grey(0, np.float32))
    dataset = load(folder, (8, 8, 1))
    assert dataset.train[0][0, 0, 0, 0] == 0 and dataset.train[0][0, 7, 7, 0] == 255
    assert 'NaN becomes black, and infinite pixels become black or white (a.tiff)' in dataset.notes


def test_load_leaves_out_a_float_image_without_finite_pixels(folder):
    write(folder / 'a.tiff', make_grey(np.nan, np.float32))
    write(folder / 'b.png')
    assert load(folder, SHAPE).left_out == (('a.tiff', 'no pixel is a finite number'),)


def test_load_ignores_damaged_images_when_choosing_the_scale(folder):
    write(folder / 'a.png', make_grey(4095))
    write(folder / 'b.png', Image.fromarray(np.random.default_rng(0).integers(0, 65536, [64, 64]).astype(np.uint16)))
    os.truncate(folder / 'b.png', 4000)
    assert load(folder, SHAPE).reading == ('12-bit values',)


@pytest.mark.parametrize('name', ['a.tif', 'a.gif'])
def test_load_reports_that_only_the_first_image_of_a_file_is_used(folder, name):
    write(folder / name, save_all=True, append_images=[Image.new('RGB', (8, 8), GREEN)])
    dataset = load(folder, SHAPE)
    assert (dataset.train[0] == RED).all()
    assert dataset.notes == (f'Only the first image of each file with several images is used ({name})',)


def test_load_does_not_report_the_second_view_of_a_photo(folder):
    write(folder / 'a.jpg', format='MPO', save_all=True, append_images=[Image.new('RGB', (8, 8), GREEN)])
    assert load(folder, SHAPE).notes == ()


@pytest.mark.parametrize('name, options, reading', [
    ('a.jpg', {}, ()), ('a.jfif', {}, ('.jfif files',)), ('a.TIF', {}, ('.tif files',)),
    ('a.png', {'format': 'TIFF'}, ('TIFF files',))])
def test_load_reports_formats_that_earlier_versions_did_not_read(folder, name, options, reading):
    write(folder / name, **options)
    assert load(folder, SHAPE).reading == reading


def test_load_reports_the_held_out_folder(folder):
    write_noise(folder, ['train/0.png', 'valid/1.png'])
    dataset = load(folder, SHAPE)
    assert (dataset.held_out, dataset.reading) == ('valid/', ('splits train/ and valid/',))
    assert seeds_of(dataset.train[0]) == [0] and seeds_of(dataset.test[0]) == [1]


##################################################################################
# Zip files
##################################################################################

def make_zip(folder):
    """Write the content of a folder to <folder>.zip and return its path."""
    return pathlib.Path(shutil.make_archive(folder, 'zip', folder))


def test_load_reads_a_zip_file_like_its_folder(folder):
    write_noise(folder, ['b/0.png', 'a/1.png', 'a/deep/2.png', *(f'a/{number}.png' for number in range(10, 30))])
    (folder / 'a' / 'bad.png').write_text('not an image')
    (folder / 'labels.csv').write_text('file_name,label\nb/0.png,x\na/1.png,y\na/10.png,y\n')
    np.testing.assert_equal(load(make_zip(folder), SHAPE), load(folder, SHAPE))


def test_load_puts_prepared_files_beside_the_zip_file(folder, tmp_path):
    write(folder / 'a.png')
    load(make_zip(folder), SHAPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['own', 'own.prepared', 'own.zip']
    assert os.listdir(folder) == ['a.png'] and len(prepared_names(tmp_path / 'own.prepared')) == 2


def test_load_prepares_a_zip_file_once(folder, capsys):
    write(folder / 'a.png')
    path = make_zip(folder)
    load(path, SHAPE)
    os.utime(path, (1, 1))
    load(path, SHAPE)
    assert capsys.readouterr().out.count('Preparing') == 1


def test_load_prepares_a_changed_zip_file_again(folder):
    """The size of a BMP does not change."""
    write(folder / 'a.bmp')
    load(make_zip(folder), SHAPE)
    write(folder / 'a.bmp', Image.new('RGB', (8, 8), GREEN))
    dataset = load(make_zip(folder), SHAPE)
    assert (dataset.train[0] == GREEN).all() and len(prepared_names(folder.with_suffix('.prepared'))) == 2


def test_load_leaves_out_zip_members_with_names_outside_the_zip_file(folder):
    write(folder / 'a.png')
    path = make_zip(folder)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.write(folder / 'a.png', '../evil.png')
    assert load(path, SHAPE).left_out == (('../evil.png', 'its name points outside the zip file'),)


def test_load_rejects_damaged_labels_in_a_zip_file(folder):
    write(folder / 'a.png')
    with zipfile.ZipFile(make_zip(folder), 'a') as archive:
        archive.writestr('labels.csv', 'file_name,label')
    path = folder.with_suffix('.zip')
    path.write_bytes(path.read_bytes().replace(b'file_name,label', b'file_name,LABEL'))
    with pytest.raises(UserError, match='own.zip/labels.csv cannot be used .damaged in the zip file: Bad CRC-32'):
        load(path, SHAPE)


@pytest.mark.parametrize('name', ['notes.txt', 'damaged.png'])
def test_load_rejects_a_zip_file_without_images(folder, tmp_path, name):
    (folder / name).touch()
    with pytest.raises(UserError, match='own.zip has no training images'):
        load(make_zip(folder), SHAPE)
    assert not (tmp_path / 'own.prepared').exists()


@pytest.mark.parametrize('name, expected', [('images', True), ('deep', True), ('text', False), ('empty', False),
                                            ('missing', False), ('own.zip', True), ('a.png', False)])
def test_matches_finds_folders_with_images_and_zip_files(tmp_path, name, expected):
    write(tmp_path / 'images' / 'a.PNG')
    write(tmp_path / 'deep' / 'b' / 'c' / 'a.tif')
    for folder in 'text', 'empty':
        (tmp_path / folder).mkdir()
    for path in 'text/notes.txt', 'own.zip', 'a.png':
        (tmp_path / path).touch()
    assert image_folder.matches(str(tmp_path / name)) == expected


##################################################################################
# Prepared files
##################################################################################

@pytest.fixture
def prepared(folder, capsys):
    """Prepare a folder of 12 images."""
    write_noise(folder, [f'{seed:02d}.png' for seed in range(12)])
    dataset = load(folder, SHAPE)
    capsys.readouterr()
    return dataset


@pytest.fixture
def is_prepared_again(folder, prepared, capsys):
    """Return a function that loads the folder and returns whether the folder was prepared again."""
    def is_prepared():
        load(folder, SHAPE)
        return 'Preparing' in capsys.readouterr().out
    return is_prepared


def prepared_names(folder):
    return sorted(path.name for path in folder.glob('prepared_*'))


def test_load_maps_the_images(prepared):
    for (images, _), count in (prepared.train, 11), (prepared.test, 1):
        assert isinstance(images, np.memmap) and images.shape == (count, *SHAPE)


def test_load_reports_that_it_prepares(folder, capsys):
    write(folder / 'a.png')
    load(folder, (8, 16, 3))
    assert capsys.readouterr().out == (
        f'Preparing 1 images in {folder} at 16 x 8 pixels. This is done only once: the result is stored in {folder}\n')


def test_load_prepares_once(is_prepared_again):
    assert not is_prepared_again()


def test_load_returns_the_same_data_the_second_time(folder, prepared):
    np.testing.assert_equal(load(folder, SHAPE), prepared)


CHANGES = {
    'content': lambda folder: write(folder / '03.png', noise(99)),
    'time': lambda folder: os.utime(folder / '03.png', (1, 1)),
    'name': lambda folder: (folder / '03.png').rename(folder / '03.PNG'),
    'removed': lambda folder: (folder / '03.png').unlink(),
    'added': lambda folder: (folder / 'notes.txt').touch(),
    'prepared bytes': lambda folder: os.truncate(next(folder.glob('prepared_*.bytes')), 100),
    'longer prepared bytes': lambda folder: os.truncate(next(folder.glob('prepared_*.bytes')), 12 * 8 * 8 * 3 + 1),
    'prepared json': lambda folder: next(folder.glob('prepared_*.json')).write_text('{"count": 3')}


@pytest.mark.parametrize('change', CHANGES)
def test_load_prepares_again_after_a_change(folder, is_prepared_again, change):
    CHANGES[change](folder)
    assert is_prepared_again() and not is_prepared_again()


@pytest.mark.parametrize('damage', [{'class_names': 5}, {'class_names': [5]}, {'labels': 5}, {'labels': [0, 7, 0]},
                                    {'labels': [0]}, {'num_train': 0}, {'num_train': 4}, {'count': 'x'}, {'count': 2},
                                    {'notes': [5]}, {'reading': None}, {'left_out': None}, {'unknown': 1}])
def test_load_prepares_again_after_damage_to_the_metadata(folder, capsys, damage):
    write_noise(folder, ['a/0.png', 'b/1.png', 'c/2.png'])
    load(folder, SHAPE)
    path = next(folder.glob('prepared_*.json'))
    metadata = path.read_text()
    path.write_text(json.dumps({**json.loads(metadata), **damage}))
    load(folder, SHAPE)
    assert path.read_text() == metadata and capsys.readouterr().out.count('Preparing') == 2


@pytest.mark.parametrize('name, changes', [('03.png', True), ('09.png', False)], ids=['train', 'test'])
def test_digest_identifies_the_training_images(folder, prepared, name, changes):
    write(folder / name, noise(99))
    assert (load(folder, SHAPE).digest != prepared.digest) == changes


def test_digest_identifies_the_labels(tmp_path):
    write_noise(tmp_path / 'with classes', ['a/0.png', 'b/1.png'])
    write_noise(tmp_path / 'without', ['0.png', '1.png'])
    labelled, unlabelled = (load(tmp_path / name, SHAPE) for name in ('with classes', 'without'))
    assert (labelled.train[0] == unlabelled.train[0]).all() and labelled.digest != unlabelled.digest


def test_a_mapped_array_stays_valid_when_the_folder_changes(folder, prepared):
    write(folder / '03.png', noise(99))
    load(folder, SHAPE)
    assert (prepared.train[0][3] == np.asarray(noise(3))).all()


def test_load_removes_outdated_prepared_files(folder, prepared):
    before = prepared_names(folder)
    (folder / '05.png').unlink()
    load(folder, SHAPE)
    assert len(prepared_names(folder)) == 2 and not set(prepared_names(folder)) & set(before)


def test_load_keeps_prepared_files_of_another_shape(folder, prepared):
    before = prepared_names(folder)
    load(folder, (16, 16, 1))
    assert len(prepared_names(folder)) == 4 and set(before) < set(prepared_names(folder))


@pytest.fixture
def ended_process():
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def part_name(pid):
    return f'prepared_8x8x3_{"0" * 16}.bytes.{pid}.part'


def test_load_removes_the_partial_file_of_a_killed_process(folder, ended_process):
    write(folder / 'a.png')
    (folder / part_name(ended_process)).touch()
    load(folder, SHAPE)
    assert not (folder / part_name(ended_process)).exists()


@pytest.mark.parametrize('name', [part_name(os.getppid()), 'mine.part'], ids=['of a running process', 'of the user'])
def test_load_keeps_a_partial_file(folder, name):
    write(folder / 'a.png')
    (folder / name).touch()
    load(folder, SHAPE)
    assert (folder / name).exists()


def test_load_puts_prepared_files_of_a_read_only_folder_in_the_cache(folder, tmp_path, monkeypatch):
    write(folder / 'a.png')
    access = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: str(path) != str(folder) and access(path, mode))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert len(load(folder, SHAPE).train[0]) == 1
    assert os.listdir(folder) == ['a.png'] and len(list((tmp_path / 'cache' / 'sagan').glob('*own/prepared_*'))) == 2


PROGRAM = '''
import sys
from datasets.image_folder import load
print('ready', flush=True)
sys.stdin.readline()
print(load(sys.argv[1], (8, 8, 3)).digest)
'''


@pytest.mark.slow
def test_several_processes_may_prepare_a_folder_at_once(folder):
    write_noise(folder, [f'{seed:02d}.png' for seed in range(40)])
    processes = [subprocess.Popen([sys.executable, '-c', PROGRAM, folder], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write('\n')
        process.stdin.flush()
    outputs = [process.communicate() for process in processes]
    assert [errors for _, errors in outputs] == [''] * 3
    assert len({output.splitlines()[-1] for output, _ in outputs}) == 1
    assert len(prepared_names(folder)) == 2

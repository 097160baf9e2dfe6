import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from datasets import image_folder
from datasets.image_folder import center_crop_resize, load_image_folder, read_image, split_and_classify
from options import UserError

SHAPE = 8, 8, 3
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
    pixels = read_image(write(tmp_path / 'a.png', image, **options), SHAPE)
    assert pixels.dtype == np.uint8 and pixels.shape == SHAPE
    assert (pixels[:, :4] == left).all() and (pixels[:, 4:] == right).all()


@pytest.mark.parametrize('kind', KINDS)
def test_read_image_converts_every_kind_of_png_to_grey(kind, tmp_path):
    """The luma of ITU-R 601-2."""
    image, options, left, right = KINDS[kind]
    pixels = read_image(write(tmp_path / 'a.png', image, **options), (8, 8, 1))
    luma = np.dot([left, right], [0.299, 0.587, 0.114])
    assert [pixels[0, 0, 0], pixels[0, 7, 0]] == pytest.approx(luma, abs=1)


def test_read_image_converts_cmyk(tmp_path):
    path = write(tmp_path / 'a.jpg', Image.new('CMYK', (16, 16), (255, 0, 0, 0)), quality=95)
    assert np.abs(read_image(path, SHAPE).astype(int) - [0, 255, 255]).max() < 60


@pytest.mark.parametrize('name, options', [('a.png', {}), ('a.webp', {'lossless': True})])
def test_read_image_applies_the_exif_orientation(tmp_path, name, options):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    pixels = read_image(write(tmp_path / name, halves('RGB', RED, GREEN), exif=exif, **options), SHAPE)
    assert (pixels[:4] == RED).all() and (pixels[4:] == GREEN).all()


def test_read_image_uses_the_first_frame(tmp_path):
    path = write(tmp_path / 'a.gif', save_all=True, append_images=[Image.new('RGB', (8, 8), GREEN)])
    assert (read_image(path, SHAPE) == RED).all()


def test_read_image_of_a_large_jpeg_is_close_to_the_original(tmp_path):
    """A JPEG is decoded at a fraction of its size and then resized."""
    smooth = noise(0, 5, 4).resize((640, 480), Image.Resampling.BICUBIC)
    pixels = read_image(write(tmp_path / 'a.jpg', smooth, quality=95), (32, 32, 3))
    assert np.abs(pixels.astype(int) - center_crop_resize(smooth, (32, 32, 3))).max() < 12


@pytest.mark.parametrize('width, height', [(320, 240), (20, 300), (8, 8), (31, 5)])
def test_center_crop_resize_resizes_the_central_square(width, height):
    image = noise(0, width, height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.LANCZOS)
    assert (center_crop_resize(image, (16, 16, 3)) == np.asarray(expected)).all()


def test_center_crop_resize_keeps_the_aspect_ratio():
    """From 20 x 20 pixels the central 15 rows are used for 12 x 16."""
    image = noise(0, 20, 20)
    expected = image.crop((0, 2, 20, 17)).convert('L').resize((16, 12), Image.Resampling.LANCZOS)
    pixels = center_crop_resize(image, (12, 16, 1))
    assert pixels.shape == (12, 16, 1) and (pixels[:, :, 0] == np.asarray(expected)).all()


##################################################################################
# Splits and classes
##################################################################################

def test_load_image_folder_uses_every_tenth_image_for_testing(folder):
    write_noise(folder, [f'{seed:02d}.png' for seed in range(30)])
    content = load_image_folder(folder, SHAPE)
    assert content.num_train == 27
    assert seeds_of(content.images) == [seed for seed in range(30) if seed % 10 != 9] + [9, 19, 29]


def test_load_image_folder_takes_classes_from_folders(folder):
    write_noise(folder, ['b/0.png', 'a/1.png', 'a/deep/2.png'])
    content = load_image_folder(folder, SHAPE)
    assert content.class_names == ['a', 'b']
    assert dict(zip(seeds_of(content.images), content.labels.tolist(), strict=True)) == {0: 1, 1: 0, 2: 0}


def test_load_image_folder_alternates_between_the_classes(folder):
    write_noise(folder, [f'{"abc"[seed % 3]}/{seed:02d}.png' for seed in range(60)])
    paths = sorted(f'{"abc"[seed % 3]}/{seed:02d}' for seed in range(60))
    train = [path for index, path in enumerate(paths) if index % 10 != 9]  # 18 of each class
    expected = [path for turn in range(18) for path in train[turn::18]] + paths[9::20] + paths[19::20]
    content = load_image_folder(folder, SHAPE)
    assert seeds_of(content.images) == [int(path[2:]) for path in expected]
    assert content.labels.tolist() == ['abc'.index(path[0]) for path in expected]


@pytest.mark.parametrize('paths', [['a/0.png', 'b/1.png', 'flat.png'], ['a/0.png', 'a/1.png'], ['0.png', '1.png']],
                         ids=['an image in no class', 'one class', 'no folders'])
def test_load_image_folder_has_no_classes(folder, paths):
    write_noise(folder, paths)
    content = load_image_folder(folder, SHAPE)
    assert (content.labels, content.class_names, len(content.images)) == (None, [], len(paths))


def test_load_image_folder_uses_train_and_test_folders(folder):
    write_noise(folder, ['train/b/0.png', 'train/a/0.png', 'test/b/0.png', 'test/a/0.png'])
    content = load_image_folder(folder, SHAPE)
    assert content.num_train == 2 and seeds_of(content.images) == [1, 0, 3, 2]
    assert content.class_names == ['a', 'b'] and content.labels.tolist() == [0, 1, 0, 1]


def test_load_image_folder_skips_images_beside_train_and_test(folder):
    write_noise(folder, ['train/0.png', 'test/1.png', 'other/2.png', '3.png'])
    content = load_image_folder(folder, SHAPE)
    assert seeds_of(content.images) == [0, 1] and content.num_skipped == 2


def test_load_image_folder_rejects_a_class_without_training_images(folder):
    write_noise(folder, ['train/a/0.png', 'train/b/1.png', 'test/a/2.png', 'test/c/3.png'])
    with pytest.raises(UserError, match="the class 'c' has no training images"):
        load_image_folder(folder, SHAPE)


def test_load_image_folder_has_no_classes_if_a_test_image_has_none(folder):
    write_noise(folder, ['train/a/0.png', 'train/b/1.png', 'test/2.png'])
    assert load_image_folder(folder, SHAPE).labels is None


def test_load_image_folder_trains_on_the_only_image_of_a_class(folder):
    """The position of the image would make it a test image."""
    write_noise(folder, [f'a/{seed}.png' for seed in range(9)] + ['b/0.png'])
    content = load_image_folder(folder, SHAPE)
    assert (content.num_train, content.class_names) == (10, ['a', 'b'])
    assert content.labels.tolist() == [0] * 5 + [1] + [0] * 4


@pytest.mark.parametrize('split', [0, 1])
def test_split_and_classify_spreads_classes_of_different_size_evenly(split):
    names = [f'{name}/{number:02d}' for name, count in (('a', 30), ('b', 10)) for number in range(count)]
    *splits, classes = split_and_classify([f'{name}/{path}' for name in ('train', 'test') for path in names])
    labels = [classes[path] for path in splits[split]]
    assert len(labels) == 40 and all(labels[start:start + 4].count('b') == 1 for start in range(0, 40, 4))


def test_load_image_folder_ignores_classes_without_a_readable_image(folder):
    write_noise(folder, ['a/0.png', 'b/1.png', 'b/2.png', 'c/3.png'])
    (folder / 'b' / '1.png').write_text('not an image')
    (folder / 'c' / '3.png').write_text('not an image')
    content = load_image_folder(folder, SHAPE)
    assert content.class_names == ['a', 'b'] and content.labels.tolist() == [0, 1]


def test_load_image_folder_has_no_classes_if_only_one_is_readable(folder):
    write_noise(folder, ['a/0.png', 'b/1.png'])
    (folder / 'b' / '1.png').write_text('not an image')
    content = load_image_folder(folder, SHAPE)
    assert content.class_names == [] and content.labels is None


##################################################################################
# Files that are not images
##################################################################################

@pytest.mark.parametrize('name', ['plain.png', "it's %s {0}\n.png", 'ÄÖ ☃.PNG', 'a.jpg', 'a.jpeg', 'a.bmp', 'a.webp',
                                  'a.gif', 'folder.png/inside.png'])
def test_load_image_folder_reads_files_by_extension(folder, name):
    write(folder / name)
    content = load_image_folder(folder, SHAPE)
    assert len(content.images) == 1 and content.num_skipped == 0


def test_load_image_folder_reads_names_that_are_not_unicode(folder):
    write(folder / 'a.png').rename(os.fsdecode(os.path.join(os.fsencode(folder), b'\xff.png')))
    assert len(load_image_folder(folder, SHAPE).images) == 1


def test_load_image_folder_decodes_names_of_classes_that_are_not_unicode(folder):
    write_noise(folder, ['a/0.png', 'b/1.png'])
    (folder / 'b').rename(os.fsdecode(os.path.join(os.fsencode(folder), b'b\xff')))
    assert load_image_folder(folder, SHAPE).class_names == ['a', 'b\N{REPLACEMENT CHARACTER}']


def truncated_jpeg(path):
    write(path, noise(0, 64, 64))
    os.truncate(path, path.stat().st_size // 2)


SKIPPED = {
    'notes.txt': lambda path: path.touch(),
    'empty.jpg': lambda path: path.touch(),
    'text.png': lambda path: path.write_text('not an image'),
    'truncated.jpg': truncated_jpeg,
    'large.png': lambda path: write(path, Image.new('1', (101, 100))),
    'tiff.png': lambda path: write(path, format='TIFF'),
    'loop.png': lambda path: path.symlink_to('loop.png')}


@pytest.mark.parametrize('name', SKIPPED)
def test_load_image_folder_skips_what_is_not_an_image(folder, monkeypatch, name):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10000)
    write(folder / 'a.png')
    SKIPPED[name](folder / name)
    content = load_image_folder(folder, SHAPE)
    assert len(content.images) == 1 and content.num_skipped == 1


UNLISTED = {
    'hidden file': lambda folder: write(folder / '.hidden.png'),
    'hidden folder': lambda folder: write(folder / '.git' / 'a.png'),
    'link to a parent': lambda folder: (folder / 'up').symlink_to('.'),
    'pipe': lambda folder: os.mkfifo(folder / 'pipe.png')}


@pytest.mark.parametrize('kind', UNLISTED)
def test_load_image_folder_does_not_list(folder, kind):
    write(folder / 'a.png')
    UNLISTED[kind](folder)
    content = load_image_folder(folder, SHAPE)
    assert len(content.images) == 1 and content.num_skipped == 0


def test_load_image_folder_follows_links_to_other_folders(folder, tmp_path):
    write(tmp_path / 'elsewhere' / 'a.png')
    (folder / 'link').symlink_to(tmp_path / 'elsewhere')
    assert len(load_image_folder(folder, SHAPE).images) == 1


def test_load_image_folder_reports_the_number_of_skipped_files(folder, capsys):
    write(folder / 'a.png')
    for name in 'notes.txt', 'empty.png':
        (folder / name).touch()
    load_image_folder(folder, SHAPE)
    assert capsys.readouterr().out.count(f'Skipped files in {folder}: 2.') == 1


def test_load_image_folder_rejects_a_folder_without_images(folder):
    (folder / 'text.png').write_text('not an image')
    with pytest.raises(UserError, match='own has no training images'):
        load_image_folder(folder, SHAPE)
    assert os.listdir(folder) == ['text.png']


def test_load_image_folder_rejects_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match='nowhere is not a folder'):
        load_image_folder(tmp_path / 'nowhere', SHAPE)


def test_load_image_folder_raises_errors_of_the_system(folder, monkeypatch):
    """System errors may be temporary, so the image is not skipped as damaged."""
    write(folder / 'a.png')
    monkeypatch.setattr(image_folder, 'read_image', lambda path, shape: os.listdir(path))  # ENOTDIR
    with pytest.raises(NotADirectoryError):
        load_image_folder(folder, SHAPE)
    assert os.listdir(folder) == ['a.png']


##################################################################################
# Prepared files
##################################################################################

@pytest.fixture
def prepared(folder, capsys):
    """Prepare a folder of 12 images."""
    write_noise(folder, [f'{seed:02d}.png' for seed in range(12)])
    content = load_image_folder(folder, SHAPE)
    capsys.readouterr()
    return content


@pytest.fixture
def is_prepared_again(folder, prepared, capsys):
    """Return a function that loads the folder and returns whether that prepared it again."""
    def load():
        load_image_folder(folder, SHAPE)
        return 'Preparing' in capsys.readouterr().out
    return load


def prepared_names(folder):
    return sorted(path.name for path in folder.glob('prepared_*'))


def test_load_image_folder_maps_the_images(prepared):
    assert isinstance(prepared.images, np.memmap) and prepared.images.shape == (12, *SHAPE)


def test_load_image_folder_reports_that_it_prepares(folder, capsys):
    write(folder / 'a.png')
    load_image_folder(folder, (8, 16, 3))
    assert capsys.readouterr().out == f'Preparing 1 images of {folder} at 16 x 8 pixels (only once)\n'


def test_load_image_folder_prepares_once(is_prepared_again):
    assert not is_prepared_again()


def test_load_image_folder_returns_the_same_the_second_time(folder, prepared):
    again = load_image_folder(folder, SHAPE)
    assert (again.images == prepared.images).all() and again.digest == prepared.digest


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
def test_load_image_folder_prepares_again_after_a_change(folder, is_prepared_again, change):
    CHANGES[change](folder)
    assert is_prepared_again() and not is_prepared_again()


@pytest.mark.parametrize('damage', [{'class_names': 5}, {'class_names': [5]}, {'labels': 5}, {'labels': [0, 7, 0]},
                                    {'labels': [0]}, {'train': 0}, {'train': 4}, {'count': 'x'}, {'count': 2}])
def test_load_image_folder_prepares_again_after_damage_to_the_metadata(folder, capsys, damage):
    write_noise(folder, ['a/0.png', 'b/1.png', 'c/2.png'])
    load_image_folder(folder, SHAPE)
    path = next(folder.glob('prepared_*.json'))
    metadata = path.read_text()
    path.write_text(json.dumps({**json.loads(metadata), **damage}))
    load_image_folder(folder, SHAPE)
    assert path.read_text() == metadata and capsys.readouterr().out.count('Preparing') == 2


@pytest.mark.parametrize('name, changes', [('03.png', True), ('09.png', False)], ids=['train', 'test'])
def test_digest_identifies_the_training_images(folder, prepared, name, changes):
    write(folder / name, noise(99))
    assert (load_image_folder(folder, SHAPE).digest != prepared.digest) == changes


def test_digest_identifies_the_labels(tmp_path):
    write_noise(tmp_path / 'with classes', ['a/0.png', 'b/1.png'])
    write_noise(tmp_path / 'without', ['0.png', '1.png'])
    contents = [load_image_folder(tmp_path / name, SHAPE) for name in ('with classes', 'without')]
    assert (contents[0].images == contents[1].images).all() and contents[0].digest != contents[1].digest


def test_a_mapped_array_stays_valid_when_the_folder_changes(folder, prepared):
    write(folder / '03.png', noise(99))
    load_image_folder(folder, SHAPE)
    assert (prepared.images[3] == np.asarray(noise(3))).all()


def test_load_image_folder_removes_outdated_prepared_files(folder, prepared):
    before = prepared_names(folder)
    (folder / '05.png').unlink()
    load_image_folder(folder, SHAPE)
    assert len(prepared_names(folder)) == 2 and not set(prepared_names(folder)) & set(before)


def test_load_image_folder_keeps_prepared_files_of_another_shape(folder, prepared):
    before = prepared_names(folder)
    load_image_folder(folder, (16, 16, 1))
    assert len(prepared_names(folder)) == 4 and set(before) < set(prepared_names(folder))


@pytest.fixture
def ended_process():
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def part_name(pid):
    return f'prepared_8x8x3_{"0" * 16}.bytes.{pid}.part'


def test_load_image_folder_removes_the_partial_file_of_a_killed_process(folder, ended_process):
    write(folder / 'a.png')
    (folder / part_name(ended_process)).touch()
    load_image_folder(folder, SHAPE)
    assert not (folder / part_name(ended_process)).exists()


@pytest.mark.parametrize('name', [part_name(os.getppid()), 'mine.part'], ids=['of a running process', 'of the user'])
def test_load_image_folder_keeps_a_partial_file(folder, name):
    write(folder / 'a.png')
    (folder / name).touch()
    load_image_folder(folder, SHAPE)
    assert (folder / name).exists()


def test_load_image_folder_puts_prepared_files_of_a_read_only_folder_in_the_cache(folder, tmp_path, monkeypatch):
    write(folder / 'a.png')
    access = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: str(path) != str(folder) and access(path, mode))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert len(load_image_folder(folder, SHAPE).images) == 1
    assert os.listdir(folder) == ['a.png'] and len(list((tmp_path / 'cache' / 'sagan').glob('*own/prepared_*'))) == 2


PROGRAM = '''
import sys
from datasets.image_folder import load_image_folder
print('ready', flush=True)
sys.stdin.readline()
print(load_image_folder(sys.argv[1], (8, 8, 3)).digest)
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

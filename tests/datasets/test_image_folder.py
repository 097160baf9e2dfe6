import itertools
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from helpers import MAIN
from PIL import Image

from datasets import image_folder as pictures
from datasets.image_folder import center_crop_resize, load_image_folder
from options import UserError

SHAPE = 8, 8, 3
RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def write(path, image=None, **how):
    """Write a picture, red if none is given; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new('RGB', (8, 8), RED)).save(path, **how)
    return path


def noise(seed, width=8, height=8):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, [height, width, 3]).astype(np.uint8))


def halves(mode, left, right):
    """A picture of 8 x 8 whose left half has one value and its right half another."""
    image = Image.new(mode, (8, 8), left)
    image.paste(right, (4, 0, 8, 8))
    return image


def palette(transparency=None):
    image = Image.new('P', (8, 8), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (4, 0, 8, 8))
    return image, {} if transparency is None else {'transparency': transparency}


DEEP = Image.fromarray(np.repeat(np.uint16([[0x0000] * 4 + [0x80ff] * 4]), 8, 0))
KINDS = {
    'rgb': (halves('RGB', RED, GREEN), {}, RED, GREEN),
    'rgba': (halves('RGBA', (*RED, 255), (0, 0, 0, 0)), {}, RED, WHITE),
    'half transparent': (halves('RGBA', (*RED, 255), (0, 0, 0, 128)), {}, RED, (127, 127, 127)),
    'palette': (*palette(), RED, GREEN),
    'palette with a transparent colour': (*palette(1), RED, WHITE),
    'palette with alpha': (*palette(bytes([255, 0])), RED, WHITE),
    'grey': (halves('L', 0, 77), {}, (0, 0, 0), (77, 77, 77)),
    'grey with alpha': (halves('LA', (0, 255), (0, 0)), {}, (0, 0, 0), WHITE),
    'grey with a transparent value': (halves('L', 0, 77), {'transparency': 77}, (0, 0, 0), WHITE),
    '1-bit': (halves('1', 0, 1), {}, (0, 0, 0), WHITE),
    '16-bit': (DEEP, {}, (0, 0, 0), (128,) * 3),
    '16-bit with a transparent value': (DEEP, {'transparency': 0x80ff}, (0, 0, 0), WHITE),
    'rgb with a transparent colour': (halves('RGB', RED, GREEN), {'transparency': GREEN}, RED, WHITE)}


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_png(kind, tmp_path):
    image, how, left, right = KINDS[kind]
    path = write(tmp_path / 'a.png', image, **how)
    pixels = pictures.read_image(path, SHAPE)
    assert pixels.dtype == np.uint8 and pixels.shape == SHAPE
    assert (pixels[:, :4] == left).all() and (pixels[:, 4:] == right).all()
    grey = pictures.read_image(path, (8, 8, 1))
    assert grey[0, 0, 0] == pytest.approx(np.dot(left, [0.299, 0.587, 0.114]), abs=1)


def test_cmyk_and_exif_and_the_first_frame(tmp_path):
    cyan = write(tmp_path / 'a.jpg', Image.new('CMYK', (16, 16), (255, 0, 0, 0)), quality=95)
    assert np.abs(pictures.read_image(cyan, SHAPE).astype(int) - [0, 255, 255]).max() < 60
    image = halves('RGB', RED, GREEN)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    for name in 'a.png', 'a.webp':
        turned = pictures.read_image(write(tmp_path / name, image, exif=exif, **(
            {'lossless': True} if name == 'a.webp' else {})), SHAPE)
        assert (turned[:4] == RED).all() and (turned[4:] == GREEN).all()
    gif = write(tmp_path / 'a.gif', Image.new('RGB', (8, 8), RED), save_all=True,
                append_images=[Image.new('RGB', (8, 8), GREEN)])
    assert (pictures.read_image(gif, SHAPE) == RED).all()


@pytest.mark.parametrize('width, height', [(320, 240), (20, 300), (8, 8), (31, 5)])
def test_the_middle_square_is_cut_out_and_resized(width, height):
    image = noise(0, width, height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.LANCZOS)
    assert (center_crop_resize(image, (16, 16, 3)) == np.asarray(expected)).all()
    assert center_crop_resize(image, (12, 16, 1)).shape == (12, 16, 1)


def test_a_large_jpeg_is_much_like_itself(tmp_path):
    """It is decoded smaller than it is, and then resized."""
    smooth = noise(0, 5, 4).resize((640, 480), Image.Resampling.BICUBIC)
    path = write(tmp_path / 'a.jpg', smooth, quality=95)
    assert np.abs(pictures.read_image(path, (32, 32, 3)).astype(int) - center_crop_resize(smooth, (32, 32, 3))).max() < 12


def test_splits_and_classes(tmp_path, capsys):
    folder = tmp_path / 'own'
    for number in range(60):
        write(folder / 'abc'[number % 3] / 'deep' / f'{number:02d}.png', noise(number))
    found = load_image_folder(folder, SHAPE)
    assert found.class_names == ['a', 'b', 'c'] and found.train == 54 and found.images.shape == (60, *SHAPE)
    names = sorted(f'{"abc"[number % 3]}/{number:02d}' for number in range(60))
    # In each split the classes take turns.
    train = [name for place, name in enumerate(names) if place % 10 != 9]
    order = [name for turn in range(18) for name in train[turn::18]] + names[9::20] + names[19::20]
    assert found.labels.tolist() == ['abc'.index(name[0]) for name in order]
    for name, pixels in zip(order, found.images, strict=True):
        assert (pixels == np.asarray(noise(int(name[2:])))).all()
    assert isinstance(found.images, np.memmap) and 'Preparing 60 pictures' in capsys.readouterr().out

    write(folder / 'flat.png')  # no class: there are none then
    found = load_image_folder(folder, SHAPE)
    assert (found.labels, found.class_names, len(found.images)) == (None, [], 61)


def test_classes_of_different_size_are_spread_evenly():
    names = [f'{name}/{number:02d}' for name, count in (('a', 30), ('b', 10)) for number in range(count)]
    train, test, classes = pictures.arrange([f'{split}/{name}' for split in ('train', 'test') for name in names])
    for split in train, test:
        assert len(split) == 40 and all(sum(classes[name] == 'b' for name in split[start:start + 4]) == 1
                                        for start in range(0, 40, 4))


def test_train_and_test_folders(tmp_path, capsys):
    folder = tmp_path / 'own'
    for number, (split, name) in enumerate(itertools.product(['train', 'test'], ['b', 'a'])):
        write(folder / split / name / '0.png', noise(number))
    write(folder / 'other' / 'a' / '0.png')
    found = load_image_folder(folder, SHAPE)
    assert (found.class_names, found.train, found.labels.tolist()) == (['a', 'b'], 2, [0, 1, 0, 1])
    for pixels, number in zip(found.images, (1, 0, 3, 2), strict=True):
        assert (pixels == np.asarray(noise(number))).all()
    assert capsys.readouterr().out.count('1 files') == 1  # what is beside them
    write(folder / 'test' / 'c' / '0.png')
    with pytest.raises(UserError, match="class 'c' is in test and not in train"):
        load_image_folder(folder, SHAPE)
    (folder / 'test' / 'c' / '0.png').rename(folder / 'test' / 'flat.png')
    assert load_image_folder(folder, SHAPE).labels is None


def test_what_is_no_picture_is_left_out_and_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10000)
    folder = tmp_path / 'own'
    good = [write(folder / name, noise(0)) for name in (
        'plain.png', "it's %s {0}\n.png", 'ÄÖ ☃.PNG', 'x.png/inside.png')]  # a directory called x.png is one
    write(folder / '.hidden.png')
    jpeg = write(folder / 'short.jpg', noise(0, 64, 64))
    os.truncate(jpeg, jpeg.stat().st_size // 2)
    (folder / 'text.png').write_text('no picture')
    (folder / 'empty.jpg').touch()
    (folder / 'notes.txt').touch()
    write(folder / 'large.png', Image.new('1', (101, 100)))
    (folder / 'itself.png').symlink_to('itself.png')
    (folder / 'up').symlink_to('.')
    os.mkfifo(folder / 'pipe.png')
    with open(os.path.join(os.fsencode(folder), b'\xff.png'), 'wb') as file:
        file.write((folder / 'plain.png').read_bytes())
    found = load_image_folder(folder, SHAPE)
    assert len(found.images) == len(good) + 1 and (found.images == np.asarray(noise(0))).all()
    out = capsys.readouterr().out
    assert '6 files in' in out and out.count('left out') == 1
    for path in folder.glob('*.*'):
        if not path.is_dir():
            path.unlink()
    (folder / 'x.png' / 'inside.png').unlink()
    os.unlink(os.path.join(os.fsencode(folder), b'\xff.png')) if os.path.exists(
        os.path.join(os.fsencode(folder), b'\xff.png')) else None
    with pytest.raises(UserError, match='has no picture to train on'):
        load_image_folder(folder, SHAPE)
    assert not list(folder.glob('prepared*'))
    with pytest.raises(UserError, match='is no folder'):
        load_image_folder(tmp_path / 'nowhere', SHAPE)


def test_a_class_has_a_picture_that_can_be_read(tmp_path):
    for name in 'a/1.png', 'b/1.png', 'b/2.png', 'c/1.png':
        write(tmp_path / name, noise(0))
    (tmp_path / 'b' / '1.png').write_text('no picture')
    (tmp_path / 'c' / '1.png').write_text('no picture')
    found = load_image_folder(tmp_path, SHAPE)
    assert found.class_names == ['a', 'b'] and found.labels.tolist() == [0, 1]
    (tmp_path / 'b' / '2.png').unlink()
    found = load_image_folder(tmp_path, SHAPE)
    assert found.class_names == [] and found.labels is None


def test_the_array_is_made_once_and_anew_when_a_file_changes(tmp_path, capsys):
    folder = tmp_path / 'own'
    for number in range(12):
        write(folder / f'{number:02d}.png', noise(number))

    def made():
        found = load_image_folder(folder, SHAPE)
        again = 'Preparing' in capsys.readouterr().out
        assert len(list(folder.glob('prepared_*'))) == 2  # no other size was asked for
        return again, found

    again, first = made()
    assert again
    again, same = made()
    assert not again and (first.images == same.images).all() and first.digest == same.digest
    write(folder / '03.png', noise(99))
    again, other = made()
    assert again and (other.images[3] == np.asarray(noise(99))).all() and other.digest != first.digest
    assert (first.images[3] == np.asarray(noise(3))).all()  # who maps the old one, keeps it
    os.utime(folder / '03.png', (1, 1))
    assert made()[0]
    (folder / '05.png').unlink()
    again, fewer = made()
    assert again and len(fewer.images) == 11
    data, = folder.glob('*.bytes')
    os.truncate(data, 100)
    assert made()[0]
    next(folder.glob('*.json')).write_text('{"count": 3')
    assert made()[0]
    facts = json.loads(next(folder.glob('*.json')).read_text())
    assert facts['count'] == 11 and not made()[0]

    gone = subprocess.Popen(['true'])
    gone.wait()
    left = folder / f'prepared_8x8x3_{"0" * 16}.bytes.{gone.pid}.part'
    kept = [folder / f'prepared_8x8x3_{"0" * 16}.bytes.1.part', folder / 'mine.part']
    for path in (left, *kept):
        path.touch()
    (folder / '06.png').unlink()
    load_image_folder(folder, SHAPE)
    assert not left.exists() and all(path.exists() for path in kept)
    load_image_folder(folder, (16, 16, 1))
    assert len(list(folder.glob('prepared_*.json'))) == 2  # one of each size


def test_two_programs_at_once(tmp_path):
    folder = tmp_path / 'own'
    for number in range(40):
        write(folder / f'{number:02d}.png', noise(number))
    found, barrier = [], threading.Barrier(3)

    def load():
        barrier.wait()
        program = f'import pictures; found = pictures.load_image_folder({str(folder)!r}, (8, 8, 3)); print(found.digest)'
        found.append(subprocess.run([sys.executable, '-c', program], cwd=MAIN.parent, capture_output=True, text=True))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.stderr for one in found] == [''] * 3
    assert len({one.stdout.splitlines()[-1] for one in found}) == 1
    assert len(list(folder.glob('prepared_*'))) == 2


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    folder = tmp_path / 'own'
    write(folder / 'a.png')
    access = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: str(path) != str(folder) and access(path, mode))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert len(load_image_folder(folder, SHAPE).images) == 1
    assert os.listdir(folder) == ['a.png'] and len(list((tmp_path / 'cache' / 'sagan').glob('*own/prepared_*'))) == 2


def test_the_only_picture_of_a_class_is_trained_on(tmp_path):
    folder = tmp_path / 'own'
    for number in range(9):
        write(folder / 'a' / f'{number}.png', noise(number))
    write(folder / 'b' / '0.png', noise(9))  # the tenth by name
    found = load_image_folder(folder, SHAPE)
    assert (found.train, found.class_names, found.labels.tolist()) == (10, ['a', 'b'], [0] * 5 + [1] + [0] * 4)


def test_an_error_of_the_system_is_not_taken_for_a_damaged_picture(tmp_path, monkeypatch):
    folder = tmp_path / 'own'
    write(folder / 'a.png')
    with monkeypatch.context() as patch:
        patch.setattr(pictures, 'read_image', lambda path, shape: os.listdir(path))
        with pytest.raises(OSError):
            load_image_folder(folder, SHAPE)
    assert os.listdir(folder) == ['a.png']
    assert len(load_image_folder(folder, SHAPE).images) == 1


@pytest.mark.parametrize('wrong', [{'class_names': 5}, {'labels': 5}, {'labels': [0, 7, 0]}, {'train': 0},
                                   {'count': 'x'}])
def test_a_damaged_list_is_made_anew(tmp_path, capsys, wrong):
    folder = tmp_path / 'own'
    for name in 'abc':
        write(folder / name / '0.png')
    load_image_folder(folder, SHAPE)
    facts = next(folder.glob('*.json'))
    facts.write_text(json.dumps({**json.loads(facts.read_text()), **wrong}))
    assert load_image_folder(folder, SHAPE).class_names == ['a', 'b', 'c']
    assert capsys.readouterr().out.count('Preparing') == 2

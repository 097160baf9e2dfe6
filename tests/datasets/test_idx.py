import gzip
import os
import shutil

import numpy as np
import pytest

from datasets import idx
from datasets.idx import FILES
from options import UserError

SERVED = {f'{name}.gz': name.encode() * 1000 for name in FILES}


@pytest.fixture
def folder(small_data, tmp_path):
    """Copy the small data set, so that the test can damage it, and return its folder."""
    return shutil.copytree(small_data / 'mnist', tmp_path / 'data' / 'mnist')


def idx_bytes(*shape, fill=3):
    """Return an IDX file of uint8 items: the magic number, the dimensions, the items."""
    return np.array([0x800 + len(shape), *shape], '>u4').tobytes() + bytes([fill]) * int(np.prod(shape))


def flip_a_bit(content):
    return content[:2000] + bytes([content[2000] ^ 4]) + content[2001:]


##################################################################################
# find_mnist
##################################################################################

def test_find_mnist_names_the_folder(small_data):
    assert idx.find_mnist('mnist', str(small_data)) == f'Data set: mnist in {small_data / "mnist"}'


@pytest.mark.parametrize('name', ['mnist', 'fashion-mnist'])
def test_find_mnist_downloads_the_missing_files(serve, monkeypatch, tmp_path, name):
    monkeypatch.setitem(idx.SOURCES, name, serve(SERVED, 'good'))
    idx.find_mnist(name, str(tmp_path))
    assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == SERVED


def test_find_mnist_reports_the_download(serve, monkeypatch, tmp_path):
    monkeypatch.setitem(idx.SOURCES, 'mnist', serve(SERVED, 'good'))
    assert idx.find_mnist('mnist', str(tmp_path)) == f'Data set: mnist, downloaded to {tmp_path / "mnist"}'


def test_find_mnist_keeps_the_files_that_exist(serve, monkeypatch, tmp_path):
    monkeypatch.setitem(idx.SOURCES, 'mnist', serve(SERVED, 'good'))
    (tmp_path / 'mnist').mkdir()
    (tmp_path / 'mnist' / FILES[1]).write_bytes(b'mine')
    idx.find_mnist('mnist', str(tmp_path))
    assert (tmp_path / 'mnist' / FILES[1]).read_bytes() == b'mine'
    assert sorted(os.listdir(tmp_path / 'mnist')) == sorted([*set(SERVED) - {f'{FILES[1]}.gz'}, FILES[1]])


##################################################################################
# load_mnist
##################################################################################

@pytest.mark.parametrize('split, count', [(0, 300), (1, 100)])
def test_load_mnist_returns_images_and_labels_of_a_split(small_data, split, count):
    images, labels = idx.load_mnist('mnist', small_data)[split]
    assert images.shape == (count, 28, 28, 1) and images.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.uint8


def test_load_mnist_reads_the_bytes_after_the_header(small_data):
    (images, labels), _ = idx.load_mnist('mnist', small_data)
    image_bytes, label_bytes = (gzip.decompress((small_data / 'mnist' / f'{name}.gz').read_bytes())
                                for name in FILES[:2])
    assert images.tobytes() == image_bytes[16:] and labels.tobytes() == label_bytes[8:]


@pytest.mark.parametrize('name', FILES)
def test_load_mnist_reads_plain_files(folder, name):
    expected = idx.load_mnist('mnist', folder.parent)
    (folder / name).write_bytes(gzip.decompress((folder / f'{name}.gz').read_bytes()))
    (folder / f'{name}.gz').unlink()
    for a, b in zip(sum(expected, ()), sum(idx.load_mnist('mnist', folder.parent), ()), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize('damage, complaint', [
    (lambda content: content[:-100], 'not a valid gzip file'),
    (flip_a_bit, 'not a valid gzip file'),
    (lambda content: b'hello', 'not a valid gzip file'),
    (lambda content: b'', 'not an IDX file of images'),
    (lambda content: gzip.compress(idx_bytes(300)), 'not an IDX file of images .its magic number is 2049'),
    (lambda content: gzip.compress(idx_bytes(300, 20, 28)), 'another size .20 x 28, not 28 x 28'),
    (lambda content: gzip.compress(idx_bytes(300, 28, 28)[:-1]), '235199 bytes of data, 235200 according'),
    (lambda content: gzip.compress(idx_bytes(300, 28, 28) + b'0'), '235201 bytes of data, 235200 according'),
    (lambda content: gzip.compress(idx_bytes(0, 28, 28)), '0 bytes of data'),
    (lambda content: gzip.compress(idx_bytes(299, 28, 28)), 'train files .* do not match .299 images, 300 labels')],
    ids=['truncated', 'one bit flipped', 'plain text', 'empty', 'labels', 'other size', 'one byte short',
         'one byte too long', 'no images', 'one image fewer'])
def test_load_mnist_reports_damaged_images(folder, damage, complaint):
    path = folder / f'{FILES[0]}.gz'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=complaint) as error:
        idx.load_mnist('mnist', folder.parent)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize('content, complaint', [
    (idx_bytes(100, 28, 28), 'not an IDX file of labels'),
    (idx_bytes(100, fill=10), 'the label 10'),
    (idx_bytes(99), 't10k files .* do not match .100 images, 99 labels')],
    ids=['images', 'label 10', 'one label fewer'])
def test_load_mnist_reports_damaged_labels(folder, content, complaint):
    (folder / f'{FILES[3]}.gz').write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=complaint):
        idx.load_mnist('mnist', folder.parent)


@pytest.mark.parametrize('name', FILES)
def test_load_mnist_reports_a_missing_file(folder, name):
    (folder / f'{name}.gz').unlink()
    with pytest.raises(UserError, match=f'{name}.gz is missing'):
        idx.load_mnist('mnist', folder.parent)

import os

import pytest

from datasets import cifar, idx, sources
from datasets.idx import FILES
from options import SHAPES, UserError

SERVED = {f'{name}.gz': name.encode() * 1000 for name in FILES}


def test_every_built_in_data_set_has_a_shape():
    assert {*sources.FORMATS, 'auto'} == set(SHAPES)


def test_every_built_in_data_set_has_a_source_or_is_drawn():
    assert {*sources.SOURCES, 'digits'} == set(sources.FORMATS)


@pytest.mark.parametrize('name', sources.CLASS_NAMES)
def test_there_are_ten_class_names(name):
    assert len(set(sources.CLASS_NAMES[name])) == 10


@pytest.mark.parametrize('name', ['mnist', 'fashion-mnist'])
def test_complete_downloads_the_missing_files(serve, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sources.SOURCES, name, serve(SERVED, 'good'))
    message = sources.complete(name, str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == SERVED
    assert message == f'{", ".join(SERVED)} downloaded to {tmp_path}'


def test_complete_keeps_the_files_that_exist(serve, monkeypatch, tmp_path):
    monkeypatch.setitem(sources.SOURCES, 'mnist', serve(SERVED, 'good'))
    (tmp_path / FILES[1]).write_bytes(b'mine')
    sources.complete('mnist', str(tmp_path))
    assert (tmp_path / FILES[1]).read_bytes() == b'mine'
    assert sorted(os.listdir(tmp_path)) == sorted([*set(SERVED) - {f'{FILES[1]}.gz'}, FILES[1]])


def test_complete_does_nothing_if_all_files_exist(small_data):
    assert sources.complete('mnist', str(small_data / 'mnist')) == ''


@pytest.mark.parametrize('name', sources.CIFAR_VERSIONS)
def test_complete_downloads_the_archive(serve, monkeypatch, tmp_path, name):
    archive = sources.CIFAR_VERSIONS[name].archive
    monkeypatch.setitem(sources.SOURCES, name, serve({archive: b'content'}, 'good'))
    assert sources.complete(name, str(tmp_path)) == f'{archive} downloaded to {tmp_path}'
    assert (tmp_path / archive).read_bytes() == b'content'


@pytest.mark.parametrize('names', [[cifar.CIFAR10.archive], [*cifar.CIFAR10.train_files, cifar.CIFAR10.test_file]])
def test_complete_downloads_nothing_if_the_files_or_the_archive_exist(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    assert sources.complete('cifar10', str(tmp_path)) == ''


def test_complete_downloads_the_archive_beside_an_incomplete_folder(serve, monkeypatch, tmp_path):
    archive = cifar.CIFAR10.archive
    monkeypatch.setitem(sources.SOURCES, 'cifar10', serve({archive: b'content'}, 'good'))
    (tmp_path / 'data_batch_1.bin').touch()
    assert archive in sources.complete('cifar10', str(tmp_path))


def test_complete_refuses_a_folder_with_the_python_version(tmp_path):
    (tmp_path / 'cifar-10-batches-py').mkdir()
    with pytest.raises(UserError, match='the Python version of CIFAR-10'):
        sources.complete('cifar10', str(tmp_path))


@pytest.fixture
def few_digits(monkeypatch):
    """Draw 20 + 10 digits as the built-in data set."""
    make_digits = sources.make_digits
    monkeypatch.setattr(sources, 'make_digits', lambda folder: make_digits(folder, train=20, test=10))


def test_complete_draws_digits(few_digits, tmp_path):
    assert sources.complete('digits', str(tmp_path)) == f'The built-in digits were written to {tmp_path}'
    assert len(idx.load(str(tmp_path)).train[0]) == 20


def test_complete_draws_digits_again_if_a_file_is_missing(few_digits, tmp_path):
    sources.complete('digits', str(tmp_path))
    (tmp_path / f'{FILES[2]}.gz').unlink()
    sources.complete('digits', str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(SERVED)


@pytest.mark.parametrize('name', ['a.png', 'photos', FILES[0]])
def test_complete_draws_no_digits_beside_other_files(few_digits, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f'digits cannot be written to .* .it holds {name}.: rename .*--dataset'):
        sources.complete('digits', str(tmp_path))
    assert os.listdir(tmp_path) == [name]

import hashlib
import itertools
import ntpath
import shutil
import types

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

import datasets
from datasets import (
    FORMATS,
    Dataset,
    cifar,
    dataset_digest,
    find_dataset,
    idx,
    load_dataset,
    native_shape,
    resize_images,
    saved_name,
    sources,
)
from datasets.dataset import describe
from options import SHAPES, UserError

SERVED = {f'{name}.gz': name.encode() * 1000 for name in idx.FILES}


@pytest.fixture
def few_digits(monkeypatch):
    """Draw 20 + 10 digits as the built-in data set."""
    make_digits = sources.make_digits
    monkeypatch.setattr(sources, 'make_digits', lambda folder: make_digits(folder, train=20, test=10))


@pytest.fixture
def without_mnist(few_digits, serve, monkeypatch):
    """Make MNIST unavailable."""
    monkeypatch.setitem(sources.SOURCES, 'mnist', serve(SERVED, 'absent'))


def write_images(folder):
    """Write 20 grey images of two classes."""
    for number in range(20):
        path = folder / 'ab'[number % 2] / f'{number:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8), 10 * number).save(path)


@pytest.fixture
def own_images(tmp_path):
    """Write images in own/ and return the data_dir."""
    write_images(tmp_path / 'own')
    return tmp_path


@pytest.fixture
def own_arrays(tmp_path):
    """Write 20 images of 8 x 12 as arrays.npz and return the data_dir."""
    images = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones([8, 12], np.uint8)
    np.savez(tmp_path / 'arrays.npz', arr_0=images, arr_1=np.arange(20) % 2)
    return tmp_path


##################################################################################
# find_dataset
##################################################################################

def test_find_dataset_downloads_mnist_for_auto(serve, monkeypatch, tmp_path):
    monkeypatch.setitem(sources.SOURCES, 'mnist', serve(SERVED, 'good'))
    name, message = find_dataset('auto', str(tmp_path))
    assert name == 'mnist' and message.endswith(f'downloaded to {tmp_path / "mnist"}')


def test_find_dataset_draws_digits_for_auto_without_mnist(without_mnist, tmp_path):
    assert find_dataset('auto', str(tmp_path))[0] == 'digits'
    assert len(load_dataset('digits', str(tmp_path)).train[0]) == 20


def test_find_dataset_reports_that_auto_is_not_mnist(without_mnist, tmp_path):
    first, second = find_dataset('auto', str(tmp_path))[1].split('\n')
    assert 'digits were written' in first and second.startswith(f'MNIST is not in {tmp_path} and cannot be')


def test_find_dataset_keeps_digits_that_exist(few_digits, tmp_path):
    find_dataset('digits', str(tmp_path))
    assert find_dataset('digits', str(tmp_path)) == ('digits', '')


def test_find_dataset_draws_no_digits_beside_images(few_digits, tmp_path):
    write_images(tmp_path / 'digits')
    with pytest.raises(UserError, match='digits cannot be written'):
        find_dataset('digits', str(tmp_path))


def test_find_dataset_downloads_nothing_if_there_are_images(tmp_path):
    write_images(tmp_path / 'mnist')
    assert find_dataset('mnist', str(tmp_path)) == ('mnist', '')


@pytest.mark.parametrize('place', ['cifar10', 'cifar10/cifar-10-batches-bin', 'cifar-10-batches-bin'])
def test_find_dataset_finds_cifar10(tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    for name in *cifar.CIFAR10.train_files, cifar.CIFAR10.test_file:
        (tmp_path / place / name).write_bytes(bytes(3073))
    assert find_dataset('cifar10', str(tmp_path)) == ('cifar10', '')
    assert load_dataset('cifar10', str(tmp_path)).train[0].shape == (5, 32, 32, 3)


@pytest.mark.parametrize('words', [['own does not exist'], SHAPES, ['--data_dir']])
def test_find_dataset_reports_a_missing_data_set(tmp_path, words):
    with pytest.raises(UserError) as error:
        find_dataset('own', str(tmp_path))
    assert all(word in str(error.value) for word in words)


def test_find_dataset_names_files_that_it_does_not_read(tmp_path):
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'drawing.eps').touch()
    with pytest.raises(UserError, match='own holds no images, .* .it holds drawing.eps.: put'):
        find_dataset('own', str(tmp_path))


##################################################################################
# Names and locations
##################################################################################

def test_find_dataset_accepts_a_path(own_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for path in f'{tmp_path}/own', '~/own', './own':
        assert find_dataset(path, 'elsewhere') == (f'{tmp_path}/own', '')


def test_saved_name_is_relative_to_data_dir(own_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    relative = f'{tmp_path.name}/own'
    assert [saved_name(name, str(tmp_path)) for name in ('own', relative, f'{tmp_path}/own')] == ['own'] * 3


@pytest.mark.parametrize('name, expected', [
    ('own', 'own'), ('C:\\data\\x\\own', 'x/own'), ('C:/data/own', 'own'), ('D:\\own', 'D:/own')])
def test_saved_name_has_slashes_on_windows(monkeypatch, name, expected):
    monkeypatch.setattr(datasets, 'os', types.SimpleNamespace(path=ntpath, sep='\\'))
    monkeypatch.setattr(datasets, 'find_format', lambda path: path.startswith('D:'))
    assert saved_name(name, 'C:\\data') == expected


@pytest.mark.parametrize('in_data_dir', [True, False])
def test_saved_name_prefers_data_dir_to_the_working_folder(tmp_path, monkeypatch, in_data_dir):
    write_images(tmp_path / 'x' / 'own')
    if in_data_dir:
        write_images(tmp_path / 'data' / 'x' / 'own')
    monkeypatch.chdir(tmp_path)
    assert saved_name('x/own', 'data') == ('x/own' if in_data_dir else f'{tmp_path}/x/own')


def test_find_dataset_prefers_a_folder_to_a_file(own_arrays):
    write_images(own_arrays / 'arrays')
    assert load_dataset('arrays', str(own_arrays), (8, 8, 1)).digest
    assert load_dataset('arrays.npz', str(own_arrays)).train[0].shape == (18, 8, 12, 1)


def test_load_dataset_reads_images_beside_an_npz(own_images):
    np.savez(own_images / 'own' / 'features.npz', np.zeros(3))
    assert len(load_dataset('own', str(own_images), (8, 8, 1)).train[0]) == 18


##################################################################################
# native_shape
##################################################################################

@pytest.mark.parametrize('name', SHAPES)
def test_native_shape_of_a_built_in_data_set_needs_no_files(tmp_path, name):
    assert native_shape(name, str(tmp_path)) == SHAPES[name] and not list(tmp_path.iterdir())


def test_native_shape_of_images_is_64_by_64_by_3(own_images):
    assert native_shape('own', str(own_images)) == (64, 64, 3)


def test_native_shape_of_arrays_is_their_own(own_arrays):
    assert native_shape('arrays', str(own_arrays)) == (8, 12, 1)


##################################################################################
# load_dataset
##################################################################################

def test_load_dataset_returns_the_splits_of_mnist(small_data):
    dataset, expected = load_dataset('mnist', small_data), idx.load(str(small_data / 'mnist'))
    for split in 'train', 'test':
        for actual, array in zip(getattr(dataset, split), getattr(expected, split), strict=True):
            assert (actual == array).all()


def test_load_dataset_returns_images_of_the_shape(small_data):
    dataset = load_dataset('mnist', small_data, (32, 32, 3), limit=5)
    assert dataset.train[0].shape == (5, 32, 32, 3) and dataset.test[0].shape == (5, 32, 32, 3)


def test_load_dataset_limits_each_split(small_data):
    whole, limited = load_dataset('mnist', small_data), load_dataset('mnist', small_data, limit=7)
    for split, expected in (limited.train, whole.train), (limited.test, whole.test):
        assert (split[0] == expected[0][:7]).all() and (split[1] == expected[1][:7]).all()


@pytest.mark.parametrize('name, first', [('mnist', '0'), ('fashion-mnist', 'T-shirt'), ('own', '0')])
def test_load_dataset_names_the_classes_of_a_built_in_data_set(small_data, tmp_path, name, first):
    shutil.copytree(small_data / 'mnist', tmp_path / name)
    assert load_dataset(name, str(tmp_path)).class_names[0] == first


def test_load_dataset_converts_images_in_a_built_in_folder_to_its_native_shape(tmp_path):
    write_images(tmp_path / 'mnist')
    dataset = load_dataset('mnist', str(tmp_path))
    assert dataset.train[0].shape == (18, 28, 28, 1) and dataset.class_names == ('a', 'b')


def test_load_dataset_splits_a_folder_of_images(own_images):
    """Every tenth image by path is a test image: a/18.png and b/19.png."""
    dataset = load_dataset('own', own_images, (8, 8, 1))
    assert len(dataset.train[0]) == 18
    assert dataset.test[0][:, 0, 0, 0].tolist() == [180, 190] and dataset.test[1].tolist() == [0, 1]


def test_load_dataset_ignores_the_limit_for_a_folder(own_images):
    assert len(load_dataset('own', own_images, (8, 8, 1), limit=3).train[0]) == 18


def test_load_dataset_returns_the_classes_of_a_folder(own_images):
    assert load_dataset('own', own_images, (8, 8, 1)).class_names == ('a', 'b')


def test_load_dataset_without_classes_has_no_labels(own_images):
    (own_images / 'own' / 'a' / '00.png').rename(own_images / 'own' / '00.png')
    dataset = load_dataset('own', own_images, (8, 8, 1))
    assert (dataset.train[1], dataset.test[1], dataset.class_names) == (None, None, ())


@pytest.mark.parametrize('name, reading', [('mnist', ()), ('own', ()), ('kmnist', ('IDX files',)),
                                           ('arrays', ('npz file',)), ('fashion-mnist', ('images',))])
def test_load_dataset_marks_what_earlier_versions_read_differently(
        own_images, own_arrays, small_data, tmp_path, name, reading):
    write_images(tmp_path / 'fashion-mnist')
    for folder in 'mnist', 'kmnist':
        shutil.copytree(small_data / 'mnist', tmp_path / folder)
    assert load_dataset(name, str(tmp_path), (8, 8, 1), limit=3).reading == reading


def test_documented_format_is_read(tmp_path, monkeypatch):
    """The module in docs/architecture.md, added to FORMATS."""
    _, text = (ROOT / 'docs' / 'architecture.md').read_text().split(' datasets/npy.py\n')
    lines, _ = text.split(' datasets/__init__.py: import it\n')
    npy = types.ModuleType('npy')
    exec('\n'.join(line.removeprefix('+') for line in lines.splitlines()), vars(npy))
    monkeypatch.setattr('datasets.FORMATS', (*FORMATS, npy))
    images = np.arange(20 * 4 * 6, dtype=np.uint8).reshape(20, 4, 6)
    np.save(tmp_path / 'faces.npy', images)
    assert (load_dataset('faces.npy', str(tmp_path)).test[0] == images[9::10, ..., None]).all()


##################################################################################
# The description
##################################################################################

def test_description_of_arrays(own_arrays):
    assert load_dataset('arrays', str(own_arrays)).description == (
        f'Data set: arrays in {own_arrays}/arrays.npz (npz file): 18 training and 2 test images (every tenth image) of '
        '8 x 12 x 1, 2 classes: 0 (10), 1 (8)')


def test_description_reports_a_conversion(own_arrays):
    _, line = load_dataset('arrays', str(own_arrays), (8, 8, 3)).description.split('\n')
    assert line == 'The images are converted from 8 x 12 x 1'


def described(**values):
    """Return the description of a data set of 2 + 1 images with these values."""
    images = np.zeros([2, 4, 5, 3], np.uint8)
    return describe(Dataset((images, None), (images[:1], None), ())._replace(**values), 'title')


def test_description_is_one_line_without_remarks():
    assert described() == 'title: 2 training and 1 test images of 4 x 5 x 3, no classes'


def test_description_lists_notes_and_files_in_the_second_line():
    _, line = described(notes=('One', 'Two'), left_out=(('a', 'x'), ('b', 'y')), num_left_out=2).split('\n')
    assert line == 'One. Two. Left out: a (x), b (y)'


def test_description_lists_the_first_three_files():
    files = tuple(zip('abcde', itertools.repeat('x')))
    assert described(left_out=files, num_left_out=7).endswith('Left out: a (x), b (x), c (x) and 4 more')


def test_description_lists_the_first_ten_classes():
    images, labels = np.zeros([13, 4, 5, 3], np.uint8), np.array([*range(12), 3])
    text = described(train=(images, labels), class_names=tuple('abcdefghijkl'))
    assert text.endswith('12 classes: a (1), b (1), c (1), d (2), e (1), f (1), g (1), h (1), i (1), j (1) and 2 more')


##################################################################################
# Dataset and dataset_digest
##################################################################################

@pytest.mark.parametrize('labels, class_names, class_counts', [
    (np.array([0, 2, 2], np.uint8), ('a', 'b', 'c', 'd'), (1, 0, 2, 0)), (None, (), ())], ids=['classes', 'no classes'])
def test_class_counts_count_the_training_images_of_each_class(labels, class_names, class_counts):
    split = np.zeros([3, 2, 2, 1], np.uint8), labels
    assert Dataset(split, split, class_names).class_counts == class_counts


def test_of_class_keeps_the_images_of_one_class():
    images, labels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.array([0, 1, 1, 0])
    dataset = Dataset((images, labels), (images[:3], labels[:3]), ('a', 'b')).of_class(1)
    assert [(split.ravel().tolist(), labels.tolist()) for split, labels in (dataset.train, dataset.test)] == [
        ([1, 2], [1, 1]), ([1, 2], [1, 1])]


def test_dataset_digest_is_the_sha256_of_images_and_labels():
    images, labels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), np.array([3, 1, 2], np.uint8)
    dataset = Dataset((images, labels), (images, labels), ())
    assert dataset_digest(dataset) == hashlib.sha256(bytes(range(12)) + bytes([3, 1, 2])).hexdigest()


def test_dataset_digest_without_labels_is_the_sha256_of_the_images():
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    assert dataset_digest(Dataset((images, None), (images, None), ())) == hashlib.sha256(bytes(range(12))).hexdigest()


def test_dataset_digest_prefers_the_known_digest():
    assert dataset_digest(Dataset((None, None), (None, None), (), 'known')) == 'known'


##################################################################################
# resize_images
##################################################################################

@pytest.fixture
def images(small_data):
    """Return ten digits uint8 [10, 28, 28, 1]."""
    return load_dataset('mnist', small_data).test[0][:10]


def test_resize_images_returns_images_of_the_right_shape_unchanged(images):
    assert resize_images(images, (28, 28, 1)) is images


def test_resize_images_pads_28_to_32_pixels_with_black(images):
    padded = resize_images(images, (32, 32, 1))
    expected = np.zeros([10, 32, 32, 1], np.uint8)
    expected[:, 2:30, 2:30] = images
    np.testing.assert_array_equal(padded, expected)


def test_resize_images_repeats_grey_in_all_channels(images):
    np.testing.assert_array_equal(resize_images(images, (28, 28, 3)), np.concatenate([images] * 3, axis=3))


def test_resize_images_uses_lanczos(images):
    large = resize_images(images, (56, 56, 3))
    expected = Image.fromarray(images[5, :, :, 0]).convert('RGB').resize((56, 56), Image.Resampling.LANCZOS)
    assert large.shape == (10, 56, 56, 3) and (large[5] == np.asarray(expected)).all()


def test_resize_images_converts_colour_to_luma():
    """ITU-R 601-2: 0.299 of red."""
    grey = resize_images(np.full([1, 8, 8, 3], [255, 0, 0], np.uint8), (8, 8, 1))
    assert grey.shape == (1, 8, 8, 1) and grey[0, 0, 0, 0] == pytest.approx(0.299 * 255, abs=1)

import hashlib

import numpy as np
import pytest
from PIL import Image

import datasets
from datasets import Dataset, dataset_digest, find_dataset, idx, load_dataset, resize_images
from options import SHAPES, UserError

FILES = {f'{name}.gz': name.encode() * 1000 for name in idx.FILES}


@pytest.fixture
def few_digits(monkeypatch):
    """Draw 20 + 10 digits as the built-in data set."""
    make_digits = idx.make_digits
    monkeypatch.setattr(idx, 'make_digits', lambda folder: make_digits(folder, train=20, test=10))


@pytest.fixture
def without_mnist(few_digits, serve, monkeypatch):
    """Make MNIST unavailable."""
    monkeypatch.setitem(idx.SOURCES, 'mnist', serve(FILES, 'absent'))


@pytest.fixture
def own_images(tmp_path):
    """Write 20 grey images of two classes and return the data_dir."""
    for number in range(20):
        path = tmp_path / 'own' / 'ab'[number % 2] / f'{number:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8), 10 * number).save(path)
    return tmp_path


##################################################################################
# The table
##################################################################################

def test_every_built_in_data_set_has_a_shape():
    assert {*datasets.BUILT_IN, 'auto'} == set(SHAPES)


@pytest.mark.parametrize('name', datasets.BUILT_IN)
def test_every_built_in_data_set_has_ten_class_names(name):
    assert len(set(datasets.CLASS_NAMES[name])) == 10


##################################################################################
# find_dataset
##################################################################################

def test_find_dataset_downloads_mnist_for_auto(serve, monkeypatch, tmp_path):
    monkeypatch.setitem(idx.SOURCES, 'mnist', serve(FILES, 'good'))
    assert find_dataset('auto', str(tmp_path)) == ('mnist', f'Data set: mnist, downloaded to {tmp_path / "mnist"}')


def test_find_dataset_draws_digits_for_auto_without_mnist(without_mnist, tmp_path):
    assert find_dataset('auto', str(tmp_path))[0] == 'digits'
    assert len(idx.load_mnist('digits', str(tmp_path))[0][0]) == 20


def test_find_dataset_reports_that_auto_is_not_mnist(without_mnist, tmp_path):
    first, second = find_dataset('auto', str(tmp_path))[1].split('\n')
    assert first.startswith('Data set: digits') and second.startswith(f'MNIST is not in {tmp_path} and cannot be')


def test_find_dataset_reports_that_digits_are_built_in(few_digits, tmp_path):
    _, message = find_dataset('digits', str(tmp_path))
    assert message == f'Data set: digits, the built-in data set, in {tmp_path / "digits"}'


def test_find_dataset_keeps_digits_that_exist(few_digits, tmp_path):
    find_dataset('digits', str(tmp_path))
    assert find_dataset('digits', str(tmp_path)) == ('digits', f'Data set: digits in {tmp_path / "digits"}')


def test_find_dataset_finds_a_folder_of_images(own_images):
    assert find_dataset('own', str(own_images)) == ('own', f'Data set: the images in {own_images / "own"}')


@pytest.mark.parametrize('words', [['own is not a folder'], SHAPES, ['--data_dir']])
def test_find_dataset_reports_a_missing_folder(tmp_path, words):
    with pytest.raises(UserError) as error:
        find_dataset('own', str(tmp_path))
    assert all(word in str(error.value) for word in words)


##################################################################################
# load_dataset and dataset_digest
##################################################################################

def test_load_dataset_returns_the_splits_of_mnist(small_data):
    dataset = load_dataset('mnist', small_data)
    for split, expected in zip((dataset.train, dataset.test), idx.load_mnist('mnist', small_data), strict=True):
        assert (split[0] == expected[0]).all() and (split[1] == expected[1]).all()


def test_load_dataset_returns_images_of_the_shape(small_data):
    dataset = load_dataset('mnist', small_data, (32, 32, 3), limit=5)
    assert dataset.train[0].shape == (5, 32, 32, 3) and dataset.test[0].shape == (5, 32, 32, 3)


def test_load_dataset_limits_each_split(small_data):
    whole, limited = load_dataset('mnist', small_data), load_dataset('mnist', small_data, limit=7)
    for split, expected in (limited.train, whole.train), (limited.test, whole.test):
        assert (split[0] == expected[0][:7]).all() and (split[1] == expected[1][:7]).all()


def test_load_dataset_splits_a_folder_of_images(own_images):
    """Every tenth image by path is a test image: a/18.png and b/19.png."""
    dataset = load_dataset('own', own_images, (8, 8, 1))
    assert len(dataset.train[0]) == 18
    assert dataset.test[0][:, 0, 0, 0].tolist() == [180, 190] and dataset.test[1].tolist() == [0, 1]


def test_load_dataset_returns_the_classes_of_a_folder(own_images):
    assert load_dataset('own', own_images, (8, 8, 1)).class_names == ('a', 'b')


def test_load_dataset_without_classes_has_no_labels(own_images):
    (own_images / 'own' / 'a' / '00.png').rename(own_images / 'own' / '00.png')
    dataset = load_dataset('own', own_images, (8, 8, 1))
    assert (dataset.train[1], dataset.test[1], dataset.class_names) == (None, None, ())


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
    return idx.load_mnist('mnist', small_data)[1][0][:10]


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

import os

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from datasets import load_dataset
from datasets.digits import make_digits
from datasets.idx import FILES


@pytest.fixture(scope='module')
def digits(small_data):
    """Return 300 images uint8 [N, 28, 28] and their labels."""
    images, labels = load_dataset('mnist', small_data).train
    return images[..., 0], labels


@pytest.fixture(scope='module')
def distances(digits):
    """Return the distances [N, N] between all pairs of images, infinite on the diagonal."""
    flat = digits[0].reshape(300, -1).astype(float)
    distances = cdist(flat, flat)
    np.fill_diagonal(distances, np.inf)
    return distances


def read_digits(folder, **options):
    """Draw digits into a new folder and return the content of its files."""
    folder.mkdir()
    make_digits(str(folder), **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_make_digits_writes_the_four_files(small_data):
    assert sorted(os.listdir(small_data / 'mnist')) == sorted(f'{name}.gz' for name in FILES)


def test_make_digits_gives_the_same_bytes_for_the_same_seed(tmp_path):
    first, second = (read_digits(tmp_path / name, train=30, test=10, seed=5) for name in ('first', 'second'))
    assert first == second


def test_make_digits_gives_different_images_for_a_different_seed(tmp_path):
    first, second = (read_digits(tmp_path / str(seed), train=30, test=10, seed=seed) for seed in (0, 1))
    assert all(first[name] != second[name] for name in first)


@pytest.mark.parametrize('name', FILES)
def test_make_digits_writes_no_time_into_the_gzip_header(small_data, name):
    assert (small_data / 'mnist' / f'{name}.gz').read_bytes()[4:8] == bytes(4)


@pytest.mark.parametrize('split, count', [('train', 30), ('test', 10)])
def test_make_digits_draws_each_class_equally_often(small_data, split, count):
    _, labels = getattr(load_dataset('mnist', small_data), split)
    assert np.bincount(labels).tolist() == [count] * 10


def test_make_digits_draws_more_than_one_chunk(tmp_path):
    read_digits(tmp_path / 'digits', train=1010, test=10)
    images, labels = load_dataset('digits', tmp_path).train
    assert images.shape == (1010, 28, 28, 1) and np.bincount(labels).tolist() == [101] * 10


def test_digits_use_all_grey_levels(digits):
    assert digits[0].min() == 0 and digits[0].max() == 255


def test_digits_are_as_bright_as_mnist(digits):
    """The mean of MNIST is 33, and a fifth of its pixels are not black."""
    images, _ = digits
    assert 25 < images.mean() < 45 and 0.15 < (images > 0).mean() < 0.25


def test_digits_are_as_tall_as_mnist(digits):
    """The digits of MNIST are 20 pixels high."""
    rows = (digits[0].max(axis=2) > 128).sum(axis=1)
    assert 17 < rows.mean() < 22


def test_digits_are_centred(digits):
    images, _ = digits
    assert (images[:, 0] == 0).mean() > 0.95 and (images[:, :, 0] == 0).mean() > 0.95


def test_digits_are_all_different(distances):
    assert distances.min() > 300


def test_digits_are_most_similar_within_a_class(digits, distances):
    _, labels = digits
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.8

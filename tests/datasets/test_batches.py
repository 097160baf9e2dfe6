import contextlib
import threading

import numpy as np
import pytest

from datasets.batches import batch, batches_per_epoch, prefetch, shuffled
from options import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, [64, 4, 6, 3]).astype(np.uint8)
LABELS = np.arange(64)


@pytest.mark.parametrize('count, batch_size, expected', [(64, 32, 2), (95, 32, 2), (32, 32, 1), (100, 1, 100)])
def test_batches_per_epoch_counts_full_batches(count, batch_size, expected):
    assert batches_per_epoch(count, batch_size, 'own') == expected


def test_batches_per_epoch_rejects_a_batch_larger_than_the_data_set():
    with pytest.raises(UserError, match='--batch_size 33 is too large .own has 32 training images'):
        batches_per_epoch(32, 33, 'own')


def test_batch_returns_the_images_of_its_labels():
    images, labels = batch(IMAGES, LABELS, 32, seed=5, number=3)
    np.testing.assert_array_equal(images, np.float32(IMAGES[labels]) / np.float32(255))


def test_batch_returns_float32_in_0_to_1():
    images, _ = batch(np.array([0, 255] * 4, np.uint8).reshape(2, 2, 2, 1), None, 2, seed=0, number=0)
    assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1


def test_batch_divides_as_float32():
    """Check all 256 values in arrays of several sizes, which NumPy may divide with different instructions."""
    for count in 1, 3, 1000:
        images = np.resize(np.arange(256, dtype=np.uint8), [count, 16, 16, 1])
        batch_images, _ = batch(images, None, count, seed=0, number=0)
        assert (batch_images == images.astype(np.float32) / np.float32(255)).all()


def test_batch_without_labels_returns_none():
    assert batch(IMAGES, None, 32, seed=5, number=3)[1] is None


def test_batches_of_an_epoch_hold_each_image_once():
    labels = np.concatenate([batch(IMAGES, LABELS, 16, seed=5, number=number)[1] for number in range(4, 8)])
    assert sorted(labels) == list(range(64))


def test_batches_of_an_epoch_drop_the_remainder():
    labels = np.concatenate([batch(IMAGES, LABELS, 30, seed=5, number=number)[1] for number in range(2)])
    assert len(set(labels)) == 60


@pytest.mark.parametrize('seed, number', [(6, 3), (5, 2), (5, 5)], ids=['seed', 'number', 'epoch'])
def test_batch_depends_on_seed_and_number(seed, number):
    _, labels = batch(IMAGES, LABELS, 32, seed=5, number=3)
    assert (batch(IMAGES, LABELS, 32, seed, number)[1] != labels).any()


def test_batch_does_not_depend_on_earlier_batches():
    expected, _ = batch(IMAGES, LABELS, 32, seed=5, number=3, flip=True)
    batch(IMAGES, LABELS, 16, seed=6, number=9, flip=True)
    assert (batch(IMAGES, LABELS, 32, seed=5, number=3, flip=True)[0] == expected).all()


def flipped_images(seed, number):
    """Return which images of a batch are mirrored by flip, [B]."""
    plain, _ = batch(IMAGES, LABELS, 32, seed, number)
    flipped, _ = batch(IMAGES, LABELS, 32, seed, number, flip=True)
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == plain).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    return mirrored


def test_flip_mirrors_about_half_of_the_images():
    assert 5 < flipped_images(5, 3).sum() < 27  # 16 +- 4 standard deviations


def test_flip_keeps_the_order():
    assert (batch(IMAGES, LABELS, 32, 5, 3, flip=True)[1] == batch(IMAGES, LABELS, 32, 5, 3)[1]).all()


def test_flip_depends_on_seed_and_number():
    assert len({tuple(flipped_images(seed, number)) for seed, number in [(5, 3), (5, 4), (6, 3), (5, 5)]}) == 4


def test_shuffled_is_a_permutation():
    assert sorted(shuffled(0, 0, 300)) == list(range(300))


@pytest.mark.parametrize('seed, epoch', [(1, 0), (0, 1)])
def test_shuffled_depends_on_seed_and_epoch(seed, epoch):
    assert (shuffled(seed, epoch, 300) != shuffled(0, 0, 300)).mean() > 0.9


##################################################################################
# prefetch
##################################################################################

def test_prefetch_yields_the_values_in_order():
    assert list(prefetch(lambda number: number ** 2, 3, 7)) == [9, 16, 25, 36]


def test_prefetch_computes_the_next_value_while_the_caller_uses_one():
    started = [threading.Event() for _ in range(3)]
    with contextlib.closing(prefetch(lambda number: started[number].set(), 0, 3)) as values:
        next(values)
        assert started[1].wait(60)


def test_prefetch_computes_no_more_than_one_value_ahead():
    computed = []
    with contextlib.closing(prefetch(computed.append, 0, 9)) as values:
        next(values)
        next(values)
    assert computed == [0, 1, 2]


def test_prefetch_computes_nothing_after_the_last_value():
    computed = []
    list(prefetch(computed.append, 0, 3))
    assert computed == [0, 1, 2]


def test_prefetch_computes_nothing_before_the_first_value_is_requested():
    computed = []
    prefetch(computed.append, 0, 9).close()
    assert computed == []


def test_prefetch_raises_an_exception_when_its_value_is_due():
    values = prefetch(lambda number: 1 / (2 - number), 0, 4)
    assert [next(values), next(values)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(values)


@pytest.mark.parametrize('count', [0, 1, 3])
def test_prefetch_leaves_no_thread(count):
    before = threading.enumerate()
    with contextlib.closing(prefetch(abs, 0, 3)) as values:
        for _ in range(count):
            next(values)
    assert threading.enumerate() == before

"""The augmentation of images, compared with NumPy in the range [-1, 1] of the published code."""

import numpy as np
import pytest
from tiny_gan import TinyGAN, open_model

import SAGAN as module
from distributed.cluster import Cluster
from tf1 import tf
from training.augment import NUM_RANDOM, augment, cutout, random_integer, translate

LAST = 1 - 2 ** -23  # the largest random number
SHAPE = 12, 17, 3  # 1/8 of 12 and half of 17 are not whole numbers


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def published(image, numbers):
    """Augment one image [H, W, C] in [-1, 1] as in DiffAugment_tf.py of Zhao et al. 2020."""
    height, width, _ = image.shape
    brightness, saturation, contrast, down, right, top, left = numbers
    image = image + brightness - 0.5
    mean = image.mean(2, keepdims=True)
    image = (image - mean) * saturation * 2 + mean
    image = (image - image.mean()) * (contrast + 0.5) + image.mean()

    def shift(number, size):
        largest = int(size * 0.125 + 0.5)
        return int(number * (2 * largest + 1)) - largest

    down, right = shift(down, height), shift(right, width)
    moved = np.zeros_like(image)
    for row in range(max(0, down), min(height, height + down)):
        for column in range(max(0, right), min(width, width + right)):
            moved[row, column] = image[row - down, column - right]

    def box(number, size):
        length = int(size * 0.5 + 0.5)
        first = int(number * (size + 1 - length % 2)) - length // 2
        return np.clip(np.arange(first, first + length), 0, size - 1)

    moved[np.ix_(box(top, height), box(left, width))] = 0
    return moved


@pytest.mark.parametrize('channels', [1, 3])
def test_augment_equals_the_published_code_in_its_range(sess, rng, channels):
    images, numbers = rng.random([40, *SHAPE[:2], channels]), rng.random([40, NUM_RANDOM])
    augmented = sess.run(augment(tf.constant(images, tf.float32), tf.constant(numbers, tf.float32)))
    expected = [(published(2 * image - 1, row) + 1) / 2 for image, row in zip(images, numbers, strict=True)]
    np.testing.assert_allclose(augmented, expected, atol=1e-5)


def test_augment_keeps_the_static_shape(sess):
    images = tf.placeholder(tf.float32, [None, *SHAPE])
    assert augment(images, tf.placeholder(tf.float32, [None, NUM_RANDOM])).shape.as_list() == [None, *SHAPE]


def test_augment_passes_the_gradient_of_each_image(sess, rng):
    """augment is affine in the images, so the gradient predicts the change of the score up to rounding."""
    images, change, weights = (tf.constant(rng.random([20, *SHAPE]), tf.float32) for _ in range(3))
    numbers = tf.constant(rng.random([20, NUM_RANDOM]), tf.float32)

    def score(x):
        return tf.reduce_sum(augment(x, numbers) * weights, [1, 2, 3])  # [20]

    gradient, = tf.gradients(score(images), images)
    predicted, difference = sess.run([tf.reduce_sum(gradient * change, [1, 2, 3]),
                                      score(images + change) - score(images)])
    np.testing.assert_allclose(predicted, difference, rtol=1e-4, atol=1e-2)
    assert abs(predicted).min() > 1


def ramp():
    """Return an image [1, 16, 24, 1] whose pixels differ."""
    return np.arange(16 * 24, dtype=np.float32).reshape(1, 16, 24, 1)


def number(value):
    return tf.constant(value, tf.float32, [1, 1, 1, 1])


def test_translate_shifts_by_at_most_an_eighth_of_height_and_width(sess):
    moved = sess.run(translate(tf.constant(ramp()), number(LAST), number(0)))
    expected = np.full([1, 16, 24, 1], 0.5)
    expected[:, 2:, :-3] = ramp()[:, :-2, 3:]
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize('top, left, rows, columns', [
    (0, 0, slice(0, 4), slice(0, 6)), (0.5, 0.5, slice(4, 12), slice(6, 18)),
    (LAST, LAST, slice(12, 16), slice(18, 24))])
def test_cutout_fills_a_box_that_may_be_partly_outside(sess, top, left, rows, columns):
    expected = ramp()
    expected[:, rows, columns] = 0.5
    np.testing.assert_array_equal(sess.run(cutout(tf.constant(ramp()), number(top), number(left))), expected)


def test_random_integer_is_uniform_and_includes_both_ends(sess):
    numbers = (np.arange(7000) + 0.5) / 7000
    values = sess.run(random_integer(tf.constant(numbers, tf.float32), -3, 3))
    np.testing.assert_array_equal(np.unique(values, return_counts=True), [np.arange(-3, 4), np.full(7, 1000)])


##################################################################################
# In a model
##################################################################################

IMAGE = 8, 8, 1


@pytest.fixture
def augmented(sess, rng):
    """A function that returns images [4, 8, 8, 1] as D sees them, or the share of a worker if a cluster is given."""
    images = rng.random([4, *IMAGE]).astype(np.float32)

    def run(draw=0, batch_number=0, seed=0, cluster=None):
        cluster = cluster or Cluster()
        model = TinyGAN(sess, image_shape=IMAGE, classes=0, augment=True, seed=seed, cluster=cluster)
        model.batch_number = tf.constant(batch_number)
        return sess.run(model.augmented(cluster.local_shard(tf.constant(images)), draw))
    return run


def test_augmented_images_depend_only_on_seed_and_batch(augmented):
    np.testing.assert_array_equal(augmented(batch_number=5, seed=3), augmented(batch_number=5, seed=3))


@pytest.mark.parametrize('change', [dict(draw=1), dict(batch_number=1), dict(seed=1)], ids=str)
def test_augmented_images_differ_between_draws_batches_and_seeds(augmented, change):
    assert (augmented() != augmented(**change)).any((1, 2, 3)).all()


def test_equal_images_of_a_batch_are_augmented_differently(sess):
    model = TinyGAN(sess, image_shape=IMAGE, classes=0, augment=True)
    model.batch_number = tf.constant(0)
    first, second = sess.run(model.augmented(tf.constant(np.full([2, *IMAGE], 0.3, np.float32)), 0))
    assert (first != second).any()


def test_augmented_images_of_a_worker_are_its_rows_of_the_batch(augmented):
    second_worker = Cluster(['first:1', 'second:1'], 1)
    np.testing.assert_array_equal(augmented(cluster=second_worker), augmented()[2:])


def test_images_without_augment_are_unchanged(sess):
    images = tf.zeros([4, *IMAGE])
    assert TinyGAN(sess, image_shape=IMAGE, classes=0).augmented(images, 0) is images


@pytest.fixture(scope='module')
def blind(tmp_path_factory):
    """One step of a model with a penalty, whose augmentation replaces each image with zeros.

    Returns (losses, weights of G before the step, weights of G after it).
    """
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'augment', lambda images, numbers: 0 * images)
        with open_model(TinyGAN, image_shape=IMAGE, classes=0, augment=True, gan_type='r1', batch_size=4,
                        z_dim=3, ema=0., checkpoint_dir=str(tmp_path_factory.mktemp('blind'))) as model:
            weights = tf.trainable_variables('generator/')
            before = model.sess.run(weights)
            losses = model.train_batch([(rng.random([4, *IMAGE]), rng.uniform(-1, 1, [4, 3]))], 0)
            return losses, before, model.sess.run(weights)


@pytest.mark.slow
def test_d_sees_real_and_generated_images_only_after_augmentation(blind):
    """With images of zeros, D's output is the same for real and generated images."""
    losses, _, _ = blind
    assert losses['d_real'] == losses['d_fake']


@pytest.mark.slow
def test_g_is_trained_through_augmentation(blind):
    """If augmentation removes the image, then G gets no gradient."""
    _, before, after = blind
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.slow
def test_penalty_is_on_the_gradient_with_respect_to_the_images_before_augmentation(blind):
    losses, _, _ = blind
    assert losses['d_penalty'] == pytest.approx(0, abs=1e-9)

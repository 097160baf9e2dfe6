"""Class-conditional models: the projection in the discriminator, and images of the requested classes."""

import numpy as np
import pytest
from helpers import SMALL, randomize

from SAGAN import SAGAN
from tf1 import tf


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_labels_add_the_projection_to_the_logit(sess, rng):
    model = SAGAN(sess, image_shape=SMALL, classes=10, conditional=True)
    x, labels = tf.constant(rng.random([5, *SMALL]), tf.float32), [3, 0, 9, 3, 1]
    _, logit, features = model.discriminator(x, False, labels=tf.constant(labels))
    _, plain_logit, _ = model.discriminator(x, False, reuse=True)
    vectors = randomize(sess, rng, 0.1)['discriminator/d_embedding/w'][labels]
    logit, plain_logit, features = sess.run([logit, plain_logit, features])
    np.testing.assert_allclose(logit - plain_logit, (features * vectors).sum(1, keepdims=True), rtol=1e-3, atol=1e-3)


HALVES = [np.s_[:6], np.s_[6:], np.s_[:, :6], np.s_[:, 6:]]  # top, bottom, left, right


@pytest.fixture(scope='module')
def halves_model():
    """A model trained on four classes of images: bright at the top, at the bottom, on the left or on the right."""
    with tf.Graph().as_default(), tf.Session() as sess:
        model = SAGAN(sess, image_shape=(12, 12, 1), classes=4, batch_size=32, conditional=True, g_lr=0.002)
        model.build_model()
        sess.run(tf.global_variables_initializer())
        rng = np.random.default_rng(0)
        for step in range(120):
            labels = rng.integers(0, 4, 32)
            images = rng.uniform(0, 0.24, [32, 12, 12, 1])
            for image, label in zip(images, labels, strict=True):
                image[HALVES[label]] += 0.6
            z_labels = rng.integers(0, 4, 32)
            model.train_batch([(images, model.draw_z(32, step), labels, z_labels)], step)
        yield model


@pytest.mark.slow
def test_conditional_model_generates_the_requested_classes(halves_model):
    labels = np.repeat(np.arange(4), 50)
    images = halves_model.sample(halves_model.draw_z(200, 5), labels)
    brightness = np.array([[image[half].mean() for half in HALVES] for image in images])
    assert (brightness.argmax(1) == labels).mean() >= 0.9


@pytest.mark.slow
def test_conditional_model_without_labels_generates_each_class_in_turn(halves_model):
    z = halves_model.draw_z(6, 6)
    np.testing.assert_array_equal(halves_model.sample(z), halves_model.sample(z, [0, 1, 2, 3, 0, 1]))

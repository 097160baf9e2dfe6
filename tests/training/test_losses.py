import contextlib
from unittest import mock

import numpy as np
import pytest
from helpers import SMALL, randomize
from scipy.special import expit

from distributed.cluster import Cluster
from ops import conv2d, linear, update_u
from SAGAN import SAGAN
from tf1 import tf
from training import losses
from training.losses import OBJECTIVES
from training.precision import BFLOAT16_GRADIENTS

LOGITS = np.array([[-2.5], [-0.6], [0.3], [1.7]])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def relu(x):
    return np.maximum(x, 0)


##################################################################################
# Losses
##################################################################################

GAN = lambda x: -np.log(expit(x)), lambda x: -np.log(expit(-x)), lambda x: -np.log(expit(x))  # noqa: E731
WGAN = lambda x: -x, lambda x: x, lambda x: -x  # noqa: E731
CLOSED_FORMS = {  # of D on a real logit, of D on a fake logit, of G
    'gan': GAN,
    'lsgan': (lambda x: (x - 1) ** 2, lambda x: x ** 2, lambda x: (x - 1) ** 2),
    'hinge': (lambda x: relu(1 - x), lambda x: relu(1 + x), lambda x: -x),
    'wgan-gp': WGAN,
    'wgan-lp': WGAN,
    'dragan': GAN,
    'r1': GAN}


def losses_of(name, real_logits, fake_logits):
    """Return the terms of D's loss, real and fake, and G's loss."""
    objective = OBJECTIVES[name]
    return [*objective.d_loss(real_logits, fake_logits), objective.g_loss(fake_logits)]


@pytest.mark.parametrize('name', OBJECTIVES)
def test_losses_equal_their_closed_forms(sess, name):
    real, fake = LOGITS, LOGITS[::-1] + 0.1
    values = sess.run(losses_of(name, tf.constant(real, tf.float32), tf.constant(fake, tf.float32)))
    on_real, on_fake, of_generator = CLOSED_FORMS[name]
    assert values == pytest.approx([on_real(real).mean(), on_fake(fake).mean(), of_generator(fake).mean()], rel=1e-5)


@pytest.mark.parametrize('term', range(3), ids=['d_real', 'd_fake', 'g'])
@pytest.mark.parametrize('name', OBJECTIVES)
def test_loss_gradients_equal_finite_differences_of_their_closed_forms(sess, name, term):
    logits = tf.constant(LOGITS, tf.float32)
    gradient, = tf.gradients(losses_of(name, logits, logits)[term], logits)
    closed_form = CLOSED_FORMS[name][term]
    differences = (closed_form(LOGITS + 1e-5) - closed_form(LOGITS - 1e-5)) / 2e-5 / len(LOGITS)
    np.testing.assert_allclose(sess.run(gradient), differences, rtol=1e-4, atol=1e-6)


def test_sigmoid_loss_of_large_logits_is_finite(sess):
    assert sess.run(losses.sigmoid_loss(tf.constant([[-1000.]]), 1.)) == pytest.approx(1000)


@pytest.mark.parametrize('name', ['gan', 'lsgan', 'hinge', 'wgan-gp', 'wgan-lp', 'dragan', 'r1'])
def test_probability_is_set_only_for_the_cross_entropy_losses(name):
    assert OBJECTIVES[name].probability == (CLOSED_FORMS[name] is GAN)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_chance_loss_is_the_lowest_d_loss_with_the_same_logit_for_all_images(name):
    logits = np.linspace(-30, 30, 60001)
    on_real, on_fake, _ = CLOSED_FORMS[name]
    if on_real(logits).min() + on_fake(logits).min() == pytest.approx(0, abs=1e-6):  # D can win
        assert OBJECTIVES[name].chance_loss == pytest.approx((on_real(logits) + on_fake(logits)).min(), rel=1e-5)
    else:
        assert OBJECTIVES[name].chance_loss is None


##################################################################################
# Penalties
##################################################################################

PENALTIES = {name: objective.penalty for name, objective in OBJECTIVES.items() if objective.penalty}
KEY, ONE_WORKER = [3, 8], Cluster()


def random_images(seed, count=4):
    return tf.constant(np.random.default_rng(seed).random([count, *SMALL]), tf.float32)


def linear_penalty(name, w):
    """Return the penalty of the discriminator <w, x>, whose gradient is w at every image."""
    return PENALTIES[name](lambda x: tf.reduce_sum(x * w, [1, 2, 3])[:, None], random_images(0), random_images(1), KEY,
                           ONE_WORKER)


@pytest.mark.parametrize('name, norm, expected', [
    ('wgan-gp', 0.3, 0.49), ('wgan-gp', 2.5, 2.25), ('wgan-lp', 0.3, 0), ('wgan-lp', 2.5, 2.25),
    ('dragan', 0.3, 0.49), ('dragan', 2.5, 2.25), ('r1', 0.3, 0.045), ('r1', 2.5, 3.125)])
def test_penalty_of_a_linear_discriminator_equals_its_closed_form(sess, rng, name, norm, expected):
    """The penalty is (|w| - 1)^2. For wgan-lp, it is 0 if |w| < 1. For r1, it is |w|^2 / 2."""
    w = rng.normal(size=SMALL)
    penalty = linear_penalty(name, tf.constant(norm * w / np.linalg.norm(w), tf.float32))
    assert sess.run(penalty) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('name', PENALTIES)
def test_penalty_gradient_is_finite_where_the_discriminator_is_constant(sess, name):
    w = tf.zeros(SMALL)
    gradient, = tf.gradients(linear_penalty(name, w), w)
    assert np.isfinite(sess.run(gradient)).all()


@pytest.fixture
def interpolation(sess):
    """(real, fake, points, t): 500 pairs of images, the points between them, and their positions t in [0, 1]."""
    images = random_images(0, 500), random_images(1, 500)
    real, fake, points = sess.run([*images, losses.interpolate(*images, KEY, ONE_WORKER)])
    t = ((points - real) * (fake - real)).sum((1, 2, 3)) / ((fake - real) ** 2).sum((1, 2, 3))  # [500]
    return real, fake, points, t


def test_interpolate_returns_points_on_the_line_of_each_pair(interpolation):
    real, fake, points, t = interpolation
    np.testing.assert_allclose(points, real + t[:, None, None, None] * (fake - real), atol=1e-5)


def test_interpolate_returns_uniform_points(interpolation):
    *_, t = interpolation
    np.testing.assert_allclose(np.quantile(t, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.05)


@pytest.mark.parametrize('key, is_same', [(KEY, True), ([3, 10], False), ([4, 8], False)])
def test_interpolate_depends_on_its_key(sess, interpolation, key, is_same):
    points = sess.run(losses.interpolate(random_images(0, 500), random_images(1, 500), key, ONE_WORKER))
    assert (points == interpolation[2]).mean() == (1 if is_same else pytest.approx(0, abs=0.1))


def quadratic_r1(cluster):
    """Return r1 of the discriminator |x|^2 / 2, whose gradient at x is x."""
    return losses.r1(lambda x: tf.reduce_sum(x ** 2, [1, 2, 3])[:, None] / 2, random_images(0), None, KEY, cluster)


def test_r1_is_half_the_mean_squared_gradient_norm_at_the_real_images(sess):
    real = np.random.default_rng(0).random([4, *SMALL])
    assert sess.run(quadratic_r1(ONE_WORKER)) == pytest.approx((real ** 2).sum() / 4 / 2, rel=1e-5)


def test_r1_of_a_worker_uses_its_share_of_the_real_images(sess):
    share = np.random.default_rng(0).random([4, *SMALL])[2:]
    second_worker = Cluster(['first:1', 'second:1'], 1)
    assert sess.run(quadratic_r1(second_worker)) == pytest.approx((share ** 2).sum() / 2 / 2, rel=1e-5)


@pytest.fixture
def dragan(sess, rng):
    """(real, points, scale): 300 images, the images that dragan makes from them, and the scale [300] of the noise."""
    real, calls = rng.uniform(0.25, 0.75, [300, *SMALL]).astype(np.float32), []

    def logits_of(x):
        calls.append(x)
        return tf.reduce_sum(x, [1, 2, 3])[:, None]

    losses.dragan(logits_of, tf.constant(real), None, KEY, ONE_WORKER)
    points = sess.run(calls[0])
    return real, points, (points - real).max((1, 2, 3)) / (0.5 * real.std())  # the largest noise value is near 1


def test_dragan_scales_the_noise_of_each_image_by_a_uniform_number(dragan):
    *_, scale = dragan
    np.testing.assert_allclose(np.quantile(scale, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.07)


def test_dragan_adds_uniform_noise_to_each_pixel(dragan):
    real, points, scale = dragan
    noise = (points - real) / (0.5 * real.std() * scale[:, None, None, None])
    np.testing.assert_allclose(np.quantile(noise, [0, 0.25, 0.5, 0.75, 1]), [0, 0.25, 0.5, 0.75, 1], atol=0.02)


def test_dragan_draws_scale_and_noise_independently(dragan):
    real, points, scale = dragan
    noise = ((points - real)[0] / scale[0]).ravel()
    assert abs(np.corrcoef(noise, scale[:len(noise)])[0, 1]) < 0.3


def test_dragan_clips_the_points_to_the_range_of_images(sess):
    calls = []
    real = np.concatenate([np.zeros([50, *SMALL]), np.ones([50, *SMALL])])
    losses.dragan(lambda x: calls.append(x) or tf.reduce_sum(x, [1, 2, 3])[:, None], tf.constant(real, tf.float32),
                  None, KEY, ONE_WORKER)
    points = sess.run(calls[0])
    assert points.min() >= 0 and points.max() == 1


@pytest.mark.parametrize('sn', [False, True])
def test_penalty_gradient_equals_finite_differences(sess, rng, sn):
    """Softplus and average pooling have no kinks, so the penalty changes along a direction as its gradient predicts."""
    def logits_of(x):
        with tf.variable_scope('d', reuse=tf.AUTO_REUSE):
            y = tf.nn.softplus(conv2d(x, 6, 3, 3, 2, 2, name='conv', sn=sn))
            y = tf.reshape(tf.nn.avg_pool2d(y, 2, 2, 'VALID'), [-1, 3 * 4 * 6])
            return linear(tf.nn.softplus(linear(y, 5, 'fc', sn=sn)), 1, 'out', sn=sn)

    with sess.graph.gradient_override_map(BFLOAT16_GRADIENTS):
        penalty = losses.wgan_gp(logits_of, random_images(0), random_images(1), KEY, ONE_WORKER)
    weights = [v for v in tf.trainable_variables() if v.shape.ndims > 1]
    gradients = tf.gradients(penalty, weights)
    sess.run(tf.global_variables_initializer())
    start = [rng.normal(size=v.shape) for v in weights]
    for v, value in zip(weights, start, strict=True):
        v.load(value, sess)
    step = update_u(tf.global_variables())
    for _ in range(200 if sn else 0):  # at the singular vectors, sigma has the same derivative as with u and v fixed
        sess.run(step)
    for v, value, gradient in zip(weights, start, sess.run(gradients), strict=True):
        direction = rng.normal(size=gradient.shape)
        penalties = []
        for distance in 0.01, -0.01:
            v.load(value + distance * direction, sess)
            penalties.append(sess.run(penalty))
        v.load(value, sess)
        assert (penalties[0] - penalties[1]) / 0.02 == pytest.approx((gradient * direction).sum(), rel=0.01, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('name', PENALTIES)
def test_penalty_gradient_equals_that_of_tensorflow(sess, rng, name):
    """The gradient passes through lrelu, max pooling and attention."""
    model = SAGAN(sess, image_shape=SMALL, gan_type=name, attention='paper')

    def gradients(reuse):
        penalty = PENALTIES[name](lambda x: model.discriminator(x, reuse=reuse)[1], random_images(0), random_images(1),
                                  KEY, ONE_WORKER)
        return [gradient for gradient in tf.gradients(penalty, tf.trainable_variables()) if gradient is not None]

    with sess.graph.gradient_override_map(BFLOAT16_GRADIENTS):
        registered = gradients(reuse=False)
    with mock.patch.object(tf.Graph, 'gradient_override_map', lambda *args: contextlib.nullcontext()):
        expected = gradients(reuse=True)
    randomize(sess, rng, 0.1)
    registered, expected = sess.run([registered, expected])
    assert len(expected) > 8
    largest = max(abs(gradient).max() for gradient in expected)
    for gradient, value in zip(registered, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-4, atol=1e-5 * largest)

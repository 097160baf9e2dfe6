from unittest import mock

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import SMALL
from scipy.special import expit

from distributed.cluster import Cluster
from ops import conv2d, linear, move
from SAGAN import SAGAN
from training import losses
from training.losses import OBJECTIVES
from training.precision import BFLOAT16_GRADIENTS, session_config

LOGIT = np.array([[-2.5], [-0.6], [0.3], [1.7]])


def relu(x):
    return np.maximum(x, 0)


CLOSED_FORMS = {  # D on real, D on fake, G
    'gan': (lambda x: -np.log(expit(x)), lambda x: -np.log(expit(-x)), lambda x: -np.log(expit(x))),
    'lsgan': (lambda x: (x - 1) ** 2, lambda x: x ** 2, lambda x: (x - 1) ** 2),
    'hinge': (lambda x: relu(1 - x), lambda x: relu(1 + x), lambda x: -x),
    'wgan-gp': (lambda x: -x, lambda x: x, lambda x: -x)}
CLOSED_FORMS.update({'wgan-lp': CLOSED_FORMS['wgan-gp'], 'dragan': CLOSED_FORMS['gan']})


@pytest.mark.parametrize('name', OBJECTIVES)
def test_loss_is_its_closed_form_and_so_is_its_gradient(sess, name):
    logit = tf.placeholder(tf.float32, [None, 1])
    for loss, expected in zip(OBJECTIVES[name].loss(logit), CLOSED_FORMS[name], strict=True):
        value, gradient = sess.run([loss, tf.gradients(loss, logit)[0]], {logit: LOGIT})
        assert value == pytest.approx(expected(LOGIT).mean(), rel=1e-5)
        differences = (expected(LOGIT + 1e-5) - expected(LOGIT - 1e-5)) / 2e-5 / len(LOGIT)
        np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)
    assert OBJECTIVES[name].probability == (name in ('gan', 'dragan'))


##################################################################################
# Penalties
##################################################################################

def images(seed, count=4):
    return tf.constant(np.random.default_rng(seed).random([count, *SMALL]), tf.float32)


PENALTIES = {name: objective.penalty for name, objective in OBJECTIVES.items() if objective.penalty}
KEY, ALONE = [3, 8], Cluster().mine


@pytest.mark.parametrize('length', [0.3, 2.5])
@pytest.mark.parametrize('name', PENALTIES)
def test_penalty_of_a_linear_discriminator(sess, name, length):
    """Its gradient is its weight at every image: the penalty is (|w| - 1)^2, or 0 where only more than 1 is bad."""
    w = np.random.default_rng(1).normal(size=SMALL)
    w = tf.Variable(length * w / np.linalg.norm(w), dtype=tf.float32)
    penalty = PENALTIES[name](lambda x: tf.reduce_sum(x * w, [1, 2, 3])[:, None], images(0), images(1), KEY, ALONE)
    sess.run(tf.global_variables_initializer())
    expected = 0 if name == 'wgan-lp' and length < 1 else (length - 1) ** 2
    assert sess.run(penalty) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('name', PENALTIES)
def test_penalty_of_a_constant_discriminator_has_a_finite_gradient(sess, name):
    w = tf.Variable(np.zeros(SMALL), dtype=tf.float32)
    penalty = PENALTIES[name](lambda x: tf.reduce_sum(x * w, [1, 2, 3])[:, None], images(0), images(1), KEY, ALONE)
    gradient, = tf.gradients(penalty, w)
    sess.run(tf.global_variables_initializer())
    assert sess.run(penalty) == pytest.approx(0 if name == 'wgan-lp' else 1, abs=1e-4)
    assert np.isfinite(sess.run(gradient)).all()


def test_points_between_have_one_share_an_image(sess):
    real, fake = sess.run([images(0, 500), images(1, 500)])
    points, again, other = (sess.run(losses.between(real, fake, key, ALONE)) for key in (KEY, KEY, [3, 10]))
    share = ((points - real) * (fake - real)).sum((1, 2, 3)) / ((fake - real) ** 2).sum((1, 2, 3))  # [500]
    np.testing.assert_allclose(points, real + share[:, None, None, None] * (fake - real), atol=1e-5)
    assert 0 <= share.min() < 0.02 and 0.98 < share.max() <= 1 and abs(share.mean() - 0.5) < 0.05
    assert (points == again).all() and (points != other).mean() > 0.9


def test_points_of_dragan_are_around_the_real_images(sess):
    seen, real = [], np.random.default_rng(0).random([300, *SMALL]).astype(np.float32) / 2 + 0.25
    losses.dragan(lambda x: seen.append(x) or tf.reduce_sum(x, [1, 2, 3])[:, None], tf.constant(real), None, KEY, ALONE)
    points = sess.run(seen[0])
    assert points.min() >= 0 and points.max() <= 1
    share = (points - real).max((1, 2, 3)) / (0.5 * real.std())  # of 192 pixels one has nearly the whole of it
    assert share.min() < 0.05 and 0.95 < share.max() <= 1 and np.std(share) > 0.2
    noise = (points - real)[share > 0.5] / (share[share > 0.5, None, None, None] * 0.5 * real.std())
    assert noise.min() >= -1e-5 and abs(noise.mean() - 0.5) < 0.02
    first = ((points - real)[0] / share[0]).ravel()  # the shares are other numbers than the noise
    assert abs(np.corrcoef(first, share[:len(first)])[0, 1]) < 0.3


@pytest.mark.parametrize('sn', [False, True])
def test_second_derivative_of_a_penalty_against_differences(sess, sn):
    """Softplus and average pooling have no kinks: along random directions the penalty changes as its gradient says."""
    sigmas = {} if sn else None

    def logit_of(x):
        with tf.variable_scope('d', reuse=tf.AUTO_REUSE):
            y = tf.nn.softplus(conv2d(x, 6, 3, 3, 2, 2, name='conv', sn=sigmas))
            y = tf.reshape(tf.nn.avg_pool2d(y, 2, 2, 'VALID'), [-1, 3 * 4 * 6])
            return linear(tf.nn.softplus(linear(y, 5, 'fc', sn=sigmas)), 1, 'out', sn=sigmas)

    with tf.get_default_graph().gradient_override_map(BFLOAT16_GRADIENTS):
        penalty = losses.wgan_gp(logit_of, images(0), images(1), KEY, ALONE)
    weights = [v for v in tf.trainable_variables() if v.shape.ndims > 1]
    gradients = tf.gradients(penalty, weights)
    sess.run(tf.global_variables_initializer())
    rng = np.random.default_rng(2)
    start = [rng.normal(size=v.shape) for v in weights]
    for variable, value in zip(weights, start, strict=True):
        variable.load(value, sess)
    for _ in range(200 if sn else 0):  # where the vectors have converged they have no say in the derivative of sigma
        sess.run(move(sigmas, tf.no_op()))
    expected = sess.run(gradients)
    for number, gradient in enumerate(expected):
        direction = rng.normal(size=gradient.shape)
        values = []
        for step in 0.01, -0.01:
            weights[number].load(start[number] + step * direction, sess)
            values.append(sess.run(penalty))
        weights[number].load(start[number], sess)
        assert (values[0] - values[1]) / 0.02 == pytest.approx((gradient * direction).sum(), rel=0.01, abs=1e-4)


@pytest.mark.parametrize('name', PENALTIES)
def test_gradient_of_a_penalty_is_that_of_tensorflows_own_layers(sess, name):
    """With lrelu and max pooling, through the paper's attention, in float32."""
    model = SAGAN(sess, image_shape=SMALL, gan_type=name, attention='paper')

    def gradients(reuse):
        penalty = PENALTIES[name](lambda x: model.discriminator(x, reuse=reuse)[1], images(0), images(1), KEY, ALONE)
        return [tf.convert_to_tensor(g) for g in tf.gradients(penalty, tf.trainable_variables()) if g is not None]

    with tf.get_default_graph().gradient_override_map(BFLOAT16_GRADIENTS):
        ours = gradients(False)
    with mock.patch('ops.matmul', tf.matmul):
        theirs = gradients(True)
    sess.run(tf.global_variables_initializer())
    for variable in tf.trainable_variables():
        variable.load(np.random.default_rng(1).normal(size=variable.shape) * 0.1, sess)
    assert len(ours) > 8
    ours, theirs = sess.run([ours, theirs])
    largest = max(abs(gradient).max() for gradient in theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_losses_in_bfloat16_are_those_in_float32():
    """Two steps of everything at once, 20 % apart at most."""
    found = []
    for precision in 'float32', 'bfloat16':
        with tf.Graph().as_default(), tf.Session(config=session_config(precision)) as sess:
            model = SAGAN(sess, image_shape=SMALL, classes=10, precision=precision, gan_type='wgan-gp',
                          conditional=True, sn=True, attention='paper')
            model.build_model()
            sess.run(tf.global_variables_initializer())
            rng = np.random.default_rng(0)
            data = rng.integers(0, 256, [64, *SMALL]).astype(np.uint8), rng.integers(0, 10, 64)
            for step in range(2):
                values = model.train_batch([model.batch(data, step)], step)
            found.append(values)
    for name in 'd_loss', 'd_penalty', 'd_loss_real', 'g_loss':
        assert found[0][name] == pytest.approx(found[1][name], rel=0.2, abs=0.02), name

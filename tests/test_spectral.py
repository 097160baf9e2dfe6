"""Spectral normalization and classes: in layers by themselves, and in the whole model."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import SMALL

import sampling
from ops import bn, conv2d, deconv2d, embedding, length, linear, move
from SAGAN import SAGAN
from training.precision import session_config

X = np.random.default_rng(0).normal(size=[3, 6, 8, 5])
LABELS = [2, 0, 2]
LAYERS = {  # name: the layer of X, the name of its weight, that weight as a matrix with the output channels as columns
    'conv': (lambda x, sn: conv2d(x, 7, 3, 3, name='layer', sn=sn), 'layer/w', lambda w: w.reshape(-1, 7)),
    'deconv': (lambda x, sn: deconv2d(x, [3, 12, 16, 7], 4, 4, name='layer', sn=sn), 'layer/w',
               lambda w: w.transpose(0, 1, 3, 2).reshape(-1, 7)),
    'linear': (lambda x, sn: linear(tf.reshape(x, [3, -1]), 7, 'layer', sn=sn), 'layer/Matrix', lambda w: w),
    'embedding': (lambda x, sn: embedding(LABELS, 4, 7, 'layer', sn=sn), 'layer/w', lambda w: w)}


def variable(name):
    found, = (v for v in tf.global_variables() if v.op.name == name)
    return found


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', LAYERS)
def test_sigma_after_many_steps_is_the_largest_singular_value(name, precision):
    layer, weight, matrix = LAYERS[name]
    with tf.Graph().as_default(), tf.Session(config=session_config(precision)) as sess:
        sigmas = {}
        y = layer(tf.constant(X, tf.float32), sigmas)
        sigma, = sigmas.values()
        step = move(sigmas, y.op)
        sess.run(tf.global_variables_initializer())
        variable(weight).load(np.random.default_rng(1).normal(size=variable(weight).shape), sess)
        for _ in range(300):
            sess.run(step)
        found, w = sess.run([length(sigma.product), variable(weight)])
        assert found == pytest.approx(np.linalg.svd(matrix(w), compute_uv=False)[0], rel=1e-4)


@pytest.mark.parametrize('name', LAYERS)
def test_layer_and_gradients_are_those_of_the_divided_weight(sess, name):
    """y and its gradients to x and w, with u and v constant, against the same layer with the weight w / sigma."""
    layer, weight, matrix = LAYERS[name]
    x, sigmas = tf.constant(X, tf.float32), {}
    y = layer(x, sigmas)
    factor = tf.constant(np.random.default_rng(2).normal(size=y.shape), tf.float32)
    dw, dx = tf.gradients(tf.reduce_sum(y * factor), [variable(weight), x])
    with tf.variable_scope('', reuse=True):
        plain = layer(x, None)
    plain_dw, plain_dx = tf.gradients(tf.reduce_sum(plain * factor), [variable(weight), x])
    sess.run(tf.global_variables_initializer())
    w = np.random.default_rng(1).normal(size=variable(weight).shape)
    variable(weight).load(w, sess)
    values = sess.run([y, dw] if dx is None else [y, dw, dx])

    rows, (u,) = matrix(w), sess.run(variable('layer/u'))
    v = rows @ u / np.linalg.norm(rows @ u)
    sigma = np.linalg.norm(v @ rows)
    variable(weight).load(w / sigma, sess)
    expected = sess.run([plain, plain_dw] if dx is None else [plain, plain_dw, plain_dx])
    g, new_u = matrix(expected[1]), v @ rows / sigma
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(matrix(values[1]), (g - (g * rows / sigma).sum() * np.outer(v, new_u)) / sigma,
                               rtol=1e-3, atol=1e-4)
    if dx is not None:
        np.testing.assert_allclose(values[2], expected[2], rtol=1e-4, atol=1e-4)


##################################################################################
# In the model
##################################################################################

def build(sess, **options):
    """A model of a small image at its initial values, and a function that takes a training step."""
    model = SAGAN(sess, image_shape=SMALL, classes=10, batch_size=8, **options)
    model.build_model()
    sess.run(tf.global_variables_initializer())
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, [64, *SMALL]).astype(np.uint8), rng.integers(0, 10, 64)

    def train(step):
        first = step * model.n_critic
        return model.train_batch([model.batch(data, first + part) for part in range(model.n_critic)], step)

    return model, train


def as_matrix(name, w):
    """The weight of that name as a matrix with the output channels as columns."""
    return w.transpose(0, 1, 3, 2).reshape(-1, w.shape[2]) if '_dc' in name else w.reshape(-1, w.shape[-1])


def weights_and_vectors(sess):
    """{scope of a layer: (its weight as a matrix, u)} of the trained variables."""
    values = sess.run({v.op.name: v for v in tf.global_variables() if v.op.name.split('/')[-1] in ('w', 'Matrix', 'u')})
    scopes = {name.rsplit('/', 1)[0] for name in values if not name.endswith('/u')}
    return {scope: (as_matrix(scope, values.get(f'{scope}/w', values.get(f'{scope}/Matrix'))), values[f'{scope}/u'])
            for scope in scopes}  # a KeyError where a layer with a weight has no u


def power_step(w, u):
    """-> sigma, and u after a step of power iteration."""
    v = w @ u[0] / np.linalg.norm(w @ u[0])
    return np.linalg.norm(v @ w), (v @ w / np.linalg.norm(v @ w))[None]


@pytest.mark.parametrize('attention', ['article', 'paper'])
def test_every_weight_is_normalized_and_u_moves_once_a_step(sess, attention):
    model, train = build(sess, sn=True, conditional=True, attention=attention, n_critic=2)
    before = weights_and_vectors(sess)
    assert len(before) == {'article': 4 + 3 + 4 + 3 + 1, 'paper': 4 + 4 + 4 + 4 + 1}[attention]
    batches = []
    model.train_batch, step = lambda found, step: batches.extend(found), model.train_batch
    train(0)
    model.train_batch = step
    feeds = [dict(zip([model.inputs, model.z, model.labels, model.z_labels], values, strict=True))
             for values in batches]

    sess.run(model.d_step, feeds[0])  # D's vectors move by the weights before its update; G's do not
    after = weights_and_vectors(sess)
    for scope, (w, u) in before.items():
        moved = power_step(w, u)[1] if scope.startswith('discriminator') else u
        np.testing.assert_allclose(after[scope][1], moved, atol=1e-4, err_msg=scope)
    sess.run(model.train_step, feeds[1])  # both move, once, though D makes three passes
    for scope, (w, u) in weights_and_vectors(sess).items():
        np.testing.assert_allclose(u, power_step(*after[scope])[1], atol=1e-4, err_msg=scope)
        assert 'attention' in scope or (w != after[scope][0]).any()  # gamma 0 lets nothing through at first

    model.save(1)
    reader = tf.train.load_checkpoint(model.checkpoints.path(1))
    assert all(reader.has_tensor(f'{scope}/u') for scope in before)
    assert not any('d_bn' in v.op.name or 'discriminator/attention/f_bn' in v.op.name for v in tf.global_variables())
    assert any('g_bn' in v.op.name for v in tf.global_variables())


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_normalized_weights_keep_to_one_while_training_and_sampling_moves_nothing(sess):
    # One step of power iteration follows weights that move slowly; at 0.0004 some are 15 % off after 40 steps.
    model, train = build(sess, sn=True, conditional=True, gan_type='hinge', g_lr=0.000005, d_lr=0.000005)
    for step in range(80):
        train(step)
    for scope, (w, u) in weights_and_vectors(sess).items():
        assert np.linalg.svd(w, compute_uv=False)[0] / power_step(w, u)[0] == pytest.approx(1, rel=0.05), scope

    z = model.draw_z(5, 1)
    first = model.sample(z)
    variables = tf.global_variables() + tf.local_variables()
    before = sess.run(variables)
    assert (model.sample(z) == first).all() and (model.sample(z[:2], [0, 1]) - first[:2]).max() < 1e-5
    sess.run('discriminator/attention/attention_map:0', {model.inputs: first})
    assert all((a == b).all() for a, b in zip(before, sess.run(variables), strict=True))

    # The averaged weights have vectors of their own.
    averages = {v.op.name.removesuffix('/ExponentialMovingAverage'): value for v, value in
                zip(model.averages, sess.run(model.averages), strict=True)}
    local = sess.run([v for v in tf.local_variables() if v.shape.ndims == 2])
    scopes = [name.rsplit('/', 1)[0] for name in averages if name.endswith('/u')]
    assert len(scopes) == len(local) == 7
    for scope, u in zip(scopes, local, strict=True):
        w = as_matrix(scope, averages.get(f'{scope}/w', averages.get(f'{scope}/Matrix')))
        expected = averages[f'{scope}/u']
        for _ in range(sampling.STATISTICS_BATCHES):
            expected = power_step(w, expected)[1]
        np.testing.assert_allclose(u, expected, atol=1e-3)
        assert np.linalg.svd(w, compute_uv=False)[0] / power_step(w, u)[0] == pytest.approx(1, rel=0.02), scope


def test_generator_learns_from_the_updated_discriminator_over_its_own_sigma(sess):
    model, _ = build(sess, sn=True, gan_type='hinge', d_lr=0.02)
    rng = np.random.default_rng(3)
    feed = {model.inputs: rng.random([8, *SMALL]), model.z: model.draw_z(8, 3)}
    model.save(0)
    g_loss = sess.run([model.train_step, model.losses], feed)[1]['g_loss']
    with tf.variable_scope('', reuse=True):
        model.sigmas = {}
        logit = model.discriminator(model.generator(model.z, reuse=True), reuse=True)[1]
    model.load(0)
    stale = -sess.run(logit, feed).mean()
    sess.run(model.d_step, feed)
    assert g_loss == pytest.approx(-sess.run(logit, feed).mean(), rel=1e-3)
    assert abs(g_loss - stale) > 0.01


@pytest.mark.parametrize('option', [dict(gan_type='wgan-gp'), dict(gan_type='dragan'), dict(sn=True), {}])
def test_no_batch_norm_in_a_critic_under_a_penalty(sess, option):
    """The logit of an image is then the same whatever else is in the batch."""
    model, _ = build(sess, **option)
    x = np.random.default_rng(0).random([6, *SMALL])
    with tf.variable_scope('', reuse=True):
        logit = model.discriminator(model.inputs, reuse=True)[1]
    alone = np.concatenate([sess.run(logit, {model.inputs: x[i:i + 1]}) for i in range(6)])
    assert np.allclose(sess.run(logit, {model.inputs: x}), alone, atol=1e-5) == bool(option)


##################################################################################
# Classes
##################################################################################

@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize('shape', [[4, 3, 5, 2], [4, 2], [1, 3, 5, 2]])
def test_conditional_batch_norm(sess, shape, is_training):
    """Each label has its row; with equal rows it is batch norm."""
    x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
    labels = [2, 0, 2, 1][:shape[0]]
    y = bn(x, is_training, 'cbn', labels, 3)
    plain = bn(x, is_training, 'plain')
    gradient, = tf.gradients(y, variable('cbn/gamma'))
    sess.run(tf.global_variables_initializer())
    assert sess.run([variable('cbn/beta'), variable('cbn/gamma')])[1].tolist() == [[1, 1]] * 3
    np.testing.assert_allclose(*sess.run([y, plain]), atol=1e-5)
    normal = sess.run(plain)
    beta, gamma = np.random.default_rng(1).normal(size=[2, 3, 2])
    variable('cbn/beta').load(beta, sess)
    variable('cbn/gamma').load(gamma, sess)
    by_image = [shape[0], *[1] * (len(shape) - 2), 2]
    if not is_training:  # the moving statistics have moved if it is
        normal = sess.run(plain)
        expected = normal * gamma[labels].reshape(by_image) + beta[labels].reshape(by_image)
        np.testing.assert_allclose(sess.run(y), expected, atol=1e-5)
    else:
        np.testing.assert_allclose(sess.run(y), normal * gamma[labels].reshape(by_image) +
                                   beta[labels].reshape(by_image), atol=1e-5)
    assert np.ndim(sess.run(tf.convert_to_tensor(gradient))) == 2


def test_projection(sess):
    model, _ = build(sess, conditional=True)
    x, labels = np.random.default_rng(0).random([5, *SMALL]), [3, 0, 9, 3, 1]
    with tf.variable_scope('', reuse=True):
        _, logit, features = model.discriminator(model.inputs, False, True, model.labels)
        _, plain, _ = model.discriminator(model.inputs, False, True)
    values = sess.run([logit, plain, features], {model.inputs: x, model.labels: labels})
    embedded = sess.run(variable('discriminator/d_embedding/w'))
    assert embedded.shape == (10, 1024)
    np.testing.assert_allclose(values[0] - values[1], (values[2] * embedded[labels]).sum(1, keepdims=True), atol=1e-4)


def test_a_conditional_run_draws_what_is_asked_for(sess):
    """Four classes of images that are bright above, below, left or right."""
    model = SAGAN(sess, image_shape=(12, 12, 1), classes=4, batch_size=32, conditional=True, g_lr=0.002)
    model.build_model()
    sess.run(tf.global_variables_initializer())
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 640)
    images = rng.integers(0, 60, [640, 12, 12, 1])
    halves = [np.s_[:6], np.s_[6:], np.s_[:, :6], np.s_[:, 6:]]
    for image, label in zip(images, labels, strict=True):
        image[halves[label]] += 150
    for step in range(120):
        model.train_batch([model.batch((images.astype(np.uint8), labels), step)], step)
    asked = np.repeat(np.arange(4), 50)
    drawn = model.sample(model.draw_z(200, 5), asked)
    z = model.draw_z(6, 6)  # which no labels go with: each class in turn
    np.testing.assert_array_equal(model.fetch(model.fake_images, z), model.sample(z, np.arange(6) % 4))
    brightness = np.array([[image[half].mean() for half in halves] for image in drawn])
    assert (brightness.argmax(1) == asked).mean() >= 0.9

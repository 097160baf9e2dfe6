"""Spectral normalization: the function, the layers that apply it, and the models that train with it."""

import numpy as np
import pytest
from helpers import SMALL, randomize, variable

import SAGAN
from networks import NETWORKS
from ops import conv2d, deconv2d, embedding, linear, spectral_norm, update_u
from tf1 import tf
from training.precision import session_config


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def as_matrix(w, axis):
    """Return a weight as a matrix with one column per output channel."""
    return np.moveaxis(w, axis, -1).reshape(-1, w.shape[axis])


def power_step(w, u):
    """Take a step of power iteration on w [K, C] from u [1, C]. Return (v [K], sigma, the next u [1, C])."""
    v = w @ u[0] / np.linalg.norm(w @ u[0])
    sigma = np.linalg.norm(v @ w)
    return v, sigma, (v @ w / sigma)[None]


##################################################################################
# The function
##################################################################################

WEIGHTS = {'convolution': ([3, 3, 5, 7], -1), 'transposed convolution': ([4, 4, 7, 5], 2), 'matrix': ([240, 7], -1)}
parametrize_weights = pytest.mark.parametrize('shape, axis', WEIGHTS.values(), ids=WEIGHTS)


def weight_of_norm_3(rng, shape, axis):
    """Return a random weight whose singular values are 3, 2, 1 and then 0.5."""
    channels = shape[axis]
    matrix_shape = np.prod(shape) // channels, channels
    left, singular_values, right = np.linalg.svd(rng.normal(size=matrix_shape), full_matrices=False)
    singular_values = np.linspace(3, 3 - len(singular_values) + 1, len(singular_values)).clip(0.5)
    moved = [shape[i] for i in range(len(shape)) if i != axis % len(shape)] + [channels]
    return np.moveaxis((left * singular_values @ right).reshape(moved), -1, axis)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
@parametrize_weights
def test_spectral_norm_converges_to_the_largest_singular_value(rng, shape, axis, precision):
    w = weight_of_norm_3(rng, shape, axis)
    assert np.linalg.svd(as_matrix(w, axis), compute_uv=False)[0] == pytest.approx(3)
    with tf.Graph().as_default(), tf.Session(config=session_config(precision)) as sess:
        tf.set_random_seed(0)
        normalized = spectral_norm(tf.constant(w, tf.float32), axis)
        step = update_u(tf.global_variables())
        sess.run(tf.global_variables_initializer())
        for _ in range(40):  # each step multiplies the error of u by (2 / 3) ** 2
            sess.run(step)
        np.testing.assert_allclose(sess.run(normalized), w / 3, rtol=1e-4, atol=1e-6)


@parametrize_weights
def test_spectral_norm_takes_one_step_of_power_iteration(sess, rng, shape, axis):
    w = rng.normal(size=shape)
    normalized = spectral_norm(tf.constant(w, tf.float32), axis)
    u = randomize(sess, rng)['u']
    _, sigma, _ = power_step(as_matrix(w, axis), u)
    np.testing.assert_allclose(sess.run(normalized), w / sigma, rtol=1e-4, atol=1e-6)


@parametrize_weights
def test_spectral_norm_gradient_treats_u_and_v_as_constants(sess, rng, shape, axis):
    """Compare with finite differences of <factor, w / (v w u)> along random directions of w."""
    w, factor = rng.normal(size=[2, *shape])
    inputs = tf.constant(w, tf.float32)
    gradient, = tf.gradients(spectral_norm(inputs, axis) * tf.constant(factor, tf.float32), inputs)
    u = randomize(sess, rng)['u']
    gradient = sess.run(gradient)
    v, _, new_u = power_step(as_matrix(w, axis), u)

    def value(w):
        return (factor * w).sum() / (v @ as_matrix(w, axis) @ new_u[0])

    for direction in rng.normal(size=[5, *shape]):
        difference = (value(w + 1e-5 * direction) - value(w - 1e-5 * direction)) / 2e-5
        assert (gradient * direction).sum() == pytest.approx(difference, rel=1e-3, abs=1e-3)


@parametrize_weights
def test_u_has_one_entry_per_output_channel(sess, shape, axis):
    spectral_norm(tf.zeros(shape), axis)
    assert variable('u').shape.as_list() == [1, 7]


def test_u_is_not_trainable(sess):
    spectral_norm(tf.zeros([5, 7]))
    assert tf.trainable_variables() == []


##################################################################################
# update_u
##################################################################################

def test_update_u_moves_u_by_one_step(sess, rng):
    w = rng.normal(size=[5, 7])
    spectral_norm(tf.constant(w, tf.float32))
    step = update_u(tf.global_variables())
    u = randomize(sess, rng)['u']
    sess.run(step)
    np.testing.assert_allclose(sess.run(variable('u')), power_step(w, u)[2], atol=1e-5)


def test_update_u_moves_a_shared_u_by_one_step(sess, rng):
    w = rng.normal(size=[5, 7])
    with tf.variable_scope('layer', reuse=tf.AUTO_REUSE):
        for _ in range(3):
            spectral_norm(tf.constant(w, tf.float32))
    step = update_u(tf.global_variables())
    u = randomize(sess, rng)['layer/u']
    sess.run(step)
    np.testing.assert_allclose(sess.run(variable('layer/u')), power_step(w, u)[2], atol=1e-5)


def test_update_u_moves_only_the_u_among_its_variables(sess, rng):
    for scope in 'first', 'second':
        with tf.variable_scope(scope):
            spectral_norm(tf.constant(rng.normal(size=[5, 7]), tf.float32))
    step = update_u(tf.global_variables('first/'))
    values = randomize(sess, rng)
    sess.run(step)
    assert (sess.run(variable('first/u')) != values['first/u']).all()
    np.testing.assert_array_equal(sess.run(variable('second/u')), values['second/u'])


def test_update_u_without_spectral_norm_does_nothing(sess, rng):
    linear(tf.zeros([2, 5]), 7)
    step = update_u(tf.global_variables())
    values = randomize(sess, rng)
    sess.run(step)
    for name, value in values.items():
        np.testing.assert_array_equal(sess.run(variable(name)), value)


##################################################################################
# Layers
##################################################################################

LABELS = [2, 0, 2]
LAYERS = {  # name: (layer of x [3, 6, 8, 5], name of its weight, axis of the output channels)
    'conv2d': (lambda x, sn: conv2d(x, 7, 3, 3, name='layer', sn=sn), 'layer/w', -1),
    'deconv2d': (lambda x, sn: deconv2d(x, [3, 12, 16, 7], 4, 4, name='layer', sn=sn), 'layer/w', 2),
    'linear': (lambda x, sn: linear(tf.reshape(x, [3, -1]), 7, 'layer', sn=sn), 'layer/Matrix', -1),
    # 0 * x gives the embedding a gradient with respect to x.
    'embedding': (lambda x, sn: embedding(LABELS, 4, 7, 'layer', sn=sn) + 0 * x[:, 0, 0, :1], 'layer/w', -1)}


@pytest.fixture(params=LAYERS)
def normalized_layer(request, sess, rng):
    """A layer with sn, and the same layer with the weight w / sigma: their outputs and gradients.

    Returns:
        (axis, w, u, [y, dx, dw] with sn, [y, dx, dw] of the plain layer).
        dx and dw are the gradients of a weighted sum of y.
    """
    layer, weight_name, axis = LAYERS[request.param]
    x = tf.constant(rng.normal(size=[3, 6, 8, 5]), tf.float32)
    y = layer(x, True)
    with tf.variable_scope('', reuse=True):
        plain = layer(x, False)
    factor = tf.constant(rng.normal(size=y.shape), tf.float32)
    weight = variable(weight_name)
    values = randomize(sess, rng)
    w, u = values[weight_name], values['layer/u']
    with_sn = sess.run([y, *tf.gradients(y * factor, [x, weight])])
    _, sigma, _ = power_step(as_matrix(w, axis), u)
    weight.load(w / sigma, sess)
    return axis, w, u, with_sn, sess.run([plain, *tf.gradients(plain * factor, [x, weight])])


def test_layer_with_sn_is_the_layer_of_the_normalized_weight(normalized_layer):
    *_, (y, _, _), (expected, _, _) = normalized_layer
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_input_gradient_with_sn_is_that_of_the_normalized_weight(normalized_layer):
    *_, (_, dx, _), (_, expected, _) = normalized_layer
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5)


def test_weight_gradient_with_sn_passes_through_the_division_by_sigma(normalized_layer):
    """The gradient is (G - <G, w / sigma> v u) / sigma, where G is the gradient at w / sigma."""
    axis, w, u, (_, _, dw), (_, _, g) = normalized_layer
    w, dw, g = as_matrix(w, axis), as_matrix(dw, axis), as_matrix(g, axis)
    v, sigma, new_u = power_step(w, u)
    expected = (g - (g * w / sigma).sum() * np.outer(v, new_u)) / sigma
    np.testing.assert_allclose(dw, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


def test_evaluating_a_layer_does_not_move_u(sess, rng):
    y = linear(tf.constant(rng.normal(size=[2, 5]), tf.float32), 7, sn=True)
    u = randomize(sess, rng)['linear/u']
    sess.run(y)
    np.testing.assert_array_equal(sess.run(variable('linear/u')), u)


##################################################################################
# Networks
##################################################################################

def weights_and_u(values):
    """Return {scope: (weight as a matrix, u)} of values, {name: value}. A layer without u raises a KeyError."""
    layers = {}
    for name, value in values.items():
        scope, _, kind = name.rpartition('/')
        if kind in ('w', 'Matrix'):
            layers[scope] = as_matrix(value, 2 if '_dc' in scope else -1), values[f'{scope}/u']
    return layers


def trained_values(sess):
    """Return {name: value} of the variables of both networks, without their averages."""
    return sess.run({v.op.name: v for v in tf.global_variables() if not v.op.name.endswith('Average')})


@pytest.fixture(params=['article', *(pytest.param(kind, marks=pytest.mark.slow)
                                     for kind in ('paper', 'dcgan', 'resnet'))])
def networks(request, sess):
    """Conditional networks with sn: (image_shape, images, (probability, logit, features)).

    'paper' is the article's network with the paper's attention.
    """
    kind, attention, shape = request.param, 'article', (32, 32, 1)
    if kind == 'paper':
        kind, attention = 'article', 'paper'
    if kind == 'article':
        shape = SMALL
    model = NETWORKS[kind](sess, image_shape=shape, ch=8, sn=True, classes=3, conditional=True, attention=attention)
    labels = tf.constant([0, 1])
    images = model.generator(tf.random.stateless_normal([2, 62], [0, 0]), labels=labels)
    outputs = model.discriminator(images, labels=labels)
    return shape, images, outputs


def test_networks_with_sn_have_the_shapes_of_those_without(networks):
    shape, images, (probability, logit, features) = networks
    assert images.shape.as_list()[1:] == list(shape)
    assert probability.shape.as_list()[1:] == logit.shape.as_list()[1:] == [1]
    assert features.shape.ndims == 2


def test_every_weight_of_networks_with_sn_has_a_u_that_moves(sess, rng, networks):
    step = update_u(tf.global_variables())
    before = weights_and_u(randomize(sess, rng))
    sess.run(step)
    after = weights_and_u(trained_values(sess))
    assert len(before) >= 11
    for scope, (w, u) in before.items():
        np.testing.assert_allclose(after[scope][1], power_step(w, u)[2], atol=1e-4, err_msg=scope)


def test_discriminators_with_sn_have_no_batch_norm(networks):
    norms = {v.op.name.split('/')[0] for v in tf.global_variables() if v.op.name.endswith('moving_mean')}
    assert norms == {'generator'}


@pytest.mark.parametrize('options', [dict(sn=True), *(dict(gan_type=name) for name in ('wgan-gp', 'dragan', 'r1'))],
                         ids=str)
def test_discriminator_with_sn_or_a_penalty_treats_images_independently(sess, rng, options):
    assert treats_images_independently(SAGAN.SAGAN(sess, image_shape=SMALL, **options), rng)


def test_discriminator_with_batch_norm_does_not_treat_images_independently(sess, rng):
    assert not treats_images_independently(SAGAN.SAGAN(sess, image_shape=SMALL), rng)


def treats_images_independently(model, rng):
    """Return whether the logits of a batch equal the logits of its images one by one."""
    images = rng.random([6, *SMALL])
    x = tf.placeholder(tf.float32, [None, *SMALL])
    _, logit, _ = model.discriminator(x)
    model.sess.run(tf.global_variables_initializer())
    one_by_one = np.concatenate([model.sess.run(logit, {x: image[None]}) for image in images])
    return np.allclose(model.sess.run(logit, {x: images}), one_by_one, atol=1e-5)


##################################################################################
# Training
##################################################################################

@pytest.fixture(scope='module')
def shared_model(tmp_path_factory, small_data):
    """A conditional SAGAN with sn and a gradient penalty. Checkpoint 0 holds its initial values.

    Tests use the fixture model.
    """
    with tf.Graph().as_default(), tf.Session() as sess:
        model = SAGAN.SAGAN(sess, image_shape=SMALL, classes=10, batch_size=8, sn=True, conditional=True,
                            gan_type='wgan-gp', checkpoint_dir=str(tmp_path_factory.mktemp('checkpoint')))
        model.build_model()
        sess.run(tf.global_variables_initializer())
        model.save(0)
        yield model


@pytest.fixture
def model(shared_model, few_statistics):
    """The model at its initial values, with its graph as the default."""
    with shared_model.sess.graph.as_default():
        shared_model.load(0)
        yield shared_model


def random_feed(model, rng):
    """Return the feed of one training step on random images."""
    return {model.inputs: rng.random([8, *SMALL]), model.z: rng.uniform(-1, 1, [8, 62]),
            model.labels: rng.integers(0, 10, 8), model.z_labels: rng.integers(0, 10, 8)}


@pytest.mark.slow
def test_d_step_moves_the_u_of_the_discriminator_by_one_step(model, rng):
    before = weights_and_u(trained_values(model.sess))
    model.sess.run(model.d_step, random_feed(model, rng))
    for scope, (_, u) in weights_and_u(trained_values(model.sess)).items():
        w, start = before[scope]
        expected = power_step(w, start)[2] if scope.startswith('discriminator') else start
        np.testing.assert_allclose(u, expected, atol=1e-4, err_msg=scope)


@pytest.mark.slow
def test_train_step_moves_every_u_by_one_step(model, rng):
    """Four passes through D read its u. Each u is updated once, from the weights before the step."""
    before = weights_and_u(trained_values(model.sess))
    model.sess.run(model.train_step, random_feed(model, rng))
    for scope, (_, u) in weights_and_u(trained_values(model.sess)).items():
        np.testing.assert_allclose(u, power_step(*before[scope])[2], atol=1e-4, err_msg=scope)


@pytest.mark.slow
def test_checkpoints_contain_every_u(model):
    reader = tf.train.load_checkpoint(model.checkpoints.path(0))
    scopes = weights_and_u(trained_values(model.sess))
    assert len(scopes) == 4 + 3 + 4 + 3 + 1  # G and its attention, D and its attention, D's embedding
    assert all(reader.has_tensor(f'{scope}/u') for scope in scopes)


@pytest.mark.slow
def test_generator_loss_is_that_of_the_updated_discriminator(model, rng):
    feed = {**random_feed(model, rng), model.lr_scale: 100}
    images = model.generator(model.z, reuse=True, labels=model.z_labels)
    _, logit, _ = model.discriminator(images, reuse=True, labels=model.z_labels)
    _, losses = model.sess.run([model.train_step, model.losses], feed)
    model.load(0)
    assert abs(losses['g_loss'] + model.sess.run(logit, feed).mean()) > 0.01  # the discriminator before its update
    model.sess.run(model.d_step, feed)
    assert losses['g_loss'] == pytest.approx(-model.sess.run(logit, feed).mean(), rel=1e-3)


@pytest.mark.slow
def test_spectral_norms_stay_near_1_in_training(model, rng):
    """The weights have one dominant singular value, so power iteration converges in a few steps."""
    for v in tf.trainable_variables():
        if v.op.name.endswith(('/w', '/Matrix')):
            left, right = rng.normal(size=[*v.shape[:-1], 1]), rng.normal(size=v.shape[-1])
            v.load(v.eval(model.sess) + 0.3 * left * right, model.sess)
    for step in range(8):
        model.sess.run(model.train_step, {**random_feed(model, rng), model.step: step})
    for scope, (w, u) in weights_and_u(trained_values(model.sess)).items():
        gram = w.T @ w if w.shape[1] < w.shape[0] else w @ w.T  # its eigenvalues take less time than the SVD of w
        norm = np.sqrt(np.linalg.eigvalsh(gram)[-1])
        assert norm / power_step(w, u)[1] == pytest.approx(1, rel=0.02), scope


##################################################################################
# Sampling
##################################################################################

@pytest.mark.slow
def test_sampling_leaves_every_variable_alone(model):
    variables = tf.global_variables() + tf.local_variables()
    model.sample(model.draw_z(5, 1))
    before = model.sess.run(variables)
    images = model.sample(model.draw_z(5, 2))
    model.sess.run('discriminator/attention/attention_map:0', {model.inputs: images})
    for v, value, expected in zip(variables, model.sess.run(variables), before, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=v.op.name)


@pytest.mark.slow
def test_averaged_weights_are_sampled_with_a_u_of_their_own(model, rng, monkeypatch):
    """The sampled u starts at the average of u. Each batch moves it by one step on the averaged weights."""
    for step in range(5):
        model.sess.run(model.train_step, {**random_feed(model, rng), model.step: step})
    monkeypatch.setattr(SAGAN, 'STATISTICS_BATCHES', 3)
    model.refresh_statistics()
    averages = {v.op.name.removesuffix('/ExponentialMovingAverage'): value
                for v, value in zip(model.averages, model.sess.run(model.averages), strict=True)}
    # The local variables are in the order of the averages. Those of batch norm have one dimension.
    names = [name.removesuffix('/u') for name in averages if name.endswith('/u')]
    own = dict(zip(names, model.sess.run([v for v in tf.local_variables() if v.shape.ndims == 2]), strict=True))
    assert len(own) == 7
    for scope, (w, u) in weights_and_u(averages).items():
        for _ in range(3):
            _, _, u = power_step(w, u)
        np.testing.assert_allclose(own[scope], u, atol=1e-3, err_msg=scope)

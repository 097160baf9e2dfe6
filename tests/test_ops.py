import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, numpy_bn, numpy_conv2d, randomize, variable
from scipy.special import softmax

from ops import (
    attention,
    attention_layers,
    avg_pool,
    bn,
    check_labels,
    conv2d,
    deconv2d,
    embedding,
    gammas_of,
    hw_flatten,
    linear,
    lrelu,
    max_pool,
    paper_attention,
    projection,
    upsample,
)
from tf1 import tf


@pytest.fixture
def rng():
    return np.random.default_rng(0)


##################################################################################
# All layers
##################################################################################

LAYERS = {  # name: (layer of x [B, 8, 12, 16], shape of its output without B)
    'conv2d': (lambda x: conv2d(x, 5), [4, 6, 5]),
    'conv2d, stride 1': (lambda x: conv2d(x, 5, 4, 4, 1, 1), [8, 12, 5]),
    'conv2d, stride 3': (lambda x: conv2d(x, 5, 3, 3, 3, 3), [3, 4, 5]),
    'deconv2d': (lambda x: deconv2d(x, [tf.shape(x)[0], 16, 24, 3]), [16, 24, 3]),
    'deconv2d, stride 1': (lambda x: deconv2d(x, [tf.shape(x)[0], 8, 12, 3], 4, 4, 1, 1), [8, 12, 3]),
    'linear': (lambda x: linear(x[:, 0, 0], 9), [9]),
    'bn of maps': (lambda x: bn(x, True, 'bn'), [8, 12, 16]),
    'bn of vectors': (lambda x: bn(x[:, 0, 0], True, 'bn'), [16]),
    'lrelu': (lrelu, [8, 12, 16]),
    'upsample': (upsample, [16, 24, 16]),
    'avg_pool': (avg_pool, [4, 6, 16]),
    'max_pool': (max_pool, [4, 6, 16]),
    'hw_flatten': (hw_flatten, [96, 16]),
    'attention': (attention, [8, 12, 16]),
    'paper_attention': (paper_attention, [8, 12, 16])}


@pytest.mark.parametrize('batch_size', [1, 7])
@pytest.mark.parametrize('is_known', [True, False], ids=['known', 'unknown'])
@pytest.mark.parametrize('name', LAYERS)
def test_layer_output_has_the_expected_static_and_dynamic_shape(sess, name, is_known, batch_size):
    layer, shape = LAYERS[name]
    x = tf.placeholder(tf.float32, [batch_size if is_known else None, 8, 12, 16])
    y = layer(x)
    sess.run(tf.global_variables_initializer())
    assert sess.run(y, {x: np.ones([batch_size, 8, 12, 16])}).shape == (batch_size, *shape)
    assert y.shape.as_list() == [batch_size if is_known else None, *shape]


@pytest.mark.parametrize('layer, shapes', [
    (conv2d, {'conv2d/w': [5, 5, 8, 6], 'conv2d/biases': [6]}),
    (lambda x, size: deconv2d(x, [2, 8, 8, size]), {'deconv2d/w': [5, 5, 6, 8], 'deconv2d/biases': [6]}),
    (lambda x, size: linear(x[:, 0, 0], size), {'linear/Matrix': [8, 6], 'linear/bias': [6]}),
    (lambda x, size: embedding([0, 1], 3, size), {'embedding/w': [3, 6]})],
    ids=['conv2d', 'deconv2d', 'linear', 'embedding'])
def test_layer_variables_have_the_expected_names_and_shapes(sess, layer, shapes):
    layer(tf.zeros([2, 4, 4, 8]), 6)
    assert {v.op.name: v.shape.as_list() for v in tf.trainable_variables()} == shapes


@pytest.mark.parametrize('first_line', ['', 'tf.disable_v2_behavior()'])
@pytest.mark.slow
def test_ops_work_alone_in_a_notebook(first_line):
    """Importing ops is enough. The usual switch to TensorFlow 1 does no harm."""
    cell = f'''
from ops import conv2d, deconv2d, bn, linear, hw_flatten, attention
import numpy as np
import tensorflow.compat.v1 as tf
{first_line}
x = tf.placeholder(tf.float32, [None, 8, 8, 1])
y = attention(tf.nn.relu(bn(conv2d(x, 16), True, 'bn')))
y = linear(hw_flatten(deconv2d(y, [tf.shape(x)[0], 8, 8, 1]))[:, :, 0], 3)
with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    print(sess.run(y, {{x: np.ones([5, 8, 8, 1])}}).shape)
'''
    done = subprocess.run([sys.executable, '-c', cell], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == '(5, 3)\n', done.stderr


##################################################################################
# Initial values
##################################################################################

@pytest.fixture
def initial_values(sess):
    """The initial values of one layer of each kind, {name: value}."""
    x = tf.zeros([2, 4, 4, 128])
    conv2d(x, 128)
    deconv2d(x, [2, 8, 8, 128])
    linear(x[:, 0, 0], 1000, bias_start=0.5)
    attention(x)
    conv2d(x, 64, 3, 3, stddev=None, name='xavier_conv2d')
    linear(x[:, 0, 0], 1000, 'xavier_linear', stddev=None)
    sess.run(tf.global_variables_initializer())
    return sess.run({v.op.name: v for v in tf.global_variables()})


def test_conv2d_weights_are_initialized_from_a_truncated_normal(initial_values):
    w = initial_values['conv2d/w']
    assert abs(w).max() <= 0.04
    assert w.std() == pytest.approx(0.02 * 0.8796, rel=0.01)  # the standard deviation of N(0, 1) truncated at 2


@pytest.mark.parametrize('name', ['deconv2d/w', 'linear/Matrix'])
def test_other_weights_are_initialized_from_a_normal(initial_values, name):
    w = initial_values[name]
    assert w.std() == pytest.approx(0.02, rel=0.01)
    assert abs(w).max() > 0.06


@pytest.mark.parametrize('name, fan_in, fan_out', [('xavier_conv2d/w', 9 * 128, 9 * 64),
                                                   ('xavier_linear/Matrix', 128, 1000)])
def test_weights_without_stddev_are_initialized_xavier_uniform(initial_values, name, fan_in, fan_out):
    w, limit = initial_values[name], np.sqrt(6 / (fan_in + fan_out))
    assert 0.999 * limit < abs(w).max() <= limit
    assert w.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize('name, value', [
    ('conv2d/biases', 0), ('deconv2d/biases', 0), ('xavier_linear/bias', 0), ('linear/bias', 0.5),
    ('attention/gamma', 0), ('attention/f_bn/beta', 0), ('attention/f_bn/gamma', 1),
    ('attention/f_bn/moving_mean', 0), ('attention/f_bn/moving_variance', 1)])
def test_other_variables_are_initialized_to_constants(initial_values, name, value):
    assert (initial_values[name] == value).all()


##################################################################################
# Convolutions and matrix products
##################################################################################

@pytest.mark.parametrize('height, width, kernel, stride', [(8, 8, 5, 2), (7, 9, 4, 2), (6, 5, 4, 1), (9, 7, 3, 3)])
def test_conv2d_equals_numpy(sess, rng, height, width, kernel, stride):
    x = rng.normal(size=[3, height, width, 2])
    y = conv2d(tf.constant(x, tf.float32), 4, kernel, kernel, stride, stride)
    values = randomize(sess, rng)
    np.testing.assert_allclose(sess.run(y), numpy_conv2d(x, values['conv2d/w'], values['conv2d/biases'], stride),
                               atol=1e-5)


@pytest.mark.parametrize('kernel, stride', [(5, 2), (4, 2), (4, 1)])
def test_deconv2d_is_the_transpose_of_the_convolution(sess, rng, kernel, stride):
    """The inner products <deconv(x), y> and <x, conv(y)> are equal for every x and y."""
    x, y = rng.normal(size=[2, 5, 6, 3]), rng.normal(size=[2, 5 * stride, 6 * stride, 4])
    output = deconv2d(tf.constant(x, tf.float32), y.shape, kernel, kernel, stride, stride)
    values = randomize(sess, rng)
    deconvolved = sess.run(output) - values['deconv2d/biases']
    convolved = numpy_conv2d(y, values['deconv2d/w'], 0, stride)
    np.testing.assert_allclose((deconvolved * y).sum((1, 2, 3)), (x * convolved).sum((1, 2, 3)), rtol=1e-4)


def test_deconv2d_of_one_position_is_the_kernel(sess, rng):
    x = np.zeros([1, 3, 3, 1])
    x[0, 1, 1] = 1
    y = deconv2d(tf.constant(x, tf.float32), [1, 6, 6, 2], 4, 4, 2, 2)
    values = randomize(sess, rng)
    expected = np.zeros([6, 6, 2])
    expected[1:5, 1:5] = values['deconv2d/w'][:, :, :, 0]
    np.testing.assert_allclose(sess.run(y)[0], expected + values['deconv2d/biases'], rtol=1e-5)


def test_linear_equals_numpy(sess, rng):
    x = rng.normal(size=[7, 5])
    y = linear(tf.constant(x, tf.float32), 4)
    values = randomize(sess, rng)
    np.testing.assert_allclose(sess.run(y), x @ values['linear/Matrix'] + values['linear/bias'], atol=1e-5)


def test_linear_gradients_equal_numpy(sess, rng):
    x, dy = rng.normal(size=[7, 5]), rng.normal(size=[7, 4])
    inputs = tf.constant(x, tf.float32)
    y = linear(inputs, 4)
    gradients = tf.gradients(y, [inputs, variable('linear/Matrix'), variable('linear/bias')],
                             tf.constant(dy, tf.float32))
    values = randomize(sess, rng)
    expected = dy @ values['linear/Matrix'].T, x.T @ dy, dy.sum(0)
    for gradient, value in zip(sess.run(gradients), expected, strict=True):
        np.testing.assert_allclose(gradient, value, atol=1e-5)


@pytest.mark.parametrize('order', [1, 2])
def test_matmul_gradient_equals_that_of_tensorflow(sess, rng, order):
    """Order 2 is the gradient of the gradient, which penalties need."""
    x, w = tf.constant(rng.normal(size=[7, 5])), tf.constant(rng.normal(size=[5, 4]))

    def gradients(y):
        for _ in range(order):
            y = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in tf.gradients(tf.sin(y), [x, w])])
        return tf.gradients(y, [x, w])

    with sess.graph.gradient_override_map({'MatMul': 'MatMulOnAllCores'}):
        product = tf.matmul(x, w)
    for gradient, expected in zip(*sess.run([gradients(product), gradients(tf.matmul(x, w))]), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_embedding_selects_the_row_of_each_label(sess, rng):
    y = embedding([2, 0, 2], 4, 5)
    w = randomize(sess, rng)['embedding/w']
    np.testing.assert_array_equal(sess.run(y), w[[2, 0, 2]])


def test_check_labels_returns_the_labels(sess):
    assert sess.run(check_labels(tf.constant([2, 0, 2]), 3)).tolist() == [2, 0, 2]


@pytest.mark.parametrize('label', [3, -1])
def test_check_labels_names_an_invalid_label_and_the_range(sess, label):
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf'= {label} is not in \[0, 3\)'):
        sess.run(check_labels(tf.placeholder_with_default([0, label], [None]), 3))


def test_projection_is_the_product_of_features_and_embedding(sess, rng):
    features = rng.normal(size=[3, 5])
    y = projection(tf.constant(features, tf.float32), [2, 0, 2], 4)
    w = randomize(sess, rng)['d_embedding/w']
    np.testing.assert_allclose(sess.run(y), (features * w[[2, 0, 2]]).sum(1, keepdims=True), atol=1e-5)


##################################################################################
# Batch norm
##################################################################################

BN_SHAPES = [[6, 3], [6, 4, 5, 3], [1, 4, 4, 3]]


@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize('shape', BN_SHAPES)
def test_bn_equals_numpy(sess, rng, shape, is_training):
    x = rng.normal(2, 3, shape)
    y = bn(tf.constant(x, tf.float32), is_training, 'bn')
    values = randomize(sess, rng)
    np.testing.assert_allclose(sess.run(y), numpy_bn(x, values, 'bn', is_training), atol=1e-4)


@pytest.mark.parametrize('shape', BN_SHAPES)
def test_bn_moving_statistics_move_a_tenth_of_the_way_to_each_batch(sess, rng, shape):
    x = tf.placeholder(tf.float32, [None, *shape[1:]])
    y = bn(x, True, 'bn')
    values = randomize(sess, rng)
    mean, variance = values['bn/moving_mean'], values['bn/moving_variance']
    axes = tuple(range(len(shape) - 1))
    for _ in range(3):
        batch = rng.normal(2, 3, shape)
        sess.run(y, {x: batch})
        mean = 0.9 * mean + 0.1 * batch.mean(axes)
        variance = 0.9 * variance + 0.1 * batch.var(axes, ddof=1)
    np.testing.assert_allclose(sess.run(variable('bn/moving_mean')), mean, rtol=1e-5)
    np.testing.assert_allclose(sess.run(variable('bn/moving_variance')), variance, rtol=1e-5)


def test_bn_in_inference_leaves_the_moving_statistics_alone(sess, rng):
    y = bn(tf.constant(rng.normal(size=[6, 4, 5, 3]), tf.float32), False, 'bn')
    values = randomize(sess, rng)
    sess.run(y)
    for name, value in values.items():
        np.testing.assert_array_equal(sess.run(variable(name)), value)


def test_bn_moving_statistics_are_not_trainable(sess):
    bn(tf.zeros([6, 3]), True, 'bn')
    assert [v.op.name for v in tf.trainable_variables()] == ['bn/beta', 'bn/gamma']


class IdenticalWorkers:
    """A cluster of two workers with the same shard."""
    size = 2

    def all_reduce(self, tensors):
        return tensors


@pytest.mark.parametrize('sync', [None, IdenticalWorkers()])
@pytest.mark.parametrize('shape', [[3, 4], [3, 4, 5, 2]])
def test_bn_of_two_batches_normalizes_each_by_its_own_statistics(sess, rng, shape, sync):
    first, second = rng.normal(2, 3, shape), rng.normal(-1, 2, shape)
    y = bn(tf.constant(np.concatenate([first, second]), tf.float32), True, 'bn', sync=sync, batches=2)
    values = randomize(sess, rng)
    expected = np.concatenate([numpy_bn(x, values, 'bn', True) for x in (first, second)])
    np.testing.assert_allclose(sess.run(y), expected, atol=1e-4)


@pytest.mark.parametrize('sync', [None, IdenticalWorkers()])
def test_bn_of_two_batches_moves_the_moving_statistics_twice(sess, rng, sync):
    first, second = rng.normal(2, 3, [6, 4]), rng.normal(-1, 2, [6, 4])
    y = bn(tf.constant(np.concatenate([first, second]), tf.float32), True, 'bn', sync=sync, batches=2)
    values = randomize(sess, rng)
    sess.run(y)
    mean, variance = values['bn/moving_mean'], values['bn/moving_variance']
    for x in first, second:
        whole = x if sync is None else np.concatenate([x, x])  # the batch of both workers
        mean, variance = 0.9 * mean + 0.1 * whole.mean(0), 0.9 * variance + 0.1 * whole.var(0, ddof=1)
    np.testing.assert_allclose(sess.run(variable('bn/moving_mean')), mean, rtol=1e-4)
    np.testing.assert_allclose(sess.run(variable('bn/moving_variance')), variance, rtol=1e-4)


def test_bn_of_two_batches_in_inference_uses_the_moving_statistics(sess, rng):
    x = rng.normal(2, 3, [6, 4])
    y = bn(tf.constant(x, tf.float32), False, 'bn', batches=2)
    values = randomize(sess, rng)
    np.testing.assert_allclose(sess.run(y), numpy_bn(x, values, 'bn', False), atol=1e-4)


@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize('shape', [[4, 3, 5, 2], [4, 2]])
def test_conditional_bn_has_a_beta_and_a_gamma_per_class(sess, rng, shape, is_training):
    x, labels = rng.normal(2, 3, shape), [2, 0, 2, 1]
    y = bn(tf.constant(x, tf.float32), is_training, 'bn', labels, 3)
    values = randomize(sess, rng)
    beta, gamma = (values[f'bn/{name}'][labels].reshape(4, *[1] * (len(shape) - 2), 2) for name in ('beta', 'gamma'))
    normalized = numpy_bn(x, {**values, 'bn/gamma': 1, 'bn/beta': 0}, 'bn', is_training)
    np.testing.assert_allclose(sess.run(y), normalized * gamma + beta, atol=1e-4)


def test_conditional_bn_starts_as_bn(sess, rng):
    x = tf.constant(rng.normal(size=[4, 3, 5, 2]), tf.float32)
    conditional, plain = bn(x, True, 'conditional', [2, 0, 2, 1], 3), bn(x, True, 'plain')
    sess.run(tf.global_variables_initializer())
    np.testing.assert_allclose(*sess.run([conditional, plain]), atol=1e-6)


def test_gradients_of_class_variables_are_dense(sess):
    """Adam treats sparse gradients, tf.IndexedSlices, differently."""
    y = bn(embedding([2, 0, 2], 4, 5), True, 'bn', [2, 0, 2], 3)
    gradients = tf.gradients(y, tf.trainable_variables())
    assert len(gradients) == 3 and all(isinstance(gradient, tf.Tensor) for gradient in gradients)


class FakeCluster:
    """A cluster of two workers. all_reduce records its arguments and returns prescribed means."""
    size = 2

    def __init__(self, means):
        self.means = [tf.constant(mean, tf.float32) for mean in means]

    def all_reduce(self, tensors):
        self.tensors = tensors
        return self.means


@pytest.fixture
def sync_bn(sess, rng):
    """(y, x [8, 3, 5, 2], cluster, values): bn of x[:4], the shard of the first of two workers."""
    x = rng.normal(2, 3, [8, 3, 5, 2])
    cluster = FakeCluster([x.mean((0, 1, 2)), (x ** 2).mean((0, 1, 2))])
    y = bn(tf.constant(x[:4], tf.float32), True, 'bn', sync=cluster)
    return y, x, cluster, randomize(sess, rng)


def test_sync_bn_normalizes_a_shard_by_the_statistics_of_the_whole_batch(sess, sync_bn):
    y, x, _, values = sync_bn
    np.testing.assert_allclose(sess.run(y), numpy_bn(x, values, 'bn', True)[:4], atol=1e-4)


def test_sync_bn_reduces_the_mean_and_the_mean_of_squares_of_its_shard(sess, sync_bn):
    _, x, cluster, _ = sync_bn
    mean, mean_of_squares = sess.run(cluster.tensors)
    np.testing.assert_allclose(mean, x[:4].mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(mean_of_squares, (x[:4] ** 2).mean((0, 1, 2)), rtol=1e-5)


def test_sync_bn_moving_statistics_are_those_of_the_whole_batch(sess, sync_bn):
    y, x, _, values = sync_bn
    sess.run(y)
    expected = {'bn/moving_mean': x.mean((0, 1, 2)), 'bn/moving_variance': x.var((0, 1, 2), ddof=1)}
    for name, value in expected.items():
        np.testing.assert_allclose(sess.run(variable(name)), 0.9 * values[name] + 0.1 * value, rtol=1e-4)


def test_sync_bn_of_constant_maps_is_finite(sess):
    """Rounding makes mean_of_squares - mean ** 2 negative."""
    y = bn(tf.fill([4, 3], 0.1), True, 'bn', sync=FakeCluster([[0.1] * 3, [0.0099] * 3]))
    sess.run(tf.global_variables_initializer())
    np.testing.assert_allclose(sess.run(y), 0, atol=1e-5)


@pytest.mark.parametrize('is_training', [True, False])
def test_bn_ignores_sync_in_inference_and_with_one_worker(sess, rng, is_training):
    x = rng.normal(size=[6, 3])
    cluster = FakeCluster([])
    cluster.size = 1 if is_training else 2
    y = bn(tf.constant(x, tf.float32), is_training, 'bn', sync=cluster)
    values = randomize(sess, rng)
    np.testing.assert_allclose(sess.run(y), numpy_bn(x, values, 'bn', is_training), atol=1e-4)


##################################################################################
# Activations and resampling
##################################################################################

def repeat_2x2(x):
    return x.repeat(2, 1).repeat(2, 2)


def blocks_2x2(x):
    """Yield the rows of 2 x 2 blocks of x [B, H, W, C]. The last blocks are smaller if a side is odd."""
    for i in range(0, x.shape[1], 2):
        yield [x[:, i:i + 2, j:j + 2] for j in range(0, x.shape[2], 2)]


def numpy_max_pool(x):
    return np.stack([np.stack([block.max((1, 2)) for block in row], 1) for row in blocks_2x2(x)], 1)


def numpy_avg_pool(x):
    return np.stack([np.stack([block.mean((1, 2)) for block in row], 1) for row in blocks_2x2(x)], 1)


@pytest.mark.parametrize('leak', [0.2, 0.5])
def test_lrelu_scales_negative_values(sess, leak):
    x = tf.constant([-2., -0.5, 0., 3.])
    np.testing.assert_allclose(sess.run(lrelu(x, leak)), [-2 * leak, -0.5 * leak, 0, 3], rtol=1e-6)


def test_lrelu_leak_is_a_fifth_by_default(sess):
    assert sess.run(lrelu(tf.constant(-1.))) == pytest.approx(-0.2)


def test_upsample_repeats_each_position(sess, rng):
    x = rng.normal(size=[2, 4, 6, 3]).astype(np.float32)
    np.testing.assert_array_equal(sess.run(upsample(tf.constant(x))), repeat_2x2(x))


def test_upsample_gradient_sums_over_the_repeated_positions(sess, rng):
    x, dy = tf.zeros([2, 4, 6, 3]), rng.normal(size=[2, 8, 12, 3])
    gradient, = tf.gradients(upsample(x), x, tf.constant(dy, tf.float32))
    np.testing.assert_allclose(sess.run(gradient), 4 * numpy_avg_pool(dy), atol=1e-5)


def test_avg_pool_equals_numpy(sess, rng):
    x = rng.normal(size=[2, 4, 6, 3])
    np.testing.assert_allclose(sess.run(avg_pool(tf.constant(x, tf.float32))), numpy_avg_pool(x), atol=1e-6)


@pytest.mark.parametrize('shape', [(4, 6), (7, 5), (1, 3)])
def test_max_pool_equals_numpy(sess, rng, shape):
    x = rng.normal(size=[2, *shape, 3]).astype(np.float32)
    np.testing.assert_array_equal(sess.run(max_pool(tf.constant(x))), numpy_max_pool(x))


def test_hw_flatten_orders_positions_by_row(sess, rng):
    x = rng.normal(size=[2, 3, 4, 5]).astype(np.float32)
    flat = sess.run(hw_flatten(tf.constant(x)))
    for i in range(3):
        for j in range(4):
            np.testing.assert_array_equal(flat[:, 4 * i + j], x[:, i, j])


##################################################################################
# Attention
##################################################################################

def numpy_attention(x, values, is_training):
    """Return (output [B, H, W, C], attention map [B, N, N]) by equations 1 to 3 of the paper."""
    def project(name):
        y = numpy_conv2d(x, values[f'attention/{name}_conv/w'], values[f'attention/{name}_conv/biases'], 1)
        return np.maximum(numpy_bn(y, values, f'attention/{name}_bn', is_training), 0).reshape(len(x), -1, y.shape[3])

    f, g, h = project('f'), project('g'), project('h')
    beta = softmax(g @ f.transpose(0, 2, 1), axis=-1)
    return values['attention/gamma'] * (beta @ h).reshape(x.shape) + x, beta


def numpy_paper_attention(x, values):
    """Return (output [B, H, W, C], attention map [B, N, M]) with 1x1 convolutions and pooled keys and values."""
    def project(name, x):
        return numpy_conv2d(x, values[f'attention/{name}_conv/w'], values[f'attention/{name}_conv/biases'], 1)

    def flatten(x):
        return x.reshape(len(x), -1, x.shape[3])

    f, g, h = numpy_max_pool(project('f', x)), project('g', x), numpy_max_pool(project('h', x))
    beta = softmax(flatten(g) @ flatten(f).transpose(0, 2, 1), axis=-1)
    o = (beta @ flatten(h)).reshape(*x.shape[:3], -1)
    return values['attention/gamma'] * project('attn', o) + x, beta


@pytest.mark.parametrize('is_training', [True, False])
def test_attention_equals_numpy(sess, rng, is_training):
    x = rng.normal(size=[3, 5, 4, 16])
    y = attention(tf.constant(x, tf.float32), is_training)
    values = randomize(sess, rng, 0.1)
    output, beta = sess.run([y, 'attention/attention_map:0'])
    expected, expected_beta = numpy_attention(x, values, is_training)
    assert 0.1 < expected_beta.max() < 0.9  # a uniform or one-hot map would hide errors
    np.testing.assert_allclose(beta, expected_beta, atol=1e-5)
    np.testing.assert_allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize('shape', [(6, 8), (7, 7), (1, 3)])
def test_paper_attention_equals_numpy(sess, rng, shape):
    x = rng.normal(size=[3, *shape, 16])
    y = paper_attention(tf.constant(x, tf.float32), is_training=False)
    values = randomize(sess, rng)
    output, beta = sess.run([y, 'attention/attention_map:0'])
    expected, expected_beta = numpy_paper_attention(x, values)
    np.testing.assert_allclose(beta, expected_beta, atol=1e-4)
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_paper_attention_has_no_batch_norm(sess):
    paper_attention(tf.zeros([2, 4, 4, 16]))
    convolutions = [f'attention/{name}_conv/{kind}' for name in ('f', 'g', 'h', 'attn') for kind in ('w', 'biases')]
    assert {v.op.name for v in tf.global_variables()} == {*convolutions, 'attention/gamma'}


@pytest.mark.parametrize('block', [attention, paper_attention])
def test_attention_weights_of_each_query_sum_to_1(sess, rng, block):
    block(tf.constant(rng.normal(size=[3, 5, 4, 16]), tf.float32))
    randomize(sess, rng)
    beta = sess.run('attention/attention_map:0')
    assert beta.min() >= 0
    np.testing.assert_allclose(beta.sum(-1), 1, atol=1e-5)


def test_attention_starts_as_the_identity(sess, rng):
    x = rng.normal(size=[2, 4, 4, 16]).astype(np.float32)
    y = attention(tf.constant(x))
    sess.run(tf.global_variables_initializer())
    np.testing.assert_array_equal(sess.run(y), x)


def test_attention_gamma_has_a_gradient_at_0(sess, rng):
    y = attention(tf.constant(rng.normal(size=[2, 4, 4, 16]), tf.float32))
    gradient, = tf.gradients(tf.reduce_sum(y), variable('attention/gamma'))
    sess.run(tf.global_variables_initializer())
    assert abs(sess.run(gradient)) > 0.1


def test_attention_in_inference_treats_images_independently(sess, rng):
    x = tf.placeholder(tf.float32, [None, 4, 4, 16])
    y = attention(x, is_training=False)
    randomize(sess, rng)
    images = np.concatenate([rng.normal(size=[1, 4, 4, 16]), rng.normal(9, 9, [6, 4, 4, 16])])
    np.testing.assert_allclose(sess.run(y, {x: images})[:1], sess.run(y, {x: images[:1]}), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('is_training', [True, False])
def test_attention_moves_the_statistics_of_its_batch_norms_only_in_training(sess, rng, is_training):
    y = attention(tf.constant(rng.normal(size=[2, 4, 4, 16]), tf.float32), is_training)
    values = randomize(sess, rng)
    sess.run(y)
    after = sess.run({name: variable(name) for name in values})
    moved = {name for name, value in values.items() if (after[name] != value).all()}
    statistics = {f'attention/{name}_bn/{kind}' for name in 'fgh' for kind in ('moving_mean', 'moving_variance')}
    assert moved == (statistics if is_training else set())


def test_attention_requires_channels_in_multiples_of_8(sess):
    with pytest.raises(ValueError, match='multiple of 8, not 12'):
        attention(tf.zeros([2, 4, 4, 12]))


def test_attention_layers_describe_each_call(sess):
    x = tf.zeros([2, 7, 5, 16])
    attention(x, scope='first')
    paper_attention(x, is_training=False, scope='second')
    layers = [(layer.scope, layer.attention_map.op.name, layer.gamma.op.name, layer.query_shape, layer.key_shape,
               layer.is_training) for layer in attention_layers()]
    assert layers == [('first', 'first/attention_map', 'first/gamma', [7, 5], [7, 5], True),
                      ('second', 'second/attention_map', 'second/gamma', [7, 5], [4, 3], False)]


def test_gammas_of_numbers_the_layers_of_each_network(sess, rng):
    for network in 'generator', 'discriminator':
        with tf.variable_scope(network):
            for scope in 'a', 'b':
                attention(tf.zeros([2, 4, 4, 8]), scope=scope)
    attention(tf.zeros([2, 4, 4, 8]), scope='generator/a', reuse=True)
    gammas = gammas_of(attention_layers())
    values = randomize(sess, rng)
    assert sess.run(gammas) == {'g_gamma': values['generator/a/gamma'], 'g_gamma_2': values['generator/b/gamma'],
                                'd_gamma': values['discriminator/a/gamma'],
                                'd_gamma_2': values['discriminator/b/gamma']}

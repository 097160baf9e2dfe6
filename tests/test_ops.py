import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MAIN, numpy_bn, numpy_conv2d
from scipy.special import softmax

from ops import (
    attention,
    attention_layers,
    bn,
    conv2d,
    deconv2d,
    hw_flatten,
    linear,
    lrelu,
    paper_attention,
)
from training.precision import BFLOAT16_GRADIENTS


@pytest.fixture(autouse=True)
def fixed_numbers():
    np.random.seed(0)


def randomize(sess):
    """Set every variable to random numbers -> {name: value}."""
    found = {v.op.name: np.random.uniform(0.5, 1.5, v.shape).astype(np.float32) for v in tf.global_variables()}
    for variable in tf.global_variables():
        variable.load(found[variable.op.name], sess)
    return found


def numpy_attention(x, values, is_training):
    """-> (output [B, H, W, C], map [B, N, N]), by the formulas of the paper's equations."""
    def project(name):
        y = numpy_conv2d(x, values[f'attention/{name}_conv/w'], values[f'attention/{name}_conv/biases'], 1)
        return np.maximum(numpy_bn(y, values, f'attention/{name}_bn', is_training), 0).reshape(len(x), -1, y.shape[3])

    f, g, h = project('f'), project('g'), project('h')
    beta = softmax(g @ f.transpose(0, 2, 1), axis=-1)
    return values['attention/gamma'] * (beta @ h).reshape(x.shape) + x, beta


def numpy_pool(x):
    """Maximum of 2 x 2 positions, the last ones of fewer."""
    height, width = x.shape[1:3]
    return np.stack([np.stack([x[:, i:i + 2, j:j + 2].max((1, 2)) for j in range(0, width, 2)], 1)
                     for i in range(0, height, 2)], 1)


@pytest.mark.parametrize('shape', [(6, 8), (7, 7), (1, 3)])
def test_attention_of_the_paper(sess, shape):
    """Against NumPy, by the formulas; keys and values are pooled, also where a side is odd."""
    x = np.random.randn(3, *shape, 16).astype(np.float32)
    y = paper_attention(tf.constant(x), is_training=False)
    values = {name.removeprefix('attention/'): value for name, value in randomize(sess).items()}

    def project(name, x):
        return numpy_conv2d(x, values[f'{name}_conv/w'], values[f'{name}_conv/biases'], 1)

    f, g, h = numpy_pool(project('f', x)), project('g', x), numpy_pool(project('h', x))
    assert f.shape[1:] == (-(-shape[0] // 2), -(-shape[1] // 2), 2) and h.shape[3] == 8
    beta = softmax(g.reshape(3, -1, 2) @ f.reshape(3, -1, 2).transpose(0, 2, 1), axis=-1)
    o = (beta @ h.reshape(3, -1, 8)).reshape(3, *shape, 8)
    np.testing.assert_allclose(sess.run('attention/attention_map:0'), beta, atol=1e-4)
    np.testing.assert_allclose(sess.run(y), values['gamma'] * project('attn', o) + x, rtol=1e-3, atol=1e-3)
    layer, = attention_layers()
    assert layer.name == 'attention' and layer.queries == list(shape) and layer.keys == list(f.shape[1:3])
    assert sorted(values) == sorted(['gamma', *(f'{name}_conv/{kind}' for name in ('f', 'g', 'h', 'attn')
                                               for kind in ('w', 'biases'))])


@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('batch', [1, 7, 64])
def test_shapes(sess, batch, known):
    x = tf.placeholder(tf.float32, [batch if known else None, 8, 12, 16])
    expected = [
        (conv2d(x, 5), [4, 6, 5]),
        (conv2d(x, 5, 4, 4, 1, 1, name='stride_1'), [8, 12, 5]),
        (conv2d(x, 5, 3, 3, 3, 3, name='stride_3'), [3, 4, 5]),
        (deconv2d(x, [tf.shape(x)[0], 16, 24, 3]), [16, 24, 3]),
        (deconv2d(x, [tf.shape(x)[0], 8, 12, 3], 4, 4, 1, 1, name='upstride_1'), [8, 12, 3]),
        (linear(x[:, 0, 0], 9), [9]),
        (bn(x, True, 'bn4'), [8, 12, 16]),
        (bn(x[:, 0, 0], True, 'bn2'), [16]),
        (lrelu(x), [8, 12, 16]),
        (hw_flatten(x), [96, 16]),
        (attention(x), [8, 12, 16]),
        (tf.get_default_graph().get_tensor_by_name('attention/attention_map:0'), [96, 96])]
    randomize(sess)
    outputs = sess.run([y for y, _ in expected], {x: np.ones([batch, 8, 12, 16])})
    for (y, shape), output in zip(expected, outputs, strict=True):
        assert output.shape == (batch, *shape), y.name
        assert y.shape.as_list() == [batch if known else None, *shape], y.name


def test_names_and_shapes_of_variables(sess):
    x = tf.placeholder(tf.float32, [None, 4, 4, 8])
    conv2d(x, 5)
    deconv2d(x, [tf.shape(x)[0], 8, 8, 3])
    linear(x[:, 0, 0], 9)
    bn(x, True, 'bn')
    assert {v.op.name: v.shape.as_list() for v in tf.global_variables()} == {
        'conv2d/w': [5, 5, 8, 5], 'conv2d/biases': [5], 'deconv2d/w': [5, 5, 3, 8], 'deconv2d/biases': [3],
        'linear/Matrix': [8, 9], 'linear/bias': [9],
        'bn/beta': [8], 'bn/gamma': [8], 'bn/moving_mean': [8], 'bn/moving_variance': [8]}
    assert {'bn/moving_mean', 'bn/moving_variance'}.isdisjoint(v.op.name for v in tf.trainable_variables())


def test_initial_values(sess):
    x = tf.placeholder(tf.float32, [None, 4, 4, 128])
    conv2d(x, 128)
    deconv2d(x, [tf.shape(x)[0], 8, 8, 128])
    linear(x[:, 0, 0], 1000, bias_start=0.5)
    attention(x)
    sess.run(tf.global_variables_initializer())
    found = {v.op.name: sess.run(v) for v in tf.global_variables()}
    assert abs(found['conv2d/w']).max() <= 0.04  # truncated at two standard deviations
    assert found['conv2d/w'].std() == pytest.approx(0.02 * 0.88, rel=0.02)
    for name in 'deconv2d/w', 'linear/Matrix':
        assert found[name].std() == pytest.approx(0.02, rel=0.02)
        assert abs(found[name]).max() > 0.06
    assert (found['linear/bias'] == 0.5).all()
    for name in 'conv2d/biases', 'deconv2d/biases', 'attention/gamma', 'attention/f_bn/beta':
        assert (found[name] == 0).all()
    assert (found['attention/f_bn/gamma'] == 1).all()


@pytest.mark.parametrize('height, width, kernel, stride', [(8, 8, 5, 2), (7, 9, 4, 2), (6, 5, 4, 1), (9, 7, 3, 3)])
def test_conv2d_values(sess, height, width, kernel, stride):
    x = np.random.normal(size=[3, height, width, 2])
    placeholder = tf.placeholder(tf.float32, [None, height, width, 2])
    y = conv2d(placeholder, 4, kernel, kernel, stride, stride)
    values = randomize(sess)
    expected = numpy_conv2d(x, values['conv2d/w'], values['conv2d/biases'], stride)
    np.testing.assert_allclose(sess.run(y, {placeholder: x}), expected, atol=1e-4)


@pytest.mark.parametrize('kernel, stride', [(5, 2), (4, 2), (4, 1)])
def test_deconv2d_values(sess, kernel, stride):
    """deconv2d is the transpose of the convolution: <deconv(x), y> = <x, conv(y)> for every y."""
    x, y = np.random.normal(size=[2, 5, 6, 3]), np.random.normal(size=[2, 5 * stride, 6 * stride, 4])
    placeholder = tf.placeholder(tf.float32, [None, 5, 6, 3])
    output = deconv2d(placeholder, [tf.shape(placeholder)[0], 5 * stride, 6 * stride, 4],
                      kernel, kernel, stride, stride)
    values = randomize(sess)
    left = sess.run(output, {placeholder: x}) - values['deconv2d/biases']  # [2, 5*stride, 6*stride, 4]
    right = numpy_conv2d(y, values['deconv2d/w'], 0, stride)  # [2, 5, 6, 3]
    np.testing.assert_allclose((left * y).sum((1, 2, 3)), (x * right).sum((1, 2, 3)), rtol=1e-4)
    assert np.all(values['deconv2d/biases'] > 0)


def test_deconv2d_of_one_point(sess):
    x = np.zeros([1, 3, 3, 1])
    x[0, 1, 1] = 1
    placeholder = tf.placeholder(tf.float32, [None, 3, 3, 1])
    y = deconv2d(placeholder, [tf.shape(placeholder)[0], 6, 6, 2], 4, 4, 2, 2)
    values = randomize(sess)
    expected = np.zeros([6, 6, 2])
    expected[1:5, 1:5] = values['deconv2d/w'][:, :, :, 0]
    np.testing.assert_allclose(sess.run(y, {placeholder: x})[0], expected + values['deconv2d/biases'], rtol=1e-6)


@pytest.mark.parametrize('height, width, kernel, stride', [(8, 8, 5, 2), (7, 9, 4, 2), (6, 5, 4, 1), (9, 7, 3, 3)])
def test_gradients_for_bfloat16_are_tensorflows(sess, height, width, kernel, stride):
    placeholder = tf.placeholder(tf.float32, [None, height, width, 3])
    small = conv2d(placeholder, 4, kernel, kernel, stride, stride)
    output_shape = [tf.shape(placeholder)[0], height * stride, width * stride, 2]
    large = deconv2d(placeholder, output_shape, kernel, kernel, stride, stride)
    with tf.get_default_graph().gradient_override_map(BFLOAT16_GRADIENTS), tf.variable_scope('', reuse=True):
        others = (conv2d(placeholder, 4, kernel, kernel, stride, stride),
                  deconv2d(placeholder, output_shape, kernel, kernel, stride, stride))
    randomize(sess)
    inputs = [placeholder, *tf.trainable_variables()]
    assert len(inputs) == 5
    feed = {placeholder: np.random.normal(size=[6, height, width, 3])}
    expected, found = (sess.run(tf.gradients([tf.sin(y) for y in outputs], inputs), feed)
                       for outputs in ((small, large), others))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4 * abs(one).max())


def test_linear_values(sess):
    x = np.random.normal(size=[7, 5])
    placeholder = tf.placeholder(tf.float32, [None, 5])
    y = linear(placeholder, 4)
    values = randomize(sess)
    expected = x @ values['linear/Matrix'] + values['linear/bias']
    np.testing.assert_allclose(sess.run(y, {placeholder: x}), expected, atol=1e-5)
    assert y.shape.as_list() == [None, 4]

    variables = {v.op.name: v for v in tf.trainable_variables()}
    dy = np.random.normal(size=[7, 4])
    gradients = tf.gradients(y, [placeholder, variables['linear/Matrix'], variables['linear/bias']],
                             tf.constant(dy, tf.float32))
    for found, expected in zip(sess.run(gradients, {placeholder: x}),
                               (dy @ values['linear/Matrix'].T, x.T @ dy, dy.sum(0)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_lrelu_and_hw_flatten_values(sess):
    x = np.random.normal(size=[2, 3, 4, 5]).astype(np.float32)
    np.testing.assert_allclose(sess.run(lrelu(tf.constant(x))), np.where(x > 0, x, 0.2 * x), rtol=1e-6)
    np.testing.assert_allclose(sess.run(lrelu(tf.constant(x), 0.5)), np.where(x > 0, x, 0.5 * x), rtol=1e-6)
    flat = sess.run(hw_flatten(tf.constant(x)))
    assert (flat[:, 2 * 4 + 1] == x[:, 2, 1]).all()


@pytest.mark.parametrize('shape', [[6, 3], [6, 4, 5, 3], [1, 4, 4, 3]])
def test_bn_values_and_moving_statistics(sess, shape):
    placeholder = tf.placeholder(tf.float32, [None, *shape[1:]])
    trained = bn(placeholder, True, 'bn')
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        inferred = bn(placeholder, False, 'bn')
    values = randomize(sess)
    mean, variance = values['bn/moving_mean'].copy(), values['bn/moving_variance'].copy()
    axes = tuple(range(len(shape) - 1))
    for _ in range(5):
        x = np.random.normal(2, 3, size=shape).astype(np.float32)
        np.testing.assert_allclose(sess.run(trained, {placeholder: x}), numpy_bn(x, values, 'bn', True), atol=1e-4)
        mean += 0.1 * (x.mean(axes) - mean)
        variance += 0.1 * (x.var(axes, ddof=1) - variance)
    values.update({'bn/moving_mean': mean, 'bn/moving_variance': variance})
    for _ in range(2):  # the second time shows that the first has not touched them
        np.testing.assert_allclose(sess.run(inferred, {placeholder: x}), numpy_bn(x, values, 'bn', False), atol=1e-4)


@pytest.mark.parametrize('is_training', [True, False])
def test_attention_values(sess, is_training):
    x = np.random.normal(size=[3, 5, 4, 16])
    placeholder = tf.placeholder(tf.float32, [None, 5, 4, 16])
    y = attention(placeholder, is_training)
    values = randomize(sess)
    for name in 'fgh':  # small weights, lest the softmax picks one place and hides errors elsewhere
        values[f'attention/{name}_conv/w'] = np.random.normal(scale=0.1, size=values[f'attention/{name}_conv/w'].shape)
    for variable in tf.global_variables():
        variable.load(values[variable.op.name], sess)
    output, beta = sess.run([y, 'attention/attention_map:0'], {placeholder: x})
    expected_output, expected_beta = numpy_attention(x, values, is_training)
    np.testing.assert_allclose(beta, expected_beta, atol=1e-5)
    np.testing.assert_allclose(output, expected_output, atol=1e-4)
    np.testing.assert_allclose(beta.sum(-1), 1, atol=1e-5)
    assert beta.min() >= 0
    assert abs(beta - 1 / 20).max() > 0.01


def test_attention_is_the_identity_where_gamma_is_0(sess):
    x = np.random.normal(size=[2, 4, 4, 16]).astype(np.float32)
    y = attention(tf.constant(x))
    gamma = next(v for v in tf.trainable_variables() if v.op.name == 'attention/gamma')
    gradient, = tf.gradients(tf.reduce_sum(y), gamma)
    sess.run(tf.global_variables_initializer())
    assert gamma.shape.as_list() == [1]
    assert (sess.run(y) == x).all()
    assert abs(sess.run(gradient)) > 0.1


def test_is_training_reaches_the_batch_norms_of_attention(sess):
    x = tf.placeholder(tf.float32, [None, 4, 4, 16])
    sampling, training = attention(x, is_training=False), attention(x, is_training=True, reuse=True)
    randomize(sess)
    moving = [v for v in tf.global_variables() if 'moving' in v.op.name]
    assert len(moving) == 6
    before = sess.run(moving)
    one = np.random.normal(size=[1, 4, 4, 16])
    alone = sess.run(sampling, {x: one})
    together = sess.run(sampling, {x: np.concatenate([one, np.random.normal(9, 9, size=[6, 4, 4, 16])])})[:1]
    np.testing.assert_allclose(alone, together, rtol=1e-4)  # the company of other images changes nothing
    assert all((a == b).all() for a, b in zip(before, sess.run(moving), strict=True))
    sess.run(training, {x: one})
    assert not any((a == b).all() for a, b in zip(before, sess.run(moving), strict=True))


@pytest.mark.parametrize('first', ['', 'tf.disable_v2_behavior()'])
def test_ops_alone_in_a_notebook(tmp_path, first):
    """Nothing to call first; and code that switches to TensorFlow 1 in the usual way does no harm."""
    cell = f'''
from ops import conv2d, deconv2d, bn, linear, hw_flatten, attention
import numpy as np
import tensorflow.compat.v1 as tf
{first}
x = tf.placeholder(tf.float32, [None, 8, 8, 1])
y = attention(tf.nn.relu(bn(conv2d(x, 16), True, 'bn')))
y = linear(hw_flatten(deconv2d(y, [tf.shape(x)[0], 8, 8, 1]))[:, :, 0], 3)
with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    print(sess.run(y, {{x: np.ones([5, 8, 8, 1])}}).shape)
'''
    done = subprocess.run([sys.executable, '-c', cell], cwd=MAIN.parent, capture_output=True, text=True)
    assert done.stdout == '(5, 3)\n', done.stderr

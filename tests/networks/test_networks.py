"""The two other networks, against NumPy and against the tables that describe them."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MAIN, numpy_bn, numpy_conv2d

from benchmarks.sizes import parameters, shapes
from networks import NETWORKS
from networks.resnet import down_block, up_block
from ops import attention_layers, avg_pool, bn, move, upsample
from options import UserError

SIZES = 32, 64, 128


@pytest.fixture(autouse=True)
def fixed_numbers():
    np.random.seed(0)


def randomize(sess, scale=0.3):
    """Set every variable to random numbers -> {name: value}."""
    found = {}
    for variable in tf.global_variables():
        name = variable.op.name
        low, high = (0.5, 1.5) if name.endswith(('gamma', 'moving_variance')) else (-scale, scale)
        found[name] = np.random.uniform(low, high, variable.shape).astype(np.float32)
        variable.load(found[name], sess)
    return found


def relu(x):
    return np.maximum(x, 0)


def doubled(x):
    return x.repeat(2, 1).repeat(2, 2)


def halved(x):
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


def convolve(x, values, name, stride=1):
    return numpy_conv2d(x, values[f'{name}/w'], values[f'{name}/biases'], stride)


def numpy_deconv2d(x, values, name):
    """A transposed convolution with a kernel of 4 and a stride of 2, by its definition."""
    w = values[f'{name}/w']  # [4, 4, C', C]
    batch, height, width, _ = x.shape
    y = np.zeros([batch, 2 * height + 2, 2 * width + 2, w.shape[2]])
    for i in range(4):
        for j in range(4):
            y[:, i:i + 2 * height:2, j:j + 2 * width:2] += x @ w[i, j].T
    return y[:, 1:-1, 1:-1] + values[f'{name}/biases']


def numpy_up_block(x, values, name):
    y = convolve(doubled(relu(numpy_bn(x, values, f'{name}/bn1', False))), values, f'{name}/conv1')
    y = convolve(relu(numpy_bn(y, values, f'{name}/bn2', False)), values, f'{name}/conv2')
    return y + convolve(doubled(x), values, f'{name}/shortcut')


def numpy_down_block(x, values, name, first, pooled):
    pool = halved if pooled else lambda x: x
    y = convolve(x if first else relu(x), values, f'{name}/conv1')
    y = pool(convolve(relu(y), values, f'{name}/conv2'))
    return y + pool(convolve(x, values, f'{name}/shortcut'))


def test_upsample_and_avg_pool_and_their_gradients(sess):
    x = np.random.randn(2, 4, 6, 3).astype(np.float32)
    placeholder = tf.placeholder(tf.float32, [None, 4, 6, 3])
    weights = np.random.randn(2, 8, 12, 3).astype(np.float32)
    large, small = upsample(placeholder), avg_pool(placeholder)
    gradient, = tf.gradients(large * weights, placeholder)
    values = sess.run([large, small, gradient], {placeholder: x})
    for found, expected in zip(values, [doubled(x), halved(x), 4 * halved(weights)], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_residual_blocks(sess):
    """Also that the shortcut takes what comes in before the relu: x has both signs."""
    x = np.random.randn(2, 4, 4, 3).astype(np.float32)
    up = up_block(tf.constant(x), 5, 'up', lambda x, scope: bn(x, False, scope), None)
    downs = {(first, pooled): down_block(tf.constant(x), 5, f'down{first:d}{pooled:d}', first, pooled, None)
             for first in (True, False) for pooled in (True, False)}
    values = randomize(sess)
    np.testing.assert_allclose(sess.run(up), numpy_up_block(x, values, 'up'), atol=1e-4)
    for (first, pooled), y in downs.items():
        expected = numpy_down_block(x, values, f'down{first:d}{pooled:d}', first, pooled)
        assert expected.shape == (2, *([2, 2] if pooled else [4, 4]), 5)
        np.testing.assert_allclose(sess.run(y), expected, atol=1e-4)


def numpy_dcgan(z, x, values):
    y = (z @ values['generator/g_fc1/Matrix'] + values['generator/g_fc1/bias']).reshape(len(z), 4, 4, -1)
    y = relu(numpy_bn(y, values, 'generator/g_bn1', False))
    for number in 2, 3:
        y = numpy_deconv2d(y, values, f'generator/g_dc{number}')
        y = relu(numpy_bn(y, values, f'generator/g_bn{number}', False))
    images = (np.tanh(numpy_deconv2d(y, values, 'generator/g_dc4')) + 1) / 2
    y = 2 * x - 1
    for number in 1, 2, 3:
        y = convolve(y, values, f'discriminator/d_conv{number}', 2)
        y = np.maximum(y, 0.1 * y)
    logit = np.tensordot(y, values['discriminator/d_conv4/w'], 3) + values['discriminator/d_conv4/biases']
    return images, y.sum((1, 2)), logit


def numpy_resnet(z, x, values):
    y = (z @ values['generator/g_fc1/Matrix'] + values['generator/g_fc1/bias']).reshape(len(z), 4, 4, -1)
    for number in 1, 2, 3:
        y = numpy_up_block(y, values, f'generator/g_block{number}')
    y = convolve(relu(numpy_bn(y, values, 'generator/g_bn', False)), values, 'generator/g_conv')
    images = (np.tanh(y) + 1) / 2
    y = 2 * x - 1
    for number in 1, 2, 3, 4:
        y = numpy_down_block(y, values, f'discriminator/d_block{number}', number == 1, number < 3)
    features = relu(y).sum((1, 2))
    return images, features, features @ values['discriminator/d_fc/Matrix'] + values['discriminator/d_fc/bias']


@pytest.mark.parametrize('kind, by_numpy', [('dcgan', numpy_dcgan), ('resnet', numpy_resnet)])
def test_network_is_what_it_is_by_numpy(sess, kind, by_numpy):
    model = NETWORKS[kind](sess, image_shape=(32, 32, 1), ch=8, z_dim=5, attention='none')
    z, x = np.random.randn(2, 5).astype(np.float32), np.random.rand(2, 32, 32, 1).astype(np.float32)
    images = model.generator(tf.constant(z), is_training=False)
    _, logit, features = model.discriminator(tf.constant(x), is_training=False)
    values = randomize(sess, 0.1)
    for found, expected in zip(sess.run([images, features, logit]), by_numpy(z, x, values), strict=True):
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-4, rtol=1e-4)
    assert images.shape.as_list()[1:] == [32, 32, 1]


WHERE = {('dcgan', 32): ([(8, 16), (16, 8)], [(8, 16), (4, 32)]), ('dcgan', 64): ([(16, 16), (32, 8)],
                                                                                 [(8, 32), (4, 64)]),
         ('dcgan', 128): ([(16, 32), (32, 16)], [(8, 64), (4, 128)]), ('resnet', 32): ([(16, 32)], [(16, 16)]),
         ('resnet', 64): ([(32, 16)], [(32, 8)]), ('resnet', 128): ([(32, 32)], [(32, 16)])}


@pytest.mark.parametrize('kind, size', WHERE)
def test_attention_sits_where_the_table_puts_it(sess, kind, size):
    """Size and channels of the maps that it sits on, ch 8; its keys are pooled."""
    model = NETWORKS[kind](sess, image_shape=(size, size, 3), ch=8, attention='paper', classes=3, conditional=True)
    labels = tf.constant([0, 1])
    images = model.generator(tf.zeros([2, 62]), is_training=False, labels=labels)
    probability, logit, features = model.discriminator(images, is_training=False, labels=labels)
    assert images.shape.as_list()[1:] == [size, size, 3]
    assert probability.shape.as_list()[1:] == logit.shape.as_list()[1:] == [1]
    found = {'g': [], 'd': []}
    for layer in attention_layers():
        channels = next(v.shape.as_list()[2] for v in tf.global_variables() if v.op.name == f'{layer.name}/g_conv/w')
        found[layer.name[0]].append((layer.queries[0], channels))
        assert layer.keys == [side // 2 for side in layer.queries]
    assert (found['g'], found['d']) == WHERE[kind, size]
    embedding = next(v for v in tf.global_variables() if v.op.name.endswith('d_embedding/w'))
    assert embedding.shape.as_list() == [3, features.shape.as_list()[1]]


@pytest.mark.parametrize('kind', ['dcgan', 'resnet'])
def test_every_weight_is_normalized_and_every_u_moves_once(sess, kind):
    """The largest singular value of each is found after some steps; batch norm stays where it belongs."""
    model = NETWORKS[kind](sess, image_shape=(32, 32, 1), ch=8, sn=True, classes=3, conditional=True)
    z, x, labels = tf.zeros([2, 62]), tf.zeros([2, 32, 32, 1]), tf.constant([0, 1])
    model.sigmas = {}
    images = model.generator(z, labels=labels)
    _, logit, _ = model.discriminator(x, labels=labels)
    step = move(model.sigmas, tf.group(images, logit))
    sess.run(tf.global_variables_initializer())
    weights = {v.op.name.rsplit('/', 1)[0]: v for v in tf.trainable_variables()
               if v.op.name.endswith(('/w', '/Matrix'))}
    assert set(model.sigmas) == set(weights)
    for _ in range(300):  # where the two largest are close, 60 leave some 2 % too small
        sess.run(step)
    for name, sigma in sess.run({name: sigma.product for name, sigma in model.sigmas.items()}).items():
        w = weights[name].eval(sess)
        w = w.transpose(0, 1, 3, 2) if '_dc' in name else w
        expected = np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)[0]
        assert np.linalg.norm(sigma) == pytest.approx(expected, rel=0.005), name
    norms = {v.op.name.rsplit('/', 1)[0] for v in tf.global_variables() if v.op.name.endswith('moving_mean')}
    assert norms and all(name.startswith('generator/') for name in norms)  # D has none with spectral normalization


def test_sizes_that_a_network_does_not_take(sess):
    for kind, shape, complaint in [
            ('dcgan', (28, 28, 1), 'dcgan takes images of 32, 64, 128 pixels, not 28 x 28: give another --img_size'),
            ('resnet', (32, 64, 1), 'not 32 x 64'),
            ('article', (30, 28, 1), 'takes images of multiples of 4 pixels, fewer than 512 x 512 in all, not 30 x 28'),
            ('article', (512, 512, 1), 'not 512 x 512')]:
        with pytest.raises(UserError, match=complaint):
            NETWORKS[kind](sess, image_shape=shape)
    NETWORKS['article'](sess, image_shape=(1024, 8, 1))
    with pytest.raises(TypeError, match='SAGAN is the network article; networks.NETWORKS has dcgan'):
        NETWORKS['article'](sess, network='dcgan')
    assert NETWORKS['resnet'](sess, dataset_name='cifar10').image_shape == (32, 32, 3)


def test_the_table_of_readme_is_that_of_the_graphs():
    rows = [[cell.strip() for cell in row.strip('|').split('|')]
            for row in re.findall(r'^\| (?:dcgan|resnet) .*', (MAIN.parent / 'README.md').read_text(), re.M)]
    assert [(row[0], int(row[1])) for row in rows] == [(kind, size) for kind in ('dcgan', 'resnet') for size in SIZES]
    for kind, size, maps, counts, *_ in rows:
        assert maps == shapes(kind, int(size)) and counts == parameters(kind, int(size))
    assert pathlib.Path(MAIN.parent, 'benchmarks', 'sizes.py').exists()

"""The registry of networks. dcgan and resnet are compared with NumPy and with the table in docs/networks.md."""

import gc
import weakref

import numpy as np
import pytest
from helpers import ROOT, SMALL, numpy_bn, numpy_conv2d, randomize, variable

import networks
from benchmarks import sizes
from networks import NETWORKS
from networks.resnet import down_block, up_block
from ops import attention_layers, bn
from options import UserError
from tf1 import tf

SIZES = 32, 64, 128


@pytest.fixture
def rng():
    return np.random.default_rng(0)


##################################################################################
# The networks in NumPy
##################################################################################

def relu(x):
    return np.maximum(x, 0)


def upsample(x):
    return x.repeat(2, 1).repeat(2, 2)


def avg_pool(x):
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


def convolve(x, values, name, stride=1):
    return numpy_conv2d(x, values[f'{name}/w'], values[f'{name}/biases'], stride)


def deconvolve(x, values, name):
    """Return the transposed convolution of x with a 4x4 kernel and stride 2, by its definition."""
    w = values[f'{name}/w']  # [4, 4, C', C]
    batch_size, height, width, _ = x.shape
    y = np.zeros([batch_size, 2 * height + 2, 2 * width + 2, w.shape[2]])
    for i in range(4):
        for j in range(4):
            y[:, i:i + 2 * height:2, j:j + 2 * width:2] += x @ w[i, j].T
    return y[:, 1:-1, 1:-1] + values[f'{name}/biases']


def numpy_up_block(x, values, name):
    y = convolve(upsample(relu(numpy_bn(x, values, f'{name}/bn1', False))), values, f'{name}/conv1')
    y = convolve(relu(numpy_bn(y, values, f'{name}/bn2', False)), values, f'{name}/conv2')
    return y + convolve(upsample(x), values, f'{name}/shortcut')


def numpy_down_block(x, values, name, is_first, downsample):
    y = convolve(x if is_first else relu(x), values, f'{name}/conv1')
    y = convolve(relu(y), values, f'{name}/conv2') + convolve(x, values, f'{name}/shortcut')
    return avg_pool(y) if downsample else y


def numpy_dcgan(z, x, values):
    """Return (images, features, logit)."""
    y = (z @ values['generator/g_fc1/Matrix'] + values['generator/g_fc1/bias']).reshape(len(z), 4, 4, -1)
    y = relu(numpy_bn(y, values, 'generator/g_bn1', False))
    for number in 2, 3:
        y = deconvolve(y, values, f'generator/g_dc{number}')
        y = relu(numpy_bn(y, values, f'generator/g_bn{number}', False))
    images = (np.tanh(deconvolve(y, values, 'generator/g_dc4')) + 1) / 2
    y = 2 * x - 1
    for number in 1, 2, 3:
        y = convolve(y, values, f'discriminator/d_conv{number}', 2)
        y = np.maximum(y, 0.1 * y)
    logit = np.tensordot(y, values['discriminator/d_conv4/w'], 3) + values['discriminator/d_conv4/biases']
    return images, y.sum((1, 2)), logit


def numpy_resnet(z, x, values):
    """Return (images, features, logit)."""
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


##################################################################################
# Values
##################################################################################

def test_up_block_equals_numpy(sess, rng):
    x = rng.normal(size=[2, 4, 4, 3])
    y = up_block(tf.constant(x, tf.float32), 5, 'block', lambda x, scope: bn(x, False, scope), sn=False)
    values = randomize(sess, rng)
    np.testing.assert_allclose(sess.run(y), numpy_up_block(x, values, 'block'), atol=1e-4)


@pytest.mark.parametrize('downsample', [True, False])
@pytest.mark.parametrize('is_first', [True, False])
def test_down_block_equals_numpy(sess, rng, is_first, downsample):
    """The shortcut starts before the relu, which matters because x has both signs."""
    x = rng.normal(size=[2, 4, 4, 3])
    y = down_block(tf.constant(x, tf.float32), 5, 'block', is_first, downsample, sn=False)
    values = randomize(sess, rng)
    np.testing.assert_allclose(sess.run(y), numpy_down_block(x, values, 'block', is_first, downsample), atol=1e-4)


@pytest.mark.parametrize('kind, numpy_network', [
    ('dcgan', numpy_dcgan), pytest.param('resnet', numpy_resnet, marks=pytest.mark.slow)], ids=['dcgan', 'resnet'])
def test_network_equals_numpy(sess, rng, kind, numpy_network):
    model = NETWORKS[kind](sess, image_shape=(32, 32, 1), ch=8, z_dim=5, attention='none', sn=False)
    z, x = rng.normal(size=[2, 5]), rng.random([2, 32, 32, 1])
    images = model.generator(tf.constant(z, tf.float32), is_training=False)
    _, logit, features = model.discriminator(tf.constant(x, tf.float32), is_training=False)
    values = randomize(sess, rng, 0.1)
    outputs = sess.run([images, features, logit])
    for output, expected in zip(outputs, numpy_network(z, x, values), strict=True):
        np.testing.assert_allclose(output, expected.reshape(output.shape), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('kind', NETWORKS)
def test_discriminator_judges_two_batches_as_it_judges_each(sess, rng, kind):
    """Batch norm, including that of the attention layers, treats real and fake images as two batches."""
    model = NETWORKS[kind](sess, image_shape=(32, 32, 1), ch=8, attention='article', sn=False)
    first, second = (tf.constant(rng.random([3, 32, 32, 1]), tf.float32) for _ in range(2))
    _, together, _ = model.discriminator(tf.concat([first, second], 0), batches=2)
    separate = [model.discriminator(x, reuse=True)[1] for x in (first, second)]
    randomize(sess, rng, 0.1)
    together, *separate = sess.run([together, *separate])
    np.testing.assert_allclose(together, np.concatenate(separate), rtol=1e-3, atol=1e-4)


##################################################################################
# Shapes and sizes
##################################################################################

ATTENTION_MAPS = {  # (network, image size): (size, channels) of the maps with attention in G and in D, if ch is 8
    ('dcgan', 32): ([(8, 16), (16, 8)], [(8, 16), (4, 32)]),
    ('dcgan', 64): ([(16, 16), (32, 8)], [(8, 32), (4, 64)]),
    ('dcgan', 128): ([(16, 32), (32, 16)], [(8, 64), (4, 128)]),
    ('resnet', 32): ([(16, 32)], [(16, 16)]),
    ('resnet', 64): ([(32, 16)], [(32, 8)]),
    ('resnet', 128): ([(32, 32)], [(32, 16)])}


@pytest.fixture(params=[pytest.param(key, marks=pytest.mark.slow if key[1] > 32 else [], id=f'{key[0]}-{key[1]}')
                        for key in ATTENTION_MAPS])
def conditional_networks(request, sess):
    """Conditional networks with the paper's attention: (kind, size, images, (probability, logit, features))."""
    kind, size = request.param
    model = NETWORKS[kind](sess, image_shape=(size, size, 3), ch=8, attention='paper', classes=3, conditional=True)
    labels = tf.constant([0, 1])
    images = model.generator(tf.zeros([2, 62]), is_training=False, labels=labels)
    return kind, size, images, model.discriminator(images, is_training=False, labels=labels)


def test_network_outputs_have_the_expected_shapes(conditional_networks):
    _, size, images, (probability, logit, features) = conditional_networks
    assert images.shape.as_list()[1:] == [size, size, 3]
    assert probability.shape.as_list()[1:] == logit.shape.as_list()[1:] == [1]
    assert features.shape.as_list()[1:] == variable('discriminator/d_embedding/w').shape.as_list()[1:]


def test_network_has_attention_on_the_documented_maps(conditional_networks):
    kind, size, *_ = conditional_networks
    maps = {'generator': [], 'discriminator': []}
    for layer in attention_layers():
        channels = variable(f'{layer.scope}/g_conv/w').shape.as_list()[2]
        maps[layer.scope.split('/')[0]].append((layer.query_shape[0], channels))
    assert tuple(maps.values()) == ATTENTION_MAPS[kind, size]


@pytest.mark.parametrize('kind', ['dcgan', 'resnet'])
def test_discriminator_has_batch_norm_only_in_attention(sess, kind):
    model = NETWORKS[kind](sess, image_shape=(32, 32, 1), ch=8, attention='article', sn=False)
    model.discriminator(model.generator(tf.zeros([2, 62])))
    norms = {v.op.name.rsplit('/', 1)[0] for v in tf.global_variables('discriminator/')
             if v.op.name.endswith('moving_mean')}
    assert norms and all('attention' in norm for norm in norms)


@pytest.mark.slow
@pytest.mark.parametrize('kind, size, ch', sizes.rows())
def test_docs_list_the_parameters_of_the_networks(kind, size, ch):
    shown_ch = '' if kind == 'article' else ch
    row = ' | '.join(map(str, [kind, size, shown_ch, *sizes.parameters(kind, size, ch)]))
    assert f'| {row} |' in (ROOT / 'docs' / 'networks.md').read_text()


##################################################################################
# Construction
##################################################################################

@pytest.mark.parametrize('kind, shape, message', [
    ('dcgan', (28, 28, 1), 'square images of 32 or 64 or 128 pixels, not 28 x 28: choose another --img_size'),
    ('resnet', (32, 64, 1), 'resnet requires square images of 32 or 64 or 128 pixels, not 32 x 64'),
    ('article', (30, 28, 1), 'multiples of 4, and fewer than 512 x 512 pixels, not 30 x 28'),
    ('article', (512, 512, 1), 'not 512 x 512')])
def test_network_refuses_images_of_other_sizes(sess, kind, shape, message):
    with pytest.raises(UserError, match=message):
        NETWORKS[kind](sess, image_shape=shape)


def test_article_network_accepts_a_long_side(sess):
    assert NETWORKS['article'](sess, image_shape=(1024, 8, 1)).config.image_shape == (1024, 8, 1)


def test_network_has_the_shape_of_the_data_set_by_default(sess):
    assert NETWORKS['resnet'](sess, dataset_name='cifar10').config.image_shape == (32, 32, 3)


@pytest.mark.parametrize('options, rates', [
    (dict(image_shape=(32, 32, 1)), (0.001, 0.004)), (dict(image_shape=(64, 64, 3)), (0.0005, 0.002)),
    (dict(dataset='cifar10'), (0.001, 0.004)), (dict(dataset='cifar10', img_size=64), (0.0005, 0.002)),
    (dict(image_shape=(64, 64, 3), d_lr=0.25), (0.0005, 0.25))])
def test_dcgan_has_the_learning_rates_of_its_image_size(sess, options, rates):
    config = NETWORKS['dcgan'](sess, **options).config
    assert (config.g_lr, config.d_lr) == rates


def test_dcgan_has_the_learning_rates_of_the_image_size_in_its_config(sess, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'config.json').write_text('{"image_shape": [32, 32, 3]}')
    options = dict(dataset='missing', name='run', checkpoint_dir=str(tmp_path))
    assert NETWORKS['dcgan'](sess, **options).config.g_lr == 0.001


def test_class_refuses_the_name_of_another_network(sess):
    with pytest.raises(TypeError, match='SAGAN is the network article, not dcgan: use networks.build'):
        NETWORKS['article'](sess, network='dcgan')


@pytest.mark.slow
def test_build_returns_the_named_network_with_its_graph(sess):
    model = networks.build(sess, network='dcgan', image_shape=(32, 32, 1), ch=8)
    assert type(model) is NETWORKS['dcgan']
    assert model.fake_images.shape.as_list() == [None, 32, 32, 1]


def freed_after_building(kind, **options):
    """Return whether the graph of a model is freed once nothing refers to it."""
    with tf.Graph().as_default() as graph, tf.Session() as sess:
        NETWORKS[kind](sess, **options).build_model()
        reference = weakref.ref(graph)
    del graph, sess
    gc.collect()
    return reference() is None


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    dict(image_shape=SMALL), dict(image_shape=SMALL, classes=3, conditional=True, sn=True, attention='paper'),
    dict(image_shape=SMALL, gan_type='wgan-gp', precision='bfloat16')],
    ids=['default', 'sn', 'penalty'])
def test_graph_of_the_article_network_is_freed(options):
    assert freed_after_building('article', **options)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['dcgan', 'resnet'])
def test_graph_of_another_network_is_freed(kind):
    assert freed_after_building(kind, image_shape=(32, 32, 1), ch=8, sn=True)

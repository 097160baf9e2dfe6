"""The playground: its networks in Chromium, compared with TensorFlow, and its HTML."""

import base64
import json
import math
import re
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_gan import TinyGAN, open_model, random_dataset

import networks
import SAGAN
from explorer import playground
from explorer.page import compressed, read_file
from explorer.playground import build_page, lower_network, render_page, write_playground
from options import UserError
from tf1 import tf

CLASSES = ['</script><script>document.title = "hostile"</script>', 'b"\'&\u2028']

# Loads the page's networks into its worker, sends it requests one after another, and returns its answers.
ANSWER = '''
const [requests, done] = arguments;
(async () => {
  const text = id => document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(text('weights')), character => character.charCodeAt(0));
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  const worker = new Worker(URL.createObjectURL(new Blob([text('worker')], {type: 'text/javascript'})));
  const answer = message => new Promise(resolve => {
    worker.onmessage = ({data}) => resolve(data);
    worker.postMessage(message);
  });
  const {graph} = JSON.parse(text('playground'));
  const answers = [await answer({kind: 'load', graph, weights: await new Response(inflated).arrayBuffer()})];
  for (const request of requests) answers.push(await answer(request));
  const base64 = array => btoa(Array.from(new Uint8Array(array.buffer), byte => String.fromCharCode(byte)).join(''));
  done(JSON.stringify(answers, (_, value) => value instanceof Float32Array ? {float32: base64(value)} : value));
})();
'''


def answers_of(driver, path, requests):
    """Open a page, load its networks, and return its worker's answers to the requests."""
    driver.get(f'file://{path}')
    ready, *answers = json.loads(driver.execute_async_script(ANSWER, requests), object_hook=decode_array)
    assert ready == {'kind': 'ready'}
    return answers


def decode_array(value):
    """Return a decoded JSON object, or the array that ANSWER has encoded in it."""
    if 'float32' in value:
        return np.frombuffer(base64.b64decode(value['float32']), '<f4')
    return value


##################################################################################
# Whole networks
##################################################################################

IMAGES = 20
CASES = {
    'article': dict(network='article'),
    'dcgan': dict(network='dcgan', img_size=32, ch=8, sn=False, gan_type='gan', conditional=True, classes=3),
    'resnet': dict(network='resnet', img_size=32, ch=8, attention='article', conditional=True, classes=3)}


def randomize(model):
    """Set random weights for which gamma, the labels and single pixels change the results."""
    rng = np.random.default_rng(0)
    variables = {variable.op.name: variable for variable in [
        *tf.global_variables('generator/'), *tf.global_variables('discriminator/'), *model.averages]}
    values = model.sess.run(variables)
    for name, value in values.items():
        if re.search('gamma|variance', name):
            values[name] = rng.uniform(0.4, 1.2, value.shape)
        elif value.ndim == 1 or 'beta' in name:
            values[name] = rng.normal(0, 0.2, value.shape)
        else:
            terms = value.size / value.shape[-1]  # in the sum for one output
            if '_dc' in name:
                terms = value.size / value.shape[2] / 4
            elif 'embedding' in name:
                terms = 256 * value.shape[1]  # its inputs are sums themselves
            gain = 1.5 if 'generator' in name else 1.2
            values[name] = rng.normal(0, gain / np.sqrt(terms), value.shape)
        if re.search('attention.*/[fg]_', name):
            values[name] *= 2 if model.config.sn else 0.5  # attention is neither uniform nor one-hot
    assign(model.sess, variables.values(), values.values())
    model.refresh_statistics()


def assign(sess, variables, values):
    """Set variables to values in a single call, because each call prepares the whole graph."""
    feed = {variable.initializer.inputs[1]: value for variable, value in zip(variables, values, strict=True)}
    sess.run([variable.initializer for variable in variables], feed)


def run_in_tensorflow(model, z, labels, images):
    """Return (images of z, maps of G, outputs of D on images, maps of D). The maps are lists of [B, N, M]."""
    maps = {network: [layer.attention_map for layer in layers] for network, layers in model.layers.items()}
    generated, g_maps = model.fetch([model.fake_images, maps['generator']], z, labels)
    feed = {model.inputs: images}
    if labels is not None:
        feed[model.labels] = labels
    outputs, d_maps = model.sess.run([model.d_output, maps['discriminator']], feed)
    return SimpleNamespace(images=generated, g_maps=g_maps, outputs=outputs[:, 0], d_maps=d_maps)


def requests_of(z, labels, images, g_gammas, d_gammas):
    """Return the requests with which a page computes what run_in_tensorflow returns."""
    requests = []
    for i in range(len(z)):
        label = None if labels is None else int(labels[i])
        requests.append({'kind': 'generate', 'id': i, 'z': z[i].tolist(), 'label': label, 'gammas': g_gammas})
        requests.append({'kind': 'judge', 'id': i, 'pixels': images[i].ravel().tolist(), 'label': label,
                         'gammas': d_gammas})
    return requests


def results_of(answers, shape):
    """Return answers to requests_of in the form of run_in_tensorflow. shape is that of the images."""
    generated, judged = answers[::2], answers[1::2]
    assert [answer['kind'] for answer in generated] == ['generated'] * len(generated)
    assert [answer['id'] for answer in judged] == list(range(len(judged)))

    def maps_of(answers):
        return [np.array(maps) for maps in zip(*(answer['maps'] for answer in answers), strict=True)]
    return SimpleNamespace(images=np.array([answer['pixels'] for answer in generated]).reshape(shape),
                           g_maps=maps_of(generated), d_maps=maps_of(judged),
                           outputs=np.array([answer['output'] for answer in judged]))


@pytest.fixture(scope='module', params=CASES)
def computed(request, driver, tmp_path_factory, small_data):
    """The results of a network in TensorFlow and in pages with 16-bit weights, 8-bit weights, and gamma 0."""
    folder = tmp_path_factory.mktemp('playground')
    rng = np.random.default_rng(1)
    with tf.Graph().as_default(), tf.Session() as sess, pytest.MonkeyPatch.context() as patch:
        patch.setattr(playground, 'PAGE_BYTES', math.inf)
        patch.setattr(SAGAN, 'STATISTICS_BATCHES', 2)
        if request.param != 'article':
            patch.setattr(playground, 'QUANTIZED_SIZE', 1 << 14)  # otherwise no matrix would have 8 bits
        model = networks.build(sess, dataset='mnist', data_dir=str(small_data), **CASES[request.param])
        model.initialize()
        randomize(model)
        z, labels = model.draw_z(IMAGES, 0), model.sampled_labels(IMAGES)
        images = model.sample(z[::-1], labels)
        images[::2] = rng.random([IMAGES // 2, *images.shape[1:]]) < 0.2  # drawings
        variables = [[layer.gamma for layer in layers] for layers in model.layers.values()]
        gammas = [[float(value) for value, in values] for values in sess.run(variables)]
        results = {'tensorflow': run_in_tensorflow(model, z, labels, images)}
        (folder / 'float16.html').write_text(build_page(model, 1, quantize=False), encoding='utf-8')
        (folder / 'int8.html').write_text(build_page(model, 1), encoding='utf-8')
        gamma_variables = [gamma for network in variables for gamma in network]
        assign(sess, gamma_variables, [[0.]] * len(gamma_variables))
        results['tensorflow without attention'] = run_in_tensorflow(model, z, labels, images)
    requests = requests_of(z, labels, images, *gammas)
    without = requests_of(z, labels, images, *([0.] * len(layer_gammas) for layer_gammas in gammas))
    answers = answers_of(driver, folder / 'float16.html', requests + without)
    results['float16'] = results_of(answers[:len(requests)], images.shape)
    results['without attention'] = results_of(answers[len(requests):], images.shape)
    results['int8'] = results_of(answers_of(driver, folder / 'int8.html', requests), images.shape)
    return results


def largest(first, second):
    """Return the largest difference between two lists of maps."""
    return max(np.abs(a.reshape(-1) - b.reshape(-1)).max() for a, b in zip(first, second, strict=True))


@pytest.mark.slow
def test_reference_images_and_outputs_vary(computed):
    reference = computed['tensorflow']
    assert reference.images.std(0).mean() > 0.03
    assert np.ptp(reference.outputs) > 0.1
    assert largest(reference.g_maps, [maps[::-1] for maps in reference.g_maps]) > 0.005


@pytest.mark.slow
def test_images_with_16_bit_weights_are_those_of_tensorflow(computed):
    np.testing.assert_allclose(computed['float16'].images, computed['tensorflow'].images, rtol=0, atol=1 / 255)


@pytest.mark.slow
def test_maps_and_outputs_with_16_bit_weights_are_those_of_tensorflow(computed):
    page, reference = computed['float16'], computed['tensorflow']
    assert largest(page.g_maps, reference.g_maps) < 0.005
    assert largest(page.d_maps, reference.d_maps) < 0.005
    np.testing.assert_allclose(page.outputs, reference.outputs, rtol=1e-3, atol=0.005)


@pytest.mark.slow
def test_images_with_8_bit_weights_are_close_to_those_of_tensorflow(computed):
    difference = np.abs(computed['int8'].images - computed['tensorflow'].images)
    assert np.quantile(difference, 0.999) < 4 / 255


@pytest.mark.slow
def test_maps_and_outputs_with_8_bit_weights_are_close_to_those_of_tensorflow(computed):
    page, reference = computed['int8'], computed['tensorflow']
    assert largest(page.g_maps, reference.g_maps) < 0.02
    assert largest(page.d_maps, reference.d_maps) < 0.02
    np.testing.assert_allclose(page.outputs, reference.outputs, rtol=1e-3, atol=0.02)


@pytest.mark.slow
def test_page_with_gamma_0_equals_tensorflow_with_gamma_0(computed):
    page, reference = computed['without attention'], computed['tensorflow without attention']
    assert np.abs(reference.images - computed['tensorflow'].images).max() > 0.05
    np.testing.assert_allclose(page.images, reference.images, rtol=0, atol=1 / 255)
    np.testing.assert_allclose(page.outputs, reference.outputs, rtol=1e-3, atol=0.005)


##################################################################################
# Single operations
##################################################################################

# Functions of x [1, 4, 6, 3] with positive values, y [1, 24, 3] = the same values, and label [1] = 2.
KERNEL = np.random.default_rng(2).integers(-8, 9, [3, 5, 3, 5]).astype(np.float32) / 8  # exact in 16 bits
OPERATIONS = {
    'Add': lambda x, y, label: x + np.float32([1, 2, 3]),
    'Sub of a constant': lambda x, y, label: 1 - x,
    'Mul of each row': lambda x, y, label: x * tf.reduce_sum(x, [2, 3], keepdims=True),
    'Mul of columns and rows': lambda x, y, label: y[:, :, :1] * y[:, :1, :],
    'RealDiv': lambda x, y, label: x / (x + 1),
    'Pow': lambda x, y, label: x ** 2.5,
    'Maximum': lambda x, y, label: tf.maximum(x, 0.5),
    'Minimum': lambda x, y, label: tf.minimum(0.5, x),
    'Neg': lambda x, y, label: -x,
    'Abs': lambda x, y, label: tf.abs(x - 0.5),
    'Square': lambda x, y, label: tf.square(x),
    'Sqrt': lambda x, y, label: tf.sqrt(x),
    'Rsqrt': lambda x, y, label: tf.rsqrt(x),
    'Exp': lambda x, y, label: tf.exp(x),
    'Log': lambda x, y, label: tf.log(x),
    'Relu': lambda x, y, label: tf.nn.relu(x - 0.5),
    'LeakyRelu': lambda x, y, label: tf.nn.leaky_relu(x - 0.5, 0.1),
    'Sigmoid': lambda x, y, label: tf.sigmoid(40 * x - 20),
    'Tanh': lambda x, y, label: tf.tanh(4 * x - 2),
    'Softplus': lambda x, y, label: tf.nn.softplus(40 * x - 20),
    'Softmax': lambda x, y, label: tf.nn.softmax(200 * x),
    'MatMul': lambda x, y, label: tf.matmul(y[0], KERNEL[0, 0]),
    'MatMul with transpose_a': lambda x, y, label: tf.matmul(y[0, :, :2], y[0], transpose_a=True),
    'BatchMatMul of slices': lambda x, y, label: tf.matmul(x[0], x[0], transpose_b=True),
    'BatchMatMul': lambda x, y, label: tf.matmul(y, tf.transpose(y, [0, 2, 1])),
    'Conv2D': lambda x, y, label: tf.nn.conv2d(x, KERNEL, 1, 'SAME'),
    'Conv2D with strides': lambda x, y, label: tf.nn.conv2d(x, KERNEL, [1, 3, 2, 1], 'SAME'),
    'Conv2D without padding': lambda x, y, label: tf.nn.conv2d(x, KERNEL, [1, 1, 2, 1], 'VALID'),
    'Conv2DBackpropInput': lambda x, y, label: tf.nn.conv2d_transpose(
        x, KERNEL.transpose(0, 1, 3, 2), [1, 4, 6, 5], 1, 'SAME'),
    'Conv2DBackpropInput with strides': lambda x, y, label: tf.nn.conv2d_transpose(
        x, KERNEL.transpose(0, 1, 3, 2), [1, 8, 18, 5], [1, 2, 3, 1], 'SAME'),
    'FusedBatchNormV3': lambda x, y, label: tf.nn.fused_batch_norm(
        x, [1., 2, 3], [4., 5, 6], [.1, .2, .3], [1., 2, 3], is_training=False)[0],
    'BiasAdd': lambda x, y, label: tf.nn.bias_add(x, [1., 2, 3]),
    'Sum': lambda x, y, label: tf.reduce_sum(x, [1, 2]),
    'Sum of first and last axis': lambda x, y, label: tf.reduce_sum(x, [1, -1]),
    'Mean': lambda x, y, label: tf.reduce_mean(x, [2]),
    'Max': lambda x, y, label: tf.reduce_max(-x, [1, 3]),
    'AvgPool': lambda x, y, label: tf.nn.avg_pool2d(x, [3, 4], 2, 'SAME'),
    'MaxPool': lambda x, y, label: tf.nn.max_pool2d(-x, [3, 2], [3, 1], 'SAME'),
    'MaxPool without padding': lambda x, y, label: tf.nn.max_pool2d(x, [3, 4], 1, 'VALID'),
    'ResizeNearestNeighbor': lambda x, y, label: tf.image.resize_nearest_neighbor(x, [12, 12]),
    'Transpose': lambda x, y, label: tf.transpose(x, [2, 0, 3, 1]),
    'StridedSlice': lambda x, y, label: x[..., 3:0:-2, None, 1:],
    'StridedSlice from the end': lambda x, y, label: x[:, -1, 1::2],
    'ExpandDims and Squeeze': lambda x, y, label: tf.squeeze(tf.expand_dims(x, 2), 0),
    'ConcatV2': lambda x, y, label: tf.concat([x, -x[:, :, :2], np.ones([1, 4, 1, 3], np.float32)], -2),
    'Pack': lambda x, y, label: tf.stack([x, -x], 2),
    'OneHot': lambda x, y, label: tf.one_hot(label, 4) + x[:, 0, 0, :1],
    'GatherV2': lambda x, y, label: tf.gather(KERNEL[0], label) + x[:, :1, 0, :1],
    'Identity and StopGradient': lambda x, y, label: tf.stop_gradient(tf.identity(x)),
    'Shape': lambda x, y, label: tf.reshape(x, [tf.shape(x)[0], -1])}


@pytest.fixture(scope='module')
def operation_results(driver, tmp_path_factory):
    """{name: (array as the page computes it, array as TensorFlow computes it)} of OPERATIONS."""
    path = tmp_path_factory.mktemp('operations') / 'page.html'
    values = np.random.default_rng(3).uniform(0.1, 1, [1, 4, 6, 3]).astype(np.float32)
    weights = bytearray()
    with tf.Graph().as_default(), tf.Session() as sess:
        x, label = tf.placeholder(tf.float32, [None, 4, 6, 3]), tf.placeholder(tf.int32, [None])
        tensors = [build(x, tf.reshape(x, [-1, 24, 3]), label) for build in OPERATIONS.values()]
        graph = playground.Graph(weights, quantize=False)
        (data, label_node), nodes = playground.lower(
            graph, sess, playground.operations_before(tensors), [([x], values), ([label], np.zeros([1]))], tensors)
        expected = sess.run(tensors, {x: values, label: [2]})
    network = {'nodes': graph.nodes, 'inputs': {'data': data, 'label': label_node, 'gammas': []},
               'outputs': {'result': data, 'maps': nodes}}
    html = render_page({'graph': {'generator': network, 'discriminator': network}}, weights, read_file('graph.js'))
    path.write_text(html, encoding='utf-8')
    answer, = answers_of(driver, path, [
        {'kind': 'generate', 'id': 0, 'z': values.ravel().tolist(), 'label': 2, 'gammas': []}])
    return dict(zip(OPERATIONS, zip(answer['maps'], expected, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('name', OPERATIONS)
def test_operation_matches_tensorflow(operation_results, name):
    result, expected = operation_results[name]
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(result, expected.ravel(), rtol=1e-3, atol=1e-4)  # the statistics have 16 bits


def test_every_operation_that_the_page_supports_is_tested():
    with tf.Graph().as_default() as graph:
        x, label = tf.placeholder(tf.float32, [1, 4, 6, 3]), tf.placeholder(tf.int32, [1])
        for build in OPERATIONS.values():
            build(x, tf.reshape(x, [1, 24, 3]), label)
        types = {op.type for op in graph.get_operations()}
    assert set(playground.LOWER) - types == {'Add', 'BatchMatMul', 'BatchMatMulV3'}  # older and newer versions


##################################################################################
# From TensorFlow's operations to nodes
##################################################################################

REFUSED = {  # functions of x [1, 4, 6, 3]
    'Sin': tf.sin,
    'RandomUniform': lambda x: x + tf.random_uniform([3]),
    'Split': lambda x: tf.split(x, 3, -1)[1],
    'FusedBatchNormV3 with several outputs': lambda x: x + tf.nn.fused_batch_norm(
        x, [1.] * 3, [1.] * 3, [1.] * 3, [1.] * 3, is_training=False)[1],
    'Conv2D with dilations': lambda x: tf.nn.conv2d(x, KERNEL, 1, 'SAME', dilations=2),
    'Conv2D with a kernel computed from the input': lambda x: tf.nn.conv2d(x, x[0, :2, :2, :, None], 1, 'SAME'),
    'ResizeNearestNeighbor from 4 x 6 to 6 x 6': lambda x: tf.image.resize_nearest_neighbor(x, [6, 6]),
    'GatherV2 along an axis other than the first': lambda x: tf.gather(x, [0, 2], axis=1)}


def lower_function(function, quantize=False):
    """Return the Graph of a function of x [1, 4, 6, 3]."""
    with tf.Graph().as_default(), tf.Session() as sess:
        x = tf.placeholder(tf.float32, [None, 4, 6, 3])
        outputs, graph = [function(x)], playground.Graph(bytearray(), quantize)
        playground.lower(graph, sess, playground.operations_before(outputs), [([x], np.ones([1, 4, 6, 3]))], outputs)
    return graph


@pytest.mark.parametrize('description', REFUSED)
def test_lower_names_the_operation_that_it_refuses(description):
    with pytest.raises(UserError, match=f'^{description} is not supported'):
        lower_function(REFUSED[description])


def test_lower_counts_multiplications_and_additions():
    graph = lower_function(lambda x: tf.matmul(tf.reshape(tf.nn.conv2d(x, KERNEL, 2, 'SAME'), [6, 5]), np.ones([5, 7])))
    assert graph.flop == 2 * (2 * 3 * 5) * (3 * 5 * 3) + 2 * (6 * 7) * 5


def test_lower_computes_constants_once():
    graph = lower_function(lambda x: x * tf.exp(tf.fill([3], 1.) + 1))
    assert [node['operation'] for node in graph.nodes] == ['Input', 'Constant', 'Multiply']
    np.testing.assert_allclose(np.frombuffer(graph.weights, '<f2'), np.exp(2), rtol=1e-3)


@pytest.mark.parametrize('array', [np.float32(70001), np.int32(4097)], ids=['beyond float16', 'integer'])
def test_graph_stores_numbers_that_do_not_fit_in_16_bits_exactly(array):
    graph = playground.Graph(bytearray(), quantize=False)
    graph.constant(array)
    assert np.frombuffer(graph.weights, '<f4') == array


def test_graph_stores_each_row_of_a_large_matrix_in_8_bits_with_a_scale(monkeypatch):
    monkeypatch.setattr(playground, 'QUANTIZED_SIZE', 3 * 5)
    matrix = np.random.default_rng(4).normal(size=[3, 5]) * [1, 10, 100, 0.1, 0]
    graph = lower_function(lambda x: tf.matmul(x[0, 0], np.float32(matrix)), quantize=True)
    scales, integers = np.frombuffer(graph.weights[:20], '<f4'), np.frombuffer(graph.weights[20:], np.int8)
    np.testing.assert_allclose(scales, np.abs(matrix).max(0) / 127, rtol=1e-6, atol=1e-30)
    assert (np.abs(integers.reshape(5, 3) * scales[:, None] - matrix.T) <= 0.51 * scales[:, None]).all()


##################################################################################
# The page
##################################################################################

@pytest.fixture(scope='module')
def model():
    """A small conditional model with hostile class names. Only three coordinates of z change its images."""
    scale = np.zeros([12, 1])
    scale[[3, 7, 11]] = [[0.1], [10], [1]]
    with open_model(TinyGAN, image_shape=(8, 8, 1), conditional=True, classes=CLASSES, z_dim=12) as model, \
            pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAGAN, 'STATISTICS_BATCHES', 1)
        matrix, = (average for average in model.averages if 'g_fc1/Matrix' in average.op.name)
        assign(model.sess, [matrix], [scale * model.sess.run(matrix)])
        model.refresh_statistics()
        yield model


def element(html, name):
    """Return the text of the script element with this id."""
    return re.search(f'<script [^>]*id="{name}">(.*?)</script>', html, re.DOTALL)[1]


def metadata_of(model, dataset=None):
    return json.loads(element(build_page(model, 7, dataset), 'playground'))


def test_page_describes_the_run(model):
    metadata = metadata_of(model)
    expected = {'run': model.run.name, 'step': 7, 'image_shape': [8, 8, 1], 'z_dim': 12, 'z_name': 'uniform',
                'output': 'probability'}
    assert {name: metadata[name] for name in expected} == expected


def test_page_describes_the_attention_layers(model):
    layer = {'name': 'attention', 'positions': [4, 4], 'keys': [4, 4], 'gamma': 0., 'block': 'article'}
    assert metadata_of(model)['layers'] == {'generator': [layer], 'discriminator': [layer]}


def test_page_escapes_class_names(model):
    html = build_page(model, 7)
    assert CLASSES[0] not in html
    assert json.loads(element(html, 'playground'))['class_names'] == CLASSES


def test_page_sorts_the_coordinates_by_how_much_they_change_the_image(model):
    assert metadata_of(model)['coordinates'][:3] == [7, 11, 3]


def test_page_shows_test_images_of_each_class_in_turn(model):
    dataset = random_dataset((8, 8, 1), test=60, num_classes=3)
    images, labels = dataset.test
    samples = metadata_of(model, dataset)['samples']
    assert samples['labels'] == [0, 1, 2] * 13 + [0]
    data = zlib.decompress(base64.b64decode(samples['images']))
    pixels = np.frombuffer(data, np.uint8).reshape(samples['count'], 8, 8, 1)
    assert (pixels[1::3] == images[labels == 1][:13]).all()


def test_page_shows_the_first_test_images_of_a_data_set_without_classes(model):
    dataset = random_dataset((8, 8, 1), test=60)
    samples = metadata_of(model, dataset._replace(test=(dataset.test[0], None)))['samples']
    assert (samples['count'], samples['labels']) == (40, [])
    assert samples['images'] == compressed(dataset.test[0][:40].tobytes())


def test_page_shows_fewer_test_images_above_the_limit(model, monkeypatch):
    monkeypatch.setattr(playground, 'SAMPLE_BYTES', 5 * 64 + 1)
    assert metadata_of(model, random_dataset((8, 8, 1)))['samples']['count'] == 5


def test_page_without_a_data_set_has_no_test_images(model):
    assert metadata_of(model)['samples'] == {'count': 0, 'images': compressed(b''), 'labels': []}


@pytest.mark.parametrize('limit', ['PAGE_BYTES', 'IMAGE_FLOP'])
def test_write_playground_writes_no_page_above_a_limit(model, monkeypatch, tmp_path, limit):
    monkeypatch.setattr(playground, limit, 1e4)
    with pytest.raises(UserError, match=r'^a page of 0\.\d MB with 0\.\d+ GFLOP per image is too much for a browser'):
        write_playground(model, 7, tmp_path / 'page.html')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('network, ch, excess, advice', [
    ('dcgan', 64, 4.1, '--ch 24'), ('resnet', 256, 1.01, '--ch 248'), ('dcgan', 8, 1.1, 'a smaller --img_size'),
    ('article', 64, 2, 'a smaller --img_size')])
def test_how_to_shrink_names_an_option(network, ch, excess, advice):
    assert playground.how_to_shrink(SimpleNamespace(network=network, ch=ch), excess) == f'train with {advice}'


@pytest.mark.slow
def test_network_of_the_advised_ch_is_below_the_limit():
    def flop_of(ch):
        with open_model(networks.ResNet, image_shape=(32, 32, 1), ch=ch, img_size=32) as model:
            model.sess.run(tf.local_variables_initializer())
            flop = max(lower_network(model, name, bytearray(), True)[1] for name in model.layers)
            return flop, model.config
    flop, config = flop_of(48)
    limit = flop / 3
    advice = playground.how_to_shrink(config, flop / limit)
    assert flop_of(int(advice.split()[-1]))[0] < limit


@pytest.mark.slow
@pytest.mark.parametrize('request_, message', [
    ({'label': 2}, '2 is not a class: use a number from 0 to 1'), ({'label': None}, 'NaN is not a class'),
    ({'z': [0.] * 11}, 'the network expects 12 numbers, not 11'),
    ({'gammas': []}, 'the network has 1 attention layers, not 0')])
def test_page_reports_a_wrong_request(model, driver, tmp_path, request_, message):
    write_playground(model, 7, tmp_path / 'page.html')
    answer, = answers_of(driver, tmp_path / 'page.html', [
        {'kind': 'generate', 'id': 5, 'z': [0.] * 12, 'label': 0, 'gammas': [0.], **request_}])
    assert (answer['kind'], answer['id']) == ('error', 5)
    assert message in answer['message']


@pytest.mark.slow
def test_page_runs_no_script_in_class_names(model, driver, tmp_path):
    write_playground(model, 7, tmp_path / 'page.html')
    driver.get(f'file://{tmp_path}/page.html')
    assert driver.title != 'hostile'

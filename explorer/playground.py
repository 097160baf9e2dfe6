"""The playground: a single HTML file that runs both networks of a run in the browser.

The graph of each network is reduced to the nodes that depend on z, an image, a label or a gamma. All others become
constants. graph.js runs the nodes for a batch of one image.
"""

import dataclasses
import math
import pathlib
from typing import NamedTuple

import numpy as np

from explorer.page import compressed, fill_template, read_file, script_json
from options import UserError
from utils import Stream, atomic_write

PAGE_BYTES, IMAGE_FLOP = 30e6, 2e9  # limits on the size of the page and on the operations per image of a network
QUANTIZED_SIZE = 1 << 19  # matrices with at least this many weights are stored in 8 bits
FLOAT16_MAX = 65504
COORDINATES = 8  # of z, with a slider
COORDINATE_IMAGES = 4  # images from which the effect of a coordinate is measured
SCRIPTS = 'maps.js', 'drawing.js', 'playground.js'
SAMPLE_IMAGES, SAMPLE_BYTES = 40, 300_000  # limits on the number and total size of the test images on the page


class Value(NamedTuple):
    """The result of a node, as an array of this shape."""
    node: int
    shape: tuple


@dataclasses.dataclass
class Graph:
    """The nodes of one network in the order of computation, and what they need.

    nodes: a list of {operation, size, inputs, ...}, as graph.js expects them.
    weights: the bytes of the constants; both networks append to the same bytearray.
    quantize: whether large matrices are stored in 8 bits.
    flop: number of multiplications and additions in matrix products and convolutions.
    """
    weights: bytearray
    quantize: bool
    nodes: list = dataclasses.field(default_factory=list)
    flop: int = 0

    def add(self, operation, shape, *inputs, **attributes):
        """Append a node and return its Value. Inputs are Values or arrays."""
        indices = [self.constant(x).node if isinstance(x, np.ndarray) else x.node for x in inputs]
        self.nodes.append({'operation': operation, 'size': math.prod(shape), 'inputs': indices, **attributes})
        return Value(len(self.nodes) - 1, tuple(shape))

    def constant(self, array, matrix=False):
        """Append a constant and return its Value.

        Args:
            matrix: whether the first axis of the array is that of the output channels of a layer.
        """
        node = {'operation': 'Constant', 'size': array.size, 'start': len(self.weights)}
        fits_float16 = array.dtype.kind == 'f' and np.abs(array).max(initial=0) <= FLOAT16_MAX
        if matrix and self.quantize and array.size >= QUANTIZED_SIZE:
            rows = array.reshape(len(array), -1)
            scales = np.maximum(np.abs(rows).max(1), 1e-30).astype('<f4') / 127
            self.weights += scales.tobytes()
            node.update(type='int8', rows=len(rows))
            stored = np.rint(rows / scales[:, None]).astype(np.int8)
        elif fits_float16:
            node['type'] = 'float16'
            stored = array.astype('<f2')
        else:
            node['type'] = 'float32'
            stored = array.astype('<f4')
        self.weights += stored.tobytes()
        self.nodes.append(node)
        return Value(len(self.nodes) - 1, array.shape)


##################################################################################
# TensorFlow's operations as nodes
#
# Each function gets the Graph, the TensorFlow operation, its inputs as Values or constant arrays, and the shape of its
# output. It returns a Value.
##################################################################################

def unary(name):
    def lower(graph, op, inputs, shape):
        return graph.add(name, shape, *inputs)
    return lower


def binary(name):
    def lower(graph, op, inputs, shape):
        return add_binary(graph, name, *inputs, shape)
    return lower


def add_binary(graph, name, a, b, shape):
    return graph.add(name, shape, repeated(graph, a, shape), repeated(graph, b, shape))


def repeated(graph, x, shape):
    """Return x in a form that graph.js can broadcast to this shape: only leading axes are missing or have size 1."""
    first = next((axis for axis, size in enumerate(x.shape) if size > 1), len(x.shape))
    if x.shape[first:] == shape[len(shape) - len(x.shape) + first:]:
        return x
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(np.broadcast_to(x, shape))
    return view(graph, x, lambda array: np.broadcast_to(array, shape))


def view(graph, x, rearrange):
    """Return a strided view of x.

    A constant is rearranged at once.

    Args:
        rearrange: a function of a NumPy array that returns a view of it, such as a slice or a transpose.
    """
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(rearrange(x))
    array = np.empty(x.shape, np.int8)  # one byte per element, so that strides count elements
    part = rearrange(array)
    start = part.__array_interface__['data'][0] - array.__array_interface__['data'][0]
    return graph.add('View', part.shape, x, start=start, sizes=list(part.shape), strides=list(part.strides))


def reshape(x, shape):
    return x.reshape(shape) if isinstance(x, np.ndarray) else Value(x.node, tuple(shape))


def lower_reshape(graph, op, inputs, shape):
    return reshape(inputs[0], shape)


def lower_leaky_relu(graph, op, inputs, shape):
    return graph.add('LeakyRelu', shape, *inputs, alpha=op.get_attr('alpha'))


def lower_softmax(graph, op, inputs, shape):
    return graph.add('Softmax', shape, *inputs, length=shape[-1])


def lower_matmul(graph, op, inputs, shape):
    a, b = inputs
    names = ('transpose_a', 'transpose_b') if op.type == 'MatMul' else ('adj_x', 'adj_y')
    transposed_a, transposed_b = (op.get_attr(name) for name in names)
    if len(a.shape) != len(b.shape) or a.shape[:-2] != b.shape[:-2]:
        raise unsupported(op, f'with shapes {list(a.shape)} and {list(b.shape)}')
    if transposed_a:
        a = view(graph, a, lambda array: array.swapaxes(-1, -2))
    if not transposed_b:
        b = view(graph, b, lambda array: array.swapaxes(-1, -2))
    if isinstance(b, np.ndarray):
        b = graph.constant(b, matrix=b.ndim == 2)
    *_, rows, depth = a.shape
    graph.flop += 2 * math.prod(shape) * depth
    return graph.add('MatMul', shape, a, b, batch=math.prod(shape[:-2]), rows=rows, columns=shape[-1], depth=depth)


def lower_conv2d(graph, op, inputs, shape):
    x, w = inputs[0], constant_of(op, inputs[1], 'a kernel')
    window = window_of(op, w.shape[:2], x.shape, shape)
    graph.flop += 2 * math.prod(shape) * math.prod(w.shape[:3])
    return graph.add('Conv', shape, x, graph.constant(w.transpose(3, 0, 1, 2), matrix=True), **window,
                     input=list(x.shape[1:]), output=list(shape[1:]))


def lower_conv2d_transpose(graph, op, inputs, shape):
    _, w, x = inputs
    w = constant_of(op, w, 'a kernel')
    window = window_of(op, w.shape[:2], shape, x.shape)  # this is the gradient of a convolution from the output to x
    graph.flop += 2 * math.prod(x.shape) * math.prod(w.shape[:3])
    return graph.add('ConvTranspose', shape, x, graph.constant(w.transpose(2, 0, 1, 3), matrix=True), **window,
                     input=list(x.shape[1:]), output=list(shape[1:]))


def pool(name):
    def lower(graph, op, inputs, shape):
        (x,), kernel = inputs, op.get_attr('ksize')[1:3]
        return graph.add(name, shape, x, **window_of(op, kernel, x.shape, shape), input=list(x.shape[1:]),
                         output=list(shape[1:]))
    return lower


def window_of(op, kernel, image, positions):
    """Return {kernel, stride, pad} of an operation that moves a window over an image.

    Args:
        kernel: height and width of the window.
        image: shape [B, H, W, C] of the image.
        positions: shape [B, H', W', C'] of the tensor that has one pixel per position of the window.
    """
    _, *stride, _ = op.get_attr('strides')
    if op.get_attr('data_format') != b'NHWC':
        raise unsupported(op, f'with data_format {op.get_attr("data_format").decode()}')
    if 'dilations' in op.node_def.attr and any(dilation != 1 for dilation in op.get_attr('dilations')):
        raise unsupported(op, 'with dilations')
    if op.get_attr('padding') not in (b'SAME', b'VALID'):
        raise unsupported(op, f'with padding {op.get_attr("padding").decode()}')
    pad = [0, 0]
    if op.get_attr('padding') == b'SAME':
        pad = [max((positions[1 + i] - 1) * stride[i] + kernel[i] - image[1 + i], 0) // 2 for i in (0, 1)]
    return {'kernel': list(kernel), 'stride': list(stride), 'pad': pad}


def lower_batch_norm(graph, op, inputs, shape):
    x, scale, offset, mean, variance = inputs
    if op.get_attr('is_training'):
        raise unsupported(op, 'with is_training')
    scale, offset, mean, variance = (constant_of(op, value, 'statistics') for value in (scale, offset, mean, variance))
    scale = scale / np.sqrt(variance + op.get_attr('epsilon'))  # [C]
    y = add_binary(graph, 'Multiply', x, scale, shape)
    return add_binary(graph, 'Add', y, offset - mean * scale, shape)


def reduction(name):
    def lower(graph, op, inputs, shape):
        x, axes = inputs
        axes = {axis % len(x.shape) for axis in np.atleast_1d(axes).tolist()}
        kept = [axis for axis in range(len(x.shape)) if axis not in axes]
        order = [*kept, *sorted(axes)]
        length = math.prod(x.shape[axis] for axis in axes)
        if order != sorted(order):
            x = view(graph, x, lambda array: array.transpose(order))
        y = graph.add('Sum' if name == 'Mean' else name, shape, x, length=length)
        return add_binary(graph, 'Multiply', y, np.float32([1 / length]), shape) if name == 'Mean' else y
    return lower


def lower_transpose(graph, op, inputs, shape):
    x, order = inputs
    return view(graph, x, lambda array: array.transpose(order))


def lower_strided_slice(graph, op, inputs, shape):
    x, begins, ends, strides = inputs
    masks = {name: op.get_attr(f'{name}_mask') for name in ('begin', 'end', 'ellipsis', 'new_axis', 'shrink_axis')}
    index = []
    for i, (begin, end, stride) in enumerate(zip(begins.tolist(), ends.tolist(), strides.tolist(), strict=True)):
        masked = {name for name, mask in masks.items() if mask >> i & 1}
        if 'ellipsis' in masked:
            index.append(...)
        elif 'new_axis' in masked:
            index.append(None)
        elif 'shrink_axis' in masked:
            index.append(begin)
        else:
            index.append(slice(None if 'begin' in masked else begin, None if 'end' in masked else end, stride))
    return view(graph, x, lambda array: array[tuple(index)])


def lower_nearest_neighbor(graph, op, inputs, shape):
    x = inputs[0]
    (batch, height, width, channels), (_, out_height, out_width, _) = x.shape, shape
    if out_height % height or out_width % width or op.get_attr('align_corners'):
        raise unsupported(op, f'from {height} x {width} to {out_height} x {out_width}')
    blocks = [batch, height, out_height // height, width, out_width // width, channels]
    y = view(graph, x, lambda array: np.broadcast_to(array[:, :, None, :, None, :], blocks))
    return reshape(y, shape)


def lower_concat(graph, op, inputs, shape):
    *values, axis = inputs
    return concat(graph, values, int(axis) % len(shape), shape)


def lower_pack(graph, op, inputs, shape):
    return concat(graph, inputs, op.get_attr('axis') % len(shape), shape)


def concat(graph, values, axis, shape):
    blocks = math.prod(shape[:axis])
    return graph.add('Concat', shape, *values, lengths=[math.prod(value.shape) // blocks for value in values])


def lower_one_hot(graph, op, inputs, shape):
    indices, depth, on, off = inputs
    if op.get_attr('axis') != -1 or on != 1 or off != 0:
        raise unsupported(op, 'along another axis or with values other than 0 and 1')
    return graph.add('OneHot', shape, indices, depth=int(depth))


def lower_gather(graph, op, inputs, shape):
    table, indices, axis = inputs
    if axis != 0 or op.get_attr('batch_dims') != 0:
        raise unsupported(op, 'along an axis other than the first')
    return graph.add('Gather', shape, table, indices, length=math.prod(table.shape[1:]))


LOWER = {
    'Add': binary('Add'), 'AddV2': binary('Add'), 'BiasAdd': binary('Add'), 'Sub': binary('Subtract'),
    'Mul': binary('Multiply'), 'RealDiv': binary('Divide'), 'Pow': binary('Power'), 'Maximum': binary('Maximum'),
    'Minimum': binary('Minimum'),
    'Neg': unary('Negate'), 'Abs': unary('Absolute'), 'Square': unary('Square'), 'Sqrt': unary('Sqrt'),
    'Rsqrt': unary('Rsqrt'), 'Exp': unary('Exp'), 'Log': unary('Log'), 'Relu': unary('Relu'),
    'LeakyRelu': lower_leaky_relu, 'Sigmoid': unary('Sigmoid'), 'Tanh': unary('Tanh'), 'Softplus': unary('Softplus'),
    'MatMul': lower_matmul, 'BatchMatMul': lower_matmul, 'BatchMatMulV2': lower_matmul, 'BatchMatMulV3': lower_matmul,
    'Conv2D': lower_conv2d, 'Conv2DBackpropInput': lower_conv2d_transpose, 'FusedBatchNormV3': lower_batch_norm,
    'Softmax': lower_softmax, 'Sum': reduction('Sum'), 'Mean': reduction('Mean'), 'Max': reduction('Max'),
    'AvgPool': pool('AveragePool'), 'MaxPool': pool('MaxPool'),
    'Identity': lower_reshape, 'StopGradient': lower_reshape, 'Reshape': lower_reshape,
    'ExpandDims': lower_reshape, 'Squeeze': lower_reshape, 'Transpose': lower_transpose,
    'StridedSlice': lower_strided_slice, 'ResizeNearestNeighbor': lower_nearest_neighbor, 'ConcatV2': lower_concat,
    'Pack': lower_pack, 'OneHot': lower_one_hot, 'GatherV2': lower_gather}


def constant_of(op, value, description):
    """Return a constant array. Raise UserError if the value depends on the inputs of the network."""
    if isinstance(value, Value):
        raise unsupported(op, f'with {description} computed from the input')
    return value


def unsupported(op, detail=''):
    """Return the UserError for an operation that graph.js does not compute."""
    detail = f' {detail}' if detail else ''
    return UserError(f'{op.type}{detail} is not supported ({op.name}): add it to explorer/playground.py and '
                     'explorer/graph.js')


##################################################################################
# From a session to a Graph
##################################################################################

def lower_network(model, network, weights, quantize):
    """Return a network of a restored model as graph.js expects it, and its floating-point operations per image.

    Args:
        weights: a bytearray to which the constants are appended.
        quantize: whether to store large matrices in 8 bits.
    """
    data, label, result = model.z, model.z_labels, model.fake_images
    if network == 'discriminator':
        data, label, result = model.inputs, model.labels, model.d_output
    layers = model.layers[network]
    outputs = [result, *(layer.attention_map for layer in layers)]
    operations = operations_before(outputs)
    inputs = [([data], np.zeros([1, *data.shape[1:]], np.float32))]
    inputs += [(reads_of(layer.gamma, operations), np.ones([1], np.float32)) for layer in layers]
    if label is not None:
        inputs.append(([label], np.zeros([1], np.int32)))
    graph = Graph(weights, quantize)
    (data_node, *nodes), (result_node, *map_nodes) = lower(graph, model.sess, operations, inputs, outputs)
    return {'nodes': graph.nodes,
            'inputs': {'data': data_node, 'gammas': nodes[:len(layers)],
                       'label': None if label is None else nodes[-1]},
            'outputs': {'result': result_node, 'maps': map_nodes}}, graph.flop


def lower(graph, sess, operations, inputs, outputs):
    """Append the nodes that compute outputs from inputs to a Graph.

    Args:
        operations: those that operations_before(outputs) returns.
        inputs: a list of (tensors, array). The tensors of a pair become one input node. array is any value with the
            shape of this input.
        outputs: a list of tensors.

    Returns:
        (indices of the nodes of the inputs, indices of the nodes of the outputs)
    """
    values, feed, input_nodes = {}, {}, []  # values: {name of a tensor: Value or constant array}
    for tensors, array in inputs:
        value = graph.add('Input', array.shape)
        values.update({tensor.name: value for tensor in tensors})
        feed.update(dict.fromkeys(tensors, array))
        input_nodes.append(value.node)
    dynamic, constants = split_operations(operations, values)
    for op in dynamic:
        if op.type not in LOWER:
            raise unsupported(op)
    results = {op.outputs[0].name: op.outputs[0] for op in dynamic}
    arrays = sess.run({**results, **constants}, feed)
    values.update({name: np.asarray(arrays[name]) for name in constants})
    for op in dynamic:
        for tensor in op.inputs:
            if tensor.name not in values:
                raise unsupported(tensor.op, 'with several outputs')
        name = op.outputs[0].name
        values[name] = LOWER[op.type](graph, op, [values[tensor.name] for tensor in op.inputs], arrays[name].shape)
    return input_nodes, [values[tensor.name].node for tensor in outputs]


def operations_before(outputs):
    """Return the operations that compute tensors, in an order in which they can be computed."""
    names, stack = set(), [tensor.op for tensor in outputs]
    while stack:
        op = stack.pop()
        if op.name not in names:
            names.add(op.name)
            stack += [tensor.op for tensor in op.inputs]
    # The graph lists an operation after those that it reads.
    return [op for op in outputs[0].graph.get_operations() if op.name in names]


def reads_of(variable, operations):
    """Return the tensors through which operations read a variable."""
    return [op.outputs[0] for op in operations if op.type == 'ReadVariableOp' and op.inputs[0] is variable.handle]


def split_operations(operations, inputs):
    """Separate the operations that depend on inputs from the constants that they read.

    Args:
        inputs: names of tensors.

    Returns:
        (operations, {name: tensor} of the constants)

    Raises:
        UserError: if an operation is random, because its value is not constant.
    """
    dynamic, names, constants = [], set(inputs), {}
    for op in operations:
        if op.op_def.is_stateful and op.type not in ('VarHandleOp', 'ReadVariableOp'):
            raise unsupported(op)
        if op.type == 'Shape' or any(tensor.name in inputs for tensor in op.outputs):
            continue  # shapes are constants, because the batch size is 1
        if any(tensor.name in names for tensor in op.inputs):
            dynamic.append(op)
            names.update(tensor.name for tensor in op.outputs)
            constants.update({tensor.name: tensor for tensor in op.inputs if tensor.name not in names})
    return dynamic, constants


##################################################################################
# The page
##################################################################################

def write_playground(model, step, path, dataset=None):
    """Write the playground of a restored model. Call model.refresh_statistics() first.

    Args:
        step: the step of the checkpoint.
        dataset: a Dataset whose test images the page offers, or None.

    Raises:
        UserError: if graph.js lacks an operation of the networks, or if they are too large for a page.
    """
    page = build_page(model, step, dataset)
    with atomic_write(path) as part:
        pathlib.Path(part).write_text(page, encoding='utf-8')


def build_page(model, step, dataset=None, quantize=True):
    """Return the HTML of the playground. The other arguments and the errors are those of write_playground.

    Args:
        quantize: whether to store large matrices in 8 bits. Otherwise they are stored in 16 bits, like all others.
    """
    config, weights, networks, flop = model.config, bytearray(), {}, 0
    for network in ('generator', 'discriminator'):
        networks[network], network_flop = lower_network(model, network, weights, quantize)
        flop = max(flop, network_flop)
    metadata = {
        'run': model.run.name, 'step': step, 'image_shape': config.image_shape, 'z_dim': config.z_dim,
        'z_name': config.z_name, 'class_names': config.class_names if config.conditional else [],
        'output': 'probability' if model.objective.probability else 'output', 'layers': describe_layers(model),
        'coordinates': influential_coordinates(model), 'samples': sample_images(dataset), 'graph': networks}
    page = render_page(metadata, weights, read_file('graph.js'))
    excess = max(len(page) / PAGE_BYTES, flop / IMAGE_FLOP)
    if excess > 1:
        raise UserError(
            f'a page of {len(page) / 1e6:.1f} MB with {flop / 1e9:.2f} GFLOP per image is too much for a browser '
            f'(limits: {PAGE_BYTES / 1e6:g} MB and {IMAGE_FLOP / 1e9:g} GFLOP): {how_to_shrink(config, excess)}')
    return page


def render_page(metadata, weights, worker):
    """Return the HTML of the playground.

    Args:
        metadata: what playground.js needs to know about the run, and the graphs for the worker.
        weights: bytes for the worker.
        worker: text of the script that runs the networks.
    """
    return fill_template('playground.html', SCRIPTS, playground=script_json(metadata), worker=worker,
                         weights=compressed(weights))


def how_to_shrink(config, excess):
    """Return advice for training a network that is smaller by a factor of excess."""
    ch = int(config.ch / excess ** (1 / 1.8)) // 8 * 8  # the cost grows a little more slowly than the square of ch
    if config.network == 'article' or ch == 0:
        return 'train with a smaller --img_size'
    return f'train with --ch {ch}'


def describe_layers(model):
    """Return {network: [{name, positions, keys, gamma, block}]} of the attention layers."""
    return {network: [{
        'name': layer.scope.removeprefix(f'{network}/'), 'positions': layer.query_shape, 'keys': layer.key_shape,
        'gamma': float(model.sess.run(layer.gamma)[0]), 'block': model.config.attention}
        for layer in layers] for network, layers in model.layers.items()}


def influential_coordinates(model):
    """Return the COORDINATES coordinates of z that change the image most, from the largest effect to the smallest.

    The effect of a coordinate is the mean absolute difference of the images in which it is 1 and -1.
    """
    z_dim = model.config.z_dim
    z = model.draw_z(COORDINATE_IMAGES, model.config.seed, Stream.FIXED_Z)
    moved = np.tile(z, [z_dim, 2, 1, 1])  # [z_dim, 2, K, z_dim]
    for coordinate in range(z_dim):
        moved[coordinate, :, :, coordinate] = [[1], [-1]]
    labels = model.sampled_labels(COORDINATE_IMAGES)
    if labels is not None:
        labels = np.tile(labels, 2 * z_dim)
    images = model.sample(moved.reshape(-1, z_dim), labels).reshape(z_dim, 2, -1)  # [z_dim, 2, K*H*W*C]
    effects = np.abs(images[:, 0] - images[:, 1]).mean(1)
    return np.argsort(-effects)[:COORDINATES].tolist()


def sample_images(dataset):
    """Return the test images on the page, each class in turn.

    Returns:
        {count, images, labels}. images are the compressed bytes of an array [count, H, W, C], uint8.
    """
    if dataset is None:
        return {'count': 0, 'images': compressed(b''), 'labels': []}
    images, labels = dataset.test
    count = max(1, min(SAMPLE_IMAGES, SAMPLE_BYTES // math.prod(images.shape[1:])))
    chosen = np.arange(min(count, len(images)))
    if labels is not None:
        occurrence = np.empty(len(labels), np.int64)  # number of earlier images of the same class
        for label in np.unique(labels):
            occurrence[labels == label] = np.arange(np.sum(labels == label))
        chosen = np.lexsort([labels, occurrence])[:count]
    return {'count': len(chosen), 'images': compressed(images[chosen].tobytes()),
            'labels': [] if labels is None else labels[chosen].tolist()}

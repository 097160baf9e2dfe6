"""The layers of the networks, as TensorFlow 1.x graph-mode functions.

Importing this module switches eager execution off: nothing else is needed to build a graph with these functions.
"""

import collections
import os
import pathlib

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

tf.disable_eager_execution()
tf.enable_resource_variables()

# What attention enters, at each call, into the graph's collection ATTENTION: the name of its scope, the map, gamma, the
# rows and columns of the positions that look and of those that are looked at, and whether it is for training.
AttentionLayer = collections.namedtuple('AttentionLayer', 'name map gamma queries keys is_training')
ATTENTION = 'attention'


def session_config(precision):
    """Configuration of a session that computes in float32, or lets TensorFlow turn what gains by it to bfloat16."""
    config = tf.ConfigProto(allow_soft_placement=True)
    if precision == 'bfloat16':
        if has_fast_bfloat16():
            config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
        else:
            print('This processor or this TensorFlow has no fast bfloat16: going on in float32')
    return config


def has_fast_bfloat16(cpuinfo='/proc/cpuinfo'):
    """Whether oneDNN, TensorFlow's library for CPUs, is in use and the processor multiplies bfloat16 by itself."""
    if os.environ.get('TF_ENABLE_ONEDNN_OPTS') == '0' or not os.path.exists(cpuinfo):
        return False
    return not {'amx_bf16', 'avx512_bf16', 'bf16'}.isdisjoint(pathlib.Path(cpuinfo).read_text().split())


def conv2d(x, output_dim, k_h=5, k_w=5, d_h=2, d_w=2, stddev=0.02, name='conv2d'):
    """Convolution of x [B, H, W, C] with SAME padding -> [B, ceil(H/d_h), ceil(W/d_w), output_dim].

    k_h, k_w: size of the kernel; d_h, d_w: strides. Variables: w [k_h, k_w, C, output_dim], biases [output_dim].
    """
    channels = x.shape.as_list()[-1]
    with tf.variable_scope(name):
        w = tf.get_variable('w', [k_h, k_w, channels, output_dim],
                            initializer=tf.truncated_normal_initializer(stddev=stddev))
        biases = tf.get_variable('biases', [output_dim], initializer=tf.zeros_initializer())
        return tf.nn.bias_add(tf.nn.conv2d(x, w, strides=[1, d_h, d_w, 1], padding='SAME'), biases)


def deconv2d(x, output_shape, k_h=5, k_w=5, d_h=2, d_w=2, stddev=0.02, name='deconv2d'):
    """Transposed convolution of x [B, H, W, C] with SAME padding -> output_shape, a list [B, H*d_h, W*d_w, C'].

    output_shape[0] may be a tensor, for a batch size that the graph does not know. k_h, k_w: size of the kernel;
    d_h, d_w: strides. Variables: w [k_h, k_w, C', C], biases [C'].
    """
    batch_size, _, _, channels = x.shape.as_list()
    with tf.variable_scope(name):
        w = tf.get_variable('w', [k_h, k_w, output_shape[-1], channels],
                            initializer=tf.random_normal_initializer(stddev=stddev))
        biases = tf.get_variable('biases', [output_shape[-1]], initializer=tf.zeros_initializer())
        y = tf.nn.conv2d_transpose(x, w, output_shape=tf.stack(output_shape), strides=[1, d_h, d_w, 1], padding='SAME')
        y.set_shape([batch_size] + list(output_shape[1:]))
        return tf.nn.bias_add(y, biases)


def kernel_gradient(x, dy, w, strides):
    """Gradient to the kernel w [k_h, k_w, C, D] of a SAME convolution of x [B, H, W, C] -> same shape as w.

    dy [B, H', W', D]: the gradient to the convolution's output; strides [1, d_h, d_w, 1], none larger than the kernel.
    It is a convolution too: C takes the place of the batch, B that of the channels, and dy, dilated by the strides,
    that of the kernel.
    """
    pads = []
    for size, kernel, stride in zip(x.shape.as_list()[1:3], w.shape.as_list()[:2], strides[1:3], strict=True):
        pad = (-(-size // stride) - 1) * stride + kernel - size
        pads.append([pad // 2, pad - pad // 2])
    x, dy = tf.transpose(x, [3, 1, 2, 0]), tf.transpose(dy, [1, 2, 0, 3])  # [C, H, W, B], [H', W', B, D]
    dw = tf.nn.conv2d(x, dy, [1, 1, 1, 1], [[0, 0], *pads, [0, 0]], dilations=strides)  # [C, k_h, k_w, D]
    return tf.transpose(dw, [1, 2, 0, 3])


@tf.RegisterGradient('Conv2DInBfloat16')
def conv2d_gradient(op, dy):
    """Gradients to the inputs of a Conv2D operation from dy, that to its output: equal to TensorFlow's own."""
    x, w = op.inputs
    strides = op.get_attr('strides')
    return tf.nn.conv2d_backprop_input(tf.shape(x), w, dy, strides, 'SAME'), kernel_gradient(x, dy, w, strides)


@tf.RegisterGradient('Conv2DBackpropInputInBfloat16')
def deconv2d_gradient(op, dy):
    """The same for the operation of a transposed convolution, the first of whose inputs is its output's shape."""
    _, w, x = op.inputs
    strides = op.get_attr('strides')
    return None, kernel_gradient(dy, x, w, strides), tf.nn.conv2d(dy, w, strides, 'SAME')


# For tf.Graph.gradient_override_map, over SAME convolutions without dilation. In bfloat16 oneDNN's convolution is twice
# as fast as its gradient to a kernel; in float32 it is no faster.
BFLOAT16_GRADIENTS = {'Conv2D': 'Conv2DInBfloat16', 'Conv2DBackpropInput': 'Conv2DBackpropInputInBfloat16'}


@tf.custom_gradient
def matmul(x, w):
    """Matrix product of x [B, D] and w [D, E] -> [B, E]; on several cores its gradient is faster than tf.matmul's."""
    def gradient(dy):  # [B, E] -> [B, D], [D, E]
        # A batch of one: oneDNN shares that among the cores, and the product of few rows with a transpose it does not.
        return tf.matmul(dy[None], w[None], transpose_b=True)[0], tf.matmul(x, dy, transpose_a=True)
    return tf.matmul(x, w), gradient


def linear(x, output_size, scope='linear', stddev=0.02, bias_start=0.0):
    """Fully connected layer on x [B, D] -> [B, output_size]. Variables: Matrix [D, output_size], bias [output_size]."""
    with tf.variable_scope(scope):
        matrix = tf.get_variable('Matrix', [x.shape.as_list()[-1], output_size],
                                 initializer=tf.random_normal_initializer(stddev=stddev))
        bias = tf.get_variable('bias', [output_size], initializer=tf.constant_initializer(bias_start))
        return tf.nn.bias_add(matmul(x, matrix), bias)


def bn(x, is_training, scope):
    """Batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167) of x [B, C] or [B, H, W, C] -> same shape.

    is_training (a Python bool): True normalizes each channel by the mean and the biased variance of the batch and, as
    a side effect of computing the output, moves moving_mean and moving_variance a tenth of the way to the batch's
    mean and unbiased variance; False normalizes by these two and leaves them alone.
    Variables, each [C]: beta, gamma, moving_mean, moving_variance.
    """
    shape = x.shape.as_list()[-1:]
    with tf.variable_scope(scope):
        beta = tf.get_variable('beta', shape, initializer=tf.zeros_initializer())
        gamma = tf.get_variable('gamma', shape, initializer=tf.ones_initializer())
        mean = tf.get_variable('moving_mean', shape, initializer=tf.zeros_initializer(), trainable=False)
        variance = tf.get_variable('moving_variance', shape, initializer=tf.ones_initializer(), trainable=False)

        y = x if x.shape.ndims == 4 else x[:, None, None, :]  # [B, H, W, C]
        y, new_mean, new_variance = tf.nn.fused_batch_norm(
            y, gamma, beta, mean, variance, epsilon=1e-5, is_training=is_training, exponential_avg_factor=0.1)
        if x.shape.ndims == 2:
            y = y[:, 0, 0, :]  # [B, C]
        if not is_training:
            return y
        with tf.control_dependencies([mean.assign(new_mean), variance.assign(new_variance)]):
            return tf.identity(y)


def lrelu(x, leak=0.2):
    """Leaky rectifier: x where x > 0, leak * x elsewhere; same shape as x."""
    return tf.nn.leaky_relu(x, leak)


def hw_flatten(x):
    """[B, H, W, C] -> [B, H*W, C]; position (i, j) becomes row i*W + j."""
    _, height, width, channels = x.shape.as_list()
    return tf.reshape(x, [-1, height * width, channels])


def attention(x, is_training=True, scope='attention', reuse=False):
    """Self-attention over the positions of x [B, H, W, C], C a multiple of 8 -> same shape.

    Zhang et al. 2018 (arXiv:1805.08318), equations 1 to 3, with 4x4 convolutions, batch norm and relu where the paper
    has 1x1 convolutions. is_training: as in bn.

    The attention map beta [B, N, N], N = H*W, is the tensor <scope>/attention_map:0. Its row j is a distribution over
    the N positions: where position j looks. The graph's collection ATTENTION gets an AttentionLayer.
    Variables: those of f_conv, f_bn, g_conv, g_bn, h_conv, h_bn, and gamma [1].
    """
    _, height, width, channels = x.shape.as_list()
    with tf.variable_scope(scope, reuse=reuse) as layer:
        f = tf.nn.relu(bn(conv2d(x, channels // 8, 4, 4, 1, 1, name='f_conv'), is_training, 'f_bn'))  # [B, H, W, C/8]
        g = tf.nn.relu(bn(conv2d(x, channels // 8, 4, 4, 1, 1, name='g_conv'), is_training, 'g_bn'))  # [B, H, W, C/8]
        h = tf.nn.relu(bn(conv2d(x, channels, 4, 4, 1, 1, name='h_conv'), is_training, 'h_bn'))  # [B, H, W, C]
        gamma = tf.get_variable('gamma', [1], initializer=tf.zeros_initializer())

        s = tf.matmul(hw_flatten(g), hw_flatten(f), transpose_b=True)  # [B, N, N]
        beta = tf.nn.softmax(s, name='attention_map')  # [B, N, N]
        tf.add_to_collection(ATTENTION, AttentionLayer(
            layer.name, beta, gamma, (height, width), (height, width), is_training))
        o = tf.reshape(tf.matmul(beta, hw_flatten(h)), [-1, height, width, channels])  # [B, H, W, C]
        return gamma * o + x

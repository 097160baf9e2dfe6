"""Number formats: what makes a session compute in bfloat16, and the gradients of convolutions that are fast in it."""

import os
import pathlib

from tf1 import tf


def session_config(precision):
    """Configuration of a session that computes in float32, or lets TensorFlow turn what gains by it to bfloat16."""
    config = tf.ConfigProto(allow_soft_placement=True)
    if precision == 'bfloat16':
        if has_fast_bfloat16():
            rewriting = config.graph_options.rewrite_options
            rewriting.auto_mixed_precision_onednn_bfloat16 = rewriting.ON
        else:
            print('This processor or this TensorFlow has no fast bfloat16: going on in float32')
    return config


def has_fast_bfloat16(cpuinfo='/proc/cpuinfo'):
    """Whether oneDNN, TensorFlow's library for CPUs, is in use and the processor multiplies bfloat16 by itself."""
    if os.environ.get('TF_ENABLE_ONEDNN_OPTS') == '0' or not os.path.exists(cpuinfo):
        return False
    return not {'amx_bf16', 'avx512_bf16', 'bf16'}.isdisjoint(pathlib.Path(cpuinfo).read_text().split())


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

"""Numerical precision: sessions that compute in bfloat16, and convolution gradients that are fast in bfloat16."""

from tf1 import tf
from training.device import bfloat16_unit, gpu_names


def session_config(precision):
    """Return the configuration of a session for a --precision.

    With 'bfloat16', TensorFlow converts the operations that are faster in bfloat16. On a GPU, or if no
    support for fast bfloat16 is detected, the session computes in float32 and a message is printed.
    """
    config = tf.ConfigProto(allow_soft_placement=True)
    if precision == 'bfloat16':
        if gpu_names():
            print('--precision bfloat16 is for CPUs only: using float32 on the GPU')
        elif bfloat16_unit() is not None:
            rewrite = config.graph_options.rewrite_options
            rewrite.auto_mixed_precision_onednn_bfloat16 = rewrite.ON
        else:
            print('This processor or this build of TensorFlow is not known to support fast bfloat16: using float32')
    return config


def kernel_gradient(x, dy, w, strides):
    """Return the gradient of a SAME convolution of x [B, H, W, C] with respect to its kernel w [k_h, k_w, C, D].

    The gradient is itself a convolution. C takes the role of the batch, B that of the channels, and dy, dilated by the
    strides, that of the kernel.

    Args:
        dy: the gradient with respect to the output of the convolution, [B, H', W', D].
        strides: [1, d_h, d_w, 1]. No stride may exceed the size of the kernel.

    Returns:
        A tensor of the shape of w.
    """
    padding = []
    for size, kernel, stride in zip(x.shape.as_list()[1:3], w.shape.as_list()[:2], strides[1:3], strict=True):
        total = (-(-size // stride) - 1) * stride + kernel - size
        padding.append([total // 2, total - total // 2])
    x, dy = tf.transpose(x, [3, 1, 2, 0]), tf.transpose(dy, [1, 2, 0, 3])  # [C, H, W, B], [H', W', B, D]
    dw = tf.nn.conv2d(x, dy, [1, 1, 1, 1], [[0, 0], *padding, [0, 0]], dilations=strides)  # [C, k_h, k_w, D]
    return tf.transpose(dw, [1, 2, 0, 3])


@tf.RegisterGradient('Conv2DInBfloat16')
def conv2d_gradient(op, dy):
    """Return the gradients of a convolution with respect to its inputs, given dy [B, H', W', D] at its output.

    Mathematically, they equal the gradients that TensorFlow defines.
    """
    x, w = op.inputs
    strides = op.get_attr('strides')
    return tf.nn.conv2d_backprop_input(tf.shape(x), w, dy, strides, 'SAME'), kernel_gradient(x, dy, w, strides)


@tf.RegisterGradient('Conv2DBackpropInputInBfloat16')
def deconv2d_gradient(op, dy):
    """Return the gradients of a transposed convolution with respect to its inputs, given dy [B, H, W, C] at its output.

    Mathematically, they equal the gradients that TensorFlow defines.
    """
    _, w, x = op.inputs  # the first input is the shape of the output
    strides = op.get_attr('strides')
    return None, kernel_gradient(dy, x, w, strides), tf.nn.conv2d(dy, w, strides, 'SAME')


# For tf.Graph.gradient_override_map, around SAME convolutions without dilation. In bfloat16, a convolution in oneDNN is
# twice as fast as its kernel gradient. In float32, it is not faster.
BFLOAT16_GRADIENTS = {'Conv2D': 'Conv2DInBfloat16', 'Conv2DBackpropInput': 'Conv2DBackpropInputInBfloat16'}

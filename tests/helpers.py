"""Helpers that several test files share."""

import hashlib
import pathlib

import numpy as np
import pytest
from scipy.signal import correlate

from datasets import load_dataset
from system import is_linux
from tf1 import tf
from utils import draw_z

ROOT = pathlib.Path(__file__).parents[1]
MAIN = ROOT / 'main.py'
README = ROOT / 'README.md'
SMALL = 12, 16, 1  # a small image_shape, on which networks are fast
linux_only = pytest.mark.skipif(not is_linux(), reason='requires Linux')


def one_line_error(result, *words):
    """Assert that the program reported a user error with these words: one line on standard error, exit code 2."""
    code, _, err = result
    assert code == 2, err
    assert err.startswith('main.py: ') and err.count('\n') == 1, err
    for word in words:
        assert word in err


def snapshot(folder):
    """Return {path: digest} of all files in a folder."""
    return {path.relative_to(folder): hashlib.blake2b(path.read_bytes()).digest()
            for path in folder.rglob('*') if path.is_file()}


def numpy_conv2d(x, w, biases, stride):
    """Return the SAME convolution of x [B, H, W, C] with w [k, k, C, D].

    It is a correlation. If the padding is odd, the extra row or column is at the end.
    """
    pads = []
    for size in x.shape[1:3]:
        total = max((-(-size // stride) - 1) * stride + len(w) - size, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    y = [[sum(correlate(image[:, :, c], w[:, :, c, d], 'valid') for c in range(w.shape[2]))
          for d in range(w.shape[3])] for image in x]
    return np.moveaxis(y, 1, 3)[:, ::stride, ::stride] + biases


def numpy_bn(x, values, name, is_training):
    """Return the batch norm of x [B, ..., C]. Its variables are in values, {name: value}."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = ((x.mean(axes), x.var(axes)) if is_training else
                      (values[name + '/moving_mean'], values[name + '/moving_variance']))
    return values[name + '/gamma'] * (x - mean) / np.sqrt(variance + 1e-5) + values[name + '/beta']


def images_and_z(model, count, step=0):
    """Return the feed of a training step on `count` digits, cropped to the model's image_shape."""
    images, _ = load_dataset('mnist', model.config.data_dir).train
    height, width, _ = model.config.image_shape
    return {model.inputs: images[step * count:(step + 1) * count, -height:, -width:] / 255,
            model.z: draw_z(count, model.config.z_dim, 7, step), model.step: step}


def variable(name):
    """Return the variable of this name in the default graph."""
    return {v.op.name: v for v in tf.global_variables()}[name]


def randomize(sess, rng, scale=0.3):
    """Set every variable to random values and return them, {name: value}.

    gamma and moving_variance are in [0.5, 1.5], all other variables in [-scale, scale].
    """
    values = {}
    for v in tf.global_variables():
        low, high = (0.5, 1.5) if v.op.name.endswith(('gamma', 'moving_variance')) else (-scale, scale)
        values[v.op.name] = rng.uniform(low, high, v.shape).astype(np.float32)
    initial_values = {v.initializer.inputs[1]: values[v.op.name] for v in tf.global_variables()}
    sess.run(tf.global_variables_initializer(), initial_values)
    return values

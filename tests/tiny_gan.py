"""A small model and a small data set, for tests that do not need the article's network."""

import contextlib

import numpy as np

from datasets import Dataset
from ops import ATTENTIONS, bn, conv2d, deconv2d, linear, lrelu, projection
from SAGAN import SAGAN
from tf1 import tf


class TinyGAN(SAGAN):
    """Networks of two layers and an attention layer each, which are quick to build and to train."""

    def generator(self, z, is_training=True, reuse=False, labels=None, sync=None):
        height, width, channels = self.config.image_shape
        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = linear(z, height // 2 * (width // 2) * 8, 'g_fc1')
            x = tf.reshape(x, [-1, height // 2, width // 2, 8])  # [B, H/2, W/2, 8]
            x = tf.nn.relu(bn(x, is_training, 'g_bn1', labels, self.config.num_classes, sync))
            x = ATTENTIONS[self.config.attention](x, is_training)
            return tf.nn.sigmoid(deconv2d(x, [tf.shape(z)[0], height, width, channels], 4, 4, name='g_dc2'))

    def discriminator(self, x, is_training=True, reuse=False, labels=None, sync=None, batches=1):
        height, width, _ = self.config.image_shape
        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x = lrelu(conv2d(x, 8, 4, 4, name='d_conv1'))  # [B, H/2, W/2, 8]
            x = ATTENTIONS[self.config.attention](x, is_training, batches=batches)
            features = tf.reshape(x, [-1, height // 2 * (width // 2) * 8])
            logit = linear(features, 1, 'd_fc2')  # [B, 1]
            if labels is not None:
                logit += projection(features, labels, self.config.num_classes)
            return tf.nn.sigmoid(logit), logit, features


@contextlib.contextmanager
def open_model(network=SAGAN, **options):
    """Yield a model in its own graph and session, with its variables at their initial values."""
    with tf.Graph().as_default(), tf.Session() as sess:
        model = network(sess, **options)
        model.build_model()
        sess.run(tf.global_variables_initializer())
        yield model


def folders_in(path):
    """Return the options that put all files of a run under path."""
    return {'checkpoint_dir': str(path / 'checkpoint'), 'result_dir': str(path / 'results'),
            'log_dir': str(path / 'logs')}


def random_dataset(image_shape, train=20, test=8, num_classes=10):
    """Return a Dataset of random images."""
    rng = np.random.default_rng(0)

    def split(count):
        return rng.integers(0, 256, [count, *image_shape], np.uint8), rng.integers(0, num_classes, count)
    return Dataset(split(train), split(test), tuple(str(number) for number in range(num_classes)))

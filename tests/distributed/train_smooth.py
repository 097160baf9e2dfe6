"""Train a smooth network for 5 steps and save its weights and losses: train_smooth.py <output.npz> <options>.

The options are those of SAGAN as JSON. If TF_CONFIG is set, this process is one of its workers.
"""

import json
import sys

import numpy as np

from distributed.cluster import Cluster
from distributed.launcher import read_task
from ops import attend, bn, conv2d, deconv2d, linear, projection
from SAGAN import SAGAN
from tf1 import tf

BATCH_SIZE, STEPS = 16, 5
HEIGHT, WIDTH = 8, 12


class SmoothSAGAN(SAGAN):
    """SAGAN with every kind of layer, but with tanh instead of relu, so that rounding cannot flip a unit."""

    def generator(self, z, is_training=True, reuse=False, labels=None, sync=None):
        sn = self.config.sn

        def norm(x, scope):
            return bn(x, is_training, scope, labels, self.config.num_classes, sync)

        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = norm(linear(z, HEIGHT // 2 * (WIDTH // 2) * 8, 'g_fc1', None, sn=sn), 'g_bn1')
            x = tf.reshape(tf.tanh(x), [-1, HEIGHT // 2, WIDTH // 2, 8])
            x = smooth_attention(x, is_training, sn, norm)
            return tf.sigmoid(deconv2d(x, [tf.shape(z)[0], HEIGHT, WIDTH, 1], 4, 4, stddev=0.2, name='g_dc2', sn=sn))

    def discriminator(self, x, is_training=True, reuse=False, labels=None, sync=None, batches=1):
        sn = self.config.sn

        def norm(x, scope):
            return bn(x, is_training, scope, sync=sync, batches=batches) if self.d_norm else x

        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x = tf.tanh(norm(conv2d(x, 8, 4, 4, stddev=None, name='d_conv1', sn=sn), 'd_bn1'))
            x = smooth_attention(x, is_training, sn, norm)
            x = tf.reshape(x, [-1, HEIGHT // 2 * (WIDTH // 2) * 8])
            features = tf.tanh(norm(linear(x, 16, 'd_fc2', None, sn=sn), 'd_bn2'))
            logit = linear(features, 1, 'd_fc3', stddev=1., sn=sn)
            if labels is not None:
                logit += projection(features, labels, self.config.num_classes, sn=sn)
            return tf.sigmoid(logit), logit, features


def smooth_attention(x, is_training, sn, norm):
    with tf.variable_scope('attention'):
        f, g, h = (tf.tanh(norm(conv2d(x, 8, 4, 4, 1, 1, None, f'{name}_conv', sn), f'{name}_bn')) for name in 'fgh')
        gamma = tf.get_variable('gamma', [1], initializer=tf.ones_initializer())
        return gamma * attend(f, g, h, gamma, is_training) + x


def random_batches(model, step):
    random = np.random.default_rng([7, step])
    batches = []
    for _ in range(model.config.n_critic):
        images, z = random.random([BATCH_SIZE, HEIGHT, WIDTH, 1]), random.uniform(-1, 1, [BATCH_SIZE, 5])
        labels, z_labels = random.integers(0, 3, [2, BATCH_SIZE])
        batches.append((images, z, labels, z_labels))
    return batches


def main(path, options):
    # Adam divides a gradient by its own size. If a gradient is nearly 0, rounding would decide the whole update.
    tf.train.AdamOptimizer = lambda rate, beta1, beta2: tf.train.GradientDescentOptimizer(rate)
    cluster = Cluster(*read_task())
    with cluster.session(tf.ConfigProto()) as sess:
        model = SmoothSAGAN(sess, (HEIGHT, WIDTH, 1), classes=3, cluster=cluster, batch_size=BATCH_SIZE, z_dim=5,
                            g_lr=0.05, d_lr=0.05, **json.loads(options))
        model.build_model()
        sess.run(tf.global_variables_initializer())
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        cluster.broadcast(sess, [0], list(variables.values()))
        results = {f'0/{name}': value for name, value in sess.run(variables).items()}
        for step in range(STEPS):
            losses = model.train_batch(random_batches(model, step), step)
            results.update({f'{step + 1}/loss/{name}': value for name, value in losses.items()})
            results.update({f'{step + 1}/{name}': value for name, value in sess.run(variables).items()})
        cluster.barrier(sess)
    np.savez(path, **results)


if __name__ == '__main__':
    main(*sys.argv[1:])

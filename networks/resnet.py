"""The paper's residual network."""

from ops import ATTENTIONS, avg_pool, bn, conv2d, linear, projection, upsample
from SAGAN import SAGAN
from tf1 import tf


class ResNet(SAGAN):
    """Residual blocks, after the authors' code of Zhang et al. 2018 (arXiv:1805.08318).

    Other than there, every block has a convolution on its shortcut, and G's last batch norm knows the classes too.
    """

    kind = 'resnet'

    def generator(self, z, is_training=True, reuse=False, labels=None):
        """As in SAGAN; the channels of its maps stand in RESNET."""
        def norm(x, scope):
            return bn(x, is_training, scope, labels, self.classes)

        size, _, channels = self.image_shape
        (first, *others), attended = RESNET[size]['generator'], RESNET[size]['attention']
        side, sn = 4, self.sigmas
        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = linear(z, 4 * 4 * first * self.ch, 'g_fc1', stddev=None, sn=sn)
            x = tf.reshape(x, [-1, 4, 4, first * self.ch])  # [B, 4, 4, 16 * ch]
            for number, width in enumerate(others, 1):  # 64 px: [B, 8, 8, 8 * ch] ... [B, 64, 64, ch]
                x = up_block(x, width * self.ch, f'g_block{number}', norm, sn)
                side *= 2
                if side == attended:
                    x = ATTENTIONS[self.attention](x, is_training, sn=sn)
            x = conv(tf.nn.relu(norm(x, 'g_bn')), channels, 3, 'g_conv', sn)
            return (tf.nn.tanh(x) + 1) / 2  # [B, 64, 64, C]

    def discriminator(self, x, is_training=True, reuse=False, labels=None):
        """As in SAGAN; features [B, D], the sum of the last map's positions. No batch norm but in attention."""
        blocks, attended = RESNET[self.image_shape[0]]['discriminator'], RESNET[self.image_shape[0]]['attention']
        sn = self.sigmas
        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x = 2 * x - 1
            for number, (width, side) in enumerate(blocks, 1):  # 64 px: [B, 32, 32, ch] ... [B, 4, 4, 16 * ch]
                x = down_block(x, width * self.ch, f'd_block{number}', number == 1, side < x.shape.as_list()[1], sn)
                if number == 1 + [side for _, side in blocks].index(attended):
                    x = ATTENTIONS[self.attention](x, is_training, norm=self.d_norm, sn=sn)
            features = tf.reduce_sum(tf.nn.relu(x), [1, 2])  # [B, 16 * ch]
            logit = linear(features, 1, 'd_fc', stddev=None, sn=sn)  # [B, 1]
            if labels is not None:
                logit += projection(features, labels, self.classes, stddev=None, sn=sn)
            return tf.nn.sigmoid(logit), logit, features


# By the size of the images: channels, in units of ch, of the generator's maps from 4 x 4 on; channels and size of those
# of the discriminator; and the size of the maps that attention sits on.
RESNET = {
    32: {'generator': (4, 4, 4, 4), 'discriminator': ((2, 16), (2, 8), (2, 8), (2, 8)), 'attention': 16},
    64: {'generator': (16, 8, 4, 2, 1), 'discriminator': ((1, 32), (2, 16), (4, 8), (8, 4), (16, 4)), 'attention': 32},
    128: {'generator': (16, 16, 8, 4, 2, 1),
          'discriminator': ((1, 64), (2, 32), (4, 16), (8, 8), (16, 4), (16, 4)), 'attention': 32}}


def conv(x, channels, size, name, sn):
    """A convolution with stride 1 and Xavier-uniform weights; x [B, H, W, C] -> [B, H, W, channels]."""
    return conv2d(x, channels, size, size, 1, 1, stddev=None, name=name, sn=sn)


def up_block(x, channels, name, norm, sn):
    """Residual block of a generator; x [B, H, W, C] -> [B, 2H, 2W, channels]; norm: (x, scope) -> x, batch norm."""
    with tf.variable_scope(name):
        y = conv(upsample(tf.nn.relu(norm(x, 'bn1'))), channels, 3, 'conv1', sn)  # [B, 2H, 2W, channels]
        y = conv(tf.nn.relu(norm(y, 'bn2')), channels, 3, 'conv2', sn)
        # A 1x1 convolution and what doubles the size may change places: so it works on a quarter of the positions.
        return y + upsample(conv(x, channels, 1, 'shortcut', sn))


def down_block(x, channels, name, first, pooled, sn):
    """Residual block of a discriminator; x [B, H, W, C] -> [B, H/2, W/2, channels], or [B, H, W, channels] unpooled.

    first: whether it is the first block, whose input is the image and has no relu.
    """
    def pool(x):
        return avg_pool(x) if pooled else x

    with tf.variable_scope(name):
        y = conv(x if first else tf.nn.relu(x), channels, 3, 'conv1', sn)  # [B, H, W, channels]
        y = pool(conv(tf.nn.relu(y), channels, 3, 'conv2', sn))  # [B, H/2, W/2, channels]
        return y + conv(pool(x), channels, 1, 'shortcut', sn)

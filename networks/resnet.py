"""The paper's residual network for square images of 32, 64 or 128 pixels."""

from ops import ATTENTIONS, avg_pool, bn, conv2d, linear, projection, upsample
from SAGAN import SAGAN
from tf1 import tf

# {image size: blocks}. generator: the channels of each feature map, in units of ch, starting at 4 x 4. discriminator:
# the channels, in units of ch, and the size of each block's output. attention: the size of the feature maps with
# attention.
BLOCKS = {
    32: {'generator': (4, 4, 4, 4), 'discriminator': ((2, 16), (2, 8), (2, 8), (2, 8)), 'attention': 16},
    64: {'generator': (16, 8, 4, 2, 1), 'discriminator': ((1, 32), (2, 16), (4, 8), (8, 4), (16, 4)), 'attention': 32},
    128: {'generator': (16, 16, 8, 4, 2, 1),
          'discriminator': ((1, 64), (2, 32), (4, 16), (8, 8), (16, 4), (16, 4)), 'attention': 32}}


class ResNet(SAGAN):
    """Residual blocks as in the code of Zhang et al. 2018 (arXiv:1805.08318).

    Two details differ from that code. Every shortcut has a convolution, and G's last batch norm is conditional, too.
    """

    kind = 'resnet'

    def generator(self, z, is_training=True, reuse=False, labels=None, sync=None):
        """Return images [B, H, W, C] in [0, 1], as SAGAN.generator does."""
        config = self.config
        size, _, channels = config.image_shape
        first, *widths = BLOCKS[size]['generator']
        side, sn = 4, config.sn

        def norm(x, scope):
            return bn(x, is_training, scope, labels, config.num_classes, sync)

        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = linear(z, 4 * 4 * first * config.ch, 'g_fc1', stddev=None, sn=sn)
            x = tf.reshape(x, [-1, 4, 4, first * config.ch])  # [B, 4, 4, 16 * ch]
            for number, width in enumerate(widths, 1):  # 64 px: [B, 8, 8, 8 * ch] ... [B, 64, 64, ch]
                x = up_block(x, width * config.ch, f'g_block{number}', norm, sn)
                side *= 2
                if side == BLOCKS[size]['attention']:
                    x = ATTENTIONS[config.attention](x, is_training, sn=sn, sync=sync)
            x = conv(tf.nn.relu(norm(x, 'g_bn')), channels, 3, 'g_conv', sn)
            return (tf.nn.tanh(x) + 1) / 2  # [B, 64, 64, C]

    def discriminator(self, x, is_training=True, reuse=False, labels=None, sync=None, batches=1):
        """Return (probability, logit, features), as SAGAN.discriminator does.

        The features [B, D] are the last feature map, summed over positions. Only the article's attention layers can
        have batch norm.
        """
        config = self.config
        size, sn = config.image_shape[0], config.sn
        blocks = BLOCKS[size]['discriminator']
        attention_block = 1 + [side for _, side in blocks].index(BLOCKS[size]['attention'])
        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x = 2 * x - 1
            for number, (width, side) in enumerate(blocks, 1):  # 64 px: [B, 32, 32, ch] ... [B, 4, 4, 16 * ch]
                downsample = side < x.shape.as_list()[1]
                x = down_block(x, width * config.ch, f'd_block{number}', number == 1, downsample, sn)
                if number == attention_block:
                    x = ATTENTIONS[config.attention](x, is_training, norm=self.d_norm, sn=sn, sync=sync,
                                                     batches=batches)
            features = tf.reduce_sum(tf.nn.relu(x), [1, 2])  # [B, 16 * ch]
            logit = linear(features, 1, 'd_fc', stddev=None, sn=sn)  # [B, 1]
            if labels is not None:
                logit += projection(features, labels, config.num_classes, stddev=None, sn=sn)
            return tf.nn.sigmoid(logit), logit, features


def conv(x, channels, size, name, sn):
    """Convolve x [B, H, W, C] with stride 1 and Xavier-uniform weights. Return [B, H, W, channels]."""
    return conv2d(x, channels, size, size, 1, 1, stddev=None, name=name, sn=sn)


def up_block(x, channels, name, norm, sn):
    """Apply a residual block of the generator to x [B, H, W, C]. norm(x, scope) is its batch norm.

    Returns:
        [B, 2H, 2W, channels].
    """
    with tf.variable_scope(name):
        y = conv(upsample(tf.nn.relu(norm(x, 'bn1'))), channels, 3, 'conv1', sn)  # [B, 2H, 2W, channels]
        y = conv(tf.nn.relu(norm(y, 'bn2')), channels, 3, 'conv2', sn)
        # A 1x1 convolution commutes with upsampling. Applied first, it costs a quarter as much.
        return y + upsample(conv(x, channels, 1, 'shortcut', sn))


def down_block(x, channels, name, is_first, downsample, sn):
    """Apply a residual block of the discriminator to x [B, H, W, C].

    Args:
        is_first: whether x is the image, to which no relu is applied.
        downsample: whether to halve the height and width.

    Returns:
        [B, H/2, W/2, channels], or [B, H, W, channels].
    """
    def pool(x):
        return avg_pool(x) if downsample else x

    with tf.variable_scope(name):
        y = conv(x if is_first else tf.nn.relu(x), channels, 3, 'conv1', sn)  # [B, H, W, channels]
        y = pool(conv(tf.nn.relu(y), channels, 3, 'conv2', sn))  # [B, H/2, W/2, channels]
        return y + conv(pool(x), channels, 1, 'shortcut', sn)

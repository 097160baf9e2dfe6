"""A DCGAN-like network for square images of 32, 64 or 128 pixels."""

from ops import ATTENTIONS, bn, conv2d, deconv2d, linear, lrelu, projection
from SAGAN import SAGAN
from tf1 import tf

ATTENTION_SIZES = {32: (8, 16), 64: (16, 32), 128: (16, 32)}  # {image size: sizes of G's feature maps with attention}


class DCGAN(SAGAN):
    """Deconvolutions that double the size and convolutions that halve it (Radford et al. 2016, arXiv:1511.06434).

    Each network has two attention layers, as in the most popular PyTorch reimplementation of SAGAN.
    """

    kind = 'dcgan'

    def generator(self, z, is_training=True, reuse=False, labels=None, sync=None):
        """Return images [B, H, W, C] in [0, 1], as SAGAN.generator does.

        The first feature map is 4 x 4. Each layer doubles the size and halves the channels, down to ch.
        """
        config = self.config
        size, _, channels = config.image_shape
        width, sn = config.ch * size // 8, config.sn  # 64 px: 8 * ch

        def norm(x, scope):
            return bn(x, is_training, scope, labels, config.num_classes, sync)

        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = tf.reshape(linear(z, 4 * 4 * width, 'g_fc1', sn=sn), [-1, 4, 4, width])  # [B, 4, 4, 8 * ch]
            x = tf.nn.relu(norm(x, 'g_bn1'))
            number, side = 1, 4
            while side < size // 2:  # 64 px: [B, 8, 8, 4 * ch], [B, 16, 16, 2 * ch], [B, 32, 32, ch]
                number, side, width = number + 1, 2 * side, width // 2
                x = deconv2d(x, [tf.shape(z)[0], side, side, width], 4, 4, 2, 2, name=f'g_dc{number}', sn=sn)
                x = tf.nn.relu(norm(x, f'g_bn{number}'))
                if side in ATTENTION_SIZES[size]:
                    x = ATTENTIONS[config.attention](x, is_training, f'attention_{side}', sn=sn, sync=sync)
            x = deconv2d(x, [tf.shape(z)[0], size, size, channels], 4, 4, 2, 2, name=f'g_dc{number + 1}', sn=sn)
            return (tf.nn.tanh(x) + 1) / 2  # [B, 64, 64, C]

    def discriminator(self, x, is_training=True, reuse=False, labels=None, sync=None, batches=1):
        """Return (probability, logit, features), as SAGAN.discriminator does.

        The features [B, D] are the last feature map, summed over positions. Only the article's attention layers can
        have batch norm.
        """
        config = self.config
        side, width, sn = config.image_shape[0], config.ch, config.sn
        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x, number = 2 * x - 1, 0
            while side > 4:  # 64 px: [B, 32, 32, ch], [B, 16, 16, 2 * ch], [B, 8, 8, 4 * ch], [B, 4, 4, 8 * ch]
                number, side = number + 1, side // 2
                x = lrelu(conv2d(x, width, 4, 4, 2, 2, name=f'd_conv{number}', sn=sn), 0.1)
                width *= 2
                if side <= 8:
                    x = ATTENTIONS[config.attention](x, is_training, f'attention_{side}', norm=self.d_norm, sn=sn,
                                                     sync=sync, batches=batches)
            features = tf.reduce_sum(x, [1, 2])  # [B, 8 * ch]
            # A 4x4 convolution with stride 4 reduces the 4 x 4 positions to one logit.
            logit = tf.reshape(conv2d(x, 1, 4, 4, 4, 4, name=f'd_conv{number + 1}', sn=sn), [-1, 1])  # [B, 1]
            if labels is not None:
                logit += projection(features, labels, config.num_classes, sn=sn)
            return tf.nn.sigmoid(logit), logit, features

"""The DCGAN-like network."""

from ops import ATTENTIONS, bn, conv2d, deconv2d, linear, lrelu, projection
from SAGAN import SAGAN
from tf1 import tf


class DCGAN(SAGAN):
    """Deconvolutions and convolutions that double and halve the size, after Radford et al. 2016 (arXiv:1511.06434).

    As the widespread PyTorch repository of SAGAN has them, with attention on two maps of each network.
    """

    kind = 'dcgan'

    def generator(self, z, is_training=True, reuse=False, labels=None):
        """As in SAGAN. From 4 x 4 on, each layer doubles the size and halves the channels, which end at ch."""
        size, _, channels = self.image_shape
        width, sn = self.ch * size // 8, self.sigmas  # 64 px: 8 * ch
        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = tf.reshape(linear(z, 4 * 4 * width, 'g_fc1', sn=sn), [-1, 4, 4, width])  # [B, 4, 4, 8 * ch]
            x = tf.nn.relu(bn(x, is_training, 'g_bn1', labels, self.classes))
            number, side = 1, 4
            while side < size // 2:  # 64 px: [B, 8, 8, 4 * ch], [B, 16, 16, 2 * ch], [B, 32, 32, ch]
                number, side, width = number + 1, 2 * side, width // 2
                x = deconv2d(x, [tf.shape(z)[0], side, side, width], 4, 4, 2, 2, name=f'g_dc{number}', sn=sn)
                x = tf.nn.relu(bn(x, is_training, f'g_bn{number}', labels, self.classes))
                if side in ATTENTION_OF_DCGAN[size]:
                    x = ATTENTIONS[self.attention](x, is_training, f'attention_{side}', sn=sn)
            x = deconv2d(x, [tf.shape(z)[0], size, size, channels], 4, 4, 2, 2, name=f'g_dc{number + 1}', sn=sn)
            return (tf.nn.tanh(x) + 1) / 2  # [B, 64, 64, C]

    def discriminator(self, x, is_training=True, reuse=False, labels=None):
        """As in SAGAN; features [B, D], the sum of the last map's positions. No batch norm but in attention."""
        side, width, sn = self.image_shape[0], self.ch, self.sigmas
        with tf.variable_scope('discriminator', reuse=reuse, use_resource=True):
            x, number = 2 * x - 1, 0
            while side > 4:  # 64 px: [B, 32, 32, ch], [B, 16, 16, 2 * ch], [B, 8, 8, 4 * ch], [B, 4, 4, 8 * ch]
                number, side = number + 1, side // 2
                x = lrelu(conv2d(x, width, 4, 4, 2, 2, name=f'd_conv{number}', sn=sn), 0.1)
                width *= 2
                if side <= 8:
                    x = ATTENTIONS[self.attention](x, is_training, f'attention_{side}', norm=self.d_norm, sn=sn)
            features = tf.reduce_sum(x, [1, 2])  # [B, 8 * ch]
            # A stride of 4 on 4 x 4 positions: one logit.
            logit = tf.reshape(conv2d(x, 1, 4, 4, 4, 4, name=f'd_conv{number + 1}', sn=sn), [-1, 1])  # [B, 1]
            if labels is not None:
                logit += projection(features, labels, self.classes, sn=sn)
            return tf.nn.sigmoid(logit), logit, features


ATTENTION_OF_DCGAN = {32: (8, 16), 64: (16, 32), 128: (16, 32)}  # sizes of the generator's maps

"""The objectives: losses of logits [B, 1], and penalties on the gradient of the discriminator.

A d_loss(real_logits, fake_logits) returns the two terms of the discriminator's loss, for real and for fake images.
A g_loss(fake_logits) returns the generator's loss. OBJECTIVES maps each --gan_type to its functions.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from tf1 import tf

##################################################################################
# Losses
##################################################################################


def sigmoid_loss(logits, label):
    """Return the mean sigmoid cross-entropy of logits [B, 1], all with the same label, 0. or 1."""
    labels = tf.fill(tf.shape(logits), label)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=labels))


def gan_d_loss(real_logits, fake_logits):
    """Return the terms of Goodfellow et al. 2014 (arXiv:1406.2661), section 3."""
    return sigmoid_loss(real_logits, 1.), sigmoid_loss(fake_logits, 0.)


def gan_g_loss(fake_logits):
    """Return the non-saturating loss of Goodfellow et al. 2014 (arXiv:1406.2661), section 3."""
    return sigmoid_loss(fake_logits, 1.)


def lsgan_d_loss(real_logits, fake_logits):
    """Return the terms of Mao et al. 2017 (arXiv:1611.04076), eq. 9, without the factor 1/2."""
    return tf.reduce_mean((real_logits - 1) ** 2), tf.reduce_mean(fake_logits ** 2)


def lsgan_g_loss(fake_logits):
    """Return the loss of Mao et al. 2017 (arXiv:1611.04076), eq. 9, without the factor 1/2."""
    return tf.reduce_mean((fake_logits - 1) ** 2)


def hinge_d_loss(real_logits, fake_logits):
    """Return the terms of Lim and Ye 2017 (arXiv:1705.02894), as in Zhang et al. 2018 (arXiv:1805.08318), eq. 4."""
    return tf.reduce_mean(tf.nn.relu(1 - real_logits)), tf.reduce_mean(tf.nn.relu(1 + fake_logits))


def wgan_d_loss(real_logits, fake_logits):
    """Return the terms of Arjovsky et al. 2017 (arXiv:1701.07875), eq. 2. They need a 1-Lipschitz discriminator."""
    return -tf.reduce_mean(real_logits), tf.reduce_mean(fake_logits)


def linear_g_loss(fake_logits):
    """Return minus the mean logit, the generator's loss of hinge and Wasserstein GANs."""
    return -tf.reduce_mean(fake_logits)


##################################################################################
# Penalties
##################################################################################

def gradient_norm(logits_of, images):
    """Return the Euclidean norm of the gradient of each logit with respect to its image.

    Args:
        logits_of: function from images [B, H, W, C] to logits [B, 1]. It must not use batch norm, so that each logit
            depends on its own image alone.
        images: [B, H, W, C].

    Returns:
        [B].
    """
    gradient, = tf.gradients(logits_of(images), images)  # [B, H, W, C]
    # The small constant keeps the derivative of the square root finite at 0.
    return tf.sqrt(tf.reduce_sum(gradient ** 2, [1, 2, 3]) + 1e-12)


def uniform_noise(shape, key):
    """Return uniform noise in [0, 1) that depends only on key, two integers."""
    return tf.random.stateless_uniform(shape, key, alg='philox')


def interpolate(real, fake, key, cluster):
    """Return random points [B, H, W, C] between real and fake images. The arguments are those of wgan_gp."""
    t = cluster.local_shard(uniform_noise([tf.shape(real)[0], 1, 1, 1], key))
    real = cluster.local_shard(real)
    return real + t * (fake - real)


def wgan_gp(logits_of, real, fake, key, cluster):
    """Return the gradient penalty of Gulrajani et al. 2017 (arXiv:1704.00028), eq. 3, without the weight lambda.

    Args:
        logits_of: function from images [B, H, W, C] to logits [B, 1]. It must not use batch norm.
        real: the real images of the whole batch, in [0, 1].
        fake: the generated images of this worker.
        key: the seed of the random numbers, two integers.
        cluster: the Cluster of the workers that share the batch.
    """
    return tf.reduce_mean((gradient_norm(logits_of, interpolate(real, fake, key, cluster)) - 1) ** 2)


def wgan_lp(logits_of, real, fake, key, cluster):
    """Return the one-sided penalty of Petzka et al. 2018 (arXiv:1709.08894), eq. 8, without the weight lambda.

    The arguments are those of wgan_gp.
    """
    return tf.reduce_mean(tf.nn.relu(gradient_norm(logits_of, interpolate(real, fake, key, cluster)) - 1) ** 2)


def dragan(logits_of, real, fake, key, cluster):
    """Return the penalty of Kodali et al. 2017 (arXiv:1705.07215), with the noise of the authors' code.

    The arguments are those of wgan_gp.
    """
    deviation = tf.math.reduce_std(real)
    shape = tf.shape(real)
    scale = uniform_noise([shape[0], 1, 1, 1], key)
    noise = uniform_noise(shape, tf.add(key, [0, 1]))
    perturbed = cluster.local_shard(tf.clip_by_value(real + 0.5 * deviation * scale * noise, 0., 1.))
    return tf.reduce_mean((gradient_norm(logits_of, perturbed) - 1) ** 2)


def r1(logits_of, real, fake, key, cluster):
    """Return the R1 penalty of Mescheder et al. 2018 (arXiv:1801.04406), eq. 9, without the weight gamma.

    The gradient is taken with respect to images in [0, 1]. It would be half as large for images in [-1, 1].
    The arguments are those of wgan_gp. fake and key are not used.
    """
    return tf.reduce_mean(gradient_norm(logits_of, cluster.local_shard(real)) ** 2) / 2


class Objective(NamedTuple):
    """The functions of a --gan_type."""
    d_loss: Callable
    g_loss: Callable
    penalty: Callable | None
    probability: bool  # whether the sigmoid of a logit is the probability that the image is real
    # The lowest d_loss, without a penalty, of a D with the same logit for all images. None if a d_loss near 0 does not
    # mean that D wins.
    chance_loss: float | None = None


OBJECTIVES = {
    'gan': Objective(gan_d_loss, gan_g_loss, None, True, 2 * math.log(2)),
    'lsgan': Objective(lsgan_d_loss, lsgan_g_loss, None, False, 0.5),
    'hinge': Objective(hinge_d_loss, linear_g_loss, None, False, 2.),
    'wgan-gp': Objective(wgan_d_loss, linear_g_loss, wgan_gp, False),
    'wgan-lp': Objective(wgan_d_loss, linear_g_loss, wgan_lp, False),
    'dragan': Objective(gan_d_loss, gan_g_loss, dragan, True, 2 * math.log(2)),
    'r1': Objective(gan_d_loss, gan_g_loss, r1, True, 2 * math.log(2))}

"""The objectives: a function a loss, of logits [B, 1], and one a penalty, of the gradient of the logit to an image.

A loss takes the logits of one pass through D and returns what D minimises where the images are real, what it minimises
where they are fake, and what G minimises where they are its own. OBJECTIVES has their names.
"""

import collections

from tf1 import tf

##################################################################################
# Losses
##################################################################################


def sigmoid_loss(logit, label):
    """Mean sigmoid cross-entropy of logit [B, 1] against one label, 0. or 1., for all (Goodfellow et al. 2014)."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=logit, labels=tf.fill(tf.shape(logit), label)))


def gan(logit):
    """Goodfellow et al. 2014, arXiv:1406.2661, section 3, with G's loss that does not saturate."""
    return sigmoid_loss(logit, 1.), sigmoid_loss(logit, 0.), sigmoid_loss(logit, 1.)


def lsgan(logit):
    """Mao et al. 2017, arXiv:1611.04076, equation 9, without the factor 1/2."""
    return tf.reduce_mean((logit - 1) ** 2), tf.reduce_mean(logit ** 2), tf.reduce_mean((logit - 1) ** 2)


def hinge(logit):
    """Lim and Ye 2017, arXiv:1705.02894; Zhang et al. 2018, arXiv:1805.08318, equation 4."""
    return tf.reduce_mean(tf.nn.relu(1 - logit)), tf.reduce_mean(tf.nn.relu(1 + logit)), -tf.reduce_mean(logit)


def wgan(logit):
    """Arjovsky et al. 2017, arXiv:1701.07875, equation 2, for a D that a penalty keeps near 1-Lipschitz."""
    return -tf.reduce_mean(logit), tf.reduce_mean(logit), -tf.reduce_mean(logit)


##################################################################################
# Penalties
##################################################################################

def gradient_norm(logit_of, images):
    """Norm over all pixels [B] of the gradient of each logit to its image; images [B, H, W, C]."""
    gradient, = tf.gradients(logit_of(images), images)  # [B, H, W, C]; no batch norm ties the images together
    # The root has no derivative at 0.
    return tf.sqrt(tf.reduce_sum(gradient ** 2, [1, 2, 3]) + 1e-12)


def noise(shape, key):
    """Uniform in [0, 1), depends on the key [2], whole numbers, alone."""
    return tf.random.stateless_uniform(shape, key, alg='philox')


def between(real, fake, key, mine):
    """Points [B, H, W, C] between real and fake images, at one share an image."""
    shares = mine(noise([tf.shape(real)[0], 1, 1, 1], key))
    real = mine(real)
    return real + shares * (fake - real)


def wgan_gp(logit_of, real, fake, key, mine):
    """Gulrajani et al. 2017, arXiv:1704.00028, equation 3, without its weight lambda.

    logit_of: images [B, H, W, C] in [0, 1] -> logit [B, 1], where no image has a say in another's logit; real: such
    images, of the whole batch; mine: a function that takes this worker's slice of a whole batch; fake: such images, of
    that slice; key: what the random numbers depend on, [2].
    """
    return tf.reduce_mean((gradient_norm(logit_of, between(real, fake, key, mine)) - 1) ** 2)


def wgan_lp(logit_of, real, fake, key, mine):
    """Petzka et al. 2018, arXiv:1709.08894, equation 8, without its weight; arguments as in wgan_gp."""
    return tf.reduce_mean(tf.nn.relu(gradient_norm(logit_of, between(real, fake, key, mine)) - 1) ** 2)


def dragan(logit_of, real, fake, key, mine):
    """Kodali et al. 2017, arXiv:1705.07215, with the noise of its authors' code; arguments as in wgan_gp."""
    deviation = tf.math.reduce_std(real)
    shape = tf.shape(real)
    share, pixels = noise([shape[0], 1, 1, 1], key), noise(shape, tf.add(key, [0, 1]))
    around = mine(tf.clip_by_value(real + 0.5 * deviation * share * pixels, 0., 1.))
    return tf.reduce_mean((gradient_norm(logit_of, around) - 1) ** 2)


# loss and penalty as above; probability: whether a sigmoid makes D's output the probability of being real.
Objective = collections.namedtuple('Objective', 'loss penalty probability')

OBJECTIVES = {
    'gan': Objective(gan, None, True),
    'lsgan': Objective(lsgan, None, False),
    'hinge': Objective(hinge, None, False),
    'wgan-gp': Objective(wgan, wgan_gp, False),
    'wgan-lp': Objective(wgan, wgan_lp, False),
    'dragan': Objective(gan, dragan, True)}

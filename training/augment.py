"""Differentiable augmentation: random changes to the images that D sees in training, real and generated.

The changes, their order and their ranges are those of the code of Zhao et al. 2020 (arXiv:2006.10738) with the policy
color,translation,cutout. Their images are in [-1, 1], ours in [0, 1]. Brightness therefore changes by half as much, and
empty pixels are 0.5 instead of 0. Saturation and contrast do not depend on the range.
"""

from tf1 import tf

NUM_RANDOM = 7  # random numbers per image
EMPTY = 0.5  # value of the pixels that are shifted in or covered


def augment(images, numbers):
    """Change the colours of images, translate them, and cover a box in each.

    As in the authors' code, values may leave [0, 1].

    Args:
        images: [B, H, W, C] in [0, 1].
        numbers: random numbers in [0, 1), [B, NUM_RANDOM].
    """
    brightness, saturation, contrast, down, right, top, left = tf.unstack(
        numbers[:, :, None, None, None], NUM_RANDOM, axis=1)  # [B, 1, 1, 1] each
    images = change_colours(images, brightness, saturation, contrast)
    images = translate(images, down, right)
    return cutout(images, top, left)


def change_colours(images, brightness, saturation, contrast):
    """Change brightness, then saturation, then contrast. Saturation has no effect on images with one channel."""
    images += (brightness - 0.5) / 2
    grey = tf.reduce_mean(images, 3, keepdims=True)  # [B, H, W, 1]
    images = grey + 2 * saturation * (images - grey)
    mean = tf.reduce_mean(images, [1, 2, 3], keepdims=True)  # [B, 1, 1, 1]
    return mean + (contrast + 0.5) * (images - mean)


def translate(images, down, right):
    """Move each image by a whole number of pixels, up to 1/8 of its height and width in each direction."""
    _, height, width, _ = images.shape.as_list()
    down = tf.reshape(random_integer(down, -eighth(height), eighth(height)), [-1])  # [B]
    right = tf.reshape(random_integer(right, -eighth(width), eighth(width)), [-1])  # [B]
    one, zero = tf.ones_like(down), tf.zeros_like(down)
    # The pixel at (x, y) is the one that was at (x - right, y - down).
    transforms = tf.stack([one, zero, -right, zero, one, -down, zero, zero], 1)  # [B, 8]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=transforms, output_shape=[height, width], fill_value=EMPTY, interpolation='NEAREST',
        fill_mode='CONSTANT')


def cutout(images, top, left):
    """Cover a box of half the height and width of each image. A part of the box may be outside the image."""
    _, height, width, _ = images.shape.as_list()
    in_rows = is_in_box(tf.range(float(height))[:, None, None], top, height)  # [B, H, 1, 1]
    in_columns = is_in_box(tf.range(float(width))[:, None], left, width)  # [B, 1, W, 1]
    return tf.where_v2(in_rows & in_columns, EMPTY, images)


def is_in_box(positions, number, size):
    """Return whether positions are in an interval of half the size, whose centre is a random position from 0 to size.

    If half the size is odd, the centre is less than size.
    """
    half = int(size / 2 + 0.5)
    first = random_integer(number, 0, size - half % 2) - half // 2  # [B, 1, 1, 1]
    return (positions >= first) & (positions < first + half)


def eighth(size):
    """Return 1/8 of size, rounded."""
    return int(size / 8 + 0.5)


def random_integer(number, low, high):
    """Turn a random number in [0, 1) into an integer from low to high, inclusive."""
    return low + tf.floor(number * (high - low + 1))

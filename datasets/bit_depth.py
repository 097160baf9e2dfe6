"""High-bit-depth images: grey images with more than 8 bits per pixel, either integers or floats.

All high-bit-depth images of one kind in a data set share one scale.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

BIT_DEPTHS = 8, 10, 12, 14, 16


class Scale(NamedTuple):
    """The values that become black and white.

    bits: the number of bits of integers from 0 to white = 2**bits - 1, or None for a linear scale.
    """
    black: float
    white: float
    bits: int | None


def kind_of(image):
    """Return 'I' for an image with integers of more than 8 bits, 'F' for floats, and None for other images."""
    return image.mode[0] if image.mode == 'F' or image.mode.startswith('I') else None


def value_range(image):
    """Return the smallest and the largest value of a high-bit-depth image. Transparent pixels do not count.

    Raises:
        ValueError: if no pixel is finite.
    """
    values = np.asarray(image)
    values = values[np.isfinite(values) & ~transparency_mask(image)]
    if values.size == 0 and image.mode == 'F':
        raise ValueError('no pixel is a finite number')
    return (values.min().item(), values.max().item()) if values.size else (0, 0)


def is_finite(image):
    """Return whether all pixels of a high-bit-depth image are finite numbers."""
    return bool(np.isfinite(np.asarray(image)).all())


def transparency_mask(image):
    """Return a mask [H, W] of the pixels of a high-bit-depth image that the file marks as transparent."""
    return np.asarray(image) == image.info.get('transparency', np.nan)


def choose_scale(kind, low, high):
    """Return the Scale for images of a kind with values from low to high.

    Integers from 0 to 65535 get the smallest of 8, 10, 12, 14 and 16 bits that holds all values. For other values, the
    scale is linear.
    """
    if kind == 'F' or low < 0 or high >= 2 ** 16:
        return Scale(low, high, None)
    bits = next(bits for bits in BIT_DEPTHS if high < 2 ** bits)
    return Scale(0, 2 ** bits - 1, bits)


def describe_scale(kind, scale):
    """Describe the values that a scale converts to 8 bits."""
    if scale.bits:
        return f'{scale.bits}-bit values'
    return f'{"float" if kind == "F" else "integer"} values from {scale.black:.6g} to {scale.white:.6g}'


def scale_to_8_bits(image, scale):
    """Convert a high-bit-depth image to an 8-bit grey image.

    Transparent pixels and positive infinity become white. NaN and negative infinity become black.

    Raises:
        ValueError: if no pixel is finite.
    """
    value_range(image)
    values = np.where(transparency_mask(image), scale.white, np.asarray(image))
    if scale.bits:
        return Image.fromarray((values >> (scale.bits - 8)).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float64), nan=scale.black, posinf=scale.white, neginf=scale.black)
    span = scale.white - scale.black if scale.white > scale.black else 1
    return Image.fromarray(np.round(255 * (values - scale.black) / span).astype(np.uint8))

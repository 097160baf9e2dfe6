"""The batch of a step."""

import functools

import numpy as np

from options import UserError
from utils import Stream


def batches_per_epoch(count, batch_size, dataset_name):
    """The number of whole batches in count images. Raises UserError where there is none."""
    if count < batch_size:
        raise UserError(f'--batch_size {batch_size} is more than the {count} images of {dataset_name}: choose a '
                        'smaller one')
    return count // batch_size


def batch(images, labels, batch_size, seed, number, flip=False):
    """Batch number number of images uint8 [N, H, W, C] and labels [N], or None -> float32 [B, H, W, C] in [0, 1],
    labels [B], or None. With flip about half of the images are mirrored.

    The order and what is mirrored depend on the seed alone: each pass, of N // batch_size batches, has its own order.
    """
    data_pass, part = divmod(number, len(images) // batch_size)
    chosen = shuffled(seed, data_pass, len(images))[part * batch_size:(part + 1) * batch_size]
    found = images[chosen].astype(np.float32) / 255
    if flip:
        mirrored = np.random.default_rng([seed, Stream.FLIP, number]).integers(2, size=batch_size) == 1
        found[mirrored] = found[mirrored, :, ::-1]
    return found, labels if labels is None else labels[chosen]


@functools.lru_cache(maxsize=1)
def shuffled(seed, data_pass, count):
    """The order in which a pass through the data takes its images: a permutation [count]."""
    return np.random.default_rng([seed, Stream.SHUFFLE, data_pass]).permutation(count)

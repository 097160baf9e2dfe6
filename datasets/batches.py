"""Training batches: their order, their content and prefetching."""

import concurrent.futures
import functools

import numpy as np

from options import UserError
from utils import Stream


def batches_per_epoch(count, batch_size, dataset_name):
    """Return the number of full batches in count images. Raise UserError if there is no full batch."""
    if count < batch_size:
        raise UserError(f'--batch_size {batch_size} is too large ({dataset_name} has {count} training images): choose '
                        'a smaller one')
    return count // batch_size


def batch(images, labels, batch_size, seed, number, flip=False):
    """Return a batch of images and labels that depends only on the seed and the number of the batch.

    Every epoch has its own order and consists of N // batch_size batches.

    Args:
        images: uint8 [N, H, W, C].
        labels: [N] or None.
        number: number of the batch, counted from 0 over all epochs.
        flip: whether to mirror each image with probability 1/2.

    Returns:
        images float32 [B, H, W, C] in [0, 1], and labels [B] or None.
    """
    epoch, position = divmod(number, len(images) // batch_size)
    indices = shuffled(seed, epoch, len(images))[position * batch_size:(position + 1) * batch_size]  # [B]
    batch_images = np.divide(images[indices], np.float32(255), dtype=np.float32)  # without an intermediate copy
    if flip:
        mirrored = np.random.default_rng([seed, Stream.FLIP, number]).integers(2, size=batch_size) == 1  # [B]
        batch_images[mirrored] = batch_images[mirrored, :, ::-1]
    batch_labels = None if labels is None else labels[indices]
    return batch_images, batch_labels


@functools.lru_cache(maxsize=1)
def shuffled(seed, epoch, count):
    """Return the order of the images in one pass through the data, a permutation [count]."""
    return np.random.default_rng([seed, Stream.SHUFFLE, epoch]).permutation(count)


def prefetch(function, start, end):
    """Yield function(number) for each number from start to end - 1.

    A thread computes the next value while the caller uses the current one. It ends with this generator, which must be
    closed. If the function raises an exception, the generator raises it when the value is due.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        future = thread.submit(function, start)
        for number in range(start, end):
            value = future.result()
            if number + 1 < end:
                future = thread.submit(function, number + 1)
            yield value

"""The classifier behind the scores. It is trained here, so that no pretrained network has to be downloaded."""

import math
import os
import pathlib

import numpy as np

from datasets import dataset_digest
from evaluation.metrics import require_samples
from evaluation.progress import Progress
from ops import bn, conv2d, linear
from options import UserError, as_folder, last_component
from tf1 import one_line, tf
from utils import atomic_write, make_folder

EPOCHS = 4
MIN_STEPS = 600  # small data sets therefore get more epochs
BATCH_SIZE = 100
LEARNING_RATE = 0.002
BATCH_PIXELS = 1000 * 28 * 28  # classified per call; limits the memory


def classifier(x, num_classes, is_training, reuse=False):
    """Classify images x [B, H, W, C] in [0, 1].

    Returns:
        Features [B, 128] and logits [B, num_classes].
    """
    with tf.variable_scope('classifier', reuse=reuse, use_resource=True):
        x = tf.nn.relu(bn(conv2d(x, 32, 3, 3, 1, 1, name='c_conv1'), is_training, 'c_bn1'))  # [B, H, W, 32]
        x = tf.nn.relu(bn(conv2d(x, 64, 3, 3, 2, 2, name='c_conv2'), is_training, 'c_bn2'))  # [B, H/2, W/2, 64]
        x = tf.nn.relu(bn(conv2d(x, 128, 3, 3, 2, 2, name='c_conv3'), is_training, 'c_bn3'))  # [B, H/4, W/4, 128]
        while max(x.shape.as_list()[1:3]) > 8:  # images larger than 32 x 32 need more layers to shrink to at most 8 x 8
            height = x.shape.as_list()[1] // 2
            x = conv2d(x, 128, 3, 3, 2, 2, name=f'c_conv_{height}')
            x = tf.nn.relu(bn(x, is_training, f'c_bn_{height}'))  # [B, H/8, W/8, 128], then [B, H/16, W/16, 128], ...
        x = linear(tf.reshape(x, [-1, math.prod(x.shape.as_list()[1:])]), 128, 'c_fc4')
        features = tf.nn.relu(bn(x, is_training, 'c_bn4'))  # [B, 128]
        return features, linear(features, num_classes, 'c_fc5')


def load_classifier(dataset_name, dataset, checkpoint_dir):
    """Restore the classifier of a data set. If there is no classifier, train one on the training split and save it.

    The classifier predicts the class of an image. Without classes, it predicts the rotation of the image by a multiple
    of 90 degrees (Gidaris et al. 2018). If images are not square, the rotation is a multiple of 180 degrees. The folder
    is <checkpoint_dir>/classifier_<last component of dataset_name>/, with the image shape appended unless it is 28 x 28
    x 1. A classifier that is damaged or was trained on other data is trained again.

    Returns:
        classify(images, progress): uint8 [M, H, W, C] -> features [M, 128], probabilities [M, num_classes]. progress is
        a Progress that counts images, or None.

    Raises:
        UserError: if there are too few training images, or if the classifier cannot be saved.
    """
    images, labels = dataset.train
    shape = images.shape[1:]
    require_samples(len(images), 6, 'the classifier cannot be trained', 'add training images')
    num_classes = len(dataset.class_names) if dataset.class_names else num_rotations(shape)
    folder, digest = classifier_folder(dataset_name, shape, checkpoint_dir), dataset_digest(dataset)
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        sess = tf.Session()
        x = tf.placeholder(tf.float32, [None, *shape])
        features, logits = classifier(x, num_classes, is_training=False)
        probabilities = tf.nn.softmax(logits)
        saver = tf.train.Saver()
        if not restore_classifier(sess, saver, folder, digest):
            print(f'Training the classifier that scores {dataset_name} samples. This is done only once; if it is '
                  'interrupted, it starts again', flush=True)
            train_classifier(sess, x, num_classes, images, labels)
            save_classifier(sess, saver, folder, digest)

    batch_size = max(1, BATCH_PIXELS // math.prod(shape[:2]))

    def classify(images, progress=None):
        batches = []
        for start in range(0, len(images), batch_size):
            batch = images[start:start + batch_size]
            batches.append(sess.run([features, probabilities], {x: batch / 255}))
            if progress is not None:
                progress.update(len(batch))
        return tuple(np.concatenate(values) for values in zip(*batches, strict=True))

    return classify


def classifier_folder(dataset_name, shape, checkpoint_dir):
    """Return the folder of the classifier of images of this shape (H, W, C)."""
    suffix = '' if shape == (28, 28, 1) else '_{}x{}x{}'.format(*shape)
    return os.path.join(checkpoint_dir, as_folder(f'classifier_{last_component(dataset_name)}{suffix}'))


def has_classifier(dataset_name, dataset, checkpoint_dir):
    """Return whether there is a classifier that was trained on this Dataset."""
    folder = classifier_folder(dataset_name, dataset.train[0].shape[1:], checkpoint_dir)
    return is_trained_on(folder, dataset_digest(dataset))


def is_trained_on(folder, digest):
    """Return whether a folder holds a classifier that was trained on data with this digest."""
    trained_on = pathlib.Path(folder, 'trained_on')
    return trained_on.exists() and trained_on.read_text(errors='replace') == digest


def restore_classifier(sess, saver, folder, digest):
    """Restore the classifier from a folder. Return whether it exists, is undamaged and has this digest."""
    if not is_trained_on(folder, digest):
        return False
    try:
        saver.restore(sess, os.path.join(folder, 'classifier'))
    except (tf.errors.OpError, ValueError):  # a file is damaged or missing
        return False
    return True


def save_classifier(sess, saver, folder, digest):
    """Save the classifier in a folder, together with the digest of its training data."""
    trained_on = pathlib.Path(make_folder(folder), 'trained_on')
    # Remove the digest first and write it last, so that a killed process never leaves it next to other weights.
    trained_on.unlink(missing_ok=True)
    try:
        saver.save(sess, os.path.join(folder, 'classifier'), write_meta_graph=False)
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f'the classifier cannot be saved in {folder} ({one_line(error)}): free some disk space'
                        ) from error
    with atomic_write(trained_on) as part:
        pathlib.Path(part).write_text(digest)


def train_classifier(sess, x, num_classes, images, labels):
    """Train the classifier, whose input is the placeholder x.

    The images are shifted by up to 2 pixels. The learning rate decays linearly to 0.

    Args:
        images: uint8 [N, H, W, C].
        labels: classes [N], or None to rotate the images at random and train on the rotations.
    """
    y = tf.placeholder(tf.int32, [None])
    learning_rate = tf.placeholder(tf.float32, [])
    _, logits = classifier(x, num_classes, is_training=True, reuse=True)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    train_op = tf.train.AdamOptimizer(learning_rate).minimize(loss)
    sess.run(tf.global_variables_initializer())

    rng = np.random.default_rng(0)
    epochs = training_epochs(len(images))
    batches = []  # of indices
    for _ in range(epochs):
        batches += np.split(rng.permutation(len(images)), range(BATCH_SIZE, len(images), BATCH_SIZE))
    with Progress('Training the classifier', len(batches)) as progress:
        for step, batch in enumerate(batches):
            x_batch = np.roll(images[batch], rng.integers(-2, 3, 2), (1, 2))
            if labels is None:
                y_batch = rng.integers(num_rotations(images.shape[1:]), size=len(batch))
                x_batch = rotate_images(x_batch, y_batch)
            else:
                y_batch = labels[batch]
            remaining = 1 - step / len(batches)
            sess.run(train_op, {x: x_batch / 255, y: y_batch, learning_rate: LEARNING_RATE * remaining})
            progress.update(1)


def training_epochs(count):
    """Return the number of epochs for which the classifier is trained on count images."""
    return max(EPOCHS, math.ceil(MIN_STEPS * BATCH_SIZE / count))


def num_rotations(shape):
    """Return how many rotations keep an image of shape (H, W, C) in that shape: 4, or 2 if it is not square."""
    return 4 if shape[0] == shape[1] else 2


def rotate_images(images, rotations):
    """Rotate images [B, H, W, C] counterclockwise by numbers [B] of quarter turns, or of half turns if H != W."""
    quarter_turns = np.asarray(rotations) * (4 // num_rotations(images.shape[1:]))
    return np.stack([np.rot90(image, turns) for image, turns in zip(images, quarter_turns, strict=True)])

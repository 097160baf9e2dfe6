"""The classifier that scores images: it is trained here, so that no downloaded network is needed."""

import math
import os
import pathlib
import sys
import time

import numpy as np
from tqdm import tqdm

from datasets import dataset_digest
from ops import bn, conv2d, linear
from options import UserError, as_folder
from tf1 import tf
from utils import atomic_write, make_folder

EPOCHS, LEAST_STEPS, BATCH_SIZE, LEARNING_RATE = 4, 600, 100, 0.002  # of the classifier
BLOCK = 1000  # images of 28 x 28 classified, or rows of a matrix of distances, at once
ROTATIONS = 4  # classes where the data have none: the turns of a picture by a quarter


def classifier(x, classes, is_training, reuse=False):
    """Images x [B, H, W, C] in [0, 1] -> (features [B, 128], logits of the classes [B, K])."""
    with tf.variable_scope('classifier', reuse=reuse, use_resource=True):
        x = tf.nn.relu(bn(conv2d(x, 32, 3, 3, 1, 1, name='c_conv1'), is_training, 'c_bn1'))  # [B, 28, 28, 32]
        x = tf.nn.relu(bn(conv2d(x, 64, 3, 3, 2, 2, name='c_conv2'), is_training, 'c_bn2'))  # [B, 14, 14, 64]
        x = tf.nn.relu(bn(conv2d(x, 128, 3, 3, 2, 2, name='c_conv3'), is_training, 'c_bn3'))  # [B, 7, 7, 128]
        while max(x.shape.as_list()[1:3]) > 8:  # of larger images: down to 8 x 8
            name = f'{x.shape.as_list()[1] // 2}'
            x = tf.nn.relu(bn(conv2d(x, 128, 3, 3, 2, 2, name=f'c_conv_{name}'), is_training, f'c_bn_{name}'))
        x = linear(tf.reshape(x, [-1, math.prod(x.shape.as_list()[1:])]), 128, 'c_fc4')
        features = tf.nn.relu(bn(x, is_training, 'c_bn4'))  # [B, 128]
        return features, linear(features, classes, 'c_fc5')


def load_classifier(dataset_name, dataset, checkpoint_dir):
    """Restore the classifier of a data set, or train it on the training split of a Dataset and keep it.

    It tells the classes apart or, where the data have none, the four turns of a picture. It lies in
    <checkpoint_dir>/classifier_<dataset_name>/, with the images' shape in that name unless it is 28 x 28 x 1; what is
    damaged there, or of other data, is trained anew.
    Returns the function classify(images uint8 [M, H, W, C]) -> (features [M, 128], probabilities [M, K]).
    """
    images, labels = dataset.train
    shape = images.shape[1:]
    need(len(images), 6, 'A classifier', 'more pictures')
    suffix = '' if shape == (28, 28, 1) else '_{}x{}x{}'.format(*shape)
    folder = os.path.join(checkpoint_dir, as_folder(f'classifier_{dataset_name}{suffix}'))
    path, trained_on = os.path.join(folder, 'classifier'), pathlib.Path(folder, 'trained_on')
    digest = dataset_digest(dataset)
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        sess = tf.Session()
        x = tf.placeholder(tf.float32, [None, *shape])
        features, logits = classifier(x, len(dataset.class_names) or ROTATIONS, is_training=False)
        probabilities = tf.nn.softmax(logits)
        saver = tf.train.Saver()
        try:
            if not trained_on.exists() or trained_on.read_text() != digest:
                raise tf.errors.NotFoundError(None, None, 'no classifier of this data')
            saver.restore(sess, path)
        except (tf.errors.OpError, ValueError, UnicodeDecodeError):
            print(f'Training the classifier that scores {dataset_name}, once', flush=True)
            train_classifier(sess, x, logits.shape.as_list()[1], images, labels)
            make_folder(folder)
            trained_on.unlink(missing_ok=True)
            try:
                saver.save(sess, path, write_meta_graph=False)
            except (tf.errors.OpError, ValueError) as error:
                raise UserError(f'the classifier cannot be written to {folder}: free some space') from error
            with atomic_write(trained_on) as part:
                pathlib.Path(part).write_text(digest)

    block = max(1, BLOCK * 28 * 28 // math.prod(shape[:2]))

    def classify(images):
        parts = [sess.run([features, probabilities], {x: images[start:start + block] / 255})
                 for start in range(0, len(images), block)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    return classify


def rotate_images(images, turns):
    """Square images [B, H, H, C], each turned by so many quarters, [B]."""
    return np.stack([np.rot90(image, turn) for image, turn in zip(images, turns, strict=True)])


def train_classifier(sess, x, classes, images, labels):
    """Train the variables of the classifier, whose input is x, on images shifted by up to 2 pixels."""
    y, rate = tf.placeholder(tf.int32, [None]), tf.placeholder(tf.float32, [])
    _, logits = classifier(x, classes, is_training=True, reuse=True)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    train_step = tf.train.AdamOptimizer(rate).minimize(loss)
    sess.run(tf.global_variables_initializer())
    rng, start = np.random.default_rng(0), time.time()
    epochs = max(EPOCHS, -(-LEAST_STEPS * BATCH_SIZE // len(images)))
    batches = [batch for _ in range(epochs) for batch in
               np.split(rng.permutation(len(images)), range(BATCH_SIZE, len(images), BATCH_SIZE))]
    for number, batch in enumerate(tqdm(batches, desc='Training the classifier', leave=False, disable=None)):
        if number * 4 // len(batches) > (number - 1) * 4 // len(batches) and number and not sys.stderr.isatty():
            print(f'Training the classifier: {number / len(batches):.0%} after {time.time() - start:.0f} s', flush=True)
        found = np.roll(images[batch], rng.integers(-2, 3, 2), (1, 2))
        answers = rng.integers(ROTATIONS, size=len(batch)) if labels is None else labels[batch]
        if labels is None:
            found = rotate_images(found, answers)
        sess.run(train_step, {x: found / 255, y: answers, rate: LEARNING_RATE * (1 - number / len(batches))})


def need(count, least, what, more='a larger --eval_num'):
    """Raise UserError where a score gets fewer samples than it takes."""
    if count < least:
        raise UserError(f'{what} takes at least {least} samples, not {count}: give {more}')

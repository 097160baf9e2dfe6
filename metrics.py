"""Scores of generated images, by a small classifier that is trained here: no downloaded network is needed."""

import hashlib
import os
import pathlib

import numpy as np
import tensorflow.compat.v1 as tf
from scipy import linalg
from scipy.spatial.distance import cdist
from scipy.special import entr, rel_entr
from tqdm import tqdm

from ops import bn, conv2d, linear
from options import UserError
from utils import check_folder, replacing

EPOCHS, BATCH_SIZE, LEARNING_RATE = 4, 100, 0.002  # of the classifier
BLOCK = 1000  # images classified, or rows of a matrix of distances, at once
SUBSET = 5000  # images of each set that precision, recall, density and coverage compare

##################################################################################
# The classifier
##################################################################################


def classifier(x, is_training, reuse=False):
    """Images x [B, H, W, C] in [0, 1] -> (features [B, 128], logits of the ten classes [B, 10])."""
    with tf.variable_scope('classifier', reuse=reuse, use_resource=True):
        x = tf.nn.relu(bn(conv2d(x, 32, 3, 3, 1, 1, name='c_conv1'), is_training, 'c_bn1'))  # [B, 28, 28, 32]
        x = tf.nn.relu(bn(conv2d(x, 64, 3, 3, 2, 2, name='c_conv2'), is_training, 'c_bn2'))  # [B, 14, 14, 64]
        x = tf.nn.relu(bn(conv2d(x, 128, 3, 3, 2, 2, name='c_conv3'), is_training, 'c_bn3'))  # [B, 7, 7, 128]
        x = linear(tf.reshape(x, [-1, 7 * 7 * 128]), 128, 'c_fc4')
        features = tf.nn.relu(bn(x, is_training, 'c_bn4'))  # [B, 128]
        return features, linear(features, 10, 'c_fc5')


def load_classifier(dataset_name, images, labels, checkpoint_dir):
    """Restore the classifier of a data set, or train it on images uint8 [N, 28, 28, 1] and labels [N] and keep it.

    It lies in <checkpoint_dir>/classifier_<dataset_name>/; what is damaged there, or of other data, is trained anew.
    Returns the function classify(images uint8 [M, 28, 28, 1]) -> (features [M, 128], probabilities [M, 10]).
    """
    folder = os.path.join(checkpoint_dir, f'classifier_{dataset_name}')
    path, trained_on = os.path.join(folder, 'classifier'), pathlib.Path(folder, 'trained_on')
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        sess = tf.Session()
        x = tf.placeholder(tf.float32, [None, 28, 28, 1])
        features, logits = classifier(x, is_training=False)
        probabilities = tf.nn.softmax(logits)
        saver = tf.train.Saver()
        try:
            if not trained_on.exists() or trained_on.read_text() != digest:
                raise tf.errors.NotFoundError(None, None, 'no classifier of this data')
            saver.restore(sess, path)
        except (tf.errors.OpError, ValueError, UnicodeDecodeError):
            print(f'Training the classifier that scores {dataset_name}, once', flush=True)
            train_classifier(sess, x, images, labels)
            check_folder(folder)
            trained_on.unlink(missing_ok=True)
            saver.save(sess, path, write_meta_graph=False)
            with replacing(trained_on) as part:
                pathlib.Path(part).write_text(digest)

    def classify(images):
        parts = [sess.run([features, probabilities], {x: images[start:start + BLOCK] / 255})
                 for start in range(0, len(images), BLOCK)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    return classify


def train_classifier(sess, x, images, labels):
    """Train the variables of the classifier, whose input is x, on images shifted by up to 2 pixels."""
    y, rate = tf.placeholder(tf.int32, [None]), tf.placeholder(tf.float32, [])
    _, logits = classifier(x, is_training=True, reuse=True)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    train_step = tf.train.AdamOptimizer(rate).minimize(loss)
    sess.run(tf.global_variables_initializer())
    rng = np.random.default_rng(0)
    batches = [batch for _ in range(EPOCHS) for batch in
               np.split(rng.permutation(len(images)), range(BATCH_SIZE, len(images), BATCH_SIZE))]
    for number, batch in enumerate(tqdm(batches, desc='Training the classifier', leave=False, disable=None)):
        shifted = np.roll(images[batch], rng.integers(-2, 3, 2), (1, 2))
        sess.run(train_step, {x: shifted / 255, y: labels[batch], rate: LEARNING_RATE * (1 - number / len(batches))})


def load_scorer(dataset_name, images, labels, checkpoint_dir):
    """Load the classifier, as load_classifier does -> a function that takes the quick scores of samples.

    It takes uint8 [M, 28, 28, 1] and returns {'frechet_distance': that to images, 'classifier_score': ...}.
    """
    classify = load_classifier(dataset_name, images, labels, checkpoint_dir)
    real_features, _ = classify(images)

    def score(samples):
        features, probabilities = classify(samples)
        return {'frechet_distance': frechet_distance(features, real_features),
                'classifier_score': classifier_score(probabilities)[0]}

    return score


def compare(samples, labels, dataset_name, train, test, checkpoint_dir):
    """Every score of samples uint8 [M, 28, 28, 1] and of the real test split.

    labels [M]: the classes that were asked for, None where none were. train, test: (images uint8 [N, 28, 28, 1], labels
    [N]). Returns ({name: number or list} of the samples, the same of the test split, the share of the test split that
    the classifier recognises).
    """
    classify = load_classifier(dataset_name, *train, checkpoint_dir)
    train_features, _ = classify(train[0])
    test_features, test_probabilities = classify(test[0])
    features, probabilities = classify(samples)
    generated = all_scores(features, probabilities, train_features, test_features)
    real = all_scores(test_features, test_probabilities, train_features, test_features)
    if labels is not None:
        generated.update(class_scores(features, probabilities, labels, train_features, train[1]))
        real.update(class_scores(test_features, test_probabilities, test[1], train_features, train[1]))
    return generated, real, recognised(test_probabilities, test[1])


##################################################################################
# Scores of features [N, D] and probabilities [N, 10]
##################################################################################


def frechet_distance(a, b):
    """Fréchet distance of the Gaussians with the means and covariances of a [N, D] and b [M, D] (Heusel et al. 2017).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), eq. 6 there; 0 is best. Finite for singular covariances too.
    """
    need(min(len(a), len(b)), 2, 'The Fréchet distance')
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    # The root of C_a C_b has the trace of that of the symmetric R C_b R, R^2 = C_a, which cannot turn out complex.
    values, vectors = linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    values = linalg.eigvalsh(root @ cov_b @ root)
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b)
    return float(max(0, distance - 2 * np.sqrt(np.clip(values, 0, None)).sum()))


def classifier_score(probabilities, splits=10):
    """Mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))), from 1 to 10 (Salimans et al. 2016)."""
    need(len(probabilities), splits, 'The classifier score')
    parts = np.array_split(probabilities, splits)
    scores = [np.exp(rel_entr(part, part.mean(0)).sum(1).mean()) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(real, fake, k=3):
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2) of features [N, D] and [M, D].

    The share of fake inside the balls around real, and of real inside those around fake; a ball reaches to the
    k-th neighbour of its center in its own set.
    """
    real_radii, fake_radii = radii(real, k), radii(fake, k)
    covered, covering = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, distances in distance_blocks(real, fake):  # [block, M]
        covered |= (distances <= real_radii[rows, None]).any(0)
        covering[rows] = (distances <= fake_radii).any(1)
    return float(covered.mean()), float(covering.mean())


def density_coverage(real, fake, k=5):
    """Density and coverage (Naeem et al. 2020, eq. 3 and 4) of features [N, D] and [M, D], balls around real alone."""
    real_radii = radii(real, k)
    inside, covered = 0, np.zeros(len(real), bool)
    for rows, distances in distance_blocks(real, fake):
        hits = distances <= real_radii[rows, None]  # [block, M]
        inside += hits.sum()
        covered[rows] = hits.any(1)
    return float(inside / (k * len(fake))), float(covered.mean())


def radii(points, k):
    """Distance of each of points [N, D] to its k-th neighbour among them -> [N]."""
    need(len(points), k + 1, f'A neighbour number {k}')
    return np.concatenate([np.partition(distances, k)[:, k] for _, distances in distance_blocks(points, points)])


def distance_blocks(a, b):
    """Distances of a [N, D] to b [M, D], BLOCK rows at a time: (slice of the rows, [block, M])."""
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, cdist(a[rows], b)


def nearest(images, candidates, count):
    """Indices of the candidates [M, ...] nearest to each of images [N, ...], nearest first, by their pixels."""
    images, candidates = images.reshape(len(images), -1), candidates.reshape(len(candidates), -1)
    # Block after block of candidates, so that their floats never lie in memory all at once.
    distances = np.concatenate([cdist(images, candidates[start:start + BLOCK])
                                for start in range(0, len(candidates), BLOCK)], axis=1)  # [N, M]
    return np.argsort(distances, axis=1, kind='stable')[:, :count]


def need(count, least, what):
    """Raise UserError where a score gets fewer samples than it takes."""
    if count < least:
        raise UserError(f'{what} takes at least {least} samples, not {count}: give a larger --eval_num')


def all_scores(features, probabilities, train_features, test_features):
    """Every score of one set of images, generated or real -> {name: number or list}."""
    subset, reference = features[:SUBSET], train_features[:SUBSET]
    precision, recall = precision_recall(reference, subset)
    density, coverage = density_coverage(reference, subset)
    score, spread = classifier_score(probabilities)
    histogram = np.bincount(probabilities.argmax(1), minlength=10) / len(probabilities)
    return {
        'frechet_to_train': frechet_distance(features, train_features),
        'frechet_to_test': frechet_distance(features, test_features),
        'classifier_score': score, 'classifier_score_std': spread,
        'precision': precision, 'recall': recall, 'density': density, 'coverage': coverage,
        'class_entropy': float(entr(histogram).sum()), 'confidence': float(probabilities.max(1).mean()),
        'class_histogram': histogram.tolist()}


def recognised(probabilities, labels):
    """The share of images whose most probable class is their label; probabilities [N, K], labels [N]."""
    return float((probabilities.argmax(1) == labels).mean())


def class_scores(features, probabilities, labels, train_features, train_labels):
    """Scores of images of which each was to be of a class, labels [N] -> {name: number}."""
    distances = [frechet_distance(features[labels == label], train_features[train_labels == label])
                 for label in np.unique(labels)]
    return {'recognised': recognised(probabilities, labels), 'frechet_within_classes': float(np.mean(distances))}


def print_scores(generated, real):
    """Print the scores of all_scores for generated images beside those of the real test split."""
    labels = {
        'frechet_to_train': 'Fréchet distance to the training split',
        'frechet_to_test': 'Fréchet distance to the test split',
        'classifier_score': 'classifier score (of 10)', 'classifier_score_std': '  its deviation over 10 splits',
        'precision': f'precision (k = 3, {SUBSET} images)', 'recall': 'recall', 'density': 'density (k = 5)',
        'coverage': 'coverage', 'class_entropy': f'entropy of the classes (of {np.log(10):.3f})',
        'confidence': 'mean confidence',
        'recognised': 'recognised as the class asked for',
        'frechet_within_classes': 'Fréchet distance within a class, mean'}
    print(f'{"":<42}{"generated":>12}{"real test":>12}')
    for name, label in ((name, label) for name, label in labels.items() if name in generated):
        print(f'{label:<42}{generated[name]:>12.3f}{real[name]:>12.3f}')
    for digit, shares in enumerate(zip(generated['class_histogram'], real['class_histogram'], strict=True)):
        print(f'{f"share of the digit {digit}":<42}{shares[0]:>12.3f}{shares[1]:>12.3f}')

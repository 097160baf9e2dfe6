"""Scores of generated images, from the features and the probabilities of the classifier."""

from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.spatial.distance import cdist
from scipy.special import entr, rel_entr

from evaluation.classifier import load_classifier, num_rotations, require_samples, rotate_images

SUBSET = 5000  # images of each set that precision, recall, density and coverage use
BLOCK = 1000  # features or images that are processed at once; bounds the memory
BLOCK_PIXELS = 1000 * 28 * 28  # pixels per block in nearest_neighbours, where images may be large


##################################################################################
# Scores of features [N, D], probabilities [N, K] and labels [N]
##################################################################################

def frechet_distance(a, b):
    """Return the Fréchet distance between Gaussians fitted to features a [N, D] and b [M, D]; 0 is best.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with means m and covariances C (Heusel et al. 2017, eq. 6). The
    result is finite even if a covariance is singular.
    """
    require_samples(min(len(a), len(b)), 2, 'the Fréchet distance cannot be computed')
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    # With R^2 = C_a, the root of the symmetric matrix R C_b R is never complex. Its trace equals that of
    # (C_a C_b)^(1/2).
    values, vectors = linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    values = linalg.eigvalsh(root @ cov_b @ root)
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b)
    return float(max(0, distance - 2 * np.sqrt(np.clip(values, 0, None)).sum()))


def classifier_score(probabilities, splits=10):
    """Return the mean and the standard deviation over splits of exp(mean KL(p(y|x) || p(y))).

    This is the formula of the Inception Score (Salimans et al. 2016). It ranges from 1 to K; higher is better.
    """
    require_samples(len(probabilities), splits, 'the classifier score cannot be computed')
    scores = [np.exp(rel_entr(split, split.mean(0)).sum(1).mean()) for split in np.array_split(probabilities, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(real, fake, k=3):
    """Return improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2) of features [N, D] and [M, D].

    Each point has a ball around it that reaches to its k-th nearest neighbour in its own set. Precision is the fraction
    of fake points inside balls of real points. Recall is the fraction of real points inside balls of fake points.
    """
    real_radii, fake_radii = neighbour_distances(real, k), neighbour_distances(fake, k)
    fake_covered, real_covered = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, distances in distance_blocks(real, fake):  # [block, M]
        fake_covered |= (distances <= real_radii[rows, None]).any(0)
        real_covered[rows] = (distances <= fake_radii).any(1)
    return float(fake_covered.mean()), float(real_covered.mean())


def density_coverage(real, fake, k=5):
    """Return density and coverage (Naeem et al. 2020, eq. 3 and 4) of features [N, D] and [M, D].

    Only real points have balls, which reach to their k-th nearest neighbour. Density is the mean number of balls that
    contain a fake point, divided by k. Coverage is the fraction of balls that contain a fake point.
    """
    radii = neighbour_distances(real, k)
    hits, covered = 0, np.zeros(len(real), bool)
    for rows, distances in distance_blocks(real, fake):
        inside = distances <= radii[rows, None]  # [block, M]
        hits += inside.sum()
        covered[rows] = inside.any(1)
    return float(hits / (k * len(fake))), float(covered.mean())


def neighbour_distances(points, k):
    """Return the distance [N] of each point [N, D] to its k-th nearest neighbour among the others."""
    require_samples(len(points), k + 1, f'the distance to neighbour {k} cannot be computed')
    # Index k, not k - 1: the nearest of all is the point itself.
    return np.concatenate([np.partition(distances, k)[:, k] for _, distances in distance_blocks(points, points)])


def distance_blocks(a, b):
    """Yield the distances of a [N, D] to b [M, D] in blocks of rows: (slice of the rows, distances [block, M])."""
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, cdist(a[rows], b)


def nearest_neighbours(images, candidates, count):
    """Return the indices [N, count] of the candidates [M, ...] nearest to images [N, ...] in pixels, nearest first."""
    images, candidates = images.reshape(len(images), -1), candidates.reshape(len(candidates), -1)
    # cdist converts to float64, so it gets only a block of the candidates at a time.
    block = max(1, BLOCK_PIXELS // images.shape[1])
    distances = np.concatenate([cdist(images, candidates[start:start + block])
                                for start in range(0, len(candidates), block)], axis=1)  # [N, M]
    return np.argsort(distances, axis=1, kind='stable')[:, :count]


def class_accuracy(probabilities, labels):
    """Return the fraction of images whose most probable class [N, K] is their label [N]."""
    return float((probabilities.argmax(1) == labels).mean())


def frechet_within_classes(features, labels, train_features, train_labels):
    """Return the mean over the classes of the Fréchet distance to the training images of the same class.

    Classes with fewer than two images in either set are left out. Return None if no class remains.
    """
    counts, train_counts = np.bincount(labels), np.bincount(train_labels)
    classes = [label for label in range(min(len(counts), len(train_counts)))
               if counts[label] > 1 and train_counts[label] > 1]
    if not classes:
        return None
    return float(np.mean([frechet_distance(features[labels == label], train_features[train_labels == label])
                          for label in classes]))


##################################################################################
# Evaluation of samples
##################################################################################

class Scores(NamedTuple):
    """The scores of the samples and of the real test split, each as {name: number or list}."""
    generated: dict
    real: dict
    classifier_accuracy: float  # on the real test split


def load_scorer(dataset_name, dataset, checkpoint_dir):
    """Load the classifier of a data set and return a function that computes the scores for --eval_freq.

    Returns:
        score(samples): uint8 [M, H, W, C] -> {'frechet_distance': to the training split, 'classifier_score': ...}. The
        classifier score is missing if the data set has no classes.
    """
    classify = load_classifier(dataset_name, dataset, checkpoint_dir)
    train_features, _ = classify(dataset.train[0])

    def score(samples):
        features, probabilities = classify(samples)
        scores = {'frechet_distance': frechet_distance(features, train_features)}
        if dataset.class_names:
            scores['classifier_score'], _ = classifier_score(probabilities)
        return scores

    return score


def evaluate_samples(samples, labels, dataset_name, dataset, checkpoint_dir):
    """Compute every score of samples, and the same scores of the real test split of a Dataset.

    If the data set has no classes, the scores that need classes are left out, and the classifier recognises rotations.

    Args:
        samples: uint8 [M, H, W, C].
        labels: the classes [M] that the samples were conditioned on, or None.

    Returns:
        Scores.

    Raises:
        UserError: if there are too few samples or test images.
    """
    train_images, train_labels = dataset.train
    test_images, test_labels = dataset.test
    failure = 'the samples cannot be compared with the test split'
    require_samples(len(samples), 10, failure)
    require_samples(len(test_images), 10, failure, 'add test images')
    classify = load_classifier(dataset_name, dataset, checkpoint_dir)
    print(f'Comparing {len(samples)} samples with {len(train_images)} training images and {len(test_images)} test '
          'images', flush=True)
    train_features, _ = classify(train_images)
    test_features, test_probabilities = classify(test_images)
    features, probabilities = classify(samples)

    generated = feature_scores(features, train_features, test_features)
    real = feature_scores(test_features, train_features, test_features)
    if not dataset.class_names:
        return Scores(generated, real, rotation_accuracy(classify, test_images))
    generated.update(prediction_scores(probabilities))
    real.update(prediction_scores(test_probabilities))
    if labels is not None:
        generated.update(class_scores(features, probabilities, labels, train_features, train_labels))
        real.update(class_scores(test_features, test_probabilities, test_labels, train_features, train_labels))
    return Scores(generated, real, class_accuracy(test_probabilities, test_labels))


def feature_scores(features, train_features, test_features):
    """Return the scores {name: number} that need no classes, for a set of generated or real images."""
    subset, train_subset = features[:SUBSET], train_features[:SUBSET]
    precision, recall = precision_recall(train_subset, subset)
    density, coverage = density_coverage(train_subset, subset)
    return {
        'frechet_to_train': frechet_distance(features, train_features),
        'frechet_to_test': frechet_distance(features, test_features),
        'precision': precision, 'recall': recall, 'density': density, 'coverage': coverage}


def prediction_scores(probabilities):
    """Return the scores {name: number or list} that need only the predicted probabilities [N, K]."""
    score, deviation = classifier_score(probabilities)
    histogram = np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)  # [K]
    return {
        'classifier_score': score, 'classifier_score_std': deviation,
        'class_entropy': float(entr(histogram).sum()), 'confidence': float(probabilities.max(1).mean()),
        'class_histogram': histogram.tolist()}


def class_scores(features, probabilities, labels, train_features, train_labels):
    """Return the scores {name: number} that need the labels [N] of the images."""
    scores = {'class_accuracy': class_accuracy(probabilities, labels)}
    distance = frechet_within_classes(features, labels, train_features, train_labels)
    if distance is not None:
        scores['frechet_within_classes'] = distance
    return scores


def rotation_accuracy(classify, images):
    """Return the fraction of images [N, H, W, C] whose rotation a classifier recognises."""
    rotations = np.arange(len(images)) % num_rotations(images.shape[1:])
    probabilities = []
    for start in range(0, len(images), BLOCK):  # in blocks, because rotation copies the images
        rows = slice(start, start + BLOCK)
        _, block_probabilities = classify(rotate_images(images[rows], rotations[rows]))
        probabilities.append(block_probabilities)
    return class_accuracy(np.concatenate(probabilities), rotations)


##################################################################################
# The table
##################################################################################

# {name of a score: its label in the table}, in the order of the rows.
LABELS = {
    'frechet_to_train': 'Fréchet distance to the training split',
    'frechet_to_test': 'Fréchet distance to the test split',
    'classifier_score': 'classifier score (1 to {num_classes})',
    'classifier_score_std': '  standard deviation over 10 splits',
    'precision': 'precision (k = 3, {subset} images)',
    'recall': 'recall (k = 3)',
    'density': 'density (k = 5)',
    'coverage': 'coverage (k = 5)',
    'class_entropy': 'class entropy (0 to {max_entropy:.3f})',
    'confidence': 'mean confidence',
    'class_accuracy': 'class accuracy',
    'frechet_within_classes': 'mean Fréchet distance within classes'}


def print_scores(generated, real, class_names, count):
    """Print the scores of count generated images beside those of the real test split."""
    num_classes = max(1, len(class_names))
    limits = {'num_classes': num_classes, 'max_entropy': np.log(num_classes), 'subset': min(count, SUBSET)}
    print(f'{"":<42}{"generated":>12}{"real test":>12}')
    for name, label in LABELS.items():
        if name in generated and name in real:
            print(f'{label.format(**limits):<42}{generated[name]:>12.3f}{real[name]:>12.3f}')
    if not class_names:
        print('Not computed, because the data set has no classes: classifier score, class entropy, confidence, '
              'class histogram')
        return
    histograms = zip(class_names, generated['class_histogram'], real['class_histogram'], strict=True)
    for name, generated_fraction, real_fraction in histograms:
        label = f'fraction predicted as {name}'
        print(f'{label:<42.42}{generated_fraction:>12.3f}{real_fraction:>12.3f}')

"""Scores of generated images, from the features and probabilities of the classifier."""

import numpy as np
from scipy import linalg
from scipy.spatial.distance import cdist
from scipy.special import entr, rel_entr

from evaluation.classifier import BLOCK, ROTATIONS, load_classifier, need, rotate_images

SUBSET = 5000  # images of each set that precision, recall, density and coverage compare


def load_scorer(dataset_name, dataset, checkpoint_dir):
    """Load the classifier, as load_classifier does -> a function that takes the quick scores of samples.

    It takes uint8 [M, H, W, C] and returns {'frechet_distance': that to the training split, 'classifier_score': ...},
    without the latter where the data have no classes.
    """
    classify = load_classifier(dataset_name, dataset, checkpoint_dir)
    real_features, _ = classify(dataset.train[0])

    def score(samples):
        features, probabilities = classify(samples)
        scores = {'frechet_distance': frechet_distance(features, real_features)}
        return {**scores, 'classifier_score': classifier_score(probabilities)[0]} if dataset.class_names else scores

    return score


def compare(samples, labels, dataset_name, dataset, checkpoint_dir):
    """Every score of samples uint8 [M, H, W, C] and of the real test split of a Dataset.

    labels [M]: the classes that were asked for, None where none were. Returns ({name: number or list} of the samples,
    the same of the test split, the share of the test split that the classifier recognises). Where the data have no
    classes, the scores that need them are left out, and what is recognised are turns. Raises UserError where there is
    no test split, or where there are too few samples.
    """
    (_, train_labels), (test_images, test_labels) = dataset.train, dataset.test
    need(len(samples), 10, 'A comparison with the real test split')
    need(len(test_images), 10, 'A comparison with the real test split', 'more test pictures')
    classify = load_classifier(dataset_name, dataset, checkpoint_dir)
    print(f'Comparing {len(samples)} samples with {len(dataset.train[0])} images of the training split and '
          f'{len(test_images)} of the test split', flush=True)
    train_features, _ = classify(dataset.train[0])
    test_features, test_probabilities = classify(test_images)
    features, probabilities = classify(samples)
    generated, real = (set_scores(found, train_features, test_features) for found in (features, test_features))
    if not dataset.class_names:
        turns = np.arange(len(test_images)) % ROTATIONS
        found = [classify(rotate_images(test_images[start:start + BLOCK], turns[start:start + BLOCK]))[1]
                 for start in range(0, len(test_images), BLOCK)]
        return generated, real, class_accuracy(np.concatenate(found), turns)
    generated.update(probability_scores(probabilities))
    real.update(probability_scores(test_probabilities))
    if labels is not None:
        generated.update(class_scores(features, probabilities, labels, train_features, train_labels))
        real.update(class_scores(test_features, test_probabilities, test_labels, train_features, train_labels))
    return generated, real, class_accuracy(test_probabilities, test_labels)


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
    """Mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))), from 1 to K (Salimans et al. 2016)."""
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


def nearest_neighbours(images, candidates, count):
    """Indices of the candidates [M, ...] nearest to each of images [N, ...], nearest first, by their pixels."""
    images, candidates = images.reshape(len(images), -1), candidates.reshape(len(candidates), -1)
    # Block after block of candidates, so that their floats never lie in memory all at once.
    block = max(1, BLOCK * 28 * 28 // images.shape[1])
    distances = np.concatenate([cdist(images, candidates[start:start + block])
                                for start in range(0, len(candidates), block)], axis=1)  # [N, M]
    return np.argsort(distances, axis=1, kind='stable')[:, :count]


def set_scores(features, train_features, test_features):
    """The scores of one set of images, generated or real, that need no classes -> {name: number}."""
    subset, reference = features[:SUBSET], train_features[:SUBSET]
    precision, recall = precision_recall(reference, subset)
    density, coverage = density_coverage(reference, subset)
    return {
        'frechet_to_train': frechet_distance(features, train_features),
        'frechet_to_test': frechet_distance(features, test_features),
        'precision': precision, 'recall': recall, 'density': density, 'coverage': coverage}


def probability_scores(probabilities):
    """The scores of one set of images that need the probabilities of classes alone -> {name: number or list}."""
    score, spread = classifier_score(probabilities)
    histogram = np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)
    return {
        'classifier_score': score, 'classifier_score_std': spread,
        'class_entropy': float(entr(histogram).sum()), 'confidence': float(probabilities.max(1).mean()),
        'class_histogram': histogram.tolist()}


def class_accuracy(probabilities, labels):
    """The share of images whose most probable class is their label; probabilities [N, K], labels [N]."""
    return float((probabilities.argmax(1) == labels).mean())


def class_scores(features, probabilities, labels, train_features, train_labels):
    """Scores of images of which each was to be of a class, labels [N] -> {name: number}.

    The distance is the mean over the classes with at least two images and two training images; where no class has as
    many, it is left out.
    """
    counts, train_counts = (np.bincount(found, minlength=probabilities.shape[1]) for found in (labels, train_labels))
    distances = [frechet_distance(features[labels == label], train_features[train_labels == label])
                 for label in np.flatnonzero((counts > 1) & (train_counts > 1))]
    scores = {'class_accuracy': class_accuracy(probabilities, labels)}
    return {**scores, 'frechet_within_classes': float(np.mean(distances))} if distances else scores


def print_scores(generated, real, class_names, count):
    """Print the scores of compare for count generated images beside those of the real test split."""
    labels = {
        'frechet_to_train': 'Fréchet distance to the training split',
        'frechet_to_test': 'Fréchet distance to the test split',
        'classifier_score': f'classifier score (of {len(class_names)})',
        'classifier_score_std': '  its deviation over 10 splits',
        'precision': f'precision (k = 3, {min(count, SUBSET)} images)', 'recall': 'recall',
        'density': 'density (k = 5)', 'coverage': 'coverage',
        'class_entropy': f'entropy of the classes (of {np.log(len(class_names) or 1):.3f})',
        'confidence': 'mean confidence',
        'class_accuracy': 'recognised as the class asked for',
        'frechet_within_classes': 'Fréchet distance within a class, mean'}
    print(f'{"":<42}{"generated":>12}{"real test":>12}')
    for name, label in ((name, label) for name, label in labels.items() if name in generated and name in real):
        print(f'{label:<42}{generated[name]:>12.3f}{real[name]:>12.3f}')
    if not class_names:
        print('Left out, because the data have no classes: classifier score, entropy, confidence, shares')
        return
    for name, *shares in zip(class_names, generated['class_histogram'], real['class_histogram'], strict=True):
        print(f'{f"share of {name}":<42.42}{shares[0]:>12.3f}{shares[1]:>12.3f}')

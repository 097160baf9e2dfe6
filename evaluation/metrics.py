"""Scores of generated images: the functions, and the registry METRICS.

python -m evaluation.metrics prints the table of docs/evaluation.md.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.spatial.distance import cdist
from scipy.special import entr, rel_entr

from options import UserError

MIN_FRECHET_IMAGES = 128  # the number of the classifier's features; fewer images say too little about the covariance
MIN_NEIGHBOUR_IMAGES = 50
NEIGHBOUR_IMAGES = 5000  # images of each set that precision, recall, density and coverage use
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
TRAINING_SPLIT = 'the training split'  # the default reference
BLOCK = 1000  # features or images that are processed at once; limits the memory
BLOCK_PIXELS = 1000 * 28 * 28  # pixels per block in nearest_neighbours, where images may be large


##################################################################################
# Scores of features [N, D], probabilities [N, K] and labels [N]
##################################################################################

class Statistics(NamedTuple):
    """The Gaussian that is fitted to features."""
    mean: np.ndarray  # [D]
    covariance: np.ndarray  # [D, D]


def require_samples(count, minimum, failure, fix='increase --eval_num'):
    """Raise UserError if count is below a minimum.

    Args:
        failure: what cannot be done with so few images.
        fix: how to get more of them.
    """
    if count < minimum:
        raise UserError(f'{failure} (at least {minimum} images are needed, not {count}): {fix}')


def fit_gaussian(features):
    """Return the Statistics of features [N, D], in float64."""
    require_samples(len(features), 2, 'the Fréchet distance cannot be computed')
    features = features.astype(np.float64)
    return Statistics(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(a, b):
    """Return the Fréchet distance between Gaussians fitted to features a [N, D] and b [M, D]; 0 is best."""
    return frechet_of_statistics(fit_gaussian(a), fit_gaussian(b))


def frechet_of_statistics(a, b):
    """Return the Fréchet distance between two Gaussians, given as Statistics.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with means m and covariances C (Heusel et al. 2017, eq. 6). The
    result is finite even if a covariance is singular.
    """
    # With R^2 = C_a, the root of the symmetric matrix R C_b R is never complex. Its trace equals that of
    # (C_a C_b)^(1/2).
    values, vectors = linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    values = linalg.eigvalsh(root @ b.covariance @ root)
    distance = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance)
    return float(max(0, distance - 2 * np.sqrt(np.clip(values, 0, None)).sum()))


def kernel_distance(a, b, subsets=KID_SUBSETS, size=None, seed=0):
    """Return the mean and the standard deviation over subsets of the squared MMD of features a [N, D] and b [M, D].

    With the kernel (x y / D + 1)^3, this is the Kernel Inception Distance (Binkowski et al. 2018, arXiv:1801.01401).
    Each subset gives an unbiased estimate (Gretton et al. 2012, eq. 3), so the mean does not depend on the number of
    images. It can be negative.

    Args:
        size: number of images that a subset draws from each set, without replacement. By default, this is half of the
            smaller set, and at most 1,000. Larger subsets of a small set would be nearly equal, and the deviation too
            small.
    """
    if size is None:
        size = min(KID_SUBSET_SIZE, len(a) // 2, len(b) // 2)
    require_samples(size, 2, 'the kernel distance cannot be computed')
    rng = np.random.default_rng(seed)
    distances = []
    for _ in range(subsets):
        x, y = (features[rng.choice(len(features), size, replace=False)].astype(np.float64) for features in (a, b))
        within = [kernel.sum() - np.trace(kernel) for kernel in (cubic_kernel(x, x), cubic_kernel(y, y))]
        distances.append(sum(within) / (size * (size - 1)) - 2 * cubic_kernel(x, y).mean())
    return float(np.mean(distances)), float(np.std(distances))


def cubic_kernel(x, y):
    """Return the kernel (x y / D + 1)^3 of each row of x [N, D] with each row of y [M, D]: [N, M]."""
    kernel = x @ y.T / x.shape[1] + 1
    return kernel * kernel * kernel  # much faster than kernel ** 3


def classifier_score(probabilities, splits=10):
    """Return the mean and the standard deviation over splits of exp(mean KL(p(y|x) || p(y))).

    This is the formula of the Inception Score (Salimans et al. 2016). It ranges from 1 to K; higher is better.
    """
    require_samples(len(probabilities), splits, 'the classifier score cannot be computed')
    scores = [np.exp(rel_entr(split, split.mean(0)).sum(1).mean()) for split in np.array_split(probabilities, splits)]
    return float(np.mean(scores)), float(np.std(scores))


class PrecisionRecall(NamedTuple):
    precision: float
    recall: float


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
    return PrecisionRecall(float(fake_covered.mean()), float(real_covered.mean()))


class DensityCoverage(NamedTuple):
    density: float
    coverage: float


def density_coverage(real, fake, k=5):
    """Return density and coverage (Naeem et al. 2020, eq. 3 and 4) of features [N, D] and [M, D].

    Only real points have balls, which reach to their k-th nearest neighbour. Density is the number of balls that
    contain a fake point, averaged over the fake points and divided by k. Coverage is the fraction of balls that contain
    at least one fake point.
    """
    radii = neighbour_distances(real, k)
    hits, covered = 0, np.zeros(len(real), bool)
    for rows, distances in distance_blocks(real, fake):
        inside = distances <= radii[rows, None]  # [block, M]
        hits += inside.sum()
        covered[rows] = inside.any(1)
    return DensityCoverage(float(hits / (k * len(fake))), float(covered.mean()))


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


def frechet_within_classes(features, labels, train_features, train_labels, classes):
    """Return the mean over some classes of the Fréchet distance to the training images of the same class."""
    return float(np.mean([frechet_distance(features[labels == label], train_features[train_labels == label])
                          for label in classes]))


def common_classes(num_classes, *labels):
    """Return the classes that have at least MIN_FRECHET_IMAGES images in each of several label arrays [N]."""
    counts = np.stack([np.bincount(array, minlength=num_classes) for array in labels])  # [arrays, K]
    return np.flatnonzero(counts.min(0) >= MIN_FRECHET_IMAGES)


def class_histogram(probabilities):
    """Return the fraction of images that are predicted as each class: [K]."""
    return np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)


##################################################################################
# The registry
##################################################################################

@dataclasses.dataclass(frozen=True)
class Comparison:
    """The images of one column of the table, and the images that they are compared with. Unknown fields are None."""
    features: np.ndarray  # [N, D]
    probabilities: np.ndarray | None  # [N, K]
    labels: np.ndarray | None  # [N], the classes that the images should show
    train_features: np.ndarray | None  # [M, D]
    train_labels: np.ndarray | None  # [M]
    train_statistics: Statistics
    test_features: np.ndarray | None  # [T, D]; None in the column of the test split itself
    classes: np.ndarray | None  # those that frechet_within_classes uses

    def first(self, count):
        """Return the comparison of the first count images."""
        part = {name: getattr(self, name) for name in ('features', 'probabilities', 'labels')}
        return dataclasses.replace(self, **{name: None if array is None else array[:count]
                                            for name, array in part.items()})

    # Each property serves two scores, so that the distances are computed only once.

    @functools.cached_property
    def precision_recall(self):
        return precision_recall(self.train_features[:NEIGHBOUR_IMAGES], self.features)

    @functools.cached_property
    def density_coverage(self):
        return density_coverage(self.train_features[:NEIGHBOUR_IMAGES], self.features)


class Metric(NamedTuple):
    """A score. It becomes a row of the table of eval, a key of SAGAN_scores.json and a row of docs/evaluation.md."""
    name: str  # key of SAGAN_scores.json
    title: str
    detail: str  # follows the title; may contain {reference}, {num_classes} and {max_entropy}
    better: str  # 'lower' or 'higher'
    meaning: str  # for the documentation
    compute: Callable  # Comparison -> a number, or a pair (mean, standard deviation)
    needs: tuple = ()  # the arrays of a Comparison that must be known; scores.MISSING says why one may be unknown
    min_images: int = 1  # with fewer, the score is left out
    max_images: int | None = None  # with more, only the first max_images are used
    same_count: bool = True  # whether both columns must have the same number of images; False for unbiased scores
    history: str = ''  # column of the history; if set, --eval_freq computes the score
    decimals: int = 3  # in the table

    def label(self, **limits):
        """Return the label in the table, which has room for 40 characters. limits are the values for detail."""
        return f'{self.title} {self.detail}'.strip().format(**limits)

    def short_label(self, reference=TRAINING_SPLIT):
        """Return the label without the part in brackets."""
        return self.label(reference=reference, num_classes='', max_entropy='').split(' (')[0]


NEIGHBOURS = {'needs': ('train_features',), 'min_images': MIN_NEIGHBOUR_IMAGES, 'max_images': NEIGHBOUR_IMAGES}
METRICS = [
    Metric('frechet_to_train', 'Fréchet distance', 'to {reference}', 'lower',
           'distance between Gaussians fitted to the features (Heusel et al. 2017)',
           lambda c: frechet_of_statistics(fit_gaussian(c.features), c.train_statistics),
           min_images=MIN_FRECHET_IMAGES, history='frechet_distance'),
    Metric('frechet_to_test', 'Fréchet distance', 'to the test split', 'lower', 'the same for the test split',
           lambda c: frechet_distance(c.features, c.test_features), ('test_features',), MIN_FRECHET_IMAGES),
    Metric('kid', 'KID', 'to {reference}', 'lower',
           'unbiased distance between the features; use it for small sets (Binkowski et al. 2018)',
           lambda c: kernel_distance(c.features, c.train_features), ('train_features',), 4, same_count=False,
           decimals=4),
    Metric('classifier_score', 'classifier score', '(1 to {num_classes})', 'higher',
           "the formula of the Inception Score, for the classifier's classes (Salimans et al. 2016)",
           lambda c: classifier_score(c.probabilities), ('probabilities',), 10, history='classifier_score'),
    Metric('precision', 'precision', '(k = 3)', 'higher',
           'share of samples near training images (Kynkäänniemi et al. 2019)',
           lambda c: c.precision_recall.precision, **NEIGHBOURS),
    Metric('recall', 'recall', '(k = 3)', 'higher',
           'share of training images near samples (Kynkäänniemi et al. 2019)',
           lambda c: c.precision_recall.recall, **NEIGHBOURS),
    Metric('density', 'density', '(k = 5)', 'higher',
           'variant of precision that is robust to outliers (Naeem et al. 2020)',
           lambda c: c.density_coverage.density, **NEIGHBOURS),
    Metric('coverage', 'coverage', '(k = 5)', 'higher',
           'variant of recall that is robust to outliers (Naeem et al. 2020)',
           lambda c: c.density_coverage.coverage, **NEIGHBOURS),
    Metric('class_entropy', 'class entropy', '(0 to {max_entropy})', 'higher',
           'how evenly the samples are spread over the classes',
           lambda c: float(entr(class_histogram(c.probabilities)).sum()), ('probabilities',)),
    Metric('confidence', 'mean confidence', '', 'higher', 'mean probability of the most likely class',
           lambda c: float(c.probabilities.max(1).mean()), ('probabilities',), same_count=False),
    Metric('class_accuracy', 'class accuracy', '', 'higher',
           'share of samples recognised as the requested class; `--conditional true` only',
           lambda c: class_accuracy(c.probabilities, c.labels), ('probabilities', 'labels'), same_count=False),
    Metric('frechet_within_classes', 'mean Fréchet distance', 'within classes', 'lower',
           'distance to the training images of the same class; `--conditional true` only',
           lambda c: frechet_within_classes(c.features, c.labels, c.train_features, c.train_labels, c.classes),
           ('labels', 'train_labels', 'classes'), MIN_FRECHET_IMAGES)]


def metrics_page():
    """Return the table of docs/evaluation.md."""
    limits = {'reference': TRAINING_SPLIT, 'num_classes': 'K', 'max_entropy': 'ln K'}
    lines = ['| score | better | images | meaning |', '|---|---|---|---|']
    for metric in METRICS:
        images = 'any number' if metric.min_images == 1 else f'at least {metric.min_images:,}'
        if metric.max_images is not None:
            images = f'{metric.min_images:,} to {metric.max_images:,}'
        lines.append(f'| {metric.label(**limits)} | {metric.better} | {images} | {metric.meaning} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    print(metrics_page())

import numpy as np
import pytest
from helpers import ROOT
from scipy import linalg
from sklearn.metrics.pairwise import polynomial_kernel

from evaluation import metrics
from evaluation.metrics import (
    METRICS,
    Comparison,
    class_accuracy,
    class_histogram,
    classifier_score,
    common_classes,
    density_coverage,
    fit_gaussian,
    frechet_distance,
    frechet_within_classes,
    kernel_distance,
    nearest_neighbours,
    precision_recall,
)
from options import UserError

# With k = 1, the balls of real 0, 1, 3 have radii 1, 1, 2. The balls of fake 2, 10 have radii 8, 8.
REAL, FAKE = np.array([[0.], [1.], [3.]]), np.array([[2.], [10.]])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sample_gaussian(rng, mean, covariance, count=50):
    """Return points [count, D] with exactly this sample mean and covariance."""
    points = rng.normal(size=[count, len(mean)])
    points -= points.mean(0)
    points = points @ linalg.inv(linalg.cholesky(np.cov(points, rowvar=False)))
    return points @ linalg.cholesky(covariance) + mean


##################################################################################
# Fréchet distance
##################################################################################

def test_frechet_distance_is_the_closed_form_of_gaussians(rng):
    mean_a, mean_b = np.array([1., 2., 3.]), np.array([0., 2., 5.])
    cov_a, cov_b = (m @ m.T + np.eye(3) for m in rng.normal(size=[2, 3, 3]))
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    distance = frechet_distance(sample_gaussian(rng, mean_a, cov_a), sample_gaussian(rng, mean_b, cov_b))
    assert distance == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_one_feature(rng):
    a, b = sample_gaussian(rng, [1.], np.array([[4.]])), sample_gaussian(rng, [4.], np.array([[25.]]))
    assert frechet_distance(a, b) == pytest.approx((1 - 4) ** 2 + (2 - 5) ** 2, rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_0(rng):
    a = rng.normal(size=[200, 8])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_finite_for_singular_covariances(rng):
    a, b = rng.normal(size=[5, 64]), rng.normal(size=[7, 64]) + 1  # fewer images than features
    a[:, 3] = 2  # a constant feature
    assert 10 < frechet_distance(a, b) < np.inf


def test_frechet_distance_of_constants_is_that_of_their_means():
    assert frechet_distance(np.ones([9, 4]), np.full([9, 4], 3.)) == pytest.approx(4 * 2 ** 2)


def test_frechet_within_classes_is_the_mean_over_classes(rng):
    labels, train_labels = np.arange(300) % 3, (np.arange(300) + 1) % 3
    features = rng.normal(size=[300, 4]) + 10 * labels[:, None]
    expected = [frechet_distance(features[labels == c], features[train_labels == c]) for c in range(3)]
    distance = frechet_within_classes(features, labels, features, train_labels, range(3))
    assert distance == pytest.approx(np.mean(expected))
    assert distance > 400  # the means of the classes differ by 10 or 20 in each of 4 features


def test_frechet_within_classes_uses_only_the_given_classes(rng):
    labels, features = np.arange(60) % 3, rng.normal(size=[60, 4])
    shifted = features + np.where(labels == 1, 100, 0)[:, None]
    assert frechet_within_classes(features, labels, shifted, labels, [0, 2]) == pytest.approx(0, abs=1e-6)


def test_common_classes_have_enough_images_in_each_set(monkeypatch):
    monkeypatch.setattr(metrics, 'MIN_FRECHET_IMAGES', 2)
    first, second = np.array([0, 0, 1, 1, 1, 3, 3], np.uint8), np.array([0, 1, 1, 2, 2, 3, 3], np.uint8)
    assert common_classes(5, first, second).tolist() == [1, 3]


##################################################################################
# KID
##################################################################################

def test_kernel_distance_of_all_images_matches_scikit_learn(rng):
    a, b = rng.normal(size=[30, 8]), rng.normal(size=[30, 8]) + 0.5
    within = [polynomial_kernel(x, degree=3, gamma=1 / 8, coef0=1)[~np.eye(30, dtype=bool)].mean() for x in (a, b)]
    between = polynomial_kernel(a, b, degree=3, gamma=1 / 8, coef0=1).mean()
    mean, deviation = kernel_distance(a, b, subsets=3, size=30)
    assert mean == pytest.approx(sum(within) - 2 * between)
    assert deviation == pytest.approx(0, abs=1e-9)


def test_kernel_distance_of_one_feature_is_the_closed_form():
    """The kernel is (x y + 1)^3. For all pairs of points, it is 1 within a, 8 within b, and 1 between a and b."""
    a, b = np.zeros([4, 1]), np.ones([4, 1])
    assert kernel_distance(a, b) == (1 + 8 - 2 * 1, 0)


def test_kernel_distance_of_the_same_distribution_is_unbiased(rng):
    """The Fréchet distance of the same features is far from 0."""
    a, b = rng.normal(size=[2, 200, 64])
    mean, deviation = kernel_distance(a, b)
    assert abs(mean) < 2 * deviation < 0.5
    assert frechet_distance(a, b) > 10


def test_kernel_distance_draws_subsets_of_half_of_the_smaller_set(rng):
    a, b = rng.normal(size=[20, 4]), rng.normal(size=[50, 4])
    assert kernel_distance(a, b) == kernel_distance(a, b, subsets=100, size=10, seed=0)


def test_kernel_distance_draws_at_most_1000_images(rng):
    a, b = rng.normal(size=[2, 2100, 1])
    assert kernel_distance(a, b, subsets=2) == kernel_distance(a, b, subsets=2, size=1000)


def test_kernel_distance_does_not_repeat_images_in_a_subset(rng):
    """Each subset holds all images of its set. If images were repeated, the two subsets would differ."""
    a = rng.normal(size=[10, 3])
    x = polynomial_kernel(a, degree=3, gamma=1 / 3, coef0=1)
    expected = 2 * x[~np.eye(10, dtype=bool)].mean() - 2 * x.mean()
    assert kernel_distance(a, a, subsets=5, size=10) == (pytest.approx(expected), pytest.approx(0, abs=1e-9))


##################################################################################
# Classifier score and accuracy
##################################################################################

@pytest.mark.parametrize('probabilities, expected', [
    (np.tile([[0.1, 0.2, 0.7]], [100, 1]), 1),
    (np.tile(np.eye(10), [20, 1]), 10),
    (np.tile(np.eye(10)[:5], [20, 1]), 5),
    (np.repeat(np.eye(10)[:2], 50, 0), 1)],
    ids=['constant', 'all classes', 'half of the classes', 'one class in each split'])
def test_classifier_score_equals_its_closed_form(probabilities, expected):
    assert classifier_score(probabilities) == (pytest.approx(expected), pytest.approx(0))


def test_classifier_score_deviation_is_that_of_the_splits():
    split_of_one_class, split_of_two = np.tile(np.eye(2)[:1], [10, 1]), np.tile(np.eye(2), [5, 1])
    assert classifier_score(np.concatenate([split_of_one_class, split_of_two]), splits=2) == (
        pytest.approx(1.5), pytest.approx(0.5))


def test_class_accuracy_is_the_fraction_of_most_probable_classes():
    probabilities = np.array([[.5, .3, .2], [.1, .8, .1], [.4, .5, .1], [.2, .3, .5]])
    assert class_accuracy(probabilities, np.array([0, 1, 0, 2])) == 0.75


def test_class_histogram_counts_predictions():
    probabilities = np.tile([[.8, .1, .1, 0], [.2, .6, .2, 0]], [20, 1])
    assert class_histogram(probabilities).tolist() == [0.5, 0.5, 0, 0]


##################################################################################
# Precision, recall, density, coverage
##################################################################################

def test_precision_recall_on_a_line():
    """Fake 2 is in the balls of 1 and 3, and fake 10 in none. All real points are in the ball of fake 2."""
    assert precision_recall(REAL, FAKE, k=1) == (1 / 2, 1)


def test_density_coverage_on_a_line():
    """Fake 2 is in the balls of 1 and 3. The ball of 0 is empty."""
    assert density_coverage(REAL, FAKE, k=1) == (2 / 2, pytest.approx(2 / 3))


def ten_modes(rng):
    """Return real points [400, 16] and fake points [400, 16] of the same 10 modes, and the mode of each point."""
    centres, modes = rng.normal(size=[10, 16]) * 30, np.arange(400) % 10
    return *(centres[modes] + rng.normal(size=[400, 16]) for _ in range(2)), modes


def test_precision_recall_of_a_set_and_itself_is_1(rng):
    real, _, _ = ten_modes(rng)
    assert precision_recall(real, real) == (1, 1)


def test_precision_recall_of_distant_sets_is_0(rng):
    real, _, _ = ten_modes(rng)
    assert precision_recall(real, real + 1000) == (0, 0)


def test_precision_recall_loses_only_recall_if_modes_are_missing(rng):
    real, fake, modes = ten_modes(rng)
    precision, recall = precision_recall(real, fake)
    half_precision, half_recall = precision_recall(real, fake[modes < 5])
    assert half_recall < 0.6 * recall and half_precision > 0.8 * precision > 0.3


def test_density_coverage_of_the_same_distribution(rng):
    density, coverage = density_coverage(*rng.normal(size=[2, 300, 4]))
    assert 0.8 < density < 1.2 and coverage > 0.9


def test_density_coverage_of_distant_sets_is_0(rng):
    real = rng.normal(size=[300, 4])
    assert density_coverage(real, real + 100) == (0, 0)


def test_density_coverage_of_a_set_and_itself_covers_all(rng):
    real = rng.normal(size=[300, 4])
    assert density_coverage(real, real)[1] == 1


def test_density_coverage_of_one_point_covers_little(rng):
    real = rng.normal(size=[300, 4])
    assert density_coverage(real, np.repeat(real[:1], 300, 0))[1] < 0.2


@pytest.mark.parametrize('score', [precision_recall, density_coverage])
def test_scores_do_not_depend_on_the_size_of_blocks(score, rng, monkeypatch):
    real, fake, _ = ten_modes(rng)
    expected = score(real, fake)
    monkeypatch.setattr(metrics, 'BLOCK', 7)
    assert score(real, fake) == expected


@pytest.mark.parametrize('score', [
    lambda: frechet_distance(np.ones([1, 4]), np.ones([9, 4])),
    lambda: classifier_score(np.eye(10)[:9]),
    lambda: precision_recall(np.ones([9, 4]), np.ones([3, 4])),
    lambda: density_coverage(np.ones([5, 4]), np.ones([9, 4])),
    lambda: kernel_distance(np.ones([3, 4]), np.ones([9, 4]))],
    ids=['Fréchet distance', 'classifier score', 'precision', 'density', 'KID'])
def test_scores_need_enough_samples(score):
    with pytest.raises(UserError, match=r'computed \(at least \d+ images are needed, not \d\): .*--eval_num'):
        score()


##################################################################################
# Nearest neighbours
##################################################################################

@pytest.fixture(params=[7, 1000], ids=['blocks of 7', 'one block'])
def block(request, monkeypatch):
    monkeypatch.setattr(metrics, 'BLOCK_PIXELS', request.param * 16)


def test_nearest_neighbours_are_sorted_by_distance(block, rng):
    candidates = rng.integers(0, 256, [50, 4, 4, 1]).astype(np.uint8)
    images = rng.integers(0, 256, [2, 4, 4, 1]).astype(np.uint8)
    distances = np.linalg.norm(images.reshape(2, 1, 16) - candidates.reshape(1, 50, 16).astype(float), axis=2)
    assert nearest_neighbours(images, candidates, 3).tolist() == np.argsort(distances, axis=1)[:, :3].tolist()


def test_nearest_neighbours_finds_the_image_itself(block, rng):
    candidates = rng.integers(0, 256, [50, 4, 4, 1]).astype(np.uint8)
    assert nearest_neighbours(candidates[[20, 3]], candidates, 1).tolist() == [[20], [3]]


##################################################################################
# The registry
##################################################################################

@pytest.fixture
def comparison(rng):
    """A comparison of 60 images of two classes with themselves. Each image is recognised with a probability of 0.75."""
    labels = np.arange(60) % 2
    features = rng.normal(size=[60, 4])
    probabilities = np.where(labels[:, None] == [0, 1], 0.75, 0.25)
    return Comparison(features, probabilities, labels, features, labels, fit_gaussian(features), features,
                      np.array([0, 1]))


SCORES_OF_THE_TRAINING_IMAGES = {
    'frechet_to_train': 0, 'frechet_to_test': 0, 'precision': 1, 'recall': 1, 'coverage': 1,
    'class_entropy': np.log(2), 'confidence': 0.75, 'class_accuracy': 1, 'frechet_within_classes': 0}


@pytest.mark.parametrize('name, value', SCORES_OF_THE_TRAINING_IMAGES.items())
def test_metric_of_the_training_images(comparison, name, value):
    metric, = (metric for metric in METRICS if metric.name == name)
    assert metric.compute(comparison) == pytest.approx(value, abs=1e-6)


def test_every_metric_can_be_computed(comparison):
    for metric in METRICS:
        assert np.isfinite(metric.compute(comparison)).all(), metric.name


def test_metrics_need_arrays_of_a_comparison():
    fields = set(Comparison.__dataclass_fields__)
    assert all(set(metric.needs) <= fields for metric in METRICS)


@pytest.mark.parametrize('metric', METRICS, ids=lambda metric: metric.name)
def test_label_of_a_metric_fits_the_table(metric):
    assert len(metric.label(reference='the training split', num_classes=1000, max_entropy='6.908')) <= 40


def test_comparison_first_keeps_the_reference(comparison):
    part = comparison.first(7)
    assert (len(part.features), len(part.probabilities), len(part.labels)) == (7, 7, 7)
    assert part.train_features is comparison.train_features and part.test_features is comparison.test_features


def test_documentation_has_the_table_of_the_metrics():
    """Update it with: python -m evaluation.metrics"""
    assert metrics.metrics_page() in (ROOT / 'docs' / 'evaluation.md').read_text()

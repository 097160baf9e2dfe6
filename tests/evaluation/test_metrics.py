import numpy as np
import pytest
from scipy import linalg

from datasets import Dataset, load_dataset
from evaluation import classifier, metrics
from evaluation.classifier import load_classifier
from evaluation.metrics import (
    class_accuracy,
    class_scores,
    classifier_score,
    density_coverage,
    frechet_distance,
    frechet_within_classes,
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
    distance = frechet_within_classes(features, labels, features, train_labels)
    assert distance == pytest.approx(np.mean(expected))
    assert distance > 400  # the means of the classes differ by 10 or 20 in each of 4 features


def test_frechet_within_classes_is_0_for_the_training_images(rng):
    labels, features = np.arange(300) % 3, rng.normal(size=[300, 4])
    assert frechet_within_classes(features, labels, features, labels) == pytest.approx(0, abs=1e-6)


def test_frechet_within_classes_leaves_out_classes_of_one_image(rng):
    labels, features = np.arange(60) % 3, rng.normal(size=[60, 4])
    train_features, train_labels = np.r_[features[labels == 0], features[1:2]], np.r_[np.zeros(20, int), 1]
    distance = frechet_within_classes(features, labels, train_features, train_labels)
    assert distance == pytest.approx(0, abs=1e-6)  # the distance of class 0, the only one left


def test_frechet_within_classes_is_none_if_no_class_has_two_images(rng):
    labels, features = np.arange(60) % 3, rng.normal(size=[60, 4])
    assert frechet_within_classes(features[:3], labels[:3], features, labels) is None


##################################################################################
# Classifier score and accuracy
##################################################################################

@pytest.mark.parametrize('probabilities, expected', [
    (np.tile([[0.1, 0.2, 0.7]], [100, 1]), 1),
    (np.tile(np.eye(10), [20, 1]), 10),
    (np.tile(np.eye(10)[:5], [20, 1]), 5),
    (np.repeat(np.eye(10)[:2], 50, 0), 1)],
    ids=['constant', 'all classes', 'half of the classes', 'one class in each split'])
def test_classifier_score_of_closed_forms(probabilities, expected):
    assert classifier_score(probabilities) == (pytest.approx(expected), pytest.approx(0))


def test_classifier_score_deviation_is_that_of_the_splits():
    split_of_one_class, split_of_two = np.tile(np.eye(2)[:1], [10, 1]), np.tile(np.eye(2), [5, 1])
    assert classifier_score(np.concatenate([split_of_one_class, split_of_two]), splits=2) == (
        pytest.approx(1.5), pytest.approx(0.5))


def test_class_accuracy_is_the_fraction_of_most_probable_classes():
    probabilities = np.array([[.5, .3, .2], [.1, .8, .1], [.4, .5, .1], [.2, .3, .5]])
    assert class_accuracy(probabilities, np.array([0, 1, 0, 2])) == 0.75


def test_class_scores_leaves_the_distance_out_if_no_class_has_two_images(rng):
    labels, features = np.arange(3), rng.normal(size=[3, 4])
    assert class_scores(features, np.eye(3)[::-1], labels, features, labels) == {'class_accuracy': pytest.approx(1 / 3)}


def test_prediction_scores_of_closed_forms():
    probabilities = np.tile([[.8, .1, .1, 0], [.2, .6, .2, 0]], [20, 1])
    scores = metrics.prediction_scores(probabilities)
    assert scores['class_histogram'] == [0.5, 0.5, 0, 0]
    assert scores['class_entropy'] == pytest.approx(np.log(2))
    assert scores['confidence'] == pytest.approx(0.7)


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
    centers, modes = rng.normal(size=[10, 16]) * 30, np.arange(400) % 10
    return *(centers[modes] + rng.normal(size=[400, 16]) for _ in range(2)), modes


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
    lambda: density_coverage(np.ones([5, 4]), np.ones([9, 4]))],
    ids=['Fréchet distance', 'classifier score', 'precision', 'density'])
def test_scores_need_enough_samples(score):
    with pytest.raises(UserError, match=r'cannot be computed \(needs at least \d+ samples, not \d\): .*--eval_num'):
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


def test_nearest_neighbours_finds_an_image_itself(block, rng):
    candidates = rng.integers(0, 256, [50, 4, 4, 1]).astype(np.uint8)
    assert nearest_neighbours(candidates[[20, 3]], candidates, 1).tolist() == [[20], [3]]


##################################################################################
# Evaluation of samples
##################################################################################

FEATURE_SCORES = {'frechet_to_train', 'frechet_to_test', 'precision', 'recall', 'density', 'coverage'}
PREDICTION_SCORES = {'classifier_score', 'classifier_score_std', 'class_entropy', 'confidence', 'class_histogram'}
CLASS_SCORES = {'class_accuracy', 'frechet_within_classes'}


def shaded_images(count, rng, directions=None):
    """Return images [count, 12, 12, 1] that get brighter downwards, rotated by these numbers of quarter turns."""
    shade = np.linspace(0, 200, 12)[:, None, None] + rng.integers(0, 50, [count, 12, 12, 1])
    directions = np.zeros(count, int) if directions is None else directions
    return np.stack([np.rot90(image, direction) for image, direction in zip(shade, directions, strict=True)]
                    ).astype(np.uint8)


def make_dataset(with_classes):
    rng = np.random.default_rng(0)
    if not with_classes:
        return Dataset((shaded_images(100, rng), None), (shaded_images(20, rng), None), ())
    train_labels, test_labels = np.arange(100) % 4, np.arange(20) % 4
    return Dataset((shaded_images(100, rng, train_labels), train_labels),
                   (shaded_images(20, rng, test_labels), test_labels), ('below', 'right', 'above', 'left'))


def make_noise():
    return np.random.default_rng(1).integers(0, 256, [30, 12, 12, 1]).astype(np.uint8)


@pytest.fixture(scope='module', params=[True, False], ids=['classes', 'no classes'])
def loaded(request, tmp_path_factory):
    """Return a data set with or without classes, and a checkpoint_dir with its classifier."""
    dataset, checkpoint_dir = make_dataset(request.param), str(tmp_path_factory.mktemp('checkpoint'))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(classifier, 'MIN_STEPS', 80)
        load_classifier('own', dataset, checkpoint_dir)
    return dataset, checkpoint_dir


@pytest.fixture(scope='module')
def evaluated(loaded):
    """Return the data set and the scores of noise."""
    dataset, checkpoint_dir = loaded
    labels = np.arange(30) % 4 if dataset.class_names else None
    return dataset, metrics.evaluate_samples(make_noise(), labels, 'own', dataset, checkpoint_dir)


def test_evaluate_samples_has_the_scores_that_the_data_allow(evaluated):
    dataset, scores = evaluated
    expected = FEATURE_SCORES | PREDICTION_SCORES | CLASS_SCORES if dataset.class_names else FEATURE_SCORES
    assert set(scores.generated) == set(scores.real) == expected


def test_evaluate_samples_leaves_class_scores_out_without_labels(loaded):
    dataset, checkpoint_dir = loaded
    scores = metrics.evaluate_samples(make_noise(), None, 'own', dataset, checkpoint_dir)
    assert not CLASS_SCORES & (set(scores.generated) | set(scores.real))


def test_evaluate_samples_returns_the_accuracy_of_the_classifier(evaluated):
    """Without classes, the classifier predicts rotations."""
    _, scores = evaluated
    assert scores.classifier_accuracy > 0.9


def test_evaluate_samples_scores_noise_worse_than_real_images(evaluated):
    _, scores = evaluated
    assert scores.generated['frechet_to_train'] > 10 * scores.real['frechet_to_train']
    assert scores.generated['precision'] < 0.5 * scores.real['precision']


def test_evaluate_samples_gives_the_test_split_a_distance_of_0_to_itself(evaluated):
    _, scores = evaluated
    assert scores.real['frechet_to_test'] == pytest.approx(0, abs=1e-3)


def test_evaluate_samples_rotates_in_blocks(loaded, evaluated, monkeypatch):
    monkeypatch.setattr(metrics, 'BLOCK', 7)
    dataset, checkpoint_dir = loaded
    scores = metrics.evaluate_samples(make_noise(), None, 'own', dataset, checkpoint_dir)
    assert scores.classifier_accuracy == evaluated[1].classifier_accuracy


@pytest.mark.parametrize('samples, test_images, message', [
    (9, 20, 'not 9.*: increase --eval_num'), (30, 9, 'not 9.*: add test images')])
def test_evaluate_samples_needs_enough_images(samples, test_images, message, tmp_path):
    dataset = make_dataset(with_classes=False)
    dataset = dataset._replace(test=(dataset.test[0][:test_images], None))
    with pytest.raises(UserError, match=message):
        metrics.evaluate_samples(make_noise()[:samples], None, 'own', dataset, str(tmp_path))


@pytest.mark.slow
def test_evaluate_samples_scores_noise_worse_than_digits(small_data, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(classifier, 'MIN_STEPS', 75)
    noise = rng.integers(0, 256, [100, 28, 28, 1]).astype(np.uint8)
    generated, real, _ = metrics.evaluate_samples(
        noise, None, 'mnist', load_dataset('mnist', small_data), str(tmp_path))
    assert generated['frechet_to_train'] > 10 * real['frechet_to_train']
    for name in 'classifier_score', 'precision', 'recall', 'density', 'coverage', 'class_entropy':
        assert generated[name] < 0.7 * real[name], name


def test_load_scorer_returns_the_scores_of_eval_freq(loaded):
    dataset, checkpoint_dir = loaded
    scores = metrics.load_scorer('own', dataset, checkpoint_dir)(make_noise())
    assert list(scores) == (
        ['frechet_distance', 'classifier_score'] if dataset.class_names else ['frechet_distance'])


def test_load_scorer_agrees_with_evaluate_samples(loaded, evaluated):
    dataset, checkpoint_dir = loaded
    scores = metrics.load_scorer('own', dataset, checkpoint_dir)(make_noise())
    assert scores['frechet_distance'] == evaluated[1].generated['frechet_to_train']
    assert scores.get('classifier_score') == evaluated[1].generated.get('classifier_score')


##################################################################################
# The table
##################################################################################

def test_print_scores_prints_generated_beside_real(capsys):
    metrics.print_scores({'precision': 0.25, 'class_histogram': [0.5, 0.5]},
                         {'precision': 0.75, 'class_histogram': [0.125, 0.875]}, ('cat', 'dog'), 60)
    assert capsys.readouterr().out.splitlines() == [
        ' ' * 45 + 'generated   real test',
        'precision (k = 3, 60 images)                     0.250       0.750',
        'fraction predicted as cat                        0.500       0.125',
        'fraction predicted as dog                        0.500       0.875']


def test_print_scores_has_a_row_for_every_number(evaluated, capsys):
    dataset, scores = evaluated
    metrics.print_scores(scores.generated, scores.real, dataset.class_names, 30)
    rows = capsys.readouterr().out.splitlines()
    numbers = [name for name in scores.generated if name != 'class_histogram']
    if dataset.class_names:
        assert len(rows) == 1 + len(numbers) + len(dataset.class_names)
    else:
        assert len(rows) == 1 + len(numbers) + 1


def test_print_scores_reports_what_is_missing_without_classes(capsys):
    metrics.print_scores({}, {}, (), 30)
    assert capsys.readouterr().out.splitlines()[-1].startswith('Not computed, because the data set has no classes')


def test_print_scores_prints_the_limits_in_the_labels(capsys):
    values = {'classifier_score': 1, 'class_entropy': 1, 'precision': 1, 'class_histogram': [1] * 10}
    metrics.print_scores(values, values, tuple('0123456789'), 10000)
    out = capsys.readouterr().out
    for label in 'classifier score (1 to 10) ', 'class entropy (0 to 2.303) ', 'precision (k = 3, 5000 images) ':
        assert label in out

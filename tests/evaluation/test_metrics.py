import os

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
    nearest_neighbours,
    precision_recall,
    probability_scores,
    set_scores,
)
from options import UserError


@pytest.fixture(autouse=True)
def fixed_numbers():
    np.random.seed(0)


def exactly(mean, covariance, count=50):
    """Points [count, D] whose mean and covariance are exactly these."""
    points = np.random.normal(size=[count, len(mean)])
    points -= points.mean(0)
    points = points @ linalg.inv(linalg.cholesky(np.cov(points, rowvar=False)))
    return points @ linalg.cholesky(covariance) + mean


def test_frechet_distance_is_the_closed_form_of_gaussians():
    mean_a, mean_b = np.array([1., 2., 3.]), np.array([0., 2., 5.])
    cov_a, cov_b = (m @ m.T + np.eye(3) for m in np.random.normal(size=[2, 3, 3]))
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(exactly(mean_a, cov_a), exactly(mean_b, cov_b)) == pytest.approx(expected, rel=1e-6)
    # One dimension: (m_a - m_b)^2 + (s_a - s_b)^2.
    one, two = exactly([1.], np.array([[4.]])), exactly([4.], np.array([[25.]]))
    assert frechet_distance(one, two) == pytest.approx(3 ** 2 + 3 ** 2, rel=1e-6)


def test_frechet_distance_of_a_set_with_itself_and_of_singular_covariances():
    a = np.random.normal(size=[200, 8])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    few, others = np.random.normal(size=[5, 64]), np.random.normal(size=[7, 64]) + 1
    few[:, 3] = 2  # a constant feature
    distance = frechet_distance(few, others)
    assert np.isfinite(distance) and distance > 10
    assert frechet_distance(np.ones([9, 4]), np.full([9, 4], 3.)) == pytest.approx(4 * 2 ** 2)


def test_classifier_score():
    constant = np.tile(np.random.dirichlet(np.ones(10)), [100, 1])
    assert classifier_score(constant) == (pytest.approx(1), pytest.approx(0))
    assert classifier_score(np.tile(np.eye(10), [20, 1])) == (pytest.approx(10), pytest.approx(0))
    assert classifier_score(np.tile(np.eye(10)[:5], [20, 1]))[0] == pytest.approx(5)  # half of the classes
    uneven = np.repeat(np.eye(10)[:2], 50, 0)  # the splits see one class each, but for the middle
    assert classifier_score(uneven)[0] == pytest.approx(1)


def test_precision_and_recall(monkeypatch):
    modes = np.random.normal(size=[10, 16]) * 30
    real, fake = (modes[np.arange(400) % 10] + np.random.normal(size=[400, 16]) for _ in range(2))
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    precision, recall = precision_recall(real, fake)
    assert precision > 0.4 and recall > 0.4
    half = fake[np.arange(400) % 10 < 5]
    fewer_precision, fewer_recall = precision_recall(real, half)
    assert fewer_recall < 0.6 * recall and fewer_precision > 0.8 * precision
    monkeypatch.setattr(metrics, 'BLOCK', 7)  # however the distances are cut
    assert precision_recall(real, fake) == (precision, recall)


def test_precision_and_recall_on_a_line():
    """Balls to the first neighbour, by hand: around 0, 1, 3 of radius 1, 1, 2; around 2, 10 of radius 8, 8."""
    real, fake = np.array([[0.], [1.], [3.]]), np.array([[2.], [10.]])
    assert precision_recall(real, fake, k=1) == (0.5, 1)
    assert density_coverage(real, fake, k=1) == ((1 + 1) / 2, pytest.approx(2 / 3))


def test_density_and_coverage():
    real = np.random.normal(size=[300, 4])
    density, coverage = density_coverage(real, np.random.normal(size=[300, 4]))
    assert 0.8 < density < 1.2 and coverage > 0.9
    assert density_coverage(real, real + 100) == (0, 0)
    assert density_coverage(real, real)[1] == 1
    assert density_coverage(real, np.repeat(real[:1], 300, 0))[1] < 0.2  # one mode covers little


def test_scores_of_classes():
    """The share that is class_accuracy, and the mean of the distances of each class to that class alone."""
    labels = np.arange(300) % 3
    features = np.random.normal(size=[300, 4]) + 10 * labels[:, None]
    probabilities = np.eye(3)[np.where(np.arange(300) < 30, (labels + 1) % 3, labels)]  # a tenth is taken for another
    scores = class_scores(features, probabilities, labels, features, labels)
    assert scores == {'class_accuracy': pytest.approx(0.9), 'frechet_within_classes': pytest.approx(0, abs=1e-6)}
    turned = class_scores(features, probabilities, labels, features, (labels + 1) % 3)
    expected = [frechet_distance(features[labels == c], features[labels == (c - 1) % 3]) for c in range(3)]
    assert turned['frechet_within_classes'] == pytest.approx(np.mean(expected)) and np.mean(expected) > 400
    # A class of which there is but one image has no distance; where that is all of them, the score is left out.
    assert class_scores(features[:3], probabilities[:3], labels[:3], features, labels) == {'class_accuracy': 0}
    single = np.r_[features[labels == 0], features[1:2]], np.r_[labels[labels == 0], 1]
    assert class_scores(features, probabilities, labels, *single)['frechet_within_classes'] == pytest.approx(
        frechet_distance(features[labels == 0], features[labels == 0]), abs=1e-6)


def test_nearest(monkeypatch):
    monkeypatch.setattr(metrics, 'BLOCK', 7)
    candidates = np.random.randint(0, 256, [50, 4, 4, 1]).astype(np.uint8)
    images = candidates[[20, 3]].copy()
    images[0, 0, 0, 0] ^= 1
    found = nearest_neighbours(images, candidates, 3)
    assert found.shape == (2, 3) and found[:, 0].tolist() == [20, 3]
    distances = np.linalg.norm((candidates[found[0]].astype(float) - images[0]).reshape(3, -1), axis=1)
    assert (np.diff(distances) >= 0).all()


@pytest.mark.parametrize('score', [
    lambda: frechet_distance(np.ones([1, 4]), np.ones([9, 4])), lambda: classifier_score(np.eye(10)[:9]),
    lambda: precision_recall(np.ones([9, 4]), np.ones([3, 4])),
    lambda: density_coverage(np.ones([5, 4]), np.ones([9, 4]))], ids=range(4))
def test_too_few_samples(score):
    with pytest.raises(UserError, match='takes at least .* --eval_num'):
        score()


def test_classifier(small_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(classifier, 'LEAST_STEPS', 75)
    dataset = load_dataset('mnist', small_data)
    test_images, test_labels = dataset.test

    def classify():
        return load_classifier('mnist', dataset, str(tmp_path))(test_images)

    features, probabilities = classify()
    assert 'Training the classifier' in capsys.readouterr().out
    assert features.shape == (100, 128) and probabilities.shape == (100, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-4)
    assert (probabilities.argmax(1) == test_labels).mean() > 0.3

    assert (classify()[0] == features).all()
    assert capsys.readouterr().out == ''  # restored, not trained
    folder = tmp_path / 'classifier_mnist'
    data = folder / 'classifier.data-00000-of-00001'
    for damage in (lambda: os.truncate(data, 100), (folder / 'classifier.index').unlink,
                   lambda: (folder / 'trained_on').write_text('other data')):
        damage()
        assert (classify()[0] == features).all()  # trained anew, to the same bits
        assert 'Training the classifier' in capsys.readouterr().out

    noise = np.random.randint(0, 256, [100, 28, 28, 1]).astype(np.uint8)
    train_features, _ = load_classifier('mnist', dataset, str(tmp_path))(dataset.train[0])
    noisy = load_classifier('mnist', dataset, str(tmp_path))(noise)
    real, bad = ({**set_scores(found, train_features, features), **probability_scores(classes)}
                 for found, classes in ((features, probabilities), noisy))
    assert real['frechet_to_test'] == pytest.approx(0, abs=1e-3)
    assert bad['frechet_to_train'] > 10 * real['frechet_to_train']
    for name in 'classifier_score', 'precision', 'recall', 'density', 'coverage', 'class_entropy':
        assert bad[name] < 0.7 * real[name], name
    assert sum(real['class_histogram']) == pytest.approx(1)


def shaded(count, size, channels, rng):
    """Images that are brighter towards one side, one of four -> images, sides."""
    sides = rng.integers(4, size=count)
    shade = np.linspace(0, 200, size)[:, None, None] + rng.integers(0, 50, [count, size, size, channels])
    return metrics.rotate_images(shade.astype(np.uint8), sides), sides


@pytest.mark.parametrize('size, channels, folder', [
    (36, 3, 'classifier_own_36x36x3'), (12, 1, 'classifier_own_12x12x1')])
def test_classifier_of_any_size_and_number_of_classes(size, channels, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, 'LEAST_STEPS', 40)
    monkeypatch.setattr('datasets.hashlib', None)  # what has a digest is not read for another
    rng = np.random.default_rng(0)
    train, test = shaded(120, size, channels, rng), shaded(20, size, channels, rng)
    classify = load_classifier('own', Dataset(train, test, tuple('abcd'), 'its digest'), str(tmp_path))
    features, probabilities = classify(test[0])
    assert features.shape == (20, 128) and probabilities.shape == (20, 4)
    assert class_accuracy(probabilities, test[1]) > 0.7
    assert (tmp_path / folder / 'trained_on').read_text() == 'its digest'


def test_without_classes_the_classifier_tells_turns(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, 'LEAST_STEPS', 40)
    rng = np.random.default_rng(0)
    upright = [metrics.rotate_images(images, -sides) for images, sides in (shaded(100, 12, 1, rng), shaded(20, 12, 1, rng))]
    dataset = Dataset(*((images, None) for images in upright), ())
    samples = rng.integers(0, 256, [30, 12, 12, 1]).astype(np.uint8)
    generated, real, accuracy = metrics.compare(samples, None, 'own', dataset, str(tmp_path))
    assert accuracy > 0.9
    assert set(generated) == set(real) == {'frechet_to_train', 'frechet_to_test', 'precision', 'recall', 'density',
                                           'coverage'}
    assert real['frechet_to_train'] < generated['frechet_to_train']
    metrics.print_scores(generated, real, (), 30)
    out = capsys.readouterr().out
    assert 'Left out, because the data have no classes: classifier score' in out and '(k = 3, 30 images)' in out
    assert set(metrics.load_scorer('own', dataset, str(tmp_path))(samples)) == {'frechet_distance'}
    with pytest.raises(UserError, match='takes at least 10 samples, not 9: give more test pictures'):
        metrics.compare(samples, None, 'own', dataset._replace(test=(upright[1][:9], None)), str(tmp_path))

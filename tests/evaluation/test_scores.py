import dataclasses

import numpy as np
import pytest

from datasets import Dataset, load_dataset
from evaluation import classifier, scores
from evaluation.classifier import load_classifier
from evaluation.metrics import METRICS, Comparison, Metric, density_coverage, fit_gaussian
from evaluation.scores import Row, Scores, compute_rows, evaluate_samples, image_counts, print_scores
from options import UserError

FEATURE_SCORES = {'frechet_to_train', 'frechet_to_test', 'kid', 'precision', 'recall', 'density', 'coverage'}
PREDICTION_SCORES = {'classifier_score', 'class_entropy', 'confidence'}


def metric_named(name):
    metric, = (metric for metric in METRICS if metric.name == name)
    return metric


##################################################################################
# Evaluation of samples
##################################################################################

def shaded_images(count, rng, directions=None):
    """Return images [count, 12, 12, 1] that get brighter downwards, rotated by these numbers of quarter turns."""
    shade = np.linspace(0, 200, 12)[:, None, None] + rng.integers(0, 50, [count, 12, 12, 1])
    directions = np.zeros(count, int) if directions is None else directions
    return np.stack([np.rot90(image, direction) for image, direction in zip(shade, directions, strict=True)]
                    ).astype(np.uint8)


def make_dataset(with_classes, train=200, test=150):
    rng = np.random.default_rng(0)
    if not with_classes:
        return Dataset((shaded_images(train, rng), None), (shaded_images(test, rng), None), ())
    train_labels, test_labels = np.arange(train) % 4, np.arange(test) % 4
    return Dataset((shaded_images(train, rng, train_labels), train_labels),
                   (shaded_images(test, rng, test_labels), test_labels), ('below', 'right', 'above', 'left'))


def make_noise(count=140):
    return np.random.default_rng(1).integers(0, 256, [count, 12, 12, 1]).astype(np.uint8)


@pytest.fixture(scope='module', params=[pytest.param(True, id='classes'),
                                        pytest.param(False, id='no classes', marks=pytest.mark.slow)])
def loaded(request, tmp_path_factory):
    """Return a data set with or without classes, its classifier, and a checkpoint_dir that holds the classifier."""
    dataset, checkpoint_dir = make_dataset(request.param), str(tmp_path_factory.mktemp('checkpoint'))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(classifier, 'MIN_STEPS', 80)
        return dataset, load_classifier('own', dataset, checkpoint_dir), checkpoint_dir


@pytest.fixture(scope='module')
def evaluated(loaded):
    """Return the data set, the Scores of noise, and the same scores as JSON."""
    dataset, classify, _ = loaded
    labels = np.arange(140) % 4 if dataset.class_names else None
    result = evaluate_samples(make_noise(), labels, dataset, classify)
    return dataset, result, scores.as_json(result)


def test_evaluate_samples_has_the_scores_that_the_data_allow(evaluated):
    dataset, result, _ = evaluated
    expected = FEATURE_SCORES
    if dataset.class_names:
        expected = expected | PREDICTION_SCORES | {'class_accuracy'}
    known = FEATURE_SCORES | PREDICTION_SCORES | {'class_accuracy', 'frechet_within_classes'}
    assert {row.metric.name for row in result.rows} & known == expected


def test_evaluate_samples_reports_what_is_left_out(evaluated):
    dataset, result, _ = evaluated
    if dataset.class_names:
        reason = 'no class has 128 samples, 128 test images and 128 training images'
        assert result.left_out == {reason: ['mean Fréchet distance within classes']}
    else:
        assert list(result.left_out) == ['the data set has no classes']


def test_evaluate_samples_leaves_class_scores_out_without_labels(loaded):
    dataset, classify, _ = loaded
    result = evaluate_samples(make_noise(), None, dataset, classify)
    reason = 'the run is not conditional' if dataset.class_names else 'the data set has no classes'
    assert result.left_out[reason][-2:] == ['class accuracy', 'mean Fréchet distance within classes']


def test_evaluate_samples_returns_the_accuracy_of_the_classifier(evaluated):
    """Without classes, the classifier predicts rotations."""
    assert evaluated[1].accuracy > 0.9


def test_evaluate_samples_scores_noise_worse_than_real_images(evaluated):
    content = evaluated[2]
    for name in 'frechet_to_train', 'kid':
        assert content['generated'][name] > 10 * content['real'][name]
    assert content['generated']['precision'] < 0.5 * content['real']['precision']


def test_evaluate_samples_does_not_compare_the_test_split_with_itself(evaluated):
    content = evaluated[2]
    assert 'frechet_to_test' in content['generated'] and 'frechet_to_test' not in content['real']


@pytest.mark.slow
def test_evaluate_samples_rotates_in_blocks(loaded, evaluated, monkeypatch):
    monkeypatch.setattr(scores, 'BLOCK', 7)
    dataset, classify, _ = loaded
    result = evaluate_samples(make_noise(), None, dataset, classify)
    assert result.accuracy == evaluated[1].accuracy


@pytest.fixture(scope='module')
def sorted_split():
    """A data set whose images are sorted by class, and a classifier whose features are the pixels."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)
    images = np.uint8(np.where(labels == 0, 60, 180)[:, None, None, None] + rng.integers(-40, 40, [300, 2, 2, 1]))

    def classify(images, progress):
        features = images.reshape(len(images), -1) / 255
        is_bright = features.mean(1) > 0.5
        return features, np.where(is_bright[:, None], [0.01, 0.99], [0.99, 0.01])
    return Dataset((images, labels), (images, labels), ('dark', 'bright')), classify


def test_evaluate_samples_draws_from_all_of_a_sorted_test_split(sorted_split):
    """The first 150 test images are all dark. Without shuffling, their classifier score would be 1."""
    dataset, classify = sorted_split
    samples = np.random.default_rng(0).permutation(dataset.test[0])[:150]
    content = scores.as_json(evaluate_samples(samples, None, dataset, classify))
    for name in 'class_entropy', 'classifier_score', 'frechet_to_train':
        assert content['real'][name] == pytest.approx(content['generated'][name], abs=0.1), name
    assert content['real']['classifier_score'] > 1.7


def test_evaluate_samples_averages_the_same_classes_in_both_columns(sorted_split):
    """The test split has 280 dark and 20 bright images. The bright ones are too few for a Fréchet distance."""
    dataset, classify = sorted_split
    images, labels = dataset.train
    dark = np.arange(280) % 150
    test = np.concatenate([images[dark], images[-20:]]), np.repeat([0, 1], [280, 20])
    result = evaluate_samples(images, labels, dataset._replace(test=test), classify)
    assert result.classes.tolist() == [0]


@pytest.mark.parametrize('samples, test_images, message', [
    (9, 20, 'not 9.*: increase --eval_num'), (30, 9, 'not 9.*: add test images')])
def test_check_counts_needs_enough_images(samples, test_images, message):
    with pytest.raises(UserError, match=message):
        scores.check_counts(samples, make_dataset(with_classes=False, test=test_images))


@pytest.mark.slow
def test_evaluate_samples_scores_noise_worse_than_digits(small_data, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, 'MIN_STEPS', 75)
    noise = np.random.default_rng(0).integers(0, 256, [130, 28, 28, 1]).astype(np.uint8)
    dataset = load_dataset('mnist', small_data)
    content = scores.as_json(evaluate_samples(noise, None, dataset, load_classifier('mnist', dataset, str(tmp_path))))
    generated, real = content['generated'], content['real']
    assert generated['kid'] > 10 * real['kid']
    for name in 'classifier_score', 'precision', 'recall', 'density', 'coverage', 'class_entropy':
        assert generated[name] < 0.7 * real[name], name


def test_load_scorer_returns_the_scores_of_eval_freq(loaded):
    dataset, _, checkpoint_dir = loaded
    values = scores.load_scorer('own', dataset, checkpoint_dir)(make_noise())
    missing = set() if dataset.class_names else {'classifier_score'}
    assert set(values) == {metric.history for metric in METRICS if metric.history} - missing


def test_load_scorer_agrees_with_evaluate_samples(loaded, evaluated):
    dataset, _, checkpoint_dir = loaded
    values, generated = scores.load_scorer('own', dataset, checkpoint_dir)(make_noise()), evaluated[2]['generated']
    assert values['frechet_distance'] == pytest.approx(generated['frechet_to_train'], rel=1e-6)
    assert values.get('classifier_score') == generated.get('classifier_score')


##################################################################################
# The number of images
##################################################################################

@pytest.fixture
def columns():
    """Comparisons of 300 generated images and of 60 test images of the same distribution."""
    rng = np.random.default_rng(0)
    train, real, generated = (rng.normal(size=[count, 4]) for count in (400, 60, 300))
    common = None, None, train, None, fit_gaussian(train)
    return Comparison(generated, *common, real, None), Comparison(real, *common, None, None)


@pytest.mark.parametrize('name, counts', [
    ('coverage', (60, 60)), ('frechet_to_train', (60, 60)), ('kid', (300, 60)), ('confidence', (300, 60))])
def test_image_counts_are_equal_unless_the_score_is_unbiased(columns, name, counts):
    assert image_counts(metric_named(name), columns) == counts


def test_image_counts_have_a_maximum(columns):
    assert image_counts(metric_named('recall')._replace(max_images=40), columns) == (40, 40)


def test_compute_rows_uses_as_many_generated_as_real_images(columns):
    rows, _ = compute_rows(columns, has_classes=True)
    row, = (row for row in rows if row.metric.name == 'coverage')
    assert row.generated == density_coverage(columns[0].train_features, columns[0].features[:60]).coverage
    assert row.real == pytest.approx(row.generated, abs=0.1)


def test_compute_rows_leaves_out_scores_of_too_few_images(columns):
    rows, left_out = compute_rows(columns, has_classes=True)
    reason = 'at least 128 images are needed, but there are only 60'
    assert left_out[reason] == ['Fréchet distance to the training split', 'Fréchet distance to the test split']
    assert not any('frechet' in row.metric.name for row in rows)


def test_compute_rows_counts_the_training_images(columns):
    """Of 40 training images, 5 neighbours are a large share."""
    few = tuple(dataclasses.replace(column, train_features=column.train_features[:40]) for column in columns)
    _, left_out = compute_rows(few, has_classes=True)
    assert left_out['at least 50 images are needed, but there are only 40'] == [
        'precision', 'recall', 'density', 'coverage']


def test_every_array_that_a_metric_needs_has_a_reason_why_it_may_be_unknown():
    assert {name for metric in METRICS for name in metric.needs} <= {*scores.MISSING, 'test_features'}


@pytest.mark.parametrize('samples, test_images, words', [
    (10000, 10000, 'Compare only scores of the same classifier or features, and of the same numbers of images'),
    (1000, 10000, 'With only 1000 images, Fréchet distances are too large, and recall and coverage too small: compare '
     'them only with scores of 1000 images. KID has no such bias'),
    (10000, 30, 'There are only 30 test images, so the scores that depend on the number of images use 30 samples, '
     'too. With only 30 images, '),
    (10000, 5000, 'There are only 5000 test images, so the scores that depend on the number of images use 5000 '
     'samples, too. Compare only scores of the same')])
def test_caution_names_the_number_of_images(samples, test_images, words):
    assert scores.caution(samples, test_images).startswith(words)


##################################################################################
# The table
##################################################################################

def example_scores(*rows, **changes):
    return Scores(list(rows), {}, None, None, None)._replace(**changes)


def test_print_scores_prints_generated_beside_real(capsys):
    result = example_scores(
        Row(metric_named('frechet_to_test'), (60, 60), 12.5, None),
        Row(metric_named('kid'), (60, 30), (0.5, 0.25), (0.125, 0.0625)),
        Row(metric_named('precision'), (50, 50), 0.25, 0.75),
        histograms=([0.5, 0.5], [0.125, 0.875]))
    print_scores(result, ('cat', 'dog'))
    assert capsys.readouterr().out.splitlines() == [
        '                                               images  better          generated          real test',
        'Fréchet distance to the test split                 60  lower              12.500                  -',
        'KID to the training split                     60 / 30  lower     0.5000 ± 0.2500    0.1250 ± 0.0625',
        'precision (k = 3)                                  50  higher              0.250              0.750',
        'fraction predicted as cat                                                  0.500              0.125',
        'fraction predicted as dog                                                  0.500              0.875']


def test_print_scores_has_a_row_for_every_metric(evaluated, capsys):
    dataset, result, _ = evaluated
    print_scores(result, dataset.class_names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(result.rows) + len(dataset.class_names) + len(result.left_out)


def test_print_scores_reports_what_is_left_out_and_why(capsys):
    print_scores(example_scores(left_out={'the data set has no classes': ['class entropy', 'mean confidence']}), ())
    assert capsys.readouterr().out.splitlines()[-1] == (
        'Not computed, because the data set has no classes: class entropy, mean confidence')


def test_print_scores_prints_the_limits_in_the_labels(capsys):
    rows = [Row(metric_named(name), (60, 60), 1., 1.) for name in ('classifier_score', 'class_entropy')]
    print_scores(example_scores(*rows), tuple('0123456789'))
    out = capsys.readouterr().out
    assert 'classifier score (1 to 10) ' in out and 'class entropy (0 to 2.303) ' in out


def test_table_lines_have_at_most_100_characters():
    line = scores.table_line(60 * 'x', '100000 / 1000', 'higher', '1000.000 ± 100.000', '1000.000 ± 100.000')
    assert len(line) <= 100


def test_as_json_holds_values_deviations_and_numbers_of_images():
    result = example_scores(Row(metric_named('kid'), (60, 30), (0.5, 0.25), (0.125, 0.0625)),
                            Row(metric_named('frechet_to_test'), (60, 60), 12.5, None),
                            histograms=(np.array([0.5, 0.5]), np.array([1., 0.])))
    assert scores.as_json(result) == {
        'generated': {'kid': 0.5, 'kid_std': 0.25, 'frechet_to_test': 12.5, 'class_histogram': [0.5, 0.5]},
        'real': {'kid': 0.125, 'kid_std': 0.0625, 'class_histogram': [1, 0]},
        'images': {'kid': [60, 30], 'frechet_to_test': [60, 60]}}


def test_a_new_metric_needs_only_an_entry_in_the_registry(columns, monkeypatch, capsys):
    spread = Metric('spread', 'mean spread', 'of the features', 'higher', 'how different the images are',
                    lambda c: float(c.features.std(0).mean()))
    monkeypatch.setattr(scores, 'METRICS', [spread])
    rows, _ = compute_rows(columns, has_classes=True)
    result = example_scores(*rows)
    print_scores(result, ())
    assert 'mean spread of the features' in capsys.readouterr().out
    assert scores.as_json(result)['generated']['spread'] == pytest.approx(1, abs=0.2)

"""The scores of samples beside those of the real test split, and the table that shows them."""

from typing import NamedTuple

import numpy as np

from evaluation.classifier import load_classifier, num_rotations, rotate_images
from evaluation.metrics import (
    BLOCK,
    METRICS,
    MIN_FRECHET_IMAGES,
    TRAINING_SPLIT,
    Comparison,
    Metric,
    class_accuracy,
    class_histogram,
    common_classes,
    fit_gaussian,
    require_samples,
)
from evaluation.progress import Progress

FEW_IMAGES = 2048  # with fewer, Fréchet distances are much too large
MIN_IMAGES = 10
# Why a score cannot be computed if this array of a Comparison is unknown.
MISSING = {'probabilities': '--features gives no class predictions',
           'labels': 'the run is not conditional',
           'train_features': '--reference holds only statistics',
           'train_labels': '--reference holds no classes',
           'classes': f'no class has {MIN_FRECHET_IMAGES} samples, {MIN_FRECHET_IMAGES} test images and '
                      f'{MIN_FRECHET_IMAGES} training images'}


class Row(NamedTuple):
    """A row of the table. A value is a number, a pair (mean, standard deviation) or None."""
    metric: Metric
    counts: tuple  # numbers of generated and of real images
    generated: object
    real: object


class Scores(NamedTuple):
    """The result of an evaluation."""
    rows: list
    left_out: dict  # {reason: [labels]} of the scores that cannot be computed
    histograms: tuple | None  # of the predicted classes, of generated and of real images: [K] each
    classes: np.ndarray | None  # those over which frechet_within_classes averages
    accuracy: float | None  # fraction of test images whose class, or else whose rotation, the classifier recognises


def load_scorer(dataset_name, dataset, checkpoint_dir):
    """Load the classifier of a data set and return a function that computes the scores for --eval_freq.

    Returns:
        score(samples): uint8 [M, H, W, C] -> {column of the history: number}. The scores that need classes are missing
        if the data set has none.
    """
    classify = load_classifier(dataset_name, dataset, checkpoint_dir)
    train_features, _ = classify(dataset.train[0])
    statistics = fit_gaussian(train_features)

    def score(samples):
        features, probabilities = classify(samples)
        if not dataset.class_names:  # the classifier predicts rotations
            probabilities = None
        comparison = Comparison(features, probabilities, None, train_features, dataset.train[1], statistics, None, None)
        return {metric.history: mean_of(metric.compute(comparison)) for metric in METRICS
                if metric.history and not missing(metric, comparison)}

    return score


def check_counts(samples, dataset):
    """Raise UserError if there are too few samples or test images for any comparison."""
    failure = 'the samples cannot be compared with the test split'
    require_samples(samples, MIN_IMAGES, failure)
    require_samples(len(dataset.test[0]), MIN_IMAGES, failure, 'add test images')


def evaluate_samples(samples, labels, dataset, classify, reference=None):
    """Compute every score of samples, and the same scores of the real test split of a Dataset.

    Args:
        samples: uint8 [M, H, W, C].
        labels: the classes [M] that the samples were conditioned on, or None.
        classify: the function that load_classifier or load_features returns.
        reference: a Reference to compare with, or None for the training split.

    Returns:
        Scores.
    """
    (train_images, train_labels), (test_images, test_labels) = dataset.train, dataset.test
    total = len(samples) + len(test_images) + (len(train_images) if reference is None else 0)
    with Progress(f'Computing features of {total} images', total) as progress:
        if reference is None:
            train_features, _ = classify(train_images, progress)
            train_features, train_labels = shuffled(train_features, train_labels)
            statistics = fit_gaussian(train_features)
        else:
            train_features, train_labels, statistics = reference.features, None, reference.statistics
        real = classify(test_images, progress)
        generated = classify(samples, progress)
    real_features, real_probabilities, real_labels = shuffled(*real, test_labels)
    features, probabilities = generated
    accuracy = None
    if probabilities is not None:
        accuracy = classifier_accuracy(classify, test_images, real_probabilities, real_labels)
    if not dataset.class_names:
        probabilities = real_probabilities = None  # of rotations
    classes = None
    if labels is None:
        real_labels = None
    elif train_labels is not None:
        count = min(len(labels), len(real_labels))
        classes = common_classes(len(dataset.class_names), labels[:count], real_labels[:count], train_labels)

    some_classes = classes if classes is not None and len(classes) else None
    common = train_features, train_labels, statistics
    columns = (Comparison(features, probabilities, labels, *common, real_features, some_classes),
               Comparison(real_features, real_probabilities, real_labels, *common, None, some_classes))
    name = TRAINING_SPLIT if reference is None else reference.name
    rows, left_out = compute_rows(columns, bool(dataset.class_names), name)
    histograms = None
    if probabilities is not None:
        histograms = class_histogram(probabilities), class_histogram(real_probabilities)
    return Scores(rows, left_out, histograms, classes, accuracy)


def classifier_accuracy(classify, images, probabilities, labels):
    """Return the fraction of images whose class or, if labels is None, whose rotation the classifier recognises."""
    if labels is not None:
        return class_accuracy(probabilities, labels)
    return rotation_accuracy(classify, images)


def rotation_accuracy(classify, images):
    """Return the fraction of images [N, H, W, C] whose rotation a classifier recognises."""
    rotations = np.arange(len(images)) % num_rotations(images.shape[1:])
    probabilities = []
    for start in range(0, len(images), BLOCK):  # in blocks, because rotation copies the images
        rows = slice(start, start + BLOCK)
        _, block_probabilities = classify(rotate_images(images[rows], rotations[rows]))
        probabilities.append(block_probabilities)
    return class_accuracy(np.concatenate(probabilities), rotations)


def shuffled(first, *others):
    """Shuffle arrays [N, ...] in the same way, so that the first images of a sorted data set are a random sample.

    An array that is None stays None.
    """
    order = np.random.default_rng(0).permutation(len(first))
    return tuple(None if array is None else array[order] for array in (first, *others))


def compute_rows(columns, has_classes, reference=TRAINING_SPLIT):
    """Compute the scores of both columns of the table.

    Args:
        columns: a Comparison of the generated images, and one of the test split.
        has_classes: whether the data set has classes.
        reference: the name of what the images are compared with.

    Returns:
        A list of Rows, and {reason: [labels]} of the scores that are left out.
    """
    rows, left_out = [], {}
    parts = {}  # {(column, count): Comparison}, because scores of the same images share their distances
    with Progress('Computing the scores', len(METRICS)) as progress:
        for metric in METRICS:
            counts = image_counts(metric, columns)
            reason = reason_left_out(metric, columns[0], min(counts), has_classes)
            if reason:
                left_out.setdefault(reason, []).append(metric.short_label(reference))
            else:
                values = []
                for number, (column, count) in enumerate(zip(columns, counts, strict=True)):
                    if (number, count) not in parts:
                        parts[number, count] = column.first(count)
                    part = parts[number, count]
                    values.append(None if missing(metric, part) else metric.compute(part))
                rows.append(Row(metric, counts, *values))
            progress.update(1)
    return rows, left_out


def image_counts(metric, columns):
    """Return how many images of each column a Metric uses."""
    counts = [len(column.features) for column in columns]
    if metric.same_count:
        counts = [min(counts)] * len(counts)
    if metric.max_images is not None:
        counts = [min(count, metric.max_images) for count in counts]
    return tuple(counts)


def reason_left_out(metric, column, count, has_classes):
    """Return why a Metric of count images cannot be computed, or '' if it can."""
    names = missing(metric, column)
    if names and not has_classes and names[0] in ('probabilities', 'labels'):
        return 'the data set has no classes'
    if names:
        return MISSING[names[0]]
    if column.train_features is not None:
        count = min(count, len(column.train_features))
    if count < metric.min_images:
        return f'at least {metric.min_images} images are needed, but there are only {count}'
    return ''


def missing(metric, column):
    """Return the names of the arrays that a Metric needs and a Comparison lacks."""
    return [name for name in metric.needs if getattr(column, name) is None]


def mean_of(value):
    """Return the number, or the mean of the pair (mean, standard deviation), that a Metric has computed."""
    return value[0] if isinstance(value, tuple) else value


def as_json(scores):
    """Return the content of SAGAN_scores.json that concerns the scores.

    {'generated': {name: value}, 'real': {name: value}, 'images': {name: [generated, real]}}. A standard deviation has
    the key <name>_std.
    """
    content = {'generated': {}, 'real': {}, 'images': {}}
    for row in scores.rows:
        content['images'][row.metric.name] = list(row.counts)
        for column in 'generated', 'real':
            value = getattr(row, column)
            if isinstance(value, tuple):
                content[column][row.metric.name], content[column][f'{row.metric.name}_std'] = value
            elif value is not None:
                content[column][row.metric.name] = value
    if scores.histograms is not None:
        for column, histogram in zip(('generated', 'real'), scores.histograms, strict=True):
            content[column]['class_histogram'] = histogram.tolist()
    return content


##################################################################################
# The table
##################################################################################

def print_scores(scores, class_names, reference=TRAINING_SPLIT):
    """Print the scores of generated images beside those of the real test split, and why others are left out."""
    num_classes = max(1, len(class_names))
    limits = {'num_classes': num_classes, 'max_entropy': f'{np.log(num_classes):.3f}', 'reference': reference}
    print(table_line('', 'images', 'better', 'generated', 'real test'))
    for row in scores.rows:
        counts = map(str, row.counts if len(set(row.counts)) > 1 else row.counts[:1])
        print(table_line(row.metric.label(**limits), ' / '.join(counts), row.metric.better,
                         *(as_text(value, row.metric.decimals) for value in (row.generated, row.real))))
    if scores.histograms is not None:
        for name, *fractions in zip(class_names, *scores.histograms, strict=True):
            print(table_line(f'fraction predicted as {name}', '', '', *map(as_text, fractions)))
    for reason, labels in scores.left_out.items():
        print(f'Not computed, because {reason}: {", ".join(labels)}')


def table_line(label, images, better, generated, real):
    """Return a line of the table, at most 100 characters wide."""
    return f'{label:<40.40}{images:>13}  {better:<6}{generated:>19}{real:>19}'.rstrip()


def as_text(value, decimals=3):
    """Return the text of a value of a Row in the table."""
    if value is None:
        return '-'
    numbers = value if isinstance(value, tuple) else (value,)
    return ' ± '.join(f'{number:.{decimals}f}' for number in numbers)


def caution(samples, test_images):
    """Return a sentence that says which scores may be compared.

    Args:
        samples, test_images: numbers of images.
    """
    count = min(samples, test_images)
    limited = ''
    if test_images < samples:
        limited = (f'There are only {test_images} test images, so the scores that depend on the number of images use '
                   f'{count} samples, too. ')
    if count < FEW_IMAGES:
        return (f'{limited}With only {count} images, Fréchet distances are too large, and recall and coverage too '
                f'small: compare them only with scores of {count} images. KID has no such bias')
    return f'{limited}Compare only scores of the same classifier or features, and of the same numbers of images'

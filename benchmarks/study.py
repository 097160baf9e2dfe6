"""The study behind the scores in docs/results.md: python -m benchmarks.study

It trains the runs in RUNS, scores them with the classifier of --phase eval, and writes one row of scores per run and
epoch to benchmarks/study.csv. Existing rows are not recomputed, so the study can be interrupted and resumed. Runs,
sample grids and a figure are written to --folder. Tables are printed.
"""

import argparse
import csv
import functools
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from matplotlib.figure import Figure

from datasets import load_dataset
from evaluation.classifier import load_classifier
from evaluation.figures import COLOURS, save_figure
from evaluation.metrics import class_accuracy, classifier_score, frechet_distance
from evaluation.phases import restore
from evaluation.samples import write_grid
from options import UserError, default_shape, parse, resolve, resolve_shape
from SAGAN import SAGAN
from tf1 import tf
from training.precision import session_config
from utils import Stream, make_folder

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'
CONDITIONAL = '--conditional true'
OBJECTIVES = ['', *(f'--gan_type {name}' for name in ('lsgan', 'hinge', 'wgan-gp', 'wgan-lp', 'dragan', 'r1'))]
NETWORKS = ['--sn true', '--attention none', '--attention paper', CONDITIONAL,
            '--recipe paper --network article --img_size 28']
# (data set, options besides --precision bfloat16, seed, epochs after which the run is scored)
RUNS = [*(('mnist', options, seed, (1, 2)) for seed in (0, 1, 2) for options in ('', CONDITIONAL)),
        *(('mnist', options, 0, (1, 2)) for options in OBJECTIVES + NETWORKS if options not in ('', CONDITIONAL)),
        *(('fashion-mnist', options, 0, (1, 2)) for options in ('', '--attention none', '--attention paper')),
        *(('mnist', options, 0, (10,)) for options in ('', CONDITIONAL)),
        # The moving average and the benefit of attention, with more seeds and in float32.
        *(('mnist', '--attention none', seed, (1, 2)) for seed in (1, 2)),
        *(('mnist', '', seed, (3, 5)) for seed in (0, 1, 2)),
        *(('mnist', '--precision float32', seed, (5,)) for seed in (0, 1, 2)),
        ('mnist', '', 0, (20,)), ('mnist', '--precision float32', 0, (10, 20))]
NUM_SAMPLES = 10000  # per score
WEIGHTS = ['ema']  # add 'raw' to score the raw weights, too
RUN_COLUMNS = ['dataset', 'options', 'seed', 'epoch']
VALUE_COLUMNS = ['frechet_to_train', 'classifier_score', 'class_accuracy', 'g_gamma', 'd_gamma', 'minutes']
COLUMNS = [*RUN_COLUMNS, 'weights', *VALUE_COLUMNS]


@functools.cache
def load_scorer(dataset_name, data_dir, checkpoint_dir):
    """Return score(samples uint8, labels or None) -> {column: value}."""
    dataset = load_dataset(dataset_name, data_dir)
    classify = load_classifier(dataset_name, dataset, checkpoint_dir)
    train_features, _ = classify(dataset.train[0])

    def score(samples, labels):
        features, probabilities = classify(samples)
        scores = {'frechet_to_train': frechet_distance(features, train_features)}
        scores['classifier_score'], _ = classifier_score(probabilities)
        if labels is not None:
            scores['class_accuracy'] = class_accuracy(probabilities, labels)
        return scores

    return score


def train_and_score(dataset_name, arguments, seed, epoch, folder, data_dir):
    """Train a run up to an epoch and yield a row {column: string} for each of WEIGHTS."""
    command = ['--dataset', dataset_name, '--epoch', str(epoch), '--seed', str(seed), '--data_dir',
               os.path.abspath(data_dir), '--precision', 'bfloat16', *arguments.split()]
    start = time.time()
    subprocess.run([sys.executable, MAIN, *command], cwd=folder, check=True)
    minutes = (time.time() - start) / 60
    options = resolve_shape(resolve(parse(command)), default_shape(dataset_name))
    if options['conditional'] is None:
        options['conditional'] = True  # all data sets of the study have classes
    folders = {'checkpoint_dir': f'{folder}/checkpoint', 'result_dir': f'{folder}/results'}
    for weights in WEIGHTS:
        with tf.Graph().as_default(), tf.Session(config=session_config(options['precision'])) as sess:
            model = SAGAN(sess, classes=10, **{**options, **folders, 'weights': weights})
            model.build_model()
            restore(model, 'latest')
            labels = model.proportional_labels(NUM_SAMPLES)
            samples = model.pixels(model.draw_z(NUM_SAMPLES, seed, Stream.EVAL_Z), labels)
            make_folder(model.run.results)
            write_grid(model, f'{epoch:02d}_{weights}', seed, Stream.TEST_Z, 0)
            values = load_scorer(dataset_name, data_dir, model.config.checkpoint_dir)(samples, labels)
            values.update(sess.run(model.sampled_gammas), minutes=minutes)
        row = {'dataset': dataset_name, 'options': arguments, 'seed': str(seed), 'epoch': str(epoch),
               'weights': weights}
        yield row | {name: f'{values[name]:.4f}' for name in VALUE_COLUMNS if name in values}


def run_study(path, folder, data_dir):
    """Train and score the runs that the CSV file lacks. Return all rows."""
    rows = read_rows(path)
    done = {tuple(row[column] for column in RUN_COLUMNS) for row in rows if row['weights'] == WEIGHTS[-1]}
    for dataset_name, arguments, seed, epochs in RUNS:
        for epoch in epochs:
            if (dataset_name, arguments, str(seed), str(epoch)) in done:
                continue
            rows.extend(train_and_score(dataset_name, arguments, seed, epoch, folder, data_dir))
            print(*rows[-1].values(), flush=True)
            write_rows(path, rows, COLUMNS)
    return rows


def read_rows(path):
    """Return the rows of a CSV file, or an empty list if there is no file."""
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def write_rows(path, rows, columns):
    """Write rows {column: value} to a CSV file."""
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, columns, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def select(rows, column, **conditions):
    """Return the values of a column, one per seed, in the rows that meet the conditions {column: value}."""
    return [float(row[column]) for row in rows
            if row[column] and all(row[name] == str(value) for name, value in conditions.items())]


def mean_and_std(values, digits=2):
    """Format the mean and, if there are several values, their standard deviation."""
    if not values:
        return ''
    mean = f'{np.mean(values):.{digits}f}'
    return mean if len(values) == 1 else f'{mean} ± {np.std(values, ddof=1):.{digits}f}'


def print_table(rows, dataset_name, variants, **conditions):
    """Print a Markdown table of the scores of option variants after 1 and 2 epochs."""
    values = ', '.join(f'{name} {value}' for name, value in conditions.items())
    print(f'\n| {dataset_name}, bfloat16, {values} | Fréchet distance, 1 epoch | 2 epochs | '
          'classifier score, 2 epochs | class accuracy | gamma of G, of D | minutes |')
    print('|---' * 7 + '|')
    for arguments in variants:
        one_epoch = dict(dataset=dataset_name, options=arguments, epoch=1, **conditions)
        two_epochs = {**one_epoch, 'epoch': 2}
        if not select(rows, 'frechet_to_train', **two_epochs):
            continue
        minutes = select(rows, 'minutes', **one_epoch) + select(rows, 'minutes', **two_epochs)  # each for one epoch
        cells = [f'`{arguments or "default"}`',
                 mean_and_std(select(rows, 'frechet_to_train', **one_epoch)),
                 mean_and_std(select(rows, 'frechet_to_train', **two_epochs)),
                 mean_and_std(select(rows, 'classifier_score', **two_epochs)),
                 mean_and_std(select(rows, 'class_accuracy', **two_epochs), 4),
                 ', '.join(mean_and_std(select(rows, name, **two_epochs)) for name in ('g_gamma', 'd_gamma')),
                 f'{2 * np.mean(minutes):.1f}' if minutes else '']
        print(f'| {" | ".join(cells)} |')


def print_epochs(rows, arguments, weights):
    """Print one line with the scores of an option variant on MNIST after each number of epochs."""
    scores = []
    for epoch in 1, 2, 3, 5, 10, 20:
        conditions = dict(dataset='mnist', options=arguments, epoch=epoch, weights=weights)
        distance = mean_and_std(select(rows, 'frechet_to_train', **conditions))
        if distance:
            score = mean_and_std(select(rows, 'classifier_score', **conditions))
            scores.append(f'epoch {epoch}: {distance} / {score}')
    if scores:
        print(f'{arguments or "default"}, {weights} (Fréchet distance / classifier score): {"; ".join(scores)}')


def draw_scores(rows, variants, title):
    """Plot the scores of option variants on MNIST, one row per variant and one dot per seed."""
    height = 0.35 * len(variants) + 1.2
    figure = Figure(figsize=(9, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.2 / height)
    axes = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.22, right=0.98, bottom=0.55 / height, top=1 - 0.5 / height, wspace=0.06)
    labels = {'frechet_to_train': 'Fréchet distance to the training images (lower is better)',
              'classifier_score': 'classifier score (higher is better)'}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for epoch, colour, epochs in (1, COLOURS[0], '1 epoch'), (2, COLOURS[1], '2 epochs'):
            points = [(value, number) for number, arguments in enumerate(variants) for value in
                      select(rows, column, dataset='mnist', options=arguments, epoch=epoch, weights='ema')]
            axis.plot(*zip(*points, strict=True), 'o', color=colour, label=epochs)
        axis.set_xlabel(label, fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].set_xscale('log')
    ticks = [0.5, 1, 2, 4, 8, 16, 32, 64, 128]
    axes[0].set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes[0].minorticks_off()
    names = [arguments.replace(' --', '\n--') or 'default' for arguments in variants]
    axes[0].set_yticks(range(len(variants)), names, fontsize=9)
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8, frameon=False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data_dir', default='data', help='folder of the data sets')
    parser.add_argument('--folder', default='study', help='folder of the runs, grids and figures')
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    try:
        rows = run_study(pathlib.Path(__file__).with_suffix('.csv'), args.folder, args.data_dir)
    except (UserError, OSError) as error:
        parser.exit(2, f'study.py: {error}\n')
    except subprocess.CalledProcessError as error:  # main.py has printed its error
        sys.exit(error.returncode)
    print_table(rows, 'mnist', OBJECTIVES + NETWORKS, weights='ema', seed=0)
    print_table(rows, 'mnist', ['', CONDITIONAL, '--attention none'], weights='ema')
    print_table(rows, 'fashion-mnist', ['', '--attention none', '--attention paper'], weights='ema', seed=0)
    figure = draw_scores(rows, OBJECTIVES + NETWORKS, 'MNIST, moving average of the weights, one dot per seed')
    save_figure(figure, os.path.join(args.folder, 'study.png'))
    print()
    for arguments in '', CONDITIONAL, '--attention none', '--precision float32':
        for weights in WEIGHTS:
            print_epochs(rows, arguments, weights)


if __name__ == '__main__':
    main()

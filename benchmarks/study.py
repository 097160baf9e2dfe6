"""The studies behind the scores of RESULTS.md: python -m benchmarks.study

It trains RUNS, scores the checkpoint after each of their epochs as --phase eval does, and keeps a row a score in
benchmarks/study.csv: a score that stands there is not taken again, so that it goes on where it was stopped. It writes
runs, grids of samples and figures into --folder, and prints the tables.
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
from evaluation.figures import COLOURS
from evaluation.metrics import class_accuracy, classifier_score, frechet_distance
from options import KEPT, UserError, parse, with_recipe
from SAGAN import SAGAN
from storage.run import save_figure
from tf1 import tf
from training.callbacks import write_grid
from training.precision import session_config
from utils import Stream, make_folder, to_uint8

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'
BEST = '--conditional true'
OBJECTIVES = ['', *(f'--gan_type {name}' for name in ('lsgan', 'hinge', 'wgan-gp', 'wgan-lp', 'dragan'))]
NETWORKS = ['--sn true', '--attention none', '--attention paper', BEST,
            '--recipe paper --network article --img_size 28']
# data set, options beside --precision bfloat16, seed, epochs after which it is scored
RUNS = [*(('mnist', options, seed, (1, 2)) for seed in (0, 1, 2) for options in ('', BEST)),
        *(('mnist', options, 0, (1, 2)) for options in OBJECTIVES + NETWORKS if options not in ('', BEST)),
        *(('fashion-mnist', options, 0, (1, 2)) for options in ('', '--attention none', '--attention paper')),
        *(('mnist', options, 0, (10,)) for options in ('', BEST)),
        # The moving average, and what attention brings, with more seeds and in float32.
        *(('mnist', '--attention none', seed, (1, 2)) for seed in (1, 2)),
        *(('mnist', '', seed, (3, 5)) for seed in (0, 1, 2)),
        *(('mnist', '--precision float32', seed, (5,)) for seed in (0, 1, 2)),
        ('mnist', '', 0, (20,)), ('mnist', '--precision float32', 0, (10, 20))]
KEYS = ['dataset', 'options', 'seed', 'epoch', 'weights']
COLUMNS = [*KEYS, 'frechet_to_train', 'classifier_score', 'class_accuracy', 'g_gamma', 'd_gamma', 'minutes']
COUNT = 10000  # images in a score
WEIGHTS = 'ema',  # a study of 'raw', the weights as trained, adds that here


@functools.cache
def scorer(dataset, data_dir, checkpoint_dir):
    """-> the function that scores images, uint8, and the labels that they were to have -> {column: value}."""
    data = load_dataset(dataset, data_dir)
    classify = load_classifier(dataset, data, checkpoint_dir)
    features, _ = classify(data.train[0])

    def score(samples, asked):
        found, probabilities = classify(samples)
        values = {'frechet_to_train': frechet_distance(found, features),
                  'classifier_score': classifier_score(probabilities)[0]}
        return values if asked is None else {**values, 'class_accuracy': class_accuracy(probabilities, asked)}

    return score


def score_run(dataset, typed, seed, epoch, folder, data_dir):
    """Train a run up to an epoch and score it -> a row {column: value} for each of WEIGHTS."""
    command = ['--dataset', dataset, '--epoch', str(epoch), '--seed', str(seed), '--data_dir',
               os.path.abspath(data_dir), '--precision', 'bfloat16', *typed.split()]
    start = time.time()
    subprocess.run([sys.executable, MAIN, *command], cwd=folder, check=True)
    minutes = (time.time() - start) / 60
    options = {name: value for name, value in with_recipe(*parse(command), True).items() if name in KEPT}
    for weights in WEIGHTS:
        with tf.Graph().as_default(), tf.Session(config=session_config(options['precision'])) as sess:
            places = {'checkpoint_dir': f'{folder}/checkpoint', 'result_dir': f'{folder}/results'}
            model = SAGAN(sess, classes=10, **{**options, **places, 'weights': weights})
            model.build_model()
            model.restore('latest')
            labels = model.labels_of(COUNT)
            images = to_uint8(model.sample(model.draw_z(COUNT, seed, Stream.EVAL_Z), labels))
            make_folder(model.run.results)
            write_grid(model.run, f'{epoch:02d}_{weights}', model.sample, *model.draw_grid(seed, Stream.TEST_Z, 0))
            found = {**scorer(dataset, data_dir, model.checkpoint_dir)(images, labels),
                     **sess.run(model.sampled_gammas), 'minutes': minutes}
        yield dict(zip(KEYS, [dataset, typed, str(seed), str(epoch), weights], strict=True)) | {
            name: f'{found[name]:.4f}' for name in COLUMNS[5:] if name in found}


def take_scores(path, folder, data_dir):
    """Train and score what the csv file lacks -> its rows."""
    rows = list(csv.DictReader(path.open(newline=''))) if path.exists() else []
    for dataset, typed, seed, epochs in RUNS:
        for epoch in epochs:
            if any(row['weights'] == WEIGHTS[-1] and [row[key] for key in KEYS[:4]] == [
                    dataset, typed, str(seed), str(epoch)] for row in rows):
                continue
            rows.extend(score_run(dataset, typed, seed, epoch, folder, data_dir))
            print(*rows[-1].values(), flush=True)
            with path.open('w', newline='') as file:
                writer = csv.DictWriter(file, COLUMNS, restval='', lineterminator='\n')
                writer.writeheader()
                writer.writerows(rows)
    return rows


def values_of(rows, column, **wanted):
    """The values of all seeds of the runs wanted."""
    return [float(row[column]) for row in rows if row[column] and
            all(row[name] == str(value) for name, value in wanted.items())]


def told(values, digits=2):
    """Their mean and, of several, their standard deviation."""
    if not values:
        return ''
    return f'{np.mean(values):.{digits}f}' + (f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else '')


def print_table(rows, dataset, variants, **wanted):
    """Print, as Markdown, what these variants of the options scored after 1 and 2 epochs."""
    print(f'\n| {dataset}, bfloat16, {", ".join(map(str, wanted.values()))} | Fréchet distance, 1 epoch | 2 epochs | '
          'classifier score, 2 epochs | class_accuracy | gamma of G, of D | minutes |\n' + '|---' * 7 + '|')
    for typed in variants:
        one, two = (dict(dataset=dataset, options=typed, epoch=epoch, **wanted) for epoch in (1, 2))
        if not values_of(rows, 'frechet_to_train', **two):
            continue
        minutes = values_of(rows, 'minutes', **one) + values_of(rows, 'minutes', **two)
        print(f'| `{typed or "default"}` | {told(values_of(rows, "frechet_to_train", **one))} | '
              f'{told(values_of(rows, "frechet_to_train", **two))} | '
              f'{told(values_of(rows, "classifier_score", **two))} | '
              f'{told(values_of(rows, "class_accuracy", **two), 4)} | '
              f'{", ".join(told(values_of(rows, name, **two)) for name in ("g_gamma", "d_gamma"))} | '
              f'{told([2 * np.mean(minutes)] if minutes else [], 1)} |')


def draw(rows, variants, title):
    """Draw what variants of the options scored on MNIST, a row each -> a figure; dots are seeds."""
    height = 0.35 * len(variants) + 1.2
    figure = Figure(figsize=(9, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.2 / height)
    axes = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.22, right=0.98, bottom=0.55 / height, top=1 - 0.5 / height, wspace=0.06)
    for axis, column, name in zip(axes, COLUMNS[5:7], ('Fréchet distance to the training images, less is better',
                                                       'classifier score, more is better'), strict=True):
        for epoch, colour in zip((1, 2), COLOURS, strict=False):
            points = [(value, place) for place, typed in enumerate(variants) for value in values_of(
                rows, column, dataset='mnist', options=typed, epoch=epoch, weights='ema')]
            axis.plot(*zip(*points, strict=True), 'o', color=colour, label=f'{epoch} epoch{"s" * (epoch > 1)}')
        axis.set_xlabel(name, fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].set_xscale('log')
    ticks = [0.5, 1, 2, 4, 8, 16, 32, 64, 128]
    axes[0].set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    axes[0].minorticks_off()
    names = [typed.replace(' --', '\n--') or 'default' for typed in variants]
    axes[0].set_yticks(range(len(variants)), names, fontsize=9)
    axes[0].invert_yaxis()
    axes[1].legend(fontsize=8, frameon=False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--folder', default='study')
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    try:
        rows = take_scores(pathlib.Path(__file__).with_suffix('.csv'), args.folder, args.data_dir)
    except (UserError, OSError) as error:
        parser.exit(2, f'study.py: {error}\n')
    except subprocess.CalledProcessError as error:  # main.py has said what is wrong
        sys.exit(error.returncode)
    print_table(rows, 'mnist', OBJECTIVES + NETWORKS, weights='ema', seed=0)
    print_table(rows, 'mnist', ['', BEST, '--attention none'], weights='ema')
    print_table(rows, 'fashion-mnist', ['', '--attention none', '--attention paper'], weights='ema', seed=0)
    figure = draw(rows, OBJECTIVES + NETWORKS, 'MNIST, the moving average of the weights; dots: seeds')
    save_figure(figure, os.path.join(args.folder, 'study.png'))
    for typed in '', BEST, '--attention none', '--precision float32':
        for weights in WEIGHTS:
            print(f'{typed or "default"}, {weights}:', *(
                f'{epoch} epochs {told(values_of(rows, "frechet_to_train", **wanted))} / '
                f'{told(values_of(rows, "classifier_score", **wanted))};' for epoch in (1, 2, 3, 5, 10, 20)
                for wanted in [dict(dataset='mnist', options=typed, epoch=epoch, weights=weights)]))


if __name__ == '__main__':
    main()

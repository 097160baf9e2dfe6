"""The study behind the scores of RESULTS.md: python tests/study.py

It trains the runs of RUNS on MNIST, scores the checkpoint of each of their EPOCHS, with the weights as trained and with
their average, and writes into --folder: study.csv, a row a score; grids of samples; and the two figures of RESULTS.md,
whose tables it prints. A score that stands in study.csv is not taken again, so that it goes on where it was stopped.
"""

import argparse
import csv
import os
import pathlib
import subprocess
import sys

import numpy as np

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'
sys.path.insert(0, str(MAIN.parent))
from main import import_tensorflow

tf = import_tensorflow()

from matplotlib.figure import Figure

from datasets import load_mnist
from figures import COLOURS
from metrics import load_scorer
from ops import session_config
from options import UserError
from records import write_grid
from runs import save_figure
from SAGAN import SAGAN
from utils import Use, check_folder, draw_z, to_uint8

# precision, attention, seed, and the epochs after which it is scored
RUNS = [*(('bfloat16', False, seed, (1, 2, 3)) for seed in (0, 1, 2)), ('bfloat16', True, 0, (1, 2, 3, 5, 10, 20)),
        ('bfloat16', True, 1, (1, 2, 3, 5)), ('bfloat16', True, 2, (1, 2, 3, 5)),
        ('float32', True, 0, (1, 2, 3, 5, 10, 20)), ('float32', True, 1, (5,)), ('float32', True, 2, (5,))]
COLUMNS = ['precision', 'attention', 'seed', 'epoch', 'weights', 'frechet_distance', 'classifier_score']
COUNT = 10000  # images in a score
WEIGHTS = 'raw', 'ema'


def take_scores(folder, data_dir):
    """Train and score what study.csv lacks -> (its rows, {column: value of the real test split})."""
    path = os.path.join(folder, 'study.csv')
    rows = []
    if os.path.exists(path):
        with open(path, newline='') as file:
            rows = list(csv.DictReader(file))
    (images, labels), (test_images, _) = load_mnist('mnist', data_dir)
    os.makedirs(folder, exist_ok=True)
    score = load_scorer('mnist', images, labels, os.path.join(folder, 'checkpoint'))
    real = score(test_images)

    for precision, attention, seed, epochs in RUNS:
        for epoch in epochs:
            missing = [weights for weights in WEIGHTS if not any(
                list(row.values())[:5] == [precision, str(attention), str(seed), str(epoch), weights] for row in rows)]
            if not missing:
                continue
            subprocess.run([sys.executable, MAIN, '--phase', 'train', '--dataset', 'mnist', '--epoch', str(epoch),
                            '--precision', precision, '--attention', str(attention), '--seed', str(seed),
                            '--data_dir', os.path.abspath(data_dir)], cwd=folder, check=True)
            for weights in missing:
                with tf.Graph().as_default(), tf.Session(config=session_config(precision)) as sess:
                    model = SAGAN(sess, precision=precision, attention=attention, seed=seed, weights=weights,
                                  checkpoint_dir=os.path.join(folder, 'checkpoint'),
                                  result_dir=os.path.join(folder, 'results'))
                    model.build_model()
                    model.restore(epoch * (len(images) // model.batch_size))
                    scores = score(to_uint8(model.sample(draw_z(COUNT, model.z_dim, seed, Use.EVAL_Z))))
                    check_folder(model.run.results)
                    z = draw_z(model.sample_num, model.z_dim, seed, Use.TEST_Z, 0)
                    write_grid(model.run, f'{epoch:02d}_{weights}', model.sample(z))
                rows.append({'precision': precision, 'attention': str(attention), 'seed': str(seed),
                             'epoch': str(epoch), 'weights': weights, **scores})
                print(*rows[-1].values(), flush=True)
                with open(path, 'w', newline='') as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
                    writer.writeheader()
                    writer.writerows(rows)
    return rows, real


def values_of(rows, column, **wanted):
    """The scores of all seeds, or of one, of the runs wanted -> {epoch: [scores]}."""
    values = {}
    for row in rows:
        if all(row[name] == str(value) for name, value in wanted.items()):
            values.setdefault(int(row['epoch']), []).append(float(row[column]))
    return values


def print_table(rows, title, lines, epochs):
    """Print, as Markdown, Fréchet distance / classifier score of lines {name: wanted} after these epochs.

    Of several seeds it is their mean and, behind the sign, their standard deviation.
    """
    def text(values, digits):
        spread = f' ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else ''
        return f'{np.mean(values):.{digits}f}{spread}'

    print(f'\n| {title} | ' + ' | '.join(f'{epoch} epoch{"s" * (epoch > 1)}' for epoch in epochs) + ' |')
    print('|---' * (len(epochs) + 1) + '|')
    for name, wanted in lines.items():
        distances, scores = (values_of(rows, column, **wanted) for column in COLUMNS[5:])
        print(f'| {name} | ' + ' | '.join(f'{text(distances[epoch], 2)} / {text(scores[epoch], 2)}'
                                          if epoch in distances else '' for epoch in epochs) + ' |')


def draw(rows, real, title, lines, note):
    """Draw the scores of lines {name: wanted} over epochs, the mean where there are several seeds -> a figure.

    Dots are single seeds, also those that a line is not of. Raw weights are dashed; every two lines share a colour.
    """
    figure = Figure(figsize=(9, 3.8))
    figure.suptitle(title, fontsize=11)
    figure.text(0.79, 0.16, note, fontsize=8)
    axes = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.78, bottom=0.14, top=0.82, wspace=0.22)
    for axis, column, name in zip(axes, COLUMNS[5:], ('Fréchet distance to the training images',
                                                      'classifier score'), strict=True):
        epochs = set()
        for number, (label, wanted) in enumerate(lines.items()):
            style = dict(color=COLOURS[number // 2], linestyle='--' if wanted['weights'] == 'raw' else '-')
            values = values_of(rows, column, **wanted)
            axis.plot(list(values), [np.mean(scores) for scores in values.values()], label=label, **style)
            seeds = values_of(rows, column, **{name: value for name, value in wanted.items() if name != 'seed'})
            points = [(epoch, score) for epoch in seeds for score in seeds[epoch]]
            axis.plot([epoch for epoch, _ in points], [score for _, score in points], '.', color=style['color'])
            epochs.update(values)
        axis.axhline(real[column], color='gray', linewidth=1, linestyle=':', label='real test images')
        axis.set_xscale('log')
        axis.set_xticks(sorted(epochs), sorted(epochs))
        axis.set_xlabel('epochs')
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_yscale('log')
    axes[0].set_yticks([0.25, 0.5, 1, 2, 4, 8, 16], ['0.25', '0.5', '1', '2', '4', '8', '16'])
    for axis in axes:
        axis.minorticks_off()
    axes[1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--folder', default='study')
    args = parser.parse_args()
    try:
        rows, real = take_scores(args.folder, args.data_dir)
    except (UserError, OSError) as error:
        parser.exit(2, f'study.py: {error}\n')
    except subprocess.CalledProcessError as error:  # main.py has said what is wrong
        sys.exit(error.returncode)

    lines = {f'{name}, {weights}': dict(precision='bfloat16', attention=attention, weights=weights)
             for name, attention in (('with attention', True), ('without attention', False)) for weights in WEIGHTS}
    print_table(rows, 'bfloat16, 3 seeds', lines, (1, 2, 3))
    few = [row for row in rows if int(row['epoch']) <= 3]
    figure = draw(few, real, 'With and without attention, bfloat16', lines,
                  'lines: mean of 3 seeds\ndots: single seeds')
    save_figure(figure, os.path.join(args.folder, 'study_attention.png'))

    lines = {f'{precision}, {weights}': dict(precision=precision, attention=True, weights=weights)
             for precision in ('float32', 'bfloat16') for weights in WEIGHTS}
    seed_0 = {name: {**wanted, 'seed': 0} for name, wanted in lines.items()}
    print_table(rows, 'seed 0', seed_0, (1, 2, 3, 5, 10, 20))
    print_table(rows, '3 seeds', lines, (5,))
    figure = draw(rows, real, 'The weights as trained (raw) and their moving average (ema)', seed_0,
                  'lines: seed 0\ndots: single seeds')
    save_figure(figure, os.path.join(args.folder, 'study_average.png'))
    print(f'\nThe real test split: {real["frechet_distance"]:.3f} / {real["classifier_score"]:.3f}')


if __name__ == '__main__':
    main()

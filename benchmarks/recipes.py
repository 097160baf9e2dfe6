"""Measure --recipe fast, the networks dcgan and resnet, and other options: python -m benchmarks.recipes

main.py trains and scores each run in processes of its own. Each run is a row of benchmarks/recipes.csv. Existing rows
are not recomputed, so the measurement can be interrupted and resumed. Means over seeds are printed. The data set emoji,
a folder of images, is not part of this repository: put it in --data_dir.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

from benchmarks.study import mean_and_std, read_rows, select, write_rows
from datasets import load_dataset
from options import UserError
from storage.history import read_history
from utils import make_folder

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'
RUN_COLUMNS = ['dataset', 'options', 'seed', 'steps']
VALUE_COLUMNS = ['distance', 'score', 'class_accuracy', 'worst_ratio', 'minutes']
COLUMNS = [*RUN_COLUMNS, *VALUE_COLUMNS]
CONDITIONAL = '--conditional true'
DCGAN = '--network dcgan --ch 16 --precision bfloat16 --img_size'
RESNET = '--network resnet --ch 16 --precision bfloat16 --img_size 32'
RATES_32, RATES_64 = '--g_lr 0.001 --d_lr 0.004', '--g_lr 0.0005 --d_lr 0.002'  # dcgan's defaults at 32 px, and above
WITHOUT_SN = f'{DCGAN} 32 --sn false --z_dim 62 --z uniform'
TENTH = 'fashion-mnist-tenth'  # every tenth training image of Fashion-MNIST
# Options that differ from --recipe fast, one per run.
CHANGES = ['--g_lr 0.00225', '--g_lr 0.009', '--d_lr 0.0011', '--d_lr 0.0044', '--beta1 0.5', '--beta2 0.999',
           '--lr_decay none', '--batch_size 64', '--gan_type hinge', '--gan_type lsgan', '--sn true',
           '--conditional false', '--attention paper']
# A folder of 1,788 images in eight classes. With so few images, the default is --augment true.
EMOJI = [f'{DCGAN} 32', f'{DCGAN} 32 {CONDITIONAL}', f'{DCGAN} 32 --augment false',
         f'{DCGAN} 32 {CONDITIONAL} --augment false']
# (data set, options, seeds, epochs, steps per epoch)
RUNS = [*((dataset, '--recipe fast', seeds, 1, 1200) for dataset, seeds in [('mnist', range(5)),
                                                                            ('fashion-mnist', range(3))]),
        ('mnist', '--recipe fast', range(3), 1, 4000),
        *(('mnist', f'--recipe fast {change}', range(1), 1, 1200) for change in CHANGES),
        ('mnist', f'{DCGAN} 32 {CONDITIONAL}', range(1), 1, 938),
        *(('fashion-mnist', options, range(3), 10, 500) for options in (f'{DCGAN} 32', f'{DCGAN} 32 {CONDITIONAL}')),
        *(('emoji', options, range(3), 10, 500) for options in EMOJI),
        *(('emoji', options, range(3), 10, 500) for options in (f'{DCGAN} 64', f'{DCGAN} 64 {CONDITIONAL}')),
        *((TENTH, options, range(3), 10, 500) for options in (f'{DCGAN} 32', f'{DCGAN} 32 --augment true')),
        *((dataset, RESNET, range(1), 10, 500) for dataset in ('fashion-mnist', 'emoji')),
        # Learning rates and objectives of dcgan: the default rates of the other size, those of the paper, then others.
        *(('emoji', options, range(3), 10, 500) for options in (f'{DCGAN} 64 {RATES_32}',
                                                                f'{DCGAN} 64 {CONDITIONAL} {RATES_32}')),
        *((dataset, f'{DCGAN} 32 {RATES_64}', range(1), 10, 500) for dataset in ('fashion-mnist', 'emoji')),
        *(('emoji', options, range(1), 3, 500) for options in (f'{DCGAN} 128', f'{DCGAN} 128 {RATES_32}')),
        ('emoji', f'{DCGAN} 64 --g_lr 0.00025 --d_lr 0.001', range(1), 10, 500),
        ('emoji', f'{DCGAN} 64 {CONDITIONAL} --g_lr 0.00025 --d_lr 0.001', range(1, 2), 10, 500),
        ('fashion-mnist', f'{DCGAN} 32 --g_lr 0.0001 --d_lr 0.0004', range(1), 10, 500),
        ('fashion-mnist', f'{WITHOUT_SN} --gan_type gan --g_lr 0.0045 --d_lr 0.0022 --beta2 0.99', range(1), 10, 500),
        ('fashion-mnist', f'{WITHOUT_SN} --g_lr 0.003 --d_lr 0.002 --beta2 0.999', range(1), 10, 500)]


def call_main(folder, *words):
    """Run main.py in a folder."""
    subprocess.run([sys.executable, MAIN, *map(str, words)], cwd=folder, check=True)


def write_tenth(path, data_dir):
    """Write the data set TENTH as an npz file."""
    dataset = load_dataset('fashion-mnist', data_dir)
    (images, labels), (test_images, test_labels) = dataset.train, dataset.test
    np.savez(path, x_train=images[::10], y_train=labels[::10], x_test=test_images, y_test=test_labels)


def train_and_score(folder, name, epochs, iteration, words):
    """Train and score a run, and return its values {column: string}.

    distance, score and class_accuracy are those of --phase eval. worst_ratio is the largest ratio of the distance after
    an epoch to the smallest distance so far. minutes is the time that --phase train takes. The committed CSV file omits
    it for runs that shared the machine with other programs.
    """
    start = time.time()
    call_main(folder, '--phase', 'train', '--name', name, '--epoch', epochs, '--iteration', iteration, '--eval_freq',
              int(epochs > 1), *words)
    values = {'minutes': (time.time() - start) / 60}
    call_main(folder, '--phase', 'eval', '--name', name, *words)
    results = folder / 'results' / name
    scores = json.loads((results / 'SAGAN_scores.json').read_text())['generated']
    values.update(distance=scores['frechet_to_train'], score=scores['classifier_score'])
    if 'class_accuracy' in scores:
        values['class_accuracy'] = scores['class_accuracy']
    history = read_history(results / 'SAGAN_history.csv')
    distances = [float(row['frechet_distance']) for row in history if row.get('frechet_distance')]
    if distances:
        values['worst_ratio'] = max(value / min(distances[:number + 1]) for number, value in enumerate(distances))
    return {column: f'{value:.4f}' for column, value in values.items()}


def run_all(path, folder, data_dir):
    """Train and score the runs that the CSV file lacks. Return all rows."""
    rows = read_rows(path)
    done = [[row[column] for column in RUN_COLUMNS] for row in rows]
    tenth_path = folder.absolute() / f'{TENTH}.npz'
    write_tenth(tenth_path, data_dir)
    for dataset_name, options, seeds, epochs, iteration in RUNS:
        for seed in seeds:
            run = [dataset_name, options, str(seed), str(epochs * iteration)]
            if run in done:
                continue
            source = tenth_path if dataset_name == TENTH else dataset_name
            words = ['--dataset', source, '--data_dir', data_dir, '--seed', seed, *options.split()]
            values = train_and_score(folder, f'run{len(rows)}', epochs, iteration, words)
            rows.append({**dict(zip(RUN_COLUMNS, run, strict=True)), **values})
            print(*rows[-1].values(), flush=True)
            write_rows(path, rows, COLUMNS)
    return rows


def print_table(rows):
    """Print a Markdown table of the means over seeds."""
    print(f'| data set | options | steps | seeds | {" | ".join(VALUE_COLUMNS)} |')
    print('|---' * (4 + len(VALUE_COLUMNS)) + '|')
    for dataset_name, options, seeds, epochs, iteration in RUNS:
        run = {'dataset': dataset_name, 'options': options, 'steps': epochs * iteration}
        cells = [mean_and_std(select(rows, column, **run)) for column in VALUE_COLUMNS]
        print(f'| {dataset_name} | `{options}` | {epochs * iteration} | {len(seeds)} | {" | ".join(cells)} |')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data_dir', default='data', help='folder of the data sets')
    parser.add_argument('--folder', default='recipes', help='folder of the runs')
    args = parser.parse_args()
    folder = pathlib.Path(args.folder)
    make_folder(folder)
    try:
        rows = run_all(pathlib.Path(__file__).with_suffix('.csv'), folder, pathlib.Path(args.data_dir).absolute())
    except (UserError, OSError) as error:
        parser.exit(2, f'recipes.py: {error}\n')
    except subprocess.CalledProcessError as error:  # main.py has printed its error
        sys.exit(error.returncode)
    print_table(rows)


if __name__ == '__main__':
    main()

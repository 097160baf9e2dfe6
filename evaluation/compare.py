"""The phase compare: a table and a figure of trained runs. Nothing is trained or sampled."""

import csv
import glob
import json
import os
import pathlib
import textwrap
from typing import NamedTuple

from evaluation.figures import draw_comparison, save_figure
from evaluation.metrics import METRICS, TRAINING_SPLIT
from evaluation.scores import as_text
from options import ALL, as_typed, flag, last_component, options_of
from storage.history import read_history
from storage.run import MODEL, checkpoints_of, image_shape_of
from tf1 import one_line, tf
from utils import atomic_write, list_first, make_folder

RUNS_PER_TABLE = 5  # side by side, so that the table is at most 100 characters wide


class StoredScores(NamedTuple):
    """The content of a scores file."""
    step: int
    weights: str
    values: dict  # {name: number}
    reference: str  # what the images were compared with


def compare(runs, checkpoint_dir, result_dir):
    """Print a table of trained runs. Write it as compare.csv, and their histories as compare.png, to result_dir.

    Args:
        runs: StoredRuns in checkpoint_dir. Their options name the folders of their results.
    """
    names, origins = [run.name for run in runs], [origin_of(run) for run in runs]
    differences = differing_options(runs)
    columns = [{flag(option): as_typed(run.options[option]) for option in differences} for run in runs]
    for run, column in zip(runs, columns, strict=True):
        column['step'] = checkpoints_of(os.path.join(checkpoint_dir, run.name))[0]
        column['minutes'] = training_minutes(os.path.join(run.options['log_dir'], run.name))
    scores = [latest_scores(os.path.join(run.options['result_dir'], run.name),
                            image_shape_of(run.options, run.metadata)) for run in runs]

    print(f'{len(runs)} run{"s" if len(runs) > 1 else ""} in {checkpoint_dir}:')
    for number, (name, origin) in enumerate(zip(names, origins, strict=True), 1):
        print(f'{number:3}  {name}{f" (started from {origin})" if origin else ""}')
    if len(runs) > 1 and not differences:
        print('The runs do not differ in any option that affects training')
    for start in range(0, len(runs), RUNS_PER_TABLE):
        part = slice(start, start + RUNS_PER_TABLE)
        print_table(range(start + 1, len(runs) + 1)[:RUNS_PER_TABLE], columns[part], scores[part])
    unscored = [name for name, own_scores in zip(names, scores, strict=True) if not own_scores]
    if unscored:
        print(f'Without scores: {list_first(unscored)}. Score a run with --phase eval --name RUN')

    make_folder(result_dir)
    write_csv(f'{result_dir}/compare.csv', names, origins, columns, scores)
    labels = run_labels(names, columns, differences)
    histories = {}
    for run, label in zip(runs, labels, strict=True):
        path = os.path.join(run.options['result_dir'], run.name, f'{MODEL}_history.csv')
        rows = read_history(path)
        if rows:
            histories[label] = rows
        else:
            print(f'{path} has no rows: {run.name} is left out of the figure')
    save_figure(draw_comparison(histories), f'{result_dir}/compare.png')
    print(f'Table and figure:\n{result_dir}/compare.csv\n{result_dir}/compare.png')


def origin_of(run):
    """Return the run and the step from which a StoredRun was started with --from, or '' if it was not."""
    source = run.metadata.get('source')
    return f'{os.path.basename(source)}, step {run.metadata.get("source_step")}' if source else ''


def differing_options(runs):
    """Return the names of the options that affect training and that differ between StoredRuns."""
    names = [name for name in options_of('identity', 'training', 'schedule') if ALL[name].group != 'output']
    return [name for name in names if len({run.options[name] for run in runs}) > 1]


def run_labels(names, columns, differences):
    """Return a label per run for the figure: the options that differ. If labels are equal, the name precedes them.

    Long labels are shortened; the table and compare.csv hold all options.
    """
    options = [', '.join(f'{flag(option)} {column[flag(option)]}' for option in differences) for column in columns]
    labels = [shorten(text) for text in options]
    return [label if labels.count(label) == 1 and label else shorten(f'{name}: {text}' if text else name)
            for name, text, label in zip(names, options, labels, strict=True)]


def shorten(text):
    """Return a text of at most 120 characters, with … for words that are left out."""
    return textwrap.shorten(text, 120, placeholder='…')


def training_minutes(folder):
    """Return how long a run was trained, in minutes, from its TensorBoard summaries. Return None without them."""
    seconds, has_events = 0, False
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), 'events.out.tfevents.*'))):
        times = []
        try:
            for event in tf.train.summary_iterator(path):
                times.append(event.wall_time)
        except tf.errors.DataLossError:  # the end of a file is missing after a kill
            pass
        if times:
            seconds += times[-1] - times[0]
            has_events = True
    return round(seconds / 60, 1) if has_events else None


##################################################################################
# Scores
##################################################################################

def latest_scores(folder, shape):
    """Return the latest scores in the results folder of a run, as {how they were computed: StoredScores}.

    Only scores that were computed in the same way are comparable. Scores of a single class are left out. A damaged file
    is reported and left out.

    Args:
        shape: (H, W, C) of the images.
    """
    latest = {}
    paths = [path for path in pathlib.Path(folder).glob(f'{MODEL}_scores*.json') if '_label' not in path.name]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        try:
            content = json.loads(path.read_text())
            values = {name: value for name, value in content['generated'].items() if isinstance(value, float | int)}
            reference = str(content.get('reference', TRAINING_SPLIT))
            latest[method_of(content, shape)] = StoredScores(int(content['step']), str(content['weights']), values,
                                                             reference)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            print(f'{path} is damaged ({type(error).__name__}: {one_line(error)}) and left out: run --phase eval again')
    return latest


def method_of(content, shape):
    """Return a phrase that says how scores were computed, from the content of a SAGAN_scores.json."""
    phrases = [f'{last_component(content["dataset"])} {"x".join(map(str, shape))}']
    if 'features' in content:
        phrases.append(f'features of {content["features"]} compared with {content["reference"]}')
    else:
        phrases.append(f'classifier with {content["classifier_accuracy"]:.2%} accuracy')
    phrases.append(f'{content["eval_num"]} samples')
    if 'images' in content:
        phrases.append(f'{max(real for _, real in content["images"].values())} test images')
    else:
        phrases.append('scored by an earlier version')
    return ', '.join(phrases)


##################################################################################
# The table
##################################################################################

def print_table(numbers, columns, scores):
    """Print runs side by side.

    Args:
        numbers: the numbers of the runs.
        columns: {property: value} of each run.
        scores: {method: StoredScores} of each run.
    """
    print(table_line('', 'better', numbers))
    for name in columns[0]:
        print(table_line(name, '', [column[name] for column in columns]))
    for method in methods_of(scores):
        print(f'Scores: {method}')
        stored = [own_scores.get(method) for own_scores in scores]
        reference, = {one.reference for one in stored if one is not None}
        for name in 'step', 'weights':
            print(table_line(f'  scored {name}', '', [getattr(one, name, None) for one in stored]))
        for metric in METRICS:
            for name, label, better in [(metric.name, metric.short_label(reference), metric.better),
                                        (f'{metric.name}_std', '  ± standard deviation', '')]:
                values = [None if one is None else one.values.get(name) for one in stored]
                if any(value is not None for value in values):
                    print(table_line(f'  {label}', better, [as_text(value, metric.decimals) for value in values]))


def methods_of(scores):
    """Return the methods of all runs, without repetition. scores is {method: StoredScores} of each run."""
    return list(dict.fromkeys(method for own_scores in scores for method in own_scores))


def table_line(label, better, values):
    """Return a line of the table. Long values are shortened; compare.csv holds them in full."""
    texts = ['-' if value is None else str(value) for value in values]
    texts = [text if len(text) <= 9 else f'{text[:8]}…' for text in texts]
    return f'{label:<42.41}{better:<7}{"".join(f"{text:>10}" for text in texts)}'.rstrip()


def write_csv(path, names, origins, columns, scores):
    """Write a CSV file with one row per run, and a column for each score of each method."""
    rows = []
    for name, origin, column, own_scores in zip(names, origins, columns, scores, strict=True):
        row = {'run': name, **column}
        if any(origins):
            row['from'] = origin
        for method, stored in own_scores.items():
            values = {'scored_step': stored.step, 'weights': stored.weights, **stored.values}
            row.update({f'{key} ({method})': value for key, value in values.items()})
        rows.append(row)
    headers = dict.fromkeys(['run', *columns[0], *(['from'] if any(origins) else [])])  # a dict keeps the order
    for method in methods_of(scores):
        headers.update(dict.fromkeys(header for row in rows for header in row if header.endswith(f' ({method})')))
    with atomic_write(path) as part, open(part, 'w', newline='') as file:
        writer = csv.DictWriter(file, headers)
        writer.writeheader()
        writer.writerows(rows)

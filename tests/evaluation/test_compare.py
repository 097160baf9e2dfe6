import csv
import json
import os

import pytest

from evaluation import compare
from storage.run import find_runs
from tf1 import tf

SCORES = {'step': 20, 'weights': 'ema', 'dataset': 'mnist', 'eval_num': 100, 'classifier_accuracy': 0.99,
          'images': {'kid': [100, 50]}}


def write_run(folder, name, kid=None, **options):
    """Write a run of 20 steps under folder: config.json, history, scores, and summaries of 90 seconds."""
    (folder / 'checkpoint' / name / 'SAGAN').mkdir(parents=True)
    (folder / 'checkpoint' / name / 'SAGAN' / 'SAGAN.model-20.index').touch()
    locations = {'result_dir': str(folder / 'results'), 'log_dir': str(folder / 'logs')}
    (folder / 'checkpoint' / name / 'config.json').write_text(json.dumps({**locations, **options}))
    (folder / 'results' / name).mkdir(parents=True)
    (folder / 'results' / name / 'SAGAN_history.csv').write_text('step,g_loss\n10,2\n20,1\n')
    if kid is not None:
        write_scores(folder, name, generated={'kid': kid, 'kid_std': 0.25, 'class_histogram': [1, 0]})
    (folder / 'logs' / name).mkdir(parents=True)
    write_events(folder / 'logs' / name / 'events.out.tfevents.1.vm', 1000, 1030, 1090)


def write_scores(folder, name, file_name='SAGAN_scores.json', age=0, **changes):
    path = folder / 'results' / name / file_name
    path.write_text(json.dumps({**SCORES, **changes}))
    os.utime(path, (10**9 - age, 10**9 - age))


def write_events(path, *times):
    with tf.python_io.TFRecordWriter(str(path)) as writer:
        for time in times:
            writer.write(tf.Event(wall_time=time).SerializeToString())


def run_compare(folder, capsys):
    """Compare all runs under folder. Return the printed text and the rows of compare.csv."""
    runs = sorted(find_runs(str(folder / 'checkpoint'), {}), key=lambda run: run.name)
    compare.compare(runs, str(folder / 'checkpoint'), str(folder / 'results'))
    with open(folder / 'results' / 'compare.csv') as file:
        return capsys.readouterr().out, list(csv.DictReader(file))


@pytest.fixture
def two_runs(tmp_path):
    write_run(tmp_path, 'a', kid=0.5)
    write_run(tmp_path, 'b', kid=0.125, gan_type='hinge', seed=3, print_freq=7)
    return tmp_path


METHOD = 'mnist 28x28x1, classifier with 99.00% accuracy, 100 samples, 50 test images'


def test_compare_writes_one_row_per_run(two_runs, capsys):
    _, rows = run_compare(two_runs, capsys)
    first, second = rows
    assert second == {'run': 'b', '--gan_type': 'hinge', '--seed': '3', 'step': '20', 'minutes': '1.5',
                      f'scored_step ({METHOD})': '20', f'weights ({METHOD})': 'ema', f'kid ({METHOD})': '0.125',
                      f'kid_std ({METHOD})': '0.25'}
    assert (first['--gan_type'], first['--seed']) == ('gan', '0')


def test_compare_prints_the_runs_side_by_side(two_runs, capsys):
    out, _ = run_compare(two_runs, capsys)
    assert out.splitlines()[:-3] == [
        f'2 runs in {two_runs}/checkpoint:',
        '  1  a',
        '  2  b',
        '                                          better          1         2',
        '--seed                                                    0         3',
        '--gan_type                                              gan     hinge',
        'step                                                     20        20',
        'minutes                                                 1.5       1.5',
        f'Scores: {METHOD}',
        '  scored step                                            20        20',
        '  scored weights                                        ema       ema',
        '  KID to the training split               lower      0.5000    0.1250',
        '    ± standard deviation                             0.2500    0.2500']


def test_compare_writes_a_figure(two_runs, capsys):
    run_compare(two_runs, capsys)
    assert (two_runs / 'results' / 'compare.png').stat().st_size > 1000


def test_compare_changes_nothing_else(two_runs, capsys):
    before = {path: path.stat().st_mtime_ns for path in two_runs.rglob('*') if path.is_file()}
    run_compare(two_runs, capsys)
    after = {path: path.stat().st_mtime_ns for path in two_runs.rglob('*') if path.is_file()}
    assert set(after) - set(before) == {two_runs / 'results' / 'compare.csv', two_runs / 'results' / 'compare.png'}
    assert before.items() <= after.items()


def test_compare_lists_many_runs_in_several_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, 'RUNS_PER_TABLE', 2)
    for seed in range(3):
        write_run(tmp_path, f'run{seed}', seed=seed)
    out, _ = run_compare(tmp_path, capsys)
    headers = [line.split() for line in out.splitlines() if 'better' in line]
    assert headers == [['better', '1', '2'], ['better', '3']]


@pytest.fixture
def branched(tmp_path):
    write_run(tmp_path, 'a')
    write_run(tmp_path, 'b', source='elsewhere/a', source_step=10)
    return tmp_path


def test_compare_prints_the_run_from_which_a_run_was_started(branched, capsys):
    out, _ = run_compare(branched, capsys)
    assert '  1  a\n  2  b (started from a, step 10)\n' in out


def test_compare_writes_the_run_from_which_a_run_was_started(branched, capsys):
    _, rows = run_compare(branched, capsys)
    assert [row['from'] for row in rows] == ['', 'a, step 10']


def test_compare_reports_equal_options(tmp_path, capsys):
    write_run(tmp_path, 'a')
    write_run(tmp_path, 'b')
    out, _ = run_compare(tmp_path, capsys)
    assert 'The runs do not differ in any option that affects training\n' in out


def test_compare_of_one_run_does_not_compare_options(tmp_path, capsys):
    write_run(tmp_path, 'a')
    out, rows = run_compare(tmp_path, capsys)
    assert 'do not differ' not in out
    assert rows == [{'run': 'a', 'step': '20', 'minutes': '1.5'}]


def test_compare_names_runs_without_scores_or_history(tmp_path, capsys):
    write_run(tmp_path, 'a')
    (tmp_path / 'results' / 'a' / 'SAGAN_history.csv').unlink()
    out, _ = run_compare(tmp_path, capsys)
    assert 'Without scores: a. Score a run with --phase eval --name RUN\n' in out
    assert 'a/SAGAN_history.csv has no rows: a is left out of the figure\n' in out


def test_run_labels_name_what_differs():
    columns = [{'--gan_type': 'gan', '--seed': '0'}, {'--gan_type': 'gan', '--seed': '1'}]
    assert compare.run_labels(['a', 'b'], columns, ['gan_type', 'seed']) == [
        '--gan_type gan, --seed 0', '--gan_type gan, --seed 1']


def test_run_labels_have_names_if_the_options_are_equal():
    columns = [{'--seed': '0'}, {'--seed': '0'}, {'--seed': '1'}]
    assert compare.run_labels(['a', 'b', 'c'], columns, ['seed']) == ['a: --seed 0', 'b: --seed 0', '--seed 1']


def test_run_labels_are_names_without_options_that_differ():
    assert compare.run_labels(['a', 'b'], [{}, {}], []) == ['a', 'b']


def test_run_labels_have_names_if_what_differs_is_cut_off():
    columns = [{'--dataset': 'x' * 90, '--network': 'y' * 20, '--seed': seed} for seed in '01']
    assert compare.run_labels(['a', 'b'], columns, ['dataset', 'network', 'seed']) == [
        f'{name}: --dataset {"x" * 90}, --network…' for name in 'ab']


def test_differing_options_leave_out_those_of_the_output(two_runs):
    assert compare.differing_options(find_runs(str(two_runs / 'checkpoint'), {})) == ['seed', 'gan_type']


##################################################################################
# Scores
##################################################################################

@pytest.mark.parametrize('changes, shape, method', [
    ({}, (28, 28, 1), METHOD),
    ({'dataset': 'data/own.npz'}, (64, 32, 3),
     'own 64x32x3, classifier with 99.00% accuracy, 100 samples, 50 test images'),
    ({'features': 'inception.pb', 'reference': 'fid.npz'}, (28, 28, 1),
     'mnist 28x28x1, features of inception.pb compared with fid.npz, 100 samples, 50 test images')])
def test_method_of_scores_tells_incomparable_scores_apart(changes, shape, method):
    assert compare.method_of({**SCORES, **changes}, shape) == method


def test_method_of_scores_of_an_earlier_version():
    content = {name: value for name, value in SCORES.items() if name != 'images'}
    assert compare.method_of(content, (28, 28, 1)).endswith('100 samples, scored by an earlier version')


def test_latest_scores_are_the_newest_of_each_method(two_runs):
    write_scores(two_runs, 'a', 'SAGAN_scores_step10.json', age=50, step=10, generated={})
    write_scores(two_runs, 'a', 'SAGAN_scores_best.json', age=-50, step=15, generated={'kid': 0.25})
    write_scores(two_runs, 'a', 'SAGAN_scores_seed1.json', eval_num=7, generated={'kid': 2})
    scores = compare.latest_scores(str(two_runs / 'results' / 'a'), (28, 28, 1))
    assert scores == {
        METHOD: (15, 'ema', {'kid': 0.25}, 'the training split'),
        METHOD.replace('100', '7', 1): (20, 'ema', {'kid': 2}, 'the training split')}


def test_latest_scores_leave_out_those_of_one_class(two_runs):
    write_scores(two_runs, 'a', 'SAGAN_scores_label7.json', age=-50, generated={'kid': 9})
    scores = compare.latest_scores(str(two_runs / 'results' / 'a'), (28, 28, 1))
    assert scores[METHOD].values['kid'] == 0.5


@pytest.mark.parametrize('content', ['', '[]', '{"step": 3}', '{"generated": 5}'])
def test_latest_scores_report_damaged_files(two_runs, content, capsys):
    (two_runs / 'results' / 'a' / 'SAGAN_scores.json').write_text(content)
    assert compare.latest_scores(str(two_runs / 'results' / 'a'), (28, 28, 1)) == {}
    assert 'SAGAN_scores.json is damaged (' in capsys.readouterr().out


##################################################################################
# Minutes
##################################################################################

def test_training_minutes_add_up_the_parts_of_a_run(tmp_path):
    write_events(tmp_path / 'events.out.tfevents.1.vm', 60, 120)
    write_events(tmp_path / 'events.out.tfevents.9.vm', 900, 920, 930)
    assert compare.training_minutes(str(tmp_path)) == 1.5


def test_training_minutes_read_a_truncated_file_up_to_its_end(tmp_path):
    path = tmp_path / 'events.out.tfevents.1.vm'
    write_events(path, 60, 120, 500)
    path.write_bytes(path.read_bytes()[:-4])
    assert compare.training_minutes(str(tmp_path)) == 1


def test_training_minutes_are_unknown_without_summaries(tmp_path):
    assert compare.training_minutes(str(tmp_path)) is None

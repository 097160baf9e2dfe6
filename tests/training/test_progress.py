"""The lines that training prints outside a terminal."""

import re
import types

import pytest

from options import complete_options, make_config
from training.progress import ProgressBar


@pytest.fixture
def model():
    """A stand-in for a model that trains for 2 epochs of 20 steps."""
    options = complete_options({'epoch': 2, 'iteration': 20, 'print_freq': 10, 'eval_freq': 1})
    return types.SimpleNamespace(config=make_config(options))


def lines_of(model, steps, capsys, **values):
    """Return the lines that are printed for these steps."""
    progress = ProgressBar()
    progress.start(model, steps[0] - 1)
    for step in steps:
        progress.on_step(model, step, {'d_loss': 1.25, 'g_loss': 2., **values})
    progress.close()
    return capsys.readouterr().out.splitlines()


def test_progress_prints_a_line_of_losses(model, capsys):
    line, = lines_of(model, [30], capsys)
    assert re.fullmatch(r'Epoch: \[ 1\] \[  10/  20\] time: \d+\.\d{4}, d_loss: 1.2500, g_loss: 2.0000, .*', line)


def test_progress_prints_steps_per_second_and_the_time_left(model, capsys, monkeypatch):
    times = iter([100., 102.])
    monkeypatch.setattr('training.progress.time.time', lambda: next(times))
    line, = lines_of(model, [10], capsys)  # a step takes 2 s, and 30 of 40 steps are left
    assert line.endswith(', 0.50 steps/s, 01:00 left')


def test_progress_prints_the_first_step_and_every_print_freq_steps(model, capsys):
    steps = [line.split('time')[0] for line in lines_of(model, range(1, 23), capsys)]
    assert steps == ['Epoch: [ 0] [   1/  20] ', 'Epoch: [ 0] [  10/  20] ', 'Epoch: [ 0] [  20/  20] ']


def test_progress_prints_the_scores(model, capsys):
    lines = lines_of(model, [20], capsys, frechet_distance=12.3456, classifier_score=7.)
    assert lines[-1] == 'Step 20: Fréchet distance 12.346, classifier score 7.000'


def test_progress_omits_missing_scores(model, capsys):
    assert lines_of(model, [20], capsys, frechet_distance=12.3456)[-1] == 'Step 20: Fréchet distance 12.346'


def test_progress_prints_no_activity(model, capsys):
    progress = ProgressBar()
    progress.start(model, 0)
    progress.show('drawing')
    progress.close()
    assert capsys.readouterr().out == ''


def test_progress_that_was_not_started_can_be_closed():
    ProgressBar().close()

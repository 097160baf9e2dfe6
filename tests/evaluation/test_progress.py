import re

import pytest

from evaluation.progress import Progress, rough_duration, seconds_per_item


@pytest.mark.parametrize('counts, percentages', [
    ([1] * 8, [25, 50, 75]), ([3, 3, 3], [25, 50]), ([100], []), ([1, 1], [50])])
def test_progress_prints_a_line_per_quarter(counts, percentages, capsys):
    """Captured output is not a terminal."""
    with Progress('Working', sum(counts)) as progress:
        for count in counts:
            progress.update(count)
    lines = capsys.readouterr().out.splitlines()
    assert [int(re.fullmatch('Working: ([0-9]+)% after [0-9]+ s', line)[1]) for line in lines] == percentages


def test_progress_draws_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr('sys.stderr.isatty', lambda: True)
    with Progress('Working', 4) as progress:
        progress.update(4)
    out, err = capsys.readouterr()
    assert out == '' and 'Working:   0%|' in err


def test_seconds_per_item_leaves_out_the_first_call(monkeypatch):
    clock, calls = iter([10, 12]), []
    monkeypatch.setattr('time.perf_counter', lambda: next(clock))
    assert seconds_per_item(lambda *inputs: calls.append(inputs), [1, 2, 3, 4], None) == 2 / 4
    assert calls == 2 * [([1, 2, 3, 4], None)]


@pytest.mark.parametrize('seconds, phrase', [
    (3, 'less than a minute'), (55, 'roughly 1 minute'), (61, 'roughly 2 minutes'), (7200, 'roughly 2 hours')])
def test_rough_duration_has_no_decimals(seconds, phrase):
    assert rough_duration(seconds) == phrase

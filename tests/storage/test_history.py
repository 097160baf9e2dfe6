"""The history of a run, a CSV file."""

import numpy as np
import pytest

from storage.history import is_number, open_history, read_history


def steps(rows):
    return [row['step'] for row in rows]


@pytest.fixture
def path(tmp_path):
    """The path of a history that does not exist yet."""
    return tmp_path / 'history.csv'


def test_open_history_writes_the_columns(path):
    open_history(path, 0, ['step', 'd_loss']).close()
    assert path.read_text() == 'step,d_loss\n'


def test_open_history_appends_rows(path):
    for step in 50, 100:
        with open_history(path, step, ['step', 'd_loss']) as file:
            file.write(f'{step},1.5\n')
    assert path.read_text() == 'step,d_loss\n50,1.5\n100,1.5\n'


def test_open_history_removes_rows_after_the_step(path):
    path.write_text('step,d_loss\n50,1.5\n100,1.25\n150,1.0\n')
    open_history(path, 100, ['step', 'd_loss']).close()
    assert path.read_text() == 'step,d_loss\n50,1.5\n100,1.25\n'


def test_open_history_removes_a_row_that_a_kill_cut_off(path):
    path.write_text('step,d_loss\n50,1.5\n20')
    open_history(path, 100, ['step', 'd_loss']).close()
    assert path.read_text() == 'step,d_loss\n50,1.5\n'


def test_open_history_keeps_the_values_of_earlier_columns(path):
    path.write_text('step,d_loss,g_loss\n50,1.5,\n80,nan,2\n')
    open_history(path, 80, ['step', 'd_loss', 'g_gamma', 'g_loss']).close()
    assert path.read_text() == 'step,d_loss,g_gamma,g_loss\n50,1.5,,\n80,nan,,2\n'


def test_open_history_leaves_no_other_file(path, tmp_path):
    open_history(path, 0, ['step']).close()
    assert list(tmp_path.iterdir()) == [path]


def test_read_history_returns_strings_by_column(path):
    path.write_text('step,d_loss,g_loss\n50,1.5,\n')
    assert read_history(path) == [{'step': '50', 'd_loss': '1.5', 'g_loss': ''}]


def test_read_history_without_a_file_is_empty(path):
    assert read_history(path) == []


@pytest.mark.parametrize('row', [
    b'\xff\x00,1,2', b'60,x,1', b'70,1', b'"90,1,2', b'', b'100,1,2,3', b'-1,2,3', b'1.5,2,3'], ids=range(8))
def test_read_history_skips_a_damaged_row(path, row):
    path.write_bytes(b'step,d_loss,g_loss\n50,1.5,\n' + row + b'\n80,nan,2\n')
    assert steps(read_history(path)) == ['50', '80']


@pytest.mark.parametrize('content', [b'', b'\n\n', b'\x89PNG', b'd_loss\n1\n'], ids=range(4))
def test_read_history_of_another_file_is_empty(path, content):
    path.write_bytes(content)
    assert read_history(path) == []


@pytest.mark.parametrize('value', [0, -1.5, 1e-30, np.float32(0.1), np.nan, -np.inf])
def test_is_number_accepts_a_number_as_a_string(value):
    assert is_number(str(value))


def test_is_number_accepts_a_missing_value():
    assert is_number('')


@pytest.mark.parametrize('text', ['x', '1 2', '"1'])
def test_is_number_refuses_other_strings(text):
    assert not is_number(text)

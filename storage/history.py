"""The history of a run: a CSV file with one row every --print_freq steps, and one for each step that is scored."""

import contextlib
import os
import pathlib
import re

from utils import atomic_write


def open_history(path, step, columns):
    """Open the history at path to append rows. Remove the rows that an interrupted run wrote after step.

    Args:
        columns: the names of the columns, step first. Earlier rows keep their values in these columns.
    """
    rows = [row for row in read_history(path) if int(row['step']) <= step]
    with atomic_write(path) as part, open(part, 'w') as file:
        print(*columns, sep=',', file=file)
        for row in rows:
            print(*(row.get(name, '') for name in columns), sep=',', file=file)
    return open(path, 'a')


def read_history(path):
    """Return the undamaged rows of a history, a list of {column: text}. The list is empty if there is no file."""
    if not os.path.exists(path):
        return []
    lines = pathlib.Path(path).read_text(errors='replace').splitlines()
    if not lines:
        return []
    columns = lines[0].split(',')
    rows = [line.split(',') for line in lines[1:]]
    rows = [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)]
    return [row for row in rows
            if re.fullmatch('[0-9]+', row.get('step', '')) and all(is_number(text) for text in row.values())]


def is_number(text):
    """Return whether text is a number or '', which stands for a missing value."""
    if text == '':
        return True
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False

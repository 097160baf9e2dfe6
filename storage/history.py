"""The history of a run: a CSV file."""

import contextlib
import os
import pathlib
import re

from utils import atomic_write


def open_history(path, step, columns):
    """Open the CSV file of a run to append rows to it, without the rows that an interrupted run wrote after step.

    columns: step first; the rows before keep what they have of them.
    """
    rows = [row for row in read_history(path) if int(row['step']) <= step]
    with atomic_write(path) as part, open(part, 'w') as file:
        for row in [dict(zip(columns, columns, strict=True)), *rows]:
            print(*(row.get(name, '') for name in columns), sep=',', file=file)
    return open(path, 'a')


def read_history(path):
    """The whole rows of the CSV file that open_history keeps: a list of {column: text}, none where there is no file."""
    if not os.path.exists(path):
        return []
    columns, *rows = pathlib.Path(path).read_text(errors='replace').splitlines() or ['']
    rows = [dict(zip(columns.split(','), row.split(','), strict=False)) for row in rows
            if row.count(',') == columns.count(',')]
    return [row for row in rows if re.fullmatch('[0-9]+', row.get('step', '')) and all(map(is_number, row.values()))]


def is_number(text):
    """Whether the text of a history is a number, or '' for none."""
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return text == ''

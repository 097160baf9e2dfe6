"""The page of the attention maps."""

import base64
import hashlib
import json
import pathlib
import re
import zlib

import numpy as np

from explorer.snapshots import PAGE_BYTES
from utils import atomic_write


def write_page(path, title, notes, left_out):
    """Write notes, in their order, as a page to look at; those of other layers or images than the last are left out.

    left_out: how many were left out before; the page says how many there are.
    """
    def kind(note):
        facts, arrays = note
        layers = [{**layer, 'gamma': None} for layer in facts['layers']]
        return json.dumps(layers), [(name, array.shape) for name, array in arrays.items()]

    alike = [note for note in notes if kind(note) == kind(notes[-1])]
    notes, left_out = alike, left_out + len(notes) - len(alike)
    count = len(notes[-1][1]['most_0'])
    text = page(title, notes, left_out, count)
    while len(text) > PAGE_BYTES and count > 1:
        count //= 2
        text = page(title, notes, left_out, count)
    with atomic_write(path) as part:
        pathlib.Path(part).write_text(text, encoding='utf-8')


def page(title, notes, left_out, count):
    """The text of the page of these notes, with the first count of their images."""
    folder = pathlib.Path(__file__).parent
    html, script = ((folder / name).read_text(encoding='utf-8') for name in ('page.html', 'page.js'))
    last, arrays = notes[-1]
    index, data = {}, b''
    for name in arrays:
        same = all(np.array_equal(note[name], arrays[name]) for _, note in notes)  # as the real images are
        stacked = np.stack([note[name][:count] for _, note in (notes[-1:] if same else notes)])  # [E or 1, count, ...]
        index[name] = {'type': stacked.dtype.name, 'start': len(data), 'shape': stacked.shape}
        data += stacked.astype(stacked.dtype.newbyteorder('<')).tobytes()
    layers = [{**layer, 'gamma': [facts['layers'][number]['gamma'] for facts, _ in notes]}
              for number, layer in enumerate(last['layers'])]
    epochs = [{name: facts[name] for name in ('epoch', 'step', 'real')} for facts, _ in notes]
    facts = {'title': title, 'epochs': epochs, 'left_out': left_out, 'images': count,
             'images_noted': len(arrays['most_0']), 'layers': layers, 'arrays': index}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {'SCRIPT-DIGEST': digest, 'FACTS': json.dumps(facts).replace('<', r'\u003c'),
             'DATA': base64.b64encode(zlib.compress(data, 9)).decode(), 'SCRIPT': script}
    return re.sub('@@([A-Z-]+)@@', lambda match: parts[match[1]], html)

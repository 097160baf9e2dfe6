"""The attention page: a single HTML file that shows where each position of an image looks."""

import base64
import hashlib
import json
import pathlib
import string
import zlib

import numpy as np

from explorer.snapshots import PAGE_BYTES
from utils import atomic_write


def write_page(path, title, snapshots, left_out):
    """Write the attention page of the snapshots.

    A snapshot is left out if its arrays differ in name or shape from those of the last snapshot. If the page exceeds
    PAGE_BYTES, it shows fewer images.

    Args:
        left_out: number of snapshots that the caller left out; the page reports the total.
    """
    last_shapes = array_shapes(snapshots[-1])
    shown = [snapshot for snapshot in snapshots if array_shapes(snapshot) == last_shapes]
    left_out += len(snapshots) - len(shown)
    num_images = len(shown[-1][1]['most_0'])
    html = build_page(title, shown, left_out, num_images)
    while len(html) > PAGE_BYTES and num_images > 1:
        num_images //= 2
        html = build_page(title, shown, left_out, num_images)
    with atomic_write(path) as part:
        pathlib.Path(part).write_text(html, encoding='utf-8')


def array_shapes(snapshot):
    """Return {name: shape} of the arrays of a snapshot."""
    _, arrays = snapshot
    return {name: array.shape for name, array in arrays.items()}


def build_page(title, snapshots, left_out, num_images):
    """Return the HTML of the page with the first num_images images of each snapshot."""
    array_index, data = pack_arrays([arrays for _, arrays in snapshots], num_images)
    all_metadata = [metadata for metadata, _ in snapshots]
    last_metadata, last_arrays = snapshots[-1]
    layers = [{**layer, 'gamma': [metadata['layers'][i]['gamma'] for metadata in all_metadata]}
              for i, layer in enumerate(last_metadata['layers'])]
    page_metadata = {
        'title': title, 'left_out': left_out, 'num_images': num_images, 'recorded_images': len(last_arrays['most_0']),
        'snapshots': [{name: metadata[name] for name in ('epoch', 'step', 'real')} for metadata in all_metadata],
        'layers': layers, 'arrays': array_index}
    return fill_template('page.html', ['maps.js', 'page.js'], metadata=script_json(page_metadata),
                         data=compressed(data))


def fill_template(name, scripts, **values):
    """Fill in an HTML template of this folder and return the page.

    Args:
        scripts: names of the files that form the script of the page.
        values: the text of each placeholder, except those of the script and the style.
    """
    script = '\n'.join(map(read_file, scripts))
    return string.Template(read_file(name)).substitute(
        values, style=read_file('style.css'), script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())


def read_file(name):
    """Return the text of a file in this folder."""
    return (pathlib.Path(__file__).parent / name).read_text(encoding='utf-8')


def script_json(value):
    """Return a value as JSON that cannot end the script element around it."""
    return json.dumps(value, separators=(',', ':')).replace('<', r'\u003c')


def compressed(data):
    """Return compressed bytes in base64, as decompress() of maps.js expects them."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def pack_arrays(all_arrays, num_images):
    """Concatenate the arrays of all snapshots, little-endian.

    Args:
        all_arrays: list of {name: array [K, ...]}, one per snapshot.

    Returns:
        ({name: {dtype, start, shape}}, bytes). shape is [snapshots, num_images, ...], or [1, num_images, ...] if the
        array is the same in all snapshots.
    """
    array_index, data = {}, b''
    for name, last in all_arrays[-1].items():
        if all(np.array_equal(arrays[name], last) for arrays in all_arrays):  # for example, real images
            stacked = last[None, :num_images]  # [1, num_images, ...]
        else:
            stacked = np.stack([arrays[name][:num_images] for arrays in all_arrays])  # [snapshots, num_images, ...]
        array_index[name] = {'dtype': stacked.dtype.name, 'start': len(data), 'shape': stacked.shape}
        data += stacked.astype(stacked.dtype.newbyteorder('<')).tobytes()
    return array_index, data

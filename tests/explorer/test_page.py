"""The HTML of the attention page. test_page_in_browser.py checks the rendered page."""

import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pytest
from browser import make_layers

from explorer import page
from explorer.page import write_page
from explorer.snapshots import make_snapshot


def element(html, attributes):
    """Return the text of the script element with these attributes."""
    return re.search(f'<script{attributes}>(.*?)</script>', html, re.DOTALL)[1]


def page_metadata(html):
    return json.loads(element(html, ' type="application/json" id="metadata"'))


def page_array(html, name):
    data = zlib.decompress(base64.b64decode(element(html, ' type="text/plain" id="data"')))
    entry = page_metadata(html)['arrays'][name]
    return np.frombuffer(data, entry['dtype'], np.prod(entry['shape']), entry['start']).reshape(entry['shape'])


@pytest.fixture
def html(tmp_path):
    """Return a function that writes a page of snapshots and returns its text."""
    def write(*snapshots, title='run', left_out=0):
        write_page(tmp_path / 'page.html', title, list(snapshots), left_out)
        return (tmp_path / 'page.html').read_text(encoding='utf-8')
    return write


def snapshots_of(*epochs):
    return [make_snapshot(make_layers(epoch), epoch, 10 * epoch, True) for epoch in epochs]


def test_page_lists_snapshots_in_the_given_order(html):
    assert page_metadata(html(*snapshots_of(1, 2, 5)))['snapshots'] == [
        {'epoch': epoch, 'step': 10 * epoch, 'real': True} for epoch in (1, 2, 5)]


def test_page_has_the_gamma_of_each_layer_and_snapshot(html):
    layers = page_metadata(html(*snapshots_of(1, 2)))['layers']
    assert [layer['gamma'] for layer in layers] == [[0.1, 0.2], [-0.1, -0.2], [0.5, 0.5]]


@pytest.mark.parametrize('name', ['generator', 'most_1', 'shares_2'])
def test_page_stacks_the_arrays_of_all_snapshots(html, name):
    snapshots = snapshots_of(1, 2)
    assert (page_array(html(*snapshots), name) == np.stack([arrays[name] for _, arrays in snapshots])).all()


def test_page_stores_only_one_copy_of_an_array_that_never_changes(html):
    first, second = snapshots_of(1, 2)
    second[1]['discriminator'] = first[1]['discriminator']
    array = page_array(html(first, second), 'discriminator')
    assert array.shape[0] == 1
    assert (array[0] == first[1]['discriminator']).all()


def test_page_escapes_its_title(html):
    text = html(*snapshots_of(1), title='</script><b> ${data}')
    assert page_metadata(text)['title'] == '</script><b> ${data}'


def test_page_allows_only_its_own_script(html):
    text = html(*snapshots_of(1))
    digest = base64.b64encode(hashlib.sha256(element(text, '').encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'" in text


def test_page_shows_fewer_images_above_the_limit(html, monkeypatch):
    snapshots = snapshots_of(1, 2, 3)
    size = len(html(*snapshots))
    monkeypatch.setattr(page, 'PAGE_BYTES', size - 500)
    text = html(*snapshots)
    metadata = page_metadata(text)
    assert len(text) <= size - 500
    assert (metadata['num_images'], metadata['recorded_images']) == (1, 3)
    assert page_array(text, 'shares_0').shape[1] == 1


def test_page_shows_one_image_even_if_it_exceeds_the_limit(html, monkeypatch):
    monkeypatch.setattr(page, 'PAGE_BYTES', 1)
    assert page_metadata(html(*snapshots_of(1)))['num_images'] == 1


def test_page_leaves_out_snapshots_whose_shapes_differ_from_the_last(html):
    other = make_snapshot(make_layers(1, grid=(5, 7)), 3, 99, True)
    metadata = page_metadata(html(*snapshots_of(1, 2), other, left_out=4))
    assert [snapshot['step'] for snapshot in metadata['snapshots']] == [99]
    assert metadata['left_out'] == 6

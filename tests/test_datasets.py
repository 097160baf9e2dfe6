import gzip
import hashlib
import http.server
import os
import shutil
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest

import datasets
from datasets import FILES
from options import UserError


@pytest.fixture
def data(small_data, tmp_path):
    """A copy of the small data set, to be damaged -> its folder mnist."""
    return shutil.copytree(small_data / 'mnist', tmp_path / 'data' / 'mnist')


def idx(*shape, fill=3):
    return np.array([0x800 + len(shape), *shape], '>u4').tobytes() + bytes([fill]) * int(np.prod(shape))


def test_load_mnist(small_data):
    (train_images, train_labels), (test_images, test_labels) = datasets.load_mnist('mnist', small_data)
    assert train_images.shape == (300, 28, 28, 1) and test_images.shape == (100, 28, 28, 1)
    assert train_images.dtype == np.uint8 and train_images.max() == 255
    assert np.bincount(train_labels).tolist() == [30] * 10 and np.bincount(test_labels).tolist() == [10] * 10


def test_load_mnist_reads_plain_files_too(data):
    expected = datasets.load_mnist('mnist', data.parent)
    for name in FILES:
        (data / name).write_bytes(gzip.decompress((data / f'{name}.gz').read_bytes()))
        (data / f'{name}.gz').unlink()
    for a, b in zip(sum(expected, ()), sum(datasets.load_mnist('mnist', data.parent), ()), strict=True):
        assert (a == b).all()


def flip_a_bit(content):
    return content[:2000] + bytes([content[2000] ^ 4]) + content[2001:]


@pytest.mark.parametrize('damage, complaint', [
    (lambda content: content[:-100], 'not a whole gzip file'),
    (flip_a_bit, 'not a whole gzip file'),
    (lambda content: b'hello', 'not a whole gzip file'),
    (lambda content: b'', 'does not begin like an IDX file of 28 x 28 images'),
    (lambda content: gzip.compress(idx(300)), 'does not begin like an IDX file of 28 x 28 images'),
    (lambda content: gzip.compress(idx(300, 20, 28)), 'images of 20 x 28'),
    (lambda content: gzip.compress(idx(300, 28, 28)[:-1]), 'holds 235199 bytes where its header tells of 300'),
    (lambda content: gzip.compress(idx(300, 28, 28) + b'0'), 'holds 235201 bytes where its header tells of 300'),
    (lambda content: gzip.compress(idx(0, 28, 28)), 'holds 0 bytes'),
    (lambda content: gzip.compress(idx(299, 28, 28)), '299 images in train-images and 300 labels in train-labels')],
    ids=range(10))
def test_damaged_images(data, damage, complaint):
    path = data / f'{FILES[0]}.gz'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=complaint) as error:
        datasets.load_mnist('mnist', data.parent)
    assert str(data) in str(error.value)


@pytest.mark.parametrize('content, complaint', [
    (idx(100, 28, 28), 'does not begin like an IDX file of labels'),
    (idx(100, fill=10), 'the label 10'),
    (idx(99), '100 images in t10k-images and 99 labels in t10k-labels')], ids=range(3))
def test_damaged_labels(data, content, complaint):
    (data / f'{FILES[3]}.gz').write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=complaint):
        datasets.load_mnist('mnist', data.parent)


@pytest.mark.parametrize('name', FILES)
def test_missing_file(data, name):
    (data / f'{name}.gz').unlink()
    with pytest.raises(UserError, match=f'{name}.gz is missing'):
        datasets.load_mnist('mnist', data.parent)


def test_digits_are_the_same_bytes_for_the_same_seed(tmp_path, small_data):
    for folder, seed in ('same', 0), ('other', 1):
        (tmp_path / folder).mkdir()
        datasets.make_digits(str(tmp_path / folder), train=300, test=100, seed=seed)
    for name in FILES:
        expected = (small_data / 'mnist' / f'{name}.gz').read_bytes()
        assert (tmp_path / 'same' / f'{name}.gz').read_bytes() == expected
        assert (tmp_path / 'other' / f'{name}.gz').read_bytes() != expected
    assert sorted(os.listdir(tmp_path / 'same')) == sorted(f'{name}.gz' for name in FILES)


def test_digits_look_like_mnist(small_data):
    """Brightness, extent and variety as in MNIST: mean 33, a fifth of the pixels inked, 20 pixels high, centered."""
    (images, labels), _ = datasets.load_mnist('mnist', small_data)
    assert 25 < images.mean() < 45
    assert 0.15 < (images > 0).mean() < 0.25
    rows = (images[..., 0].max(2) > 128).sum(1)
    assert 17 < rows.mean() < 22
    assert (images[:, 0] == 0).mean() > 0.95 and (images[:, :, 0] == 0).mean() > 0.95
    flat = images.reshape(300, -1).astype(float)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2) + 1e9 * np.eye(300)
    assert distance.min() > 300  # no two alike
    assert (labels[distance.argmin(1)] == labels).mean() > 0.8  # and yet those of one class resemble each other


##################################################################################
# Downloads, from a server on this machine
##################################################################################

CONTENT = {f'{name}.gz': name.encode() * 50000 for name in FILES}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = CONTENT[os.path.basename(self.path)]
        kind = self.path.split('/')[1]
        if kind == 'absent':
            return self.send_error(404)
        self.send_response(200)
        self.send_header('Content-Length', len(content))
        self.end_headers()
        self.wfile.write(content[:1000] if kind == 'truncated' else content[::-1] if kind == 'wrong' else content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def server():
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture
def mirrors(server, monkeypatch):
    """Set the mirrors of mnist to those kinds of the server."""
    past_the_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr(urllib.request, 'urlopen', past_the_proxy.open)
    monkeypatch.setattr(datasets, 'PATIENCE', 0.5)

    def set_mirrors(*kinds):
        monkeypatch.setitem(datasets.SOURCES, 'mnist', {
            'mirrors': [kind if '://' in kind else f'{server}/{kind}/' for kind in kinds], 'algorithm': 'sha256',
            'digests': [hashlib.sha256(CONTENT[f'{name}.gz']).hexdigest() for name in FILES]})
    return set_mirrors


def test_download(mirrors, tmp_path):
    mirrors('good')
    name, why = datasets.find_dataset('auto', str(tmp_path))
    assert name == 'mnist' and 'downloaded' in why
    assert {path.name: path.read_bytes() for path in (tmp_path / 'mnist').iterdir()} == CONTENT


def test_download_fetches_only_what_is_missing(mirrors, tmp_path):
    mirrors('good')
    (tmp_path / 'mnist').mkdir()
    (tmp_path / 'mnist' / FILES[1]).write_bytes(b'mine')
    datasets.find_dataset('mnist', str(tmp_path))
    assert (tmp_path / 'mnist' / FILES[1]).read_bytes() == b'mine'
    assert len(os.listdir(tmp_path / 'mnist')) == 4


@pytest.mark.parametrize('kind, reason', [('truncated', 'not the expected file'), ('wrong', 'not the expected file'),
                                          ('absent', '404')])
def test_download_that_fails(mirrors, tmp_path, kind, reason):
    mirrors(kind)
    with pytest.raises(UserError, match=reason) as error:
        datasets.find_dataset('mnist', str(tmp_path))
    for word in (str(tmp_path / 'mnist'), '--dataset digits', *FILES):
        assert word in str(error.value)
    assert '\n' not in str(error.value)
    assert not list(tmp_path.rglob('*.*'))


def test_download_goes_on_to_the_next_mirror(mirrors, tmp_path):
    mirrors('wrong', 'absent', 'good')
    datasets.find_dataset('mnist', str(tmp_path))
    assert len(os.listdir(tmp_path / 'mnist')) == 4


def test_download_gives_up_where_nobody_answers(mirrors, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        mirrors(f'http://127.0.0.1:{silent.getsockname()[1]}/')
        with pytest.raises(UserError, match='no answer|timed out'):
            datasets.find_dataset('mnist', str(tmp_path))


def test_download_gives_up_where_a_name_is_looked_up_for_ever(mirrors, tmp_path, monkeypatch):
    mirrors('good')

    def look_up(*args):
        time.sleep(3)
        raise socket.gaierror('no such name')

    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    with pytest.raises(UserError, match='no answer within 0.5 s'):
        datasets.find_dataset('mnist', str(tmp_path))


def test_auto_draws_digits_where_mnist_cannot_be_had(mirrors, tmp_path, monkeypatch):
    mirrors('absent')
    drawn = datasets.make_digits
    monkeypatch.setattr(datasets, 'make_digits', lambda folder: drawn(folder, train=20, test=10))
    name, why = datasets.find_dataset('auto', str(tmp_path))
    assert name == 'digits' and 'instead of MNIST' in why and '404' in why
    assert len(datasets.load_mnist(name, str(tmp_path))[0][0]) == 20
    assert datasets.find_dataset('digits', str(tmp_path))[0] == 'digits'


def test_patience_of_the_real_mirrors():
    assert all(len(source['mirrors']) * datasets.PATIENCE < 15 for source in datasets.SOURCES.values())

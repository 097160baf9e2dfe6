import gzip
import hashlib
import http.server
import io
import os
import shutil
import socket
import tarfile
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

import datasets
from datasets import batches, cifar, idx
from datasets import download as downloads
from datasets.idx import FILES
from options import UserError


@pytest.fixture
def data(small_data, tmp_path):
    """A copy of the small data set, to be damaged -> its folder mnist."""
    return shutil.copytree(small_data / 'mnist', tmp_path / 'data' / 'mnist')


def idx_bytes(*shape, fill=3):
    return np.array([0x800 + len(shape), *shape], '>u4').tobytes() + bytes([fill]) * int(np.prod(shape))


def test_load_mnist(small_data):
    (train_images, train_labels), (test_images, test_labels) = idx.load_mnist('mnist', small_data)
    assert train_images.shape == (300, 28, 28, 1) and test_images.shape == (100, 28, 28, 1)
    assert train_images.dtype == np.uint8 and train_images.max() == 255
    assert np.bincount(train_labels).tolist() == [30] * 10 and np.bincount(test_labels).tolist() == [10] * 10


def test_load_mnist_reads_plain_files_too(data):
    expected = idx.load_mnist('mnist', data.parent)
    for name in FILES:
        (data / name).write_bytes(gzip.decompress((data / f'{name}.gz').read_bytes()))
        (data / f'{name}.gz').unlink()
    for a, b in zip(sum(expected, ()), sum(idx.load_mnist('mnist', data.parent), ()), strict=True):
        assert (a == b).all()


def flip_a_bit(content):
    return content[:2000] + bytes([content[2000] ^ 4]) + content[2001:]


@pytest.mark.parametrize('damage, complaint', [
    (lambda content: content[:-100], 'not a whole gzip file'),
    (flip_a_bit, 'not a whole gzip file'),
    (lambda content: b'hello', 'not a whole gzip file'),
    (lambda content: b'', 'does not begin like an IDX file of 28 x 28 images'),
    (lambda content: gzip.compress(idx_bytes(300)), 'does not begin like an IDX file of 28 x 28 images'),
    (lambda content: gzip.compress(idx_bytes(300, 20, 28)), 'images of 20 x 28'),
    (lambda content: gzip.compress(idx_bytes(300, 28, 28)[:-1]), 'holds 235199 bytes where its header tells of 300'),
    (lambda content: gzip.compress(idx_bytes(300, 28, 28) + b'0'), 'holds 235201 bytes where its header tells of 300'),
    (lambda content: gzip.compress(idx_bytes(0, 28, 28)), 'holds 0 bytes'),
    (lambda content: gzip.compress(idx_bytes(299, 28, 28)),
     "299 images in train-images and 300 labels in train-labels")],
    ids=range(10))
def test_damaged_images(data, damage, complaint):
    path = data / f'{FILES[0]}.gz'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=complaint) as error:
        idx.load_mnist('mnist', data.parent)
    assert str(data) in str(error.value)


@pytest.mark.parametrize('content, complaint', [
    (idx_bytes(100, 28, 28), 'does not begin like an IDX file of labels'),
    (idx_bytes(100, fill=10), 'the label 10'),
    (idx_bytes(99), '100 images in t10k-images and 99 labels in t10k-labels')], ids=range(3))
def test_damaged_labels(data, content, complaint):
    (data / f'{FILES[3]}.gz').write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=complaint):
        idx.load_mnist('mnist', data.parent)


@pytest.mark.parametrize('name', FILES)
def test_missing_file(data, name):
    (data / f'{name}.gz').unlink()
    with pytest.raises(UserError, match=f'{name}.gz is missing'):
        idx.load_mnist('mnist', data.parent)


def test_digits_are_the_same_bytes_for_the_same_seed(tmp_path, small_data):
    for folder, seed in ('same', 0), ('other', 1):
        (tmp_path / folder).mkdir()
        idx.make_digits(str(tmp_path / folder), train=300, test=100, seed=seed)
    for name in FILES:
        expected = (small_data / 'mnist' / f'{name}.gz').read_bytes()
        assert (tmp_path / 'same' / f'{name}.gz').read_bytes() == expected
        assert (tmp_path / 'other' / f'{name}.gz').read_bytes() != expected
    assert sorted(os.listdir(tmp_path / 'same')) == sorted(f'{name}.gz' for name in FILES)


def test_digits_look_like_mnist(small_data):
    """Brightness, extent and variety as in MNIST: mean 33, a fifth of the pixels inked, 20 pixels high, centered."""
    (images, labels), _ = idx.load_mnist('mnist', small_data)
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
    monkeypatch.setattr(downloads, 'PATIENCE', 0.5)

    def set_mirrors(*kinds):
        monkeypatch.setitem(datasets.SOURCES, 'mnist', {
            'mirrors': [kind if '://' in kind else f'{server}/{kind}/' for kind in kinds], 'algorithm': 'sha256',
            'files': {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}})
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
    drawn = idx.make_digits
    monkeypatch.setattr(datasets, 'make_digits', lambda folder: drawn(folder, train=20, test=10))
    name, why = datasets.find_dataset('auto', str(tmp_path))
    assert name == 'digits' and [line.split(' ', 1)[0] for line in why.split('\n')] == ['Data', 'MNIST']
    assert len(idx.load_mnist(name, str(tmp_path))[0][0]) == 20
    assert datasets.find_dataset('digits', str(tmp_path))[0] == 'digits'


def test_patience_of_the_real_mirrors():
    assert all(len(source['mirrors']) * downloads.PATIENCE < 15 for source in datasets.SOURCES.values())


##################################################################################
# CIFAR-10, other sizes, flips
##################################################################################

def cifar_batch(count, seed):
    """A file of CIFAR-10's binary form -> its bytes, its images and its labels."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, [count, 32, 32, 3]).astype(np.uint8), rng.integers(10, size=count)
    planes = images.transpose(0, 3, 1, 2).reshape(count, -1)
    return np.concatenate([labels[:, None].astype(np.uint8), planes], 1).tobytes(), images, labels


def tar(*members):
    """A gzipped tar archive of (name, bytes, or the name that a link leads to)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


BATCHES = [cifar_batch(7, seed) for seed in range(6)]
CIFAR = [(f'cifar-10-batches-bin/{name}', part[0]) for name, part in zip(cifar.CIFAR_FILES, BATCHES, strict=True)]


@pytest.fixture
def cifar(server, mirrors, monkeypatch):
    """Serve an archive as CIFAR-10."""
    def serve(archive):
        monkeypatch.setitem(CONTENT, cifar.CIFAR_ARCHIVE, archive)
        monkeypatch.setitem(datasets.SOURCES, 'cifar10', {
            'mirrors': [f'{server}/good/'], 'algorithm': 'md5',
            'files': {cifar.CIFAR_ARCHIVE: hashlib.md5(archive).hexdigest()}})
    return serve


def test_cifar10(cifar, tmp_path):
    cifar(tar(*CIFAR, ('cifar-10-batches-bin/readme.html', b'text')))
    assert datasets.find_dataset('cifar10', str(tmp_path))[0] == 'cifar10'
    assert sorted(os.listdir(tmp_path / 'cifar10')) == sorted(cifar.CIFAR_FILES)  # and nothing else
    assert 'in' in datasets.find_dataset('cifar10', str(tmp_path))[1]  # is there now
    found = datasets.load_dataset('cifar10', tmp_path, (32, 32, 3))
    assert (found.train[0] == np.concatenate([part[1] for part in BATCHES[:5]])).all()
    assert (found.train[1] == np.concatenate([part[2] for part in BATCHES[:5]])).all()
    assert (found.test[0] == BATCHES[5][1]).all() and (found.test[1] == BATCHES[5][2]).all()
    assert found.class_names[:2] == ('airplane', 'automobile') and len(found.class_names) == 10
    bad = tmp_path / 'cifar10' / 'data_batch_3.bin'
    for content in b'', CIFAR[0][1][:-1], b'\x0a' + CIFAR[0][1][1:]:
        bad.write_bytes(content)
        with pytest.raises(UserError, match='data_batch_3.bin does not hold images of CIFAR-10'):
            datasets.load_dataset('cifar10', tmp_path, (32, 32, 3))
    bad.unlink()
    with pytest.raises(UserError, match='data_batch_3.bin is missing'):
        datasets.load_dataset('cifar10', tmp_path, (32, 32, 3))


def test_an_archive_of_ones_own(cifar, tmp_path):
    """It is checked before it is unpacked, and stays."""
    content = tar(*CIFAR)
    cifar(content)
    (tmp_path / 'cifar10').mkdir()
    archive = tmp_path / 'cifar10' / cifar.CIFAR_ARCHIVE
    archive.write_bytes(tar(*CIFAR, ('more', b'')))
    with pytest.raises(UserError, match='is not the known archive of CIFAR-10'):
        datasets.find_dataset('cifar10', str(tmp_path))
    archive.write_bytes(content)
    assert 'unpacked in' in datasets.find_dataset('cifar10', str(tmp_path))[1]
    assert sorted(os.listdir(tmp_path / 'cifar10')) == sorted([*cifar.CIFAR_FILES, cifar.CIFAR_ARCHIVE])


@pytest.mark.parametrize('archive, complaint', [
    (tar(*CIFAR, ('../x', b'out')), r"has '../x' in it"), (tar(*CIFAR, ('/tmp/x', b'out')), 'has .* in it'),
    (tar(*CIFAR[:5], ('cifar-10-batches-bin/test_batch.bin', '/etc/passwd')), 'no plain file'),
    (tar(*CIFAR[:5]), 'not the whole archive'), (tar(*CIFAR)[:-400], 'not the whole archive'),
    (b'no archive', 'not the whole archive')], ids=range(6))
def test_an_archive_that_is_not_what_it_should_be(cifar, tmp_path, archive, complaint):
    cifar(archive)
    with pytest.raises(UserError, match=complaint):
        datasets.find_dataset('cifar10', str(tmp_path / 'data'))
    assert not (tmp_path / 'x').exists() and not (tmp_path / 'data' / 'x').exists()
    with pytest.raises(UserError):
        datasets.load_dataset('cifar10', tmp_path / 'data', (32, 32, 3))


def test_other_sizes_and_channels(small_data):
    """28 to 32 pixels gets two black ones around; other sizes are resized; grey is repeated, colour becomes grey."""
    own = datasets.load_dataset('mnist', small_data)
    padded = datasets.load_dataset('mnist', small_data, (32, 32, 1))
    assert (padded.train[0][:, 2:30, 2:30] == own.train[0]).all() and padded.train[0].shape == (300, 32, 32, 1)
    assert padded.train[0].sum() == own.train[0].sum() and (padded.test[1] == own.test[1]).all()
    colour = datasets.load_dataset('mnist', small_data, (28, 28, 3)).test[0]
    assert (colour == own.test[0]).all() and colour.shape == (100, 28, 28, 3)
    large = datasets.load_dataset('mnist', small_data, (56, 56, 3)).test[0]
    expected = Image.fromarray(own.test[0][5, :, :, 0]).convert('RGB').resize((56, 56), Image.Resampling.LANCZOS)
    assert large.shape == (100, 56, 56, 3) and (large[5] == np.asarray(expected)).all()
    grey = datasets.resize_images(np.full([1, 8, 8, 3], [255, 0, 0], np.uint8), (8, 8, 1))
    assert grey.shape == (1, 8, 8, 1) and grey[0, 0, 0, 0] == pytest.approx(0.299 * 255, abs=1)


def test_flips_depend_on_seed_and_number_alone():
    images = np.random.default_rng(0).integers(0, 256, [64, 4, 6, 3]).astype(np.uint8)
    labels = np.arange(64)
    plain, order = batches.batch(images, labels, 32, 5, 3)
    flipped, same = batches.batch(images, labels, 32, 5, 3, flip=True)
    assert (order == same).all()
    mirrored = (flipped == plain[:, :, ::-1]).all((1, 2, 3))
    assert ((flipped == plain).all((1, 2, 3)) ^ mirrored).all() and 5 < mirrored.sum() < 27
    assert (batches.batch(images, labels, 32, 5, 3, True)[0] == flipped).all()
    patterns = {tuple((batches.batch(images, labels, 32, seed, number, True)[0] == batches.batch(
        images, labels, 32, seed, number)[0]).all((1, 2, 3))) for seed, number in [(5, 3), (5, 4), (6, 3), (5, 5)]}
    assert len(patterns) == 4
    assert batches.batch(images, None, 32, 5, 3)[1] is None

import gzip
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import threading
import time
import urllib.request

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import utils
from ops import attention
from utils import FILES, UserError


@pytest.fixture
def data(small_data, tmp_path):
    """A copy of the small data set, to be damaged -> its folder mnist."""
    return shutil.copytree(small_data / 'mnist', tmp_path / 'data' / 'mnist')


def idx(*shape, fill=3):
    return np.array([0x800 + len(shape), *shape], '>u4').tobytes() + bytes([fill]) * int(np.prod(shape))


def test_load_mnist(small_data):
    (train_images, train_labels), (test_images, test_labels) = utils.load_mnist('mnist', small_data)
    assert train_images.shape == (300, 28, 28, 1) and test_images.shape == (100, 28, 28, 1)
    assert train_images.dtype == np.uint8 and train_images.max() == 255
    assert np.bincount(train_labels).tolist() == [30] * 10 and np.bincount(test_labels).tolist() == [10] * 10


def test_load_mnist_reads_plain_files_too(data):
    expected = utils.load_mnist('mnist', data.parent)
    for name in FILES:
        (data / name).write_bytes(gzip.decompress((data / f'{name}.gz').read_bytes()))
        (data / f'{name}.gz').unlink()
    for a, b in zip(sum(expected, ()), sum(utils.load_mnist('mnist', data.parent), ()), strict=True):
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
        utils.load_mnist('mnist', data.parent)
    assert str(data) in str(error.value)


@pytest.mark.parametrize('content, complaint', [
    (idx(100, 28, 28), 'does not begin like an IDX file of labels'),
    (idx(100, fill=10), 'the label 10'),
    (idx(99), '100 images in t10k-images and 99 labels in t10k-labels')], ids=range(3))
def test_damaged_labels(data, content, complaint):
    (data / f'{FILES[3]}.gz').write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=complaint):
        utils.load_mnist('mnist', data.parent)


@pytest.mark.parametrize('name', FILES)
def test_missing_file(data, name):
    (data / f'{name}.gz').unlink()
    with pytest.raises(UserError, match=f'{name}.gz is missing'):
        utils.load_mnist('mnist', data.parent)


def test_digits_are_the_same_bytes_for_the_same_seed(tmp_path, small_data):
    for folder, seed in ('same', 0), ('other', 1):
        (tmp_path / folder).mkdir()
        utils.make_digits(str(tmp_path / folder), train=300, test=100, seed=seed)
    for name in FILES:
        expected = (small_data / 'mnist' / f'{name}.gz').read_bytes()
        assert (tmp_path / 'same' / f'{name}.gz').read_bytes() == expected
        assert (tmp_path / 'other' / f'{name}.gz').read_bytes() != expected
    assert sorted(os.listdir(tmp_path / 'same')) == sorted(f'{name}.gz' for name in FILES)


def test_digits_look_like_mnist(small_data):
    """Brightness, extent and variety as in MNIST: mean 33, a fifth of the pixels inked, 20 pixels high, centered."""
    (images, labels), _ = utils.load_mnist('mnist', small_data)
    assert 25 < images.mean() < 45
    assert 0.15 < (images > 0).mean() < 0.25
    rows = (images[..., 0].max(2) > 128).sum(1)
    assert 17 < rows.mean() < 22
    assert (images[:, 0] == 0).mean() > 0.95 and (images[:, :, 0] == 0).mean() > 0.95
    flat = images.reshape(300, -1).astype(float)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2) + 1e9 * np.eye(300)
    assert distance.min() > 300  # no two alike
    assert (labels[distance.argmin(1)] == labels).mean() > 0.8  # and yet those of one class resemble each other


def test_merge_lays_out_row_by_row_and_leaves_the_last_cells_empty():
    images = np.arange(1, 6)[:, None, None, None] * np.ones([5, 2, 3, 1])
    expected = [[1, 1, 1, 2, 2, 2, 3, 3, 3]] * 2 + [[4, 4, 4, 5, 5, 5, 0, 0, 0]] * 2
    assert utils.merge(images, (2, 3))[:, :, 0].tolist() == expected


@pytest.mark.parametrize('count, size', [(1, (1, 1)), (2, (1, 2)), (7, (3, 3)), (12, (3, 4)), (64, (8, 8)),
                                         (100, (10, 10)), (101, (10, 11))])
def test_grid_size(count, size):
    assert utils.grid_size(count) == size


def test_save_images_keeps_the_values(tmp_path):
    images = np.linspace(0, 1, 2 * 4 * 4).reshape(2, 4, 4, 1)
    utils.save_images(images, (1, 2), str(tmp_path / 'grid.png'))
    written = imageio.imread(tmp_path / 'grid.png')
    assert (written == np.round(255 * np.concatenate([images[0, :, :, 0], images[1, :, :, 0]], 1))).all()
    assert os.listdir(tmp_path) == ['grid.png']


def test_save_images_of_a_failed_run(tmp_path):
    utils.save_images(np.full([1, 4, 4, 1], np.nan), (1, 1), str(tmp_path / 'grid.png'))
    assert (imageio.imread(tmp_path / 'grid.png') == 0).all()


def test_check_folder(tmp_path):
    assert utils.check_folder(str(tmp_path / 'a' / 'b')) == str(tmp_path / 'a' / 'b')
    assert (tmp_path / 'a' / 'b').is_dir()
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='file/b cannot be made'):
        utils.check_folder(str(tmp_path / 'file' / 'b'))


def test_show_all_variables(capsys):
    with tf.Graph().as_default():
        tf.get_variable('layer/w', [2, 3, 5])
        tf.get_variable('layer/moving', [7], trainable=False)
        utils.show_all_variables()
    table, total = capsys.readouterr().out.splitlines()
    assert table.split() == ['layer/w', '[2,', '3,', '5]', '30']
    assert total == '1 trainable variables, 30 parameters'


def one_place_attention(sess, query, key):
    """beta [1, 12, 12] of the layer on a map of 3 x 4 where position query looks at position key and nowhere else."""
    x = np.zeros([1, 3, 4, 8], np.float32)
    x[0, key[0], key[1], 0] = x[0, query[0], query[1], 1] = 10
    attention(tf.constant(x), is_training=False)
    for variable in tf.global_variables():
        value = np.ones if variable.op.name.endswith(('bn/gamma', 'moving_variance')) else np.zeros
        variable.load(value(variable.shape), sess)
    for name, channel in ('f', 0), ('g', 1):  # the kernel's middle tap copies a channel
        w = next(v for v in tf.global_variables() if v.op.name == f'attention/{name}_conv/w')
        kernel = np.zeros(w.shape)
        kernel[1, 1, channel] = 1
        w.load(kernel, sess)
    return sess.run('attention/attention_map:0')


def test_the_map_drawn_for_a_point_is_its_row_of_the_tensor(sess, monkeypatch):
    query, key = (1, 3), (2, 0)
    beta = one_place_attention(sess, query, key)
    look = utils.look_of(beta[0], query, (3, 4))
    assert look[key] == pytest.approx(1) and look.sum() == pytest.approx(1)
    np.testing.assert_allclose(utils.look_of(beta[0], (0, 0), (3, 4)), 1 / 12)  # the others look everywhere alike

    monkeypatch.setattr(utils, 'query_points', lambda image: {'a': query, 'b': (0, 0), 'c': key, 'd': (1, 1)})
    figure = utils.draw_attention([('what', np.zeros([1, 12, 16, 1]), beta)], 'title')
    images = [axis.images[0] for axis in figure.axes if axis.images]
    np.testing.assert_allclose(images[1].get_array(), look)
    np.testing.assert_allclose(images[2].get_array(), 1 / 12)
    assert images[1].get_extent() == images[0].get_extent()  # enlarged to the image
    assert {image.get_clim() for image in images[1:5]} == {(0, look.max())}


def test_query_points():
    image = np.zeros([12, 16])
    image[0:4, 4:8] = 0.6
    image[4:8, 8:12] = 1
    image[8:12, 12:16] = 0.6
    image[8:12, 0:4] = 0.3  # too faint for an end
    assert utils.query_points(image) == {
        'stroke': (1, 2), 'top end': (0, 1), 'bottom end': (2, 3), 'background': (1, 1)}


def test_figure_of_attention_holds_both_networks_and_survives_a_failed_run():
    images, maps = np.random.rand(2, 28, 28, 1), np.full([2, 49, 49], 1 / 49)
    figure = utils.draw_attention([('one', images, maps), ('two', images, maps)], 'title')
    assert len(figure.axes) == 2 * 2 * 5 + 1
    assert [text.get_text() for text in figure.texts] == ['title', 'one', 'two']
    utils.draw_attention([('nan', np.full([1, 28, 28, 1], np.nan), np.full([1, 49, 49], np.nan))], 'title')


HISTORY = 'step,d_loss,d_loss_real,d_loss_fake,g_loss,d_real,d_fake'


@pytest.mark.parametrize('rows', ['', '1,1,2,3,4,.5,.5,0,0', '1' + 8 * ',nan' + '\n2,1,2,3,inf,.5,.5,0,0'])
def test_curves_of_a_degenerate_run(tmp_path, rows):
    (tmp_path / 'history.csv').write_text(f'{HISTORY},g_gamma,d_gamma\n{rows}')
    for name in 'a.png', 'b.png':
        utils.save_figure(utils.draw_curves(tmp_path / 'history.csv'), tmp_path / name)
    assert imageio.imread(tmp_path / 'a.png').std() > 0
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_curves_show_the_history(tmp_path):
    (tmp_path / 'history.csv').write_text(f'{HISTORY}\n50,1,2,3,4,.5,.6\n100,7,8,9,10,.7,.8\n')  # without attention
    figure = utils.draw_curves(tmp_path / 'history.csv')
    lines = {line.get_label(): line.get_xydata().tolist() for axis in figure.axes for line in axis.lines}
    assert lines == {'G': [[50, 4], [100, 10]], 'D on real': [[50, 2], [100, 8]], 'D on fake': [[50, 3], [100, 9]],
                     'D, both': [[50, 1], [100, 7]], 'real images': [[50, .5], [100, .7]],
                     'generated images': [[50, .6], [100, .8]]}


def test_progress_has_a_frame_for_each_grid_in_the_order_they_were_made(tmp_path):
    for level, name in enumerate(['02_0300', '10_0100', '100_0001']):
        utils.save_images(np.full([4, 28, 28, 1], level / 4), (2, 2), str(tmp_path / f'SAGAN_train_{name}.png'))
    utils.write_progress(str(tmp_path), 'SAGAN')
    frames = imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)
    assert [round(frame.mean() / 255 * 4) for frame in frames] == [0, 1, 2]
    utils.save_images(np.ones([1, 28, 28, 1]), (1, 1), str(tmp_path / 'SAGAN_train_100_0002.png'))
    utils.write_progress(str(tmp_path), 'SAGAN')  # a grid of another size
    assert len(imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)) == 1


def test_progress_without_grids(tmp_path):
    utils.write_progress(str(tmp_path), 'SAGAN')
    assert not os.listdir(tmp_path)


def test_export_replaces_what_was_exported_before(tmp_path):
    for count in 3, 1:
        images, z = np.linspace(0, 1, count * 784).reshape(count, 28, 28, 1), np.random.rand(count, 5)
        utils.export_images(str(tmp_path / 'samples'), images, z)
        expected = [f'{number:05d}.png' for number in range(count)]
        assert sorted(os.listdir(tmp_path / 'samples')) == [*expected, 'samples.npz']
        saved = np.load(tmp_path / 'samples' / 'samples.npz')
        assert (saved['images'] == np.round(255 * images)).all() and saved['images'].dtype == np.uint8
        assert (saved['z'] == z).all()
        for name, image in zip(expected, saved['images'], strict=True):
            assert (imageio.imread(tmp_path / 'samples' / name) == image[:, :, 0]).all()
    assert os.listdir(tmp_path) == ['samples']


def test_history_is_cut_at_the_step_that_was_saved(tmp_path):
    path = str(tmp_path / 'history.csv')
    with utils.open_history(path, 0, ['step', 'd_loss']) as file:
        file.write('50,1.5\n100,1.25\n150,1.0\n20')  # killed in the middle of a row
    with utils.open_history(path, 100, ['step', 'd_loss']) as file:
        file.write('150,1.1\n')
    assert pathlib.Path(path).read_text() == 'step,d_loss\n50,1.5\n100,1.25\n150,1.1\n'


def make_run(folder, age, config=None):
    """The folder of a run with a checkpoint of step 5, last trained so many seconds ago."""
    (folder / 'SAGAN').mkdir(parents=True)
    index = folder / 'SAGAN' / 'SAGAN.model-5.index'
    index.touch()
    os.utime(index, (1e9 - age, 1e9 - age))
    if config:
        (folder / 'config.json').write_text(json.dumps(config))


def test_find_run_takes_the_one_trained_last_among_those_that_agree(tmp_path):
    make_run(tmp_path / 'SAGAN_mnist_64_62', 30, {'z_dim': 62, 'seed': 0})
    make_run(tmp_path / 'SAGAN_mnist_64_9', 20, {'z_dim': 9, 'seed': 0})
    make_run(tmp_path / 'SAGAN_mnist_64_9_seed1', 10, {'z_dim': 9, 'seed': 1})
    (tmp_path / 'SAGAN_mnist_64_10' / 'SAGAN').mkdir(parents=True)  # no checkpoint yet
    (tmp_path / 'classifier_mnist').mkdir()
    for wanted, expected in [({}, (9, 1)), ({'z_dim': 62}, (62, 0)), ({'z_dim': 9}, (9, 1)),
                             ({'z_dim': 9, 'seed': 0}, (9, 0)), ({'z_dim': 9, 'seed': 7}, (9, 1))]:
        run = utils.find_run(tmp_path, wanted)
        assert (run['z_dim'], run['seed']) == expected
    with pytest.raises(UserError, match='with --z_dim 10 in .*SAGAN_mnist_64_9.*train first'):
        utils.find_run(tmp_path, {'z_dim': 10})


def test_find_run_reads_the_folder_name_where_there_is_no_config(tmp_path):
    make_run(tmp_path / 'SAGAN_fashion-mnist_32_100', 0)
    assert utils.find_run(tmp_path, {}) == {'dataset_name': 'fashion-mnist', 'batch_size': 32, 'z_dim': 100}


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
    monkeypatch.setattr(utils, 'PATIENCE', 0.5)

    def set_mirrors(*kinds):
        monkeypatch.setitem(utils.SOURCES, 'mnist', {
            'mirrors': [kind if '://' in kind else f'{server}/{kind}/' for kind in kinds], 'algorithm': 'sha256',
            'digests': [hashlib.sha256(CONTENT[f'{name}.gz']).hexdigest() for name in FILES]})
    return set_mirrors


def test_download(mirrors, tmp_path):
    mirrors('good')
    name, why = utils.find_dataset('auto', str(tmp_path))
    assert name == 'mnist' and 'downloaded' in why
    assert {path.name: path.read_bytes() for path in (tmp_path / 'mnist').iterdir()} == CONTENT


def test_download_fetches_only_what_is_missing(mirrors, tmp_path):
    mirrors('good')
    (tmp_path / 'mnist').mkdir()
    (tmp_path / 'mnist' / FILES[1]).write_bytes(b'mine')
    utils.find_dataset('mnist', str(tmp_path))
    assert (tmp_path / 'mnist' / FILES[1]).read_bytes() == b'mine'
    assert len(os.listdir(tmp_path / 'mnist')) == 4


@pytest.mark.parametrize('kind, reason', [('truncated', 'not the expected file'), ('wrong', 'not the expected file'),
                                          ('absent', '404')])
def test_download_that_fails(mirrors, tmp_path, kind, reason):
    mirrors(kind)
    with pytest.raises(UserError, match=reason) as error:
        utils.find_dataset('mnist', str(tmp_path))
    for word in (str(tmp_path / 'mnist'), '--dataset digits', *FILES):
        assert word in str(error.value)
    assert '\n' not in str(error.value)
    assert not list(tmp_path.rglob('*.*'))


def test_download_goes_on_to_the_next_mirror(mirrors, tmp_path):
    mirrors('wrong', 'absent', 'good')
    utils.find_dataset('mnist', str(tmp_path))
    assert len(os.listdir(tmp_path / 'mnist')) == 4


def test_download_gives_up_where_nobody_answers(mirrors, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        mirrors(f'http://127.0.0.1:{silent.getsockname()[1]}/')
        with pytest.raises(UserError, match='no answer|timed out'):
            utils.find_dataset('mnist', str(tmp_path))


def test_download_gives_up_where_a_name_is_looked_up_for_ever(mirrors, tmp_path, monkeypatch):
    mirrors('good')

    def look_up(*args):
        time.sleep(3)
        raise socket.gaierror('no such name')

    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    with pytest.raises(UserError, match='no answer within 0.5 s'):
        utils.find_dataset('mnist', str(tmp_path))


def test_auto_draws_digits_where_mnist_cannot_be_had(mirrors, tmp_path, monkeypatch):
    mirrors('absent')
    drawn = utils.make_digits
    monkeypatch.setattr(utils, 'make_digits', lambda folder: drawn(folder, train=20, test=10))
    name, why = utils.find_dataset('auto', str(tmp_path))
    assert name == 'digits' and 'instead of MNIST' in why and '404' in why
    assert len(utils.load_mnist(name, str(tmp_path))[0][0]) == 20
    assert utils.find_dataset('digits', str(tmp_path))[0] == 'digits'


def test_patience_of_the_real_mirrors():
    assert all(len(source['mirrors']) * utils.PATIENCE < 15 for source in utils.SOURCES.values())

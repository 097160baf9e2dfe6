import json
import os
import pathlib
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest

from options import ARTICLE, UserError
from storage import run as runs
from utils import save_images, to_uint8


def test_progress_has_a_frame_for_each_grid_in_the_order_they_were_made(tmp_path):
    for level, name in enumerate(['02_0300', '10_0100', '100_0001']):
        save_images(np.full([4, 28, 28, 1], level / 4), (2, 2), str(tmp_path / f'SAGAN_train_{name}.png'))
    runs.write_animation(str(tmp_path), 'SAGAN')
    frames = imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)
    assert [round(frame.mean() / 255 * 4) for frame in frames] == [0, 1, 2]
    save_images(np.ones([1, 28, 28, 1]), (1, 1), str(tmp_path / 'SAGAN_train_100_0002.png'))
    runs.write_animation(str(tmp_path), 'SAGAN')  # a grid of another size
    assert len(imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)) == 1


def test_progress_without_grids(tmp_path):
    runs.write_animation(str(tmp_path), 'SAGAN')
    assert not os.listdir(tmp_path)


def test_export_replaces_what_was_exported_before(tmp_path):
    for count in 3, 1:
        images, z = np.linspace(0, 1, count * 784).reshape(count, 28, 28, 1), np.random.rand(count, 5)
        runs.export_images(str(tmp_path / 'samples'), to_uint8(images), z)
        expected = [f'{number:05d}.png' for number in range(count)]
        assert sorted(os.listdir(tmp_path / 'samples')) == [*expected, 'samples.npz']
        saved = np.load(tmp_path / 'samples' / 'samples.npz')
        assert (saved['arr_0'] == np.round(255 * images)).all() and saved['arr_0'].dtype == np.uint8
        assert (saved['z'] == z).all()
        for name, image in zip(expected, saved['arr_0'], strict=True):
            assert (imageio.imread(tmp_path / 'samples' / name) == image[:, :, 0]).all()
    assert os.listdir(tmp_path) == ['samples']


def test_history_is_cut_at_the_step_that_was_saved(tmp_path):
    path = str(tmp_path / 'history.csv')
    with runs.open_history(path, 0, ['step', 'd_loss']) as file:
        file.write('50,1.5\n100,1.25\n150,1.0\n20')  # killed in the middle of a row
    with runs.open_history(path, 100, ['step', 'd_loss']) as file:
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
                             ({'z_dim': 9, 'seed': 0}, (9, 0))]:
        run, _, names = runs.find_run(tmp_path, wanted)
        assert (run['z_dim'], run['seed']) == expected
    assert names == ['SAGAN_mnist_64_9']
    assert runs.find_run(tmp_path, {'z_dim': 9})[2] == ['SAGAN_mnist_64_9_seed1', 'SAGAN_mnist_64_9']
    with pytest.raises(UserError, match='with --z_dim 10 in .*SAGAN_mnist_64_9.*train first'):
        runs.find_run(tmp_path, {'z_dim': 10})
    make_run(tmp_path / 'mine', 40, {'seed': 2})
    with pytest.raises(UserError, match=r'with --seed 7 in .*there is SAGAN_mnist_64_9_seed1, \S+, \S+ and 1 more\)'):
        runs.find_run(tmp_path, {'seed': 7})


def test_find_run_reads_the_folder_name_where_there_is_no_config(tmp_path):
    make_run(tmp_path / 'SAGAN_fashion-mnist_32_100', 0)
    named = {'dataset_name': 'fashion-mnist', 'batch_size': 32, 'z_dim': 100, 'name': 'SAGAN_fashion-mnist_32_100'}
    assert runs.find_run(tmp_path, {})[0] == {**ARTICLE, **named}


def test_find_run_looks_at_every_folder_with_a_config_and_checkpoints(tmp_path):
    make_run(tmp_path / 'mine', 10, {'seed': 3, 'batch_size': 8})
    make_run(tmp_path / 'SAGAN_mnist_64_62', 20, {'attention': 'none'})
    make_run(tmp_path / 'stranger', 0)  # neither a config.json nor a name that tells
    assert runs.find_run(tmp_path, {})[0] == {**ARTICLE, 'seed': 3, 'batch_size': 8, 'name': 'mine'}
    assert runs.find_run(tmp_path, {'name': 'mine'})[0]['batch_size'] == 8
    # Renamed by hand: the folder's name, not the one that the options make.
    assert runs.find_run(tmp_path, {'attention': 'none'})[0]['name'] == 'SAGAN_mnist_64_62'
    # What a config.json lacks is the article's.
    assert runs.find_run(tmp_path, {'lr_decay': 'none', 'batch_size': 64})[0]['name'] == 'SAGAN_mnist_64_62'
    with pytest.raises(UserError, match='with --attention article --lr_decay linear in .*mine'):
        runs.find_run(tmp_path, {'attention': 'article', 'lr_decay': 'linear'})


def test_find_run_gives_what_it_does_not_know_and_refuses_what_it_does_not_understand(tmp_path, capsys):
    make_run(tmp_path / 'a', 10, {'image_shape': [28, 28, 1]})
    make_run(tmp_path / 'b', 0, {'colour': 'red', 'image_shape': [28, 28, 1]})
    for name, told in ('a', ''), ('b', 'b has what this program does not know, and leaves alone: colour\n'):
        runs.tell_rest(name, runs.find_run(tmp_path, {'name': name})[1])
        assert capsys.readouterr().out == told
    for content in '{"epoch": ', '[]x', '3', '"text"', '{"z_dim": "many"}', '\0', '[' * 200000:
        (tmp_path / 'b' / 'config.json').write_text(content)
        with pytest.raises(UserError, match='b/config.json'):
            runs.find_run(tmp_path, {})
    (tmp_path / 'b' / 'config.json').write_bytes(b'\xff')
    with pytest.raises(UserError, match='b/config.json is damaged'):
        runs.find_run(tmp_path, {})
    assert runs.find_run(tmp_path, {'name': 'a'})[0] == {**ARTICLE, 'name': 'a'}


##################################################################################
# One writer
##################################################################################

@pytest.fixture
def run(tmp_path):
    """A run, with no folder yet."""
    return runs.Run({**ARTICLE, 'name': 'it', 'checkpoint_dir': str(tmp_path / 'c'), 'result_dir': str(tmp_path / 'r')})


HOLD = ("import sys, time; from options import ARTICLE; from runs import Run\n"
        "with Run({**ARTICLE, 'name': 'it', 'checkpoint_dir': sys.argv[1]}).held():\n"
        "    print('held', flush=True); time.sleep(1000)")


def test_lock(run, tmp_path):
    """A second writer is told who holds it; it is free when the holder ends, however that ends."""
    lock = tmp_path / 'c' / 'it' / 'lock'
    for _ in range(2):
        with subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path / 'c')], stdout=subprocess.PIPE,
                              cwd=pathlib.Path(runs.__file__).parent) as holder:
            assert holder.stdout.readline() == b'held\n'
            assert lock.read_text() == f'process {holder.pid} on {os.uname().nodename}\n'
            with pytest.raises(UserError, match=f'it is being trained by process {holder.pid} on .*--name'), run.held():
                pass
            assert lock.read_text()
            holder.kill()
    with run.held():
        assert lock.read_text() == f'process {os.getpid()} on {os.uname().nodename}\n'
    assert lock.read_text() == ''
    with pytest.raises(ZeroDivisionError), run.held():
        raise ZeroDivisionError
    with run.held():
        pass


def test_leftovers_of_a_kill_are_cleared_by_the_holder_of_the_lock(run):
    results, folder = pathlib.Path(run.results), pathlib.Path(run.folder)
    checkpoints = folder / 'SAGAN'
    gone = subprocess.Popen(['true'])
    gone.wait()
    for path in results, checkpoints, folder / 'best', results / f'samples.{gone.pid}.part', pathlib.Path(run.maps):
        path.mkdir(parents=True)
    left = [results / 'SAGAN_curves.png.part', results / f'SAGAN_curves.png.{gone.pid}.part',
            results / f'samples.{gone.pid}.part' / '0.png', folder / f'config.json.{gone.pid}.part',
            checkpoints / 'SAGAN.model-20.data-00000-of-00001.tempstate123', folder / 'best' / 'x.index.tempstate9',
            checkpoints / 'checkpoint.tmp4', pathlib.Path(run.maps, f'3.npz.{gone.pid}.part')]
    kept = [results / 'SAGAN_curves.png', checkpoints / 'SAGAN.model-20.index', checkpoints / 'checkpoint',
            results / 'SAGAN_test_000.png.1.part']  # of a program that is still at work
    for path in left + kept:
        path.touch()
    with run.held():
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    assert not (results / f'samples.{gone.pid}.part').exists()


FACTS = {'images': 300, 'class_names': ['a', 'b']}


def test_a_run_that_was_trained_otherwise_is_refused(run, capsys):
    options = {**ARTICLE, 'name': 'it'}
    run.check(options, FACTS)  # nothing there
    os.makedirs(run.folder)
    run.write_config({**options, 'seed': 3, 'attention': 'none'})
    run.check(options, FACTS)  # no checkpoint that could be lost
    make_run(pathlib.Path(run.folder), 0)
    with pytest.raises(UserError, match='it holds a run with --attention none, --seed 3: .*--name'):
        run.check(options, FACTS)
    run.write_config({**options, 'epoch': 3, 'save_freq': 2, 'colour': 'red'})
    run.check(options, FACTS)
    assert 'leaves alone: colour' in capsys.readouterr().out
    run.write_config(options)
    assert json.loads(pathlib.Path(run.config_path).read_text()) == {**options, 'colour': 'red'}


##################################################################################
# Files are input too
##################################################################################

def test_history_that_was_damaged_keeps_its_whole_rows(tmp_path):
    path = tmp_path / 'history.csv'
    path.write_bytes(b'step,d_loss,g_loss\n50,1.5,\n\xff\x00,1,2\n60,x,1\n70,1\n80,nan,2\n"90,1,2\n\n100,1,2,3\n-1,2,3\n')
    assert [row['step'] for row in runs.read_history(path)] == ['50', '80']
    # With a column more, the rows that were there are kept.
    with runs.open_history(path, 80, ['step', 'd_loss', 'g_gamma', 'g_loss']) as file:
        file.write('90,1,2,3\n')
    assert path.read_text() == 'step,d_loss,g_gamma,g_loss\n50,1.5,,\n80,nan,,2\n90,1,2,3\n'
    for content in b'', b'\n\n', b'\x89PNG':
        path.write_bytes(content)
        assert runs.read_history(path) == []


def test_a_picture_that_cannot_be_read_is_left_out_of_the_film(tmp_path):
    for number in range(1, 6):
        save_images(np.full([1, 8, 8, 1], number / 5), (1, 1), tmp_path / f'SAGAN_train_00_{number:04d}.png')
    whole = (tmp_path / 'SAGAN_train_00_0002.png').read_bytes()
    for number, content in (2, whole[:50]), (3, b''), (4, b'no picture'):
        (tmp_path / f'SAGAN_train_00_{number:04d}.png').write_bytes(content)
    (tmp_path / 'SAGAN_train_00_0006.png').mkdir()
    runs.write_animation(str(tmp_path), 'SAGAN')
    frames = imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)
    assert [round(frame.mean() / 255 * 5) for frame in frames] == [1, 5]


def test_a_long_film_is_thinned_out(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'FILM_FRAMES', 3)
    for step in range(7):
        save_images(np.full([1, 8, 8, 1], step / 6), (1, 1), str(tmp_path / f'SAGAN_train_00_000{step}.png'))
    runs.write_animation(str(tmp_path), 'SAGAN')
    frames = imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)
    assert [round(frame.mean() / 255 * 6) for frame in frames] == [0, 3, 6]


def test_progress_of_large_grids_is_made_smaller(tmp_path):
    for step in 1, 2:
        save_images(np.random.default_rng(step).random([1, 1024, 512, 3]), (1, 1),
                    str(tmp_path / f'SAGAN_train_00_000{step}.png'))
    runs.write_animation(str(tmp_path), 'SAGAN')
    assert imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None).shape[:3] == (2, 512, 256)

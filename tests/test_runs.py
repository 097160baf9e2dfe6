import json
import os
import pathlib

import imageio.v3 as imageio
import numpy as np
import pytest

import runs
from options import UserError
from utils import save_images


def test_progress_has_a_frame_for_each_grid_in_the_order_they_were_made(tmp_path):
    for level, name in enumerate(['02_0300', '10_0100', '100_0001']):
        save_images(np.full([4, 28, 28, 1], level / 4), (2, 2), str(tmp_path / f'SAGAN_train_{name}.png'))
    runs.write_progress(str(tmp_path), 'SAGAN')
    frames = imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)
    assert [round(frame.mean() / 255 * 4) for frame in frames] == [0, 1, 2]
    save_images(np.ones([1, 28, 28, 1]), (1, 1), str(tmp_path / 'SAGAN_train_100_0002.png'))
    runs.write_progress(str(tmp_path), 'SAGAN')  # a grid of another size
    assert len(imageio.imread(tmp_path / 'SAGAN_progress.gif', index=None)) == 1


def test_progress_without_grids(tmp_path):
    runs.write_progress(str(tmp_path), 'SAGAN')
    assert not os.listdir(tmp_path)


def test_export_replaces_what_was_exported_before(tmp_path):
    for count in 3, 1:
        images, z = np.linspace(0, 1, count * 784).reshape(count, 28, 28, 1), np.random.rand(count, 5)
        runs.export_images(str(tmp_path / 'samples'), images, z)
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
                             ({'z_dim': 9, 'seed': 0}, (9, 0)), ({'z_dim': 9, 'seed': 7}, (9, 1))]:
        run = runs.find_run(tmp_path, wanted)
        assert (run['z_dim'], run['seed']) == expected
    with pytest.raises(UserError, match='with --z_dim 10 in .*SAGAN_mnist_64_9.*train first'):
        runs.find_run(tmp_path, {'z_dim': 10})


def test_find_run_reads_the_folder_name_where_there_is_no_config(tmp_path):
    make_run(tmp_path / 'SAGAN_fashion-mnist_32_100', 0)
    assert runs.find_run(tmp_path, {}) == {'dataset_name': 'fashion-mnist', 'batch_size': 32, 'z_dim': 100}

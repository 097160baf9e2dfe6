import os

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import utils
from options import UserError


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
    assert utils.make_folder(str(tmp_path / 'a' / 'b')) == str(tmp_path / 'a' / 'b')
    assert (tmp_path / 'a' / 'b').is_dir()
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='file/b cannot be made'):
        utils.make_folder(str(tmp_path / 'file' / 'b'))


def test_show_all_variables(capsys):
    with tf.Graph().as_default():
        tf.get_variable('layer/w', [2, 3, 5])
        tf.get_variable('layer/moving', [7], trainable=False)
        utils.show_all_variables()
    table, total = capsys.readouterr().out.splitlines()
    assert table.split() == ['layer/w', '[2,', '3,', '5]', '30']
    assert total == '1 trainable variables, 30 parameters'

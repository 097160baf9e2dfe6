import json
import os
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import ROOT, linux_only

import utils
from options import UserError


def test_utils_datasets_and_options_do_not_import_tensorflow():
    program = ('import sys, options, utils, datasets, datasets.batches\n'
               "print([name for name in sys.modules if name.startswith('tensorflow')])")
    result = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == '[]\n'


##################################################################################
# Random numbers
##################################################################################

def test_streams_have_the_values_of_existing_runs():
    assert {stream.name: stream.value for stream in utils.Stream} == {
        'TRAIN_Z': 0, 'SHUFFLE': 1, 'FIXED_Z': 2, 'EPOCH_Z': 3, 'TEST_Z': 4, 'FIGURE_Z': 5, 'WALK_Z': 6, 'EXPORT_Z': 7,
        'EVAL_Z': 8, 'STATISTICS_Z': 9, 'TRAIN_LABELS': 10, 'STATISTICS_LABELS': 11, 'FLIP': 12}


def test_draw_z_is_uniform_by_default():
    """A uniform distribution on [-1, 1] has mean 0 and variance 1/3."""
    z = utils.draw_z(1000, 62, 0)
    assert z.shape == (1000, 62) and z.dtype == np.float32 and np.abs(z).max() <= 1
    assert z.mean() == pytest.approx(0, abs=0.01) and z.var() == pytest.approx(1 / 3, abs=0.01)


def test_draw_z_is_standard_normal_if_requested():
    z = utils.draw_z(1000, 62, 0, distribution='normal')
    assert z.mean() == pytest.approx(0, abs=0.02) and z.var() == pytest.approx(1, abs=0.03)
    assert (np.abs(z) < 1).mean() == pytest.approx(0.6827, abs=0.01)


def test_draw_z_depends_on_the_key_alone():
    z = utils.draw_z(5, 62, 3, utils.Stream.TEST_Z, 1)
    utils.draw_z(7, 62, 9)
    assert (utils.draw_z(5, 62, 3, utils.Stream.TEST_Z, 1) == z).all()


@pytest.mark.parametrize('key', [(4, 1), (3, 2), (3, 1, 1)])
def test_draw_z_differs_between_keys(key):
    assert (utils.draw_z(5, 62, *key) != utils.draw_z(5, 62, 3, 1)).all()


@pytest.mark.parametrize('class_counts', [[3, 3, 3, 3], [95, 0, 5], [0, 1]])
def test_draw_labels_has_the_class_frequencies(class_counts):
    frequencies = np.array(class_counts) / np.sum(class_counts)
    counts = np.bincount(utils.draw_labels(10000, class_counts, 0))
    deviations = np.sqrt(10000 * frequencies * (1 - frequencies))
    assert (np.abs(counts - 10000 * frequencies) <= 5 * deviations).all()


def test_draw_labels_depends_on_the_key_alone():
    labels = utils.draw_labels(100, [1, 2, 1], 3, 1)
    assert (utils.draw_labels(100, [1, 2, 1], 3, 1) == labels).all()
    assert (utils.draw_labels(100, [1, 2, 1], 3, 2) != labels).any()


@pytest.mark.parametrize('count, class_counts, expected', [
    (10000, [950, 50], [9500, 500]),
    (10, [5, 3, 1], [6, 3, 1]),  # 5.56, 3.33 and 1.11, rounded down, leave one for the largest remainder
    (3, [1, 1], [2, 1]),  # equal remainders: the first class
    (2, [0, 1, 1, 1], [0, 1, 1, 0]),
    (0, [1, 1], [0, 0])])
def test_proportional_labels_rounds_by_largest_remainder(count, class_counts, expected):
    labels = utils.proportional_labels(count, class_counts)
    assert np.bincount(labels, minlength=len(class_counts)).tolist() == expected


@pytest.mark.parametrize('class_counts', [[95, 5], [5, 95], [4, 0, 3], [5923, 6742, 5958, 6131, 5842], [1] * 50 + [50]],
                         ids=str)
def test_proportional_labels_spreads_each_class_evenly(class_counts):
    """In each prefix, the count of each class differs from its expected value by at most two."""
    labels = utils.proportional_labels(1000, class_counts)
    counts = np.cumsum(labels[:, None] == np.arange(len(class_counts)), 0)  # [prefix, class]
    expected = np.arange(1, 1001)[:, None] * np.array(class_counts) / np.sum(class_counts)
    assert np.abs(counts - expected).max() <= 2


def test_proportional_labels_of_equal_classes_are_each_class_in_turn():
    assert utils.proportional_labels(7, [4, 4, 4]).tolist() == [0, 1, 2, 0, 1, 2, 0]


##################################################################################
# Files
##################################################################################

def test_atomic_write_replaces_the_file(tmp_path):
    (tmp_path / 'file').write_text('old')
    with utils.atomic_write(tmp_path / 'file') as part, open(part, 'w') as file:
        file.write('new')
        assert (tmp_path / 'file').read_text() == 'old'
    assert (tmp_path / 'file').read_text() == 'new' and os.listdir(tmp_path) == ['file']


def test_atomic_write_keeps_the_old_file_if_the_block_fails(tmp_path):
    (tmp_path / 'file').write_text('old')
    with pytest.raises(KeyError), utils.atomic_write(tmp_path / 'file') as part, open(part, 'w') as file:
        file.write('new')
        raise KeyError
    assert (tmp_path / 'file').read_text() == 'old' and os.listdir(tmp_path) == ['file']


@linux_only
def test_atomic_write_names_the_file_if_the_disk_is_full(tmp_path):
    with pytest.raises(OSError) as error, utils.atomic_write(tmp_path / 'file') as part:
        os.symlink('/dev/full', part)
        with open(part, 'w') as file:
            file.write('new')
    assert error.value.filename == str(tmp_path / 'file')


def test_atomic_folder_replaces_the_folder(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'old').touch()
    with utils.atomic_folder(tmp_path / 'folder') as part:
        os.mkdir(part)
        open(os.path.join(part, 'new'), 'w').close()
    assert os.listdir(tmp_path / 'folder') == ['new'] and os.listdir(tmp_path) == ['folder']


def test_atomic_folder_keeps_the_old_folder_if_the_block_fails(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'old').touch()
    with pytest.raises(KeyError), utils.atomic_folder(tmp_path / 'folder') as part:
        os.mkdir(part)
        raise KeyError
    assert os.listdir(tmp_path / 'folder') == ['old'] and os.listdir(tmp_path) == ['folder']


def ended_process():
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


@pytest.mark.parametrize('writer, expected', [(ended_process, True), (os.getpid, True), (os.getppid, False)])
def test_is_abandoned_looks_for_the_writing_process(writer, expected):
    assert utils.is_abandoned(f'folder/a.png.{writer()}.part') == expected


def test_is_abandoned_without_a_process_id():
    assert utils.is_abandoned('folder/a.png.part')


def test_make_folder_creates_all_folders(tmp_path):
    assert utils.make_folder(str(tmp_path / 'a' / 'b')) == str(tmp_path / 'a' / 'b')
    assert (tmp_path / 'a' / 'b').is_dir()


def test_make_folder_accepts_an_existing_folder(tmp_path):
    assert utils.make_folder(tmp_path) == tmp_path


def test_make_folder_reports_a_file_in_the_path(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='file/b cannot be created .*/file is not a folder.: choose another folder'):
        utils.make_folder(str(tmp_path / 'file' / 'b'))


def test_make_folder_reports_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match='cannot be created .File name too long.: choose another folder'):
        utils.make_folder(str(tmp_path / ('a' * 300)))


def test_check_folder_creates_nothing(tmp_path):
    utils.check_folder(str(tmp_path / 'a' / 'b'))
    assert not list(tmp_path.iterdir())


def test_check_folder_reports_a_file_in_the_path(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='file/b cannot be created .*/file is not a folder.: choose another folder'):
        utils.check_folder(str(tmp_path / 'file' / 'b'))


def test_check_folder_reports_a_read_only_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(UserError, match=f'^{tmp_path} is read-only: choose another folder'):
        utils.check_folder(str(tmp_path / 'a' / 'b'))


def test_make_folder_reports_a_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(UserError, match='is read-only: choose another folder'):
        utils.make_folder(tmp_path)


@pytest.mark.parametrize('count, text', [(0, ''), (1, '0'), (3, '0, 1, 2'), (5, '0, 1, 2 and 2 more')])
def test_list_first_lists_three_strings(count, text):
    assert utils.list_first([str(number) for number in range(count)]) == text


def test_list_first_counts_items_that_are_not_given():
    assert utils.list_first(['a', 'b'], 1, 7) == 'a and 6 more'


def test_write_json_writes_a_readable_file(tmp_path):
    content = {'name': 'Füße', 'steps': [1, 2], 'lr': 0.1, 'done': None}
    utils.write_json(content, tmp_path / 'a.json')
    assert json.loads((tmp_path / 'a.json').read_text()) == content and os.listdir(tmp_path) == ['a.json']


def test_write_json_indents(tmp_path):
    utils.write_json({'a': 1}, tmp_path / 'a.json')
    assert (tmp_path / 'a.json').read_text() == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize('channels', [1, 3])
def test_write_png_keeps_the_pixels(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, [5, 7, channels]).astype(np.uint8)
    utils.write_png(tmp_path / 'a.png', pixels)
    assert (imageio.imread(tmp_path / 'a.png').reshape(5, 7, channels) == pixels).all()


##################################################################################
# Image grids
##################################################################################

def test_merge_lays_out_row_by_row_and_leaves_the_last_cells_empty():
    images = np.arange(1, 6)[:, None, None, None] * np.ones([5, 2, 3, 1])
    expected = [[1, 1, 1, 2, 2, 2, 3, 3, 3]] * 2 + [[4, 4, 4, 5, 5, 5, 0, 0, 0]] * 2
    assert utils.merge(images, (2, 3))[:, :, 0].tolist() == expected


@pytest.mark.parametrize('count, size', [(1, (1, 1)), (2, (1, 2)), (7, (3, 3)), (12, (3, 4)), (64, (8, 8)),
                                         (100, (10, 10)), (101, (10, 11))])
def test_grid_size_is_nearly_square(count, size):
    assert utils.grid_size(count) == size


def test_to_uint8_rounds_and_clips():
    assert utils.to_uint8(np.array([-1, 0, 0.4 / 255, 0.6 / 255, 1, 2])).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.filterwarnings('error')
def test_to_uint8_turns_nan_into_0():
    assert utils.to_uint8(np.array([np.nan])).tolist() == [0]


# Grids of 1, 4, 64 and 100 images of 28, 32 and 64 pixels, and sides just below and at the limit.
@pytest.mark.parametrize('side, enlarged', [
    (28, 560), (32, 576), (64, 576), (56, 560), (128, 640), (224, 672), (256, 768), (512, 1024), (280, 560),
    (320, 640), (559, 1118), (560, 560), (640, 640)])
def test_enlarge_scales_small_grids_by_a_whole_factor(side, enlarged):
    assert utils.enlarge(np.zeros([side // 2, side, 1])).shape == (side // 2 * (enlarged // side), enlarged, 1)


def test_enlarge_repeats_pixels(monkeypatch):
    monkeypatch.setattr(utils, 'MIN_GRID_SIZE', 4)
    assert utils.enlarge(np.array([[1, 2, 3]])).tolist() == 2 * [[1, 1, 2, 2, 3, 3]]


def test_save_images_writes_an_enlarged_grid(tmp_path):
    images = np.linspace(0, 1, 2 * 4 * 4).reshape(2, 4, 4, 1)
    utils.save_images(images, (1, 2), str(tmp_path / 'grid.png'))
    grid = np.round(255 * np.concatenate([images[0, :, :, 0], images[1, :, :, 0]], 1))  # [4, 8]
    assert (imageio.imread(tmp_path / 'grid.png') == np.kron(grid, np.ones([70, 70]))).all()
    assert os.listdir(tmp_path) == ['grid.png']


def test_save_images_writes_black_for_a_diverged_run(tmp_path):
    utils.save_images(np.full([1, 4, 4, 1], np.nan), (1, 1), str(tmp_path / 'grid.png'))
    assert (imageio.imread(tmp_path / 'grid.png') == 0).all()


##################################################################################
# Variables
##################################################################################

@pytest.fixture
def shown(capsys, tmp_path):
    """Show three variables and return the printed lines and those of the file."""
    with tf.Graph().as_default():
        variables = [tf.get_variable('generator/w', [2, 3, 5]), tf.get_variable('generator/b', [1000]),
                     tf.get_variable('discriminator/w', [7])]
        utils.show_all_variables(variables, tmp_path / 'variables.txt')
    return capsys.readouterr().out.splitlines(), (tmp_path / 'variables.txt').read_text().splitlines()


def test_show_all_variables_writes_name_shape_and_size(shown):
    _, rows = shown
    assert [row.split() for row in rows] == [['generator/w', '[2,', '3,', '5]', '30'],
                                             ['generator/b', '[1000]', '1,000'], ['discriminator/w', '[7]', '7']]


def test_show_all_variables_prints_the_totals_of_each_network(shown):
    lines, _ = shown
    assert lines == ['generator: 2 variables, 1,030 parameters', 'discriminator: 1 variables, 7 parameters']

"""End-to-end tests with data sets of several formats."""

import gzip
import json
import os

import numpy as np
import pytest
from helpers import one_line_error, snapshot

import networks
from datasets.idx import FILES
from options import UserError
from tf1 import tf

SMALL_RUN = ['--network', 'article', '--batch_size', 4, '--epoch', 1, '--iteration', 2, '--print_freq', 1,
             '--sample_freq', 2, '--sample_num', 6, '--ema', 0]
RUN = 'SAGAN_letters_4_62_conditional_augment'


def make_images(count, height, width, channels=1):
    """Return uint8 images [N, H, W, C], whose brightness depends on their class, and labels [N], 0, 1, 2, 0, ..."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(0).integers(0, 50, [count, height, width, channels])
    return (noise + 80 * labels[:, None, None, None]).astype(np.uint8), labels


def write_letters(folder):
    """Write 40 images of 8 x 12, stored transposed, as the files of EMNIST letters."""
    images, labels = make_images(40, 8, 12)
    os.makedirs(folder)
    for name, array in zip(FILES, (images[:30, :, :, 0].transpose(0, 2, 1), labels[:30] + 1,
                                   images[30:, :, :, 0].transpose(0, 2, 1), labels[30:] + 1), strict=True):
        header = np.array([0x800 + array.ndim, *array.shape], '>u4').tobytes()
        path = folder / f'emnist-letters-{name.replace("t10k", "test")}.gz'
        path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    (folder / 'emnist-letters-mapping.txt').write_text('1 65\n2 66\n3 67\n')


@pytest.fixture(scope='module')
def letters(tmp_path_factory, run_main_in):
    """A folder with a conditional run on letters, and the outputs of the phases train, test and eval."""
    folder = tmp_path_factory.mktemp('letters')
    write_letters(folder / 'data' / 'letters')
    outputs = []
    for command in (['--dataset', 'data/letters/', '--conditional', 'true', *SMALL_RUN],
                    ['--phase', 'test', '--test_num', 1, '--label', 'B', '--export', 2, '--dataset', 'letters'],
                    ['--phase', 'eval', '--eval_num', 20]):
        code, out, err = run_main_in(folder, *command)
        assert (code, err) == (0, '')
        outputs.append(out)
    return folder, outputs


@pytest.mark.slow
def test_train_prints_what_it_read(letters):
    assert letters[1][0].startswith(
        'Data set: letters in data/letters (IDX files): 30 training and 10 test images of 8 x 12 x 1, 3 classes: A '
        '(10), B (10), C (10)\nThe images are transposed back\n')


@pytest.mark.slow
def test_config_holds_the_metadata_of_the_data_set(letters):
    config = json.loads((letters[0] / 'checkpoint' / RUN / 'config.json').read_text())
    assert (config['dataset_name'], config['image_shape'], config['class_names'], config['images']) == (
        'letters', [8, 12, 1], ['A', 'B', 'C'], 30)
    assert (config['img_size'], config['c_dim'], config['reading']) == (0, 0, ['IDX files'])


@pytest.mark.slow
def test_samples_have_the_native_shape(letters):
    samples = np.load(letters[0] / 'results' / RUN / 'samples_label1' / 'samples.npz')
    assert samples['arr_0'].shape[:3] == (2, 8, 12) and samples['arr_1'].tolist() == [1, 1]


@pytest.mark.slow
def test_eval_prints_what_it_read_once(letters):
    assert letters[1][2].count('Data set: letters in data/letters') == 1


@pytest.mark.slow
def test_build_takes_shape_and_classes_from_the_run(letters, monkeypatch):
    monkeypatch.chdir(letters[0])
    with tf.Graph().as_default(), tf.Session() as sess:
        model = networks.build(sess, dataset_name='letters', batch_size=4, conditional=True, augment=True,
                               data_dir='nowhere')
        assert model.config.image_shape == (8, 12, 1) and model.config.class_names == ('A', 'B', 'C')
        assert model.load() == (True, 2)


@pytest.mark.slow
def test_another_reading_of_the_data_set_is_refused(letters, run_main_in):
    """The IDX files of the trained run are replaced by an npz file."""
    folder, _ = letters
    images, labels = make_images(40, 8, 12)
    (folder / 'other').mkdir()
    np.savez(folder / 'other' / 'letters.npz', arr_0=images, arr_1=labels)
    result = run_main_in(folder, '--dataset', 'letters', '--data_dir', 'other', '--conditional', 'true', *SMALL_RUN,
                         '--epoch', 2)
    one_line_error(result, f'{RUN} cannot resume (its data set is read differently; before: IDX files; now: npz file)',
                   f'branch from the run with --from {RUN} --name NEW')


@pytest.fixture
def arrays(tmp_path):
    """Write data/arrays.npz with 120 images of 8 x 12 and no labels."""
    (tmp_path / 'data').mkdir()
    np.savez(tmp_path / 'data' / 'arrays.npz', arr_0=make_images(120, 8, 12)[0])
    return tmp_path


@pytest.mark.slow
def test_eval_recognises_half_turns_of_images_that_are_not_square(arrays, run_main):
    assert run_main('--dataset', 'arrays', *SMALL_RUN)[0] == 0
    code, out, err = run_main('--phase', 'eval', '--eval_num', 20)
    assert (code, err) == (0, '') and 'of the rotations of the test split' in out


def test_native_size_that_the_network_does_not_support_is_refused(arrays, run_main):
    before = snapshot(arrays)
    one_line_error(run_main('--dataset', 'arrays', '--network', 'dcgan'),
                   '--network dcgan requires square images of', 'not 8 x 12', '--img_size')
    assert snapshot(arrays) == before


def test_damaged_npz_is_refused(arrays, run_main):
    path = arrays / 'data' / 'arrays.npz'
    path.write_bytes(path.read_bytes()[:-30])
    before = snapshot(arrays)
    one_line_error(run_main('--dataset', 'arrays'), 'data/arrays.npz is not a complete npz file', 'replace it')
    assert snapshot(arrays) == before


def test_images_in_the_folder_of_the_digits_are_refused(run_main, tmp_path):
    (tmp_path / 'data' / 'digits').mkdir(parents=True)
    (tmp_path / 'data' / 'digits' / 'mine.png').touch()
    before = snapshot(tmp_path)
    one_line_error(run_main('--dataset', 'digits'), 'digits cannot be written to data/digits', 'mine.png', '--dataset')
    assert snapshot(tmp_path) == before


def test_model_takes_the_shape_of_the_data_set(arrays, sess):
    model = networks.NETWORKS['article'](sess, dataset='arrays', data_dir=str(arrays / 'data'),
                                         checkpoint_dir=str(arrays / 'checkpoint'))
    assert model.config.image_shape == (8, 12, 1) and model.config.class_names == ()


@pytest.mark.parametrize('classes, conditional', [(['a', 'b'], True), ([], False), (None, False)])
def test_model_of_the_paper_recipe_is_conditional_if_there_are_classes(arrays, sess, classes, conditional):
    options = {'dataset_name': 'arrays', 'data_dir': str(arrays / 'data'), 'checkpoint_dir': str(arrays / 'checkpoint')}
    model = networks.NETWORKS['article'](sess, classes=classes, conditional=None, **options)
    assert model.config.conditional is conditional


def test_model_of_a_missing_data_set_is_refused(sess, tmp_path):
    with pytest.raises(UserError, match='own does not exist'):
        networks.NETWORKS['article'](sess, dataset='own', data_dir=str(tmp_path))


def test_conditional_model_takes_the_classes_of_the_data_set(sess, tmp_path):
    write_letters(tmp_path / 'letters')
    model = networks.NETWORKS['article'](sess, dataset='letters', data_dir=str(tmp_path), conditional=True,
                                         checkpoint_dir=str(tmp_path / 'checkpoint'))
    assert model.config.class_names == ('A', 'B', 'C')

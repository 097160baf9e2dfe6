"""End-to-end tests with an image folder, and the SavedModel."""

import json
import os
import re
import shutil
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import MAIN, ROOT, one_line_error, snapshot
from PIL import Image

from tf1 import tf

# {name of a class: the half of its images that is bright}
CLASSES = {'above': (slice(0, 16), slice(None)), 'below': (slice(16, 32), slice(None)),
           'left': (slice(None), slice(0, 16))}
UNCONDITIONAL = ['--dataset', 'own', '--network', 'dcgan', '--ch', 8, '--img_size', 32, '--batch_size', 6,
                 '--print_freq', 1, '--sample_freq', 3, '--save_freq', 3, '--sample_num', 6]
CONDITIONAL = [*UNCONDITIONAL, '--flip', 'true', '--conditional', 'true', '--epoch', 1]
RUN = 'parts'


def make_images(folder, count=40):
    """Write images of 40 x 32 pixels in one folder per class."""
    rng = np.random.default_rng(0)
    for name, half in CLASSES.items():
        os.makedirs(folder / name)
        for number in range(count):
            pixels = rng.integers(0, 100, [32, 40, 3])
            pixels[:, 4:36][half] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f'{number:02d}.png')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, run_main_in):
    """A folder with images of three classes and two runs of 6 steps, one trained in one go and one in two parts.

    Also the outputs of the three training commands.
    """
    folder, outputs = tmp_path_factory.mktemp('trained'), []
    make_images(folder / 'data' / 'own')
    for name, iteration in ('whole', 6), (RUN, 3), (RUN, 6):
        code, out, err = run_main_in(folder, *CONDITIONAL, '--name', name, '--iteration', iteration)
        assert (code, err) == (0, '')
        outputs.append(out)
    return folder, outputs


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the folder of the `trained` fixture. run_main runs in it."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


##################################################################################
# Train
##################################################################################

@pytest.mark.slow
def test_train_prints_what_it_read(trained):
    assert ('Data set: own in data/own (images): 108 training and 12 test images (every tenth image) of 32 x 32 x 3, '
            '3 classes: above (36), below (36), left (36)\n') in trained[1][0]


@pytest.mark.slow
def test_images_are_prepared_once(trained):
    assert ['Preparing 120 images' in output for output in trained[1]] == [True, False, False]


@pytest.mark.slow
def test_training_resumes(trained):
    assert 'Resuming at step 3 of 6' in trained[1][2]


@pytest.mark.slow
def test_resumed_run_has_the_weights_of_an_uninterrupted_one(trained):
    whole, resumed = (tf.train.load_checkpoint(str(trained[0] / 'checkpoint' / name / 'SAGAN' / 'SAGAN.model-6'))
                      for name in ('whole', RUN))
    assert [name for name in whole.get_variable_to_shape_map()
            if (whole.get_tensor(name) != resumed.get_tensor(name)).any()] == []


@pytest.mark.slow
def test_config_holds_the_classes_and_the_number_of_training_images(trained):
    config = json.loads((trained[0] / 'checkpoint' / RUN / 'config.json').read_text())
    assert config['class_names'] == list(CLASSES) and config['images'] == 108  # 9 of 10


@pytest.mark.slow
def test_config_saves_the_default_number_of_channels_as_0(trained):
    assert json.loads((trained[0] / 'checkpoint' / RUN / 'config.json').read_text())['c_dim'] == 0


@pytest.mark.slow
def test_grids_are_in_colour(trained):
    grid = imageio.imread(trained[0] / 'results' / RUN / 'SAGAN_samples_epoch001.png')
    assert grid.shape == (2 * 192, 3 * 192, 3)  # enlarged


@pytest.mark.slow
def test_animation_is_written(trained):
    assert (trained[0] / 'results' / RUN / 'SAGAN_progress.gif').exists()


def test_missing_folder_is_refused(run_main, tmp_path):
    one_line_error(run_main(*CONDITIONAL), 'data/own does not exist')
    assert not list(tmp_path.iterdir())


def test_image_size_is_refused_before_images_are_prepared(run_main, tmp_path):
    make_images(tmp_path / 'data' / 'own', count=1)
    before = snapshot(tmp_path)
    one_line_error(run_main(*CONDITIONAL, '--img_size', 48),
                   '--network dcgan requires square images of 32 or 64 or 128 pixels, not 48 x 48')
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_train_refuses_other_classes(copied, run_main):
    before = snapshot(copied / 'checkpoint')
    (copied / 'data' / 'own' / 'left').rename(copied / 'data' / 'own' / 'right')
    one_line_error(run_main(*CONDITIONAL, '--name', RUN, '--iteration', 8), 'the classes above, below, left',
                   'the data set has above, below, right')
    assert {path: digest for path, digest in snapshot(copied / 'checkpoint').items() if path.name != 'lock'} == {
        path: digest for path, digest in before.items() if path.name != 'lock'}


@pytest.fixture
def resumed_with_fewer_images(copied, run_main, few_statistics):
    """The output of a run that was resumed after two images were removed."""
    for name in '03.png', '04.png':
        (copied / 'data' / 'own' / 'left' / name).unlink()
    code, out, err = run_main(*CONDITIONAL, '--name', RUN, '--iteration', 8)
    assert (code, err) == (0, '')
    return out


@pytest.mark.slow
def test_train_reports_a_different_number_of_images_and_resumes(resumed_with_fewer_images):
    assert 'The training split has 107 images; it had 108 before' in resumed_with_fewer_images
    assert 'Resuming at step 6 of 8' in resumed_with_fewer_images


##################################################################################
# Sample and score
##################################################################################

@pytest.fixture
def without_data(copied):
    """A copy of the folder of the `trained` fixture, without the images."""
    shutil.rmtree(copied / 'data')
    return copied


@pytest.fixture(scope='module')
def exported(trained, tmp_path_factory, run_main_in):
    """The results of --phase test --label left --export 4, sampled without the images."""
    folder = tmp_path_factory.mktemp('exported')
    shutil.copytree(trained[0] / 'checkpoint', folder / 'checkpoint')
    code, _, err = run_main_in(folder, '--phase', 'test', '--test_num', 1, '--label', 'left', '--export', 4,
                               '--name', RUN)
    assert (code, err) == (0, '')
    return folder / 'results' / RUN / 'samples_label2'


@pytest.mark.slow
def test_exported_arrays_hold_images_labels_and_z(exported):
    arrays = np.load(exported / 'samples.npz')
    assert arrays['arr_0'].shape == (4, 32, 32, 3) and arrays['z'].shape == (4, 128)
    assert arrays['arr_1'].tolist() == [2] * 4


@pytest.mark.slow
def test_exported_files_are_the_images_of_the_array(exported):
    images = np.load(exported / 'samples.npz')['arr_0']
    assert (np.stack([imageio.imread(exported / f'{number:05d}.png') for number in range(4)]) == images).all()


@pytest.mark.slow
def test_unknown_label_is_refused_with_the_names_of_the_classes(without_data, run_main):
    one_line_error(run_main('--phase', 'test', '--label', 'right'), '--label right', '0 above, 1 below, 2 left')


@pytest.mark.slow
def test_eval_without_the_images_is_refused(without_data, run_main):
    one_line_error(run_main('--phase', 'eval'), 'data/own does not exist')


@pytest.mark.slow
def test_eval_refuses_other_classes(copied, run_main):
    (copied / 'data' / 'own' / 'left').rename(copied / 'data' / 'own' / 'right')
    one_line_error(run_main('--phase', 'eval', '--name', RUN), 'the classes above, below, left',
                   'the data set has above, below, right')


@pytest.fixture(scope='module')
def scored(trained, tmp_path_factory, run_main_in):
    """A folder after --phase eval, and its output."""
    folder = tmp_path_factory.mktemp('scored')
    shutil.copytree(trained[0], folder, dirs_exist_ok=True)
    code, out, err = run_main_in(folder, '--phase', 'eval', '--eval_num', 60, '--name', RUN)
    assert (code, err) == (0, '')
    return folder, out


@pytest.mark.slow
@pytest.mark.parametrize('text', ['classifier score (1 to 3)', 'fraction predicted as above', 'class accuracy',
                                  'There are only 12 test images'])
def test_eval_prints_the_scores_of_the_classes(scored, text):
    assert text in scored[1]


@pytest.mark.slow
def test_eval_names_the_classifier_after_the_folder_and_the_shape(scored):
    assert (scored[0] / 'checkpoint' / 'classifier_own_32x32x3').is_dir()


##################################################################################
# Images without classes
##################################################################################

@pytest.fixture(scope='module')
def unlabelled(tmp_path_factory):
    """A folder with images, one of which is outside the class folders."""
    folder = tmp_path_factory.mktemp('unlabelled')
    make_images(folder / 'data' / 'own')
    (folder / 'data' / 'own' / 'above' / '00.png').rename(folder / 'data' / 'own' / 'flat.png')
    return folder


@pytest.fixture(scope='module')
def paper_run(unlabelled, run_main_in):
    """The output of training the paper's recipe on the unlabelled images."""
    code, out, err = run_main_in(unlabelled, *UNCONDITIONAL, '--epoch', 1, '--iteration', 2, '--eval_freq', 1,
                                 '--recipe', 'paper', '--network', 'resnet')
    assert (code, err) == (0, '')
    return out


@pytest.fixture(scope='module')
def paper_scores(unlabelled, paper_run, run_main_in):
    """The output of --phase eval on the run of the fixture paper_run."""
    code, out, err = run_main_in(unlabelled, '--phase', 'eval', '--eval_num', 30)
    assert (code, err) == (0, '')
    return out


@pytest.mark.slow
def test_conditional_without_classes_is_refused(unlabelled, run_main_in):
    one_line_error(run_main_in(unlabelled, *UNCONDITIONAL, '--conditional', 'true'),
                   '--conditional true requires a --dataset with classes')


@pytest.mark.slow
def test_batch_larger_than_the_training_split_is_refused(unlabelled, run_main_in):
    one_line_error(run_main_in(unlabelled, *UNCONDITIONAL, '--batch_size', 109), '--batch_size 109', '108', 'own')


@pytest.mark.slow
def test_recipe_is_not_conditional_without_classes(unlabelled, paper_run):
    path, = (unlabelled / 'checkpoint').glob('SAGAN_*/config.json')
    assert json.loads(path.read_text())['conditional'] is False


@pytest.mark.slow
def test_eval_freq_without_classes_prints_only_the_frechet_distance(paper_run):
    assert 'Fréchet distance' in paper_run and 'classifier score' not in paper_run


@pytest.mark.slow
def test_eval_without_classes_prints_the_accuracy_on_rotations(paper_scores):
    assert 'of the rotations of the test split' in paper_scores


@pytest.mark.slow
def test_eval_without_classes_lists_the_scores_that_need_them(paper_scores):
    assert 'the data set has no classes: classifier score' in paper_scores and 'predicted as' not in paper_scores


@pytest.mark.slow
def test_label_without_classes_is_refused(unlabelled, paper_run, run_main_in):
    one_line_error(run_main_in(unlabelled, '--phase', 'test', '--label', '1'),
                   '--label 1 requires a run with --conditional true')


##################################################################################
# Zip file
##################################################################################

@pytest.fixture(scope='module')
def zipped(tmp_path_factory, run_main_in):
    """A folder with a run on own.zip, and its output. The zip file has splits, a damaged image and a text file."""
    folder = tmp_path_factory.mktemp('zipped')
    make_images(folder / 'own' / 'train', count=4)
    make_images(folder / 'own' / 'valid', count=2)
    (folder / 'own' / 'train' / 'left' / '03.png').write_text('not an image')
    (folder / 'own' / 'notes.txt').touch()
    (folder / 'data').mkdir()
    shutil.make_archive(folder / 'data' / 'own', 'zip', folder / 'own')
    code, out, err = run_main_in(folder, *CONDITIONAL, '--name', RUN, '--iteration', 1)
    assert (code, err) == (0, '')
    return folder, out


@pytest.mark.slow
def test_train_prints_the_splits_of_a_zip_file_and_what_is_left_out(zipped):
    assert ('Data set: own in data/own.zip (images): 11 training and 6 test images (valid/) of 32 x 32 x 3, '
            '3 classes: above (4), below (4), left (3)\n'
            'Left out: train/left/03.png (not an image, or damaged), notes.txt (not an image file)\n') in zipped[1]


@pytest.mark.slow
def test_config_holds_how_the_zip_file_was_read(zipped):
    config = json.loads((zipped[0] / 'checkpoint' / RUN / 'config.json').read_text())
    assert (config['reading'], config['images']) == (['splits train/ and valid/'], 11)


##################################################################################
# SavedModel
##################################################################################

# Prints the largest difference from the exported images and the standard deviation of the images, in units of 1/255.
COMPARE = '''
import numpy as np, tensorflow as tf, sys
model = tf.saved_model.load(sys.argv[1])
generate = model.signatures['serving_default']
saved = np.load(sys.argv[2])
inputs = {'z': tf.constant(saved['z'])}
if 'arr_1' in saved:
    inputs['label'] = tf.constant(saved['arr_1'], tf.int32)
images = np.round(255 * generate(**inputs)['images'].numpy())
print(np.abs(images - saved['arr_0']).max(), images.std())
'''

# Prints the error messages for labels that are not classes and for a z that is too short.
REFUSED = r'''
import re, sys
import tensorflow as tf
generate = tf.saved_model.load(sys.argv[1]).signatures['serving_default']
for label, z_dim in (10, 62), (-1, 62), (1, 61):
    try:
        generate(z=tf.zeros([2, z_dim]), label=tf.constant([0, label]))
    except tf.errors.InvalidArgumentError as error:
        print(re.search(r'indices.*\)|In\[0\].*\]', str(error))[0])
'''


def documented_example():
    """Return the program in the documentation that loads a SavedModel."""
    for path in [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]:
        for block in path.read_text().split('```python')[1:]:
            program = block.split('```')[0]
            if 'tf.saved_model.load' in program:
                return program
    raise AssertionError('the documentation does not show how to load a SavedModel')


@pytest.fixture(scope='module')
def exports(tmp_path_factory, run_main_in, small_data):
    """{name: (results folder, output of the last export)} of two runs of 8 steps.

    Each run was sampled with --export 9 and then exported twice.
    """
    exports = {}
    for name, options in ('conditional', ['--conditional', 'true']), ('bfloat16', ['--precision', 'bfloat16']):
        folder = tmp_path_factory.mktemp(name)
        for command in (['--data_dir', small_data, '--batch_size', 7, '--epoch', 1, '--iteration', 8, *options],
                        ['--phase', 'test', '--test_num', 1, '--export', 9], ['--phase', 'export'],
                        ['--phase', 'export']):
            code, out, err = run_main_in(folder, *command)
            assert (code, err) == (0, '')
        results, = (folder / 'results').iterdir()
        exports[name] = results, out
    return exports


@pytest.mark.slow
def test_export_prints_the_step_and_the_weights(exports):
    assert 'Generator of step 8, ema weights (z is [N, 62], uniform in [-1, 1]):\n' in exports['conditional'][1]


@pytest.mark.slow
def test_export_replaces_an_earlier_saved_model(exports):
    names = os.listdir(exports['conditional'][0])
    assert [name for name in names if 'saved_model' in name] == ['saved_model']


@pytest.mark.slow
@pytest.mark.parametrize('run', ['conditional', 'bfloat16'])
def test_saved_model_computes_the_images_that_test_exports(exports, run):
    """In its own process, with TensorFlow 2 only."""
    results, _ = exports[run]
    process = subprocess.run([sys.executable, '-c', COMPARE, results / 'saved_model',
                              results / 'samples' / 'samples.npz'], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    difference, deviation = map(float, process.stdout.split())
    assert difference == 0 and deviation > 1


@pytest.mark.slow
def test_saved_model_refuses_invalid_labels_and_z(exports):
    """In its own process, with TensorFlow 2 only."""
    process = subprocess.run([sys.executable, '-c', REFUSED, exports['conditional'][0] / 'saved_model'],
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        'indices[1] = 10 is not in [0, 10)', 'indices[1] = -1 is not in [0, 10)', 'In[0]: [2,61], In[1]: [62,1024]']


@pytest.mark.slow
def test_documented_example_loads_the_saved_model(exports, tmp_path):
    path = exports['conditional'][0] / 'saved_model'
    program = documented_example().replace("'results/<run>/saved_model'", repr(str(path)))
    process = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert imageio.imread(tmp_path / 'seven.png').shape == (28, 28)


##################################################################################
# Memory
##################################################################################

# Runs main.py, then prints the memory of the process in KiB, without file-backed pages.
MEASURE = '''
import re, sys
sys.argv = ['main.py', *sys.argv[1:]]
import main
main.main()
print('RssAnon', re.search(r'RssAnon:\\s*([0-9]+)', open('/proc/self/status').read())[1])
'''


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Compare 20,100 images with 201 images. At 64 x 64 pixels, 20,100 prepared images take 247 MB."""
    make_images(tmp_path / 'data' / 'few', 67)
    for name in CLASSES:
        os.makedirs(tmp_path / 'data' / 'many' / name)
        for path in (tmp_path / 'data' / 'few' / name).iterdir():
            for copy in range(100):
                os.link(path, tmp_path / 'data' / 'many' / name / f'{copy}_{path.name}')

    def megabytes(dataset):
        options = ['--dataset', dataset, '--network', 'dcgan', '--ch', '8', '--batch_size', '4', '--epoch', '1',
                   '--iteration', '3', '--sample_num', '4']
        process = subprocess.run([sys.executable, '-c', MEASURE, *options], cwd=tmp_path, capture_output=True,
                                 text=True, env={**os.environ, 'PYTHONPATH': str(MAIN.parent)})
        assert process.returncode == 0, process.stderr
        return int(re.search('RssAnon ([0-9]+)', process.stdout)[1]) / 1024

    megabytes('many')  # prepares the images
    assert megabytes('many') - megabytes('few') < 100

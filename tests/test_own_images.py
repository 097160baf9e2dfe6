"""Own pictures through the whole program: another network, colour, classes, flips; and a SavedModel of it."""

import json
import os
import re
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MAIN, one_line_error, snapshot
from PIL import Image

import sampling

CLASSES = {'above': (slice(0, 16), slice(None)), 'below': (slice(16, 32), slice(None)),
           'left': (slice(None), slice(0, 16))}


@pytest.fixture(autouse=True)
def quick_statistics(monkeypatch):
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)


def make_pictures(folder, count=40):
    """Pictures of 40 x 32 pixels in three folders, bright where the folder's name says."""
    rng = np.random.default_rng(0)
    for name, where in CLASSES.items():
        os.makedirs(folder / name)
        for number in range(count):
            pixels = rng.integers(0, 100, [32, 40, 3])
            pixels[:, 4:36][where] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f'{number:02d}.png')


OPTIONS = ['--dataset', 'own', '--network', 'dcgan', '--ch', 8, '--img_size', 32, '--batch_size', 6, '--flip', 'true',
           '--conditional', 'true', '--print_freq', 1, '--sample_freq', 3, '--save_freq', 3, '--sample_num', 6]
NAME = 'SAGAN_own_6_62_conditional_dcgan_ch8_img_size32_flip'


def test_own_pictures(run, tmp_path, capfd):
    """Trained, stopped, gone on with to the bit, sampled, scored and exported, the pictures gone or changed."""
    make_pictures(tmp_path / 'data' / 'own')
    code, out, err = run(*OPTIONS, '--epoch', 1, '--iteration', 6, '--name', 'whole')
    assert (code, err) == (0, ''), err
    assert 'Preparing 120 pictures' in out and 'Data set: the pictures in data/own' in out
    for steps in 3, 6:
        code, out, err = run(*OPTIONS, '--epoch', 1, '--iteration', steps)
        assert (code, err) == (0, ''), err
    assert 'Going on from step 3 of 6' in out and 'Preparing' not in out
    whole, parts = (tf.train.load_checkpoint(str(tmp_path / 'checkpoint' / name / 'SAGAN' / 'SAGAN.model-6'))
                    for name in ('whole', NAME))
    for name in whole.get_variable_to_shape_map():
        assert (whole.get_tensor(name) == parts.get_tensor(name)).all(), name
    config = json.loads((tmp_path / 'checkpoint' / NAME / 'config.json').read_text())
    assert config['class_names'] == list(CLASSES) and config['images'] == 108 and config['c_dim'] == 0
    results = tmp_path / 'results' / NAME
    assert imageio.imread(results / 'SAGAN_epoch000_test_all_classes.png').shape == (2 * 32, 3 * 32, 3)
    assert (results / 'SAGAN_progress.gif').exists()

    code, out, err = run('--phase', 'eval', '--eval_num', 60, '--name', NAME)
    assert (code, err) == (0, ''), err
    assert 'classifier score (of 3)' in out and 'share of above' in out and 'class_accuracy' in out
    assert (tmp_path / 'checkpoint' / 'classifier_own_32x32x3').is_dir()

    # The pictures are gone: what was trained can be sampled all the same; it says what it needs where it needs them.
    (tmp_path / 'data').rename(tmp_path / 'away')
    code, out, err = run('--phase', 'test', '--test_num', 1, '--label', 'left', '--export', 4, '--name', NAME)
    assert (code, err) == (0, ''), err
    saved = np.load(results / 'samples_label2' / 'samples.npz')
    assert saved['arr_0'].shape == (4, 32, 32, 3) and saved['arr_1'].tolist() == [2] * 4 and saved['z'].shape == (4, 62)
    assert (imageio.imread(results / 'samples_label2' / '00003.png') == saved['arr_0'][3]).all()
    one_line_error(run('--phase', 'test', '--label', 'right'), '--label right', '0 above, 1 below, 2 left')
    one_line_error(run('--phase', 'eval'), 'data/own is no folder')
    one_line_error(run(*OPTIONS), 'data/own is no folder')
    (tmp_path / 'away').rename(tmp_path / 'data')

    before = snapshot(tmp_path / 'checkpoint')
    (tmp_path / 'data' / 'own' / 'left').rename(tmp_path / 'data' / 'own' / 'right')
    one_line_error(run(*OPTIONS, '--iteration', 8), 'the classes above, below, left',
                   'now have above, below, right')
    one_line_error(run('--phase', 'eval', '--name', NAME), 'above, below, left', 'now have above, below, right')
    assert snapshot(tmp_path / 'checkpoint').keys() == before.keys()
    one_line_error(run(*OPTIONS, '--img_size', 48), '--network dcgan takes images of 32, 64, 128 pixels, not 48 x 48')
    assert not list((tmp_path / 'data' / 'own').glob('prepared_48x48*'))  # refused before anything is prepared
    (tmp_path / 'data' / 'own' / 'right').rename(tmp_path / 'data' / 'own' / 'left')
    for name in '03.png', '04.png':
        (tmp_path / 'data' / 'own' / 'left' / name).unlink()
    code, out, err = run(*OPTIONS, '--epoch', 1, '--iteration', 8)
    assert (code, err) == (0, '') and 'has 107 images to train on, and had 108 before' in out
    assert 'Going on from step 6 of 8' in out


def test_pictures_without_classes(run, tmp_path):
    """The classifier learns the turns, and the scores that need classes are left out by name."""
    make_pictures(tmp_path / 'data' / 'own')
    (tmp_path / 'data' / 'own' / 'above' / '00.png').rename(tmp_path / 'data' / 'own' / 'flat.png')
    options = [option for option in OPTIONS if option not in ('--conditional', '--flip', 'true')]
    one_line_error(run(*options, '--conditional', 'true'), '--conditional true takes a --dataset with classes')
    one_line_error(run(*options, '--batch_size', 109), '--batch_size 109 is more than the 108 images of own')
    code, out, err = run(*options, '--epoch', 1, '--iteration', 2, '--eval_freq', 1, '--recipe', 'paper', '--network',
                         'resnet')
    assert (code, err) == (0, ''), err
    assert 'Fréchet distance' in out and 'classifier score' not in out  # and not conditional, as there are no classes
    code, out, err = run('--phase', 'eval', '--eval_num', 30)
    assert (code, err) == (0, ''), err
    assert 'right about the turns on' in out
    assert 'Left out, because the data have no classes: classifier score' in out and 'share of' not in out
    one_line_error(run('--phase', 'test', '--label', '1'), '--label 1 takes a run of --conditional true')


LOADING = '''
import numpy as np, tensorflow as tf, sys
model = tf.saved_model.load(sys.argv[1])
generate = model.signatures['serving_default']
saved = np.load(sys.argv[2])
given = {'z': tf.constant(saved['z'])}
if 'arr_1' in saved:
    given['label'] = tf.constant(saved['arr_1'], tf.int32)
images = np.round(255 * generate(**given)['images'].numpy())
print(np.abs(images - saved['arr_0']).max(), images.std())
'''


@pytest.mark.parametrize('options', [['--conditional', 'true'], ['--precision', 'bfloat16']],
                         ids=['float32', 'bfloat16'])
def test_saved_model(run, tmp_path, small_data, options):
    """Loaded in a new process by TensorFlow 2 alone, it draws what --phase test exports; README's lines work too."""
    code, _, err = run('--data_dir', small_data, '--batch_size', 7, '--epoch', 1, '--iteration', 8, *options)
    assert (code, err) == (0, ''), err
    assert run('--phase', 'test', '--test_num', 1, '--export', 9)[0] == 0
    for _ in range(2):  # the second takes the first one's place
        code, out, err = run('--phase', 'export')
        assert (code, err) == (0, '') and 'The generator of step 8, ema weights, is in' in out
    results, = (tmp_path / 'results').iterdir()
    lines = (MAIN.parent / 'README.md').read_text().split('```python')[1].split('```')[0] if 'true' in options else ''
    program = LOADING + lines.replace("'results/<run>/saved_model'", 'sys.argv[1]')
    done = subprocess.run([sys.executable, '-c', program, results / 'saved_model', results / 'samples' / 'samples.npz'],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert imageio.imread(tmp_path / 'seven.png').shape == (28, 28) if lines else True
    difference, deviation = map(float, done.stdout.split())
    assert difference == 0 and deviation > 1
    assert not list(results.glob('*.part'))


MEASURING = '''
import re, sys
sys.argv = ['main.py', *sys.argv[1:]]
import main
main.main()
print('RssAnon', re.search(r'RssAnon:\\s*([0-9]+)', open('/proc/self/status').read())[1])
'''


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """20,000 pictures of 64 x 64, 245 MB, against 200 of them."""
    make_pictures(tmp_path / 'data' / 'few', 67)
    os.makedirs(tmp_path / 'data' / 'many' / 'a')
    for name in CLASSES:
        os.makedirs(tmp_path / 'data' / 'many' / name)
        for path in (tmp_path / 'data' / 'few' / name).iterdir():
            for copy in range(100):
                os.link(path, tmp_path / 'data' / 'many' / name / f'{copy}_{path.name}')

    def anonymous(dataset):
        options = ['--dataset', dataset, '--network', 'dcgan', '--ch', '8', '--batch_size', '4', '--epoch', '1',
                   '--iteration', '3', '--sample_num', '4']
        done = subprocess.run([sys.executable, '-c', MEASURING, *options], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, 'PYTHONPATH': str(MAIN.parent)})
        assert done.returncode == 0, done.stderr
        return int(re.search('RssAnon ([0-9]+)', done.stdout)[1]) / 1024

    anonymous('many')  # makes the array
    assert anonymous('many') - anonymous('few') < 100

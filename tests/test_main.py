"""main.py as its users start it."""

import collections
import contextlib
import fcntl
import gzip
import json
import os
import pathlib
import pty
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from unittest import mock

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MAIN, one_line_error, snapshot

import datasets
import sampling
from datasets import idx
from SAGAN import SAGAN

# A run of 2 epochs of 42 steps on the small data set, quick to train.
QUICK = ['--dataset', 'mnist', '--batch_size', 7, '--epoch', 2, '--print_freq', 1, '--sample_freq', 42,
         '--save_freq', 20, '--sample_num', 5]
RUN = 'SAGAN_mnist_7_62'


@pytest.fixture(autouse=True)
def quick_statistics(monkeypatch):
    """Fewer passes for the statistics of the averaged weights, in what runs in this process."""
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)


def weights(folder, step):
    reader = tf.train.load_checkpoint(f'{folder}/checkpoint/{RUN}/SAGAN/SAGAN.model-{step}')
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def copy(folder, to):
    """Copy a folder; the weights in it, which TensorFlow replaces and does not write into, as links: they are large."""
    shutil.copytree(folder, to, dirs_exist_ok=True, copy_function=lambda source, target: (
        os.link if '.data-' in source else shutil.copy2)(source, target))


@pytest.fixture(scope='module')
def finished(tmp_path_factory, small_data):
    """A folder with a run that was trained to its end without a break."""
    folder = tmp_path_factory.mktemp('finished')
    done = subprocess.run([sys.executable, MAIN, '--phase', 'train', '--data_dir', small_data, *map(str, QUICK)],
                          cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_train(finished):
    folder, done = finished
    assert done.stderr == ''  # TensorFlow's chatter among it
    lines = done.stdout.splitlines()
    assert lines[0].startswith('Data set: mnist in ') and lines[1].startswith('generator/g_fc1/Matrix')
    assert re.fullmatch(r'Finished and saved at step 84 of 84 after \d+\.\d minutes', lines[-4])
    assert lines[-3:-1] == [f'Checkpoints: checkpoint/{RUN}', f'Results: results/{RUN}']
    assert lines[-1].startswith(f'Next: {shlex.join([sys.executable, str(MAIN)])} --phase test --data_dir ')
    assert '52 trainable variables, 13,855,684 parameters' in lines
    assert sum(bool(re.fullmatch(r'Epoch: \[ [01]\] \[ *\d+/  42\] time: \d+\.\d{4}, d_loss: \d+\.\d{8}, '
                                 r'g_loss: \d+\.\d{8}', line)) for line in lines) == 84
    assert sorted(os.listdir(folder)) == ['checkpoint', 'logs', 'results']
    assert sorted(os.listdir(folder / 'results' / RUN)) == [
        'SAGAN_curves.png', 'SAGAN_epoch000_test_all_classes.png', 'SAGAN_epoch001_test_all_classes.png',
        'SAGAN_explorer.html', 'SAGAN_history.csv', 'SAGAN_maps', 'SAGAN_progress.gif', 'SAGAN_train_00_0020.png',
        'SAGAN_train_00_0042.png', 'SAGAN_train_01_0042.png']
    assert sorted(os.listdir(folder / 'checkpoint' / RUN / 'SAGAN')) == ['SAGAN.model-60.data-00000-of-00001',
                                                                        'SAGAN.model-60.index',
                                                                        'SAGAN.model-80.data-00000-of-00001',
                                                                        'SAGAN.model-80.index',
                                                                        'SAGAN.model-84.data-00000-of-00001',
                                                                        'SAGAN.model-84.index', 'checkpoint']
    config = json.loads((folder / 'checkpoint' / RUN / 'config.json').read_text())
    assert config['batch_size'] == 7 and config['g_lr'] == 0.001 and config['dataset_name'] == 'mnist'
    rows = (folder / 'results' / RUN / 'SAGAN_history.csv').read_text().splitlines()
    assert [row.split(',')[0] for row in rows] == ['step', *map(str, range(1, 85))]
    assert rows[0] == 'step,d_loss,d_loss_real,d_loss_fake,g_loss,d_real,d_fake,g_gamma,d_gamma'  # no scores


def test_summaries(finished):
    folder, _ = finished
    path, = (folder / 'logs' / RUN).iterdir()
    events = list(tf.train.summary_iterator(str(path)))
    steps = [event.step for event in events if any(value.tag == 'd_loss' for value in event.summary.value)]
    assert steps == list(range(1, 85))
    assert any(event.graph_def for event in events)
    grids = {event.step: value.image.encoded_image_string for event in events for value in event.summary.value
             if value.tag == 'samples'}
    assert list(grids) == [20, 42, 84]  # and with the first checkpoint
    assert grids[42] == (folder / 'results' / RUN / 'SAGAN_train_00_0042.png').read_bytes()


def test_test_needs_the_folder_of_the_run_and_nothing_else(finished, run, tmp_path):
    folder, _ = finished
    copy(folder / 'checkpoint', tmp_path / 'checkpoint')
    code, out, err = run('--phase', 'test', '--test_num', 3)
    assert (code, err) == (0, '')
    assert RUN in out and 'step 84, ema weights' in out
    grids = [tmp_path / 'results' / RUN / f'SAGAN_test_00{number}.png' for number in range(3)]
    figures = [tmp_path / 'results' / RUN / f'SAGAN_{name}.png' for name in ('attention', 'interpolation')]
    page = tmp_path / 'results' / RUN / 'SAGAN_explorer.html'
    assert set((tmp_path / 'results' / RUN).iterdir()) == {*grids, *figures, page}
    pixels = imageio.imread(grids[0])
    assert pixels.shape == (2 * 28, 3 * 28)
    assert pixels[28:, 2 * 28:].max() == 0  # five samples leave the sixth cell empty
    assert pixels[28:, 28:2 * 28].max() > 0
    assert (pixels != imageio.imread(grids[1])).any()

    first = snapshot(tmp_path / 'results')
    run('--phase', 'test', '--test_num', 3)
    assert snapshot(tmp_path / 'results') == first
    # What is not the default has names of its own.
    assert 'step 84, raw weights' in run('--phase', 'test', '--test_num', 1, '--weights', 'raw')[1]
    results = tmp_path / 'results' / RUN
    assert (imageio.imread(results / 'SAGAN_test_000_raw.png') != pixels).mean() > 0.1
    run('--phase', 'test', '--test_num', 3, '--sample_seed', 1, '--sample_num', 100, '--export', 2, '--attention_of',
        'generator', '--data_dir', 'none', '--checkpoint', 80)
    other = imageio.imread(results / 'SAGAN_test_000_step80_seed1.png')
    assert other.shape == (280, 280) and (other[:28, :28] != pixels[:28, :28]).any()
    assert sorted(os.listdir(results / 'samples_step80_seed1')) == ['00000.png', '00001.png', 'samples.npz']
    both, one = (imageio.imread(results / f'SAGAN_attention{kind}.png') for kind in ('', '_step80_seed1'))
    assert len(one) < 0.7 * len(both)  # one network instead of two
    after = snapshot(tmp_path / 'results')
    assert {path: after[path] for path in first} == first


def test_eval(finished, run, tmp_path):
    copy(finished[0] / 'checkpoint', tmp_path / 'checkpoint')
    one_line_error(run('--phase', 'eval', '--eval_num', 9), 'at least 10 samples, not 9', '--eval_num')
    assert not (tmp_path / 'checkpoint' / 'classifier_mnist').exists()  # before minutes of training
    code, out, err = run('--phase', 'eval', '--eval_num', 60)
    assert (code, err) == (0, '')
    assert '60 images of step 84' in out and 'generated   real test' in out
    assert re.search('Training the classifier: 50% after [0-9]+ s', out) and 'precision (k = 3, 60 images)' in out
    assert 'fewer than 2048 images' in out and f'Run: {RUN}\n' in out
    results = tmp_path / 'results' / RUN
    assert sorted(os.listdir(results)) == ['SAGAN_neighbours.png', 'SAGAN_scores.json']
    scores = json.loads((results / 'SAGAN_scores.json').read_text())
    assert scores['step'] == 84 and scores['dataset'] == 'mnist' and 0 < scores['classifier_accuracy'] <= 1
    assert scores['generated'].keys() == scores['real'].keys()
    assert scores['generated']['frechet_to_test'] > scores['real']['frechet_to_test']
    one_line_error(run('--phase', 'eval', '--eval_num', 9, '--checkpoint', 80), 'at least 10 samples', '--eval_num')


def test_stopped_and_resumed_bit_for_bit(finished, start, run, small_data, tmp_path, monkeypatch):
    """kill -9 and SIGTERM in the middle of an epoch: the end is that of a run that was never interrupted."""
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 12)  # as in the processes whose files are compared
    options = ['--phase', 'train', '--data_dir', small_data, *QUICK]
    for number, line, code in [(signal.SIGKILL, '[ 0] [  30/', -9), (signal.SIGTERM, '[ 1] [   3/', 143)]:
        process = start(*options)
        for out in process.stdout:
            if line in out:
                process.send_signal(number)
                break
        rest, err = process.communicate(timeout=1000)
        assert process.returncode == code, err
        assert err == ''
        if code > 0:
            step = int(re.search(r'Stopped and saved at step (\d+)', rest)[1])
            assert os.path.exists(tmp_path / 'checkpoint' / RUN / 'SAGAN' / f'SAGAN.model-{step}.index')
    code, out, err = run(*options)
    assert (code, err) == (0, '') and 'Going on from step' in out

    expected, found = weights(finished[0], 84), weights(tmp_path, 84)
    assert expected.keys() == found.keys() and len(found) == 52 + 22 + 104 + 4 + 39  # optimizers and averages too
    for name in expected:
        assert (expected[name] == found[name]).all(), name
    expected_files, found_files = (snapshot(folder / 'results' / RUN) for folder in (finished[0], tmp_path))
    assert [path for path in expected_files if found_files.get(path) != expected_files[path]] == []

    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)
    before = snapshot(tmp_path)
    code, out, _ = run(*options)
    assert code == 0 and 'complete at step 84' in out
    assert snapshot(tmp_path) == before
    code, out, _ = run(*options, '--epoch', 3, '--iteration', 29)
    assert code == 0 and 'Going on from step 84 of 87' in out
    assert (weights(tmp_path, 87)['generator/g_fc1/Matrix'] != expected['generator/g_fc1/Matrix']).any()


def test_the_papers_recipe(run, small_data, tmp_path):
    """Trained, stopped, gone on with, sampled by class and scored; typed options override the recipe's."""
    options = ['--dataset', 'mnist', '--data_dir', small_data, '--batch_size', 7, '--print_freq', 1, '--save_freq', 2,
               '--sample_num', 15, '--iteration', 2, '--network', 'article', '--img_size', 28,
               '--recipe', 'paper', '--g_lr', 0.001, '--eval_freq', 1, '--lr_decay', 'linear']
    code, out, err = run(*options, '--epoch', 1)
    assert (code, err) == (0, ''), err
    name = 'SAGAN_mnist_7_128_attentionpaper_d_lr0.0004_beta10_lr_decaylinear_gan_typehinge_beta20.9_znormal_sn' \
           '_conditional'
    results = tmp_path / 'results' / name
    config = json.loads((tmp_path / 'checkpoint' / name / 'config.json').read_text())
    assert config['gan_type'] == 'hinge' and config['g_lr'] == 0.001 and 'recipe' not in config
    # Two z as each of the ten classes.
    assert imageio.imread(results / 'SAGAN_epoch000_test_all_classes.png').shape == (2 * 28, 10 * 28)
    code, out, _ = run(*options, '--epoch', 2)
    assert code == 0 and 'Going on from step 2 of 4' in out
    assert 'Fréchet distance' in out and (tmp_path / 'checkpoint' / name / 'best' / 'checkpoint').exists()
    article = tmp_path / 'checkpoint' / 'SAGAN_mnist_7_62' / 'SAGAN'  # trained last, as far as its files say
    article.mkdir(parents=True)
    (article / 'SAGAN.model-1.index').touch()

    code, out, err = run('--phase', 'test', '--recipe', 'paper', '--network', 'article', '--img_size', 28, '--g_lr',
                         0.001, '--lr_decay', 'linear', '--test_num', 1, '--label', 7, '--export', 3)
    assert (code, err) == (0, '') and f'Run: {name}' in out
    assert imageio.imread(results / 'SAGAN_test_000_label7.png').shape == (4 * 28, 4 * 28)
    assert np.load(results / 'samples_label7' / 'samples.npz')['arr_1'].tolist() == [7, 7, 7]
    code, out, _ = run('--phase', 'eval', '--gan_type', 'hinge', '--eval_num', 60)
    assert code == 0 and 'recognised as the class asked for' in out
    scores = json.loads((results / 'SAGAN_scores.json').read_text())
    assert scores['generated'].keys() == scores['real'].keys()
    assert scores['real']['class_accuracy'] == scores['classifier_accuracy']
    assert scores['real']['frechet_within_classes'] < scores['generated']['frechet_within_classes']
    # The run with classes is taken, though the other was trained last.
    one_line_error(run('--phase', 'test', '--label', 10), '--label 10 is none of the classes: choose one of 0, 1, 2, ')
    one_line_error(run('--phase', 'test', '--label', 7, '--sn', 'false'), '--label 7', '--conditional true')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_ends_the_program_at_once(start, small_data, number):
    """When it has said what it trains on, and while it imports TensorFlow: killed by the signal, without a word."""
    for imports in False, True:
        process = start('--dataset', 'mnist', '--data_dir', small_data, *QUICK)
        assert any('Data set' in line for line in process.stdout)
        while imports and process.poll() is None and 'tensorflow' not in pathlib.Path(
                f'/proc/{process.pid}/maps').read_text():
            time.sleep(0.001)
        process.send_signal(number)
        out, err = process.communicate(timeout=1000)
        assert process.returncode == -number and err == '' and 'Epoch' not in out


def test_a_second_training_of_the_same_run_is_refused(start, run, small_data, tmp_path):
    options = ['--dataset', 'mnist', '--data_dir', small_data, *QUICK]
    first = start(*options)
    assert any('Epoch: [ 0] [   1/' in line for line in first.stdout)
    one_line_error(run(*options), f'{RUN} is being trained by process {first.pid} on ', '--name')
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=1000)
    assert (first.returncode, err) == (130, '')
    step = int(re.search(r'Stopped and saved at step (\d+)', out)[1])
    assert os.path.exists(tmp_path / 'checkpoint' / RUN / 'SAGAN' / f'SAGAN.model-{step}.index')


def test_a_run_with_a_name(run, small_data, tmp_path):
    options = ['--dataset', 'mnist', '--data_dir', small_data, *QUICK, '--iteration', 1, '--epoch', 1, '--name', 'mine']
    assert run(*options)[0] == 0
    assert os.listdir(tmp_path / 'checkpoint') == os.listdir(tmp_path / 'results') == ['mine']
    one_line_error(run(*options, '--seed', 3), 'mine holds a run with --seed 0', '--name')
    code, out, _ = run('--phase', 'test', '--name', 'mine', '--test_num', 1)
    assert code == 0 and 'Run: mine\n' in out


@pytest.mark.parametrize('batch_size, sample_num', [(1, 1), (100, 100)])
def test_any_batch_size_and_sample_num(run, small_data, tmp_path, batch_size, sample_num):
    code, _, err = run('--dataset', 'mnist', '--data_dir', small_data, '--batch_size', batch_size, '--epoch', 1,
                       '--iteration', 1, '--sample_freq', 1, '--sample_num', sample_num)
    assert (code, err) == (0, '')
    side = 28 * int(np.sqrt(sample_num))
    for name in 'SAGAN_train_00_0001.png', 'SAGAN_epoch000_test_all_classes.png':
        assert imageio.imread(tmp_path / 'results' / f'SAGAN_mnist_{batch_size}_62' / name).shape == (side, side)


def test_checkpoint_of_the_lineage_without_config(finished, run, tmp_path):
    copy(finished[0] / 'checkpoint', tmp_path / 'checkpoint')
    (tmp_path / 'checkpoint' / RUN / 'config.json').unlink()
    code, out, _ = run('--phase', 'test', '--test_num', 1)
    assert code == 0 and RUN in out


def test_without_the_packages(tmp_path):
    done = subprocess.run([sys.executable, '-S', MAIN], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and f'main.py: {sys.executable} has no module ' in done.stderr
    assert done.stderr.count('\n') == 1 and os.listdir(tmp_path) == []


def test_help_does_not_import_tensorflow(run):
    code, out, _ = run('--help')
    assert code == 0 and '--batch_size' in out
    script = f"import runpy, sys; sys.argv = ['main.py', '--help']; sys.path[0] = {str(MAIN.parent)!r}\n" \
             f"try: runpy.run_path({str(MAIN)!r}, run_name='__main__')\n" \
             "except SystemExit: print({'tensorflow', 'numpy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True).stdout
    assert out.endswith('set()\n')


##################################################################################
# What the user did wrong
##################################################################################

@pytest.mark.parametrize('option, value', [
    ('--phase', 'play'), ('--dataset', 'cifar'), ('--epoch', 0), ('--epoch', 1.5), ('--iteration', -1),
    ('--batch_size', 0), ('--batch_size', 'many'), ('--z_dim', 0), ('--g_lr', 0), ('--g_lr', 'nan'), ('--d_lr', -0.1),
    ('--d_lr', 'inf'), ('--beta1', 1), ('--beta1', -0.1), ('--sample_num', 0), ('--test_num', 0), ('--print_freq', 0),
    ('--sample_freq', 0), ('--save_freq', 0), ('--seed', -1), ('--sample_seed', -1),
    ('--keep', 0), ('--precision', 'float16'), ('--attention', 'maybe'),
    ('--attention_of', 'both_of_them'), ('--export', -1),
    ('--checkpoint', 'newest'), ('--eval_num', 0), ('--eval_freq', -1), ('--ema', 1), ('--ema', -0.1),
    ('--weights', 'mean'), ('--lr_decay', 'cosine'), ('--gan_type', 'wgan'), ('--ld', -1), ('--n_critic', 0),
    ('--beta2', 1), ('--z', 'cauchy'), ('--sn', 1), ('--conditional', 'yes'), ('--label', ''),
    ('--dataset', 'a/b'), ('--dataset', '.x'), ('--dataset', ''), ('--network', 'vgg'), ('--ch', 12), ('--ch', 0),
    ('--img_size', -1), ('--img_size', 30), ('--checkpoint_dir', 'a[1]'), ('--img_size', 4096), ('--c_dim', 2),
    ('--flip', 'often'),
    ('--recipe', 'mine'), ('--name', 'a/b'), ('--data_dir', ''), ('--epok', 3)])
def test_option_out_of_range(run, tmp_path, option, value):
    one_line_error(run(option, value), option)
    assert not list(tmp_path.iterdir())


def test_batch_larger_than_the_data_set(run, small_data):
    one_line_error(run('--dataset', 'mnist', '--data_dir', small_data, '--batch_size', 301), '--batch_size 301', '300')


def test_mnist_without_a_network(run, tmp_path):
    one_line_error(run('--dataset', 'mnist'), os.path.join('data', 'mnist'), *datasets.FILES, '--dataset digits')
    assert not list(tmp_path.iterdir())


def test_one_file_of_mnist_is_missing(run, small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / 'data')
    (tmp_path / 'data' / 'mnist' / f'{datasets.FILES[1]}.gz').unlink()
    before = snapshot(tmp_path)
    one_line_error(run('--dataset', 'mnist'), f'{datasets.FILES[1]}.gz: ', os.path.join('data', 'mnist'))
    assert snapshot(tmp_path) == before


def test_auto_without_a_network(run, tmp_path):
    (tmp_path / 'data' / 'digits').mkdir(parents=True)
    idx.make_digits(str(tmp_path / 'data' / 'digits'), train=20, test=10)
    code, out, err = run('--batch_size', 2, '--epoch', 1, '--iteration', 1)
    assert (code, err) == (0, '')
    lines = out.splitlines()
    assert 'digits' in lines[0] and lines[1].startswith('MNIST is not in data') and max(map(len, lines[:2])) < 100
    assert os.listdir(tmp_path / 'checkpoint') == ['SAGAN_digits_2_62']


def test_what_a_config_has_that_is_no_option_is_told_once_and_of_the_run_itself(run, small_data, tmp_path):
    options = ['--data_dir', small_data, '--batch_size', 7, '--iteration', 1, '--sample_num', 1, '--test_num', 1]
    assert run(*options, '--epoch', 1)[0] == 0
    path = tmp_path / 'checkpoint' / RUN / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'colour': 'red'}))
    for others, count in (['--epoch', 2], 1), (['--phase', 'test'], 1), (['--epoch', 1, '--seed', 3], 0):
        code, out, _ = run(*options, *others)
        assert (code, out.count(f'{RUN}/config.json has what this program does not know')) == (0, count)


def test_auto_does_not_leave_a_run_of_mnist(finished, run, tmp_path):
    """Where a --data_dir was forgotten."""
    copy(finished[0] / 'checkpoint', tmp_path / 'checkpoint')
    before = snapshot(tmp_path)
    one_line_error(run('--epoch', 30), f'checkpoint holds {RUN}, a run of MNIST', '--data_dir')
    assert snapshot(tmp_path) == before
    (tmp_path / 'checkpoint' / RUN / 'config.json').write_text('{')  # what it is a run of, nobody knows
    for options in ['--epoch', 30], ['--phase', 'test', '--label', 7]:
        code, _, err = run(*options)
        assert code == 2 and err.startswith(f'main.py: checkpoint/{RUN}/config.json is damaged')
    assert not (tmp_path / 'data').exists()


def test_a_disk_that_cannot_hold_the_run(run, small_data, tmp_path, monkeypatch):
    """Three checkpoints of 194 MB, said before the first step; fewer with --keep."""
    free = collections.namedtuple('usage', 'free')(int(500e6))
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: free)
    options = ['--dataset', 'mnist', '--data_dir', small_data, '--iteration', 3, '--epoch', 1, '--save_freq', 1]
    result = run(*options)
    one_line_error(result, 'take 583 MB', '500 MB left', '--keep')
    assert 'Epoch' not in result[1]
    assert run(*options, '--keep', 1)[0] == 0
    assert [path.name for path in (tmp_path / 'checkpoint').glob('*/SAGAN/*.index')] == ['SAGAN.model-3.index']


def test_a_reader_that_goes_away(start, finished, tmp_path):
    """As head does."""
    copy(finished[0] / 'checkpoint', tmp_path / 'checkpoint')
    process = start('--phase', 'test', '--test_num', 1)
    process.stdout.close()
    assert process.wait(timeout=1000) == 128 + signal.SIGPIPE and process.stderr.read() == ''


@pytest.mark.parametrize('rows, columns', [(24, 80), (24, 0), (0, 80)])
def test_what_a_terminal_shows(small_data, tmp_path, rows, columns):
    """At 80 columns a bar that ends within them, with what goes on at the end of an epoch; without a size, lines."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('4H', rows, columns, 0, 0))
        os.execv(sys.executable, [sys.executable, str(MAIN), *map(str, [
            *QUICK, '--network', 'dcgan', '--ch', 8, '--img_size', 32, '--iteration', 9, '--print_freq', 3,
            '--name', 'it', '--data_dir', small_data])])
    out = b''
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(terminal, 65536):
            out += part
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, out
    lines = [line for line in re.split('[\r\n]+', out.decode()) if line.startswith('Epoch')]
    if not rows * columns:
        assert [line[:20] for line in lines[:2]] == ['Epoch: [ 0] [   1/  ', 'Epoch: [ 0] [   3/  ']
        return
    assert max(map(len, lines)) <= 80 and all(re.match(r'Epoch [12]/2 \d+%\|.{5,}\| .* left, ', line) for line in lines)
    number = r'-?\d+\.\d\d'
    assert re.search(f' 100%.*steps/s, D {number} G {number} gamma {number} {number} *$', lines[-1])
    assert any(line.endswith('drawing') for line in lines)


@pytest.mark.parametrize('file, content, word', [
    (0, b'truncated', 'not a whole gzip file'),
    (1, b'not gzip', 'not a whole gzip file'),
    (2, gzip.compress(np.array([0x803, 1, 27, 28], '>u4').tobytes() + bytes(27 * 28)), '27 x 28'),
    (3, gzip.compress(np.array([0x801, 2], '>u4').tobytes() + bytes(2)), 'do not belong together')], ids=range(4))
def test_bad_data(run, small_data, tmp_path, file, content, word):
    shutil.copytree(small_data, tmp_path / 'data')
    path = tmp_path / 'data' / 'mnist' / f'{datasets.FILES[file]}.gz'
    path.write_bytes(path.read_bytes()[:5000] if content == b'truncated' else content)
    before = snapshot(tmp_path)
    one_line_error(run('--dataset', 'auto'), word, os.path.join('data', 'mnist'))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('option', ['--checkpoint_dir', '--result_dir', '--log_dir', '--data_dir'])
def test_folder_that_cannot_be_written(finished, run, small_data, tmp_path, option):
    copy(finished[0], tmp_path)
    (tmp_path / 'file').touch()
    before = snapshot(tmp_path)
    data = [] if option == '--data_dir' else ['--data_dir', small_data]
    dataset = 'digits' if option == '--data_dir' else 'mnist'
    one_line_error(run('--dataset', dataset, *data, option, 'file/folder', '--batch_size', 7), 'file/folder')
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('error', [
    MemoryError('of 58 GiB'), tf.errors.ResourceExhaustedError(None, None, 'OOM of 58 GiB\n\t [[node x]]\nHint')])
def test_memory_that_does_not_suffice(run, small_data, tmp_path, monkeypatch, error):
    monkeypatch.setattr(SAGAN, 'train_batch', mock.Mock(side_effect=error))
    one_line_error(run('--data_dir', small_data, *QUICK), 'memory does not suffice', 'of 58 GiB): take a smaller')


def test_full_disk(run, start, small_data, tmp_path):
    def no_file_above_20_mb():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))

    options = ['--data_dir', small_data, *QUICK, '--iteration', 8, '--epoch']
    assert run(*options, 1)[0] == 0
    before = snapshot(tmp_path / 'checkpoint')
    process = start(*options, 2, preexec_fn=no_file_above_20_mb)
    out, err = process.communicate(timeout=1000)
    one_line_error((process.returncode, out, err), 'step 16', 'free some space')
    after = snapshot(tmp_path / 'checkpoint')
    assert after.keys() == before.keys()
    assert all(before[path] == after[path] for path in before if path.name != 'config.json')


def test_damaged_checkpoint_falls_back(finished, run, small_data, tmp_path):
    copy(finished[0] / 'checkpoint', tmp_path / 'checkpoint')
    data = tmp_path / 'checkpoint' / RUN / 'SAGAN' / 'SAGAN.model-84.data-00000-of-00001'
    data.unlink()
    data.write_bytes(b'damaged')
    code, out, _ = run('--phase', 'train', '--data_dir', small_data, *QUICK)
    assert code == 0 and 'SAGAN.model-84 is damaged' in out and 'Going on from step 80 of 84' in out
    expected, found = weights(finished[0], 84), weights(tmp_path, 84)
    assert all((expected[name] == found[name]).all() for name in expected)


def test_checkpoint_of_another_network(finished, run, tmp_path):
    copy(finished[0] / 'checkpoint' / RUN, tmp_path / 'checkpoint' / 'SAGAN_mnist_7_9')
    (tmp_path / 'checkpoint' / 'SAGAN_mnist_7_9' / 'config.json').unlink()
    before = snapshot(tmp_path)
    one_line_error(run('--phase', 'test'), 'another network', 'generator/g_fc1/Matrix', '[62, 1024]', '[9, 1024]')
    assert snapshot(tmp_path) == before


def test_test_before_any_training(run, tmp_path):
    one_line_error(run('--phase', 'test'), 'no trained run in checkpoint', '--phase train')
    assert not list(tmp_path.iterdir())


def test_damaged_config(finished, run, small_data, tmp_path):
    copy(finished[0] / 'checkpoint', tmp_path / 'checkpoint')
    config = tmp_path / 'checkpoint' / RUN / 'config.json'
    before = json.loads(config.read_text())
    config.write_text('{"epoch": ')
    one_line_error(run('--phase', 'test'), 'config.json is damaged')
    config.unlink()
    code, out, _ = run('--phase', 'train', '--data_dir', small_data, *QUICK)
    assert code == 0 and 'complete at step 84' in out
    folders = 'data_dir', 'checkpoint_dir', 'result_dir', 'log_dir'
    assert {**json.loads(config.read_text()), **{name: before[name] for name in folders}} == before

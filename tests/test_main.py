"""main.py from the command line."""

import collections
import contextlib
import gzip
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from unittest import mock

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import MAIN, one_line_error, snapshot
from PIL import Image

import main
import networks
from datasets import load_dataset
from datasets.digits import make_digits
from datasets.idx import FILES
from distributed import launcher
from options import RECIPES, UserError
from storage import branch
from tf1 import tf

# Windows lacks these modules.
fcntl, pty, resource, termios = (pytest.importorskip(name) for name in ('fcntl', 'pty', 'resource', 'termios'))

# A run of 2 epochs of 42 steps on the small data set.
QUICK = ['--dataset', 'mnist', '--batch_size', 7, '--epoch', 2, '--print_freq', 1, '--sample_freq', 42,
         '--save_freq', 20, '--sample_num', 5, '--augment', 'false']
RUN = 'SAGAN_mnist_7_62'
# The paper's recipe with a smaller network, and with other values for some of its options.
PAPER = ['--recipe', 'paper', '--network', 'article', '--img_size', 28, '--g_lr', 0.001, '--lr_decay', 'linear',
         '--augment', 'false']
PAPER_RUN = 'SAGAN_mnist_7_128_attentionpaper_d_lr0.0004_beta10_lr_decaylinear_gan_typehinge_beta20.9_znormal_sn' \
            '_conditional'


def run_process(folder, *options):
    """Run main.py in a folder, in its own process, and wait until it ends."""
    return subprocess.run([sys.executable, MAIN, *map(str, options)], cwd=folder, capture_output=True, text=True)


def start_process(folder, *options):
    return subprocess.Popen([sys.executable, MAIN, *map(str, options)], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def send_signal_at(process, line, number):
    """Send a signal to a training process once it prints a line. Return (exit code, remaining output, errors)."""
    assert any(line in printed for printed in process.stdout)
    process.send_signal(number)
    out, err = process.communicate(timeout=1000)
    return process.returncode, out, err


def saved_weights(folder, step):
    reader = tf.train.load_checkpoint(f'{folder}/checkpoint/{RUN}/SAGAN/SAGAN.model-{step}')
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def differences(weights, others):
    assert weights.keys() == others.keys()
    return [name for name in weights if (weights[name] != others[name]).any()]


def copy_run(source, target):
    """Copy a folder. The weights in it are large and never written in place, so they become hard links."""
    def copy(path, new_path):
        if '.data-' in path:
            os.link(path, new_path)
        else:
            shutil.copy2(path, new_path)
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=copy)


def write_fake_run(folder, name, trained=0, **config):
    """Write what find_runs needs: config.json, and an empty checkpoint of step 1 with the timestamp `trained`."""
    checkpoint = folder / 'checkpoint' / name / 'SAGAN' / 'SAGAN.model-1.index'
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    os.utime(checkpoint, (trained, trained))
    (folder / 'checkpoint' / name / 'config.json').write_text(json.dumps(config))


##################################################################################
# Train
##################################################################################

@pytest.fixture(scope='module')
def finished(tmp_path_factory, small_data):
    """A folder with a run of QUICK that was not interrupted, and the process that trained it."""
    folder = tmp_path_factory.mktemp('finished')
    process = run_process(folder, '--phase', 'train', '--data_dir', small_data, *QUICK)
    assert process.returncode == 0, process.stderr
    return folder, process


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of the checkpoints of the finished run, in the folder in which run_main runs."""
    copy_run(finished[0] / 'checkpoint', tmp_path / 'checkpoint')
    return tmp_path


@pytest.mark.slow
def test_train_prints_no_error(finished):
    assert finished[1].stderr == ''  # not even TensorFlow's messages


@pytest.mark.slow
def test_train_prints_the_data_set_first(finished):
    assert finished[1].stdout.startswith('Data set: mnist in ')


@pytest.mark.slow
def test_train_prints_the_device(finished):
    assert re.match('Device: [CG]PU.*, ', finished[1].stdout.splitlines()[1])


@pytest.mark.slow
def test_train_prints_the_size_of_each_network(finished):
    lines = finished[1].stdout.splitlines()[2:4]
    sizes = [re.fullmatch(r'(generator|discriminator): (\d+) variables, ([\d,]+) parameters', line) for line in lines]
    assert [size[1] for size in sizes] == ['generator', 'discriminator']
    assert sum(int(size[2]) for size in sizes) == 52
    assert sum(int(size[3].replace(',', '')) for size in sizes) == 13_855_684


@pytest.mark.slow
def test_train_writes_the_table_of_variables(finished):
    rows = (finished[0] / 'results' / RUN / 'SAGAN_variables.txt').read_text().splitlines()
    assert len(rows) == 52
    assert rows[0].split() == ['generator/g_fc1/Matrix', '[62,', '1024]', '63,488']


@pytest.mark.slow
def test_train_prints_the_losses_of_every_step(finished):
    pattern = r'Epoch: \[ [01]\] \[ *\d+/  42\] time: [\d.]+, d_loss: \d+\.\d{4}, g_loss: \d+\.\d{4}, .*'
    assert len([line for line in finished[1].stdout.splitlines() if re.fullmatch(pattern, line)]) == 84


@pytest.mark.slow
def test_train_prints_its_folders_and_the_next_command_at_the_end(finished):
    outcome, checkpoints, results, command = finished[1].stdout.splitlines()[-4:]
    assert re.fullmatch(r'Finished at step 84 of 84 after \d+\.\d minutes', outcome)
    assert (checkpoints, results) == (f'Checkpoints: checkpoint/{RUN}', f'Results: results/{RUN}')
    assert command.startswith(f'Next: {shlex.join([sys.executable, str(MAIN)])} --phase test --data_dir ')


@pytest.mark.slow
def test_train_writes_checkpoints_logs_and_results(finished):
    assert sorted(os.listdir(finished[0])) == ['checkpoint', 'logs', 'results']


@pytest.mark.slow
def test_train_writes_history_grids_and_figures(finished):
    assert sorted(os.listdir(finished[0] / 'results' / RUN)) == [
        'SAGAN_curves.png', 'SAGAN_explorer.html', 'SAGAN_history.csv', 'SAGAN_maps', 'SAGAN_progress.gif',
        'SAGAN_samples_epoch001.png', 'SAGAN_samples_epoch002.png', 'SAGAN_train_step00020.png',
        'SAGAN_train_step00042.png', 'SAGAN_train_step00084.png', 'SAGAN_variables.txt']


@pytest.mark.slow
def test_train_keeps_the_three_newest_checkpoints(finished):
    files = [f'SAGAN.model-{step}.{kind}' for step in (60, 80, 84) for kind in ('data-00000-of-00001', 'index')]
    assert sorted(os.listdir(finished[0] / 'checkpoint' / RUN / 'SAGAN')) == [*files, 'checkpoint']


@pytest.mark.slow
def test_train_saves_the_optimizers_the_averages_and_the_statistics(finished):
    # 52 trainable variables with 2 Adam slots each, 22 batch norm statistics, 2 powers of beta per optimizer,
    # and the averages of the generator's 39 variables.
    assert len(saved_weights(finished[0], 84)) == 52 + 104 + 22 + 4 + 39


@pytest.mark.slow
def test_train_writes_given_and_default_options_to_the_config(finished):
    config = json.loads((finished[0] / 'checkpoint' / RUN / 'config.json').read_text())
    assert {'dataset_name': 'mnist', 'batch_size': 7, 'g_lr': 0.001}.items() <= config.items()


@pytest.mark.slow
def test_history_has_one_row_per_printed_step(finished):
    _, *rows = (finished[0] / 'results' / RUN / 'SAGAN_history.csv').read_text().splitlines()
    assert [int(row.split(',')[0]) for row in rows] == list(range(1, 85))


@pytest.mark.slow
def test_history_has_no_columns_for_scores_without_eval_freq(finished):
    columns, *_ = (finished[0] / 'results' / RUN / 'SAGAN_history.csv').read_text().splitlines()
    assert columns == 'step,d_loss,d_loss_real,d_loss_fake,g_loss,d_real,d_fake,g_gamma,d_gamma'


@pytest.fixture(scope='module')
def events(finished):
    """The TensorBoard events of the finished run."""
    path, = (finished[0] / 'logs' / RUN).iterdir()
    return list(tf.train.summary_iterator(str(path)))


@pytest.mark.slow
def test_summaries_hold_the_loss_of_every_printed_step(events):
    steps = [event.step for event in events if any(value.tag == 'd_loss' for value in event.summary.value)]
    assert steps == list(range(1, 85))


@pytest.mark.slow
def test_summaries_hold_the_graph(events):
    assert any(event.graph_def for event in events)


@pytest.mark.slow
def test_summaries_hold_the_grids(events, finished):
    grids = {event.step: value.image.encoded_image_string for event in events for value in event.summary.value
             if value.tag == 'samples'}
    assert grids == {step: (finished[0] / 'results' / RUN / f'SAGAN_train_step000{step}.png').read_bytes()
                     for step in (20, 42, 84)}  # step 20 has the first checkpoint


@pytest.mark.slow
@pytest.mark.parametrize('batch_size, sample_num', [(1, 1), (100, 100)])
def test_train_writes_grids_of_sample_num_images_for_any_batch_size(
        run_main, few_statistics, small_data, tmp_path, batch_size, sample_num):
    code, _, err = run_main('--dataset', 'mnist', '--data_dir', small_data, '--batch_size', batch_size, '--epoch', 1,
                            '--iteration', 1, '--sample_freq', 1, '--sample_num', sample_num)
    assert (code, err) == (0, '')
    for name in 'SAGAN_train_step00001.png', 'SAGAN_samples_epoch001.png':
        grid = imageio.imread(tmp_path / 'results' / f'SAGAN_mnist_{batch_size}_62_augment' / name)
        assert grid.shape == (560, 560)  # one image, enlarged by 20, and 10 x 10 images, enlarged by 2


@pytest.fixture(scope='module')
def named(tmp_path_factory, run_main_in, small_data):
    """A folder with a run that was trained with --name mine."""
    folder = tmp_path_factory.mktemp('named')
    code, _, err = run_main_in(folder, '--data_dir', small_data, *QUICK, '--iteration', 1, '--epoch', 1,
                               '--name', 'mine')
    assert (code, err) == (0, '')
    return folder


@pytest.mark.slow
def test_name_names_the_folders(named):
    assert os.listdir(named / 'checkpoint') == os.listdir(named / 'results') == ['mine']


@pytest.mark.slow
def test_name_of_a_run_with_other_options_is_refused(named, run_main_in, small_data):
    result = run_main_in(named, '--data_dir', small_data, *QUICK, '--name', 'mine', '--seed', 3)
    one_line_error(result, 'mine holds a run with --seed 0', '--name')


@pytest.mark.slow
def test_name_selects_the_run_to_sample(named, run_main_in):
    code, out, _ = run_main_in(named, '--phase', 'test', '--name', 'mine', '--test_num', 1)
    assert code == 0 and 'Run: mine\n' in out


##################################################################################
# Stop and resume
##################################################################################

@pytest.fixture(scope='module')
def interrupted(tmp_path_factory, small_data):
    """A folder with the run of QUICK, and (exit code, output, errors) of the three processes that trained it.

    The first was killed and the second was stopped by SIGTERM, both within an epoch. The third finished the run.
    """
    folder, command = tmp_path_factory.mktemp('interrupted'), ['--data_dir', small_data, *QUICK]
    killed = send_signal_at(start_process(folder, *command), '[ 0] [  30/', signal.SIGKILL)
    stopped = send_signal_at(start_process(folder, *command), '[ 1] [   3/', signal.SIGTERM)
    process = run_process(folder, *command)
    return folder, killed, stopped, (process.returncode, process.stdout, process.stderr)


@pytest.mark.slow
def test_killed_training_prints_no_error(interrupted):
    _, (code, _, err), _, _ = interrupted
    assert (code, err) == (-signal.SIGKILL, '')


@pytest.mark.slow
def test_sigterm_ends_training_with_143(interrupted):
    _, _, (code, _, err), _ = interrupted
    assert (code, err) == (128 + signal.SIGTERM, '')


@pytest.mark.slow
def test_resumed_training_starts_at_the_step_at_which_it_was_stopped(interrupted):
    _, _, (_, stopped, _), (_, resumed, _) = interrupted
    step = re.search(r'Stopped at step (\d+) of 84', stopped)[1]
    assert f'Resuming at step {step} of 84' in resumed


@pytest.mark.slow
def test_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(interrupted, finished):
    assert differences(saved_weights(finished[0], 84), saved_weights(interrupted[0], 84)) == []


@pytest.mark.slow
def test_interrupted_run_ends_with_the_results_of_an_uninterrupted_one(interrupted, finished):
    expected, actual = (snapshot(folder / 'results' / RUN) for folder in (finished[0], interrupted[0]))
    assert [path for path in expected if actual.get(path) != expected[path]] == []


@pytest.mark.slow
def test_complete_run_is_not_changed(trained, run_main, small_data):
    before = snapshot(trained)
    code, out, _ = run_main('--data_dir', small_data, *QUICK)
    assert code == 0 and 'complete at step 84' in out
    assert snapshot(trained) == before


@pytest.mark.slow
def test_larger_epoch_continues_a_complete_run(trained, finished, run_main, few_statistics, small_data):
    code, out, _ = run_main('--data_dir', small_data, *QUICK, '--epoch', 3, '--iteration', 29)
    assert code == 0 and 'Resuming at step 84 of 87' in out
    assert 'generator/g_fc1/Matrix' in differences(saved_weights(finished[0], 84), saved_weights(trained, 87))


@pytest.fixture(scope='module')
def contested(tmp_path_factory, run_main_in, small_data):
    """The folder, process id and result of a training process that Ctrl-C stopped.

    Also the result of a second process that tried to train the same run before Ctrl-C.
    """
    folder, command = tmp_path_factory.mktemp('contested'), ['--data_dir', small_data, *QUICK]
    first = start_process(folder, *command)
    assert any('Epoch: [ 0] [   1/' in line for line in first.stdout)
    second = run_main_in(folder, *command)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=1000)
    return folder, first.pid, (first.returncode, out, err), second


@pytest.mark.slow
def test_second_process_that_trains_a_run_is_refused(contested):
    _, pid, _, second = contested
    one_line_error(second, f'{RUN} is being trained by process {pid} on ', '--name')


@pytest.mark.slow
def test_ctrl_c_ends_training_with_130(contested):
    _, _, (code, _, err), _ = contested
    assert (code, err) == (128 + signal.SIGINT, '')


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint(contested):
    folder, _, (_, out, _), _ = contested
    step = re.search(r'Stopped at step (\d+)', out)[1]
    assert (folder / 'checkpoint' / RUN / 'SAGAN' / f'SAGAN.model-{step}.index').exists()


@pytest.mark.slow
@pytest.mark.parametrize('during_import', [False, True], ids=['before the imports', 'while importing TensorFlow'])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_during_startup_ends_the_program_silently(start_main, small_data, number, during_import):
    process = start_main('--data_dir', small_data, *QUICK)
    assert any('Data set' in line for line in process.stdout)
    maps = pathlib.Path(f'/proc/{process.pid}/maps')
    while during_import and process.poll() is None and 'tensorflow' not in maps.read_text():
        time.sleep(0.001)
    process.send_signal(number)
    out, err = process.communicate(timeout=1000)
    assert process.returncode == -number and err == '' and 'Epoch' not in out


@pytest.fixture(scope='module')
def repaired(finished, tmp_path_factory, run_main_in, small_data):
    """The folder and the result of a training process that found the newest checkpoint damaged."""
    folder = tmp_path_factory.mktemp('repaired')
    copy_run(finished[0] / 'checkpoint', folder / 'checkpoint')
    data = folder / 'checkpoint' / RUN / 'SAGAN' / 'SAGAN.model-84.data-00000-of-00001'
    data.unlink()
    data.write_bytes(b'damaged')
    return folder, run_main_in(folder, '--data_dir', small_data, *QUICK)


@pytest.mark.slow
def test_damaged_checkpoint_is_reported_and_the_previous_one_loaded(repaired):
    _, (code, out, _) = repaired
    assert code == 0 and 'SAGAN.model-84 is damaged' in out and 'Resuming at step 80 of 84' in out


@pytest.mark.slow
def test_damaged_checkpoint_is_replaced_by_the_same_weights(repaired, finished):
    assert differences(saved_weights(finished[0], 84), saved_weights(repaired[0], 84)) == []


@pytest.mark.slow
def test_missing_config_of_a_complete_run_is_restored(trained, run_main, small_data):
    path = trained / 'checkpoint' / RUN / 'config.json'
    before = json.loads(path.read_text())
    path.unlink()
    code, _, _ = run_main('--data_dir', small_data, *QUICK)
    assert code == 0
    del before['augment']  # the run counts as older than this option, so augment is false
    assert json.loads(path.read_text()) == {**before, 'data_dir': str(small_data)}


@pytest.mark.slow
@pytest.mark.parametrize('options, count', [
    (['--epoch', 2], 1), (['--phase', 'test', '--test_num', 1], 1), (['--iteration', 1, '--epoch', 1, '--seed', 3], 0)],
    ids=['train', 'test', 'another run'])
def test_unknown_key_of_a_config_is_reported_once(trained, run_main, few_statistics, small_data, options, count):
    path = trained / 'checkpoint' / RUN / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'colour': 'red'}))
    code, out, _ = run_main('--data_dir', small_data, '--batch_size', 7, '--augment', 'false', *options)
    assert (code, out.count(f'{RUN}/config.json has unknown keys, which are ignored: colour')) == (0, count)


##################################################################################
# Test
##################################################################################

@pytest.fixture(scope='module')
def sampled(finished, tmp_path_factory, run_main_in):
    """A folder that held only checkpoints before --phase test, {path: digest} of its results, and the output."""
    folder = tmp_path_factory.mktemp('sampled')
    copy_run(finished[0] / 'checkpoint', folder / 'checkpoint')
    code, out, err = run_main_in(folder, '--phase', 'test', '--test_num', 3)
    assert (code, err) == (0, '')
    return folder, snapshot(folder / 'results'), out


@pytest.mark.slow
def test_test_prints_the_command_that_writes_the_playground(sampled):
    *_, line = sampled[2].splitlines()
    assert line == f'To play with both networks in a browser: {sys.executable} main.py --phase export'


@pytest.fixture(scope='module')
def sampled_with_options(sampled, run_main_in):
    """The results folder after the same run was sampled again, with raw weights and with other options."""
    folder, _, _ = sampled
    for options in (['--weights', 'raw'],
                    ['--sample_seed', 1, '--sample_num', 100, '--export', 2, '--attention_of', 'generator',
                     '--data_dir', 'none', '--checkpoint', 80]):
        code, _, err = run_main_in(folder, '--phase', 'test', '--test_num', 1, *options)
        assert (code, err) == (0, '')
    return folder / 'results' / RUN


@pytest.mark.slow
def test_test_prints_the_run_the_step_and_the_weights(sampled):
    _, _, out = sampled
    assert f'Run: {RUN}\n' in out and 'of step 84, ema weights' in out


@pytest.mark.slow
def test_test_prints_the_device(sampled):
    assert re.search(f'^Run: {RUN}\nDevice: [CG]PU', sampled[2], re.M)


@pytest.mark.slow
def test_test_writes_grids_figures_and_the_page(sampled):
    _, files, _ = sampled
    names = [*(f'test_{number:03d}.png' for number in range(3)), 'attention.png', 'interpolation.png', 'explorer.html']
    assert {str(path) for path in files} == {f'{RUN}/SAGAN_{name}' for name in names}


@pytest.mark.slow
def test_test_fills_a_grid_row_by_row(sampled):
    pixels = imageio.imread(sampled[0] / 'results' / RUN / 'SAGAN_test_000.png')
    assert pixels.shape == (2 * 196, 3 * 196)  # enlarged
    assert pixels[196:, 196:2 * 196].max() > 0 and pixels[196:, 2 * 196:].max() == 0  # 5 images, 6 cells


@pytest.mark.slow
def test_test_samples_different_images_for_each_grid(sampled):
    first, second = (imageio.imread(sampled[0] / 'results' / RUN / f'SAGAN_test_00{number}.png') for number in (0, 1))
    assert (first != second).any()


@pytest.mark.slow
def test_test_writes_the_same_files_again(sampled, trained, run_main, few_statistics):
    run_main('--phase', 'test', '--test_num', 3)
    assert snapshot(trained / 'results') == sampled[1]


@pytest.mark.slow
def test_test_with_other_options_leaves_the_default_files_unchanged(sampled, sampled_with_options):
    folder, before, _ = sampled
    after = snapshot(folder / 'results')
    assert {path: after[path] for path in before} == before


@pytest.mark.slow
def test_test_draws_different_images_from_raw_weights(sampled_with_options):
    averaged, raw = (imageio.imread(sampled_with_options / f'SAGAN_test_000{suffix}.png') for suffix in ('', '_raw'))
    assert (averaged != raw).mean() > 0.1


@pytest.mark.slow
def test_test_samples_sample_num_images_of_sample_seed(sampled_with_options):
    default, other = (imageio.imread(sampled_with_options / f'SAGAN_test_000{suffix}.png')
                      for suffix in ('', '_step80_seed1'))
    assert other.shape == (560, 560)  # 10 x 10 images of 28 pixels, enlarged by 2
    assert default.shape == (392, 588)  # 2 x 3 images, enlarged by 7
    assert (other[:56:2, :56:2] != default[:196:7, :196:7]).any()


@pytest.mark.slow
def test_test_exports_single_images(sampled_with_options):
    exported = sorted(os.listdir(sampled_with_options / 'samples_step80_seed1'))
    assert exported == ['00000.png', '00001.png', 'samples.npz']


@pytest.mark.slow
def test_test_draws_the_attention_of_one_network(sampled_with_options):
    both, one = (imageio.imread(sampled_with_options / f'SAGAN_attention{suffix}.png')
                 for suffix in ('', '_step80_seed1'))
    assert len(one) < 0.7 * len(both)


@pytest.mark.slow
def test_test_samples_a_checkpoint_without_config(trained, run_main, few_statistics):
    """Checkpoints of the lineage have no config.json."""
    (trained / 'checkpoint' / RUN / 'config.json').unlink()
    code, out, _ = run_main('--phase', 'test', '--test_num', 1)
    assert code == 0 and f'Run: {RUN}\n' in out


@pytest.mark.slow
def test_test_refuses_a_checkpoint_of_another_network(finished, run_main, tmp_path):
    copy_run(finished[0] / 'checkpoint' / RUN, tmp_path / 'checkpoint' / 'SAGAN_mnist_7_9')
    (tmp_path / 'checkpoint' / 'SAGAN_mnist_7_9' / 'config.json').unlink()
    before = snapshot(tmp_path)
    one_line_error(run_main('--phase', 'test'), 'another network', 'generator/g_fc1/Matrix', '[62, 1024]', '[9, 1024]')
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_closed_output_ends_the_program_silently(trained, start_main):
    """This happens if the output is piped to head."""
    process = start_main('--phase', 'test', '--test_num', 1)
    process.stdout.close()
    assert process.wait(timeout=1000) == 128 + signal.SIGPIPE and process.stderr.read() == ''


##################################################################################
# Choosing a run
##################################################################################

def test_select_run_prints_the_run_trained_last_and_the_others(tmp_path, capsys):
    for number, name in enumerate(['b', 'c', 'a']):
        write_fake_run(tmp_path, name, trained=number)
    assert main.select_run({'checkpoint_dir': str(tmp_path / 'checkpoint')}).name == 'a'
    assert capsys.readouterr().out == 'Run: a, the latest of 3 matching runs; choose another with --name: c, b\n'


def test_select_run_chooses_by_the_given_options(tmp_path):
    write_fake_run(tmp_path, 'a', trained=2)
    write_fake_run(tmp_path, 'b', trained=1, sn=True)
    assert main.select_run({'checkpoint_dir': str(tmp_path / 'checkpoint'), 'sn': True}).name == 'b'


def test_select_run_reads_the_recipe(tmp_path):
    recipe = {'network': 'resnet', 'gan_type': 'hinge', 'sn': True, 'attention': 'paper', 'g_lr': 0.0001,
              'd_lr': 0.0004, 'beta1': 0, 'beta2': 0.9, 'z_dim': 128, 'z_name': 'normal'}
    write_fake_run(tmp_path, 'a', trained=2)
    write_fake_run(tmp_path, 'b', trained=1, **recipe)
    assert main.select_run({'checkpoint_dir': str(tmp_path / 'checkpoint'), 'recipe': 'paper'}).name == 'b'


@pytest.mark.parametrize('typed', [{}, {'recipe': 'paper'}], ids=['article', 'paper'])
def test_select_run_requires_classes_for_a_label(tmp_path, typed):
    recipe = RECIPES[typed.get('recipe', 'article')]
    options = {name: value for name, value in recipe.items() if value is not None}
    write_fake_run(tmp_path, 'a', trained=2, **options)
    write_fake_run(tmp_path, 'b', trained=1, **options, conditional=True)
    assert main.select_run({'checkpoint_dir': str(tmp_path / 'checkpoint'), 'label': '7', **typed}).name == 'b'


def test_label_without_a_conditional_run_is_refused(run_main, tmp_path):
    write_fake_run(tmp_path, RUN)
    one_line_error(run_main('--phase', 'test', '--label', 7), '--label 7 requires a run with --conditional true', RUN)


def test_label_is_not_blamed_for_another_option(run_main, tmp_path):
    write_fake_run(tmp_path, RUN, conditional=True)
    result = run_main('--phase', 'test', '--label', 7, '--seed', 3)
    one_line_error(result, f'main.py: no trained run with --seed 3 in checkpoint (existing: {RUN}): choose one')


def test_label_is_refused_by_export(run_main, tmp_path):
    write_fake_run(tmp_path, RUN, conditional=True)
    one_line_error(run_main('--phase', 'export', '--label', 7), '--label requires --phase test or eval')


@pytest.mark.parametrize('phase', ['test', 'eval', 'export'])
def test_sampling_before_training_is_refused(run_main, tmp_path, phase):
    one_line_error(run_main('--phase', phase), 'no trained run in checkpoint', '--phase train')
    assert not list(tmp_path.iterdir())


def test_damaged_config_is_refused(run_main, tmp_path):
    write_fake_run(tmp_path, RUN)
    (tmp_path / 'checkpoint' / RUN / 'config.json').write_text('{"epoch": ')
    one_line_error(run_main('--phase', 'test'), f'checkpoint/{RUN}/config.json is damaged')


@pytest.mark.parametrize('options', [['--epoch', 30], ['--phase', 'test', '--label', 7]], ids=['train', 'label'])
def test_damaged_config_is_refused_before_another_run_is_chosen(run_main, tmp_path, options):
    write_fake_run(tmp_path, RUN)
    (tmp_path / 'checkpoint' / RUN / 'config.json').write_text('{')
    code, _, err = run_main(*options)
    assert code == 2 and err.startswith(f'main.py: checkpoint/{RUN}/config.json is damaged')
    assert not (tmp_path / 'data').exists()


##################################################################################
# Compare
##################################################################################

@pytest.mark.parametrize('options, names', [
    ([], ['c', 'b', 'a']), (['--name', 'a,c,a'], ['a', 'c']), (['--gan_type', 'hinge'], ['b'])],
    ids=['all', 'names', 'options'])
def test_compare_selects_runs(run_main, tmp_path, options, names):
    for age, name in enumerate('abc'):
        write_fake_run(tmp_path, name, trained=age, gan_type='hinge' if name == 'b' else 'gan')
    code, out, err = run_main('--phase', 'compare', *options)
    assert (code, err) == (0, '')
    rows = (tmp_path / 'results' / 'compare.csv').read_text().splitlines()
    assert [row.split(',')[0] for row in rows] == ['run', *names]


@pytest.mark.parametrize('options, words', [
    ([], 'no trained run in checkpoint'), (['--name', 'a,b'], 'no trained run with --name a in checkpoint')])
def test_compare_without_matching_runs_is_refused(run_main, tmp_path, options, words):
    one_line_error(run_main('--phase', 'compare', *options), words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('phase', ['train', 'eval'])
def test_several_names_are_refused_outside_compare(run_main, tmp_path, phase):
    one_line_error(run_main('--phase', phase, '--name', 'a,b'), '--name a,b requires --phase compare')
    assert not list(tmp_path.iterdir())


##################################################################################
# Eval
##################################################################################

@pytest.fixture(scope='module')
def scored(finished, tmp_path_factory, run_main_in):
    """A folder after --phase eval, and the output."""
    folder = tmp_path_factory.mktemp('scored')
    copy_run(finished[0], folder)
    shutil.rmtree(folder / 'results')
    code, out, err = run_main_in(folder, '--phase', 'eval', '--eval_num', 60)
    assert (code, err) == (0, '')
    return folder, out


@pytest.mark.slow
@pytest.mark.parametrize('text', [
    f'Run: {RUN}\n', 'Plan: draw 60 samples, train the classifier (', '60 images of step 84', 'precision (k = 3) ',
    'With only 60 images', 'at least 128 images are needed, but there are only 60: Fréchet distance to'])
def test_eval_prints_the_run_and_its_scores(scored, text):
    assert text in scored[1]


@pytest.mark.slow
def test_eval_prints_the_progress_of_the_classifier(scored):
    assert re.search('Training the classifier: 50% after [0-9]+ s', scored[1])


@pytest.mark.slow
def test_eval_writes_scores_and_neighbours(scored):
    assert sorted(os.listdir(scored[0] / 'results' / RUN)) == ['SAGAN_neighbours.png', 'SAGAN_scores.json']


@pytest.mark.slow
def test_eval_writes_what_was_scored(scored):
    scores = json.loads((scored[0] / 'results' / RUN / 'SAGAN_scores.json').read_text())
    assert {'step': 84, 'dataset': 'mnist', 'eval_num': 60}.items() <= scores.items()
    assert 0 < scores['classifier_accuracy'] <= 1


@pytest.mark.slow
def test_eval_scores_real_images_better_than_generated_ones(scored):
    scores = json.loads((scored[0] / 'results' / RUN / 'SAGAN_scores.json').read_text())
    assert scores['generated'].keys() == scores['real'].keys()
    assert scores['generated']['kid'] > 2 * scores['real']['kid']


def test_reference_without_features_is_refused(run_main, tmp_path):
    one_line_error(run_main('--phase', 'eval', '--reference', 'fid.npz'), '--reference requires --features')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_eval_refuses_too_few_samples_before_training_the_classifier(trained, run_main, few_statistics):
    one_line_error(run_main('--phase', 'eval', '--eval_num', 9), 'at least 10 images are needed, not 9', '--eval_num')
    assert not (trained / 'checkpoint' / 'classifier_mnist').exists()


##################################################################################
# The paper's recipe
##################################################################################

@pytest.fixture(scope='module')
def paper(tmp_path_factory, run_main_in, small_data):
    """The folder of a run of PAPER, and the output of the command that resumed it for its second epoch.

    The folder also holds a newer run with the article's options. Its checkpoint is empty.
    """
    folder = tmp_path_factory.mktemp('paper')
    command = ['--dataset', 'mnist', '--data_dir', small_data, '--batch_size', 7, '--print_freq', 1, '--save_freq', 2,
               '--sample_num', 15, '--iteration', 2, '--eval_freq', 1, *PAPER]
    for epoch in 1, 2:
        code, out, err = run_main_in(folder, *command, '--epoch', epoch)
        assert (code, err) == (0, '')
    write_fake_run(folder, RUN, trained=time.time() + 1000)
    return folder, out


@pytest.fixture(scope='module')
def paper_samples(paper, run_main_in):
    """The results of --phase test --label 7 on the run of PAPER, selected by its options, and the output."""
    code, out, err = run_main_in(paper[0], '--phase', 'test', *PAPER, '--test_num', 1, '--label', 7, '--export', 3)
    assert (code, err) == (0, '')
    return paper[0] / 'results' / PAPER_RUN, out


@pytest.fixture(scope='module')
def paper_scores(paper, run_main_in):
    """The scores of --phase eval on the run of PAPER, and the output."""
    code, out, err = run_main_in(paper[0], '--phase', 'eval', '--gan_type', 'hinge', '--eval_num', 60)
    assert (code, err) == (0, '')
    return json.loads((paper[0] / 'results' / PAPER_RUN / 'SAGAN_scores.json').read_text()), out


@pytest.mark.slow
def test_given_options_override_the_recipe(paper):
    config = json.loads((paper[0] / 'checkpoint' / PAPER_RUN / 'config.json').read_text())
    assert config['gan_type'] == 'hinge' and config['g_lr'] == 0.001


@pytest.mark.slow
def test_recipe_is_not_saved(paper):
    assert 'recipe' not in json.loads((paper[0] / 'checkpoint' / PAPER_RUN / 'config.json').read_text())


@pytest.mark.slow
def test_config_has_the_number_of_images_of_each_class(paper, small_data):
    config = json.loads((paper[0] / 'checkpoint' / PAPER_RUN / 'config.json').read_text())
    _, labels = load_dataset('mnist', small_data).train
    assert config['class_counts'] == np.bincount(labels).tolist()


@pytest.mark.slow
def test_conditional_training_draws_each_z_in_every_class(paper):
    grid = imageio.imread(paper[0] / 'results' / PAPER_RUN / 'SAGAN_samples_epoch001.png')
    assert grid.shape == (2 * 56, 10 * 56)  # 15 images, rounded up to whole rows and enlarged


@pytest.mark.slow
def test_run_with_a_recipe_resumes(paper):
    assert 'Resuming at step 2 of 4' in paper[1]


@pytest.mark.slow
def test_eval_freq_prints_scores(paper):
    assert 'Fréchet distance' in paper[1]


@pytest.mark.slow
def test_eval_freq_keeps_the_best_checkpoint(paper):
    assert (paper[0] / 'checkpoint' / PAPER_RUN / 'best' / 'checkpoint').exists()


@pytest.mark.slow
def test_recipe_selects_the_run_to_sample(paper_samples):
    assert f'Run: {PAPER_RUN}\n' in paper_samples[1]


@pytest.mark.slow
def test_label_samples_one_class_in_a_square_grid(paper_samples):
    assert imageio.imread(paper_samples[0] / 'SAGAN_test_000_label7.png').shape == (4 * 140, 4 * 140)  # enlarged


@pytest.mark.slow
def test_label_is_exported_with_the_images(paper_samples):
    assert np.load(paper_samples[0] / 'samples_label7' / 'samples.npz')['arr_1'].tolist() == [7, 7, 7]


@pytest.mark.slow
def test_eval_of_a_conditional_run_prints_class_accuracy(paper_scores):
    assert 'class accuracy' in paper_scores[1]


@pytest.mark.slow
def test_eval_of_a_conditional_run_uses_its_class_counts(paper_scores):
    assert 'has no class_counts' not in paper_scores[1]


@pytest.mark.slow
def test_eval_of_a_conditional_run_scores_real_and_generated_images_alike(paper_scores):
    assert paper_scores[0]['generated'].keys() == paper_scores[0]['real'].keys()


@pytest.mark.slow
def test_eval_class_accuracy_of_real_images_is_that_of_the_classifier(paper_scores):
    assert paper_scores[0]['real']['class_accuracy'] == paper_scores[0]['classifier_accuracy']


@pytest.mark.slow
def test_eval_leaves_out_the_distance_within_classes_of_few_images(paper_scores):
    assert 'are needed, but there are only 60: Fréchet distance to' in paper_scores[1]
    assert 'training images: mean Fréchet distance within classes\n' in paper_scores[1]


@pytest.mark.slow
def test_label_that_is_not_a_class_is_refused(paper, run_main_in):
    # The conditional run is chosen, although the other one was trained last.
    one_line_error(run_main_in(paper[0], '--phase', 'test', '--label', 10),
                   '--label 10 is not a class: choose one of 0, 1, 2, ')


@pytest.mark.slow
def test_label_with_options_that_no_conditional_run_has_is_refused(paper, run_main_in):
    one_line_error(run_main_in(paper[0], '--phase', 'test', '--label', 7, '--sn', 'false'),
                   '--label 7', '--conditional true')


##################################################################################
# Start
##################################################################################

def test_missing_packages_are_reported_in_one_line(tmp_path):
    process = subprocess.run([sys.executable, '-S', MAIN, '--phase', 'train'], cwd=tmp_path, capture_output=True,
                             text=True)
    one_line_error((process.returncode, process.stdout, process.stderr), f'main.py: {sys.executable} has no module ')
    assert os.listdir(tmp_path) == []


def test_no_option_prints_the_usual_commands_and_the_options(run_main):
    code, out, _ = run_main()
    assert code == 0
    assert 'python main.py --phase train\n  python main.py --phase test\n' in out and '--batch_size' in out


def test_help_prints_the_options(run_main):
    code, out, _ = run_main('--help')
    assert code == 0 and '--batch_size' in out


def test_help_imports_neither_tensorflow_nor_numpy(tmp_path):
    process = subprocess.run([sys.executable, '-X', 'importtime', MAIN, '--help'], cwd=tmp_path, capture_output=True,
                             text=True)
    imported = {line.split('|')[-1].strip().split('.')[0] for line in process.stderr.splitlines()}
    assert 'options' in imported and not imported & {'tensorflow', 'numpy', 'PIL', 'imageio', 'scipy', 'matplotlib'}


@pytest.fixture(scope='module')
def terminal_output(tmp_path_factory, small_data):
    """A function that trains in a terminal of a given size and returns the progress lines."""
    def train(rows, columns):
        folder = tmp_path_factory.mktemp('terminal')
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(folder)
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('4H', rows, columns, 0, 0))
            os.execv(sys.executable, [sys.executable, str(MAIN), *map(str, [
                *QUICK, '--network', 'dcgan', '--ch', 8, '--img_size', 32, '--iteration', 9, '--print_freq', 3,
                '--name', 'it', '--data_dir', small_data])])
        out = b''
        with contextlib.suppress(OSError):  # raised at the end of the output
            while part := os.read(terminal, 65536):
                out += part
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] == 0, out
        return [line for line in re.split('[\r\n]+', out.decode()) if line.startswith('Epoch')]
    return train


@pytest.fixture(scope='module')
def bar(terminal_output):
    """The progress lines in a terminal with 80 columns."""
    return terminal_output(24, 80)


@pytest.mark.slow
def test_terminal_shows_a_bar_within_its_width(bar):
    assert max(map(len, bar)) <= 80
    assert all(re.match(r'Epoch [12]/2 \d+%\|.{4,}\| .* left, ', line) for line in bar)


@pytest.mark.slow
def test_terminal_shows_losses_and_gammas(bar):
    number = r'-?\d+\.\d\d'
    assert re.search(f' 100%.*steps/s, D {number} G {number} gamma {number} {number} *$', bar[-1])


@pytest.mark.slow
def test_terminal_shows_what_happens_between_steps(bar):
    assert any(line.endswith('drawing') for line in bar)


@pytest.mark.slow
@pytest.mark.parametrize('rows, columns', [(24, 0), (0, 80)])
def test_terminal_without_a_size_shows_lines(terminal_output, rows, columns):
    first, second, *_ = terminal_output(rows, columns)
    assert first.startswith('Epoch: [ 0] [   1/   9]') and second.startswith('Epoch: [ 0] [   3/   9]')


##################################################################################
# User errors
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
    ('--flip', 'often'), ('--workers', 0), ('--timeout', 0), ('--patience', 0),
    ('--recipe', 'mine'), ('--name', 'a/b'), ('--data_dir', ''), ('--epok', 3)])
def test_wrong_value_is_refused(run_main, tmp_path, option, value):
    one_line_error(run_main(option, value), option)
    assert not list(tmp_path.iterdir())


def test_batch_that_workers_cannot_share_is_refused(run_main, tmp_path):
    one_line_error(run_main('--workers', 3), '3 workers cannot share --batch_size 64')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_batch_larger_than_the_data_set_is_refused(run_main, small_data):
    result = run_main('--dataset', 'mnist', '--data_dir', small_data, '--batch_size', 301)
    one_line_error(result, '--batch_size 301', '300')


def test_workers_are_refused_on_windows(run_main, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, 'is_windows', lambda: True)
    one_line_error(run_main('--workers', 2), '--workers', 'Linux or macOS')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_path_that_the_terminal_cannot_show_is_escaped(start_main, tmp_path):
    (tmp_path / 'data' / 'é').mkdir(parents=True)
    Image.new('L', (8, 8)).save(tmp_path / 'data' / 'é' / 'a.png')
    process = start_main('--dataset', 'é', env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    out, _ = process.communicate()
    assert process.returncode == 2
    assert 'Data set: \\xe9 in data/\\xe9 (images)' in out


def test_mnist_that_cannot_be_downloaded_is_refused(run_main, tmp_path):
    one_line_error(run_main('--dataset', 'mnist'), os.path.join('data', 'mnist'), *FILES, '--dataset digits')
    assert not list(tmp_path.iterdir())


def test_missing_file_of_mnist_is_named(run_main, small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / 'data')
    (tmp_path / 'data' / 'mnist' / f'{FILES[1]}.gz').unlink()
    before = snapshot(tmp_path)
    one_line_error(run_main('--dataset', 'mnist'), f'{FILES[1]}.gz: ', os.path.join('data', 'mnist'))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize('file, content, message', [
    (0, b'truncated', 'not a valid gzip file'),
    (1, b'not gzip', 'not a valid gzip file'),
    (2, gzip.compress(np.array([0x803, 1, 27, 28], '>u4').tobytes() + bytes(27 * 28)), '1 images, 100 labels'),
    (3, gzip.compress(np.array([0x801, 2], '>u4').tobytes() + bytes(2)), '100 images, 2 labels')],
    ids=['truncated', 'not gzip', 'one image', 'two labels'])
def test_damaged_file_of_mnist_is_refused(run_main, small_data, tmp_path, file, content, message):
    shutil.copytree(small_data, tmp_path / 'data')
    path = tmp_path / 'data' / 'mnist' / f'{FILES[file]}.gz'
    path.write_bytes(path.read_bytes()[:5000] if content == b'truncated' else content)
    before = snapshot(tmp_path)
    one_line_error(run_main('--dataset', 'auto'), message, os.path.join('data', 'mnist'))
    assert snapshot(tmp_path) == before


@pytest.fixture
def offline_choice(tmp_path):
    """The choice of --dataset auto if MNIST cannot be downloaded: the name of the data set, and the printed lines."""
    (tmp_path / 'data' / 'digits').mkdir(parents=True)
    make_digits(str(tmp_path / 'data' / 'digits'), train=20, test=10)
    name, description = main.choose_dataset({'dataset_name': 'auto', 'data_dir': str(tmp_path / 'data'),
                                             'checkpoint_dir': str(tmp_path / 'checkpoint')})
    return name, description.replace(str(tmp_path / 'data'), 'data').splitlines()


def test_auto_chooses_digits_if_mnist_cannot_be_downloaded(offline_choice):
    assert offline_choice[0] == 'digits'


def test_auto_explains_why_it_chose_digits(offline_choice):
    line, = offline_choice[1]
    assert line.startswith('MNIST is not in data and cannot be downloaded: using the built-in digits')


@pytest.mark.slow
def test_auto_names_the_run_after_the_chosen_data_set(run_main, few_statistics, tmp_path):
    (tmp_path / 'data' / 'digits').mkdir(parents=True)
    make_digits(str(tmp_path / 'data' / 'digits'), train=20, test=10)
    code, _, err = run_main('--batch_size', 2, '--epoch', 1, '--iteration', 1)
    assert (code, err) == (0, '')
    assert os.listdir(tmp_path / 'checkpoint') == ['SAGAN_digits_2_62_augment']


def test_auto_is_refused_if_there_is_a_run_of_mnist_but_no_data(run_main, tmp_path):
    """As if the user had forgotten --data_dir."""
    write_fake_run(tmp_path, RUN)
    before = snapshot(tmp_path)
    one_line_error(run_main('--epoch', 30), f'checkpoint holds {RUN}, a run on MNIST', '--data_dir')
    assert snapshot(tmp_path) == before


def test_data_dir_that_cannot_be_written_is_refused(run_main, tmp_path):
    (tmp_path / 'file').touch()
    one_line_error(run_main('--dataset', 'digits', '--data_dir', 'file/folder'), 'file/folder')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.slow
@pytest.mark.parametrize('option', ['--checkpoint_dir', '--result_dir', '--log_dir'])
def test_output_folder_that_cannot_be_written_is_refused(run_main, small_data, tmp_path, option):
    (tmp_path / 'file').touch()
    result = run_main('--dataset', 'mnist', '--data_dir', small_data, option, 'file/folder')
    one_line_error(result, 'file/folder')
    assert [path.name for path in tmp_path.rglob('*')] == ['file']


@pytest.mark.parametrize('error', [
    MemoryError('of 58 GiB'), tf.errors.ResourceExhaustedError(None, None, 'OOM of 58 GiB\n\t [[node x]]\nHint')],
    ids=['Python', 'TensorFlow'])
def test_out_of_memory_is_reported_in_one_line(run_main, small_data, monkeypatch, error):
    model = mock.Mock()
    model.train.side_effect = error
    monkeypatch.setattr(networks, 'build', mock.Mock(return_value=model))
    monkeypatch.setattr(branch, 'report_new_run', mock.Mock())
    one_line_error(run_main('--data_dir', small_data, *QUICK), 'out of memory (', 'of 58 GiB): reduce --batch_size')


def test_system_error_names_the_file(run_main, monkeypatch):
    monkeypatch.setattr(main, 'train', mock.Mock(side_effect=OSError(28, 'No space left on device', 'a/b')))
    one_line_error(run_main('--phase', 'train'),
                   'a/b cannot be read or written (No space left on device): free some disk space')


def test_error_with_line_breaks_is_printed_on_one_line(run_main, monkeypatch):
    monkeypatch.setattr(main, 'train', mock.Mock(side_effect=UserError('a\nb is not a folder')))
    one_line_error(run_main('--phase', 'train'), 'a b is not a folder')


@pytest.fixture
def disk_of_500_mb(monkeypatch):
    free = collections.namedtuple('usage', 'free')(500_000_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: free)


THREE_CHECKPOINTS = ['--dataset', 'mnist', '--iteration', 3, '--epoch', 1, '--save_freq', 1]  # of 194 MB each


@pytest.mark.slow
def test_disk_that_cannot_hold_the_checkpoints_is_refused_before_training(run_main, small_data, disk_of_500_mb):
    result = run_main('--data_dir', small_data, *THREE_CHECKPOINTS)
    one_line_error(result, 'need 583 MB', '500 MB left', '--keep')
    assert 'Epoch' not in result[1]


@pytest.mark.slow
def test_smaller_keep_needs_less_disk_space(run_main, few_statistics, small_data, tmp_path, disk_of_500_mb):
    assert run_main('--data_dir', small_data, *THREE_CHECKPOINTS, '--keep', 1)[0] == 0
    assert [path.name for path in (tmp_path / 'checkpoint').glob('*/SAGAN/*.index')] == ['SAGAN.model-3.index']


@pytest.mark.slow
def test_full_disk_keeps_the_earlier_checkpoints(trained, start_main, small_data):
    def limit_files_to_20_mb():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))

    before = snapshot(trained / 'checkpoint')
    process = start_main('--data_dir', small_data, *QUICK, '--epoch', 3, '--iteration', 29,
                         preexec_fn=limit_files_to_20_mb)
    out, err = process.communicate(timeout=1000)
    one_line_error((process.returncode, out, err), 'step 87', 'free some disk space')
    after = snapshot(trained / 'checkpoint')
    assert after.keys() == before.keys()
    assert [path.name for path in before if after[path] != before[path]] == ['config.json']

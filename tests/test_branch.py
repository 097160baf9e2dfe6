"""Runs that start from other runs, and runs that are resumed by name."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import MAIN, one_line_error, snapshot
from tiny_gan import TinyGAN, folders_in, open_model, random_dataset

import SAGAN as module
from options import UserError
from storage.branch import find_source
from storage.history import read_history
from storage.run import Diverged
from tf1 import tf
from training.callbacks import Checkpoint, default_callbacks
from training.stop import Stop

TINY = 8, 12, 1


@pytest.fixture(scope='module', autouse=True)
def one_batch_of_statistics():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        yield


def open_tiny(folder, **options):
    options = {'epoch': 1, 'iteration': 3, 'print_freq': 1, 'save_freq': 1, 'keep': 9, 'sample_num': 2,
               'attention': 'none', **options}
    return open_model(TinyGAN, image_shape=TINY, batch_size=4, **folders_in(folder), **options)


def only_checkpoints(dataset, scorer, progress):
    """Return the callbacks of a run without grids and figures, which trains faster."""
    return [progress, Checkpoint()]


def train_tiny(folder, source=None, stop_at=None, callbacks=only_checkpoints, **options):
    """Train on random images. Return what is printed.

    Args:
        source: the name of the run to start from.
        stop_at: the step at which a signal arrives.
        callbacks: a function like training.callbacks.default_callbacks.
    """
    output, stop = io.StringIO(), Stop()
    with (open_tiny(folder, **options) as model, contextlib.redirect_stdout(output),
          pytest.MonkeyPatch.context() as patch):
        patch.setattr(module, 'default_callbacks', callbacks)
        train_batch = model.train_batch

        def train_batch_until_the_signal(batches, step, lr_scale=1.):
            if step + 1 == stop_at:
                stop.receive(signal.SIGTERM, None)
            return train_batch(batches, step, lr_scale)

        model.train_batch = train_batch_until_the_signal
        if source is not None:
            source = find_source(source, str(folder / 'checkpoint'))
        model.train(stop, random_dataset(TINY), source)
    return output.getvalue()


def saved(folder, run, step):
    """Return the variables in a checkpoint, {name: value}."""
    reader = tf.train.load_checkpoint(f'{folder}/checkpoint/{run}/SAGAN/SAGAN.model-{step}')
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_bits(variables, others):
    assert variables.keys() == others.keys()
    assert [name for name in variables if (variables[name] != others[name]).any()] == []


def config_of(folder, run):
    return json.loads((folder / 'checkpoint' / run / 'config.json').read_text())


##################################################################################
# A new run starts from another one
##################################################################################

@pytest.fixture(scope='module')
def branched(tmp_path_factory):
    """A folder with the run 'old' of three steps and the run 'new' of three more, and the output of 'new'."""
    folder = tmp_path_factory.mktemp('branched')
    train_tiny(folder, name='old')
    output = train_tiny(folder, 'old', name='new', d_lr=0.01)
    return SimpleNamespace(folder=folder, output=output)


def test_new_run_starts_with_all_variables_of_its_source(branched):
    assert_same_bits(saved(branched.folder, 'new', 0), saved(branched.folder, 'old', 3))


def test_new_run_reports_its_source_and_what_differs(branched):
    first, second, *_ = branched.output.splitlines()
    count = len(saved(branched.folder, 'old', 3))
    assert first == 'Run new from old, step 3: --d_lr 0.01 (was 0.0002)'
    assert second == f'restored {count} of {count} variables'


def test_new_run_begins_at_step_0(branched):
    assert sorted(os.listdir(branched.folder / 'checkpoint' / 'new' / 'SAGAN')) == [
        *(f'SAGAN.model-{step}.{part}' for step in range(4) for part in ('data-00000-of-00001', 'index')), 'checkpoint']


def test_new_run_records_its_source(branched):
    config = config_of(branched.folder, 'new')
    assert (config['source'], config['source_step'], config['previous_steps']) == (
        f'{branched.folder}/checkpoint/old', 3, 3)


def test_new_run_continues_the_warm_up_of_the_average(branched):
    """The decay of the first update is (1 + n) / (10 + n) after n steps (tf.train.ExponentialMovingAverage)."""
    start, end = saved(branched.folder, 'new', 0), saved(branched.folder, 'new', 1)
    average = 'generator/g_fc1/Matrix/ExponentialMovingAverage'
    decay = (1 + 3) / (10 + 3)
    np.testing.assert_allclose(end[average], decay * start[average] + (1 - decay) * end['generator/g_fc1/Matrix'],
                               rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_new_run_draws_the_batches_of_step_0(branched, tmp_path):
    """With the source's options, three steps of the new run give the same bits as a loop over these batches."""
    train_tiny(branched.folder, 'old', name='same')
    with open_tiny(tmp_path, name='library') as model:
        variables = saved(branched.folder, 'old', 3)
        for variable in tf.global_variables():
            variable.load(variables[variable.op.name], model.sess)
        for step in range(3):
            feed = model.batches(random_dataset(TINY), step)
            model.sess.run(model.train_step, {model.inputs: feed[0][0], model.z: feed[0][1], model.step: 3 + step})
        expected = model.sess.run({variable.op.name: variable for variable in tf.global_variables()})
    assert_same_bits(saved(branched.folder, 'same', 3), expected)


@pytest.fixture
def copy(branched, tmp_path):
    """A copy of the run 'old' in an empty folder."""
    shutil.copytree(branched.folder / 'checkpoint' / 'old', tmp_path / 'checkpoint' / 'old')
    return tmp_path


@pytest.mark.slow
def test_stopped_new_run_resumes_bit_identically_to_an_uninterrupted_one(branched, copy):
    """Even if the source is deleted in the meantime."""
    train_tiny(copy, 'old', stop_at=1, name='new', d_lr=0.01)
    shutil.rmtree(copy / 'checkpoint' / 'old')
    output = train_tiny(copy, name='new', d_lr=0.01)
    assert output.startswith('Resuming at step 1 of 3\n')
    assert_same_bits(saved(copy, 'new', 3), saved(branched.folder, 'new', 3))


@pytest.mark.slow
def test_stopped_new_run_keeps_its_source_in_the_config(branched, copy):
    train_tiny(copy, 'old', stop_at=1, name='new', d_lr=0.01)
    before = config_of(copy, 'new')
    train_tiny(copy, name='new', d_lr=0.01)
    assert config_of(copy, 'new') == before and before['source_step'] == 3


class Killed(BaseException):
    """End a test's training at once."""


def train_killed(folder, monkeypatch, target, name, **options):
    """Train the new run, and kill it when it calls a method."""
    def kill(*args):
        raise Killed

    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(target, name, kill)
        train_tiny(folder, 'old', name='new', **options)


@pytest.mark.slow
@pytest.mark.parametrize('target, name', [
    (module.Run, 'write_config'), (module.SAGAN, 'save'), (module.SAGAN, 'train_batch')],
    ids=['before the config', 'before the first checkpoint', 'before the first step'])
def test_killed_start_is_completed_by_the_same_command(branched, copy, monkeypatch, target, name):
    train_killed(copy, monkeypatch, target, name, d_lr=0.01)
    train_tiny(copy, 'old', name='new', d_lr=0.01)
    assert_same_bits(saved(copy, 'new', 3), saved(branched.folder, 'new', 3))


@pytest.mark.slow
def test_killed_start_is_not_trained_from_scratch(copy, monkeypatch):
    train_killed(copy, monkeypatch, module.SAGAN, 'save')
    with pytest.raises(UserError, match=r'new has no checkpoint yet .*: add --from .*/old --checkpoint 3'):
        train_tiny(copy, name='new')


@pytest.mark.slow
def test_run_from_a_run_from_a_run_adds_up_the_steps(branched):
    train_tiny(branched.folder, 'new', name='third')
    assert config_of(branched.folder, 'third')['previous_steps'] == 3 + 3


@pytest.fixture(scope='module')
def with_classes(branched):
    """The output of a run that adds classes to the run 'old'."""
    return train_tiny(branched.folder, 'old', name='classes', conditional=True, classes=10)


@pytest.mark.slow
def test_new_run_names_new_variables(with_classes):
    assert re.search(r'^restored \d+ of \d+ variables; new: generator/g_bn1/(beta|gamma), ', with_classes, re.M)


@pytest.mark.slow
def test_new_run_with_new_variables_keeps_the_others(branched, with_classes):
    variables, source = saved(branched.folder, 'classes', 0), saved(branched.folder, 'old', 3)
    for name in 'generator/g_fc1/Matrix', 'discriminator/d_conv1/w/Adam', 'generator/g_dc2/w/ExponentialMovingAverage':
        assert (variables[name] == source[name]).all()


@pytest.mark.slow
def test_new_run_with_new_weights_in_g_starts_the_warm_up_again(branched, with_classes):
    assert config_of(branched.folder, 'classes')['previous_steps'] == 0


def test_run_without_a_shared_weight_is_refused_and_changes_nothing(branched):
    source = find_source('old', str(branched.folder / 'checkpoint'))
    source = source._replace(checkpoints=str(branched.folder / 'x'))
    (branched.folder / 'x').mkdir()
    with tf.Graph().as_default(), tf.Session() as sess:
        tf.get_variable('v', [1], use_resource=True)
        sess.run(tf.global_variables_initializer())
        tf.train.Saver().save(sess, str(branched.folder / 'x' / 'SAGAN.model'), 3, write_meta_graph=False)
    before = snapshot(branched.folder)
    with (open_tiny(branched.folder, name='refused') as model,
          pytest.raises(UserError, match='SAGAN.model-3 shares no trainable variable')):
        model.train(dataset=random_dataset(TINY), source=source)
    assert snapshot(branched.folder) == before and not (branched.folder / 'checkpoint' / 'refused').exists()


##################################################################################
# Changed images
##################################################################################

def resume_on(folder, dataset):
    """Train the run 'old' for another epoch on a data set. Return what is printed."""
    output = io.StringIO()
    with (open_tiny(folder, name='old', epoch=2) as model, contextlib.redirect_stdout(output),
          pytest.MonkeyPatch.context() as patch):
        patch.setattr(module, 'default_callbacks', only_checkpoints)
        model.train(dataset=dataset)
    return output.getvalue()


CHANGED = 'The 20 images of the training split, or their classes, have changed since the run was last trained\n'


@pytest.mark.slow
def test_resumed_run_reports_changed_images(copy):
    dataset = random_dataset(TINY)
    dataset.train[0][5] += 1
    assert resume_on(copy, dataset).startswith(CHANGED)


@pytest.mark.slow
def test_resumed_run_is_silent_about_the_same_images(copy):
    assert resume_on(copy, random_dataset(TINY)).startswith('Resuming')


@pytest.mark.slow
def test_resumed_run_without_a_saved_digest_is_silent(copy):
    path = copy / 'checkpoint' / 'old' / 'config.json'
    config = json.loads(path.read_text())
    del config['digest']
    path.write_text(json.dumps(config))
    dataset = random_dataset(TINY)
    dataset.train[0][5] += 1
    assert resume_on(copy, dataset).startswith('Resuming')


##################################################################################
# A stopped run
##################################################################################

@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    """The files of a run stopped at step 2 of 6, those after it resumed, and those of an uninterrupted run."""
    folder, uninterrupted = tmp_path_factory.mktemp('stopped'), tmp_path_factory.mktemp('uninterrupted')
    options = {'name': 'it', 'attention': 'paper', 'epoch': 2, 'sample_freq': 3, 'callbacks': default_callbacks}
    train_tiny(folder, stop_at=2, **options)
    files = {path.name: path.read_bytes() for path in (folder / 'results' / 'it').iterdir() if path.is_file()}
    train_tiny(folder, **options)
    train_tiny(uninterrupted, **options)
    return SimpleNamespace(files=files, resumed=snapshot(folder / 'results'),
                           uninterrupted=snapshot(uninterrupted / 'results'))


@pytest.mark.slow
def test_stopped_run_has_a_grid_the_curves_and_the_page(stopped):
    assert {'SAGAN_stopped.png', 'SAGAN_curves.png', 'SAGAN_explorer.html'} <= set(stopped.files)


@pytest.mark.slow
def test_stopped_run_has_a_grid_of_sample_num_images(stopped):
    assert imageio.imread(stopped.files['SAGAN_stopped.png']).shape == (24 * 8, 24 * 2 * 12)  # enlarged


@pytest.mark.slow
def test_stopped_run_has_a_page_of_its_last_step(stopped):
    assert b'"snapshots":[{"epoch":0,"step":2,"real":true}]' in stopped.files['SAGAN_explorer.html']


@pytest.mark.slow
def test_resumed_run_has_the_files_of_an_uninterrupted_one(stopped):
    assert stopped.resumed == stopped.uninterrupted


##################################################################################
# From the command line: common user requests
##################################################################################

QUICK = ['--network', 'dcgan', '--ch', 8, '--img_size', 32, '--batch_size', 4, '--gan_type', 'gan', '--sn', 'false',
         '--z_dim', 62, '--iteration', 2, '--epoch', 1, '--print_freq', 1, '--sample_num', 4, '--attention', 'none',
         '--augment', 'false']


@pytest.fixture(scope='module')
def user(tmp_path_factory, run_main_in, small_data):
    """A folder with a trained run of QUICK, a function that runs commands in it, and the output of training."""
    folder = tmp_path_factory.mktemp('user')
    shutil.copytree(small_data, folder / 'data')
    (folder / 'data' / 'own').mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        imageio.imwrite(folder / 'data' / 'own' / f'{number}.png', rng.integers(0, 256, [40, 50, 3], np.uint8))

    def run(*words):
        return run_main_in(folder, '--phase', 'train', *words)

    code, output, err = run('--dataset', 'mnist', *QUICK, '--name', 'old', '--save_freq', 1)
    assert (code, err) == (0, '')
    return SimpleNamespace(folder=folder, run=run, output=output)


def train(user, *words):
    """Run a command that must succeed, and return its output."""
    code, output, err = user.run(*words)
    assert (code, err) == (0, '')
    return output


def command_in(message):
    """Return the words that follow --phase train in the command at the end of a message."""
    return shlex.split(message.rpartition('--phase train ')[2])


@pytest.mark.slow
def test_user_returns_to_an_earlier_checkpoint_with_the_command_in_the_message(user):
    result = user.run('--name', 'old', '--checkpoint', 1, '--g_lr', 0.0005)
    one_line_error(result, '--checkpoint requires --from')
    output = train(user, *command_in(result[2]))
    assert 'Run old_2 from old, step 1: --g_lr 0.0005 (was 0.001)\n' in output


@pytest.mark.slow
def test_user_retries_a_diverged_run_with_the_command_in_the_message(user, monkeypatch):
    train(user, '--from', 'old', '--name', 'diverges', '--d_lr', 0.01, '--save_freq', 1)

    def diverge(model, batches, step, lr_scale):
        raise Diverged('d_loss', step + 1)

    with monkeypatch.context() as patch:
        patch.setattr(module.SAGAN, 'train_batch', diverge)
        result = user.run('--name', 'diverges', '--epoch', 2)
    one_line_error(result, 'd_loss is not finite at step 3: training stopped. To start a new run from step 2 with')
    output = train(user, *command_in(result[2]))
    assert 'from diverges, step 2: --g_lr 0.0005 (was 0.001), --d_lr 0.005 (was 0.01)' in output


@pytest.mark.slow
def test_user_changes_batch_size_objective_and_precision_for_the_last_epochs(user):
    output = train(user, '--from', 'old', '--name', 'last', '--batch_size', 6, '--gan_type', 'hinge', '--precision',
                   'bfloat16')
    assert ('Run last from old, step 2: --batch_size 6 (was 4), --precision bfloat16 (was float32), --gan_type hinge '
            '(was gan)\n') in output
    assert re.search(r'^restored (\d+) of \1 variables$', output, re.M)


@pytest.mark.slow
def test_user_fine_tunes_a_run_on_an_image_folder(user):
    output = train(user, '--from', 'old', '--name', 'fine', '--dataset', 'own')
    assert 'Run fine from old, step 2: --dataset own (was mnist), images of 32 x 32 x 1 as before\n' in output
    assert re.search(r'^restored (\d+) of \1 variables$', output, re.M)


@pytest.mark.slow
def test_user_resumes_a_run_with_many_options_by_its_name(user):
    shutil.copytree(user.folder / 'checkpoint' / 'old', user.folder / 'checkpoint' / 'copy')
    output = train(user, '--name', 'copy', '--epoch', 2)
    assert 'Resuming at step 2 of 4\n' in output
    before, after = (config_of(user.folder, run) for run in ('old', 'copy'))
    assert after == {**before, 'name': 'copy', 'epoch': 2}


@pytest.mark.slow
def test_train_reports_that_another_option_starts_a_new_run(user):
    output = train(user, '--dataset', 'mnist', *QUICK, '--seed', 3)
    name = 'SAGAN_mnist_4_62_noattention_d_lr0.004_beta10_seed3_beta20.9_znormal_dcgan_ch8_img_size32'
    assert re.search(fr'^New run {name} \(differs from \w+ in --seed; use --from to branch\)$', output, re.M)


@pytest.mark.slow
def test_train_reports_no_new_run_if_there_are_no_other_runs(user):
    assert 'New run' not in user.output


@pytest.mark.slow
def test_user_starts_from_a_run_without_config(user):
    """Checkpoints from older repositories have no config.json."""
    shutil.copytree(user.folder / 'checkpoint' / 'old' / 'SAGAN', user.folder / 'download')
    output = train(user, '--from', 'download/SAGAN.model-2', '--name', 'older', '--dataset', 'mnist', *QUICK)
    assert ('download has no config.json: options that are not in its name are assumed to have their default '
            'values\n') in output
    assert re.search(r'^restored (\d+) of \1 variables$', output, re.M)


@pytest.mark.slow
@pytest.mark.parametrize('words, message', [
    (['--phase', 'test', '--from', 'old'], '--from requires --phase train'), (['--from', 'old'], 'add --name'),
    (['--from', 'old', '--name', 'x', '--checkpoint', 7], 'has no checkpoint 7'),
    (['--from', 'a[1]', '--name', 'x'], '--from')])
def test_wrong_use_of_from_is_refused_and_changes_nothing(user, words, message):
    before = snapshot(user.folder)
    one_line_error(user.run(*words), message)
    assert snapshot(user.folder) == before


@pytest.fixture
def start(tmp_path, small_data, user):
    """A function that starts training from the run 'old', in a folder of the given name, and returns the process."""
    processes = []

    def start_process(name, *words):
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(user.folder / 'checkpoint' / 'old', folder / 'checkpoint' / 'old')
        processes.append(subprocess.Popen(
            [sys.executable, MAIN, '--phase', 'train', '--data_dir', small_data, '--from', 'old', '--checkpoint', '2',
             '--name', 'new', '--iteration', '6', '--epoch', '1', *map(str, words)],
            cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_run_killed_several_times_is_bit_identical_to_an_uninterrupted_one(start, tmp_path):
    """The run is killed after each of these is written: its config, its first checkpoint and a later checkpoint."""
    folder = tmp_path / 'killed' / 'checkpoint' / 'new'
    for name in 'config.json', 'SAGAN/SAGAN.model-0.index', 'SAGAN/SAGAN.model-3.index':
        process = start('killed', '--save_freq', 1)
        while not (folder / name).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.kill()
        process.wait()
    for name in 'killed', 'uninterrupted':
        _, err = start(name, '--save_freq', 1).communicate()
        assert err == ''
    assert_same_bits(saved(tmp_path / 'killed', 'new', 6), saved(tmp_path / 'uninterrupted', 'new', 6))


@pytest.mark.slow
def test_ctrl_c_prints_the_command_that_resumes(start, run_main_in, tmp_path):
    process = start('stopped', '--epoch', 50)
    assert any('Epoch: [ 0] [   2/' in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, '')
    command = out.splitlines()[-1]
    assert command.startswith('Next: ')
    code, out, _ = run_main_in(tmp_path / 'stopped', '--phase', 'train', *command_in(command), '--epoch', 1)
    assert code == 0 and 'Resuming at step ' in out or 'complete at step' in out


@pytest.mark.slow
def test_workers_start_from_a_run(start, tmp_path):
    """The chief restores the weights. The first losses with one and with two workers agree up to rounding."""
    for name, words in ('one', []), ('two', ['--workers', 2]):
        out, err = start(name, *words).communicate()
        assert err == '' and out.count('Run new from old, step 2: --iteration 6 (was 2)\n') == 1
    (first, *_), (other, *_) = (read_history(tmp_path / name / 'results' / 'new' / 'SAGAN_history.csv')
                                for name in ('one', 'two'))
    assert float(first['d_loss']) == pytest.approx(float(other['d_loss']), rel=1e-3)
    assert config_of(tmp_path / 'two', 'new')['previous_steps'] == 2

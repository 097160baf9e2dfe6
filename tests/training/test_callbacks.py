"""The schedule of callbacks, and the output of the training callbacks."""

import errno
import itertools
import os
import pathlib
import shutil
import types
from unittest import mock

import numpy as np
import pytest
from helpers import SMALL, linux_only
from tiny_gan import TinyGAN, open_model, random_dataset

from datasets import Dataset
from options import UserError, complete_options, make_config
from SAGAN import SAGAN
from storage.history import read_history
from storage.run import Run, checkpoint_steps
from tf1 import tf
from training import callbacks
from training.callbacks import (
    Animation,
    AttentionPage,
    BestCheckpoint,
    Callback,
    Checkpoint,
    CollapseWarning,
    Curves,
    EpochGrid,
    History,
    Scores,
    Snapshots,
    StoppedRun,
    Summaries,
    TrainGrid,
    default_callbacks,
    epoch_and_index,
    every,
    is_recorded,
    is_scored,
    running,
    variety,
)
from training.losses import OBJECTIVES
from utils import make_folder

##################################################################################
# Running callbacks
##################################################################################


class Recorder(Callback):
    """Record calls in a list. Raise a given error in one of the methods."""

    def __init__(self, name, calls, fails_in='', error=None):
        self.name, self.calls, self.fails_in, self.error = name, calls, fails_in, error

    def record(self, method):
        self.calls.append(f'{self.name}.{method}')
        if method == self.fails_in:
            raise self.error

    def start(self, model, step):
        self.record('start')

    def on_step(self, model, step, values):
        self.record('on_step')

    def close(self):
        self.record('close')


class Even(Recorder):
    """A Recorder that is due at even steps."""

    def is_due(self, model, step, is_last):
        return step % 2 == 0


def run_steps(callbacks, steps=(1,), values=None, progress=None, model='model'):
    """Run callbacks after these steps."""
    with running(callbacks, model, steps[0] - 1, progress) as run_due:
        for step in steps:
            run_due(step, {} if values is None else values, step == steps[-1])


def on_step_calls(calls):
    """Return the names of the callbacks whose on_step was called."""
    return [call.removesuffix('.on_step') for call in calls if call.endswith('.on_step')]


def test_running_calls_callbacks_in_order():
    calls = []
    run_steps([Recorder('a', calls), Recorder('b', calls)], [1, 2])
    assert calls == ['a.start', 'b.start', 'a.on_step', 'b.on_step', 'a.on_step', 'b.on_step', 'b.close', 'a.close']


def test_running_calls_callbacks_when_they_are_due():
    calls = []
    run_steps([Even('even', calls), Recorder('all', calls)], [1, 2, 3])
    assert on_step_calls(calls) == ['all', 'even', 'all', 'all']


def test_running_calls_a_callback_that_defines_only_on_step():
    seen = []

    class Mine(Callback):
        def on_step(self, model, step, values):
            seen.append((model, step, values['d_loss']))

    run_steps([Mine()], [4, 5], {'d_loss': 0.5})
    assert seen == [('model', 4, 0.5), ('model', 5, 0.5)]


def test_running_passes_the_initial_step_to_start():
    callback = mock.create_autospec(Callback, instance=True)
    run_steps([callback], [8])
    callback.start.assert_called_once_with('model', 7)


@pytest.mark.parametrize('step, is_last', [(3, False), (4, True)])
def test_running_passes_is_last_to_is_due(step, is_last):
    callback = mock.create_autospec(Callback, instance=True, activity='')
    run_steps([callback], [3, 4])
    assert mock.call('model', step, is_last) in callback.is_due.call_args_list


def test_running_passes_values_that_a_callback_adds_to_later_ones():
    class Adds(Callback):
        def on_step(self, model, step, values):
            values['score'] = 7

    later = mock.create_autospec(Callback, instance=True, activity='')
    run_steps([Adds(), later], [1], {'d_loss': 0.5})
    later.on_step.assert_called_once_with('model', 1, {'d_loss': 0.5, 'score': 7})


def test_running_shows_the_activity_of_a_callback_that_is_due():
    progress, even = mock.Mock(), Even('even', [])
    even.activity = 'drawing'
    run_steps([even, Recorder('quiet', [])], [1, 2, 3], progress=progress)
    assert progress.show.call_args_list == [mock.call('drawing')]


def test_running_reports_a_failing_callback_in_one_line(capsys):
    run_steps([Recorder('a', [], 'on_step', ValueError('no\nsuch colour'))], [7])
    assert capsys.readouterr().out == 'Recorder failed at step 7: such colour\n'


def test_running_calls_the_other_callbacks_if_one_fails():
    calls = []
    failing = Recorder('b', calls, 'on_step', ValueError('no such colour'))
    run_steps([Recorder('a', calls), failing, Recorder('c', calls)], [1, 2])
    assert on_step_calls(calls) == ['a', 'b', 'c', 'a', 'b', 'c']


def test_running_calls_the_other_callbacks_if_is_due_fails():
    calls = []
    broken = mock.create_autospec(Callback, instance=True, activity='')
    broken.is_due.side_effect = ValueError('no such step')
    run_steps([broken, Recorder('a', calls)], [1])
    assert on_step_calls(calls) == ['a']


DISK_FULL = OSError(errno.ENOSPC, 'No space left on device', 'x.png')


@pytest.mark.parametrize('error', [DISK_FULL, UserError('disk full')], ids=['OSError', 'UserError'])
def test_running_raises_an_error_that_the_user_can_fix(error):
    with pytest.raises(type(error)) as raised:
        run_steps([Recorder('a', [], 'on_step', error)], [1])
    assert raised.value is error


@pytest.mark.parametrize('error', [DISK_FULL, UserError('disk full')], ids=['OSError', 'UserError'])
def test_running_raises_after_all_callbacks_have_run(error):
    calls = []
    with pytest.raises(type(error)):
        run_steps([Recorder('a', calls, 'on_step', error), Recorder('b', calls)], [1, 2])
    assert calls == ['a.start', 'b.start', 'a.on_step', 'b.on_step', 'b.close', 'a.close']


def test_running_reports_an_oserror_without_an_error_number(capsys):
    run_steps([Recorder('a', [], 'on_step', OSError('unknown image format'))], [1])
    assert capsys.readouterr().out == 'Recorder failed at step 1: unknown image format\n'


def test_running_closes_callbacks_if_training_fails():
    calls = []
    with pytest.raises(ZeroDivisionError), running([Recorder('a', calls), Recorder('b', calls)], 'model', 0, None):
        raise ZeroDivisionError
    assert calls == ['a.start', 'b.start', 'b.close', 'a.close']


def test_running_closes_callbacks_if_start_fails():
    calls = []
    with pytest.raises(UserError):
        run_steps([Recorder('a', calls), Recorder('b', calls, 'start', UserError('no folder'))])
    assert calls == ['a.start', 'b.start', 'b.close', 'a.close']


def test_running_closes_the_other_callbacks_if_close_fails():
    calls = []
    with pytest.raises(UserError):
        run_steps([Recorder('a', calls), Recorder('b', calls, 'close', UserError('disk full')), Recorder('c', calls)])
    assert calls[-3:] == ['c.close', 'b.close', 'a.close']


@linux_only
def test_running_closes_the_other_callbacks_if_a_file_is_on_a_full_disk():
    """Closing the file fails too, because it writes the buffered row again."""
    class FullDisk(Callback):
        def start(self, model, step):
            self.file = open('/dev/full', 'w')  # noqa: SIM115 (close is what fails)

        def on_step(self, model, step, values):
            print(step, file=self.file, flush=True)

        def close(self):
            self.file.close()

    calls = []
    with pytest.raises(OSError, match='No space'):
        run_steps([Recorder('a', calls), FullDisk(), Recorder('b', calls)])
    assert calls[-2:] == ['b.close', 'a.close']


##################################################################################
# When the training callbacks are due
##################################################################################

@pytest.mark.parametrize('freq, step, expected', [
    (3, 3, True), (3, 6, True), (3, 4, False), (1, 1, True), (0, 5, False)])
def test_every(freq, step, expected):
    assert every(freq, step) is expected


@pytest.mark.parametrize('step, epoch, index', [(1, 0, 1), (10, 0, 10), (11, 1, 1), (25, 2, 5)])
def test_epoch_and_index(step, epoch, index):
    assert epoch_and_index(step, steps_per_epoch=10) == (epoch, index)


def folders_in(path):
    """Return options that put all folders of a run into path."""
    return {name: f'{path}/{name}' for name in ('checkpoint_dir', 'result_dir', 'log_dir')}


def config_of(path='.', **options):
    """Return the Config of a run under path. It has 2 epochs of 12 steps."""
    return make_config(complete_options({'epoch': 2, 'iteration': 12, **folders_in(path), **options}), SMALL)


def due_steps(function, steps=24):
    return [step for step in range(1, steps + 1) if function(step)]


@pytest.mark.parametrize('eval_freq, steps', [(0, []), (1, [12, 24]), (2, [24])])
def test_is_scored(eval_freq, steps):
    config = config_of(eval_freq=eval_freq)
    assert due_steps(lambda step: is_scored(config, step)) == steps


@pytest.mark.parametrize('eval_freq, steps', [(0, [10, 20]), (1, [10, 12, 20, 24])])
def test_is_recorded(eval_freq, steps):
    config = config_of(print_freq=10, eval_freq=eval_freq)
    assert due_steps(lambda step: is_recorded(config, step)) == steps


def due_steps_of(callback, last_step=24, **options):
    """Return the steps after which a callback is due if training ends after last_step."""
    model = types.SimpleNamespace(config=config_of(**options), gammas={'g_gamma': None})
    return due_steps(lambda step: callback.is_due(model, step, step == last_step), last_step)


@pytest.mark.parametrize('callback', [Scores(None), BestCheckpoint()])
def test_scores_and_best_checkpoint_are_due_every_eval_freq_epochs(callback):
    assert due_steps_of(callback, eval_freq=2) == [24]


@pytest.mark.parametrize('callback', [History(), Summaries()])
def test_history_and_summaries_are_due_every_print_freq_steps_and_with_scores(callback):
    assert due_steps_of(callback, print_freq=10, eval_freq=1) == [10, 12, 20, 24]


@pytest.mark.parametrize('callback', [EpochGrid(), Curves(), Snapshots(None)])
def test_epoch_grid_curves_and_snapshots_are_due_after_each_epoch(callback):
    assert due_steps_of(callback, last_step=20) == [12]


def test_animation_is_due_after_each_epoch_and_at_the_end():
    assert due_steps_of(Animation(), last_step=20) == [12, 20]


@pytest.mark.parametrize('last_step, steps', [(24, [24]), (20, [])])
def test_attention_page_is_due_at_the_end_of_the_run(last_step, steps):
    assert due_steps_of(AttentionPage(), last_step) == steps


@pytest.mark.parametrize('last_step, steps', [(24, []), (20, [20]), (12, [12])])
def test_stopped_run_is_due_if_training_ends_early(last_step, steps):
    assert due_steps_of(StoppedRun(None), last_step) == steps


def test_checkpoint_is_due_every_save_freq_steps_and_at_the_end():
    assert due_steps_of(Checkpoint(), last_step=20, save_freq=8) == [8, 16, 20]


def test_snapshots_are_not_due_without_attention():
    model = types.SimpleNamespace(config=config_of(), gammas={})
    assert not Snapshots(None).is_due(model, 12, False)


@pytest.mark.parametrize('sample_freq, save_freq, steps', [
    (10, 20, [10, 20]), (10, 10, [10, 20]), (10, 4, [4, 10, 20]), (30, 7, [7]), (30, 30, [24])])
def test_first_train_grid_is_due_no_later_than_the_first_checkpoint(sample_freq, save_freq, steps):
    assert due_steps_of(TrainGrid(None), sample_freq=sample_freq, save_freq=save_freq) == steps


def test_default_callbacks_run_in_a_fixed_order():
    names = [type(callback).__name__ for callback in default_callbacks(None, None, Callback())]
    assert names == ['Scores', 'BestCheckpoint', 'History', 'Summaries', 'Callback', 'TrainGrid', 'CollapseWarning',
                     'EpochGrid', 'Curves', 'Animation', 'Snapshots', 'AttentionPage', 'Checkpoint', 'StoppedRun']


##################################################################################
# The output of callbacks for a stand-in model
##################################################################################

@pytest.fixture
def stub(tmp_path):
    """A stand-in model with the attributes that most callbacks need. Its results folder exists."""
    config = config_of(tmp_path, eval_freq=1)
    run = Run(config)
    make_folder(run.results)
    return types.SimpleNamespace(config=config, run=run, losses={'d_loss': None}, gammas={'g_gamma': 'tensor'},
                                 sess=mock.Mock(run=lambda tensors: dict.fromkeys(tensors, 0.25)),
                                 best_checkpoints=mock.Mock())


def test_scores_adds_the_scores_of_samples_to_the_values(stub):
    stub.draw_z = lambda count, *key: np.zeros([count, 62])
    stub.proportional_labels = lambda count: None
    stub.pixels = lambda z, labels: np.zeros([len(z), *SMALL], np.uint8)
    values = {'d_loss': 1.}
    Scores(lambda images: {'frechet_distance': len(images)}).on_step(stub, 12, values)
    assert values == {'d_loss': 1., 'frechet_distance': callbacks.QUICK_EVAL_NUM}


def test_scores_samples_the_classes_with_their_frequencies(stub):
    stub.draw_z = lambda count, *key: np.zeros([count, 62])
    stub.proportional_labels = lambda count: np.arange(count) % 3
    stub.pixels = lambda z, labels: labels
    values = {}
    Scores(lambda labels: {'frechet_distance': np.bincount(labels).tolist()}).on_step(stub, 12, values)
    assert values == {'frechet_distance': [1667, 1667, 1666]}  # of QUICK_EVAL_NUM


def saved_as_best(stub, start_step, *distances):
    """Return the steps that BestCheckpoint saves if these are the Fréchet distances after steps 12, 24, ..."""
    callback = BestCheckpoint()
    callback.start(stub, start_step)
    for number, distance in enumerate(distances, 1):
        callback.on_step(stub, 12 * number, {} if distance is None else {'frechet_distance': distance})
    return [call.args[0] for call in stub.best_checkpoints.save_if_finite.call_args_list]


def test_best_checkpoint_saves_the_lowest_distances(stub):
    assert saved_as_best(stub, 0, 5., 7., 4., 4.) == [12, 36]


def test_best_checkpoint_continues_from_the_history(stub):
    rows = 'step,frechet_distance\n12,\n24,5\n36,1\n'  # step 36 comes after the checkpoint
    pathlib.Path(stub.run.result_path('history.csv')).write_text(rows)
    assert saved_as_best(stub, 24, 6., 4.) == [24]


def test_best_checkpoint_saves_nothing_without_scores(stub):
    assert saved_as_best(stub, 0, None) == []


def test_best_checkpoint_tries_again_after_a_failed_save(stub):
    stub.best_checkpoints.save_if_finite.side_effect = [UserError('disk full'), None]
    callback = BestCheckpoint()
    callback.start(stub, 0)
    with pytest.raises(UserError):
        callback.on_step(stub, 12, {'frechet_distance': 5.})
    callback.on_step(stub, 24, {'frechet_distance': 6.})
    assert stub.best_checkpoints.save_if_finite.call_count == 2


##################################################################################
# The collapse warning
##################################################################################

RANDOM_IMAGES = random_dataset(SMALL, train=70).train[0] / np.float32(255)


@pytest.fixture
def watched(stub, monkeypatch):
    """A function that runs CollapseWarning on a stand-in model.

    Its arguments are D's loss after steps 1, 2, ..., the samples, and options. By default, the samples are those of a
    good generator. A warning needs 20 steps.
    """
    monkeypatch.setattr(callbacks, 'COLLAPSE_STEPS', 20)
    stub.draw_z = lambda count, *key: np.zeros([count, 62])

    def run(losses, samples=RANDOM_IMAGES, **options):
        stub.config = config_of(stub.config.checkpoint_dir, **{'sample_freq': 4, **options})
        stub.objective = OBJECTIVES[stub.config.gan_type]
        stub.sample = lambda z, labels: samples[:len(z)]
        callback = CollapseWarning(random_dataset(SMALL, train=70))
        callback.start(stub, 0)
        for step, loss in enumerate(losses, 1):
            callback.on_step(stub, step, {'d_loss': 5., 'd_loss_real': loss / 4, 'd_loss_fake': 3 * loss / 4})
    return run


@pytest.mark.parametrize('gan_type, loss', [
    ('gan', 0.05), ('r1', 0.05), ('dragan', 0.05), ('lsgan', 0.019), ('hinge', 0.07)])
def test_loss_near_0_is_reported_once_and_without_the_penalty(watched, capsys, gan_type, loss):
    watched(200 * [loss], gan_type=gan_type)
    out = capsys.readouterr().out
    assert out.startswith('Step 20: D separates real and generated images almost perfectly (mean d_loss_real + '
                          f'd_loss_fake {loss} over 20 steps)') and out.count('\n') == 1


@pytest.mark.parametrize('losses, options', [
    (200 * [0.26], {}), (19 * [0.01], {}), ([*15 * [0.01], *5 * [1.], *15 * [0.01]], {}),
    (200 * [0.], {'gan_type': 'wgan-gp'})], ids=['low', 'short', 'interrupted', 'without a floor'])
def test_other_losses_are_not_reported(watched, capsys, losses, options):
    watched(losses, **options)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('sample_freq, step', [(4, 24), (1, 21), (30, 60)])
def test_equal_samples_are_reported_once(watched, capsys, sample_freq, step):
    watched(100 * [1.], np.tile(RANDOM_IMAGES[:1], [64, 1, 1, 1]), sample_freq=sample_freq)
    out = capsys.readouterr().out
    assert out.startswith(f'Step {step}: the samples are almost the same for every z (their standard deviation is 0% '
                          'of that of the training images)') and out.count('\n') == 1


def test_samples_with_a_quarter_of_the_variety_are_not_reported(watched, capsys):
    watched(100 * [1.], 0.5 + (RANDOM_IMAGES - 0.5) / 4)
    assert capsys.readouterr().out == ''


def test_samples_that_are_alike_only_at_times_are_not_reported(watched, stub, capsys):
    watched([])  # completes the stand-in model
    samples = itertools.cycle([np.zeros([64, *SMALL]), RANDOM_IMAGES[:64]])
    callback = CollapseWarning(random_dataset(SMALL, train=70))
    callback.start(stub, 0)
    stub.sample = lambda z, labels: next(samples)
    for step in range(4, 400, 4):
        callback.check_variety(stub, step)
    assert capsys.readouterr().out == ''


def test_equal_training_images_cause_no_report(watched, capsys, monkeypatch):
    monkeypatch.setattr(callbacks, 'real_variety', lambda *args: 0.)
    watched(100 * [1.], np.zeros([64, *SMALL]))
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('options, advice', [
    ({}, 'Try in a new run: a lower --d_lr, --gan_type r1, --sn true, --augment true\n'),
    ({'gan_type': 'r1', 'sn': True, 'augment': True}, 'Try in a new run: a lower --d_lr\n')])
def test_warning_suggests_only_what_the_run_lacks(watched, capsys, options, advice):
    watched(20 * [0.], **options)
    assert capsys.readouterr().out.endswith(advice)


@pytest.fixture(scope='module')
def collapsed(tmp_path_factory):
    """The output of CollapseWarning for a model whose G ignores z, and whose D learns fast."""
    printed = []
    with pytest.MonkeyPatch.context() as patch, open_model(
            TinyGAN, image_shape=SMALL, classes=0, batch_size=8, z_dim=4, ema=0., d_lr=0.01,
            g_lr=1e-9, sample_freq=5, checkpoint_dir=str(tmp_path_factory.mktemp('collapsed'))) as model:
        patch.setattr(callbacks, 'COLLAPSE_STEPS', 15)
        patch.setattr(callbacks.tqdm, 'write', printed.append)
        matrix, = (v for v in tf.trainable_variables() if v.op.name == 'generator/g_fc1/Matrix')
        matrix.load(0 * model.sess.run(matrix), model.sess)
        dataset, callback = random_dataset(SMALL, train=70), CollapseWarning(random_dataset(SMALL, train=70))
        callback.start(model, 0)
        for step in range(60):
            callback.on_step(model, step + 1, model.train_batch(model.batches(dataset, step), step))
    return printed


def test_discriminator_that_wins_is_reported(collapsed):
    assert sum('D separates real and generated images almost perfectly' in line for line in collapsed) == 1


def test_generator_that_ignores_z_is_reported(collapsed):
    lines = [line for line in collapsed if 'the samples are almost the same for every z' in line]
    assert [line.split(':')[0] for line in lines] == ['Step 20']


def test_variety_is_the_root_mean_square_deviation_within_classes():
    images, labels = np.random.default_rng(0).random([7, *SMALL]), np.array([0, 0, 0, 1, 1, 1, 2])
    expected = np.sqrt((images[:3].var(0, ddof=1).mean() + images[3:6].var(0, ddof=1).mean()) / 2)
    assert variety(images, labels) == pytest.approx(expected)


def test_sample_variety_of_a_conditional_run_is_that_within_its_classes():
    """The samples of this model depend only on the class."""
    model = types.SimpleNamespace(config=types.SimpleNamespace(conditional=True, num_classes=10, seed=0),
                                  draw_z=lambda count, *key: np.zeros([count, 62]),
                                  sample=lambda z, labels: RANDOM_IMAGES[labels])
    assert callbacks.sample_variety(model) == pytest.approx(0, abs=1e-6)


def test_variety_of_one_image_per_class_is_0():
    assert variety(RANDOM_IMAGES[:3], np.arange(3)) == 0


##################################################################################
# History, summaries and snapshots
##################################################################################

def history_text(stub):
    return pathlib.Path(stub.run.result_path('history.csv')).read_text()


def write_history(stub, start_step, *rows):
    """Record rows (step, values) with History, and return the text of the file."""
    history = History()
    history.start(stub, start_step)
    for step, values in rows:
        history.on_step(stub, step, values)
    history.close()
    return history_text(stub)


def test_history_records_losses_gammas_and_scores(stub):
    write_history(stub, 0, (10, {'d_loss': 1.5}), (12, {'d_loss': 1., 'frechet_distance': 9.}))
    unknown = dict.fromkeys(callbacks.SCORES, '')
    assert read_history(stub.run.result_path('history.csv')) == [
        {'step': '10', 'd_loss': '1.5', 'g_gamma': '0.25', **unknown},
        {'step': '12', 'd_loss': '1.0', 'g_gamma': '0.25', **unknown, 'frechet_distance': '9.0'}]


def test_history_adds_the_gammas_to_the_values(stub):
    values = {'d_loss': 1.5}
    write_history(stub, 0, (10, values))
    assert values == {'d_loss': 1.5, 'g_gamma': 0.25}


def test_history_without_eval_freq_has_no_columns_for_scores(stub, tmp_path):
    stub.config = config_of(tmp_path)
    assert write_history(stub, 0) == 'step,d_loss,g_gamma\n'


@pytest.mark.parametrize('start_step, columns', [(12, list(callbacks.SCORES)), (10, [])])
def test_history_without_eval_freq_keeps_the_scores_up_to_the_checkpoint(stub, tmp_path, start_step, columns):
    write_history(stub, 0, (12, {'frechet_distance': 9.}))
    stub.config = config_of(tmp_path)
    header = write_history(stub, start_step).splitlines()[0]
    assert header.split(',') == ['step', 'd_loss', 'g_gamma', *columns]


def test_history_removes_rows_after_the_checkpoint(stub):
    write_history(stub, 0, (10, {'d_loss': 1.5}), (20, {'d_loss': 1.}))
    write_history(stub, 10)
    assert [row['step'] for row in read_history(stub.run.result_path('history.csv'))] == ['10']


def test_history_is_on_disk_after_each_step(stub):
    history = History()
    history.start(stub, 0)
    history.on_step(stub, 10, {'d_loss': 1.5})
    assert history_text(stub).splitlines()[-1].startswith('10,1.5,0.25,')
    history.close()


@pytest.mark.parametrize('callback', [History(), Summaries()])
def test_callbacks_that_were_not_started_can_be_closed(callback):
    callback.close()


@pytest.fixture
def events(stub, sess, tmp_path):
    """The events that Summaries writes at step 10, after training has been resumed at step 8."""
    tf.constant(1., name='something')
    stub.sess = sess
    (tmp_path / 'grid.png').write_bytes(b'PNG')
    summaries = Summaries()
    summaries.start(stub, 8)
    summaries.on_step(stub, 10, {'d_loss': 1.5})
    summaries.add_image(10, tmp_path / 'grid.png')
    summaries.close()
    path, = os.listdir(stub.run.logs)
    return list(tf.train.summary_iterator(os.path.join(stub.run.logs, path)))


def summary_values(events, tag):
    return [(event.step, value) for event in events for value in event.summary.value if value.tag == tag]


def test_summaries_write_the_values(events):
    (step, value), = summary_values(events, 'd_loss')
    assert (step, value.simple_value) == (10, 1.5)


def test_summaries_write_the_image(events):
    (step, value), = summary_values(events, 'samples')
    assert (step, value.image.encoded_image_string) == (10, b'PNG')


def test_summaries_write_the_graph(events):
    graph, = (tf.GraphDef.FromString(event.graph_def) for event in events if event.graph_def)
    assert [node.name for node in graph.node] == ['something']


def test_summaries_mark_the_step_at_which_training_resumes(events):
    step, = (event.step for event in events if event.session_log.status == tf.SessionLog.START)
    assert step == 8


def images(count):
    """Return grey images [count, H, W, C], each darker than the next."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], [count, *SMALL])


def dataset_of(train=14, test=8):
    """Return a Dataset without classes."""
    return Dataset((images(train), None), (images(test), None), ())


def test_snapshots_after_the_checkpoint_are_removed_at_the_start(stub):
    make_folder(stub.run.snapshots)
    for step in 12, 24, 36:
        pathlib.Path(stub.run.snapshots, f'{step}.npz').touch()
    Snapshots(dataset_of()).start(stub, 24)
    assert sorted(os.listdir(stub.run.snapshots)) == ['12.npz', '24.npz']


##################################################################################
# A training run in which something fails
##################################################################################

@pytest.fixture
def model(sess, tmp_path, few_statistics):
    """A model that trains for one epoch of 4 steps, with grids and checkpoints every 2 steps."""
    model = SAGAN(sess, image_shape=SMALL, batch_size=7, epoch=1, iteration=4, print_freq=1, sample_freq=2, save_freq=2,
                  sample_num=2, **folders_in(tmp_path))
    model.build_model()
    return model


def steps_of(model):
    return checkpoint_steps(model.checkpoints.folder)


def before_grid(monkeypatch, action):
    """Run action(step) before each training grid is written."""
    write = TrainGrid.on_step

    def on_step(callback, model, step, values):
        action(step)
        write(callback, model, step, values)

    monkeypatch.setattr(TrainGrid, 'on_step', on_step)


@pytest.mark.slow
def test_training_saves_a_checkpoint_even_if_the_results_were_removed(model, monkeypatch):
    before_grid(monkeypatch, lambda step: shutil.rmtree(model.run.results, ignore_errors=True))
    with pytest.raises(OSError, match='SAGAN_train_step00002.png'):
        model.train(dataset=dataset_of())
    assert steps_of(model) == [2]


@pytest.mark.slow
def test_training_continues_if_a_figure_fails(model, monkeypatch, capsys):
    monkeypatch.setattr(callbacks, 'draw_curves', mock.Mock(side_effect=ValueError('no such colour')))
    model.train(dataset=dataset_of())
    assert 'Curves failed at step 4: no such colour\n' in capsys.readouterr().out
    assert steps_of(model) == [4, 2]


@pytest.mark.slow
def test_training_does_not_recreate_a_run_folder_that_was_moved_away(model, tmp_path, monkeypatch):
    def move(step):
        if step == 4:
            os.rename(model.run.folder, tmp_path / 'away')

    before_grid(monkeypatch, move)
    with pytest.raises(UserError, match='step 4 was not saved .*SAGAN_mnist_7_62 has been removed'):
        model.train(dataset=dataset_of())
    assert not os.path.exists(model.run.folder)
    assert checkpoint_steps(tmp_path / 'away' / 'SAGAN') == [2]


@pytest.mark.slow
def test_training_does_not_save_weights_that_are_not_finite(model, monkeypatch):
    """The losses of the last step are still finite. The checkpoint before it remains the newest."""
    train_batch = model.train_batch

    def train_and_poison(batches, step, lr_scale):
        values = train_batch(batches, step, lr_scale)
        if step == 3:
            biases, = tf.trainable_variables('generator/g_dc4/biases')
            biases.load(np.array([np.nan]), model.sess)
        return values

    monkeypatch.setattr(model, 'train_batch', train_and_poison)
    with pytest.raises(UserError, match='a weight is not finite at step 4: training stopped.*--g_lr'):
        model.train(dataset=dataset_of())
    assert steps_of(model) == [2]

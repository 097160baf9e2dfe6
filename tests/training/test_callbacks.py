import errno
import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from options import UserError
from storage.run import checkpoint_steps
from training import callbacks as records
from training.callbacks import Record, writing


class Noted(Record):
    """Notes what it is asked to write, and fails with an error where it is given one."""

    def __init__(self, every, seen, error=None):
        super().__init__(every)
        self.seen, self.error = seen, error

    def write(self, step, values):
        self.seen.append((step, type(self).__name__, dict(values)))
        values[type(self).__name__] = step
        if self.error:
            raise self.error

    def close(self):
        self.seen.append('closed')


class Later(Noted):
    pass


def test_records_are_written_in_their_order_when_they_are_due():
    seen = []
    with writing([Noted((2, 0), seen), Later((3, 2), seen)]) as write_due:
        for step in range(1, 5):
            write_due(step, {'loss': 1.})
    assert seen == [(2, 'Noted', {'loss': 1.}), (2, 'Later', {'loss': 1., 'Noted': 2}), (3, 'Later', {'loss': 1.}),
                    (4, 'Noted', {'loss': 1.}), (4, 'Later', {'loss': 1., 'Noted': 4}), 'closed', 'closed']


def test_a_record_that_fails_does_not_keep_the_others_from_being_written(capsys):
    seen = []
    with writing([Noted((1,), seen, ValueError('no\nsuch colour')), Later((1,), seen)]) as write_due:
        write_due(1, {})
        write_due(2, {})
    assert [entry[:2] for entry in seen[:4]] == [(1, 'Noted'), (1, 'Later'), (2, 'Noted'), (2, 'Later')]
    assert capsys.readouterr().out == ('Noted of step 1 is not written: such colour\n'
                                       'Noted of step 2 is not written: such colour\n')


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device', 'x.png'), UserError('full')])
def test_what_the_user_must_put_right_ends_training_when_all_was_tried(error):
    seen = []
    with pytest.raises(type(error)) as raised, writing([Noted((1,), seen, error), Later((1,), seen)]) as write_due:
        write_due(1, {})
        write_due(2, {})
    assert raised.value is error
    assert [entry[:2] for entry in seen[:2]] == [(1, 'Noted'), (1, 'Later')] and seen[2:] == ['closed', 'closed']


def test_all_are_closed_where_one_cannot_be():
    """As the history on a full disk, whose last row its file tries to write once more."""
    seen, failing, file = [], Noted((1,), []), open('/dev/full', 'w')  # noqa: SIM115 (close is what fails)
    failing.write, failing.close = lambda step, values: print(step, file=file, flush=True), file.close
    with pytest.raises(OSError, match='No space'), writing([failing, Noted((1,), seen), Later((), seen)]) as write_due:
        write_due(1, {})
    assert seen == [(1, 'Noted', {}), 'closed', 'closed']


TRAINING = dict(batch_size=7, epoch=1, iteration=4, print_freq=1, sample_freq=2, save_freq=2, sample_num=2,
                image_shape=(28, 28, 1))


def steps(model):
    return checkpoint_steps(model.checkpoints.folder)


def test_results_taken_away_in_mid_run_cost_no_checkpoint(build, monkeypatch):
    """The grid of step 2 finds no folder: the checkpoint of step 2 is written all the same, then training ends."""
    model = build(**TRAINING)
    grid = records.Grid.write

    def write(*args):
        shutil.rmtree(model.run.results, ignore_errors=True)
        grid(*args)

    monkeypatch.setattr(records.Grid, 'write', write)
    with pytest.raises(OSError, match='results'):
        model.train()
    assert steps(model) == [2]


def test_a_figure_that_fails_costs_nothing(build, monkeypatch, capsys):
    def draw(rows, output):
        raise ValueError('no such colour')

    model = build(**TRAINING)
    monkeypatch.setattr(records, 'draw_curves', draw)
    model.train()
    assert 'Curves of step 4 is not written: no such colour\n' in capsys.readouterr().out
    assert steps(model) == [4, 2]


def test_checkpoints_taken_away_in_mid_run(build, tmp_path, monkeypatch):
    """They are as they were where they are now; training says so and ends."""
    model = build(**TRAINING)
    grid = records.Grid.write

    def write(record, step, values):
        grid(record, step, values)
        if step == 4:
            os.rename(model.run.folder, tmp_path / 'away')

    monkeypatch.setattr(records.Grid, 'write', write)
    with pytest.raises(UserError, match='SAGAN_mnist_7_62 is gone, and step 4 is not saved'):
        model.train()
    assert 'SAGAN.model-2.index' in os.listdir(tmp_path / 'away' / 'SAGAN')
    assert not os.path.exists(model.run.folder)


def test_weights_that_are_no_numbers_are_not_saved(build, monkeypatch, tmp_path):
    """The losses of the last step are finite still; the checkpoint before it stays the newest."""
    model = build(**TRAINING)
    train_batch = model.train_batch

    def poisoned(batches, step, lr_scale):
        values = train_batch(batches, step, lr_scale)
        if step == 3:
            variable = tf.trainable_variables('generator/g_dc4/biases')[0]
            variable.load(np.array([np.nan]), model.sess)
        return values

    monkeypatch.setattr(model, 'train_batch', poisoned)
    with pytest.raises(UserError, match='a weight is no finite number at step 4.*--g_lr'):
        model.train()
    assert steps(model) == [2]

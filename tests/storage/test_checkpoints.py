import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import SMALL, images_and_z

from options import UserError
from SAGAN import SAGAN


def test_checkpoint_without_averages(build, sess, capsys):
    """It is restored, which says that it has none; then the averages start at its weights."""
    model = build(image_shape=SMALL, batch_size=8)
    for step in range(3):
        sess.run(model.train_step, images_and_z(model, 8, step))
    trained = [v for v in tf.global_variables() if v not in model.averages]
    expected = sess.run({v.op.name: v for v in trained})
    model.checkpoints.saver = tf.train.Saver(trained)  # as --ema 0 has it
    model.save(3)
    sess.run(tf.global_variables_initializer())
    assert model.load() == (True, 3)
    assert 'SAGAN.model-3 has no averaged weights: the raw ones take their place' in capsys.readouterr().out
    assert model.sampled_weights == 'raw'
    for name, value in sess.run({v.op.name: v for v in tf.global_variables()}).items():
        assert (value == expected[name.removesuffix('/ExponentialMovingAverage')]).all(), name


def test_save_and_load_all_variables(build, sess):
    model = build(batch_size=8)
    assert model.load() == (False, 0)
    sess.run(model.train_step, images_and_z(model, 8))
    expected = sess.run(tf.global_variables())
    model.save(1)
    sess.run(tf.global_variables_initializer())
    assert model.load() == (True, 1)
    assert all((a == b).all() for a, b in zip(expected, sess.run(tf.global_variables()), strict=True))


def kept(checkpoints):
    return {int(name.split('.')[1].removeprefix('model-')) for name in os.listdir(checkpoints.folder)
            if name != 'checkpoint'}


def test_the_newest_checkpoints_are_kept(build):
    """Three, one of the best, also after a restart, which knows only what lies there, and fewer with another --keep."""
    model = build()
    for checkpoints, steps, left in (model.checkpoints, (8, 9, 10, 11), {9, 10, 11}), (
            model.best_checkpoints, (2, 4), {4}):
        for step in steps:
            checkpoints.saver = tf.train.Saver(max_to_keep=checkpoints.keep)  # as after a restart
            checkpoints.save(step)
        assert kept(checkpoints) == left
    assert model.load() == (True, 11) and model.load('best') == (True, 4) and model.load(8) == (False, 0)
    model.checkpoints.keep = 1
    model.checkpoints.saver = tf.train.Saver(max_to_keep=1)
    model.save(12)
    assert kept(model.checkpoints) == {12}


def test_checkpoints_that_a_training_replaces_meanwhile(build, monkeypatch, capsys):
    model = build(keep=1)
    model.save(1)
    restore = model.checkpoints.restore

    def too_late(path):
        monkeypatch.undo()
        model.save(2)
        restore(path)

    monkeypatch.setattr(model.checkpoints, 'restore', too_late)
    assert model.load() == (True, 2) and 'damaged' not in capsys.readouterr().out


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def flip(path):
    with open(path, 'r+b') as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def empty(path):
    os.truncate(path, 0)


def test_damaged_checkpoint(build, sess, capsys, tmp_path):
    model = build()
    for step in 1, 2:
        tf.trainable_variables()[0].load(np.full([62, 1024], step), sess)
        model.save(step)
    whole = shutil.copytree(model.checkpoints.folder, tmp_path / 'whole')
    for kind in 'data-00000-of-00001', 'index':
        for damage in truncate, flip, empty, os.remove:
            shutil.copytree(whole, model.checkpoints.folder, dirs_exist_ok=True)
            damage(f'{model.checkpoints.folder}/SAGAN.model-2.{kind}')
            gone = kind == 'index' and damage is os.remove  # what has no index is not even seen
            capsys.readouterr()
            assert model.load() == (True, 1)
            assert sess.run(tf.trainable_variables()[0])[0, 0] == 1
            assert ('SAGAN.model-2 is damaged' in capsys.readouterr().out) == (not gone)
            if not gone:
                with pytest.raises(UserError, match='checkpoint 2 of .* is damaged: choose another'):
                    model.load(2)
                assert 'falling back' not in capsys.readouterr().out
            damage(f'{model.checkpoints.folder}/SAGAN.model-1.{kind}')
            if gone:
                assert model.load() == (False, 0)
            else:
                with pytest.raises(UserError, match='no checkpoint in .* is whole'):
                    model.load()


def test_checkpoint_of_another_network(build, tmp_path):
    model = build(z_dim=62)
    model.save(1)
    for other in dict(z_dim=100), dict(attention=False), dict(image_shape=(32, 32, 1)):
        with tf.Graph().as_default(), tf.Session() as sess:
            stranger = SAGAN(sess, checkpoint_dir=str(tmp_path / 'checkpoint'), **other)
            stranger.build_model()
            if not os.path.exists(stranger.checkpoints.folder):
                shutil.copytree(model.checkpoints.folder, stranger.checkpoints.folder)
            if other == dict(attention=False):
                assert stranger.load() == (True, 1)  # has all that it needs
            else:
                with pytest.raises(UserError, match='is of another network: generator/g_fc'):
                    stranger.load()

"""The class in somebody's own program or notebook, and networks that somebody changes."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import README, SMALL, images_and_z

import sampling
from evaluation import figures
from ops import attention, deconv2d, linear, paper_attention
from options import UserError
from SAGAN import SAGAN
from storage.history import read_history
from utils import draw_z


def test_build_train_and_sample_without_a_file_an_exit_or_a_handler(sess, monkeypatch, tmp_path, small_data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    model = SAGAN(sess, image_shape=SMALL, batch_size=4, data_dir=str(small_data))
    model.build_model()
    sess.run(tf.global_variables_initializer())
    z, samples = draw_z(5, 62, 0), []
    for step in range(3):
        feed = images_and_z(model, 4, step)
        losses = model.train_batch([(feed[model.inputs], feed[model.z])], step)
        assert set(losses) == {'d_loss', 'd_loss_real', 'd_loss_fake', 'g_loss', 'd_real', 'd_fake'}
        samples.append(model.sample(z))
        assert (samples[-1] == model.sample(z)).all()
        model.refresh_statistics()  # what sampling has done by itself
        assert (samples[-1] == model.sample(z)).all()
    assert samples[0].shape == (5, *SMALL)
    assert (samples[0] != samples[1]).mean() > 0.5 and (samples[1] != samples[2]).mean() > 0.5
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert os.listdir(tmp_path) == []


def test_loading_takes_new_statistics(build, sess):
    model = build(image_shape=SMALL)
    model.save(0)
    z = draw_z(5, 62, 0)
    before = model.sample(z)
    for step in range(3):
        feed = images_and_z(model, 8, step)
        model.train_batch([(feed[model.inputs], feed[model.z])], step)
    assert (model.sample(z) != before).mean() > 0.5
    model.load()
    assert (model.sample(z) == before).all()


def test_options_by_name(sess):
    """As they are typed, too."""
    with pytest.raises(TypeError, match='no option learning_rate; it takes .*g_lr'):
        SAGAN(sess, learning_rate=0.1)
    model = SAGAN(sess, dataset='fashion-mnist', z='normal')
    assert (model.dataset_name, model.z_name) == ('fashion-mnist', 'normal')
    assert SAGAN(sess, dataset='fashion-mnist', conditional=True, label='boot').asked == 9
    assert SAGAN(sess, conditional=True, label=0).asked == 0


def test_the_notebook_of_the_readme(build, monkeypatch, tmp_path):
    """As printed: a new graph, load alone, a map; a second build_model in it says what to do."""
    model = build()
    next(average for variable, average in zip(model.g_variables, model.averages, strict=True)
         if 'g_dc4/biases' in variable.name).load([7.], model.sess)
    model.save(0)
    lines = README.read_text().split('In a notebook', 1)[1].split('```')[1].removeprefix('python\n')
    assert len(re.findall('^(?!import|from).+', lines, re.M)) == 5
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('matplotlib.pyplot.imshow', lambda image: image)
    names = {}
    with tf.Graph().as_default():
        exec(lines, names)
        assert names['images'].shape == (4, 28, 28, 1) and names['images'].min() > 0.99  # sigmoid of 7
        np.testing.assert_allclose(names['maps'].sum(-1), 1, rtol=1e-5)
        with pytest.raises(UserError, match=r'call tf.reset_default_graph\(\)'):
            SAGAN(names['model'].sess).build_model()
        names['model'].sess.close()


def test_importing_is_quiet(tmp_path):
    """No chatter of TensorFlow, nor a warning, where the class is used directly."""
    program = "from SAGAN import SAGAN\nfrom tf1 import tf\n" \
              "model = SAGAN(tf.Session(), image_shape=(8, 8, 1), keep=1)\n" \
              "model.build_model()\nmodel.sess.run(tf.global_variables_initializer())\n" \
              "print(model.sample(model.draw_z(1, 0)).shape)\n" \
              "for step in range(3): model.save(step)"  # TensorFlow deprecates how it removes the oldest
    environment = {name: value for name, value in os.environ.items() if not name.startswith('TF_')}
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True,
                          env={**environment, 'PYTHONPATH': str(README.parent)})
    assert (done.stdout, done.stderr) == ('(1, 8, 8, 1)\n', '')


def test_attention_takes_eighths_of_its_channels(sess):
    for layer in attention, paper_attention:
        with pytest.raises(ValueError, match='multiple of 8, not 12'):
            layer(tf.zeros([1, 4, 4, 12]))


class TwoLayers(SAGAN):
    """A generator with an attention layer on each of two maps."""

    def generator(self, z, is_training=True, reuse=False, labels=None):
        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = tf.reshape(linear(z, 7 * 7 * 8, 'g_fc1'), [-1, 7, 7, 8])
            x = attention(x, is_training)  # [B, 7, 7, 8]
            x = deconv2d(x, [tf.shape(z)[0], 14, 14, 8], 4, 4, name='g_dc2')
            x = attention(x, is_training, 'second')  # [B, 14, 14, 8]
            return tf.nn.sigmoid(deconv2d(x, [tf.shape(z)[0], 28, 28, 1], 4, 4, name='g_dc3'))


def test_several_attention_layers_are_in_history_curves_and_figure(sess, small_data, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)
    monkeypatch.chdir(tmp_path)
    model = TwoLayers(sess, batch_size=4, epoch=1, iteration=2, print_freq=1, sample_num=2, test_num=1,
                      data_dir=str(small_data))
    model.build_model()
    assert list(model.gammas) == ['g_gamma', 'g_gamma_2', 'd_gamma']
    model.train()
    rows = read_history(model.run.path('history.csv'))
    gammas = sess.run(model.gammas)
    assert all(float(rows[-1][name]) == pytest.approx(float(gamma)) != 0 for name, gamma in gammas.items())
    labels = [line.get_label() for axis in figures.draw_curves(rows).axes for line in axis.lines]
    assert {'generator', 'generator 2', 'discriminator'} < set(labels)

    z = draw_z(3, 62, 0)
    first, second, d_layer = model.attention_sections(z)
    assert [maps.shape for _, _, maps in (first, second, d_layer)] == [(3, 7, 7, 7, 7), (3, 14, 14, 14, 14),
                                                                       (3, 7, 7, 7, 7)]
    np.testing.assert_allclose(second[2].reshape(3, 196, 196),
                               sess.run('generator/second/attention_map:0', {model.z: z}), atol=1e-6)
    for (title, _, _), name in (first, 'g_gamma'), (second, 'g_gamma_2'), (d_layer, 'd_gamma'):
        assert f'(gamma {sess.run(model.sampled_gammas[name]):.3f})' in title
    figure = figures.draw_attention([first, second, d_layer], 'title')
    assert len(figure.axes) == 3 * 3 * 5 + 2  # a scale for 49 keys and one for 196
    model.test()
    assert 'SAGAN_attention.png' in os.listdir(model.run.results)
    page = pathlib.Path(model.run.path('explorer.html')).read_text()
    assert re.findall('"positions": .([0-9]+)', page) == ['7', '14', '7']  # one layer more is on it by itself

import numpy as np
import pytest
from helpers import SMALL, randomize
from tiny_gan import TinyGAN, open_model

from ops import conv2d, deconv2d
from SAGAN import SAGAN
from tf1 import tf
from training import precision
from training.precision import BFLOAT16_GRADIENTS, session_config


@pytest.fixture(params=['CPU', 'CPU with bfloat16', 'GPU'])
def machine(request, monkeypatch):
    """The kind of machine on which session_config runs. The machine with a GPU also has a CPU with bfloat16."""
    monkeypatch.setattr(precision, 'gpu_names', lambda: ['NVIDIA T4'] if request.param == 'GPU' else [])
    monkeypatch.setattr(precision, 'bfloat16_unit', lambda: None if request.param == 'CPU' else 'AMX')
    return request.param


@pytest.mark.parametrize('name', ['float32', 'bfloat16'])
def test_session_config_converts_to_bfloat16_on_a_cpu_that_has_it(machine, name):
    rewrite = session_config(name).graph_options.rewrite_options
    expected = name == 'bfloat16' and machine == 'CPU with bfloat16'
    assert bool(rewrite.auto_mixed_precision_onednn_bfloat16) == expected


REPORTS = {'CPU': 'This processor or this build of TensorFlow is not known to support fast bfloat16: using float32\n',
           'CPU with bfloat16': '',
           'GPU': '--precision bfloat16 is for CPUs only: using float32 on the GPU\n'}


def test_session_config_reports_that_it_does_not_use_bfloat16(machine, capsys):
    session_config('bfloat16')
    assert capsys.readouterr().out == REPORTS[machine]


def test_session_config_reports_nothing_in_float32(machine, capsys):
    session_config('float32')
    assert capsys.readouterr().out == ''


CONVOLUTIONS = [(8, 8, 5, 2), (7, 9, 4, 2), (6, 5, 4, 1), (9, 7, 3, 3)]


@pytest.mark.parametrize('height, width, kernel, stride', CONVOLUTIONS)
@pytest.mark.parametrize('kind', ['conv2d', 'deconv2d'])
def test_bfloat16_gradients_equal_those_of_tensorflow(sess, kind, height, width, kernel, stride):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[6, height, width, 3]), tf.float32)

    def layer():
        if kind == 'conv2d':
            return conv2d(x, 4, kernel, kernel, stride, stride)
        return deconv2d(x, [6, height * stride, width * stride, 2], kernel, kernel, stride, stride)

    y = layer()
    with sess.graph.gradient_override_map(BFLOAT16_GRADIENTS), tf.variable_scope('', reuse=True):
        overridden = layer()
    randomize(sess, rng)
    inputs = [x, *tf.trainable_variables()]
    expected, gradients = sess.run([tf.gradients(tf.sin(output), inputs) for output in (y, overridden)])
    for gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-4, atol=1e-4 * abs(value).max())


@pytest.mark.slow
def test_one_pass_of_d_over_real_and_fake_images_trains_as_two_passes_do():
    """--precision bfloat16 selects the one pass. Both sessions compute in float32, so that only rounding differs."""
    results = []
    for name in 'float32', 'bfloat16':
        with open_model(TinyGAN, image_shape=SMALL, classes=3, precision=name, conditional=True) as model:
            rng = np.random.default_rng(0)
            weights = {v.initializer.inputs[1]: rng.normal(0, 0.1, v.shape) for v in tf.trainable_variables()}
            model.sess.run(tf.global_variables_initializer(), weights)
            labels, z_labels = rng.integers(0, 3, [2, 6])
            losses = model.train_batch([(rng.random([6, *SMALL]), model.draw_z(6, 0), labels, z_labels)], 0)
            statistics = model.sess.run(tf.global_variables('discriminator/.*/moving_'))
            results.append([*losses.values(), *statistics])
    assert len(results[0]) > len(losses)  # D has batch norm
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_losses_in_bfloat16_are_close_to_those_in_float32():
    """Compare the second step with sn, a penalty, classes and the paper's attention."""
    results = []
    for name in 'float32', 'bfloat16':
        with tf.Graph().as_default(), tf.Session(config=session_config(name)) as sess:
            model = SAGAN(sess, image_shape=SMALL, classes=10, precision=name, gan_type='wgan-gp', conditional=True,
                          sn=True, attention='paper')
            model.build_model()
            sess.run(tf.global_variables_initializer())
            rng = np.random.default_rng(0)
            for step in range(2):
                labels, z_labels = rng.integers(0, 10, [2, 64])
                batch = rng.random([64, *SMALL]), model.draw_z(64, step), labels, z_labels
                losses = model.train_batch([batch], step)
            results.append(losses)
    for name in 'd_loss', 'd_penalty', 'd_loss_real', 'g_loss':
        assert results[0][name] == pytest.approx(results[1][name], rel=0.2, abs=0.02), name

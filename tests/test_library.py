"""The class as a library: in a program or a notebook, and with custom networks."""

import os
import pathlib
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT
from tiny_gan import TinyGAN, open_model

import SAGAN as module
from evaluation import figures
from evaluation.attention import attention_sections
from ops import deconv2d, linear, paper_attention
from SAGAN import SAGAN
from storage.history import read_history
from tf1 import tf
from utils import draw_z

SIGNALS = signal.SIGINT, signal.SIGTERM


@pytest.fixture(scope='module', autouse=True)
def one_batch_of_statistics():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        yield


##################################################################################
# Programs and notebooks
##################################################################################

@pytest.fixture(scope='module')
def used(tmp_path_factory):
    """Files and signal handlers after a program has built, trained and sampled a model in an empty folder."""
    folder = tmp_path_factory.mktemp('program')
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with open_model(TinyGAN, image_shape=(8, 8, 1), attention='paper') as model:
            model.train_batch([(np.zeros([4, 8, 8, 1]), draw_z(4, 62, 0))], 0)
            model.sample(draw_z(5, 62, 0))
    return SimpleNamespace(files=os.listdir(folder), handlers_before=handlers,
                           handlers=[signal.getsignal(number) for number in SIGNALS])


@pytest.mark.slow
def test_library_writes_no_file_by_itself(used):
    assert used.files == []


@pytest.mark.slow
def test_library_installs_no_signal_handler(used):
    assert used.handlers == used.handlers_before


def test_unknown_option_is_a_type_error(sess):
    with pytest.raises(TypeError, match='no option learning_rate; its options are .*g_lr'):
        SAGAN(sess, learning_rate=0.1)


@pytest.mark.parametrize('typed, name', [({'dataset': 'fashion-mnist'}, 'dataset_name'), ({'z': 'normal'}, 'z_name')])
def test_option_may_be_given_by_its_command_line_name(sess, typed, name):
    value, = typed.values()
    assert getattr(SAGAN(sess, **typed).config, name) == value


@pytest.mark.parametrize('label, number', [('boot', 9), (0, 0), ('3', 3)])
def test_label_may_be_a_name_or_a_number(sess, label, number):
    assert SAGAN(sess, dataset='fashion-mnist', conditional=True, label=label).target_class == number


@pytest.fixture(scope='module')
def notebook(tmp_path_factory, small_data):
    """The names that the code in docs/attention.md defines. In the run that it loads, G draws white images."""
    lines = (ROOT / 'docs' / 'attention.md').read_text().split('```python\n')[1].split('```')[0]
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('notebook'))
        patch.setattr('matplotlib.pyplot.imshow', lambda image: image)
        with open_model(data_dir=str(small_data)) as model:
            index = [variable.op.name for variable in model.g_variables].index('generator/g_dc4/biases')
            model.averages[index].load([7.], model.sess)
            model.save(0)
            model.run.write_config(model.config)
        exec(lines, names)
        names['model'].sess.close()
    return names


@pytest.mark.slow
def test_notebook_in_the_docs_loads_the_run_and_samples(notebook):
    assert notebook['images'].shape == (4, 28, 28, 1)
    np.testing.assert_allclose(notebook['images'], 1 / (1 + np.exp(-7)), atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize('network', ['generator', 'discriminator'])
def test_notebook_in_the_docs_gets_the_attention_maps(notebook, network):
    maps = notebook[f'{network}_maps']
    assert maps.shape == (4, 7, 7, 7, 7)
    np.testing.assert_allclose(maps.sum((3, 4)), 1, rtol=1e-5)


@pytest.mark.slow
def test_library_prints_nothing_by_itself(tmp_path):
    """TensorFlow prints no messages and no warnings, not even its deprecation warning when a checkpoint is removed."""
    program = ('from SAGAN import SAGAN\nfrom tf1 import tf\n'
               'model = SAGAN(tf.Session(), image_shape=(8, 8, 1), keep=1)\n'
               'model.build_model()\nmodel.sess.run(tf.global_variables_initializer())\n'
               'print(model.sample(model.draw_z(1, 0)).shape)\n'
               'for step in range(3): model.save(step)')
    environment = {name: value for name, value in os.environ.items() if not name.startswith('TF_')}
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True,
                          env={**environment, 'PYTHONPATH': str(ROOT)})
    assert (done.stdout, done.stderr) == ('(1, 8, 8, 1)\n', '')


##################################################################################
# A custom network
##################################################################################

class TwoLayers(SAGAN):
    """A generator with two attention layers, of 7 x 7 and of 14 x 14 positions. The discriminator is the article's."""

    def generator(self, z, is_training=True, reuse=False, labels=None, sync=None):
        with tf.variable_scope('generator', reuse=reuse, use_resource=True):
            x = tf.reshape(linear(z, 7 * 7 * 8, 'g_fc1'), [-1, 7, 7, 8])
            x = paper_attention(x, is_training)  # [B, 7, 7, 8]
            x = deconv2d(x, [tf.shape(z)[0], 14, 14, 8], 4, 4, name='g_dc2')
            x = paper_attention(x, is_training, 'second')  # [B, 14, 14, 8]
            return tf.nn.sigmoid(deconv2d(x, [tf.shape(z)[0], 28, 28, 1], 4, 4, name='g_dc3'))


@pytest.fixture(scope='module')
def two_layers(tmp_path_factory, small_data):
    """A TwoLayers model after two training steps and test()."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('two_layers'))
        with open_model(TwoLayers, batch_size=4, epoch=1, iteration=2, print_freq=1, sample_num=2, test_num=1,
                        data_dir=str(small_data)) as model:
            model.train()
            model.test()
            yield model


@pytest.fixture(scope='module')
def two_layers_history(two_layers):
    return read_history(two_layers.run.result_path('history.csv'))


@pytest.fixture(scope='module')
def two_layers_sections(two_layers):
    return attention_sections(two_layers, draw_z(3, 62, 0))


@pytest.mark.slow
def test_each_attention_layer_has_a_column_in_the_history(two_layers, two_layers_history):
    assert list(two_layers.gammas) == ['g_gamma', 'g_gamma_2', 'd_gamma']
    for name, gamma in two_layers.sess.run(two_layers.gammas).items():
        assert float(two_layers_history[-1][name]) == pytest.approx(float(gamma)) != 0


@pytest.mark.slow
def test_each_attention_layer_has_a_curve(two_layers_history):
    labels = {line.get_label() for axis in figures.draw_curves(two_layers_history).axes for line in axis.lines}
    assert {'generator', 'generator, layer 2', 'discriminator'} < labels


@pytest.mark.slow
def test_each_attention_layer_has_a_section_in_the_figure(two_layers_sections):
    assert [maps.shape for _, _, maps in two_layers_sections] == [
        (3, 7, 7, 4, 4), (3, 14, 14, 7, 7), (3, 7, 7, 7, 7)]


@pytest.mark.slow
def test_attention_section_has_the_map_of_its_layer(two_layers, two_layers_sections):
    _, (_, _, maps), _ = two_layers_sections
    expected = two_layers.sess.run('generator/second/attention_map:0', {two_layers.z: draw_z(3, 62, 0)})
    np.testing.assert_allclose(maps.reshape(3, 196, 49), expected, atol=1e-6)


@pytest.mark.slow
def test_attention_sections_of_several_layers_are_titled_by_size_and_gamma(two_layers, two_layers_sections):
    gammas = two_layers.sess.run(two_layers.sampled_gammas)
    assert [title for title, _, _ in two_layers_sections] == [
        f'Generator, on its own images, 7 x 7 positions (gamma {gammas["g_gamma"]:.3f})',
        f'Generator, on its own images, 14 x 14 positions (gamma {gammas["g_gamma_2"]:.3f})',
        f'Discriminator, on real test images (gamma {gammas["d_gamma"]:.3f})']


@pytest.mark.slow
def test_attention_figure_has_a_colour_scale_per_number_of_keys(two_layers_sections):
    figure = figures.draw_attention(two_layers_sections, 'title')
    assert len(figure.axes) == 3 * 3 * 5 + 2  # 16 keys in one layer, 49 in two


@pytest.mark.slow
def test_attention_figure_is_written(two_layers):
    assert 'SAGAN_attention.png' in os.listdir(two_layers.run.results)


@pytest.mark.slow
def test_attention_layers_are_on_the_page(two_layers):
    page = pathlib.Path(two_layers.run.result_path('explorer.html')).read_text()
    assert re.findall('"positions":.([0-9]+)', page) == ['7', '14', '7']

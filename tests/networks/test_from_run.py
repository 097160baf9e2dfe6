"""networks.from_run: the model of a trained run."""

import contextlib
import io
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_gan import TinyGAN, folders_in, open_model

import networks
import SAGAN as module
from options import UserError
from tf1 import tf
from utils import draw_z


@pytest.fixture(scope='module', autouse=True)
def tiny_network():
    """Make --network article build a TinyGAN, with one batch of statistics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        patch.setitem(networks.NETWORKS, 'article', TinyGAN)
        yield


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    """The folder of the runs 'new' and 'old', z, and the images of step 5. Each run has checkpoints 4 and 5.

    The checkpoint of step 4 has no averages, and its images are grey. The data set is missing. The folder has been
    moved since the runs were saved.
    """
    folder, z = tmp_path_factory.mktemp('stored'), draw_z(3, 7, 0)
    with open_model(TinyGAN, image_shape=(8, 12, 1), classes=('cat', 'dog'), dataset='pets', z_dim=7, epoch=3,
                    precision='bfloat16', name='new', **folders_in(folder)) as model:
        os.makedirs(model.checkpoints.folder)
        without_averages = [variable for variable in tf.global_variables() if variable not in model.averages]
        tf.train.Saver(without_averages).save(model.sess, model.checkpoints.path(4), write_meta_graph=False)
        index = [variable.op.name for variable in model.g_variables].index('generator/g_dc2/w')
        model.averages[index].load(np.random.default_rng(0).normal(0, 10, [4, 4, 1, 8]), model.sess)
        model.save(5)
        model.run.write_config(model.config)
        model.statistics_are_stale = True
        images = model.sample(z)
    shutil.copytree(folder / 'checkpoint' / 'new', folder / 'checkpoint' / 'old')
    os.utime(folder / 'checkpoint' / 'old' / 'SAGAN' / 'SAGAN.model-5.index', (5, 5))
    return SimpleNamespace(folder=str((folder / 'checkpoint').rename(folder / 'moved')), z=z, images=images)


@pytest.fixture(scope='module')
def opened(stored):
    """The result and the output of from_run without a name, and the operations that it adds to the default graph."""
    out = io.StringIO()
    with tf.Graph().as_default() as graph, contextlib.redirect_stdout(out):
        model = networks.from_run(checkpoint_dir=stored.folder, sample_num=9)
    return SimpleNamespace(model=model, out=out.getvalue(), operations=graph.get_operations())


@pytest.mark.slow
def test_from_run_prints_which_run_it_chooses(opened):
    assert opened.out == 'Run: new, step 5\n'


@pytest.mark.slow
def test_from_run_restores_the_weights(opened, stored):
    np.testing.assert_allclose(opened.model.sample(stored.z), stored.images, atol=1e-5)
    assert stored.images.std() > 0.1


@pytest.mark.slow
def test_from_run_has_the_options_of_config_json(opened):
    config = opened.model.config
    assert (config.z_dim, config.epoch, config.class_names) == (7, 3, ('cat', 'dog'))


@pytest.mark.slow
def test_from_run_samples_in_float32(opened):
    assert opened.model.config.precision == 'float32'


@pytest.mark.slow
def test_from_run_accepts_sampling_options(opened):
    assert opened.model.config.sample_num == 9


@pytest.mark.slow
def test_from_run_leaves_the_default_graph_alone(opened):
    assert opened.operations == []


@pytest.mark.slow
@pytest.mark.parametrize('arguments, message', [
    ({'name': 'other'}, r'no trained run with --name other in .* \(existing: new, old\): choose one of these, or'),
    ({'name': 'old', 'label': 'cat'}, '--label cat requires a run with --conditional true')], ids=['name', 'label'])
def test_from_run_reports_what_the_run_lacks(stored, arguments, message):
    with pytest.raises(UserError, match=f'^[^\n]*{message}[^\n]*$'):
        networks.from_run(checkpoint_dir=stored.folder, **arguments)


@pytest.mark.slow
def test_from_run_reports_a_missing_checkpoint(stored):
    with pytest.raises(UserError, match=r'old has no checkpoint 9 \(steps: 5, 4\): choose one of these steps'):
        networks.from_run('old', 9, stored.folder)


@pytest.mark.parametrize('option', ['g_lr', 'z_dim', 'colour'])
def test_from_run_refuses_options_that_belong_to_the_run(option):
    with pytest.raises(TypeError, match=f'from_run has no option {option}; its options are weights, label, '):
        networks.from_run('old', **{option: 1})


@pytest.mark.slow
def test_load_outside_the_graph_of_the_model_restores_another_checkpoint(opened, stored):
    assert opened.model.load(4) == (True, 4)
    assert opened.model.sample(stored.z).std() < 0.1


@pytest.mark.slow
def test_load_that_finds_nothing_lists_steps_and_runs(opened, stored, capsys):
    assert opened.model.load(9) == (False, 0)
    assert capsys.readouterr().out == (
        f'{stored.folder}/new has no checkpoint 9 (steps: 5, 4): nothing was restored. Trained runs in '
        f'{stored.folder}: new, old\n')

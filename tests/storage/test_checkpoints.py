"""Checkpoints, mostly those of a graph that has one weight and its moving average."""

import os
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import SMALL, images_and_z, snapshot

from options import ARTICLE, UserError
from SAGAN import SAGAN
from storage.branch import Source
from storage.checkpoints import Checkpoints, describe_variables
from storage.run import checkpoint_steps
from tf1 import tf

DATA = 'data-00000-of-00001'


def make_checkpoints(sess, folder, keep=3):
    """Return the Checkpoints of a graph with a weight [3], which starts at 0, and its moving average."""
    weight = tf.get_variable('weight', [3], initializer=tf.zeros_initializer(), use_resource=True)
    ema = tf.train.ExponentialMovingAverage(0.5)
    ema.apply([weight])
    sess.run(tf.global_variables_initializer())
    return Checkpoints(sess, str(folder), [ema.average(weight)], keep)


@pytest.fixture
def checkpoints(sess, tmp_path):
    """The Checkpoints of a run whose folder exists."""
    (tmp_path / 'run').mkdir()
    return make_checkpoints(sess, tmp_path / 'run' / 'SAGAN')


def assign(sess, value):
    """Set the weight to value and its average to 10 * value."""
    weight, average = tf.global_variables()
    weight.load(np.full(3, value), sess)
    average.load(np.full(3, 10 * value), sess)


def first_values(sess):
    """Return the first element of the weight and of its average."""
    return [value[0] for value in sess.run(tf.global_variables())]


def save_steps(checkpoints, *steps):
    """Save checkpoints in which the weight is the number of the step."""
    for step in steps:
        assign(checkpoints.sess, step)
        checkpoints.save(step)


##################################################################################
# Saving
##################################################################################

def test_save_keeps_the_newest_checkpoints(checkpoints):
    save_steps(checkpoints, 8, 9, 10, 11)
    assert sorted(os.listdir(checkpoints.folder)) == sorted(
        ['checkpoint', *(f'SAGAN.model-{step}.{part}' for step in (9, 10, 11) for part in ('index', DATA))])


def test_save_keeps_the_newest_checkpoints_after_a_restart(checkpoints):
    for step in 8, 9, 10, 11:
        checkpoints.saver = tf.train.Saver(max_to_keep=3)  # as in a new process
        checkpoints.save(step)
    assert checkpoint_steps(checkpoints.folder) == [11, 10, 9]


def test_save_removes_more_checkpoints_with_a_smaller_keep(checkpoints):
    save_steps(checkpoints, 1, 2, 3)
    fewer = Checkpoints(checkpoints.sess, checkpoints.folder, checkpoints.averages, keep=1)
    fewer.save(4)
    assert checkpoint_steps(checkpoints.folder) == [4]


def failing_save(checkpoints, step):
    """Return a replacement for Saver.save that fails halfway, as on a full disk."""
    def save(*args, **kwargs):
        for leftover in f'{DATA}.tempstate7', 'index.tempstate7':
            open(f'{checkpoints.path(step)}.{leftover}', 'w').close()
        raise tf.errors.ResourceExhaustedError(None, None, 'No space left\n\t [[node save]]')
    return save


def test_save_reports_a_full_disk_in_one_line(checkpoints, monkeypatch):
    monkeypatch.setattr(checkpoints.saver, 'save', failing_save(checkpoints, 2))
    with pytest.raises(UserError, match=r'^the checkpoint of step 2 cannot be .*\(No space left\): free [^\n]*$'):
        checkpoints.save(2)


@pytest.mark.parametrize('step', [2, 3], ids=['existing step', 'new step'])
def test_save_that_fails_leaves_the_folder_as_it_was(checkpoints, monkeypatch, step):
    save_steps(checkpoints, 1, 2)
    before = snapshot(pathlib.Path(checkpoints.folder))
    monkeypatch.setattr(checkpoints.saver, 'save', failing_save(checkpoints, step))
    with pytest.raises(UserError):
        checkpoints.save(step)
    assert snapshot(pathlib.Path(checkpoints.folder)) == before


@pytest.mark.parametrize('number', [np.nan, np.inf])
def test_save_if_finite_refuses_weights_that_are_not_finite(checkpoints, number):
    save_steps(checkpoints, 1)
    assign(checkpoints.sess, number)
    with pytest.raises(UserError, match='a weight is not finite at step 2: training stopped.*--g_lr'):
        checkpoints.save_if_finite(2)
    assert checkpoint_steps(checkpoints.folder) == [1]


def test_save_if_finite_saves_finite_weights(checkpoints):
    checkpoints.save_if_finite(1)
    assert checkpoint_steps(checkpoints.folder) == [1]


def test_save_if_finite_does_not_recreate_a_removed_run(checkpoints, tmp_path):
    (tmp_path / 'run').rmdir()
    with pytest.raises(UserError, match='step 1 was not saved .*run has been removed'):
        checkpoints.save_if_finite(1)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('existing, saves, growth', [
    ([], 0, 0), ([], 2, 2), ([], 9, 3), ([1, 2], 9, 1), ([1, 2, 3], 9, 0)])
def test_growth_is_bounded_by_keep(checkpoints, existing, saves, growth):
    save_steps(checkpoints, *existing)
    assert checkpoints.growth(saves) == growth


def test_growth_is_0_with_more_checkpoints_than_keep(checkpoints):
    save_steps(checkpoints, 1, 2)
    fewer = Checkpoints(checkpoints.sess, checkpoints.folder, checkpoints.averages, keep=1)
    assert fewer.growth(9) == 0


@pytest.fixture
def free_space(monkeypatch):
    """A function that sets the free bytes of all disks."""
    def set_free(free):
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(free, 0, free))
    return set_free


def test_check_disk_space_accepts_a_disk_that_holds_the_checkpoints(checkpoints, free_space):
    free_space(2 * 2 * 3 * 4)  # 2 checkpoints of 2 variables of 3 float32
    checkpoints.check_disk_space(2)


def test_check_disk_space_refuses_a_disk_that_is_too_small(checkpoints, free_space):
    free_space(2 * 2 * 3 * 4 - 1)
    with pytest.raises(UserError, match=r'not enough disk space \(.*0 MB left\): .*--keep'):
        checkpoints.check_disk_space(2)


##################################################################################
# Loading
##################################################################################

def test_restore_returns_none_without_a_checkpoint(checkpoints):
    assert checkpoints.restore() is None


def test_restore_loads_the_newest_checkpoint(checkpoints, sess):
    save_steps(checkpoints, 9, 10)
    assign(sess, 0)
    assert checkpoints.restore() == (10, True)
    assert first_values(sess) == [10, 100]


def test_restore_loads_the_checkpoint_of_a_step(checkpoints, sess):
    save_steps(checkpoints, 9, 10)
    assert checkpoints.restore(9) == (9, True)
    assert first_values(sess) == [9, 90]


def test_restore_of_a_step_without_a_checkpoint_returns_none(checkpoints):
    save_steps(checkpoints, 9, 10)
    assert checkpoints.restore(8) is None


def test_restore_best_restores_the_newest_checkpoint(checkpoints):
    save_steps(checkpoints, 9, 10)
    assert checkpoints.restore('best') == (10, True)


@pytest.fixture
def replaced(sess, tmp_path, monkeypatch):
    """Checkpoints with step 1 only, which another process replaces with step 2 before step 1 is restored."""
    checkpoints = make_checkpoints(sess, tmp_path / 'SAGAN', keep=1)
    save_steps(checkpoints, 1)
    restore_file = checkpoints.restore_file

    def restore_too_late(path):
        monkeypatch.undo()
        save_steps(checkpoints, 2)
        return restore_file(path)

    monkeypatch.setattr(checkpoints, 'restore_file', restore_too_late)
    return checkpoints


def test_restore_loads_a_checkpoint_that_replaces_the_newest_in_the_meantime(replaced, sess):
    assert replaced.restore() == (2, True)
    assert first_values(sess) == [2, 20]


def test_restore_does_not_report_a_replaced_checkpoint_as_damaged(replaced, capsys):
    replaced.restore()
    assert capsys.readouterr().out == ''


##################################################################################
# Damaged checkpoints
##################################################################################

def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def flip_a_bit(path):
    with open(path, 'r+b') as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def empty(path):
    os.truncate(path, 0)


DAMAGES = [(damage, part) for damage in (truncate, flip_a_bit, empty, os.remove) for part in ('index', DATA)
           if (damage, part) != (os.remove, 'index')]  # without an index there is no checkpoint


@pytest.fixture(params=DAMAGES, ids=lambda damage: f'{damage[0].__name__}-{damage[1].split("-")[0]}')
def damaged(request, checkpoints):
    """Checkpoints of steps 1 and 2, and a function that damages one of them."""
    save_steps(checkpoints, 1, 2)
    damage, part = request.param
    return checkpoints, lambda step: damage(f'{checkpoints.path(step)}.{part}')


def test_restore_falls_back_from_a_damaged_checkpoint(damaged, sess):
    checkpoints, damage = damaged
    damage(2)
    assert checkpoints.restore() == (1, True)
    assert first_values(sess) == [1, 10]


def test_restore_reports_the_fallback(damaged, capsys):
    checkpoints, damage = damaged
    damage(2)
    checkpoints.restore()
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith(f'{checkpoints.path(2)} is damaged (')
    assert line.endswith('): falling back to the previous one')


def test_restore_refuses_if_all_checkpoints_are_damaged(damaged):
    checkpoints, damage = damaged
    for step in 1, 2:
        damage(step)
    with pytest.raises(UserError, match='all checkpoints in .* are damaged: delete the folder'):
        checkpoints.restore()


def test_restore_refuses_a_damaged_checkpoint_of_a_step(damaged, capsys):
    checkpoints, damage = damaged
    damage(2)
    with pytest.raises(UserError, match='checkpoint 2 in .* is damaged: choose another --checkpoint'):
        checkpoints.restore(2)
    assert 'falling back' not in capsys.readouterr().out


def test_restore_that_fails_leaves_the_folder_as_it_was(damaged):
    checkpoints, damage = damaged
    damage(2)
    before = snapshot(pathlib.Path(checkpoints.folder))
    with pytest.raises(UserError):
        checkpoints.restore(2)
    assert snapshot(pathlib.Path(checkpoints.folder)) == before


def test_restore_does_not_see_a_checkpoint_without_its_index(checkpoints, capsys):
    save_steps(checkpoints, 1, 2)
    os.remove(f'{checkpoints.path(2)}.index')
    assert checkpoints.restore() == (1, True)
    assert capsys.readouterr().out == ''


##################################################################################
# Checkpoints of other graphs
##################################################################################

def save_graph(folder, **shapes):
    """Save a checkpoint of step 1 of a graph whose variables have these shapes. All values are 7."""
    with tf.Graph().as_default(), tf.Session() as sess:
        for name, shape in shapes.items():
            tf.get_variable(name, shape, initializer=tf.constant_initializer(7), use_resource=True)
        sess.run(tf.global_variables_initializer())
        Checkpoints(sess, str(folder), [], keep=3).save(1)


@pytest.mark.parametrize('shapes, difference', [
    (dict(weight=[4]), r'weight has shape \[4\] in the checkpoint and \[3\] here'),
    (dict(bias=[3]), 'weight is missing')])
def test_restore_refuses_a_checkpoint_of_another_network(checkpoints, shapes, difference):
    save_graph(checkpoints.folder, **shapes)
    with pytest.raises(UserError, match=fr'model-1 belongs to another network \({difference}\): move it'):
        checkpoints.restore()


def test_restore_ignores_variables_that_the_graph_lacks(checkpoints, sess):
    save_graph(checkpoints.folder, weight=[3], bias=[5])
    checkpoints.restore()
    assert first_values(sess)[0] == 7


def test_restore_starts_missing_averages_at_the_weights(checkpoints, sess):
    assign(sess, 3)
    save_graph(checkpoints.folder, weight=[3])
    checkpoints.restore()
    assert first_values(sess) == [7, 7]


def test_restore_reports_missing_averages(checkpoints, capsys):
    save_graph(checkpoints.folder, weight=[3])
    assert checkpoints.restore() == (1, False)
    assert capsys.readouterr().out == f'{checkpoints.path(1)} has no averaged weights: using the raw weights\n'


def test_restore_without_averages_in_the_graph_reports_none(sess, tmp_path, capsys):
    save_graph(tmp_path / 'SAGAN', weight=[3])
    tf.get_variable('weight', [3], use_resource=True)
    assert Checkpoints(sess, str(tmp_path / 'SAGAN'), [], keep=3).restore() == (1, False)
    assert capsys.readouterr().out == ''


##################################################################################
# Checkpoints of the article's network
##################################################################################

@pytest.fixture(scope='module')
def built_network(tmp_path_factory, small_data):
    """A network whose graph is built. Tests use the fixture network."""
    with tf.Graph().as_default(), tf.Session() as sess:
        model = SAGAN(sess, image_shape=SMALL, batch_size=8, data_dir=str(small_data),
                      checkpoint_dir=str(tmp_path_factory.mktemp('checkpoint')))
        model.build_model()
        yield model


@pytest.fixture
def network(built_network):
    """The network without checkpoints, with all variables at their initial values."""
    shutil.rmtree(built_network.run.folder, ignore_errors=True)
    with built_network.sess.graph.as_default():
        initialize(built_network)
        yield built_network


def initialize(model):
    model.sess.run(tf.global_variables_initializer())


def variable_values(model):
    return model.sess.run({variable.op.name: variable for variable in tf.global_variables()})


@pytest.mark.slow
def test_network_load_restores_all_variables(network):
    network.sess.run(network.train_step, images_and_z(network, 8))
    expected = variable_values(network)
    network.save(1)
    initialize(network)
    assert network.load() == (True, 1)
    for name, value in variable_values(network).items():
        assert (value == expected[name]).all(), name


@pytest.mark.slow
def test_network_load_returns_false_and_0_without_a_checkpoint(network):
    assert network.load() == (False, 0)


@pytest.mark.slow
def test_network_keeps_one_best_checkpoint(network):
    for step in 2, 4:
        network.best_checkpoints.save(step)
    assert checkpoint_steps(network.best_checkpoints.folder) == [4]


@pytest.mark.slow
def test_network_load_best_reads_the_best_checkpoint(network):
    network.save(3)
    network.best_checkpoints.save(2)
    assert network.load('best') == (True, 2)


@pytest.fixture
def without_averages(network, monkeypatch):
    """A network that has restored a checkpoint without averages, and the variables of that checkpoint."""
    for step in range(3):
        network.sess.run(network.train_step, images_and_z(network, 8, step))
    trained = [variable for variable in tf.global_variables() if variable not in network.averages]
    expected = network.sess.run({variable.op.name: variable for variable in trained})
    monkeypatch.setattr(network.checkpoints, 'saver', tf.train.Saver(trained))  # as with --ema 0
    network.save(3)
    initialize(network)
    network.load()
    return network, expected


@pytest.mark.slow
def test_network_load_starts_missing_averages_at_the_weights(without_averages):
    network, expected = without_averages
    for name, value in variable_values(network).items():
        assert (value == expected[name.removesuffix('/ExponentialMovingAverage')]).all(), name


@pytest.mark.slow
def test_network_without_averages_samples_its_raw_weights(without_averages):
    network, _ = without_averages
    assert network.sampled_weights == 'raw'


def load_into_another(network, **options):
    """Load the newest checkpoint of a network into one with other options."""
    with tf.Graph().as_default(), tf.Session() as sess:
        other = SAGAN(sess, image_shape=SMALL, checkpoint_dir=network.config.checkpoint_dir, name=network.run.name,
                      **options)
        other.build_model()
        return other.load()


@pytest.mark.slow
def test_network_load_refuses_a_checkpoint_with_another_z_dim(network):
    network.save(1)
    with pytest.raises(UserError, match='belongs to another network .generator/g_fc1/Matrix'):
        load_into_another(network, z_dim=100)


@pytest.mark.slow
def test_network_without_attention_loads_a_checkpoint_with_attention(network):
    network.save(1)
    assert load_into_another(network, attention=False) == (True, 1)


##################################################################################
# Starting from the checkpoint of another run
##################################################################################

BETAS = {'beta1': 0.5, 'beta2': 0.75}


def open_networks(folder, g_size=3, d_names=('discriminator/w',), beta1=0.5, beta2=0.75, ema=0.9):
    """Return the Checkpoints and the update of a graph of two networks. The generator has one weight [g_size].

    Each network has an Adam optimizer whose updates change the weights by 1. The optimizer of D is created first.
    """
    sess = tf.Session(graph=tf.Graph())
    with sess.graph.as_default():
        weights = {name: tf.get_variable(name, [2], initializer=tf.ones_initializer(), use_resource=True)
                   for name in d_names}
        weights['generator/w'] = tf.get_variable('generator/w', [g_size], initializer=tf.ones_initializer(),
                                                 use_resource=True)
        updates = []
        for network in 'discriminator', 'generator':
            loss = tf.add_n([tf.reduce_sum(weight) for name, weight in weights.items() if name.startswith(network)])
            optimizer = tf.train.AdamOptimizer(1., beta1, beta2)
            updates.append(optimizer.minimize(loss, var_list=tf.trainable_variables(f'{network}/')))
        averages = []
        if ema:
            average = tf.train.ExponentialMovingAverage(ema)
            with tf.control_dependencies(updates):
                updates = average.apply([weights['generator/w']])
            averages = [average.average(weights['generator/w'])]
        sess.run(tf.global_variables_initializer())
        return Checkpoints(sess, str(folder), averages, 3), tf.group(updates)


def variables_of(checkpoints):
    with checkpoints.sess.graph.as_default():
        return checkpoints.sess.run({variable.op.name: variable for variable in tf.global_variables()})


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """The Source of a run with checkpoints after 1, 2 and 3 updates, and its final variables."""
    folder = str(tmp_path_factory.mktemp('source'))
    checkpoints, update = open_networks(f'{folder}/SAGAN')
    with checkpoints.sess.graph.as_default():
        for step in 1, 2, 3:
            checkpoints.sess.run(update)
            checkpoints.save(step)
    return Source(folder, f'{folder}/SAGAN', (3, 2, 1), {**ARTICLE, **BETAS}, {}), variables_of(checkpoints)


def start_from(source, tmp_path, **options):
    """Start the networks of open_networks from a Source.

    Return what Checkpoints.start_from returns, with the new variables as names, and the values of all variables.
    """
    checkpoints, _ = open_networks(tmp_path / 'new' / 'SAGAN', **options)
    betas = {name: options.get(name, value) for name, value in BETAS.items()}
    with checkpoints.sess.graph.as_default():
        step, new, unused = checkpoints.start_from(source, **betas)
        new = [variable.op.name for variable in new]
    return step, new, unused, variables_of(checkpoints)


def test_start_from_restores_all_variables_of_the_same_networks(source, tmp_path):
    source, expected = source
    step, new, unused, variables = start_from(source, tmp_path)
    assert (step, new, unused) == (3, [], [])
    assert all((variables[name] == expected[name]).all() for name in expected)


def test_start_from_restores_the_first_of_the_steps(source, tmp_path):
    source, expected = source
    step, _, _, variables = start_from(source._replace(steps=(1,)), tmp_path)
    assert step == 1 and variables['generator/w'][0] == pytest.approx(0, abs=1e-6)  # 1, minus an update of 1


G_NAMES = ['generator/w', 'generator/w/Adam', 'generator/w/Adam_1', 'generator/w/ExponentialMovingAverage']


def test_start_from_does_not_restore_a_weight_of_another_shape_or_its_slots_and_average(source, tmp_path):
    source, _ = source
    _, new, _, variables = start_from(source, tmp_path, g_size=4)
    assert sorted(new) == sorted([*G_NAMES, 'beta1_power_1', 'beta2_power_1'])
    assert variables['generator/w'].tolist() == variables['generator/w/ExponentialMovingAverage'].tolist() == [1] * 4
    assert variables['generator/w/Adam'].tolist() == [0] * 4


def test_start_from_restores_the_powers_of_unchanged_networks_only(source, tmp_path):
    source, expected = source
    _, _, _, variables = start_from(source, tmp_path, g_size=4)
    assert variables['beta2_power'] == expected['beta2_power'] == np.float32(0.75) ** 4
    assert variables['beta2_power_1'] == np.float32(0.75)


def test_start_from_restores_the_slots_of_weights_beside_a_new_one(source, tmp_path):
    source, expected = source
    _, new, _, variables = start_from(source, tmp_path, d_names=('discriminator/w', 'discriminator/v'))
    assert 'discriminator/v' in new and 'discriminator/w/Adam_1' not in new
    assert (variables['discriminator/w/Adam_1'] == expected['discriminator/w/Adam_1']).all()
    assert variables['beta1_power'] == 0.5  # starts again, as the new weight does


def test_start_from_reports_what_it_does_not_use(source, tmp_path):
    source, _ = source
    _, _, unused, _ = start_from(source, tmp_path, d_names=['discriminator/v'])
    assert unused == ['discriminator/w', 'discriminator/w/Adam', 'discriminator/w/Adam_1']


def test_start_from_a_run_without_averages_starts_them_at_the_weights(source, tmp_path):
    source, _ = source
    checkpoints, _ = open_networks(tmp_path / 'source', ema=None)
    with checkpoints.sess.graph.as_default():
        checkpoints.sess.run([variable.assign(variable + 7) for variable in tf.trainable_variables()])
        checkpoints.save(9)
    _, new, _, variables = start_from(source._replace(checkpoints=checkpoints.folder, steps=(9,)), tmp_path)
    assert new == ['generator/w/ExponentialMovingAverage']
    assert variables['generator/w/ExponentialMovingAverage'].tolist() == [8, 8, 8]


@pytest.mark.parametrize('beta1, beta2', [(0.25, 0.5), (0., 0.9)])
def test_start_from_converts_the_powers_to_other_betas(source, tmp_path, beta1, beta2):
    """After three updates, the coefficients of the gradients in Adam's moments sum to 1 - 0.5^3 and 1 - 0.75^3.

    The next update multiplies 0.5^3 and 0.75^3 by the new betas.
    """
    source, _ = source
    _, new, _, variables = start_from(source, tmp_path, beta1=beta1, beta2=beta2)
    assert new == []
    for suffix in '', '_1':
        assert variables[f'beta1_power{suffix}'] == pytest.approx(0.5 ** 3 * beta1)
        assert variables[f'beta2_power{suffix}'] == pytest.approx(0.75 ** 3 * beta2)


def test_start_from_keeps_moments_unbiased_with_other_betas(source, tmp_path):
    """With a constant gradient of 1, every update is 1, because Adam's bias correction is exact."""
    checkpoints, update = open_networks(tmp_path / 'new' / 'SAGAN', beta1=0.9, beta2=0.99)
    with checkpoints.sess.graph.as_default():
        checkpoints.start_from(source[0], beta1=0.9, beta2=0.99)
        before = variables_of(checkpoints)
        for number in range(1, 5):
            checkpoints.sess.run(update)
            for name in 'generator/w', 'discriminator/w':
                np.testing.assert_allclose(before[name] - variables_of(checkpoints)[name], number, rtol=1e-5)


def test_start_from_refuses_networks_that_share_no_weight(source, tmp_path):
    with pytest.raises(UserError, match='SAGAN.model-3 shares no trainable variable .name and shape. with this'):
        start_from(source[0], tmp_path, g_size=4, d_names=['discriminator/v'])


@pytest.fixture
def damaged_source(source, tmp_path):
    """A copy of the Source, in which the data of the newest checkpoint is damaged."""
    source, _ = source
    folder = str(shutil.copytree(source.checkpoints, tmp_path / 'copy'))
    pathlib.Path(folder, f'SAGAN.model-3.{DATA}').write_bytes(b'damaged')
    return source._replace(checkpoints=folder)


def test_start_from_falls_back_to_an_undamaged_checkpoint(damaged_source, tmp_path, capsys):
    step, *_ = start_from(damaged_source, tmp_path)
    assert step == 2 and 'SAGAN.model-3 is damaged (' in capsys.readouterr().out


def test_start_from_refuses_damaged_checkpoints(damaged_source, tmp_path):
    with pytest.raises(UserError, match='all checkpoints of --from .* are damaged: choose another --checkpoint'):
        start_from(damaged_source._replace(steps=(3,)), tmp_path)


@pytest.mark.parametrize('new, unused, text', [
    ([], [], 'restored 9 of 9 variables'),
    (G_NAMES, [], 'restored 5 of 9 variables; new: generator/w (with optimizer slots and averages)'),
    (['generator/w/Adam'], ['a', 'b', 'c', 'd', 'd/Adam_1'],
     'restored 8 of 9 variables; new: generator/w/Adam; not used: a, b, c and 1 more (with optimizer slots and '
     'averages)')])
def test_describe_variables_counts_all_and_names_what_is_not_restored(new, unused, text):
    new = [SimpleNamespace(op=SimpleNamespace(name=name)) for name in new]
    assert describe_variables(range(9), new, unused) == text

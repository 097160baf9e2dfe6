import csv
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import SMALL, images_and_z

import SAGAN as module
import sampling
from benchmarks.speed import two_call_loop
from datasets.batches import shuffled
from datasets.idx import load_mnist
from evaluation import classifier, metrics
from options import UserError
from SAGAN import SAGAN, linear_decay
from storage.history import read_history
from training import precision
from training.losses import sigmoid_loss
from training.precision import has_fast_bfloat16, session_config
from utils import draw_z


def test_variables(build):
    build()
    conv = {'w': None, 'biases': None}
    linear = {'Matrix': None, 'bias': None}
    bn = {'beta': None, 'gamma': None}
    attention = {'f_conv': conv, 'f_bn': bn, 'g_conv': conv, 'g_bn': bn, 'h_conv': conv, 'h_bn': bn, 'gamma': None}
    expected = {
        'generator': {'g_fc1': linear, 'g_bn1': bn, 'g_fc2': linear, 'g_bn2': bn, 'attention': attention,
                      'g_dc3': conv, 'g_bn3': bn, 'g_dc4': conv},
        'discriminator': {'d_conv1': conv, 'd_conv2': conv, 'd_bn2': bn, 'attention': attention, 'd_fc4': linear,
                          'd_bn4': bn, 'd_fc5': linear}}

    def names(tree, prefix=''):
        return [prefix[:-1]] if tree is None else sum((names(tree[key], f'{prefix}{key}/') for key in tree), [])

    found = {v.op.name: v.shape.as_list() for v in tf.trainable_variables()}
    assert sorted(found) == sorted(names(expected))
    assert len(found) == 52
    assert sum(int(np.prod(shape)) for shape in found.values()) == 13_855_684
    assert found['generator/g_fc1/Matrix'] == [62, 1024]
    assert found['generator/g_dc3/w'] == [4, 4, 64, 128]
    assert found['discriminator/d_fc4/Matrix'] == [6272, 1024]
    assert found['discriminator/attention/f_conv/w'] == [4, 4, 128, 16]
    average = '/ExponentialMovingAverage'
    moving = [v.op.name for v in tf.global_variables() if 'moving' in v.op.name and average not in v.op.name]
    assert len(moving) == 2 * (6 + 5) and 'discriminator/attention/f_bn/moving_mean' in moving
    # Of the optimizers, that of D first, so that training goes on from a checkpoint of the lineage.
    adam = {f'{name}{slot}' for name in found for slot in ('/Adam', '/Adam_1')}
    adam |= {f'beta{number}_power{suffix}' for number in (1, 2) for suffix in ('', '_1')}
    averages = {name + average for name in [*found, *moving] if name.startswith('generator/')}
    assert {v.op.name for v in tf.global_variables()} == {*found, *moving, *adam, *averages}


def test_variables_without_attention(build):
    model = build(attention=False)
    assert len(tf.trainable_variables()) == 52 - 26
    assert not any('attention' in v.op.name for v in tf.global_variables())
    assert model.model_dir == 'SAGAN_mnist_64_62_noattention'


def test_any_batch_and_any_image_shape(build, sess):
    model = build(image_shape=(32, 24, 3), z_dim=5)
    for batch in 1, 7, 64:
        feed = {model.inputs: np.random.rand(batch, 32, 24, 3), model.z: np.random.rand(batch, 5)}
        images, beta = sess.run([model.fake_images, 'generator/attention/attention_map:0'], feed)
        assert images.shape == (batch, 32, 24, 3) and beta.shape == (batch, 48, 48)
        _, losses = sess.run([model.train_step, model.losses], feed)
        assert np.isfinite(list(losses.values())).all()
    assert model.sample(draw_z(300, 5, 0)).shape == (300, 32, 24, 3)


def test_probability_logit_and_features(build, sess):
    model = build()
    with tf.variable_scope('', reuse=tf.AUTO_REUSE):
        outputs = model.discriminator(model.inputs, is_training=False, reuse=True)
    probability, logit, features = sess.run(outputs, {model.inputs: np.random.rand(5, 28, 28, 1)})
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), rtol=1e-5)
    assert logit.shape == (5, 1) and features.shape == (5, 1024)


def test_sigmoid_loss(sess):
    logit = np.array([[-2.], [0.], [3.]])
    real = sess.run(sigmoid_loss(tf.constant(logit, tf.float32), 1.))
    fake = sess.run(sigmoid_loss(tf.constant(logit, tf.float32), 0.))
    assert real == pytest.approx(-np.log(1 / (1 + np.exp(-logit))).mean(), rel=1e-5)
    assert fake == pytest.approx(-np.log(1 - 1 / (1 + np.exp(-logit))).mean(), rel=1e-5)


def test_training_step_is_the_two_call_loop(build, sess):
    """One call a step gives the weights of: update D; then, in a second call, update G through the updated D."""
    model = build(batch_size=16)
    initial = sess.run({v.op.name: v for v in tf.trainable_variables()})
    steps = [images_and_z(model, 16, step) for step in range(3)]
    losses = [sess.run([model.losses, model.train_step], feed)[0] for feed in steps]
    weights = sess.run({v.op.name: v for v in tf.trainable_variables()})

    with tf.Graph().as_default(), tf.Session() as other:
        x, z, d_step, d_loss, g_step, g_loss = two_call_loop(SAGAN(other))
        other.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            variable.load(initial[variable.op.name], other)
        for feed, fused in zip(steps, losses, strict=True):
            feed = {x: feed[model.inputs], z: feed[model.z]}
            _, d_value, stale = other.run([d_step, d_loss, g_loss], feed)
            _, g_value = other.run([g_step, g_loss], feed)
            assert fused['d_loss'] == pytest.approx(d_value, rel=1e-3)
            assert fused['g_loss'] == pytest.approx(g_value, rel=1e-3)
            assert abs(fused['g_loss'] - stale) > 0.01  # what a G that sees the D of before would get
        for name, expected in other.run({v.op.name: v for v in tf.trainable_variables()}).items():
            if name.endswith(('w', 'Matrix', 'gamma', 'beta')):
                # On average: Adam turns the rounding of a gradient near 0 into a whole step of a single weight.
                moved = abs(weights[name] - initial[name]).mean()
                assert moved > 0 and abs(weights[name] - expected).mean() < 0.1 * moved, name


def test_two_builds_of_the_graph_are_the_same_bits():
    """The same seed gives the same initial weights, losses of 3 steps and weights after them; another seed does not."""
    def bits(seed):
        with tf.Graph().as_default(), tf.Session() as other:
            model = SAGAN(other, image_shape=SMALL, seed=seed)
            model.build_model()
            other.run(tf.global_variables_initializer())
            found = other.run({f'initial {v.op.name}': v for v in tf.global_variables()})
            for step in range(3):
                feed = {model.inputs: np.random.default_rng(step).random([8, *SMALL]),
                        model.z: draw_z(8, 62, 0, step), model.step: step}
                _, losses = other.run([model.train_step, model.losses], feed)
                found.update({f'{name} {step}': value for name, value in losses.items()})
            return {**found, **other.run({v.op.name: v for v in tf.global_variables()})}

    first, second, others = bits(0), bits(0), bits(1)
    assert first.keys() == second.keys() == others.keys()
    for name in first:
        assert (first[name] == second[name]).all(), name
        if name.endswith(('w', 'Matrix')) or 'loss' in name:
            assert (first[name] != others[name]).any(), name


def test_the_moving_statistics_are_part_of_the_training_step(build, sess):
    model = build(batch_size=8)
    moving = [v for v in tf.global_variables() if v.op.name.endswith(('moving_mean', 'moving_variance'))]
    before = sess.run(moving)
    feed = images_and_z(model, 8)
    sess.run(model.fake_images, feed)
    assert all((a == b).all() for a, b in zip(before, sess.run(moving), strict=True))
    sess.run(model.train_step, feed)
    assert not any((a == b).all() for a, b in zip(before, sess.run(moving), strict=True))


def test_average_of_the_generator(build, sess, monkeypatch):
    """20 steps, with the warm-up at first and the full decay at last, against the average's definition."""
    model = build(image_shape=SMALL, batch_size=4, ema=0.6)
    variables = [v for v in tf.global_variables('generator/') if not v.op.name.endswith(('Adam', 'Adam_1', 'Average'))]
    expected = start = sess.run(variables)
    assert len(variables) == len(model.averages) == 39
    for step in range(20):
        sess.run(model.train_step, images_and_z(model, 4, step))
        decay = min(0.6, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, sess.run(variables), strict=True)]
    assert all((old != new).mean() > 0.5 for old, new in zip(start, sess.run(variables), strict=True))
    for average, value in zip(model.averages, expected, strict=True):
        np.testing.assert_allclose(sess.run(average), value, rtol=1e-4, atol=1e-6, err_msg=average.op.name)

    # The statistics to sample with go from there towards those of what the averaged weights make; nothing else moves.
    names = [v.op.name.removeprefix('generator/') for v in variables]
    value = dict(zip(names, expected, strict=True))
    moving = [name for name in names if 'moving' in name]
    before = sess.run(tf.global_variables())
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 12)
    model.refresh_statistics()
    refreshed = sess.run(tf.local_variables())
    z = draw_z(200, 62, 2)
    for _ in range(60):
        sess.run(model.move_statistics, {model.z: z})
    there = sess.run(tf.local_variables())
    assert all((a == b).all() for a, b in zip(before, sess.run(tf.global_variables()), strict=True))
    for name, half_way, end in zip(moving, refreshed, there, strict=True):
        assert abs(half_way - end).mean() < 0.7 * abs(value[name] - end).mean(), name
    value.update(zip(moving, there, strict=True))
    x = z @ value['g_fc1/Matrix'] + value['g_fc1/bias']
    np.testing.assert_allclose(value['g_bn1/moving_mean'], x.mean(0), atol=0.01)
    np.testing.assert_allclose(value['g_bn1/moving_variance'], x.var(0, ddof=1), rtol=0.02, atol=0.01)
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * value['g_bn1/gamma'] + value['g_bn1/beta']
    x = np.maximum(x, 0) @ value['g_fc2/Matrix'] + value['g_fc2/bias']
    np.testing.assert_allclose(value['g_bn2/moving_mean'], x.mean(0), atol=0.01)
    np.testing.assert_allclose(value['g_bn2/moving_variance'], x.var(0, ddof=1), rtol=0.02, atol=0.01)
    model.refresh_statistics()
    assert all((a == b).all() for a, b in zip(refreshed, sess.run(tf.local_variables()), strict=True))

    # The trained variables make the same images once they are given the averages and these statistics.
    averaged = model.sample(draw_z(5, 62, 1))
    feed = {model.z: draw_z(2, 62, 1)}
    beta, gammas = sess.run(['generator/attention/attention_map:0', model.sampled_gammas], feed)
    value.update(zip(moving, refreshed, strict=True))
    for variable in variables:
        variable.load(value[variable.op.name.removeprefix('generator/')], sess)
    with tf.variable_scope('', reuse=True):
        images = model.generator(model.z, is_training=False, reuse=True)
    np.testing.assert_allclose(averaged[:2], sess.run(images, feed), atol=1e-4)
    np.testing.assert_allclose(beta, sess.run('generator_1/attention/attention_map:0', feed), atol=1e-4)
    assert gammas == pytest.approx(sess.run(model.gammas), abs=1e-6)


def test_averages_leave_training_alone(small_data, monkeypatch):
    """The weights as trained are the same bits with and without averages, and so are the optimizers' variables."""
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)
    trained, sampled = [], []
    for options in dict(ema=0.), dict(ema=0.999, weights='raw'), dict(ema=0.999):
        with tf.Graph().as_default(), tf.Session() as other:
            model = SAGAN(other, data_dir=str(small_data), image_shape=SMALL, **options)
            model.build_model()
            other.run(tf.global_variables_initializer())
            model.refresh_statistics()
            for step in range(4):
                other.run(model.train_step, images_and_z(model, 16, step))
            trained.append(other.run({v.op.name: v for v in tf.global_variables() if v not in model.averages}))
            sampled.append(model.sample(draw_z(3, 62, 0)))
    assert len(trained[0]) == 52 + 22 + 104 + 4
    for other in trained[1:]:
        assert other.keys() == trained[0].keys()
        assert all((other[name] == trained[0][name]).all() for name in other)
    assert (sampled[0] == sampled[1]).all() and (sampled[0] != sampled[2]).mean() > 0.9


def test_learning_rates_fall_linearly(build, sess, monkeypatch, capsys):
    assert [linear_decay(step, 8) for step in range(8)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    model = build(batch_size=4, epoch=1, iteration=7, lr_decay='linear', sample_num=1)
    before = sess.run({v.op.name: v for v in tf.trainable_variables()})
    model.save(0)
    seen = []
    monkeypatch.setattr(module, 'linear_decay', lambda *args: seen.append(args) or 0.)
    model.train()
    assert seen == [(step, 7) for step in range(7)]
    assert 'constant to step 3, then falling to zero at step 7' in capsys.readouterr().out
    after = sess.run({v.op.name: v for v in tf.trainable_variables()})
    assert all((after[name] == before[name]).all() for name in before)
    # Adam's first step is the learning rate, whatever the gradient.
    assert model.load(0) == (True, 0)
    sess.run(model.train_step, {**images_and_z(model, 4), model.lr_scale: 0.5})
    for name, rate in ('generator/g_dc4/w', 0.001), ('discriminator/d_fc5/Matrix', 0.0002):
        variable, = (v for v in tf.trainable_variables() if v.op.name == name)
        assert abs(sess.run(variable) - before[name]).max() == pytest.approx(rate / 2, rel=0.01)


def test_training_learns(build, sess, tmp_path):
    """A few hundred steps move the losses off their start and bring the samples' mean to that of the data."""
    model = build(batch_size=20, iteration=150, epoch=1, print_freq=1, sample_freq=100, sample_num=7, g_lr=0.004,
                  d_lr=0.0008)
    (images, _), _ = load_mnist('mnist', model.data_dir)
    start = model.sample(draw_z(100, 62, 1)).mean()
    assert abs(start - 0.5) < 0.05
    model.train()
    results = tmp_path / 'results' / model.model_dir
    with open(results / 'SAGAN_history.csv') as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert [row['step'] for row in rows] == list(range(1, 151))
    late = {name: np.mean([row[name] for row in rows[-30:]]) for name in rows[0]}
    assert rows[0]['d_loss'] == pytest.approx(2 * np.log(2), abs=0.1)
    assert rows[0]['d_loss'] == pytest.approx(rows[0]['d_loss_real'] + rows[0]['d_loss_fake'], abs=1e-5)
    assert abs(late['d_loss'] - 2 * np.log(2)) > 0.1
    assert abs(late['g_loss'] - np.log(2)) > 0.1
    assert late['d_real'] > late['d_fake']
    assert late['g_gamma'] != 0
    sampled = model.sample(draw_z(100, 62, 1))
    assert sampled.mean() == pytest.approx(images.mean() / 255, abs=0.1)
    assert sampled.std(0).mean() > 0.05  # not one image for all z
    assert sorted(os.listdir(results)) == [
        'SAGAN_curves.png', 'SAGAN_epoch000_test_all_classes.png', 'SAGAN_explorer.html', 'SAGAN_history.csv',
        'SAGAN_maps', 'SAGAN_progress.gif', 'SAGAN_train_00_0100.png']


def test_a_batch_depends_on_its_number_and_the_seed_alone(sess):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, [64, *SMALL]).astype(np.uint8), rng.integers(0, 10, 64)
    model, other = (SAGAN(sess, image_shape=SMALL, classes=10, batch_size=8, seed=seed) for seed in (0, 1))
    first = model.batch(data, 3)
    assert [part.shape for part in first] == [(8, *SMALL), (8, 62), (8,), (8,)]
    assert all((a == b).all() for a, b in zip(first, model.batch(data, 3), strict=True))
    for values in model.batch(data, 4), other.batch(data, 3):
        assert all((a != b).mean() > 0.3 for a, b in zip(first, values, strict=True))
    # An image keeps its label.
    for image, label in zip(first[0], first[2], strict=True):
        assert label in data[1][(data[0] == np.round(255 * image)).all((1, 2, 3))]


def test_shuffling_takes_every_image_once_and_differs_by_pass_and_seed():
    assert sorted(shuffled(0, 0, 300)) == list(range(300))
    assert (shuffled(0, 0, 300) == shuffled(0, 0, 300)).all()
    for other in (0, 1), (1, 0):
        assert (shuffled(*other, 300) != shuffled(0, 0, 300)).mean() > 0.9


def test_z():
    z = draw_z(1000, 62, 3, 1)
    assert z.shape == (1000, 62) and z.dtype == np.float32
    assert -1 <= z.min() < -0.99 and 0.99 < z.max() <= 1
    assert (z == draw_z(1000, 62, 3, 1)).all() and (z != draw_z(1000, 62, 3, 2)).all()


def test_model_dir(sess):
    assert SAGAN(sess).model_dir == 'SAGAN_mnist_64_62'
    assert SAGAN(sess, dataset_name='digits', batch_size=7, z_dim=3).model_dir == 'SAGAN_digits_7_3'
    assert SAGAN(sess, epoch=3, iteration=10, save_freq=7).model_dir == 'SAGAN_mnist_64_62'
    others = [dict(g_lr=0.01), dict(d_lr=0.01), dict(beta1=0), dict(seed=3), dict(precision='bfloat16'),
              dict(attention=False), dict(lr_decay='linear')]
    assert len({SAGAN(sess, **other).model_dir for other in [{}, *others]}) == 8


def test_bfloat16_where_it_is_fast(tmp_path, monkeypatch, capsys):
    cpuinfo = tmp_path / 'cpuinfo'
    monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS', raising=False)
    for flags, fast in ('fpu avx512f avx512_bf16', True), ('fpu amx_bf16', True), ('fpu avx512f avx2', False):
        cpuinfo.write_text(f'flags : {flags}\n')
        assert has_fast_bfloat16(str(cpuinfo)) == fast
    assert not has_fast_bfloat16(str(tmp_path / 'none'))
    for fast in True, False:
        monkeypatch.setattr(precision, 'has_fast_bfloat16', lambda fast=fast: fast)
        options = session_config('bfloat16').graph_options.rewrite_options
        assert bool(options.auto_mixed_precision_onednn_bfloat16) == fast
        assert ('float32' in capsys.readouterr().out) == (not fast)
    assert not session_config('float32').graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16


@pytest.mark.parametrize('precision, operations', [('float32', 3 * 5 + 5), ('bfloat16', 5)])
def test_gradients_to_kernels_are_convolutions_in_bfloat16(build, sess, precision, operations):
    model = build(precision=precision)
    step = tf.graph_util.extract_sub_graph(sess.graph_def, [model.train_step.name])
    # Five layers each of D, D on G(z) and G; those of the last pass through D, which only G learns from, are not run.
    assert sum(node.op == 'Conv2DBackpropFilter' for node in step.node) == operations


def test_attention_is_drawn_on_real_images_where_there_are_any(build, sess):
    model = build()
    z = draw_z(2, 62, 0)
    (_, generated, maps), (what, images, d_maps) = model.attention_sections(z)
    np.testing.assert_allclose(generated, model.sample(z), atol=1e-5)
    expected = sess.run('generator/attention/attention_map:0', {model.z: z})
    np.testing.assert_allclose(maps, expected.reshape(2, 7, 7, 7, 7), atol=1e-5)
    assert 'real test images' in what and 'gamma 0.000' in what
    np.testing.assert_allclose(images * 255, load_mnist('mnist', model.data_dir)[1][0][:2])
    expected = sess.run('discriminator/attention/attention_map:0', {model.inputs: images})
    np.testing.assert_allclose(d_maps, expected.reshape(2, 7, 7, 7, 7), atol=1e-5)
    model.data_dir = 'none'
    what, images, _ = model.attention_sections(z)[1]
    assert 'generated images' in what and (images == generated).all()
    for network in 'generator', 'discriminator':
        model.attention_of = network
        (what, _, _), = model.attention_sections(z)
        assert what.startswith(network.capitalize())


def test_a_degenerate_run(build, tmp_path):
    """One step of one image, which batch norm turns into nothing, at a learning rate that blows up."""
    model = build(batch_size=1, epoch=1, iteration=1, print_freq=1, sample_freq=1, sample_num=1, test_num=1, g_lr=0.9)
    tf.trainable_variables()[0].load(np.full([62, 1024], np.nan), model.sess)
    model.save(0)
    before = sorted(os.listdir(model.checkpoints.folder))
    with pytest.raises(UserError, match='d_loss is no finite number at step 1.*--g_lr'):
        model.train()
    assert sorted(os.listdir(model.checkpoints.folder)) == before
    model.test()
    written = os.listdir(tmp_path / 'results' / model.model_dir)
    assert {'SAGAN_attention.png', 'SAGAN_interpolation.png'} < set(written)


def test_eval_freq_notes_scores_and_keeps_the_best_checkpoint(build, sess, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'QUICK_EVAL_NUM', 50)
    monkeypatch.setattr(classifier, 'LEAST_STEPS', 3)
    monkeypatch.setattr(classifier, 'EPOCHS', 1)
    model = build(batch_size=7, epoch=4, iteration=3, eval_freq=2, print_freq=4)
    scores = iter([{'frechet_distance': 5., 'classifier_score': 2.}, {'frechet_distance': 7., 'classifier_score': 3.}])
    seen = []

    def scripted_scorer(*args):
        score = metrics.load_scorer(*args)
        return lambda images: seen.append(score(images)) or next(scores)

    monkeypatch.setattr(module, 'load_scorer', scripted_scorer)
    model.train()
    assert all(score['frechet_distance'] > 0 and 1 <= score['classifier_score'] <= 10 for score in seen)
    rows = read_history(tmp_path / 'results' / model.model_dir / 'SAGAN_history.csv')
    assert [(row['step'], row['frechet_distance'], row['classifier_score']) for row in rows] == [
        ('4', '', ''), ('6', '5.0', '2.0'), ('8', '', ''), ('12', '7.0', '3.0')]
    assert model.load('best') == (True, 6)
    assert model.load() == (True, 12)

    # Going on, it still knows the best: a worse score does not replace it, a better one does.
    for epoch, value, best in (6, 6., 6), (8, 4., 24):
        model.epoch = epoch
        scores = iter([{'frechet_distance': value, 'classifier_score': 1.}])
        model.train()
        assert model.load('best') == (True, best)
    model.epoch, model.eval_freq = 9, 0
    model.train()
    rows = read_history(tmp_path / 'results' / model.model_dir / 'SAGAN_history.csv')
    assert [row['frechet_distance'] for row in rows if row['frechet_distance']] == ['5.0', '7.0', '6.0', '4.0']
    with pytest.raises(UserError, match='no checkpoint 5 .*24'):
        model.restore(5)

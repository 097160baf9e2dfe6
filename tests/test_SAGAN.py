"""The article's networks, the training step, the moving averages, the training loop and sampling."""

import contextlib
import dataclasses
import io
import os
import shutil
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import SMALL, images_and_z
from tiny_gan import TinyGAN, folders_in, open_model, random_dataset

import SAGAN as module
from benchmarks.speed import two_call_step
from options import UserError, complete_options, make_config
from SAGAN import SAGAN, learning_rate_scale
from storage.history import read_history
from tf1 import tf
from training.stop import Stop
from utils import draw_z

TINY = 8, 12, 1  # the image_shape of TinyGAN in this file


@pytest.fixture(scope='module', autouse=True)
def one_batch_of_statistics():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        yield


def variables_by_name(scope=None):
    return {variable.op.name: variable for variable in tf.global_variables(scope)}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name


##################################################################################
# The article's networks
##################################################################################

@pytest.fixture(scope='module')
def article_variables():
    """The names and shapes of the variables of the article's network on MNIST."""
    with tf.Graph().as_default(), tf.Session() as sess:
        SAGAN(sess).build_model()
        return SimpleNamespace(trainable={v.op.name: v.shape.as_list() for v in tf.trainable_variables()},
                               names=list(variables_by_name()))


def is_moving_statistic(name):
    return name.endswith(('moving_mean', 'moving_variance'))


def test_article_network_has_the_variables_of_the_lineage(article_variables):
    conv, linear, bn = ('w', 'biases'), ('Matrix', 'bias'), ('beta', 'gamma')
    attention = {'f_conv': conv, 'f_bn': bn, 'g_conv': conv, 'g_bn': bn, 'h_conv': conv, 'h_bn': bn}
    layers = {
        'generator': {'g_fc1': linear, 'g_bn1': bn, 'g_fc2': linear, 'g_bn2': bn, 'g_dc3': conv, 'g_bn3': bn,
                      'g_dc4': conv},
        'discriminator': {'d_conv1': conv, 'd_conv2': conv, 'd_bn2': bn, 'd_fc4': linear, 'd_bn4': bn,
                          'd_fc5': linear}}
    expected = set()
    for network in layers:
        expected |= {f'{network}/{layer}/{name}' for layer, names in layers[network].items() for name in names}
        expected |= {f'{network}/attention/{layer}/{name}' for layer, names in attention.items() for name in names}
        expected.add(f'{network}/attention/gamma')
    assert len(expected) == 52
    assert set(article_variables.trainable) == expected


def test_article_network_has_13855684_parameters(article_variables):
    assert sum(int(np.prod(shape)) for shape in article_variables.trainable.values()) == 13_855_684


@pytest.mark.parametrize('name, shape', [
    ('generator/g_fc1/Matrix', [62, 1024]), ('generator/g_dc3/w', [4, 4, 64, 128]),
    ('discriminator/d_fc4/Matrix', [6272, 1024]), ('discriminator/attention/f_conv/w', [4, 4, 128, 16])])
def test_article_network_layer_has_the_shape_of_the_lineage(article_variables, name, shape):
    assert article_variables.trainable[name] == shape


def test_article_network_has_two_moving_statistics_per_batch_norm(article_variables):
    moving = [name for name in article_variables.names if is_moving_statistic(name)]
    g_scopes = ['g_bn1', 'g_bn2', 'g_bn3', 'attention/f_bn', 'attention/g_bn', 'attention/h_bn']
    d_scopes = ['d_bn2', 'd_bn4', 'attention/f_bn', 'attention/g_bn', 'attention/h_bn']
    scopes = [f'generator/{scope}' for scope in g_scopes] + [f'discriminator/{scope}' for scope in d_scopes]
    assert sorted(moving) == sorted(f'{scope}/moving_{name}' for scope in scopes for name in ('mean', 'variance'))


def test_article_network_names_optimizer_variables_and_averages_as_old_checkpoints_do(article_variables):
    trainable = set(article_variables.trainable)
    moving = {name for name in article_variables.names if is_moving_statistic(name)}
    adam = {f'{name}/{slot}' for name in trainable for slot in ('Adam', 'Adam_1')}
    # The optimizer of D is created first, as in the lineage: its powers have no suffix.
    powers = {f'beta{number}_power{suffix}' for number in (1, 2) for suffix in ('', '_1')}
    averages = {f'{name}/ExponentialMovingAverage' for name in trainable | moving if name.startswith('generator/')}
    assert set(article_variables.names) == trainable | moving | adam | powers | averages


def test_network_without_attention_has_no_attention_variables(sess):
    model = SAGAN(sess, image_shape=SMALL, attention=False)
    model.discriminator(model.generator(tf.zeros([2, 62])))
    assert len(tf.trainable_variables()) == 52 - 26
    assert not any('attention' in name for name in variables_by_name())


@pytest.fixture
def colour_generator(sess):
    """z, images and attention map of a generator of 16 x 12 colour images."""
    z = tf.placeholder(tf.float32, [None, 5])
    images = SAGAN(sess, image_shape=(16, 12, 3), z_dim=5).generator(z, is_training=False)
    sess.run(tf.global_variables_initializer())
    return z, images, sess.graph.get_tensor_by_name('generator/attention/attention_map:0')


@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_generator_makes_images_of_any_shape_for_any_batch_size(sess, colour_generator, batch_size):
    z, images, _ = colour_generator
    assert sess.run(images, {z: draw_z(batch_size, 5, 0)}).shape == (batch_size, 16, 12, 3)


def test_generator_attends_over_a_grid_of_a_quarter_of_the_height_and_width(sess, colour_generator):
    z, _, attention_map = colour_generator
    assert sess.run(attention_map, {z: draw_z(7, 5, 0)}).shape == (7, 4 * 3, 4 * 3)


@pytest.fixture
def discriminator_outputs(sess):
    """Probability, logit and features of five random images."""
    images = tf.constant(np.random.default_rng(0).random([5, *SMALL]), tf.float32)
    outputs = SAGAN(sess, image_shape=SMALL).discriminator(images)
    sess.run(tf.global_variables_initializer())
    return sess.run(outputs)


def test_discriminator_probability_is_the_sigmoid_of_the_logit(discriminator_outputs):
    probability, logit, _ = discriminator_outputs
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_discriminator_returns_a_logit_and_1024_features_per_image(discriminator_outputs):
    _, logit, features = discriminator_outputs
    assert (logit.shape, features.shape) == ((5, 1), (5, 1024))


##################################################################################
# The training step of the article's network
##################################################################################

def open_article(**options):
    return open_model(image_shape=SMALL, **options)


def train_three_steps(model):
    """Return the initial variables, the losses of three steps of 8 images, and the variables after them."""
    bits = {f'initial {name}': value for name, value in model.sess.run(variables_by_name()).items()}
    for step in range(3):
        images = np.random.default_rng(step).random([8, *SMALL])
        losses = model.train_batch([(images, draw_z(8, 62, 0, step))], step)
        bits.update({f'{name} of step {step}': value for name, value in losses.items()})
    return {**bits, **model.sess.run(variables_by_name())}


@pytest.fixture(scope='module')
def bits_of_seed_0():
    with open_article(seed=0) as model:
        return train_three_steps(model)


@pytest.mark.slow
def test_two_builds_with_the_same_seed_give_the_same_bits(bits_of_seed_0):
    """The initial weights, the losses of three steps and the weights after them are equal."""
    with open_article(seed=0) as model:
        assert_same_bits(train_three_steps(model), bits_of_seed_0)


@pytest.mark.slow
def test_builds_with_different_seeds_differ_in_all_weights_and_losses(bits_of_seed_0):
    with open_article(seed=1) as model:
        bits = train_three_steps(model)
    for name in bits:
        if name.endswith(('w', 'Matrix')) or 'loss' in name:
            assert (bits[name] != bits_of_seed_0[name]).any(), name


@pytest.fixture(scope='module')
def losses_by_batch_size():
    losses = {}
    with open_article() as model:
        for step, batch_size in enumerate((1, 7, 64)):
            images = np.random.default_rng(step).random([batch_size, *SMALL])
            losses[batch_size] = model.train_batch([(images, draw_z(batch_size, 62, 0))], step)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_article_network_trains_with_any_batch_size(losses_by_batch_size, batch_size):
    assert np.isfinite(list(losses_by_batch_size[batch_size].values())).all()


@pytest.fixture(scope='module')
def two_loops(small_data):
    """Three steps of the model and of the lineage's loop, which updates D and G in separate calls.

    Holds the initial weights, and the losses and final weights of each loop.
    """
    def trainable():
        return {variable.op.name: variable for variable in tf.trainable_variables()}

    with open_article(batch_size=16, data_dir=str(small_data)) as model:
        initial = model.sess.run(trainable())
        feeds = [images_and_z(model, 16, step) for step in range(3)]
        losses = [model.sess.run([model.losses, model.train_step], feed)[0] for feed in feeds]
        weights = model.sess.run(trainable())
        feeds = [(feed[model.inputs], feed[model.z]) for feed in feeds]

    expected_losses, stale_g_losses = [], []
    with tf.Graph().as_default(), tf.Session() as sess:
        x, z, d_step, d_loss, g_step, g_loss = two_call_step(SAGAN(sess, image_shape=SMALL))
        sess.run(tf.global_variables_initializer())
        for name, variable in trainable().items():
            variable.load(initial[name], sess)
        for images, noise in feeds:
            feed = {x: images, z: noise}
            _, d_value, stale = sess.run([d_step, d_loss, g_loss], feed)
            _, g_value = sess.run([g_step, g_loss], feed)
            expected_losses.append((d_value, g_value))
            stale_g_losses.append(stale)
        expected_weights = sess.run(trainable())
    return SimpleNamespace(initial=initial, weights=weights, expected_weights=expected_weights,
                           losses=[(values['d_loss'], values['g_loss']) for values in losses],
                           expected_losses=expected_losses, stale_g_losses=stale_g_losses)


@pytest.mark.slow
def test_train_step_has_the_losses_of_the_two_call_loop(two_loops):
    np.testing.assert_allclose(two_loops.losses, two_loops.expected_losses, rtol=1e-3)


@pytest.mark.slow
def test_train_step_updates_g_through_the_updated_d(two_loops):
    """The loss of G differs from the loss computed with D before D's update."""
    for (_, g_loss), stale in zip(two_loops.losses, two_loops.stale_g_losses, strict=True):
        assert abs(g_loss - stale) > 0.01


@pytest.mark.slow
def test_train_step_moves_the_weights_as_the_two_call_loop_does(two_loops):
    for name, expected in two_loops.expected_weights.items():
        if name.endswith(('w', 'Matrix', 'gamma', 'beta')):
            # Compare means: Adam turns the rounding error of a gradient near 0 into a full step of that weight.
            distance = abs(two_loops.weights[name] - two_loops.initial[name]).mean()
            assert distance > 0 and abs(two_loops.weights[name] - expected).mean() < 0.1 * distance, name


@pytest.mark.slow
@pytest.mark.parametrize('precision, operations', [('float32', 3 * 5 + 5), ('bfloat16', 5)])
def test_kernel_gradients_are_convolutions_only_in_bfloat16(sess, precision, operations):
    """D on real images, D on G(z) and G have five convolutions each. In bfloat16, D judges all images in one pass.

    D has another pass on G(z), from which only G learns. Its kernel gradients are in the graph in either precision, but
    nothing uses them.
    """
    model = SAGAN(sess, image_shape=SMALL, precision=precision)
    model.build_model()
    step = tf.graph_util.extract_sub_graph(sess.graph_def, [model.train_step.name])
    assert sum(node.op == 'Conv2DBackpropFilter' for node in step.node) == operations


##################################################################################
# Moving averages of the article's generator
##################################################################################

@pytest.fixture(scope='module')
def averaged(small_data):
    """A model after 20 steps with --ema 0.6. The decay warms up first, then stays at 0.6."""
    with open_article(batch_size=4, ema=0.6, data_dir=str(small_data)) as model:
        variables = [v for v in model.g_variables if not v.op.name.endswith(('Adam', 'Adam_1'))]
        start = model.sess.run(variables)
        expected = start
        for step in range(20):
            model.sess.run(model.train_step, images_and_z(model, 4, step))
            decay = min(0.6, (1 + step) / (10 + step))
            expected = [decay * old + (1 - decay) * new
                        for old, new in zip(expected, model.sess.run(variables), strict=True)]
        yield SimpleNamespace(model=model, variables=variables, start=start, end=model.sess.run(variables),
                              expected=expected, averages=model.sess.run(model.averages))


@pytest.fixture(scope='module')
def statistics(averaged):
    """The batch norm statistics of the averaged weights: refreshed from 12 batches, and after 60 more batches."""
    model = averaged.model
    with pytest.MonkeyPatch.context() as patch, model.sess.graph.as_default():
        patch.setattr(module, 'STATISTICS_BATCHES', 12)
        before = model.sess.run(variables_by_name())
        model.refresh_statistics()
        refreshed = model.sess.run(tf.local_variables())
        z = draw_z(200, 62, 2)
        for _ in range(60):
            model.sess.run(model.move_statistics, {model.z: z})
        converged = model.sess.run(tf.local_variables())
        after = model.sess.run(variables_by_name())
        model.refresh_statistics()
        again = model.sess.run(tf.local_variables())
    names = [variable.op.name.removeprefix('generator/') for variable in averaged.variables]
    weights = dict(zip(names, averaged.expected, strict=True))
    return SimpleNamespace(moving=[name for name in names if is_moving_statistic(name)], weights=weights, z=z,
                           refreshed=refreshed, converged=converged, again=again, before=before, after=after)


@pytest.mark.slow
def test_training_moves_all_averaged_variables(averaged):
    assert len(averaged.variables) == 39
    assert all((old != new).mean() > 0.5 for old, new in zip(averaged.start, averaged.end, strict=True))


@pytest.mark.slow
def test_averages_follow_their_definition(averaged):
    for variable, average, expected in zip(averaged.variables, averaged.averages, averaged.expected, strict=True):
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-6, err_msg=variable.op.name)


@pytest.mark.slow
def test_refresh_statistics_approaches_the_statistics_of_generated_images(statistics):
    for name, refreshed, converged in zip(statistics.moving, statistics.refreshed, statistics.converged, strict=True):
        start = statistics.weights[name]
        assert abs(refreshed - converged).mean() < 0.7 * abs(start - converged).mean(), name


@pytest.mark.slow
def test_refresh_statistics_is_reproducible(statistics):
    assert all((a == b).all() for a, b in zip(statistics.refreshed, statistics.again, strict=True))


@pytest.mark.slow
def test_refresh_statistics_changes_nothing_that_is_saved(statistics):
    assert_same_bits(statistics.before, statistics.after)


@pytest.mark.slow
def test_statistics_converge_to_those_of_the_layer_inputs(statistics):
    """The first two batch norms, computed with NumPy."""
    value = {**statistics.weights, **dict(zip(statistics.moving, statistics.converged, strict=True))}
    x = statistics.z @ value['g_fc1/Matrix'] + value['g_fc1/bias']
    np.testing.assert_allclose(value['g_bn1/moving_mean'], x.mean(0), atol=0.01)
    np.testing.assert_allclose(value['g_bn1/moving_variance'], x.var(0, ddof=1), rtol=0.02, atol=0.01)
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * value['g_bn1/gamma'] + value['g_bn1/beta']
    x = np.maximum(x, 0) @ value['g_fc2/Matrix'] + value['g_fc2/bias']
    np.testing.assert_allclose(value['g_bn2/moving_mean'], x.mean(0), atol=0.01)
    np.testing.assert_allclose(value['g_bn2/moving_variance'], x.var(0, ddof=1), rtol=0.02, atol=0.01)


@pytest.fixture(scope='module')
def sampled_and_loaded(averaged, statistics):
    """Samples of the averaged weights, and those of the trained variables after loading the averages into them."""
    model, feed = averaged.model, {averaged.model.z: draw_z(2, 62, 1)}
    values = {**statistics.weights, **dict(zip(statistics.moving, statistics.refreshed, strict=True))}
    with model.sess.graph.as_default():
        fetches = [model.fake_images, 'generator/attention/attention_map:0', list(model.sampled_gammas.values())]
        sampled = model.sess.run(fetches, feed)
        for variable in averaged.variables:
            variable.load(values[variable.op.name.removeprefix('generator/')], model.sess)
        with tf.variable_scope('', reuse=True):
            images = model.generator(model.z, is_training=False, reuse=True)
        fetches = [images, 'generator_1/attention/attention_map:0', list(model.gammas.values())]
        return sampled, model.sess.run(fetches, feed)


@pytest.mark.slow
@pytest.mark.parametrize('index', range(3), ids=['images', 'attention map', 'gammas'])
def test_sampling_uses_the_averages_and_their_statistics(sampled_and_loaded, index):
    sampled, loaded = sampled_and_loaded
    np.testing.assert_allclose(sampled[index], loaded[index], atol=1e-4)


def train_with_averages(data_dir, **options):
    """Train for 4 steps. Return all variables except the averages, and samples."""
    with open_article(data_dir=str(data_dir), **options) as model:
        for step in range(4):
            model.train_batch([list(images_and_z(model, 16, step).values())[:2]], step)
        averages = {average.op.name for average in model.averages}
        variables = {name: variable for name, variable in variables_by_name().items() if name not in averages}
        return model.sess.run(variables), model.sample(draw_z(3, 62, 0))


@pytest.fixture(scope='module')
def without_averages(small_data):
    return train_with_averages(small_data, ema=0.)


@pytest.fixture(scope='module')
def with_averages(small_data):
    return train_with_averages(small_data, ema=0.999)


@pytest.mark.slow
def test_averages_do_not_change_what_is_trained(without_averages, with_averages):
    trained, _ = without_averages
    assert len(trained) == 52 + 22 + 104 + 4  # trainable variables, moving statistics, Adam's moments and powers
    assert_same_bits(trained, with_averages[0])


@pytest.mark.slow
def test_averages_change_the_samples(without_averages, with_averages):
    assert (without_averages[1] != with_averages[1]).mean() > 0.9


@pytest.mark.slow
def test_raw_weights_sample_as_if_there_were_no_averages(without_averages, small_data):
    _, samples = train_with_averages(small_data, ema=0.999, weights='raw')
    assert (samples == without_averages[1]).all()


##################################################################################
# Training and sampling, with a tiny network
##################################################################################

@pytest.fixture(scope='module')
def shared_tiny(tmp_path_factory):
    """A TinyGAN and the operation that initializes its variables. Tests use the fixture tiny."""
    with open_model(TinyGAN, image_shape=TINY, batch_size=4, attention='paper',
                    **folders_in(tmp_path_factory.mktemp('tiny'))) as model:
        yield model, tf.global_variables_initializer()


@pytest.fixture
def tiny(shared_tiny):
    """A TinyGAN with initial weights, without files, and with its graph as the default."""
    model, initializer = shared_tiny
    model.sess.run(initializer)
    model.statistics_are_stale = True
    shutil.rmtree(model.run.folder, ignore_errors=True)
    with model.sess.graph.as_default():
        yield model


def batch_of(model, count=4, step=0):
    """Return the batches of a training step on random images."""
    images = np.random.default_rng(step).random([count, *model.config.image_shape])
    return [(images, draw_z(count, model.config.z_dim, 0, step))]


def test_train_batch_returns_the_losses_and_mean_outputs(tiny):
    losses = tiny.train_batch(batch_of(tiny), 0)
    assert set(losses) == {'d_loss', 'd_loss_real', 'd_loss_fake', 'g_loss', 'd_real', 'd_fake'}


def test_train_batch_returns_d_loss_as_the_sum_of_its_terms(tiny):
    losses = tiny.train_batch(batch_of(tiny), 0)
    assert losses['d_loss'] == pytest.approx(losses['d_loss_real'] + losses['d_loss_fake'], abs=1e-5)


def test_train_batch_raises_user_error_if_a_loss_is_not_finite(tiny):
    images = np.full([4, *TINY], np.nan)
    with pytest.raises(UserError, match='d_loss is not finite at step 8: .*--g_lr'):
        tiny.train_batch([(images, draw_z(4, 62, 0))], 7)


@pytest.mark.parametrize('name, rate', [('generator/g_dc2/w', 0.001), ('discriminator/d_fc2/Matrix', 0.0002)])
def test_train_batch_scales_the_learning_rates(tiny, name, rate):
    """Adam's first step is as large as the learning rate, whatever the gradient."""
    variable = variables_by_name()[name]
    before = tiny.sess.run(variable)
    tiny.train_batch(batch_of(tiny), 0, lr_scale=0.5)
    assert abs(tiny.sess.run(variable) - before).max() == pytest.approx(rate / 2, rel=0.01)


def moving_statistics(model):
    return [value for name, value in model.sess.run(variables_by_name()).items() if is_moving_statistic(name)]


def test_train_batch_moves_the_moving_statistics(tiny):
    before = moving_statistics(tiny)
    tiny.train_batch(batch_of(tiny), 0)
    assert not any((a == b).all() for a, b in zip(before, moving_statistics(tiny), strict=True))


def test_sampling_does_not_move_the_moving_statistics(tiny):
    before = moving_statistics(tiny)
    tiny.sample(draw_z(3, 62, 0))
    assert all((a == b).all() for a, b in zip(before, moving_statistics(tiny), strict=True))


def test_sample_returns_images_between_0_and_1(tiny):
    images = tiny.sample(draw_z(5, 62, 0))
    assert images.shape == (5, *TINY) and images.min() >= 0 and images.max() <= 1


def test_sample_does_not_depend_on_the_batch_size(tiny, monkeypatch):
    z = draw_z(7, 62, 0)
    at_once = tiny.sample(z)
    monkeypatch.setattr(module, 'SAMPLE_PIXELS', 3 * TINY[0] * TINY[1])
    assert tiny.sample_batch_size == 3
    np.testing.assert_allclose(tiny.sample(z), at_once, atol=1e-6)


def test_pixels_are_the_rounded_samples(tiny, monkeypatch):
    monkeypatch.setattr(module, 'SAMPLE_PIXELS', 3 * TINY[0] * TINY[1])
    z = draw_z(7, 62, 0)
    pixels = tiny.pixels(z)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.round(255 * tiny.sample(z)))


@pytest.mark.parametrize('sample', [SAGAN.sample, SAGAN.pixels, lambda model, z: model.fetch(model.fake_images, z)],
                         ids=['sample', 'pixels', 'fetch'])
@pytest.mark.parametrize('shape', [(), (62,), (5, 61), (1, 5, 62), (0, 62)], ids=str)
def test_sampling_refuses_z_of_another_shape(tiny, sample, shape):
    with pytest.raises(ValueError, match=r'^z has the shape \[.*\]: use \[N, 62\] with at least one row$'):
        sample(tiny, np.zeros(shape))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_sampling_refuses_z_that_is_not_finite(tiny, value):
    z = draw_z(5, 62, 0)
    z[3, 7] = value
    with pytest.raises(ValueError, match='^z has values that are not finite: use finite numbers$'):
        tiny.sample(z)


def test_sampling_without_classes_refuses_labels(tiny):
    with pytest.raises(ValueError, match='^labels require a model with conditional=True: omit labels$'):
        tiny.sample(draw_z(3, 62, 0), [0, 0, 0])


def set_class_counts(model, *class_counts):
    model.config = dataclasses.replace(model.config, class_counts=class_counts)


@pytest.fixture(scope='module')
def conditional_tiny():
    """A conditional TinyGAN of four classes, two of which are empty."""
    with open_model(TinyGAN, image_shape=TINY, conditional=True, classes=4) as model:
        set_class_counts(model, 7, 0, 1, 0)
        yield model


@pytest.mark.parametrize('sample', [
    SAGAN.sample, SAGAN.pixels, lambda model, z, labels: model.fetch(model.fake_images, z, labels)],
    ids=['sample', 'pixels', 'fetch'])
@pytest.mark.parametrize('labels, message', [
    ([0, 3.5, 1], 'labels are float64: use integers from 0 to 3'),
    ([1., 1., 1.], 'labels are float64: use integers from 0 to 3'),
    ([True, False, True], 'labels are bool: use integers from 0 to 3'),
    (['0', '1', '2'], 'labels are <U1: use integers from 0 to 3'),
    ([0, 4, 1], 'label 4 is not a class: use integers from 0 to 3'),
    ([0, 1, -1], 'label -1 is not a class: use integers from 0 to 3'),
    ([0, 1], r'labels have the shape \[2\]: use the shape \[3\], one label per image'),
    (2, r'labels have the shape \[\]: use the shape \[3\], one label per image'),
    ([[0], [1], [2]], r'labels have the shape \[3, 1\]: use the shape \[3\], one label per image')], ids=str)
def test_sampling_refuses_invalid_labels(conditional_tiny, sample, labels, message):
    with pytest.raises(ValueError, match=f'^{message}$'):
        sample(conditional_tiny, draw_z(3, 62, 0), labels)


def test_sampling_refuses_images_as_z(tiny):
    with pytest.raises(ValueError, match=r'^z has the shape \[3, 8, 12, 1\] of images: use \[N, 62\], .*'
                                         r'model.attention_maps\(images=images\)$'):
        tiny.sample(np.zeros([3, *TINY]))


def test_attention_maps_of_z_are_those_of_the_generator(tiny):
    maps, = tiny.attention_maps(z=draw_z(3, 62, 0))
    expected = tiny.fetch('generator/attention/attention_map:0', draw_z(3, 62, 0))
    np.testing.assert_array_equal(maps, expected.reshape(3, 4, 6, 2, 3))


def test_attention_maps_of_images_are_those_of_the_discriminator(tiny):
    images = np.random.default_rng(0).random([3, *TINY])
    maps, = tiny.attention_maps(images)
    expected = tiny.sess.run('discriminator/attention/attention_map:0', {tiny.inputs: images})
    np.testing.assert_array_equal(maps, expected.reshape(3, 4, 6, 2, 3))


@pytest.mark.parametrize('images, message', [
    (np.zeros([8, 12, 1]), r'images have the shape \[8, 12, 1\]: use \[N, 8, 12, 1\] with at least one image'),
    (np.zeros([0, *TINY]), r'images have the shape \[0, 8, 12, 1\]: use \[N, 8, 12, 1\] with at least one image'),
    (np.zeros([3, 62]), r'images have the shape \[3, 62\]: use .* image, or attention_maps.z=z. for the maps of .*'),
    (np.zeros([3, *TINY], np.uint8), 'images are uint8: use floats in .*, for example images / 255 for pixel .*'),
    (np.full([3, *TINY], -0.5), r'images have values from -0.5 to -0.5: use values in \[0, 1\], from black to white'),
    (np.full([3, *TINY], 255.), r'images have values from 255 to 255: use values in \[0, 1\], from black to white')],
    ids=lambda value: '' if isinstance(value, str) else f'{value.dtype}{value.shape}')
def test_attention_maps_refuse_wrong_images(tiny, images, message):
    with pytest.raises(ValueError, match=f'^{message}$'):
        tiny.attention_maps(images)


@pytest.mark.parametrize('arguments', [{}, {'images': np.zeros([1, *TINY]), 'z': np.zeros([1, 62])}],
                         ids=['none', 'both'])
def test_attention_maps_require_either_images_or_z(tiny, arguments):
    with pytest.raises(ValueError, match='^attention_maps requires either images or z: '):
        tiny.attention_maps(**arguments)


def test_attention_maps_of_images_refuse_labels(conditional_tiny):
    with pytest.raises(ValueError, match='^labels require z: '):
        conditional_tiny.attention_maps(np.zeros([1, *TINY]), labels=[0])


def test_judge_returns_the_output_of_the_discriminator(conditional_tiny):
    images, labels = np.random.default_rng(0).random([3, *TINY]), [3, 0, 1]
    feed = {conditional_tiny.inputs: images, conditional_tiny.labels: labels}
    expected = conditional_tiny.sess.run(conditional_tiny.d_output, feed)
    np.testing.assert_array_equal(conditional_tiny.judge(images, labels), expected.reshape(3))


def test_judge_of_a_conditional_model_requires_labels(conditional_tiny):
    with pytest.raises(ValueError, match=r'^the model is conditional: use judge\(images, labels\)'):
        conditional_tiny.judge(np.zeros([1, *TINY]))


def test_judge_refuses_labels_without_classes(tiny):
    with pytest.raises(ValueError, match='^labels require a model with conditional=True: omit labels$'):
        tiny.judge(np.zeros([1, *TINY]), [0])


def test_judge_refuses_images_of_another_range(tiny):
    with pytest.raises(ValueError, match='^images have values from 255 to 255'):
        tiny.judge(np.full([1, *TINY], 255.))


@pytest.mark.parametrize('network', ['generator', 'discriminator'])
def test_network_refuses_an_array(tiny, network):
    array = np.zeros([1, *TINY]) if network == 'discriminator' else np.zeros([1, 62])
    with pytest.raises(TypeError, match=r'accept tensors, not arrays: call model.sample\(z\) .* model.attention_maps'):
        getattr(tiny, network)(array, is_training=False, reuse=True)


def set_gammas(model, value):
    for layers in model.layers.values():
        for layer in layers:
            layer.gamma.load([value], model.sess)


def test_fixed_gamma_samples_as_if_gamma_had_this_value(tiny):
    z = draw_z(3, 62, 0)
    set_gammas(tiny, 0.)
    expected = tiny.sample(z)
    set_gammas(tiny, 2.)
    with tiny.fixed_gamma(0.):
        assert (tiny.sample(z) == expected).all()


def test_fixed_gamma_restores_the_gammas_after_an_error(tiny):
    set_gammas(tiny, 2.)
    with pytest.raises(KeyError), tiny.fixed_gamma(0.):
        raise KeyError
    assert {float(gamma) for gamma in tiny.sess.run(tiny.sampled_gammas).values()} == {2.}


def test_fixed_gamma_refreshes_the_statistics_with_the_learned_gamma(tiny, monkeypatch):
    set_gammas(tiny, 2.)
    used = []
    monkeypatch.setattr(tiny, 'refresh_statistics', lambda: used.append(tiny.sess.run(tiny.sampled_gammas)['g_gamma']))
    with tiny.fixed_gamma(0.):
        assert used == [2.]


@pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.int64])
def test_sampling_accepts_labels_of_every_integer_type(conditional_tiny, dtype):
    assert conditional_tiny.sample(draw_z(3, 62, 0), np.array([3, 0, 1], dtype)).shape == (3, *TINY)


def test_refresh_statistics_draws_labels_with_the_class_frequencies(conditional_tiny, monkeypatch):
    fed = []
    monkeypatch.setattr(conditional_tiny, 'sampling_feed', lambda z, labels: fed.append(labels) or SAGAN.sampling_feed(
        conditional_tiny, z, labels))
    conditional_tiny.refresh_statistics()
    counts = np.bincount(np.concatenate(fed), minlength=4) / (512 * module.STATISTICS_BATCHES)
    assert counts[0] == pytest.approx(7 / 8, abs=0.05) and counts[0] + counts[2] == 1


def test_sample_follows_the_weights_while_training(tiny):
    z, samples = draw_z(5, 62, 0), []
    for step in range(2):
        tiny.train_batch(batch_of(tiny, step=step), step)
        samples.append(tiny.sample(z))
    assert (samples[0] != samples[1]).mean() > 0.5


def test_sample_refreshes_the_statistics_by_itself(tiny):
    tiny.train_batch(batch_of(tiny), 0)
    z = draw_z(5, 62, 0)
    images = tiny.sample(z)
    tiny.refresh_statistics()
    assert (tiny.sample(z) == images).all()


def test_load_restores_the_samples(tiny):
    tiny.save(0)
    z = draw_z(5, 62, 0)
    before = tiny.sample(z)
    for step in range(3):
        tiny.train_batch(batch_of(tiny, step=step), step)
    assert (tiny.sample(z) != before).mean() > 0.5
    tiny.load()
    assert (tiny.sample(z) == before).all()


def test_load_returns_the_step(tiny):
    tiny.save(5)
    assert tiny.load(5) == (True, 5)


def test_load_returns_false_if_there_is_no_checkpoint(tiny):
    assert tiny.load('best') == (False, 0)


def test_build_model_refuses_a_graph_that_has_networks(tiny):
    with pytest.raises(UserError, match=r'call tf.reset_default_graph\(\)'):
        TinyGAN(tiny.sess, image_shape=TINY).build_model()


def test_initialize_starts_the_averages_at_the_new_weights(tiny):
    tiny.initialize()
    variables, averages = tiny.sess.run([tiny.g_variables, tiny.averages])
    assert len(variables) == len(averages)
    assert all((a == b).all() for a, b in zip(variables, averages, strict=True))


def test_sampled_labels_are_none_without_classes(tiny):
    assert tiny.sampled_labels(3) is None


def test_draw_grid_of_a_run_without_classes_is_nearly_square(tiny):
    z, labels, size = tiny.draw_grid(0, 1)
    assert (z.shape, labels, size) == ((64, 62), None, (8, 8))


@pytest.fixture
def conditional(sess):
    return SAGAN(sess, conditional=True, classes=4, sample_num=10, z_dim=3)


def test_sampled_labels_are_each_class_in_turn(conditional):
    assert conditional.sampled_labels(6).tolist() == [0, 1, 2, 3, 0, 1]


def test_sampled_labels_are_the_target_class(sess):
    assert SAGAN(sess, conditional=True, classes=4, label='2').sampled_labels(3).tolist() == [2, 2, 2]


def test_proportional_labels_have_the_class_frequencies(conditional):
    set_class_counts(conditional, 5, 4, 0, 1)
    assert np.bincount(conditional.proportional_labels(20)).tolist() == [10, 8, 0, 2]


def test_proportional_labels_are_each_class_in_turn_if_the_counts_are_unknown(conditional):
    assert conditional.proportional_labels(6).tolist() == [0, 1, 2, 3, 0, 1]


def test_proportional_labels_are_the_target_class(sess):
    model = SAGAN(sess, conditional=True, classes=3, label='2')
    set_class_counts(model, 5, 4, 1)
    assert model.proportional_labels(3).tolist() == [2, 2, 2]


@pytest.mark.parametrize('classes, class_counts', [(None, (5, 4, 1)), (3, (5, 4, 1)), (2, ())])
def test_class_counts_are_those_of_config_json(sess, tmp_path, classes, class_counts):
    """The class counts are unknown if the model has a different number of classes."""
    folder = tmp_path / 'SAGAN_mnist_64_62_conditional'
    folder.mkdir()
    (folder / 'config.json').write_text('{"class_names": ["a", "b", "c"], "class_counts": [5, 4, 1]}')
    model = SAGAN(sess, conditional=True, classes=classes, checkpoint_dir=str(tmp_path))
    assert model.config.class_counts == class_counts


@pytest.mark.parametrize('draw', [SAGAN.draw_labels, SAGAN.proportional_labels])
def test_labels_of_a_run_without_classes_are_none(sess, draw):
    assert draw(SAGAN(sess, image_shape=SMALL), 3) is None


def test_draw_grid_has_a_row_per_z_and_a_column_per_class(conditional):
    z, labels, size = conditional.draw_grid(0, 1)
    assert size == (3, 4)
    assert labels.reshape(size).tolist() == 3 * [[0, 1, 2, 3]]
    np.testing.assert_array_equal(z, np.repeat(draw_z(3, 3, 0, 1), 4, 0))


@pytest.mark.parametrize('classes, rows, columns', [(2, 8, 8), (3, 11, 6), (4, 8, 8), (5, 13, 5), (10, 7, 10)])
def test_draw_grid_of_few_classes_is_nearly_square(sess, classes, rows, columns):
    model = SAGAN(sess, image_shape=SMALL, classes=classes, conditional=True)
    z, labels, size = model.draw_grid(0, 1)
    assert size == (rows, columns)
    np.testing.assert_array_equal(z, np.repeat(draw_z(rows * columns // classes, 62, 0, 1), classes, 0))
    assert labels.reshape(size).tolist() == rows * [columns // classes * [*range(classes)]]


##################################################################################
# Batches and learning rates
##################################################################################

@pytest.fixture
def batch_model(sess):
    """A function that returns a conditional model without a graph, which is enough to draw batches."""
    return lambda batch_size=8, **options: SAGAN(sess, image_shape=SMALL, classes=10, conditional=True,
                                                 batch_size=batch_size, **options)


@pytest.fixture(scope='module')
def dataset():
    return random_dataset(SMALL, train=64)


def test_batches_are_images_z_and_their_labels(batch_model, dataset):
    batch, = batch_model().batches(dataset, 3)
    assert [part.shape for part in batch] == [(8, *SMALL), (8, 62), (8,), (8,)]


def test_batches_draw_the_labels_of_z_with_the_class_frequencies(batch_model, dataset):
    model = batch_model(batch_size=64)
    set_class_counts(model, 0, 0, 0, 30, 0, 0, 0, 0, 10, 0)
    labels = np.concatenate([labels for step in range(16) for _, _, _, labels in model.batches(dataset, step)])
    counts = np.bincount(labels, minlength=10)
    assert counts[3] + counts[8] == 1024
    assert abs(counts[3] - 768) < 5 * np.sqrt(1024 * 0.75 * 0.25)


def test_batches_without_classes_have_no_labels_of_z(sess, dataset):
    (_, _, _, z_labels), = SAGAN(sess, image_shape=SMALL, batch_size=8).batches(dataset, 0)
    assert z_labels is None


def test_batches_of_the_same_step_and_seed_are_equal(batch_model, dataset):
    first, = batch_model().batches(dataset, 3)
    second, = batch_model().batches(dataset, 3)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize('seed, step', [(0, 4), (1, 3)])
def test_batches_of_another_step_or_seed_differ(batch_model, dataset, seed, step):
    first, = batch_model().batches(dataset, 3)
    second, = batch_model(seed=seed).batches(dataset, step)
    assert all((a != b).mean() > 0.3 for a, b in zip(first, second, strict=True))


def test_batches_keep_each_image_with_its_label(batch_model, dataset):
    (images, _, labels, _), = batch_model().batches(dataset, 3)
    train_images, train_labels = dataset.train
    for image, label in zip(images, labels, strict=True):
        assert label in train_labels[(train_images == np.round(255 * image)).all((1, 2, 3))]


def test_batches_of_a_step_are_the_next_n_critic_batches(batch_model, dataset):
    single = batch_model()
    expected = [*single.batches(dataset, 2), *single.batches(dataset, 3)]
    for batch, other in zip(batch_model(n_critic=2).batches(dataset, 1), expected, strict=True):
        assert all((a == b).all() for a, b in zip(batch, other, strict=True))


def config_of(**options):
    return make_config(complete_options({'epoch': 1, 'iteration': 8, **options}))


def test_lr_scale_is_1_by_default():
    assert [learning_rate_scale(config_of(), step) for step in (0, 7)] == [1, 1]


def test_lr_scale_decays_linearly_over_the_second_half():
    config = config_of(lr_decay='linear')
    assert [learning_rate_scale(config, step) for step in range(8)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


##################################################################################
# Names and errors
##################################################################################

@pytest.mark.parametrize('options, name', [
    ({}, 'SAGAN_mnist_64_62'),
    ({'dataset_name': 'digits', 'batch_size': 7, 'z_dim': 3}, 'SAGAN_digits_7_3'),
    ({'epoch': 3, 'iteration': 10, 'save_freq': 7}, 'SAGAN_mnist_64_62'),
    ({'attention': False}, 'SAGAN_mnist_64_62_noattention')])
def test_model_dir_is_named_as_in_the_lineage(sess, options, name):
    assert SAGAN(sess, **options).model_dir == name


def test_model_dir_depends_on_options_that_affect_training(sess):
    options = [{}, {'g_lr': 0.01}, {'d_lr': 0.01}, {'beta1': 0}, {'seed': 3}, {'precision': 'bfloat16'},
               {'attention': False}, {'lr_decay': 'linear'}]
    assert len({SAGAN(sess, **changed).model_dir for changed in options}) == len(options)


def test_class_refuses_the_name_of_another_network(sess):
    with pytest.raises(TypeError, match='SAGAN is the network article, not dcgan: use networks.build'):
        SAGAN(sess, network='dcgan')


def test_conditional_requires_classes(sess):
    with pytest.raises(UserError, match='--conditional true requires a --dataset with classes'):
        SAGAN(sess, conditional=True, classes=())


def test_label_requires_a_conditional_run(sess):
    with pytest.raises(UserError, match='--label 3 requires a run with --conditional true'):
        SAGAN(sess, label='3')


@pytest.mark.parametrize('label', ['4', 'bird', '²'])
def test_label_must_be_a_class(sess, label):
    with pytest.raises(UserError, match=f'--label {label} is not a class: choose one of 0 cat, 1 dog, 2$'):
        SAGAN(sess, conditional=True, classes=['cat', 'dog', '2'], label=label)


##################################################################################
# The training loop
##################################################################################

def open_tiny(folder, **options):
    options = {'epoch': 2, 'iteration': 3, 'print_freq': 2, 'sample_num': 2, 'attention': 'none', **options}
    return open_model(TinyGAN, image_shape=TINY, batch_size=4, **folders_in(folder), **options)


def train_tiny(model, stop=None):
    """Train on random images and return what is printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        model.train(stop, random_dataset(TINY))
    return output.getvalue()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run of two epochs of three steps: what it printed, its folders and its final variables."""
    with open_tiny(tmp_path_factory.mktemp('finished'), attention='paper') as model:
        output = train_tiny(model)
        yield SimpleNamespace(model=model, run=model.run, output=output,
                              variables=model.sess.run(variables_by_name()))


def test_train_writes_the_results(finished):
    assert sorted(os.listdir(finished.run.results)) == [
        'SAGAN_curves.png', 'SAGAN_explorer.html', 'SAGAN_history.csv', 'SAGAN_maps', 'SAGAN_progress.gif',
        'SAGAN_samples_epoch001.png', 'SAGAN_samples_epoch002.png', 'SAGAN_train_step00006.png', 'SAGAN_variables.txt']


def test_train_appends_a_row_to_the_history_every_print_freq_steps(finished):
    rows = read_history(finished.run.result_path('history.csv'))
    assert [row['step'] for row in rows] == ['2', '4', '6']


def test_train_saves_a_checkpoint_at_the_end(finished):
    assert sorted(os.listdir(finished.model.checkpoints.folder)) == [
        'SAGAN.model-6.data-00000-of-00001', 'SAGAN.model-6.index', 'checkpoint']


def test_train_prints_where_the_files_are(finished):
    assert 'Finished at step 6 of 6 after ' in finished.output
    assert finished.output.endswith(f'Checkpoints: {finished.run.folder}\nResults: {finished.run.results}\n')


def test_train_adds_the_metadata_of_the_data_set_to_the_config(finished):
    config = finished.model.config
    assert config.images == sum(config.class_counts) == 20


def test_train_reports_that_the_run_is_complete(finished):
    with finished.model.sess.graph.as_default():
        assert train_tiny(finished.model) == (
            'This run is complete at step 6: choose an --epoch larger than 2 to continue\n')


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
    """A run like that of the `finished` fixture, but stopped after its first step and resumed."""
    with open_tiny(tmp_path_factory.mktemp('interrupted'), attention='paper') as model:
        stop = Stop()
        stop.receive(15, None)
        first_output = train_tiny(model, stop)
        saved = model.load()
        second_output = train_tiny(model)
        yield SimpleNamespace(stop=stop, first_output=first_output, saved=saved, second_output=second_output,
                              variables=model.sess.run(variables_by_name()))


def test_train_stops_after_the_step_in_which_a_signal_arrives(interrupted):
    assert interrupted.stop.requested == 15
    assert 'Stopped at step 1 of 6 after ' in interrupted.first_output


def test_train_saves_a_checkpoint_when_it_stops(interrupted):
    assert interrupted.saved == (True, 1)


def test_train_resumes_from_the_newest_checkpoint(interrupted):
    assert interrupted.second_output.startswith('Resuming at step 1 of 6\n')


def test_resumed_run_is_bit_identical_to_an_uninterrupted_one(finished, interrupted):
    assert_same_bits(interrupted.variables, finished.variables)


@pytest.fixture(scope='module')
def decayed(tmp_path_factory):
    """A run with --lr_decay linear and learning rates of 0: the calls to learning_rate_scale, and the printed lines."""
    calls = []

    def record(config, step):
        calls.append((config.lr_decay, config.last_step, step))
        return 0.

    folder = tmp_path_factory.mktemp('decayed')
    with open_tiny(folder, epoch=1, iteration=7, lr_decay='linear') as model, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'learning_rate_scale', record)
        model.save(0)
        before = model.sess.run(variables_by_name('generator/'))
        output = train_tiny(model)
        after = model.sess.run(variables_by_name('generator/'))
    trained = {name: (before[name], after[name]) for name in before if name.endswith(('w', 'Matrix'))}
    return SimpleNamespace(calls=calls, output=output, trained=trained)


def test_train_scales_the_learning_rates_by_lr_scale(decayed):
    assert decayed.calls == [('linear', 7, step) for step in range(7)]
    assert all((before == after).all() for before, after in decayed.trained.values())


def test_train_prints_the_decay_of_the_learning_rates(decayed):
    assert 'Learning rates: constant until step 3, then decaying to zero at step 7\n' in decayed.output


def test_train_refuses_a_data_set_with_other_classes(tmp_path):
    with tf.Graph().as_default(), tf.Session() as sess:
        model = TinyGAN(sess, image_shape=TINY, batch_size=4, conditional=True, classes=3, **folders_in(tmp_path))
        with pytest.raises(UserError, match='the model has 3 classes, but the data set has 10'):
            model.train(dataset=random_dataset(TINY))


@pytest.mark.slow
def test_train_that_diverges_keeps_the_earlier_checkpoints(tmp_path):
    with open_tiny(tmp_path) as model:
        tf.trainable_variables()[0].load(np.full([62, 4 * 6 * 8], np.nan), model.sess)
        model.save(0)
        before = sorted(os.listdir(model.checkpoints.folder))
        with pytest.raises(UserError, match='d_loss is not finite at step 1.*--g_lr'):
            train_tiny(model)
        assert sorted(os.listdir(model.checkpoints.folder)) == before


def raise_error(error):
    raise error


EVENTS = {'none': lambda stop: None, 'signal': lambda stop: stop.received.append(signal.SIGINT),
          'divergence': lambda stop: raise_error(UserError('d_loss is not finite')),
          'Ctrl-C in a notebook': lambda stop: raise_error(KeyboardInterrupt)}


@pytest.mark.slow
@pytest.mark.parametrize('event', EVENTS)
def test_train_leaves_no_thread(tmp_path, monkeypatch, event):
    before = threading.enumerate()
    with open_tiny(tmp_path) as model:
        stop, train_batch = Stop(), model.train_batch

        def train_batch_with_event(batches, step, lr_scale):
            if step == 2:
                EVENTS[event](stop)
            return train_batch(batches, step, lr_scale)

        monkeypatch.setattr(model, 'train_batch', train_batch_with_event)
        with contextlib.suppress(UserError, KeyboardInterrupt):
            train_tiny(model, stop)
    assert threading.enumerate() == before


@pytest.mark.slow
def test_train_uses_the_batches_of_each_step_in_order(tmp_path, monkeypatch):
    dataset, used = random_dataset(TINY), []
    with open_tiny(tmp_path, n_critic=2) as model:
        train_batch = model.train_batch

        def recording_train_batch(batches, *args):
            used.append(batches)
            return train_batch(batches, *args)

        monkeypatch.setattr(model, 'train_batch', recording_train_batch)
        train_tiny(model)
        expected = [model.batches(dataset, step) for step in range(6)]
    assert len(used) == 6
    for array, expected_array in zip(arrays_of(used), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(array, expected_array)


def arrays_of(steps):
    """Return all arrays of the batches of several steps."""
    return [array for batches in steps for batch in batches for array in batch]


##################################################################################
# Scores during training
##################################################################################

def train_scored(model, epoch, scores, eval_freq=2):
    """Train until `epoch` epochs are complete. The scorer returns the given Fréchet distances in turn."""
    scores = iter(scores)

    def scorer(pixels):
        return {'frechet_distance': next(scores), 'classifier_score': 2.}
    model.config = dataclasses.replace(model.config, epoch=epoch, eval_freq=eval_freq)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'load_scorer', lambda *args: scorer)
        patch.setattr('training.callbacks.QUICK_EVAL_NUM', 5)
        train_tiny(model)


@contextlib.contextmanager
def open_scored(folder):
    """Yield a run of 4 epochs of 3 steps that was scored at steps 6 and 12. The second score is worse."""
    with open_tiny(folder, print_freq=4) as model:
        train_scored(model, 4, [5., 7.])
        yield model


@pytest.fixture(scope='module')
def scored(tmp_path_factory):
    with open_scored(tmp_path_factory.mktemp('scored')) as model:
        yield model


def distances_of(model):
    rows = read_history(model.run.result_path('history.csv'))
    return [(int(row['step']), row['frechet_distance']) for row in rows]


def test_eval_freq_adds_scores_to_the_history(scored):
    assert distances_of(scored) == [(4, ''), (6, '5.0'), (8, ''), (12, '7.0')]


@pytest.mark.parametrize('checkpoint, step', [('best', 6), ('latest', 12)])
def test_eval_freq_keeps_the_best_and_the_newest_checkpoint(scored, checkpoint, step):
    assert scored.load(checkpoint) == (True, step)


@pytest.mark.slow
@pytest.mark.parametrize('distance, best', [(6., 6), (4., 18)])
def test_resumed_run_remembers_the_best_score_so_far(tmp_path, distance, best):
    with open_scored(tmp_path) as model:
        train_scored(model, 6, [distance])
        assert model.load('best') == (True, best)


@pytest.mark.slow
def test_history_keeps_the_scores_after_eval_freq_is_turned_off(tmp_path):
    with open_scored(tmp_path) as model:
        train_scored(model, 5, [], eval_freq=0)
        assert [distance for _, distance in distances_of(model) if distance] == ['5.0', '7.0']

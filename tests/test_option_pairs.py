"""Runs that cover every pair of values of the options that change the graph. Each run resumes bit-identically."""

import itertools

import numpy as np
import pytest
from tiny_gan import random_dataset

import SAGAN as module
from networks import NETWORKS
from tf1 import tf
from training.losses import OBJECTIVES
from training.precision import session_config

COMBINED = dict(gan_type=list(OBJECTIVES), attention=['article', 'paper', 'none'], sn=[False, True],
                conditional=[False, True], n_critic=[1, 2], precision=['float32', 'bfloat16'],
                ema=[0.9, 0.], z_name=['uniform', 'normal'], augment=[False, True])
# The values of the last seven options, as indices, for each combination of gan_type and attention. With more
# objectives, the first rows are used again.
BITS = ['1111110', '1000001', '0000111', '0100010', '1110011', '1001101', '0001101', '0100011', '1111010', '0100011',
        '1011100', '0111001', '1010101', '0001110', '0110001', '1011001', '0111100', '1000111', '1110100', '0001010',
        '1010111']
ARTICLE_CASES = []
for (gan_type, attention), bits in zip(itertools.product(OBJECTIVES, COMBINED['attention']), itertools.cycle(BITS)):
    case = {'gan_type': gan_type, 'attention': attention}
    for name, bit in zip(list(COMBINED)[2:], bits, strict=True):
        case[name] = COMBINED[name][int(bit)]
    ARTICLE_CASES.append(case)

# Two cases for each of the other networks. The two cases differ in most options.
OTHER_CASES = [
    dict(network='dcgan', gan_type='wgan-gp', attention='article', sn=False, conditional=True, n_critic=1,
         precision='float32', ema=0.9, augment=True),
    dict(network='dcgan', gan_type='hinge', attention='paper', sn=True, conditional=False, n_critic=2,
         precision='bfloat16', ema=0.),
    dict(network='resnet', gan_type='hinge', attention='paper', sn=True, conditional=True, n_critic=1,
         precision='float32', ema=0.9),
    dict(network='resnet', gan_type='dragan', attention='article', sn=False, conditional=False, n_critic=1,
         precision='bfloat16', ema=0.9, augment=True)]
CASES = [*ARTICLE_CASES, *OTHER_CASES]


@pytest.mark.parametrize('one, other', list(itertools.combinations(COMBINED, 2)))
def test_cases_cover_every_pair_of_values(one, other):
    pairs = {(case[one], case[other]) for case in ARTICLE_CASES}
    assert pairs == set(itertools.product(COMBINED[one], COMBINED[other]))


class Trained:
    """Two training steps with the given options, and the second step repeated from the checkpoint after the first."""

    def __init__(self, options):
        shape = (32, 32, 3) if 'network' in options else (4, 4, 1)
        network = NETWORKS[options.get('network', 'article')]
        self.options, self.shape = options, shape
        if 'network' in options:
            options = {**options, 'ch': 8, 'flip': True}
        with tf.Graph().as_default(), tf.Session(config=session_config(options['precision'])) as sess:
            model = network(sess, image_shape=shape, classes=10, batch_size=4, **options)
            model.build_model()
            self.config, dataset = model.config, random_dataset(shape, train=40)
            sess.run(tf.global_variables_initializer())
            model.train_batch(model.batches(dataset, 0), 0)
            model.save(1)
            self.step = self.second_step(model, dataset)
            sess.run(tf.global_variables_initializer())
            self.loaded = model.load()
            self.repeated_step = self.second_step(model, dataset)

    def second_step(self, model, dataset):
        """Run the second training step. Return its losses, and the variables and samples after it."""
        losses = model.train_batch(model.batches(dataset, 1), 1)
        variables = model.sess.run({v.op.name: v for v in tf.global_variables()})
        return losses, variables, model.sample(model.draw_z(3, 1))


def case_id(index):
    return '-'.join(map(str, CASES[index].values()))


@pytest.fixture(scope='module', params=[pytest.param(index, marks=pytest.mark.slow) for index in range(len(CASES))],
                ids=case_id)
def trained(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        patch.chdir(tmp_path_factory.mktemp('run'))
        return Trained(CASES[request.param])


def test_losses_are_finite(trained):
    losses, _, _ = trained.step
    assert np.isfinite(list(losses.values())).all()


def test_losses_have_a_penalty_if_the_objective_has_one(trained):
    losses, _, _ = trained.step
    assert ('d_penalty' in losses) == (trained.options['gan_type'] in ('wgan-gp', 'wgan-lp', 'dragan', 'r1'))


def test_d_is_updated_n_critic_times_per_step_and_g_once(trained):
    """Adam counts the updates in powers of beta1."""
    _, variables, _ = trained.step
    config = trained.config
    assert variables['beta1_power'] == pytest.approx(config.beta1 ** (2 * config.n_critic + 1), rel=1e-5)
    assert variables['beta1_power_1'] == pytest.approx(config.beta1 ** 3, rel=1e-5)


def test_samples_are_images(trained):
    _, _, images = trained.step
    assert images.shape == (3, *trained.shape) and images.min() >= 0 and images.max() <= 1


def test_step_after_loading_has_the_same_bits(trained):
    assert trained.loaded == (True, 1)
    (losses, variables, images), (other_losses, other_variables, other_images) = trained.step, trained.repeated_step
    assert losses == other_losses
    assert all((variables[name] == other_variables[name]).all() for name in variables)
    assert (images == other_images).all()

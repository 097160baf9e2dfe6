"""Every two values of the options that change the graph stand in one run, which goes on to the bit."""

import itertools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import sampling
from networks import NETWORKS
from training.losses import OBJECTIVES
from training.precision import session_config

COMBINED = dict(gan_type=list(OBJECTIVES), attention=['article', 'paper', 'none'], sn=[False, True],
                conditional=[False, True], n_critic=[1, 2], precision=['float32', 'bfloat16'],
                ema=[0.9, 0.], z_name=['uniform', 'normal'])
BITS = ['111111', '100000', '000011', '010001', '111001', '100110', '000110', '010001', '111101',
        '010001', '101110', '011100', '101010', '000111', '011000', '101100', '011110', '100011']
CASES = [dict(zip(COMBINED, [gan_type, attention, *(COMBINED[name][int(bit)] for name, bit in zip(
    list(COMBINED)[2:], bits, strict=True))], strict=True))
    for (gan_type, attention), bits in zip(itertools.product(OBJECTIVES, COMBINED['attention']), BITS, strict=True)]


def test_every_two_values_occur_together():
    for one, other in itertools.combinations(COMBINED, 2):
        assert {(case[one], case[other]) for case in CASES if 'network' not in case} == set(
            itertools.product(COMBINED[one], COMBINED[other]))


# Each of the other networks with half of the values, and with the other half; in colour, mirrored.
LARGE = {'network': ['dcgan', 'dcgan', 'resnet', 'resnet'], 'gan_type': ['wgan-gp', 'hinge', 'hinge', 'dragan'],
         'attention': ['article', 'paper', 'paper', 'article'], 'sn': [False, True, True, False],
         'conditional': [True, False, True, False], 'n_critic': [1, 2, 1, 1],
         'precision': ['float32', 'bfloat16', 'float32', 'bfloat16'], 'ema': [0.9, 0., 0.9, 0.9]}
CASES += [dict(zip(LARGE, values, strict=True), ch=8, flip=True) for values in zip(*LARGE.values(), strict=True)]


@pytest.mark.parametrize('options', CASES, ids=lambda case: '-'.join(map(str, case.values())))
def test_two_steps_and_going_on_to_the_bit(options, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shape = (32, 32, 3) if 'network' in options else (4, 4, 1)
    data = rng.integers(0, 256, [40, *shape]).astype(np.uint8), rng.integers(0, 10, 40)
    with tf.Graph().as_default(), tf.Session(config=session_config(options['precision'])) as sess:
        network = NETWORKS[options.get('network', 'article')]
        model = network(sess, image_shape=shape, classes=10, batch_size=4, **options)
        model.build_model()
        sess.run(tf.global_variables_initializer())

        def train(step):
            first = step * model.n_critic
            losses = model.train_batch([model.batch(data, first + part) for part in range(model.n_critic)], step)
            assert np.isfinite(list(losses.values())).all() and ('d_penalty' in losses) == ('-' in model.gan_type or
                                                                                           model.gan_type == 'dragan')
            return losses, sess.run({v.op.name: v for v in tf.global_variables()}), model.sample(model.draw_z(3, 1))

        train(0)
        model.save(1)
        losses, variables, images = train(1)
        # D has been updated n_critic times a step, G once: Adam counts them in powers of beta1.
        for suffix, updates in ('', 2 * model.n_critic), ('_1', 2):
            assert variables[f'beta1_power{suffix}'] == pytest.approx(model.beta1 ** (updates + 1), rel=1e-5)
        sess.run(tf.global_variables_initializer())
        assert model.load() == (True, 1)
        again, same, drawn = train(1)
        assert losses == again and (images == drawn).all()
        assert all((variables[name] == same[name]).all() for name in variables)
        assert drawn.shape == (3, *shape) and drawn.min() >= 0 and drawn.max() <= 1

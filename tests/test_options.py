import json
import re

import pytest
from helpers import README

import options
from options import ALL, ARTICLE, OPTIONS, UserError, check_config, flag, parse, resolved, run_name, shown


@pytest.mark.parametrize('given, name', [
    ({}, 'SAGAN_mnist_64_62'),
    (dict(dataset_name='digits', batch_size=7, z_dim=3), 'SAGAN_digits_7_3'),
    (dict(epoch=3, iteration=10, save_freq=7, ema=0., sample_num=1), 'SAGAN_mnist_64_62'),
    (dict(precision='bfloat16'), 'SAGAN_mnist_64_62_bfloat16'),
    (dict(attention=False), 'SAGAN_mnist_64_62_noattention'),
    (dict(gan_type='wgan-gp', n_critic=5, sn=True, attention='paper', z_name='normal', conditional=True, beta2=0.9),
     'SAGAN_mnist_64_62_attentionpaper_gan_typewgan-gp_n_critic5_beta20.9_znormal_sn_conditional'),
    (dict(g_lr=0.01), 'SAGAN_mnist_64_62_g_lr0.01'),
    (dict(d_lr=1e-05), 'SAGAN_mnist_64_62_d_lr1e-05'),
    (dict(beta1=0.), 'SAGAN_mnist_64_62_beta10'),
    (dict(lr_decay='linear', seed=3), 'SAGAN_mnist_64_62_lr_decaylinear_seed3'),
    (dict(seed=12, beta1=0.25, d_lr=0.5, g_lr=0.1, attention=False, precision='bfloat16'),
     'SAGAN_mnist_64_62_bfloat16_noattention_g_lr0.1_d_lr0.5_beta10.25_seed12'),
    (dict(dataset_name='cats[1]*', network='dcgan', ch=32, img_size=32), 'SAGAN_cats_1___64_62_dcgan_ch32_img_size32'),
    (dict(name='mine', seed=3), 'mine')])
def test_run_name(given, name):
    assert run_name(resolved(given)) == name


def test_every_option_is_typed_as_its_kind_says_and_nothing_else():
    folders = options.FOLDER, options.CHECKPOINTS
    for option in ALL.values():
        text = 'some-text' if option.takes in (*folders, options.RUN) else shown(option.default)
        value = 'some-text' if option.takes in (*folders, options.RUN) else option.default
        if option.name == 'label':
            text = value = '7'
        args, typed = parse([f'{flag(option.name)}={text}'])
        assert typed == {option.name: value} and type(typed[option.name]) is type(option.default)
        assert args == {**{other.name: other.default for other in ALL.values()}, option.name: value}
        for wrong in ['', '٣', '1\0'] + ['--'] * (option.takes not in folders):
            if (option.takes in folders or option.name in ('label', 'dataset_name')) and wrong == '٣':
                continue
            with pytest.raises(UserError, match=flag(option.name)):
                parse([f'{flag(option.name)}={wrong}'])
    for arguments in ['--dataset=--'], ['--epoch'], ['--epok', '3'], ['more'], ['--epo', '3']:
        with pytest.raises(UserError):
            parse(arguments)


@pytest.mark.parametrize('name, works', [
    ('a', True), ('7.x_y-z', True), ('a' * 100, True), ('a' * 101, False), ('..', False), ('.', False), ('a/b', False),
    ('a b', False), ('classifier_x', False), ('ä', False), ('a\n', False), ('-a', False)])
def test_name(name, works):
    if works:
        assert parse([f'--name={name}'])[1] == {'name': name}
    else:
        with pytest.raises(UserError, match='--name'):
            parse([f'--name={name}'])


def test_sagan_takes_every_option_but_those_of_a_command():
    assert set(ARTICLE) == set(ALL) - {option.name for option in OPTIONS['commands']}
    assert resolved({}) == ARTICLE and ARTICLE['dataset_name'] == 'mnist'
    with pytest.raises(TypeError, match='no option batchsize'):
        resolved({'batchsize': 3})


def test_config_of_every_option_comes_back_as_it_was():
    written = json.loads(json.dumps({**ARTICLE, 'image_shape': [28, 28, 1], 'from_the_future': 3}))
    assert check_config(written, 'config.json') == (ARTICLE, {'image_shape': [28, 28, 1], 'from_the_future': 3})
    assert check_config({'beta1': 0}, 'config.json') == ({'beta1': 0}, {})
    assert type(resolved({'beta1': 0})['beta1']) is float
    # As older runs have it.
    assert [check_config({'attention': value}, '')[0]['attention'] for value in (True, False)] == ['article', 'none']
    assert resolved({'attention': False})['attention'] == 'none'


@pytest.mark.parametrize('name, value', [
    ('batch_size', 'eight'), ('batch_size', '8'), ('batch_size', 8.), ('batch_size', 0), ('batch_size', None),
    ('batch_size', True), ('z_dim', -4), ('dataset_name', 7), ('dataset_name', ''), ('g_lr', 2), ('g_lr', '0.1'),
    ('g_lr', float('nan')), ('attention', 1), ('attention', 'true'), ('sn', 1), ('label', 7),
    ('data_dir', 3), ('data_dir', []), ('ema', None),
    ('seed', 2**31), ('name', 'a/b'), ('name', 3), ('weights', 'mean')])
def test_config_with_a_value_that_the_option_does_not_take(name, value):
    with pytest.raises(UserError, match=f'here/config.json: {name} is {re.escape(repr(value))}'):
        check_config({'epoch': 3, name: value}, 'here/config.json')


def test_table_of_the_readme():
    """Every option stands in it, once, with its default."""
    table = README.read_text().split('## Options')[1].split('\n\n')[1]
    found = []
    for row in table.splitlines()[2:]:
        names, defaults, _ = row.strip('| ').split(' | ', 2)
        found += zip(re.findall('`(--[a-z_0-9]+)`', names), defaults.replace('`', '').split(', '), strict=True)
    assert sorted(found) == sorted((flag(name), shown(option.default) or 'none') for name, option in ALL.items())

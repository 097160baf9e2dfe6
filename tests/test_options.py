"""The options: parsing, the config of a run and the run's name."""

import dataclasses
import json
import re

import pytest
from helpers import ROOT

import options
from networks import NETWORKS
from ops import ATTENTIONS
from options import (
    ALL,
    ARTICLE,
    ATTENTION_BLOCKS,
    DEFAULTS,
    GAN_TYPES,
    IMAGE_SIZES,
    NETWORK_DEFAULTS,
    OPTIONS,
    UserError,
    as_typed,
    check_image_size,
    check_saved_options,
    check_worker_share,
    checkpoint_path,
    complete_options,
    flag,
    make_config,
    options_page,
    parse,
    parse_dataset,
    resolve,
    resolve_rates,
    resolve_shape,
    run_name,
    shape_of,
)
from training.losses import OBJECTIVES

##################################################################################
# The command line
##################################################################################

PATHS = [name for name, option in ALL.items() if option.type in (
    options.FOLDER, options.CHECKPOINT_FOLDER, options.SOURCE, options.FILE, options.FEATURES)]


def valid_text(name):
    """Return a string that the option accepts."""
    special = {'name': 'some-text', 'label': '7', **dict.fromkeys(PATHS, 'some-text')}
    return special.get(name, as_typed(DEFAULTS[name]))


@pytest.mark.parametrize('name', ALL)
def test_parse_returns_only_the_given_option(name):
    assert list(parse([f'{flag(name)}={valid_text(name)}'])) == [name]


@pytest.mark.parametrize('name', ALL)
def test_parse_returns_a_value_of_the_type_of_the_default(name):
    value = parse([f'{flag(name)}={valid_text(name)}'])[name]
    assert as_typed(value) == valid_text(name)
    assert type(value) is type(DEFAULTS[name])


def test_parse_without_options_prints_the_usual_commands_and_exits(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse([])
    assert exit_info.value.code == 0
    assert '  python main.py --phase train\n  python main.py --phase test\n' in capsys.readouterr().out


def test_parse_prints_the_version_and_exits(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(['--version'])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == 'SAGAN-tensorflow 1.0\n'


def test_help_lists_version(capsys):
    with pytest.raises(SystemExit):
        parse(['--help'])
    assert '  --version ' in capsys.readouterr().out


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('text', ['', '1\0'])
def test_parse_refuses_an_invalid_string(name, text):
    with pytest.raises(UserError, match=flag(name)):
        parse([f'{flag(name)}={text}'])


@pytest.mark.parametrize('name', sorted(set(ALL) - set(PATHS) - {'label', 'dataset_name'}))
def test_parse_refuses_a_digit_that_is_not_ascii(name):
    with pytest.raises(UserError, match=flag(name)):
        parse([f'{flag(name)}=٣'])


@pytest.mark.parametrize('name', sorted(set(ALL) - set(PATHS)))
def test_parse_refuses_two_hyphens_as_a_value(name):
    with pytest.raises(UserError, match=flag(name)):
        parse([f'{flag(name)}=--'])


@pytest.mark.parametrize('arguments', [['--epoch'], ['--epok', '3'], ['word'], ['--epo', '3']])
def test_parse_refuses_what_is_not_an_option_with_a_value(arguments):
    with pytest.raises(UserError):
        parse(arguments)


@pytest.mark.parametrize('words, advice', [
    (['--lable', '7'], 'unrecognised arguments: --lable 7: did you mean --label?'),
    (['--data-dir=x'], 'unrecognised arguments: --data-dir=x: did you mean --data_dir?'),
    (['7'], 'unrecognised arguments: 7: --help lists the options')])
def test_parse_suggests_a_similar_option(words, advice):
    with pytest.raises(UserError, match=f'^{re.escape(advice)}$'):
        parse(words)


@pytest.mark.parametrize('name', ['a', '7.x_y-z', 'a' * 255])
def test_parse_accepts_a_name(name):
    assert parse([f'--name={name}']) == {'name': name}


@pytest.mark.parametrize('name', ['a' * 256, '..', '.', 'a/b', 'a b', 'classifier_x', 'ä', 'a\n', '-a'])
def test_parse_refuses_a_name_that_is_not_safe_for_a_folder(name):
    with pytest.raises(UserError, match='--name'):
        parse([f'--name={name}'])


@pytest.mark.parametrize('separator, path', [('/', 'a/b'), ('\\', 'C:\\runs\\a'), ('\\', 'a/b')])
def test_checkpoint_path_accepts_the_separator_of_the_system(separator, path):
    assert checkpoint_path('FOLDER', 'a folder', separator).parse(path) == path


@pytest.mark.parametrize('separator, text, name', [
    ('/', 'a/b/', 'a/b'), ('/', 'a\\b', 'a\\b'), ('\\', 'C:\\images\\cats\\', 'C:/images/cats'),
    ('\\', '.\\cats', './cats')])
def test_parse_dataset_returns_slashes(separator, text, name):
    assert parse_dataset(text, separator) == name


@pytest.mark.parametrize('separator, path', [('/', 'a\\b'), ('/', 'a*'), ('\\', 'a[1]'), ('\\', 'a?')])
def test_checkpoint_path_refuses_what_tensorflow_reads_as_a_pattern(separator, path):
    with pytest.raises(ValueError):
        checkpoint_path('FOLDER', 'a folder', separator).parse(path)


@pytest.mark.parametrize('text, block', [
    ('true', 'article'), ('False', 'none'), ('article', 'article'), ('paper', 'paper'), ('none', 'none')])
def test_parse_accepts_true_and_false_for_attention(text, block):
    assert parse(['--attention', text]) == {'attention': block}


@pytest.mark.parametrize('text', ['PAPER', 'maybe', '1'])
def test_parse_refuses_another_attention_block(text):
    with pytest.raises(UserError, match='is not one of article, paper, none, true .article. or false .none.'):
        parse(['--attention', text])


@pytest.mark.parametrize('text, value', [('latest', 'latest'), ('best', 'best'), ('0', 0), ('1000000', 1000000)])
def test_parse_accepts_a_checkpoint(text, value):
    assert parse(['--checkpoint', text]) == {'checkpoint': value}


def test_parse_reports_the_value_and_what_is_accepted():
    with pytest.raises(UserError, match="argument --batch_size: 'many' is not an integer from 1 to 1000000"):
        parse(['--batch_size', 'many'])


##################################################################################
# The registries that --help does not import
##################################################################################

def test_gan_types_are_the_registered_objectives():
    assert tuple(OBJECTIVES) == GAN_TYPES


def test_networks_are_the_registered_networks():
    assert list(IMAGE_SIZES) == list(NETWORKS)


def test_attention_blocks_are_the_registered_blocks():
    assert tuple(ATTENTIONS) == ATTENTION_BLOCKS


@pytest.mark.parametrize('name, registry', [('gan_type', OBJECTIVES), ('network', NETWORKS), ('attention', ATTENTIONS)])
def test_help_shows_the_registered_names(name, registry):
    assert ALL[name].type.metavar == f'{{{",".join(registry)}}}'


@pytest.mark.parametrize('name, registry', [('gan_type', OBJECTIVES), ('network', NETWORKS), ('attention', ATTENTIONS)])
def test_parse_accepts_the_registered_names(name, registry):
    assert [parse([flag(name), value])[name] for value in registry] == list(registry)


def test_docs_list_the_options():
    assert (ROOT / 'docs' / 'options.md').read_text() == options_page(), 'run: python options.py > docs/options.md'


##################################################################################
# Options of a new run
##################################################################################

def resolved(**typed):
    """Return the Config that main.py makes for a new run on the digits, which have classes."""
    options = resolve_shape(resolve({'dataset_name': 'digits', **typed}), (28, 28, 1))
    return make_config(options, class_names=['a', 'b'])


def test_resolve_without_options_returns_the_article_with_dataset_and_augment_auto():
    assert resolve({}) == {**ARTICLE, 'dataset_name': 'auto', 'augment': 'auto'}


@pytest.mark.parametrize('typed, inherited, value', [
    ({}, {'augment': False}, False), ({'augment': True}, {'augment': False}, True),
    ({'augment': 'auto'}, {'augment': True}, 'auto')])
def test_resolve_inherits_augment_unless_it_is_typed(typed, inherited, value):
    assert resolve(typed, inherited)['augment'] == value


def test_resolve_drops_the_options_of_a_command():
    assert resolve({'phase': 'train', 'workers': 2, 'recipe': 'article'}) == resolve({})


def test_resolve_prefers_a_given_option_to_the_recipe():
    assert resolve({'recipe': 'paper', 'g_lr': 0.5, 'sn': False}).items() >= {'g_lr': 0.5, 'sn': False}.items()


def test_resolve_fills_in_the_recipe():
    assert resolve({'recipe': 'paper'}).items() >= {
        'network': 'resnet', 'gan_type': 'hinge', 'sn': True, 'attention': 'paper', 'g_lr': 0.0001, 'd_lr': 0.0004,
        'beta1': 0, 'beta2': 0.9, 'z_dim': 128, 'z_name': 'normal'}.items()  # Zhang et al. 2018, section 5


@pytest.mark.parametrize('network', ['dcgan', 'resnet'])
def test_resolve_fills_in_the_defaults_of_a_network(network):
    assert resolve({'network': network}).items() >= {
        'gan_type': 'hinge', 'sn': True, 'attention': 'paper', 'beta1': 0, 'z_name': 'normal'}.items()


def test_resolve_prefers_a_given_option_to_the_default_of_a_network():
    assert resolve({'network': 'dcgan', 'gan_type': 'gan'})['gan_type'] == 'gan'


def test_resolve_prefers_an_inherited_option_to_the_default_of_a_network():
    assert resolve({}, {**ARTICLE, 'network': 'dcgan'}) == {**ARTICLE, 'network': 'dcgan'}


def test_resolve_prefers_a_recipe_to_the_default_of_its_network():
    assert resolve({'recipe': 'fast'}).items() >= {'network': 'dcgan', 'gan_type': 'gan', 'sn': False}.items()


@pytest.mark.parametrize('native_shape, img_size', [
    ((28, 28, 1), 32), ((32, 32, 3), 0), ((64, 64, 3), 0), ((28, 40, 1), 40), ((8, 12, 1), 32), ((40, 48, 1), 0)])
def test_paper_recipe_trains_on_images_of_at_least_32_pixels(native_shape, img_size):
    assert resolve_shape(resolve({'recipe': 'paper'}), native_shape)['img_size'] == img_size


@pytest.mark.parametrize('class_names, conditional', [(['a', 'b'], True), ([], False)])
def test_paper_recipe_is_conditional_if_there_are_classes(class_names, conditional):
    options = resolve_shape(resolve({'recipe': 'paper'}), (28, 28, 1))
    config = make_config(options, class_names=class_names)
    assert config.conditional is conditional


def test_given_conditional_overrides_the_recipe():
    assert resolved(recipe='paper', conditional=False).conditional is False


@pytest.mark.parametrize('native_shape, given, result', [
    ((28, 28, 1), {'img_size': 28, 'c_dim': 1}, {'img_size': 0, 'c_dim': 0}),
    ((28, 28, 1), {'img_size': 32, 'c_dim': 3}, {'img_size': 32, 'c_dim': 3}),
    ((64, 64, 3), {'img_size': 64, 'c_dim': 3}, {'img_size': 0, 'c_dim': 0}),
    ((20, 28, 1), {'img_size': 20, 'c_dim': 0}, {'img_size': 20, 'c_dim': 0}),
    ((20, 28, 1), {'img_size': 28, 'c_dim': 0}, {'img_size': 28, 'c_dim': 0}),
    ((28, 28, 1), {'batch_size': 28, 'n_critic': 1}, {'batch_size': 28, 'n_critic': 1})])
def test_resolve_shape_replaces_a_native_size_with_0(native_shape, given, result):
    options = {**ARTICLE, **given}
    assert resolve_shape(options, native_shape) == {**ARTICLE, **result}
    assert options == {**ARTICLE, **given}


@pytest.mark.parametrize('typed, native_shape, rates', [
    ({}, (32, 32, 3), (0.001, 0.004)), ({}, (64, 64, 3), (0.0005, 0.002)), ({}, (128, 128, 3), (0.0005, 0.002)),
    ({'img_size': 32}, (64, 64, 3), (0.001, 0.004)), ({'img_size': 64}, (28, 28, 1), (0.0005, 0.002)),
    ({'g_lr': 0.25}, (64, 64, 3), (0.25, 0.002)), ({'d_lr': 0.25}, (64, 64, 3), (0.0005, 0.25))])
def test_default_learning_rates_of_dcgan_are_lower_above_32_pixels(typed, native_shape, rates):
    options = resolve_shape(resolve({'network': 'dcgan', **typed}), native_shape)
    assert (options['g_lr'], options['d_lr']) == rates


def test_resolve_rates_leaves_other_networks_alone():
    options = {'network': 'resnet', 'g_lr': None, 'd_lr': 0.25}
    assert resolve_rates(options, (64, 64, 3)) == options


@pytest.mark.parametrize('given, shape', [
    ({}, (20, 28, 1)), ({'img_size': 32}, (32, 32, 1)), ({'c_dim': 3}, (20, 28, 3)),
    ({'c_dim': 3, 'img_size': 48}, (48, 48, 3))])
def test_shape_of_is_native_unless_typed(given, shape):
    assert shape_of({**ARTICLE, **given}, (20, 28, 1)) == shape


@pytest.mark.parametrize('text, name', [
    ('own', 'own'), ('own/', 'own'), ('a/b//', 'a/b'), ('/data/own.npz', '/data/own.npz'), ('../own', '../own')])
def test_parse_accepts_names_and_paths_of_data_sets(text, name):
    assert parse(['--dataset', text]) == {'dataset_name': name}
    assert parse(['--dataset', name]) == {'dataset_name': name}


@pytest.mark.parametrize('text', ['', '/', '.own', '..', 'a/' + 'x' * 101, 'a\n'])
def test_parse_refuses_invalid_names_of_data_sets(text):
    with pytest.raises(UserError, match='argument --dataset'):
        parse(['--dataset', text])


##################################################################################
# The config
##################################################################################

def test_config_has_every_option_but_those_of_a_command():
    assert set(ARTICLE) == set(ALL) - {option.name for option in OPTIONS['command']}


def test_complete_options_without_options_is_the_article():
    assert complete_options({}) == ARTICLE


def test_complete_options_fills_in_the_defaults_of_a_network():
    assert complete_options({'network': 'dcgan', 'ch': 8}) == {
        **ARTICLE, **NETWORK_DEFAULTS['dcgan'], 'network': 'dcgan', 'ch': 8}


def test_article_trains_on_mnist():
    assert ARTICLE['dataset_name'] == 'mnist'


@pytest.mark.parametrize('typed, name, value', [('dataset', 'dataset_name', 'digits'), ('z', 'z_name', 'normal')])
def test_complete_options_accepts_names_of_the_command_line(typed, name, value):
    assert complete_options({typed: value}) == {**ARTICLE, name: value}


@pytest.mark.parametrize('name', ['batchsize', 'phase', 'recipe'])
def test_complete_options_refuses_an_unknown_option(name):
    with pytest.raises(TypeError, match=f'SAGAN has no option {name}; its options are dataset_name, batch_size'):
        complete_options({name: 3})


@pytest.mark.parametrize('name, value, result', [
    ('beta1', 0, 0.), ('attention', False, 'none'), ('attention', True, 'article'), ('label', 7, '7')])
def test_complete_options_converts_a_value_to_the_type_of_its_option(name, value, result):
    converted = complete_options({name: value})[name]
    assert converted == result and type(converted) is type(result)


def config_of(image_shape=None, class_names=(), images=None, class_counts=(), **given):
    return make_config(complete_options(given), image_shape, class_names, images, class_counts=class_counts)


def test_config_gives_options_as_attributes():
    assert config_of(batch_size=7).batch_size == 7


@pytest.mark.parametrize('name', ['batch_size', 'image_shape', 'num_classes', 'batchsize'])
def test_config_is_immutable(name):
    config = config_of()
    with pytest.raises(AttributeError):
        setattr(config, name, 3)
    assert vars(config) == vars(config_of())


def test_config_replace_returns_a_changed_copy():
    config = config_of()
    changed = dataclasses.replace(config, epoch=3)
    assert (changed.epoch, config.epoch) == (3, 20)
    assert vars(changed) == {**vars(config), 'epoch': 3}


def test_config_has_the_metadata_of_the_data_set():
    config = config_of((12, 16, 1), ['a', 'b'], 300, [190, 110])
    assert (config.image_shape, config.class_names, config.images) == ((12, 16, 1), ('a', 'b'), 300)
    assert config.class_counts == (190, 110)


def test_config_has_the_native_shape_by_default():
    assert config_of(dataset='cifar10').image_shape == (32, 32, 3)


@pytest.mark.parametrize('class_names, count', [([], 0), (['a', 'b'], 2)])
def test_num_classes_counts_the_class_names(class_names, count):
    assert config_of(class_names=class_names).num_classes == count


@pytest.mark.parametrize('class_counts, label_counts', [([190, 110], (190, 110)), ([], (1, 1))])
def test_label_counts_are_equal_if_the_class_counts_are_unknown(class_counts, label_counts):
    assert config_of(class_names=['a', 'b'], class_counts=class_counts).label_counts == label_counts


@pytest.mark.parametrize('given, steps', [
    (dict(batch_size=64), 4),  # 300 // 64
    (dict(batch_size=64, n_critic=3), 1),
    (dict(batch_size=64, n_critic=5), 1),
    (dict(batch_size=64, iteration=10, n_critic=5), 10)])
def test_steps_per_epoch(given, steps):
    assert config_of(images=300, **given).steps_per_epoch == steps


def test_steps_per_epoch_is_iteration_without_a_number_of_images():
    assert config_of(iteration=10).steps_per_epoch == 10


def test_last_step_is_that_of_the_last_epoch():
    assert config_of(images=300, batch_size=64, epoch=3).last_step == 12


##################################################################################
# Incompatible options
##################################################################################

@pytest.mark.parametrize('network, height, width', [
    ('article', 4, 1024), ('article', 28, 28), ('article', 508, 512), ('dcgan', 32, 32), ('resnet', 128, 128)])
def test_check_image_size_accepts_supported_sizes(network, height, width):
    check_image_size(network, height, width)


@pytest.mark.parametrize('network, height, width, requirement', [
    ('article', 30, 28, 'a height and width that are multiples of 4, and fewer than 512 x 512 pixels'),
    ('article', 28, 1028, '.*multiples of 4'), ('article', 512, 512, '.*multiples of 4'),
    ('dcgan', 28, 28, 'square images of 32 or 64 or 128 pixels'),
    ('resnet', 32, 64, 'square images of 32 or 64 or 128 pixels')])
def test_check_image_size_refuses_other_sizes(network, height, width, requirement):
    message = f'--network {network} requires {requirement}.*, not {height} x {width}: choose another'
    with pytest.raises(UserError, match=message):
        check_image_size(network, height, width)


@pytest.mark.parametrize('batch_size, workers', [(64, 1), (64, 4), (3, 3)])
def test_check_worker_share_accepts_a_multiple(batch_size, workers):
    check_worker_share(batch_size, workers)


def test_check_worker_share_refuses_a_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match='3 workers cannot share --batch_size 64 evenly: choose a multiple of 3'):
        check_worker_share(64, 3)


##################################################################################
# The run's name
##################################################################################

@pytest.mark.parametrize('given, name', [
    ({}, 'SAGAN_mnist_64_62'),
    (dict(dataset_name='digits', batch_size=7, z_dim=3), 'SAGAN_digits_7_3'),
    (dict(dataset_name='/data/blood.npz'), 'SAGAN_blood_64_62'),
    (dict(dataset_name='EMNIST/emnist-letters'), 'SAGAN_emnist-letters_64_62'),
    (dict(dataset_name='cats.zip'), 'SAGAN_cats_64_62'),
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
    (dict(dataset_name='cats[1]*', ch=32, img_size=32), 'SAGAN_cats_1___64_62_ch32_img_size32'),
    (dict(network='dcgan', z_dim=62, g_lr=0.001, d_lr=0.004),
     'SAGAN_mnist_64_62_attentionpaper_d_lr0.004_beta10_gan_typehinge_beta20.9_znormal_sn_dcgan'),
    (dict(augment=True), 'SAGAN_mnist_64_62_augment'),
    (dict(augment='auto'), 'SAGAN_mnist_64_62'),
    (dict(name='mine', seed=3), 'mine')])
def test_run_name(given, name):
    assert run_name(complete_options(given)) == name


##################################################################################
# The options in config.json
##################################################################################

def test_check_saved_options_returns_a_written_config_unchanged():
    written = json.loads(json.dumps({**ARTICLE, 'image_shape': [28, 28, 1], 'from_the_future': 3}))
    assert check_saved_options(written, '') == (ARTICLE, {'image_shape': [28, 28, 1], 'from_the_future': 3})


def test_check_saved_options_accepts_an_integer_for_a_number():
    assert check_saved_options({'beta1': 0}, '') == ({'beta1': 0}, {})


@pytest.mark.parametrize('value, block', [(True, 'article'), (False, 'none')])
def test_check_saved_options_accepts_the_attention_of_older_runs(value, block):
    assert check_saved_options({'attention': value}, '') == ({'attention': block}, {})


@pytest.mark.parametrize('name, value', [
    ('batch_size', 'eight'), ('batch_size', '8'), ('batch_size', 8.), ('batch_size', 0), ('batch_size', None),
    ('batch_size', True), ('z_dim', -4), ('dataset_name', 7), ('dataset_name', ''), ('g_lr', 2), ('g_lr', '0.1'),
    ('g_lr', float('nan')), ('attention', 1), ('attention', 'true'), ('attention', 'PAPER'), ('sn', 1), ('label', 7),
    ('conditional', None), ('data_dir', 3), ('data_dir', []), ('ema', None), ('seed', 2**31), ('name', 'a/b'),
    ('name', 3), ('weights', 'mean')])
def test_check_saved_options_refuses_an_invalid_value(name, value):
    with pytest.raises(UserError, match=f'here/config.json: {name} is {re.escape(repr(value))}, which is not '):
        check_saved_options({'epoch': 3, name: value}, 'here/config.json')

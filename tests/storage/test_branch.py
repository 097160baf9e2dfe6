"""How training starts: resume a run, start a new run from another one, or start afresh."""

import json
import os
import sys

import pytest

from options import ARTICLE, RECIPES, UserError, complete_options, make_config, parse, resolve
from storage.branch import (
    choose_start,
    describe_changes,
    find_source,
    free_name,
    nearest_run,
    report_new_run,
    resolve_augment,
    retry_advice,
)
from storage.run import Run


def make_run(folder, *steps, best=None, age=0, **config):
    """Make the folder of a run with a config.json and empty checkpoints, saved `age` seconds before a fixed time."""
    for subfolder, numbers in ('SAGAN', steps), ('best', [] if best is None else [best]):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            index = folder / subfolder / f'SAGAN.model-{number}.index'
            index.touch()
            os.utime(index, (1e9 - age, 1e9 - age))
    (folder / 'config.json').write_text(json.dumps(config))


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Work in an empty folder, as if main.py were running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['main.py'])
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'python'))


@pytest.fixture
def checkpoints(tmp_path):
    """A checkpoint_dir with the run 'old', which has three checkpoints and a best checkpoint."""
    make_run(tmp_path / 'checkpoint' / 'old', 10, 20, 30, best=20, dataset_name='mnist', g_lr=0.5, epoch=7,
             image_shape=[28, 28, 1], sample_num=9, data_dir='elsewhere', previous_steps=4)
    return tmp_path / 'checkpoint'


##################################################################################
# The source of a new run
##################################################################################

@pytest.mark.parametrize('text, checkpoint, subfolder, steps', [
    ('old', 'latest', 'SAGAN', (30, 20, 10)),  # the others in case the newest is damaged
    ('old', 20, 'SAGAN', (20,)),
    ('old', 'best', 'best', (20,)),
    ('checkpoint/old', 'latest', 'SAGAN', (30, 20, 10)),
    ('checkpoint/old/', 10, 'SAGAN', (10,)),
    ('./checkpoint/old/SAGAN', 'latest', 'SAGAN', (30, 20, 10)),
    ('checkpoint/old/SAGAN', 'best', 'best', (20,)),
    ('checkpoint/old/best', 'latest', 'best', (20,)),
    ('checkpoint/old/SAGAN/SAGAN.model-10', 'latest', 'SAGAN', (10,)),
    ('checkpoint/old/SAGAN/SAGAN.model-10', 10, 'SAGAN', (10,)),
    ('checkpoint/old/best/SAGAN.model-20', 'latest', 'best', (20,)),
    ('checkpoint/old/SAGAN/SAGAN.model-10.index', 'latest', 'SAGAN', (10,)),
    ('checkpoint/old/SAGAN/SAGAN.model-10.data-00000-of-00001', 'latest', 'SAGAN', (10,))])
def test_find_source_finds_a_run_or_a_checkpoint(checkpoints, text, checkpoint, subfolder, steps):
    source = find_source(text, 'checkpoint', checkpoint)
    assert (source.folder, source.checkpoints, source.steps) == (
        'checkpoint/old', f'checkpoint/old/{subfolder}', steps)


def test_find_source_finds_a_run_outside_of_checkpoint_dir(checkpoints):
    source = find_source('checkpoint/old', 'empty')
    assert (source.name, source.steps) == ('old', (30, 20, 10))


def test_find_source_prefers_a_run_to_a_folder_of_the_same_name(checkpoints, tmp_path):
    (tmp_path / 'old').mkdir()
    assert find_source('old', 'checkpoint').folder == 'checkpoint/old'


def test_find_source_reads_the_options_and_the_rest_of_the_config(checkpoints):
    source = find_source('old', 'checkpoint')
    assert (source.options['g_lr'], source.image_shape, source.previous_steps) == (0.5, (28, 28, 1), 4)


def test_find_source_reads_the_name_of_a_folder_without_config(checkpoints):
    os.rename('checkpoint/old', 'SAGAN_fashion-mnist_32_100')
    os.remove('SAGAN_fashion-mnist_32_100/config.json')
    source = find_source('SAGAN_fashion-mnist_32_100/SAGAN/SAGAN.model-20', 'checkpoint')
    assert {name: value for name, value in source.options.items() if value != ARTICLE[name]} == {
        'dataset_name': 'fashion-mnist', 'batch_size': 32, 'z_dim': 100, 'name': 'SAGAN_fashion-mnist_32_100'}


def test_find_source_accepts_checkpoints_in_any_folder(checkpoints):
    os.rename('checkpoint/old/SAGAN', 'download')
    source = find_source('download', 'checkpoint')
    assert (source.folder, source.checkpoints) == ('download', 'download')
    assert (source.steps, source.metadata) == ((30, 20, 10), {})


@pytest.mark.parametrize('text, checkpoint, message', [
    ('new', 'latest', r'--from new is neither a run in checkpoint \(existing: old\) nor a folder: choose'),
    ('old', 25, r'checkpoint/old/SAGAN has no checkpoint 25 \(steps: 30, 20, 10\): choose another --checkpoint'),
    ('checkpoint', 'latest', r'checkpoint/SAGAN has no checkpoint \(steps: none\)'),
    ('checkpoint/old/SAGAN/SAGAN.model-25', 'latest', r'has no checkpoint 25 \(steps: 30, 20, 10\)'),
    ('checkpoint/old/SAGAN/SAGAN.model-20', 10, 'is the checkpoint of step 20, but --checkpoint is 10: omit'),
    ('checkpoint/old/SAGAN/SAGAN.model-20', 'best', 'is the checkpoint of step 20, but --checkpoint is best: omit')])
def test_find_source_refuses_what_does_not_exist(checkpoints, text, checkpoint, message):
    with pytest.raises(UserError, match=message):
        find_source(text, 'checkpoint', checkpoint)


def test_find_source_refuses_a_damaged_config(checkpoints):
    (checkpoints / 'old' / 'config.json').write_text('{"epoch": ')
    with pytest.raises(UserError, match='old/config.json is damaged'):
        find_source('old', 'checkpoint')


##################################################################################
# Starting a run
##################################################################################

def start(*words):
    """Return what choose_start returns for a typed command."""
    return choose_start(parse(['--phase', 'train', *map(str, words)]))


@pytest.mark.parametrize('words', [[], ['--name', 'new'], ['--recipe', 'paper', '--name', 'SAGAN_mnist_1_1']])
def test_new_run_inherits_nothing(checkpoints, words):
    typed, inherited, source = start(*words)
    assert (typed, inherited, source) == (parse(['--phase', 'train', *words]), {}, None)


def test_named_run_inherits_all_options_of_its_config(checkpoints):
    _, inherited, source = start('--name', 'old')
    assert source is None
    assert inherited == {**ARTICLE, 'g_lr': 0.5, 'epoch': 7, 'sample_num': 9, 'data_dir': 'elsewhere', 'name': 'old'}


def test_named_run_is_found_in_the_typed_checkpoint_dir(checkpoints):
    checkpoints.rename('moved')
    _, inherited, _ = start('--name', 'old', '--checkpoint_dir', 'moved')
    assert (inherited['g_lr'], inherited['checkpoint_dir']) == (0.5, 'moved')


@pytest.mark.parametrize('words', [
    ['--g_lr', 0.5], ['--dataset', 'auto'], ['--dataset', 'mnist'], ['--epoch', 9], ['--img_size', 28], ['--ema', 0]])
def test_named_run_accepts_its_own_options_and_another_schedule(checkpoints, words):
    typed, _, _ = start('--name', 'old', *words)
    assert typed['name'] == 'old'


def test_named_run_accepts_its_own_recipe(checkpoints):
    recipe = {name: value for name, value in RECIPES['paper'].items() if value is not None}
    make_run(checkpoints / 'paper', 10, **recipe, conditional=False)
    typed, inherited, _ = start('--name', 'paper', '--recipe', 'paper')
    assert 'recipe' not in typed and inherited['conditional'] is False


@pytest.mark.parametrize('words, saved', [
    (['--g_lr', 0.25], '--g_lr 0.5'), (['--seed', 3, '--sn', 'true'], '--seed 0, --sn false'),
    (['--recipe', 'paper', '--g_lr', 0.5], '--z_dim 62, --attention article, '), (['--img_size', 32], '--img_size 0')])
def test_named_run_refuses_other_options(checkpoints, words, saved):
    with pytest.raises(UserError, match=f'^checkpoint/old holds a run with {saved}.*: omit these options to resume it'):
        start('--name', 'old', *words)


def test_named_run_shows_the_command_that_branches_with_other_options(checkpoints):
    make_run(checkpoints / 'old_2')
    command = 'python main.py --phase train --from old --name old_3 --seed 3 --data_dir elsewhere'
    with pytest.raises(UserError, match=f'To start a new run instead: {command}$'):
        start('--name', 'old', '--seed', 3, '--data_dir', 'elsewhere')


def test_named_run_without_config_has_the_typed_options(checkpoints):
    (checkpoints / 'old' / 'config.json').unlink()
    typed, inherited, source = start('--name', 'old', '--seed', 3)
    assert (typed['seed'], inherited, source) == (3, {}, None)


def test_from_inherits_all_options_but_those_of_sampling_and_location(checkpoints):
    _, inherited, source = start('--from', 'old', '--name', 'new')
    assert source.steps == (30, 20, 10)
    assert (inherited['g_lr'], inherited['epoch'], inherited['img_size']) == (0.5, 7, 0)
    assert not {'sample_num', 'data_dir', 'checkpoint_dir', 'name'} & set(inherited)


def test_from_restores_the_typed_checkpoint(checkpoints):
    _, _, source = start('--from', 'old', '--checkpoint', 10, '--name', 'new')
    assert source.steps == (10,)


@pytest.mark.parametrize('words, img_size, c_dim', [
    (['--dataset', 'own'], 28, 1), (['--dataset', 'mnist'], 0, 0), (['--dataset', 'auto'], 0, 0)])
def test_from_keeps_the_shape_of_the_images_for_another_data_set(checkpoints, words, img_size, c_dim):
    _, inherited, _ = start('--from', 'old', '--name', 'new', *words)
    assert (inherited['img_size'], inherited['c_dim']) == (img_size, c_dim)


def test_from_requires_a_name(checkpoints):
    with pytest.raises(UserError, match='^--from requires the name of the new run: add --name$'):
        start('--from', 'old')


def test_from_refuses_the_name_of_another_run(checkpoints):
    make_run(checkpoints / 'other', 10)
    with pytest.raises(UserError, match='^checkpoint/other already holds a run: choose another --name'):
        start('--from', 'old', '--name', 'other')


@pytest.fixture
def branched(checkpoints):
    """A checkpoint_dir with the run 'new', which started from step 20 of the run 'old'."""
    make_run(checkpoints / 'new', 0, 5, g_lr=0.25, source='checkpoint/old', source_step=20, previous_steps=24)
    return checkpoints


SAME_SOURCE = [['old'], ['checkpoint/old'], ['old', '--checkpoint', 20], ['old', '--checkpoint', 'latest'],
               ['checkpoint/old/SAGAN/SAGAN.model-20'], ['old/SAGAN'], ['old', '--g_lr', 0.25]]
OTHER_SOURCES = [['other'], ['old', '--checkpoint', 30], ['checkpoint/old/SAGAN/SAGAN.model-30'], ['elsewhere/old']]


@pytest.mark.parametrize('words', SAME_SOURCE)
@pytest.mark.parametrize('source_exists', [True, False])
def test_repeated_command_resumes_the_new_run(branched, words, source_exists):
    if not source_exists:
        os.rename('checkpoint/old', 'deleted')
    _, inherited, source = start('--name', 'new', '--from', *words)
    assert (inherited['g_lr'], source) == (0.25, None)


def test_new_run_resumes_without_from(branched):
    _, inherited, source = start('--name', 'new')
    assert (inherited['g_lr'], source) == (0.25, None)


@pytest.mark.parametrize('words', OTHER_SOURCES)
@pytest.mark.parametrize('has_checkpoint', [True, False])
def test_another_source_is_refused(branched, tmp_path, words, has_checkpoint):
    make_run(branched / 'other', 20)
    make_run(tmp_path / 'elsewhere' / 'old', 20)
    if not has_checkpoint:
        os.rename('checkpoint/new/SAGAN', 'deleted')
    with pytest.raises(UserError, match='new already holds a run that started from checkpoint/old, step 20: choose'):
        start('--name', 'new', '--from', *words)


def test_interrupted_start_is_repeated_with_the_same_source(branched):
    os.rename('checkpoint/new/SAGAN', 'deleted')
    _, inherited, source = start('--name', 'new', '--from', 'old', '--checkpoint', 20)
    assert (source.steps, inherited['g_lr']) == ((20,), 0.5)


def test_interrupted_start_is_not_trained_from_scratch(branched):
    os.rename('checkpoint/new/SAGAN', 'deleted')
    message = 'new has no checkpoint yet .* add --from checkpoint/old --checkpoint 20, or choose another --name'
    with pytest.raises(UserError, match=message):
        start('--name', 'new')


@pytest.mark.parametrize('words, command', [
    ('', '--from old --checkpoint 10 --name old_2'),
    ('--g_lr 0.25', '--from old --checkpoint 10 --g_lr 0.25 --name old_2'),
    ('--name new', '--from old --checkpoint 10 --name new'),
    ('--name old --seed 3', '--from old --checkpoint 10 --name old_2 --seed 3'),
    ('--batch_size 7', '--from small --checkpoint 10 --batch_size 7 --name small_2'),
    ('--dataset own', '--from RUN --checkpoint 10 --dataset own --name RUN_2')])
def test_checkpoint_without_from_is_refused_with_the_command_to_type(checkpoints, words, command):
    make_run(checkpoints / 'small', 10, age=5, batch_size=7)
    with pytest.raises(UserError) as error:
        start('--checkpoint', 10, *words.split())
    assert str(error.value) == (
        '--checkpoint requires --from if --phase is train (without --from, training resumes from the newest '
        f'checkpoint). To start a new run instead: python main.py --phase train {command}')


##################################################################################
# Augmentation
##################################################################################

def augment_of(images, class_names=(), **typed):
    """Return the resolved value of augment for a command that trains on this number of images."""
    return resolve_augment(resolve({'dataset_name': 'own', **typed}), images, class_names)['augment']


@pytest.mark.parametrize('images, typed, value', [
    (4999, {}, True), (5000, {}, False), (4999, {'augment': False}, False), (5000, {'augment': True}, True)])
def test_augment_is_on_for_few_images_unless_it_is_typed(images, typed, value):
    assert augment_of(images, **typed) == value


@pytest.mark.parametrize('images, typed, output', [
    (300, {}, 'Augmentation: on, because there are fewer than 5000 training images; --augment false turns it off\n'),
    (5000, {}, ''), (300, {'augment': True}, '')])
def test_augment_is_reported_if_few_images_turn_it_on(capsys, images, typed, output):
    augment_of(images, **typed)
    assert capsys.readouterr().out == output


@pytest.mark.parametrize('folder, typed', [
    ('SAGAN_own_64_62', {}), ('SAGAN_own_64_62_conditional', {'conditional': None}), ('mine', {'name': 'mine'})])
def test_augment_stays_off_in_a_run_that_is_older_than_the_option(tmp_path, capsys, folder, typed):
    make_run(tmp_path / 'checkpoint' / folder, 10, dataset_name='own')
    assert augment_of(300, class_names=['a', 'b'], **typed) is False
    assert capsys.readouterr().out == f'Augmentation: off, because {folder} was started without it\n'


def test_augment_is_on_although_a_run_was_trained_with_augment_false(tmp_path):
    make_run(tmp_path / 'checkpoint' / 'SAGAN_own_64_62', 10, dataset_name='own', augment=False)
    assert augment_of(300) is True


@pytest.mark.parametrize('typed, value', [('', False), ('--augment true', True), ('--augment auto', 'auto')])
def test_new_run_inherits_augment_from_its_source_unless_it_is_typed(checkpoints, typed, value):
    typed, inherited, _ = start('--from', 'old', '--name', 'new', *typed.split())
    assert resolve(typed, inherited)['augment'] == value


def test_named_run_resumes_with_its_augment(checkpoints):
    make_run(checkpoints / 'few', 10, augment=True)
    typed, inherited, _ = start('--name', 'few', '--augment', 'auto')
    assert resolve(typed, inherited)['augment'] is True


##################################################################################
# Reports
##################################################################################

def config_of(image_shape=None, **options):
    return make_config(complete_options(options), image_shape)


@pytest.mark.parametrize('options, changes', [
    ({}, 'no option changed'),
    ({'d_lr': 1e-5, 'sn': True}, '--d_lr 1e-05 (was 0.0002), --sn true (was false)'),
    ({'epoch': 9, 'sample_num': 4, 'name': 'x'}, '--epoch 9 (was 7)'),
    ({'dataset_name': 'own', 'img_size': 28, 'c_dim': 1}, '--dataset own (was mnist), images of 28 x 28 x 1 as before'),
    ({'img_size': 32}, 'images of 32 x 32 x 1 (were 28 x 28 x 1)')])
def test_describe_changes_lists_what_differs_from_the_source(checkpoints, options, changes):
    config = config_of(**{'g_lr': 0.5, 'epoch': 7, **options})
    assert describe_changes(find_source('old', 'checkpoint'), config) == changes


def test_nearest_run_differs_in_the_fewest_options(checkpoints):
    make_run(checkpoints / 'near', 10, age=5, g_lr=0.25)
    make_run(checkpoints / 'fashion', 10, dataset_name='fashion-mnist', g_lr=0.25, seed=3)
    run, different = nearest_run('checkpoint', config_of(g_lr=0.25, seed=3).__dict__)
    assert (run.name, different) == ('near', ['seed'])


def test_nearest_run_prefers_the_latest_of_equally_near_runs(checkpoints):
    make_run(checkpoints / 'a', 10, age=9, g_lr=0.25)
    make_run(checkpoints / 'b', 10, age=5, g_lr=0.75)
    make_run(checkpoints / 'c', 10, age=7, g_lr=0.125)
    run, _ = nearest_run('checkpoint', vars(config_of()))
    assert run.name == 'old'  # with age 0


def test_nearest_run_ignores_damaged_runs(checkpoints):
    (checkpoints / 'old' / 'config.json').write_text('{')
    assert nearest_run('checkpoint', vars(config_of())) is None


@pytest.mark.parametrize('options, line', [
    ({'g_lr': 0.25}, 'New run SAGAN_mnist_64_62_g_lr0.25 (differs from old in --g_lr; use --from to branch)\n'),
    ({'seed': 1, 'ch': 8, 'img_size': 32, 'c_dim': 3, 'g_lr': 0.5, 'name': 'x'},
     'New run x (differs from old in --seed, --ch, --img_size and 1 more; use --from to branch)\n'),
    ({'g_lr': 0.5, 'name': 'x'}, 'New run x (has the options of old; use --from to branch)\n'),
    ({'dataset_name': 'digits'}, ''), ({'name': 'old', 'g_lr': 0.5}, '')])
def test_report_new_run_names_the_nearest_run(checkpoints, capsys, options, line):
    config = config_of(**options)
    report_new_run(config, Run(config))
    assert capsys.readouterr().out == line


def test_retry_advice_starts_from_the_newest_checkpoint_with_half_the_rates(checkpoints):
    config = config_of(name='old', g_lr=0.5, data_dir='my data', sample_num=9)
    typed = {'workers': 2, 'g_lr': 0.5, 'name': 'old', 'recipe': 'paper'}
    assert retry_advice(config, Run(config), typed) == (
        'To start a new run from step 30 with lower learning rates: python main.py --phase train --from old '
        "--checkpoint 30 --workers 2 --sample_num 9 --name old_2 --data_dir 'my data' --g_lr 0.25 --d_lr 0.0001")


def test_retry_advice_without_a_checkpoint_repeats_the_command(checkpoints):
    config = config_of(name='new', g_lr=0.5)
    assert retry_advice(config, Run(config), {'g_lr': 0.5, 'name': 'new', 'sn': True}) == (
        'To start again with lower learning rates: python main.py --g_lr 0.25 --name new --sn true --d_lr 0.0001')


@pytest.mark.parametrize('name, result', [
    ('new', 'new_2'), ('old', 'old_4'), ('SAGAN_my cats_64', 'SAGAN_my_cats_64_2'), ('...', 'run_2'),
    ('a' * 100, 'a' * 90 + '_2')])
def test_free_name_is_a_valid_name_that_does_not_exist(checkpoints, name, result):
    for number in 2, 3:
        make_run(checkpoints / f'old_{number}')
    assert free_name(name, 'checkpoint') == result
    assert parse(['--name', result])

"""A run on disk: its folders, lock and config.json, and the search for trained runs."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import ROOT, snapshot

from options import ARTICLE, UserError, complete_options, make_config
from storage.run import (
    Run,
    RunNotFound,
    checkpoint_steps,
    find_runs,
    image_shape_of,
    read_config,
    read_metadata,
    report_unknown_keys,
)


@pytest.fixture
def config(tmp_path):
    """The Config of a run under tmp_path."""
    folders = {'checkpoint_dir': str(tmp_path / 'c'), 'result_dir': str(tmp_path / 'r'), 'log_dir': str(tmp_path / 'l')}
    return make_config(complete_options({'name': 'it', **folders}), class_names=['a', 'b'], images=300,
                       class_counts=[190, 110])


@pytest.fixture
def run(config):
    """The run of this Config. The run has no folder yet."""
    return Run(config)


def make_run(folder, age=0, config=None):
    """Make the folder of a run with a checkpoint of step 5, saved `age` seconds before a fixed time."""
    (folder / 'SAGAN').mkdir(parents=True)
    index = folder / 'SAGAN' / 'SAGAN.model-5.index'
    index.touch()
    os.utime(index, (1e9 - age, 1e9 - age))
    if config is not None:
        (folder / 'config.json').write_text(json.dumps(config))


##################################################################################
# Folders
##################################################################################

def test_run_names_its_folders_after_the_options(tmp_path):
    run = Run(make_config(complete_options({'seed': 3, 'checkpoint_dir': str(tmp_path)})))
    assert (run.folder, run.results, run.logs) == (
        f'{tmp_path}/SAGAN_mnist_64_62_seed3', 'results/SAGAN_mnist_64_62_seed3', 'logs/SAGAN_mnist_64_62_seed3')


def test_run_creates_no_folder(run, tmp_path):
    assert run.name == 'it'
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix, name', [('', 'SAGAN_curves.png'), ('_best', 'SAGAN_curves_best.png')])
def test_result_path_has_the_prefix_and_the_suffix(run, tmp_path, suffix, name):
    assert run.result_path('curves.png', suffix) == str(tmp_path / 'r' / 'it' / name)


def test_checkpoint_steps_are_sorted_from_the_newest(tmp_path):
    for step in 9, 100, 20:
        (tmp_path / f'SAGAN.model-{step}.index').touch()
    assert checkpoint_steps(tmp_path) == [100, 20, 9]


@pytest.mark.parametrize('name', ['SAGAN.model-7.data-00000-of-00001', 'SAGAN.model-x.index', 'other.model-7.index',
                                  'SAGAN.model-7.index.tempstate1'])
def test_checkpoint_steps_ignore_other_files(tmp_path, name):
    (tmp_path / name).touch()
    assert checkpoint_steps(tmp_path) == []


def test_checkpoint_steps_of_a_missing_folder_are_empty(tmp_path):
    assert checkpoint_steps(tmp_path / 'missing') == []


##################################################################################
# The lock
##################################################################################

HOLD = ("import sys, time; from options import complete_options, make_config; from storage.run import Run\n"
        "config = make_config(complete_options({'name': 'it', 'checkpoint_dir': sys.argv[1]}))\n"
        "with Run(config).locked():\n"
        "    print('locked', flush=True); time.sleep(1000)")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the run."""
    with subprocess.Popen([sys.executable, '-c', HOLD, tmp_path / 'c'], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b'locked\n'
        yield process
        process.kill()


@pytest.fixture
def lock_holder(tmp_path):
    """The file that names the process that holds the lock."""
    return tmp_path / 'c' / 'it' / 'lock_holder.txt'


def test_locked_names_the_process_that_holds_the_lock(run, lock_holder):
    with run.locked():
        assert lock_holder.read_text() == f'process {os.getpid()} on {os.uname().nodename}\n'


def test_locked_removes_the_name_after_the_context(run, lock_holder):
    with run.locked():
        pass
    assert not lock_holder.exists()


def test_locked_refuses_a_run_that_an_older_version_is_training(run):
    """Older versions lock the run only with flock, which Windows lacks."""
    fcntl = pytest.importorskip('fcntl')
    folder = pathlib.Path(run.folder)
    folder.mkdir(parents=True)
    with open(folder / 'lock', 'a+') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='is being trained by another process: wait'), run.locked():
            pass


def test_locked_is_respected_by_older_versions(run):
    fcntl = pytest.importorskip('fcntl')
    with run.locked(), open(f'{run.folder}/lock', 'a+') as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_locked_refuses_a_second_process(run, holder):
    message = f'it is being trained by process {holder.pid} on .*: wait .*--name'
    with pytest.raises(UserError, match=message), run.locked():
        pass


def test_locked_leaves_the_disk_unchanged_if_the_run_is_locked(run, holder, tmp_path):
    (tmp_path / 'c' / 'it' / 'config.json.part').touch()
    before = snapshot(tmp_path)
    with pytest.raises(UserError), run.locked():
        pass
    assert snapshot(tmp_path) == before


def test_locked_succeeds_after_the_holder_was_killed(run, holder, lock_holder):
    holder.kill()
    holder.wait()
    with run.locked():
        assert lock_holder.read_text() == f'process {os.getpid()} on {os.uname().nodename}\n'


def test_locked_succeeds_after_an_error_in_the_context(run):
    with pytest.raises(ZeroDivisionError), run.locked():
        raise ZeroDivisionError
    with run.locked():
        pass


@pytest.fixture
def leftovers(run):
    """The temporary files of a killed process in all folders of the run."""
    killed = subprocess.Popen(['true'])
    killed.wait()
    folder, results = pathlib.Path(run.folder), pathlib.Path(run.results)
    paths = [results / 'SAGAN_curves.png.part', results / f'SAGAN_curves.png.{killed.pid}.part',
             results / f'samples.{killed.pid}.part' / '0.png', folder / f'config.json.{killed.pid}.part',
             folder / 'SAGAN' / 'SAGAN.model-20.data-00000-of-00001.tempstate123',
             folder / 'best' / 'SAGAN.model-20.index.tempstate9', folder / 'SAGAN' / 'checkpoint.tmp4',
             pathlib.Path(run.snapshots, f'3.npz.{killed.pid}.part')]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_locked_removes_what_a_killed_process_left(run, leftovers):
    with run.locked():
        assert [path for path in leftovers if path.exists()] == []


def test_locked_removes_a_folder_that_a_killed_process_left(run, leftovers):
    with run.locked():
        assert not leftovers[2].parent.exists()


def test_locked_keeps_complete_files_and_those_of_running_processes(run):
    results, checkpoints = pathlib.Path(run.results), pathlib.Path(run.folder, 'SAGAN')
    paths = [results / 'SAGAN_curves.png', checkpoints / 'SAGAN.model-20.index', checkpoints / 'checkpoint',
             results / 'SAGAN_test_000.png.1.part']  # process 1 is running
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with run.locked():
        assert all(path.exists() for path in paths)


##################################################################################
# config.json
##################################################################################

@pytest.fixture
def trained_run(run):
    """The run with a checkpoint, but without a config.json."""
    make_run(pathlib.Path(run.folder))
    return run


def change(run, **values):
    """Replace values of the run's config.json."""
    path = pathlib.Path(run.config_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_write_config_writes_options_and_metadata_of_the_data_set(run, config):
    os.makedirs(run.folder)
    run.write_config(config)
    written = json.loads(pathlib.Path(run.config_path).read_text())
    options = {name: getattr(config, name) for name in ARTICLE}
    assert written == {**options, 'image_shape': [28, 28, 1], 'class_names': ['a', 'b'], 'images': 300,
                       'class_counts': [190, 110], 'reading': [], 'digest': None, 'source': None, 'source_step': None,
                       'previous_steps': 0}


@pytest.mark.parametrize('saved, is_older', [(None, True), ({'epoch': 3}, True), ({'augment': False}, False)], ids=str)
def test_run_with_a_checkpoint_is_older_than_augment_if_its_config_lacks_it(run, saved, is_older):
    make_run(pathlib.Path(run.folder), config=saved)
    assert run.is_older_than_augment() == is_older


def test_run_without_a_checkpoint_is_not_older_than_augment(run):
    assert not run.is_older_than_augment()


def test_write_config_keeps_an_older_run_without_augment(trained_run, config):
    trained_run.write_config(config)
    assert 'augment' not in json.loads(pathlib.Path(trained_run.config_path).read_text())


def test_write_config_keeps_unknown_keys(trained_run, config):
    trained_run.write_config(config)
    change(trained_run, colour='red', epoch=3)
    trained_run.write_config(config)
    written = json.loads(pathlib.Path(trained_run.config_path).read_text())
    assert (written['colour'], written['epoch']) == ('red', 20)


def test_write_config_replaces_the_metadata_of_the_data_set(trained_run, config):
    trained_run.write_config(config)
    change(trained_run, images=5, class_names=['c'], class_counts=[5])
    trained_run.write_config(config)
    written = json.loads(pathlib.Path(trained_run.config_path).read_text())
    assert (written['images'], written['class_names'], written['class_counts']) == (300, ['a', 'b'], [190, 110])


def test_read_config_returns_options_and_the_rest(tmp_path):
    (tmp_path / 'config.json').write_text('{"z_dim": 7, "attention": false, "colour": "red", "images": 3}')
    assert read_config(tmp_path / 'config.json') == ({'z_dim': 7, 'attention': 'none'}, {'colour': 'red', 'images': 3})


@pytest.mark.parametrize('content', [
    b'', b'{"epoch": ', b'[]x', b'3', b'"text"', b'\0', b'\xff', b'[' * 200000, b'{"class_names": [1]}',
    b'{"class_names": 3}', b'{"reading": [1]}', b'{"image_shape": [28, 28]}', b'{"image_shape": [28, 0, 1]}',
    b'{"image_shape": 7}', *(b'{"class_names": ["a", "b"], "class_counts": %s}' % counts for counts in (
        b'3', b'null', b'"12"', b'[1]', b'[1, -1]', b'[0, 0]', b'[1, 0.5]', b'[1, true]', b'[1, 2147483648]'))],
    ids=range(23))
def test_read_config_refuses_a_damaged_file(tmp_path, content):
    path = tmp_path / 'config.json'
    path.write_bytes(content)
    with pytest.raises(UserError, match='config.json is damaged .*: correct or delete it'):
        read_config(path)


def test_read_config_refuses_a_wrong_value(tmp_path):
    (tmp_path / 'config.json').write_text('{"z_dim": "many"}')
    with pytest.raises(UserError, match="config.json: z_dim is 'many', which is not an integer from 1"):
        read_config(tmp_path / 'config.json')


def test_report_unknown_keys_prints_them_in_one_line(capsys):
    report_unknown_keys('folder', {'size': 3, 'colour': 'red'})
    assert capsys.readouterr().out == 'folder/config.json has unknown keys, which are ignored: colour, size\n'


def test_report_unknown_keys_is_silent_about_the_metadata_of_the_data_set(capsys):
    report_unknown_keys('folder', {'image_shape': [28, 28, 1], 'images': 300, 'class_names': ['a'],
                                   'class_counts': [300]})
    assert capsys.readouterr().out == ''


def test_check_config_accepts_a_run_without_a_folder(run, config):
    run.check_config(config)


def test_check_config_accepts_other_options_without_a_checkpoint(run, config):
    os.makedirs(run.folder)
    run.write_config(config)
    change(run, seed=3)
    run.check_config(config)


def test_check_config_refuses_other_options(trained_run, config):
    trained_run.write_config(config)
    change(trained_run, seed=3, attention='none')
    with pytest.raises(UserError, match='it holds a run with --attention none, --seed 3: use .*--name'):
        trained_run.check_config(config)


def test_check_config_gives_missing_options_the_values_of_the_article(trained_run, config):
    pathlib.Path(trained_run.config_path).write_text('{}')
    trained_run.check_config(config)


def test_check_config_that_refuses_leaves_the_disk_as_it_was(trained_run, config, tmp_path):
    trained_run.write_config(config)
    change(trained_run, seed=3)
    before = snapshot(tmp_path)
    with pytest.raises(UserError):
        trained_run.check_config(config)
    assert snapshot(tmp_path) == before


def test_check_config_accepts_another_schedule(trained_run, config, capsys):
    trained_run.write_config(config)
    change(trained_run, epoch=3, save_freq=2, sample_num=5, data_dir='elsewhere')
    trained_run.check_config(config)
    assert capsys.readouterr().out == ''


def test_check_config_reports_unknown_keys(trained_run, config, capsys):
    trained_run.write_config(config)
    change(trained_run, colour='red')
    trained_run.check_config(config)
    assert capsys.readouterr().out == f'{trained_run.config_path} has unknown keys, which are ignored: colour\n'


@pytest.mark.parametrize('names, listed', [(['a', 'c'], 'a, c'), ([], 'none')])
def test_check_config_refuses_other_classes(trained_run, config, names, listed):
    trained_run.write_config(config)
    change(trained_run, class_names=names, class_counts=[])
    with pytest.raises(UserError, match=f'holds a run with the classes {listed}, but the data set has a, b: .*--name'):
        trained_run.check_config(config)


@pytest.mark.parametrize('saved, before', [
    ([], 'as in earlier versions of this program'), (['npz file'], 'npz file')])
def test_check_config_refuses_another_reading_of_the_data_set(trained_run, config, saved, before):
    trained_run.write_config(config)
    change(trained_run, reading=saved, class_names=['train', 'valid'], images=7)
    now = dataclasses.replace(config, reading=('splits train/ and valid/', '12-bit values'))
    with pytest.raises(UserError, match=f'it cannot resume .its data set is read differently; before: {before}; now: '
                                        'splits train/ and valid/, 12-bit values.: .* --from it --name NEW'):
        trained_run.check_config(now)


def test_check_config_treats_old_runs_as_having_no_reading(trained_run, config):
    pathlib.Path(trained_run.config_path).write_text('{}')
    with pytest.raises(UserError, match='cannot resume'):
        trained_run.check_config(dataclasses.replace(config, reading=('12-bit values',)))


def test_check_config_refuses_another_image_shape(trained_run, config):
    trained_run.write_config(config)
    change(trained_run, image_shape=[20, 28, 1])
    with pytest.raises(UserError, match='images of 20 x 28 x 1, but .* are 28 x 28 x 1: .*--name'):
        trained_run.check_config(config)


def test_read_metadata_returns_the_metadata_in_config_json(run, config, trained_run):
    trained_run.write_config(config)
    change(trained_run, colour='red')
    assert read_metadata(vars(config)) == {'image_shape': [28, 28, 1], 'class_names': ['a', 'b'],
                                           'class_counts': [190, 110], 'images': 300, 'reading': [],
                                           'digest': None}


def test_read_metadata_without_a_config_json_is_none(config):
    assert read_metadata(vars(config)) is None


def test_check_config_reports_a_different_number_of_images(trained_run, config, capsys):
    trained_run.write_config(config)
    change(trained_run, images=299)
    trained_run.check_config(config)
    assert capsys.readouterr().out == 'The training split has 300 images; it had 299 before\n'


##################################################################################
# Finding runs
##################################################################################

def names_of_runs(folder, **wanted):
    """Return the names of the runs that have the wanted options."""
    return [run.name for run in find_runs(folder, wanted)]


@pytest.fixture
def three_runs(tmp_path):
    """A folder with three runs, made in the order in which they were trained."""
    make_run(tmp_path / 'SAGAN_mnist_64_62', 30, {'z_dim': 62, 'seed': 0})
    make_run(tmp_path / 'SAGAN_mnist_64_9', 20, {'z_dim': 9, 'seed': 0})
    make_run(tmp_path / 'SAGAN_mnist_64_9_seed1', 10, {'z_dim': 9, 'seed': 1})
    return tmp_path


@pytest.mark.parametrize('wanted, names', [
    ({}, ['SAGAN_mnist_64_9_seed1', 'SAGAN_mnist_64_9', 'SAGAN_mnist_64_62']),
    ({'z_dim': 9}, ['SAGAN_mnist_64_9_seed1', 'SAGAN_mnist_64_9']),
    ({'z_dim': 62}, ['SAGAN_mnist_64_62']),
    ({'z_dim': 9, 'seed': 0}, ['SAGAN_mnist_64_9']),
    ({'name': 'SAGAN_mnist_64_9'}, ['SAGAN_mnist_64_9'])])
def test_find_runs_returns_matching_runs_most_recently_trained_first(three_runs, wanted, names):
    assert names_of_runs(three_runs, **wanted) == names


def test_find_runs_refuses_options_that_no_run_has(three_runs):
    with pytest.raises(RunNotFound, match=r'^no trained run with --z_dim 10 --sn true in .*SAGAN_mnist_64_9.*train'):
        find_runs(three_runs, {'z_dim': 10, 'sn': True})


def test_find_runs_lists_at_most_three_runs(three_runs):
    make_run(three_runs / 'mine', 40, {'seed': 2})
    with pytest.raises(RunNotFound, match=r'existing: SAGAN_mnist_64_9_seed1, \S+, \S+ and 1 more\)'):
        find_runs(three_runs, {'seed': 7})


@pytest.mark.parametrize('folder', ['', 'missing'])
def test_find_runs_refuses_a_folder_without_runs(tmp_path, folder):
    with pytest.raises(RunNotFound, match=r'^no trained run in .* \(existing: none\): train one first, with --phase'):
        find_runs(tmp_path / folder, {})


def test_find_runs_ignores_runs_without_a_checkpoint(three_runs):
    (three_runs / 'SAGAN_mnist_64_10' / 'SAGAN').mkdir(parents=True)
    assert len(names_of_runs(three_runs)) == 3


def test_find_runs_ignores_folders_that_are_not_runs(three_runs):
    (three_runs / 'classifier_mnist').mkdir()
    make_run(three_runs / 'stranger')  # neither a config.json nor a name in the format of older repositories
    assert len(names_of_runs(three_runs)) == 3


def test_find_runs_returns_all_options_of_a_run(tmp_path):
    make_run(tmp_path / 'mine', config={'seed': 3, 'batch_size': 8})
    assert find_runs(tmp_path, {})[0].options == {**ARTICLE, 'seed': 3, 'batch_size': 8, 'name': 'mine'}


def test_find_runs_returns_the_rest_of_config_json(tmp_path):
    make_run(tmp_path / 'mine', config={'seed': 3, 'colour': 'red', 'class_names': ['a']})
    assert find_runs(tmp_path, {})[0].metadata == {'colour': 'red', 'class_names': ['a']}


def test_find_runs_returns_when_a_run_was_trained(tmp_path):
    make_run(tmp_path / 'mine', age=10, config={})
    assert find_runs(tmp_path, {})[0].trained == 1e9 - 10


def test_find_runs_reads_the_folder_name_without_a_config_json(tmp_path):
    name = 'SAGAN_fashion-mnist_32_100'
    make_run(tmp_path / name)
    assert find_runs(tmp_path, {})[0].options == {
        **ARTICLE, 'dataset_name': 'fashion-mnist', 'batch_size': 32, 'z_dim': 100, 'name': name}


def test_find_runs_names_a_run_after_its_folder(tmp_path):
    make_run(tmp_path / 'SAGAN_mnist_64_62', config={'attention': 'none', 'name': 'before'})  # renamed by hand
    run, = find_runs(tmp_path, {'attention': 'none'})
    assert (run.name, run.options['name']) == ('SAGAN_mnist_64_62', 'SAGAN_mnist_64_62')


def test_find_runs_gives_a_missing_option_the_value_of_the_article(tmp_path):
    make_run(tmp_path / 'old', config={'seed': 3})
    make_run(tmp_path / 'new', config={'seed': 3, 'lr_decay': 'linear'})
    assert names_of_runs(tmp_path, lr_decay='none') == ['old']


@pytest.mark.parametrize('saved, wanted', [(0, 28), (28, 0), (28, 28)])
def test_find_runs_treats_the_native_image_size_as_0(tmp_path, saved, wanted):
    make_run(tmp_path / 'mine', config={'img_size': saved})
    assert names_of_runs(tmp_path, img_size=wanted) == ['mine']


@pytest.fixture
def kmnist_run(tmp_path):
    """A folder with a run of a data set that is not built in and has 28 x 28 x 1 images."""
    make_run(tmp_path / 'mine', config={'dataset_name': 'kmnist', 'image_shape': [28, 28, 1]})
    return tmp_path


@pytest.mark.parametrize('wanted', [{'img_size': 28}, {'img_size': 0}, {'c_dim': 1}])
def test_find_runs_takes_the_native_image_size_from_config_json(kmnist_run, wanted):
    assert names_of_runs(kmnist_run, **wanted) == ['mine']


@pytest.mark.parametrize('wanted', [{'img_size': 64}, {'c_dim': 3}])
def test_find_runs_refuses_a_size_that_is_not_native(kmnist_run, wanted):
    with pytest.raises(RunNotFound):
        find_runs(kmnist_run, wanted)


@pytest.fixture
def one_damaged(tmp_path):
    """A folder with the runs a and b. The config.json of b is damaged."""
    make_run(tmp_path / 'a', 10, {})
    make_run(tmp_path / 'b', 0)
    (tmp_path / 'b' / 'config.json').write_text('{"epoch": ')
    return tmp_path


@pytest.mark.parametrize('wanted', [{}, {'name': 'b'}, {'seed': 0}], ids=['any', 'named', 'by option'])
def test_find_runs_refuses_a_damaged_config(one_damaged, wanted):
    with pytest.raises(UserError, match='b/config.json is damaged'):
        find_runs(one_damaged, wanted)


def test_find_runs_ignores_a_damaged_config_of_a_run_that_is_not_wanted(one_damaged):
    assert names_of_runs(one_damaged, name='a') == ['a']


@pytest.mark.parametrize('options, metadata, shape', [
    ({}, {}, (28, 28, 1)), ({'img_size': 32, 'c_dim': 3}, {}, (32, 32, 3)),
    ({}, {'image_shape': [20, 28, 1]}, (20, 28, 1))])
def test_image_shape_follows_from_the_options_if_config_json_lacks_it(options, metadata, shape):
    assert image_shape_of({**ARTICLE, **options}, metadata) == shape

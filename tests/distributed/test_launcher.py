import json
import os
import signal
import socket
import sys

import pytest
from helpers import linux_only

import system
from distributed import launcher
from distributed.launcher import (
    EXIT_LOST,
    check_port,
    check_workers,
    read_task,
    start_workers,
    wait_for_chief,
)
from options import UserError


def set_tf_config(monkeypatch, cluster, task_type, index):
    monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': cluster, 'task': {'type': task_type, 'index': index}}))


##################################################################################
# TF_CONFIG
##################################################################################

def test_read_task_without_tf_config_is_a_single_process(monkeypatch):
    monkeypatch.delenv('TF_CONFIG', raising=False)
    assert read_task() == ((), 0)


def test_read_task_with_an_empty_tf_config_is_a_single_process(monkeypatch):
    monkeypatch.setenv('TF_CONFIG', '')
    assert read_task() == ((), 0)


@pytest.mark.parametrize('index', [0, 1])
def test_read_task_of_workers(monkeypatch, index):
    set_tf_config(monkeypatch, {'worker': ['a:1', 'b:2']}, 'worker', index)
    assert read_task() == (['a:1', 'b:2'], index)


@pytest.mark.parametrize('task_type, index, expected', [('chief', 0, 0), ('worker', 0, 1), ('worker', 1, 2)])
def test_read_task_counts_the_chief_first(monkeypatch, task_type, index, expected):
    set_tf_config(monkeypatch, {'worker': ['b:2', 'c:3'], 'chief': ['a:1']}, task_type, index)
    assert read_task() == (['a:1', 'b:2', 'c:3'], expected)


def test_read_task_accepts_an_index_in_quotes(monkeypatch):
    set_tf_config(monkeypatch, {'worker': ['a:1', 'b:2']}, 'worker', '1')
    assert read_task() == (['a:1', 'b:2'], 1)


@pytest.mark.parametrize('text', [
    'not JSON',
    '[]',
    '{"cluster": {"worker": ["a:1"]}}',
    '{"cluster": {"worker": 1}, "task": {"type": "worker", "index": 0}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "x"}}',
    '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0.9}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1e999}}'])
def test_read_task_rejects_other_forms(monkeypatch, text):
    monkeypatch.setenv('TF_CONFIG', text)
    with pytest.raises(UserError, match=r'TF_CONFIG is not valid \(.*\): write {"cluster": '):
        read_task()


@pytest.mark.parametrize('address', ['a', 'a:', 'a:0', 'b:65536', 'a b:1', '::1:2', 'http://a:1', 3, None])
def test_read_task_rejects_an_address_without_host_and_port(monkeypatch, address):
    set_tf_config(monkeypatch, {'worker': [address]}, 'worker', 0)
    with pytest.raises(UserError, match=f'the address {address}, which is not of the form host:port'):
        read_task()


def test_read_task_accepts_the_highest_port(monkeypatch):
    set_tf_config(monkeypatch, {'worker': ['a:65535']}, 'worker', 0)
    assert read_task() == (['a:65535'], 0)


@pytest.mark.parametrize('cluster', [{'worker': ['a:1', 'a:1']}, {'chief': ['a:1'], 'worker': ['a:1']}])
def test_read_task_rejects_an_address_that_is_listed_twice(monkeypatch, cluster):
    set_tf_config(monkeypatch, cluster, 'worker', 0)
    with pytest.raises(UserError, match='the address a:1 twice'):
        read_task()


@pytest.mark.parametrize('workers, index', [(2, 2), (2, -1), (0, 0)])
def test_read_task_rejects_an_index_out_of_range(monkeypatch, workers, index):
    set_tf_config(monkeypatch, {'worker': ['a:1', 'b:1'][:workers]}, 'worker', index)
    with pytest.raises(UserError, match=rf'no worker {index} \(the cluster has {workers} of this type'):
        read_task()


@pytest.mark.parametrize('task_type, index, expected', [('master', 0, 0), ('worker', 0, 1)])
def test_read_task_treats_the_master_as_the_chief(monkeypatch, task_type, index, expected):
    set_tf_config(monkeypatch, {'worker': ['b:2'], 'master': ['a:1']}, task_type, index)
    assert read_task() == (['a:1', 'b:2'], expected)


@pytest.mark.parametrize('task_type', ['ps', 'evaluator'])
def test_read_task_of_a_task_that_does_not_train(monkeypatch, task_type):
    set_tf_config(monkeypatch, {'worker': ['a:1'], 'ps': ['c:1']}, task_type, 0)
    assert read_task() == (['a:1'], None)


@pytest.mark.parametrize('task_type', ['ps', 'evaluator'])
def test_main_ends_if_its_task_does_not_train(run_main, monkeypatch, tmp_path, task_type):
    set_tf_config(monkeypatch, {'worker': ['a:1', 'b:1'], 'ps': ['c:1']}, task_type, 0)
    code, out, err = run_main('--phase', 'train')
    assert (code, err) == (0, '') and 'nothing to do' in out
    assert not list(tmp_path.iterdir())


def test_read_task_rejects_other_task_types(monkeypatch):
    set_tf_config(monkeypatch, {'worker': ['a:1']}, 'tpu', 0)
    with pytest.raises(UserError, match='a task of type tpu: choose chief or worker'):
        read_task()


def test_read_task_accepts_ipv6_addresses(monkeypatch):
    set_tf_config(monkeypatch, {'worker': ['[::1]:1', '[fe80::1%eth0]:2']}, 'worker', 1)
    assert read_task() == (['[::1]:1', '[fe80::1%eth0]:2'], 1)


def test_read_task_rejects_two_chiefs(monkeypatch):
    set_tf_config(monkeypatch, {'chief': ['a:1', 'b:1']}, 'chief', 0)
    with pytest.raises(UserError, match='2 chiefs: list at most one'):
        read_task()


##################################################################################
# Ports
##################################################################################

def test_check_port_accepts_a_free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    check_port(f'a-host-of-any-name:{port}')


def test_check_port_rejects_a_port_in_use():
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f'cannot listen on the port of a:{port} \\(Address already in use\\)'):
            check_port(f'a:{port}')


def test_wait_for_chief_returns_once_the_chief_listens():
    with socket.create_server(('127.0.0.1', 0)) as server:
        wait_for_chief(f'127.0.0.1:{server.getsockname()[1]}')


def test_wait_for_chief_understands_ipv6_addresses():
    if not socket.has_dualstack_ipv6():
        pytest.skip('this machine has no IPv6')
    with socket.create_server(('::1', 0), family=socket.AF_INET6) as server:
        wait_for_chief(f'[::1]:{server.getsockname()[1]}')


def test_wait_for_chief_waits_for_a_host_name_that_resolves_later(monkeypatch):
    answers = [socket.gaierror(), socket.create_server(('127.0.0.1', 0))]

    def connect(address, timeout):
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(socket, 'create_connection', connect)
    wait_for_chief('pod-0.sagan:1')
    assert not answers


##################################################################################
# --workers
##################################################################################

# The beginning of each test script. starts() counts how often this worker has been started.
PRELUDE = '''
import json, os, pathlib, signal, sys, time
index = json.loads(os.environ['TF_CONFIG'])['task']['index']

def starts():
    count = len(list(pathlib.Path().glob(f'start_{index}_*'))) + 1
    pathlib.Path(f'start_{index}_{count}').touch()
    return count
'''


@pytest.fixture
def run_script(tmp_path, monkeypatch, capfd):
    """A function that starts workers that run a script instead of main.py.

    It returns (exit code, output, errors).
    """
    if system.is_windows():
        pytest.skip('--workers is not supported on Windows')
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(script, count=2, options=()):
        (tmp_path / 'script.py').write_text(PRELUDE + script)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['script.py', '--typed'])
        code = start_workers(count, 10, list(options))
        return code, *capfd.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_start_workers_gives_each_worker_its_task(run_script, tmp_path):
    code, _, _ = run_script("pathlib.Path(f'{index}.json').write_text(os.environ['TF_CONFIG'])", count=3)
    configs = [json.loads((tmp_path / f'{index}.json').read_text()) for index in range(3)]
    assert code == 0
    assert [config['task'] for config in configs] == [{'type': 'worker', 'index': index} for index in range(3)]
    assert configs[0]['cluster'] == configs[1]['cluster'] == configs[2]['cluster']
    assert len(set(configs[0]['cluster']['worker'])) == 3


def test_start_workers_passes_the_command_and_more_options(run_script):
    _, out, _ = run_script('print(sys.argv)', count=1, options=['--dataset=mnist'])
    assert out == "['script.py', '--typed', '--dataset=mnist']\n"


@linux_only
def test_start_workers_gives_each_worker_its_share_of_the_cores(run_script, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    run_script("pathlib.Path(str(index)).write_text(json.dumps(sorted(os.sched_getaffinity(0))))")
    shares = [json.loads((tmp_path / str(index)).read_text()) for index in (0, 1)]
    if len(cores) == 1:
        assert shares == [cores, cores]
    else:
        assert shares == [cores[:len(cores) // 2], cores[len(cores) // 2:]]


def test_start_workers_runs_on_systems_without_affinity(run_script, monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(system, 'is_linux', lambda: False)
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    assert run_script('print(index)', count=1) == (0, '0\n', '')


@pytest.mark.parametrize('is_windows, count', [(True, 1), (False, 2)])
def test_check_workers_accepts(monkeypatch, is_windows, count):
    monkeypatch.setattr(launcher, 'is_windows', lambda: is_windows)
    check_workers(count)


@pytest.mark.parametrize('visible, expected', [(None, ['0', '1', '2']), ('4,7', ['4', '7', '4'])])
def test_start_workers_gives_each_worker_a_gpu(run_script, tmp_path, monkeypatch, visible, expected):
    if visible is None:
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    else:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    run_script("pathlib.Path(str(index)).write_text(os.environ['CUDA_VISIBLE_DEVICES'])", count=3)
    assert [(tmp_path / str(index)).read_text() for index in range(3)] == expected


def test_start_workers_restarts_all_if_one_is_lost(run_script, tmp_path):
    script = '''
if starts() == 1:
    if index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(138)
'''
    code, _, err = run_script(script)
    assert code == 0
    assert err == 'main.py: a worker was lost (exit codes 138, -9): restarting all workers\n'
    assert len(list(tmp_path.glob('start_0_*'))) == len(list(tmp_path.glob('start_1_*'))) == 2


@pytest.mark.slow
def test_start_workers_gives_up_after_4_starts(run_script, tmp_path):
    code, _, err = run_script('starts(); sys.exit(138)')
    assert code == EXIT_LOST == 138
    assert len(list(tmp_path.glob('start_0_*'))) == 4
    assert err.splitlines()[-1] == ('main.py: a worker was lost (exit codes 138, 138): run the same command again to '
                                    'resume')


def test_start_workers_does_not_restart_after_an_error(run_script, tmp_path):
    code, _, _ = run_script('starts(); sys.exit([2, 138][index])')
    assert code == 2
    assert len(list(tmp_path.glob('start_0_*'))) == 1


def test_start_workers_prints_an_error_of_all_workers_once(run_script):
    code, _, err = run_script("print('an error', file=sys.stderr); sys.exit(2)")
    assert (code, err) == (2, 'an error\n')


def test_start_workers_prints_the_error_of_a_single_worker(run_script):
    script = '''
if index == 1:
    print('an error of worker 1', file=sys.stderr)
sys.exit([138, 2][index])
'''
    assert run_script(script) == (2, '', 'an error of worker 1\n')


def test_start_workers_does_not_print_the_warnings_of_other_workers(run_script):
    assert run_script("print('a warning', file=sys.stderr)")[2] == 'a warning\n'


@pytest.mark.parametrize('name, expected', [('SIGINT', 130), ('SIGTERM', 143)])
def test_start_workers_forwards_a_signal_to_all(run_script, tmp_path, name, expected):
    """Worker 1 sends the signal to its parent process once worker 0 is ready."""
    script = f'''
def stop(number, frame):
    pathlib.Path(f'stopped_{{index}}').touch()
    sys.exit(128 + number)

signal.signal(signal.{name}, stop)
if index == 0:
    pathlib.Path('ready').touch()
else:
    while not pathlib.Path('ready').exists():
        time.sleep(0.01)
    os.kill(os.getppid(), signal.{name})
while True:
    signal.pause()
'''
    code, _, _ = run_script(script)
    assert code == expected
    assert (tmp_path / 'stopped_0').exists() and (tmp_path / 'stopped_1').exists()


def test_start_workers_does_not_restart_workers_that_a_signal_has_ended(run_script, tmp_path):
    """Until training installs its signal handlers, SIGTERM ends a worker at once."""
    script = '''
starts()
if index == 1:
    os.kill(os.getppid(), signal.SIGTERM)
while True:
    signal.pause()
'''
    code, _, err = run_script(script)
    assert (code, err) == (143, '')
    assert len(list(tmp_path.glob('start_1_*'))) == 1

"""Several workers: what they train is what one trains; one that is lost, stopped or different."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MAIN

from distributed.cluster import Cluster
from distributed.launcher import read_task
from options import UserError
from SAGAN import SAGAN

SMALL = ['--dataset', 'mnist', '--network', 'dcgan', '--ch', 8, '--img_size', 32, '--batch_size', 8, '--epoch', 1,
         '--print_freq', 1, '--sample_num', 4, '--seed', 3, '--patience', 1000]


@pytest.fixture
def begin(tmp_path, small_data):
    """Start main.py's training in an empty folder, as a worker where it gets (ports, index) -> the process."""
    started = []

    def begin_training(*options, task=None):
        environment = dict(os.environ)
        if task:
            ports, index = task
            environment['TF_CONFIG'] = json.dumps({'cluster': {'worker': [f'127.0.0.1:{port}' for port in ports]},
                                                   'task': {'type': 'worker', 'index': index}})
        started.append(subprocess.Popen(
            [sys.executable, MAIN, '--phase', 'train', '--data_dir', small_data, *map(str, options)], cwd=tmp_path,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin_training
    for process in started:
        process.kill()
        process.wait()


def free_ports(count=2):
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def ended(process, code=0):
    """Wait for the end -> (standard output, standard error)."""
    out, err = process.communicate(timeout=1000)
    assert process.returncode == code, (process.returncode, err)
    return out, err


def weights(folder, name, step):
    reader = tf.train.load_checkpoint(str(folder / 'checkpoint' / name / 'SAGAN' / f'SAGAN.model-{step}'))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def history(folder, name):
    return np.genfromtxt(folder / 'results' / name / 'SAGAN_history.csv', delimiter=',', names=True)


def wait_for_line(process, pattern):
    for line in process.stdout:
        if re.search(pattern, line):
            return
    raise AssertionError(process.stderr.read())


def test_two_workers_train_as_one(begin, tmp_path):
    """Batch norm's moments and its gradient, the averages and the losses are those of the whole batch.

    With one seed in five, another on each kind of processor, rounding pushes a unit over the corner of its relu, which
    moves gradients by percents, those of one process on one core and on two among them: then the next seed tells.
    """
    *seeds, last = 3, 4, 6
    for seed in seeds:
        with contextlib.suppress(AssertionError):
            return compare_one_and_two(begin, tmp_path, seed)
    compare_one_and_two(begin, tmp_path, last)


def compare_one_and_two(begin, folder, seed):
    """Train one process and two workers, and compare them after one step and after five.

    Weights are compared on average, relative to how far they moved, and biases before a batch norm, whose gradient is
    rounding alone, not at all: Adam turns the rounding of a gradient near 0 into a whole step.
    """
    rate = 1e-4
    options = [*SMALL, '--seed', seed, '--attention', 'article', '--g_lr', rate, '--d_lr', rate, '--iteration', 5,
               '--save_freq', 1, '--keep', 5]
    alone, two = f'alone{seed}', f'two{seed}'
    pair = [begin(*options, '--name', name, *more) for name, more in ((alone, []), (two, ['--workers', 2]))]
    for process in pair:
        out, _ = ended(process)
        assert out.count('Data set: ') == 1  # not by who starts the workers and by worker 0
        assert out.count('2 workers train together\n') == (process is pair[1])
    first = weights(folder, alone, 1)
    for step in 1, 5:
        found = weights(folder, two, step)
        for name, expected in weights(folder, alone, step).items():
            if re.search(r'(/w|Matrix|gamma|beta)$', name):
                moved = rate if step == 1 else abs(expected - first[name]).mean()
                assert abs(found[name] - expected).mean() <= 1e-4 * moved, (name, step)
            if 'moving' in name and 'Exponential' not in name:
                np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    for name in history(folder, alone).dtype.names[1:7]:
        found, expected = (history(folder, run)[name] for run in (two, alone))
        assert len(found) == 5
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def children(process):
    return [int(pid) for pid in pathlib.Path(
        f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()]


def test_a_lost_worker(begin, tmp_path):
    """Killed in mid-epoch: the other ends, both are started again, and the end has the bits of an unbroken run."""
    options = [*SMALL, '--iteration', 12, '--save_freq', 5, '--gan_type', 'wgan-gp', '--sn', 'true', '--conditional',
               'true', '--attention', 'paper', '--flip', 'true', '--n_critic', 2, '--workers', 2]
    whole = begin(*options, '--name', 'whole')
    broken = begin(*options, '--name', 'broken')
    wait_for_line(broken, r'\[   7/')
    os.kill(children(broken)[1], signal.SIGKILL)
    out, err = ended(broken)
    ended(whole)
    assert 'worker 0 of 2 has lost another one' in err and 'a worker was lost (exit codes 138, -9)' in err
    assert 'Going on from step 5 of 12' in out and 'Traceback' not in err
    expected, found = weights(tmp_path, 'whole', 12), weights(tmp_path, 'broken', 12)
    assert all((expected[name] == found[name]).all() for name in expected)
    assert [(tmp_path / 'results' / name / 'SAGAN_history.csv').read_bytes() for name in ('whole', 'broken')][0] == (
        tmp_path / 'results' / 'broken' / 'SAGAN_history.csv').read_bytes()


def test_stopping_one_stops_all(begin, tmp_path):
    ports = free_ports()
    options = [*SMALL, '--iteration', 2000, '--precision', 'bfloat16', '--gan_type', 'dragan', '--network', 'resnet',
               '--name', 'it']
    second, first = (begin(*options, task=(ports, index)) for index in (1, 0))
    wait_for_line(first, r'\[   2/')
    second.send_signal(signal.SIGTERM)
    out, err = ended(first, 143)
    assert 'Stopped and saved at step' in out and err == ''
    assert ended(second, 143) == ('', '')
    step = int(re.search('saved at step ([0-9]+)', out)[1])
    assert weights(tmp_path, 'it', step)['generator/g_fc1/Matrix'].any()


def test_workers_that_differ_or_do_not_come(begin, tmp_path):
    ports = free_ports()
    options = [*SMALL, '--iteration', 3, '--name', 'it']
    pair = [begin(*options, *more, task=(ports, index)) for index, more in enumerate([[], ['--attention', 'none']])]
    for process in pair:
        _, err = ended(process, 2)
        assert err == 'main.py: the workers differ in their options: start all of them with the same\n'
    assert not list((tmp_path / 'checkpoint').glob('it/SAGAN'))

    waiting = [begin(*options, '--patience', 3, task=(free_ports(), index)) for index in (0, 1)]  # each on its own
    _, err = ended(waiting[0], 138)
    assert 'has waited 3 s for one that has not come' in err and err.count('\n') == 1
    _, err = ended(waiting[1], 138)
    assert 'worker 0 has not come to 127.0.0.1' in err and err.count('\n') == 1
    with socket.create_server(('127.0.0.1', 0)) as taken:
        _, err = ended(begin(*options, task=([taken.getsockname()[1], 9], 0)), 2)
    assert err.startswith('main.py: the port of 127.0.0.1') and err.count('\n') == 1
    _, err = ended(begin(*SMALL, '--workers', 3), 2)
    assert '3 workers cannot share --batch_size 8: choose a multiple of 3' in err and err.count('\n') == 1


@pytest.mark.parametrize('config, complaint', [
    ('not JSON', 'is not understood'), ('[]', 'is not understood'), ('{"cluster": {"worker": ["a:1"]}}', 'understood'),
    ({'cluster': {'worker': ['a:1', 'b:1']}, 'task': {'type': 'worker', 'index': 2}}, 'task worker 2, and 2 of that'),
    ({'cluster': {'worker': ['a:1', 'b:1']}, 'task': {'type': 'worker', 'index': -1}}, 'task worker -1'),
    ({'cluster': {'worker': ['a:1']}, 'task': {'type': 'worker', 'index': 'x'}}, 'is not understood'),
    ({'cluster': {'worker': ['a:1', 'a:1']}, 'task': {'type': 'worker', 'index': 0}}, 'the address a:1, twice'),
    ({'cluster': {'worker': ['a']}, 'task': {'type': 'worker', 'index': 0}}, 'the address a, twice or not as'),
    ({'cluster': {'worker': ['a:1', 'b:65536']}, 'task': {'type': 'worker', 'index': 0}}, 'the address b:65536'),
    ({'cluster': {'worker': ['a:1', 'b:1']}, 'task': {'type': 'worker', 'index': 0.9}}, 'is not understood'),
    ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1e999}}', 'is not understood'),
    ({'cluster': {'worker': [3]}, 'task': {'type': 'worker', 'index': 0}}, 'the address 3'),
    ({'cluster': {'worker': ['a:1'], 'ps': ['c:1']}, 'task': {'type': 'ps', 'index': 0}}, 'a task of the type ps'),
    ({'cluster': {'chief': ['a:1', 'b:1']}, 'task': {'type': 'chief', 'index': 0}}, '2 chiefs'),
    ({'cluster': {}, 'task': {'type': 'worker', 'index': 0}}, '0 of that type')], ids=range(15))
def test_a_wrong_tf_config(monkeypatch, config, complaint):
    monkeypatch.setenv('TF_CONFIG', config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UserError, match=complaint):
        read_task()


def test_tf_config(monkeypatch):
    monkeypatch.delenv('TF_CONFIG', raising=False)
    assert read_task() == ((), 0)
    cluster = {'chief': ['a:1'], 'worker': ['b:2', 'c:3']}
    for kind, index, number in ('chief', 0, 0), ('worker', 0, 1), ('worker', 1, 2):
        monkeypatch.setenv('TF_CONFIG', json.dumps({'cluster': cluster, 'task': {'type': kind, 'index': index}}))
        assert read_task() == (['a:1', 'b:2', 'c:3'], number)


@pytest.mark.parametrize('size, gan_type, means, rows', [
    (1, 'gan', 0, 0), (2, 'gan', 29, 4), (2, 'wgan-gp', 11, 0)])
def test_messages_of_a_step(sess, size, gan_type, means, rows):
    """Means: one for each batch norm, forward and backward, those of attention together; two of gradients, one of
    losses. Rows: one for each large fully connected layer and pass, but where a penalty's gradient joins theirs.
    """
    addresses = [f'127.0.0.1:{port}' for port in range(1, size + 1)]
    model = SAGAN(sess, batch_size=4, image_shape=(12, 16, 1), gan_type=gan_type,
                  cluster=Cluster(addresses if size > 1 else ()))
    model.build_model()
    kinds = [op.type for op in tf.get_default_graph().get_operations()]
    assert (kinds.count('CollectiveReduce'), kinds.count('CollectiveGather')) == (means, rows)
    with pytest.raises(UserError, match='2 workers cannot share --batch_size 5'):
        SAGAN(sess, batch_size=5, cluster=Cluster(['127.0.0.1:1', '127.0.0.1:2']))

"""Two workers train the same weights as one process. If a worker is lost, the other exits or both are restarted."""

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
from helpers import MAIN, ROOT, one_line_error

from distributed.cluster import Cluster
from networks.dcgan import DCGAN
from networks.resnet import ResNet
from ops import bn
from options import UserError
from SAGAN import SAGAN
from tf1 import tf
from training.stop import Stop

TRAIN_SMOOTH = pathlib.Path(__file__).with_name('train_smooth.py')
TWO_ADDRESSES = '127.0.0.1:1', '127.0.0.1:2'
# Relative to the largest change of a weight of the same network, or to the largest value of a statistic. Rounding
# causes errors of 6e-6: float32 rounds a weight near 1 to within 1e-7, and a change is about 0.05. Errors in the
# averaging change weights by more than 0.3. Dividing a variance by the wrong number of samples changes it by 3e-4.
TOLERANCE = 5e-5


##################################################################################
# One process
##################################################################################

def test_single_worker_computes_the_whole_batch(sess):
    batch = tf.zeros([4, 2])
    assert Cluster().local_shard(batch) is batch


def test_single_worker_averages_nothing(sess):
    tensors = [tf.zeros([2]), tf.zeros([])]
    assert Cluster().all_reduce(tensors) is tensors


def test_single_worker_keeps_its_numbers():
    assert Cluster().broadcast(None, [7, 3], []) == [7, 3]


def test_single_worker_compares_nothing():
    Cluster().check_equal(None, {'options': 'a'})


def test_single_worker_does_not_wait_at_a_barrier():
    Cluster().barrier(None)


def test_single_worker_is_the_chief():
    assert Cluster().is_chief


def test_single_worker_opens_a_session_without_a_server():
    with tf.Graph().as_default(), Cluster().session(tf.ConfigProto()) as session:
        assert not session.sess_str


def test_single_worker_stops_at_the_first_signal_received():
    stop = Stop()
    stop.received = [signal.SIGTERM, signal.SIGINT]
    Cluster().agree_to_stop(None, stop)
    assert stop.requested == signal.SIGTERM


def test_single_worker_keeps_a_request_to_stop_without_a_signal():
    stop = Stop()
    stop.requested = signal.SIGINT
    Cluster().agree_to_stop(None, stop)
    assert stop.requested == signal.SIGINT


def test_only_worker_0_is_the_chief():
    assert [Cluster(TWO_ADDRESSES, index).is_chief for index in (0, 1)] == [True, False]


@pytest.mark.parametrize('index, expected', [(0, [[0, 1], [2, 3]]), (1, [[4, 5], [6, 7]])])
def test_local_shard_is_the_part_of_the_worker(sess, index, expected):
    shard = Cluster(TWO_ADDRESSES, index).local_shard(tf.reshape(tf.range(8), [4, 2]))
    np.testing.assert_array_equal(sess.run(shard), expected)


@pytest.mark.parametrize('addresses', [(), TWO_ADDRESSES])
def test_local_shard_of_none_is_none(addresses):
    assert Cluster(addresses).local_shard(None) is None


def test_sagan_rejects_a_batch_that_the_workers_cannot_share(sess):
    with pytest.raises(UserError, match='2 workers cannot share --batch_size 5 evenly: choose a multiple of 2'):
        SAGAN(sess, batch_size=5, cluster=Cluster(TWO_ADDRESSES))


def count_reductions(graph):
    types = [operation.type for operation in graph.get_operations()]
    assert not [name for name in types if 'Collective' in name and name != 'CollectiveReduce']
    return types.count('CollectiveReduce')


def build_network(sess, network, addresses, **options):
    network(sess, batch_size=4, cluster=Cluster(addresses), **options).build_model()


@pytest.mark.parametrize('addresses, expected', [((), 0), (TWO_ADDRESSES, 1)])
def test_batch_norm_sends_its_moments_in_one_message(sess, addresses, expected):
    bn(tf.zeros([4, 3]), True, 'bn', sync=Cluster(addresses))
    assert count_reductions(sess.graph) == expected


def test_batch_norm_sends_the_gradients_of_its_moments_in_one_message(sess):
    x = tf.zeros([4, 3])
    tf.gradients(bn(x, True, 'bn', sync=Cluster(TWO_ADDRESSES)), x)
    assert count_reductions(sess.graph) == 2


@pytest.mark.slow
def test_graph_of_a_single_worker_has_no_collective_operation(sess):
    build_network(sess, SAGAN, (), image_shape=(12, 16, 1))
    assert count_reductions(sess.graph) == 0


@pytest.mark.slow
@pytest.mark.parametrize('network, g_norms, d_norms', [(SAGAN, 6, 5), (DCGAN, 9, 6), (ResNet, 10, 3)])
def test_graph_of_two_workers_has_two_messages_per_batch_norm_and_pass(sess, network, g_norms, d_norms):
    """G has one pass, D has three. In each pass, a batch norm sends its moments and their gradient.

    The five other messages are the gradients of D, those of G, the losses, agree_to_stop and barrier.
    """
    image_shape = (12, 16, 1) if network is SAGAN else (32, 32, 1)
    build_network(sess, network, TWO_ADDRESSES, image_shape=image_shape, ch=8, sn=False, attention='article')
    assert count_reductions(sess.graph) == 2 * (g_norms + 3 * d_norms) + 5


@pytest.mark.slow
def test_graph_of_two_workers_has_no_message_for_a_penalty(sess):
    """With a penalty, D has no batch norm. G has six."""
    build_network(sess, SAGAN, TWO_ADDRESSES, image_shape=(12, 16, 1), gan_type='wgan-gp')
    assert count_reductions(sess.graph) == 2 * 6 + 5


##################################################################################
# Two workers compute the same as one process
##################################################################################

def free_ports():
    servers = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def worker_environment(ports, index):
    task = {'cluster': {'worker': [f'127.0.0.1:{port}' for port in ports]}, 'task': {'type': 'worker', 'index': index}}
    return {**os.environ, 'TF_CONFIG': json.dumps(task)}


@pytest.fixture(scope='module')
def start():
    """A function that starts a Python script in a folder and returns the process, whose stdout and stderr are pipes."""
    processes = []

    def start_script(script, *options, cwd, environment):
        process = subprocess.Popen([sys.executable, script, *map(str, options)], cwd=cwd, env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        processes.append(process)
        return process

    yield start_script
    for process in processes:
        process.kill()
        process.communicate()


def finish(process):
    """Wait until a process has ended. Return (exit code, standard output, standard error)."""
    out, err = process.communicate(timeout=1000)
    return process.returncode, out, err


@pytest.fixture(scope='module', params=[
    {'gan_type': 'gan'},
    {'gan_type': 'wgan-gp', 'sn': True, 'conditional': True, 'n_critic': 2, 'augment': True}],
                ids=lambda options: options['gan_type'])
def smooth_runs(request, tmp_path_factory, start):
    """The outputs of train_smooth.py for the same training: (one process, worker 0, worker 1)."""
    folder, ports = tmp_path_factory.mktemp('smooth'), free_ports()
    environments = {'single': dict(os.environ), 'worker_0': worker_environment(ports, 0),
                    'worker_1': worker_environment(ports, 1)}
    processes = [start(TRAIN_SMOOTH, f'{name}.npz', json.dumps(request.param), cwd=folder,
                       environment={**environment, 'PYTHONPATH': str(ROOT)})
                 for name, environment in environments.items()]
    for process in processes:
        code, _, err = finish(process)
        assert code == 0, err
    return tuple(dict(np.load(folder / f'{name}.npz')) for name in environments)


@pytest.mark.slow
def test_both_workers_have_the_same_bits(smooth_runs):
    _, chief, other = smooth_runs
    assert chief.keys() == other.keys()
    for name, value in chief.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('step', [1, 5])
@pytest.mark.parametrize('network', ['generator', 'discriminator'])
def test_two_workers_train_the_same_weights_as_one_process(smooth_runs, network, step):
    single, chief, _ = smooth_runs
    names = [name.removeprefix('0/') for name in single if re.match(f'0/{network}/(?!.*(moving|Exponential))', name)]
    largest_change = max(abs(single[f'{step}/{name}'] - single[f'0/{name}']).max() for name in names)
    assert largest_change > 1e-3
    for name in names:
        np.testing.assert_allclose(chief[f'{step}/{name}'], single[f'{step}/{name}'], rtol=0,
                                   atol=TOLERANCE * largest_change, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('step', [1, 5])
def test_two_workers_update_the_moving_statistics_as_one_process_does(smooth_runs, step):
    single, chief, _ = smooth_runs
    names = [name for name in single if re.match(f'{step}/.*moving_(mean|variance)$', name)]
    assert names
    for name in names:
        np.testing.assert_allclose(chief[name], single[name], rtol=0, atol=TOLERANCE * abs(single[name]).max(),
                                   err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('step', [1, 5])
def test_two_workers_report_the_same_losses_as_one_process(smooth_runs, step):
    single, chief, _ = smooth_runs
    names = [name for name in single if name.startswith(f'{step}/loss/')]
    assert len(names) >= 6
    for name in names:
        np.testing.assert_allclose(chief[name], single[name], rtol=1e-5, atol=1e-5, err_msg=name)


##################################################################################
# Stopping and failing
##################################################################################

SMALL = ['--phase', 'train', '--dataset', 'mnist', '--network', 'dcgan', '--ch', 8, '--img_size', 32, '--batch_size', 8,
         '--epoch', 1, '--print_freq', 1, '--sample_num', 4, '--seed', 3, '--timeout', 1000]


@pytest.fixture
def start_worker(start, tmp_path, small_data):
    """A function that starts main.py as worker `index` in an empty folder, and returns the process."""
    def start_main_as_worker(ports, index, *options):
        return start(MAIN, *SMALL, '--data_dir', small_data, *options, cwd=tmp_path,
                     environment=worker_environment(ports, index))
    return start_main_as_worker


def wait_for_step(process, step):
    for line in process.stdout:
        if re.search(rf'\[ *{step}/', line):
            return
    raise AssertionError(process.stderr.read())


def children(process):
    return list(map(int, pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()))


def read_weights(folder, name, step):
    reader = tf.train.load_checkpoint(str(folder / 'checkpoint' / name / 'SAGAN' / f'SAGAN.model-{step}'))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope='module')
def launched(start, tmp_path_factory, small_data):
    """Two runs with --workers 2, 'uninterrupted' and 'interrupted'. Worker 1 of the second is killed after step 7.

    Returns (their folder, result of the first, result of the second).
    """
    folder = tmp_path_factory.mktemp('launched')
    options = [*SMALL, '--data_dir', small_data, '--workers', 2, '--iteration', 12, '--save_freq', 5, '--n_critic', 2,
               '--gan_type', 'wgan-gp', '--sn', 'true', '--conditional', 'true', '--attention', 'paper',
               '--flip', 'true']
    uninterrupted, interrupted = (start(MAIN, *options, '--name', name, cwd=folder, environment=dict(os.environ))
                                  for name in ('uninterrupted', 'interrupted'))
    wait_for_step(interrupted, 7)
    os.kill(children(interrupted)[1], signal.SIGKILL)
    return folder, finish(uninterrupted), finish(interrupted)


@pytest.mark.slow
def test_workers_finish(launched):
    _, (code, out, err), _ = launched
    assert (code, err) == (0, '') and 'Finished at step 12 of 12' in out


@pytest.mark.slow
@pytest.mark.parametrize('line', ['Data set: ', 'Training with 2 workers\n', 'Finished at step'])
def test_workers_print_each_line_once(launched, line):
    assert launched[1][1].count(line) == 1


@pytest.mark.slow
def test_worker_reports_the_loss_of_another_worker(launched):
    _, _, (_, _, err) = launched
    assert re.search(r'main.py: worker 1 at 127\.0\.0\.1:\d+ has sent nothing for 5 s: restart all workers\n', err)


@pytest.mark.slow
def test_workers_restart_after_the_loss_of_a_worker(launched):
    _, _, (code, out, err) = launched
    assert code == 0
    assert err.endswith('main.py: a worker was lost (exit codes 138, -9): restarting all workers\n')
    assert 'Resuming at step 5 of 12' in out


@pytest.mark.slow
def test_restarted_workers_are_bit_identical_to_an_uninterrupted_run(launched):
    folder, *_ = launched
    expected, weights = (read_weights(folder, name, 12) for name in ('uninterrupted', 'interrupted'))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)


@pytest.mark.slow
def test_restarted_workers_write_the_history_of_an_uninterrupted_run(launched):
    results = launched[0] / 'results'
    expected = (results / 'uninterrupted' / 'SAGAN_history.csv').read_bytes()
    assert expected.count(b'\n') == 1 + 12
    assert (results / 'interrupted' / 'SAGAN_history.csv').read_bytes() == expected


@pytest.mark.slow
def test_signal_to_one_worker_stops_all_and_saves(start_worker, tmp_path):
    """The run uses bfloat16, residual blocks and a penalty that depends on the whole batch."""
    ports = free_ports()
    options = ['--iteration', 2000, '--precision', 'bfloat16', '--gan_type', 'dragan', '--network', 'resnet', '--name',
               'stopped']
    other, chief = (start_worker(ports, index, *options) for index in (1, 0))
    wait_for_step(chief, 2)
    other.send_signal(signal.SIGTERM)
    code, out, err = finish(chief)
    assert (code, err) == (143, '')
    assert finish(other) == (143, '', '')
    step = int(re.search('Stopped at step ([0-9]+) of 2000', out)[1])
    assert read_weights(tmp_path, 'stopped', step)['generator/g_fc1/Matrix'].any()


@pytest.mark.slow
def test_workers_with_different_options_are_rejected(start_worker, tmp_path):
    ports = free_ports()
    workers = [start_worker(ports, 0, '--name', 'different'),
               start_worker(ports, 1, '--name', 'different', '--attention', 'none')]
    for worker in workers:
        one_line_error(finish(worker), 'the workers have different options: use the same on all workers')
    assert not (tmp_path / 'checkpoint' / 'different' / 'SAGAN').exists()


@pytest.mark.slow
def test_chief_gives_up_on_a_worker_that_does_not_start(start_worker):
    ports = free_ports()
    code, _, err = finish(start_worker(ports, 0, '--timeout', 3))
    assert code == 138
    assert f'worker 1 at 127.0.0.1:{ports[1]} did not start within 3 s: start all workers' in err


@pytest.mark.slow
def test_worker_gives_up_on_a_chief_that_does_not_start(start_worker):
    ports = free_ports()
    code, _, err = finish(start_worker(ports, 1, '--timeout', 1))
    assert code == 138
    assert f'worker 0 at 127.0.0.1:{ports[0]} did not start within 1 s: start all workers' in err


@pytest.mark.slow
def test_worker_rejects_a_port_in_use(start_worker):
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        result = finish(start_worker([port, 9], 0))
    one_line_error(result, f'cannot listen on the port of 127.0.0.1:{port} (Address already in use): choose another')


def test_main_rejects_a_number_of_workers_that_cannot_share_the_batch(run_main, monkeypatch):
    monkeypatch.delenv('TF_CONFIG', raising=False)
    one_line_error(run_main('--phase', 'train', '--batch_size', 8, '--workers', 3),
                   '3 workers cannot share --batch_size 8 evenly: choose a multiple of 3')

"""Each worker detects the loss of another within the timeout, even if the machine disappears silently."""

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from distributed import heartbeat
from distributed.heartbeat import Heartbeat, open_socket, resolve, watch_workers
from options import UserError

# In these tests, the loss of a worker ends a thread instead of the process.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
FOREVER = 1000


def free_addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for udp in sockets:
            udp.bind(('127.0.0.1', 0))
        return [f'127.0.0.1:{udp.getsockname()[1]}' for udp in sockets]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


##################################################################################
# Workers in this process
##################################################################################

@pytest.fixture
def messages(monkeypatch):
    """A queue of the messages that workers would print before they end this process. Packets are sent every 0.05 s."""
    received = queue.Queue()

    def end_process(message, stderr):
        received.put(message)
        raise SystemExit  # ends the thread

    monkeypatch.setattr(heartbeat, 'end_process', end_process)
    monkeypatch.setattr(heartbeat, 'MAX_INTERVAL', 0.05)
    return received


@pytest.fixture
def start(messages):
    """A function that starts a worker in this process."""
    workers = []

    def start_worker(*arguments):
        workers.append(Heartbeat(*arguments))
        return workers[-1]

    yield start_worker
    for worker in workers:
        if not worker.closed.is_set():
            worker.close()


@pytest.fixture
def start_cluster(start):
    """A function that starts workers and waits until they know each other. It returns (addresses, workers)."""
    def start_workers(count):
        addresses = free_addresses(count)
        workers = [start(addresses, index, FOREVER) for index in range(count)]
        wait_until(lambda: all(len(worker.start_ids) == count - 1 for worker in workers))
        return addresses, workers
    return start_workers


def test_worker_reports_a_worker_that_does_not_start(start, messages):
    addresses = free_addresses(2)
    start(addresses, 0, 0.3)
    assert messages.get(timeout=60) == (f'worker 1 at {addresses[1]} did not start within 0.3 s: start all workers, '
                                        'and allow UDP and TCP on their ports')


def test_worker_reports_a_worker_that_falls_silent(start_cluster, messages):
    addresses, (chief, other) = start_cluster(2)
    other.close()
    chief.timeout = 0.3
    assert messages.get(timeout=60) == f'worker 1 at {addresses[1]} has sent nothing for 0.3 s: restart all workers'


def test_all_workers_name_the_lost_worker(start_cluster, messages):
    """Worker 0 alone has a short timeout. It reports to worker 1."""
    addresses, (chief, _, lost) = start_cluster(3)
    lost.close()
    chief.timeout = 0.3
    assert sorted(messages.get(timeout=60) for _ in range(2)) == [
        f'worker 2 at {addresses[2]} has sent nothing for 0.3 s: restart all workers',
        f'worker 2 at {addresses[2]} is lost (worker 0 reports it): restart all workers']


def test_worker_whose_packets_do_not_arrive_ends_too(start_cluster, messages):
    addresses, (chief, other) = start_cluster(2)
    chief.send = lambda **news: None
    other.timeout = 0.3
    assert sorted(messages.get(timeout=60) for _ in range(2)) == [
        f'worker 0 at {addresses[0]} has sent nothing for 0.3 s: restart all workers',
        f'worker 1 at {addresses[1]} has received nothing from this worker: restart all workers']


def test_finished_worker_is_not_lost(start_cluster):
    _, (chief, other) = start_cluster(2)
    other.send_final(finished=True)
    other.close()
    wait_until(lambda: not chief.silence)
    chief.timeout = 0
    assert chief.find_loss() is None


def test_worker_names_a_restarted_worker_once_tensorflow_reports_an_error(start, start_cluster, messages):
    addresses, (chief, other) = start_cluster(2)
    other.close()
    start(addresses, 1, FOREVER)
    wait_until(lambda: chief.restarted is not None)
    assert messages.empty()  # during start-up, workers may restart
    chief.error_reported = True
    assert messages.get(timeout=60) == f'worker 1 at {addresses[1]} has restarted: restart all workers'


def test_wait_for_watcher_returns_if_no_worker_is_missing(start_cluster, messages, monkeypatch):
    monkeypatch.setattr(heartbeat, 'SHORT_TIMEOUT', 0.5)
    _, (chief, _) = start_cluster(2)
    chief.wait_for_watcher()
    assert messages.empty()


@pytest.mark.parametrize('packet', [b'', b'\xff', b'[]', b'{"cluster": "other", "worker": 1, "start": "a"}'])
def test_worker_ignores_packets_of_other_programs(start_cluster, packet):
    addresses, (chief, other) = start_cluster(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(packet, ('127.0.0.1', int(addresses[0].rsplit(':', 1)[1])))
    other.send_final(finished=True)
    wait_until(lambda: not chief.silence)  # the thread still receives packets
    assert chief.restarted is None


def test_host_name_may_resolve_later(start, monkeypatch):
    addresses = free_addresses(2)
    answers = [socket.gaierror()]

    def resolve_second(address, family):
        if answers:
            raise answers.pop()
        return resolve(address, family)

    monkeypatch.setattr(heartbeat, 'resolve', resolve_second)
    chief, other = (start(addresses, index, FOREVER) for index in (0, 1))
    wait_until(lambda: chief.start_ids and other.start_ids)


def test_socket_receives_ipv6_and_ipv4():
    if not socket.has_dualstack_ipv6():
        pytest.skip('this machine has no IPv6')
    with open_socket('x:0') as receiver, open_socket('x:0') as sender:
        port = receiver.getsockname()[1]
        for host in '[::1]', '127.0.0.1':
            for place in resolve(f'{host}:{port}', sender.family):
                sender.sendto(host.encode(), place)
            assert receiver.recv(10) == host.encode()


def test_watch_workers_rejects_a_udp_port_in_use():
    with open_socket('x:0') as udp:
        address = f'127.0.0.1:{udp.getsockname()[1]}'
        with pytest.raises(UserError, match=f'cannot listen on the UDP port of {address}'), \
                watch_workers([address, 'b:1'], 0, FOREVER):
            pass


def test_watch_workers_of_a_single_process_opens_no_socket(monkeypatch):
    monkeypatch.setattr(heartbeat, 'open_socket', None)
    with watch_workers((), 0, FOREVER):
        pass


##################################################################################
# Processes that stop, and network namespaces whose link fails
##################################################################################

# Print a line, then wait for the end of standard input.
WATCH = '''
import json, sys
from distributed.heartbeat import watch_workers
with watch_workers(json.loads(sys.argv[1]), int(sys.argv[2]), 4):
    print('watching', flush=True)
    sys.stdin.read()
'''


@pytest.fixture
def start_process():
    """A function that starts worker `index` as a process with a timeout of 4 s."""
    processes = []

    def start(addresses, index, prefix=()):
        processes.append(subprocess.Popen(
            [*prefix, sys.executable, '-c', WATCH, json.dumps(addresses), str(index)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        assert processes[-1].stdout.readline() == 'watching\n'
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def assert_names(process, worker, address):
    assert process.wait(timeout=60) == 138
    err = process.stderr.read()
    assert err.startswith(f'main.py: worker {worker} at {address} ') and err.count('\n') == 1


@pytest.mark.slow
def test_stopped_process_is_lost(start_process):
    addresses = free_addresses(2)
    chief, other = (start_process(addresses, index) for index in (0, 1))
    other.send_signal(signal.SIGSTOP)
    assert_names(chief, 1, addresses[1])


@pytest.mark.slow
def test_processes_that_are_all_stopped_continue(start_process):
    """Slurm suspends a job in this way."""
    addresses = free_addresses(2)
    processes = [start_process(addresses, index) for index in (0, 1)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(6)  # longer than the timeout
    for process in processes:
        process.send_signal(signal.SIGCONT)
    for process in processes:
        _, err = process.communicate(timeout=60)  # closes standard input
        assert (process.returncode, err) == (0, '')


@pytest.fixture
def link():
    """Two network namespaces connected by a virtual link. Yield (their names, their interfaces, addresses)."""
    if shutil.which('ip') is None or os.geteuid() != 0:
        pytest.skip('requires root and iproute2')
    names = [f'sagan{os.getpid()}{letter}' for letter in 'ab']
    interfaces = [f's{os.getpid()}{letter}' for letter in 'ab']
    try:
        for name in names:
            if subprocess.run(['ip', 'netns', 'add', name], capture_output=True).returncode != 0:
                pytest.skip('requires permission to create network namespaces')
        ip('link', 'add', interfaces[0], 'netns', names[0], 'type', 'veth', 'peer', interfaces[1], 'netns', names[1])
        for number, (name, interface) in enumerate(zip(names, interfaces, strict=True)):
            ip('-n', name, 'addr', 'add', f'10.213.0.{number + 1}/24', 'dev', interface)
            ip('-n', name, 'link', 'set', interface, 'up')
            ip('-n', name, 'link', 'set', 'lo', 'up')
        yield names, interfaces, ['10.213.0.1:2222', '10.213.0.2:2222']
    finally:
        for name in names:
            subprocess.run(['ip', 'netns', 'delete', name], capture_output=True, check=False)


def ip(*words):
    subprocess.run(['ip', *words], check=True)


def cut(names, interfaces):
    ip('-n', names[1], 'link', 'set', interfaces[1], 'down')


def drop_one_direction(names, interfaces):
    """Send the packets of the first namespace to a hardware address that the second does not have."""
    ip('-n', names[0], 'neigh', 'replace', '10.213.0.2', 'lladdr', '02:00:00:00:00:99', 'dev', interfaces[0], 'nud',
       'permanent')


@pytest.mark.slow
@pytest.mark.parametrize('fail', [cut, drop_one_direction])
def test_both_workers_notice_a_failed_link(link, start_process, fail):
    names, interfaces, addresses = link
    processes = [start_process(addresses, index, ['ip', 'netns', 'exec', names[index]]) for index in (0, 1)]
    fail(names, interfaces)
    for index, process in enumerate(processes):
        assert_names(process, 1 - index, addresses[1 - index])

"""Read the list of workers from TF_CONFIG or Slurm, or start workers on this machine for --workers."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time

from distributed import slurm
from options import UserError
from system import available_cores, is_windows, start_process, stop_signals

SIGNALS = stop_signals()
EXIT_LOST = 138  # exit code of a worker that has lost another worker; Kubeflow restarts such a worker
MAX_STARTS = 4
GRACE = 10  # seconds


class WorkerLost(Exception):
    """Another worker has ended or did not start. The message is one line."""


##################################################################################
# TF_CONFIG
##################################################################################

def read_task():
    """Read the addresses of all workers, and the number of this worker, from TF_CONFIG or a Slurm step.

    Returns:
        (addresses, index): 'host:port' of each worker, the chief's first, and the number of this worker. ((), 0) if
        there is neither: this process trains alone. The number is None if TF_CONFIG makes this process a parameter
        server or an evaluator, which synchronous training does not use.

    Raises:
        UserError: if TF_CONFIG is not valid, or if the tasks of the Slurm step are not numbered node by node.
    """
    text = os.environ.get('TF_CONFIG')
    if not text:
        return slurm.read_step() if slurm.in_step() else ((), 0)
    try:
        config = json.loads(text)
        cluster = config['cluster']
        # In older versions of TensorFlow, the chief is called the master.
        chiefs, workers = [*cluster.get('chief', []), *cluster.get('master', [])], cluster.get('worker', [])
        addresses = [*chiefs, *workers]
        task_type, task_index = config['task']['type'], int(str(config['task']['index']))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'TF_CONFIG is not valid ({type(error).__name__}: {error}): write {{"cluster": {{"worker": '
                        '["host:port", ...]}, "task": {"type": "worker", "index": 0}}') from error
    if len(chiefs) > 1:
        raise UserError(f'TF_CONFIG lists {len(chiefs)} chiefs: list at most one')
    if task_type not in ('chief', 'master', 'worker', 'ps', 'evaluator'):
        raise UserError(f'TF_CONFIG has a task of type {task_type}: choose chief or worker')
    for address in addresses:
        check_address(address)
        if addresses.count(address) > 1:
            raise UserError(f'TF_CONFIG lists the address {address} twice: give each worker its own address')
    if task_type in ('ps', 'evaluator'):
        return addresses, None
    count = len(workers) if task_type == 'worker' else len(chiefs)
    if not 0 <= task_index < count:
        raise UserError(f'TF_CONFIG lists no {task_type} {task_index} (the cluster has {count} of this type, numbered '
                        'from 0): correct the index of the task')
    return addresses, len(chiefs) + task_index if task_type == 'worker' else task_index


def check_address(address):
    """Raise UserError if an address in TF_CONFIG is not a string of the form host:port."""
    match = re.fullmatch(r'(?:\[[^]\s/]+\]|[^][\s/:]+):([0-9]{1,5})', str(address))
    if not match or not 0 < int(match[1]) < 65536:
        raise UserError(f'TF_CONFIG lists the address {address}, which is not of the form host:port or [IPv6]:port: '
                        'correct it')


def check_port(address):
    """Raise UserError if this worker cannot listen on the port of its address."""
    _, port = address.rsplit(':', 1)
    try:
        socket.create_server(('', int(port))).close()
    except OSError as error:
        raise UserError(f'cannot listen on the port of {address} ({os.strerror(error.errno)}): choose another one in '
                        'TF_CONFIG, or stop the process that uses it') from error


def wait_for_chief(address):
    """Wait until the chief listens on its address. The host name may resolve only after its machine has started."""
    host, port = address.rsplit(':', 1)
    while True:
        try:
            socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
            return
        except (OSError, UnicodeError):
            time.sleep(0.2)


##################################################################################
# Workers on this machine
##################################################################################

def check_workers(count):
    """Raise UserError if this system cannot start several workers."""
    if count > 1 and is_windows():
        raise UserError('--workers requires Linux or macOS (this is Windows): omit --workers')


def start_workers(count, timeout, options):
    """Run the command line of this process in count workers. If a worker is lost, restart all workers.

    Args:
        count: number of workers.
        timeout: seconds after which a worker detects the loss of another.
        options: a list of arguments to append to the command line.

    Returns:
        The exit code of a worker that failed, 128 + n after signal n, EXIT_LOST if MAX_STARTS starts were not
        enough, or 0.
    """
    received = []

    def receive(number, frame):
        received.append(number)

    for number in SIGNALS:
        signal.signal(number, receive)
    for remaining_starts in reversed(range(MAX_STARTS)):
        exit_codes = run_workers(count, timeout, options, received)
        failures = [code for code in exit_codes if code > 0 and code != EXIT_LOST]
        if failures:
            return failures[0]
        if received:
            return 128 + received[0]
        if not any(exit_codes):
            return 0
        advice = 'restarting all workers' if remaining_starts else 'run the same command again to resume'
        print(f'main.py: a worker was lost (exit codes {", ".join(map(str, exit_codes))}): {advice}',
              file=sys.stderr, flush=True)
    return EXIT_LOST


def run_workers(count, timeout, options, received):
    """Run the workers once and return their exit codes.

    Worker 0 prints its errors directly. Other errors are printed at the end unless worker 0 failed with the same code.

    Args:
        count: number of workers.
        timeout: seconds after which a worker detects the loss of another.
        options: a list of arguments to append to the command line.
        received: the list to which the signals of this process are appended. They are forwarded to the workers.
    """
    addresses = free_addresses(count)
    with contextlib.ExitStack() as stack:
        error_files = [stack.enter_context(tempfile.TemporaryFile('w+')) for _ in range(1, count)]
        workers = []
        for index, error_file in enumerate([None, *error_files]):
            workers.append(start_worker(addresses, index, options, error_file))
            stack.callback(workers[-1].kill)
        exit_codes = wait_for_workers(workers, received, timeout)
        # Errors with these exit codes are reported by worker 0 or by start_workers.
        reported = {exit_codes[0], EXIT_LOST, *(128 + number for number in SIGNALS)}
        for code, error_file in zip(exit_codes[1:], error_files, strict=True):
            if code > 0 and code not in reported:
                error_file.seek(0)
                sys.stderr.write(error_file.read())
    return exit_codes


def free_addresses(count):
    """Return the addresses of count free ports on this machine."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)]
        return [f'127.0.0.1:{server.getsockname()[1]}' for server in servers]


def gpu_of(index):
    """Return the GPU of the worker with this number on its machine.

    If CUDA_VISIBLE_DEVICES lists fewer GPUs than there are workers, workers share them. If it is not set, worker n gets
    GPU n, or no GPU if there is no GPU n.
    """
    gpus = os.environ.get('CUDA_VISIBLE_DEVICES', str(index)).split(',')
    return gpus[index % len(gpus)]


def start_worker(addresses, index, options, error_file):
    """Run the command line of this process as worker number index.

    The worker gets an equal share of the cores (only on Linux), and the GPU that gpu_of returns.

    Args:
        addresses: 'host:port' of each worker.
        options: a list of arguments to append to the command line.
        error_file: the file for the worker's standard error, or None to inherit standard error.

    Returns:
        A subprocess.Popen.
    """
    count, cores = len(addresses), available_cores()
    share = cores[index * len(cores) // count:(index + 1) * len(cores) // count] or cores
    task = {'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}}
    # This process forwards Ctrl-C. The worker runs in its own session, so that it does not receive Ctrl-C twice.
    return start_process(
        [sys.executable, *sys.argv, *options], share, stderr=error_file,
        env={**os.environ, 'TF_CONFIG': json.dumps(task), 'CUDA_VISIBLE_DEVICES': gpu_of(index)})


def wait_for_workers(workers, received, timeout):
    """Wait until all workers have ended, and return their exit codes.

    Args:
        workers: a list of subprocess.Popen.
        received: the list to which the signals of this process are appended. They are forwarded to the workers.
        timeout: seconds after which a worker detects the loss of another. Once a worker has failed, the others have
            this time plus GRACE to end. Once a worker has detected a loss, they have GRACE. Then they are killed.
    """
    deadline, loss_detected, forwarded = None, False, 0
    while any(worker.poll() is None for worker in workers):
        for number in received[forwarded:]:
            for worker in workers:
                worker.send_signal(number)
            forwarded += 1
        exit_codes = [worker.poll() for worker in workers]
        if EXIT_LOST in exit_codes and not loss_detected:
            loss_detected, deadline = True, time.monotonic() + GRACE
        elif deadline is None and any(code not in (None, 0) for code in exit_codes):
            deadline = time.monotonic() + timeout + GRACE
        if deadline is not None and time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.1)
    return [worker.returncode for worker in workers]

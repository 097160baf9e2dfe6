"""Which workers there are: those that TF_CONFIG names, or those that this program starts on this machine."""

import contextlib
import ctypes
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from options import UserError

SIGNALS = signal.SIGINT, signal.SIGTERM
LOST = 138  # the exit code of a worker that has lost another: batch systems take it for one to be tried again
STARTS, PR_SET_PDEATHSIG = 4, 1


class WorkerLost(Exception):
    """Another worker is gone, or has not come: its text is one line."""


def read_task():
    """What TF_CONFIG says -> (the workers' addresses, of which a chief's is the first; the number of this one).

    Without TF_CONFIG ((), 0): alone. Raises UserError where it cannot be understood.
    """
    text = os.environ.get('TF_CONFIG')
    if not text:
        return (), 0
    try:
        config = json.loads(text)
        chief, workers = config['cluster'].get('chief', []), config['cluster'].get('worker', [])
        addresses, kind, index = [*chief, *workers], config['task']['type'], int(str(config['task']['index']))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'TF_CONFIG is not understood ({type(error).__name__}: {error}): write {{"cluster": '
                        '{"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}') from error
    if kind not in ('chief', 'worker') or len(chief) > 1:
        raise UserError(f'TF_CONFIG has {len(chief)} chiefs and a task of the type {kind}: give at most one chief, and '
                        'the task of a chief or a worker')
    for address in addresses:
        port = re.fullmatch(r'[^\s/]+:([0-9]{1,5})', str(address))
        if not port or not 0 < int(port[1]) < 65536 or addresses.count(address) > 1:
            raise UserError(f'TF_CONFIG has the address {address}, twice or not as host:port: give each worker its own')
    own = chief if kind == 'chief' else workers
    if not 0 <= index < len(own):
        raise UserError(f'TF_CONFIG has the task {kind} {index}, and {len(own)} of that type: give one from 0 up and '
                        'below that')
    return addresses, index + (len(chief) if kind == 'worker' else 0)


def check_port(address):
    """Raise UserError where the port of this worker's address is in use."""
    try:
        socket.create_server(('', int(address.rsplit(':', 1)[1]))).close()
    except OSError as error:
        raise UserError(f'the port of {address} cannot be listened at ({error.strerror}): choose another in TF_CONFIG, '
                        'or end what uses it') from error


def wait_for(address, patience):
    """Wait until worker 0 listens at its address. Raises WorkerLost after patience seconds."""
    host, port = address.replace('[', '').replace(']', '').rsplit(':', 1)
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline:
                raise WorkerLost(f'worker 0 has not come to {address} within {patience} s') from error
            time.sleep(0.2)


def start_workers(count, patience, options):
    """Run this program's command and these options as count workers, again when one was lost -> the exit code."""
    stops = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: stops.append(number))
    for _ in range(STARTS):
        with contextlib.ExitStack() as stack:
            workers = spawn(count, options, stack)
            codes = codes_of([worker for worker, _ in workers], stops, patience)
            for code, (_, said) in zip(codes, workers, strict=True):
                if said and code > 0 and code not in (codes[0], LOST, 130, 143):  # worker 0 has told by itself
                    said.seek(0)
                    sys.stderr.write(said.read())
        final = [code for code in codes if code > 0 and code != LOST]
        if final or stops or not any(codes):
            return final[0] if final else 128 + stops[0] if stops else 0
        print(f'main.py: a worker was lost (exit codes {", ".join(map(str, codes))})', file=sys.stderr, flush=True)
    return LOST


def spawn(count, options, stack):
    """Start this program's command as count workers, each with its share of the cores, and GPU i worker i's.

    Returns [(process, the file of what it says on standard error, None for worker 0)]; stack ends what is still there.
    """
    with contextlib.ExitStack() as held:
        free = [held.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)]
        addresses = [f'127.0.0.1:{port.getsockname()[1]}' for port in free]
    cores, libc = sorted(os.sched_getaffinity(0)), ctypes.CDLL(None)
    gpus = os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(count)))).split(',')

    def begin(share):
        os.sched_setaffinity(0, share)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a worker does not outlive who started it

    workers = []
    for index in range(count):
        share = cores[index * len(cores) // count:(index + 1) * len(cores) // count] or cores
        config = json.dumps({'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}})
        said = stack.enter_context(tempfile.TemporaryFile('w+')) if index else None  # noqa: SIM115 (stack does)
        # In a session of its own: Ctrl-C comes from here, once.
        worker = subprocess.Popen(
            [sys.executable, *sys.argv, *options], preexec_fn=functools.partial(begin, share), start_new_session=True,
            stderr=said, env={**os.environ, 'TF_CONFIG': config, 'CUDA_VISIBLE_DEVICES': gpus[index % len(gpus)]})
        stack.callback(worker.kill)
        workers.append((worker, said))
    return workers


def codes_of(workers, stops, patience):
    """Wait for the end of processes, handing on the signals noted in stops -> their exit codes.

    Once one has failed, the others have patience seconds, and some more to say so, before they are killed.
    """
    deadline, sent = None, 0
    while any(worker.poll() is None for worker in workers):
        for number in stops[sent:]:
            for worker in workers:
                worker.send_signal(number)
            sent += 1
        if deadline is None and any(worker.poll() for worker in workers):
            deadline = time.monotonic() + patience + 10
        if deadline and time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.1)
    return [worker.returncode for worker in workers]

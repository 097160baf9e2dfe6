"""Which workers there are: those that TF_CONFIG names, or those that this program starts on this machine."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

from options import UserError

SIGNALS = signal.SIGINT, signal.SIGTERM
LOST = 138  # the exit code of a worker that has lost another: batch systems take it for one to be tried again
STARTS = 4


class Lost(Exception):
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
        addresses, kind, index = [*chief, *workers], config['task']['type'], int(config['task']['index'])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'TF_CONFIG is not understood ({type(error).__name__}: {error}): write {{"cluster": '
                        '{"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}') from error
    if kind not in ('chief', 'worker') or len(chief) > 1:
        raise UserError(f'TF_CONFIG has {len(chief)} chiefs and a task of the type {kind}: give at most one chief, and '
                        'the task of a chief or a worker')
    for address in addresses:
        if not re.fullmatch(r'[^\s/]+:[0-9]{1,5}', str(address)) or addresses.count(address) > 1:
            raise UserError(f'TF_CONFIG has the address {address}, twice or not as host:port: give each worker its own')
    own = chief if kind == 'chief' else workers
    if not 0 <= index < len(own):
        raise UserError(f'TF_CONFIG has the task {kind} {index}, and {len(own)} of that type: give one from 0 up and '
                        'below that')
    return addresses, index + (len(chief) if kind == 'worker' else 0)


def start_workers(count, patience):
    """Run this program's command as count workers on this machine, and again when one was lost -> the exit code."""
    stops = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: stops.append(number))
    for _ in range(STARTS):
        codes = wait_for(spawn(count), stops, patience)
        for code in 2, 130, 143:
            if code in codes:
                return code
        if not any(codes):
            return 0
        if stops:
            return 128 + stops[0]
        print(f'main.py: a worker was lost (exit codes {", ".join(map(str, codes))})', file=sys.stderr, flush=True)
    return LOST


def spawn(count):
    """Start this program's command as count workers, each with its share of the cores, and GPU i worker i's."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)]
        addresses = [f'127.0.0.1:{port.getsockname()[1]}' for port in free]
    cores = sorted(os.sched_getaffinity(0))
    gpus = os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(count)))).split(',')
    workers = []
    for index in range(count):
        share = cores[index * len(cores) // count:(index + 1) * len(cores) // count] or cores
        config = json.dumps({'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}})
        workers.append(subprocess.Popen(
            [sys.executable, *sys.argv], preexec_fn=lambda share=share: os.sched_setaffinity(0, share),
            env={**os.environ, 'TF_CONFIG': config, 'CUDA_VISIBLE_DEVICES': gpus[index % len(gpus)]}))
    return workers


def wait_for(workers, stops, patience):
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

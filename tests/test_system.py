"""The differences between operating systems. macOS and Windows are simulated by removing what they lack."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, linux_only
from PIL import Image

import system
from system import available_cores, join_command, start_process, stop_signals

SHOW_SESSION = 'import os; print(os.getpid() == os.getsid(0))'


@linux_only
def test_available_cores_are_those_of_the_process():
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(['taskset', '-c', str(core), sys.executable, '-c',
                           'from system import available_cores; print(available_cores())'],
                          cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f'[{core}]\n'


def test_available_cores_are_all_cores_without_affinity(monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 3)
    assert available_cores() == [0, 1, 2]


def test_available_cores_are_at_least_one(monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: None)
    assert available_cores() == [0]


@linux_only
def test_stop_signals_are_ctrl_c_and_sigterm():
    assert stop_signals() == (signal.SIGINT, signal.SIGTERM)


def test_stop_signals_include_ctrl_break_on_windows(monkeypatch):
    monkeypatch.setattr(signal, 'SIGBREAK', 21, raising=False)
    assert stop_signals() == (signal.SIGINT, signal.SIGTERM, 21)


@linux_only
@pytest.mark.parametrize('is_linux', [True, False])
def test_start_process_starts_a_session(monkeypatch, is_linux):
    monkeypatch.setattr(system, 'is_linux', lambda: is_linux)
    with start_process([sys.executable, '-c', SHOW_SESSION], available_cores(), stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == b'True\n'


@linux_only
def test_start_process_uses_the_given_cores():
    core = max(os.sched_getaffinity(0))
    program = 'import os; print(os.sched_getaffinity(0))'
    with start_process([sys.executable, '-c', program], [core], stdout=subprocess.PIPE) as process:
        assert process.stdout.read().decode() == f'{{{core}}}\n'


@pytest.mark.parametrize('is_windows, expected', [
    (False, "'.venv\\Scripts\\python' main.py --data_dir 'my data'"),
    (True, '.venv\\Scripts\\python main.py --data_dir "my data"')])
def test_join_command_is_quoted_for_the_shell(monkeypatch, is_windows, expected):
    monkeypatch.setattr(system, 'is_windows', lambda: is_windows)
    assert join_command(['.venv\\Scripts\\python', 'main.py', '--data_dir', 'my data']) == expected


##################################################################################
# The whole program
##################################################################################

# Runs the phases of a small run in one process. The packages are imported first: they adapt to the real system.
PROGRAM = '''
import os, signal, sys
import filelock, matplotlib.figure, psutil, scipy.linalg, tqdm
from tf1 import tf
is_windows, data_dir = sys.argv[1] == 'windows', sys.argv[2]
missing = [(os, 'sched_getaffinity'), (os, 'sched_setaffinity')]
if is_windows:
    missing += [(signal, name) for name in ('SIGPIPE', 'SIGHUP', 'SIGKILL', 'SIGCHLD', 'SIGUSR1', 'SIGALRM')]
    missing += [(os, name) for name in ('fork', 'killpg', 'getpgid', 'setsid', 'getuid', 'uname', 'mkfifo')]
    signal.SIGBREAK = signal.SIGUSR2  # any valid signal number
    filelock.FileLock = filelock.SoftFileLock
for module, name in missing:
    delattr(module, name)
for name in 'fcntl', 'resource', 'termios', 'pwd':
    sys.modules[name] = None  # importing it fails
exists = os.path.exists
os.path.exists = lambda path: not str(path).startswith('/proc') and exists(path)

import system
system.is_linux = lambda: False
system.is_windows = lambda: is_windows
import main, SAGAN
from evaluation import classifier
SAGAN.STATISTICS_BATCHES, classifier.MIN_STEPS = 1, 4
for words in (['train', '--dataset', 'own', '--img_size', '28', '--c_dim', '1', '--batch_size', '4', '--epoch', '1',
               '--iteration', '2'], ['test', '--test_num', '1'], ['eval', '--eval_num', '60']):
    sys.argv = ['main.py', '--data_dir', data_dir, '--phase', *words]
    with tf.Graph().as_default():
        main.main()
'''


@pytest.fixture(scope='module', params=['macos', 'windows'])
def completed(request, tmp_path_factory):
    """The folder of a small run that was trained, sampled and scored on an image folder, and the completed process."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    for number in range(120):
        path = folder / 'data' / 'own' / 'ab'[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, [28, 28], np.uint8)).save(path)
    done = subprocess.run([sys.executable, '-c', PROGRAM, request.param, folder / 'data'], cwd=folder, text=True,
                          capture_output=True, env={'PYTHONPATH': str(ROOT), 'PATH': ''})
    return folder, done


@pytest.mark.slow
def test_small_run_is_trained_sampled_and_scored(completed):
    folder, done = completed
    assert (done.returncode, done.stderr) == (0, '')
    names = {path.name for path in (folder / 'results').glob('*/*')}
    assert {'SAGAN_explorer.html', 'SAGAN_test_000.png', 'SAGAN_scores.json'} <= names


@pytest.mark.slow
def test_device_line_names_the_cpu(completed):
    assert '\nDevice: CPU, ' in completed[1].stdout

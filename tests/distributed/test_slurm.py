"""Slurm: its environment, and training in a real Slurm cluster on this machine."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import MAIN, ROOT

from distributed import slurm
from distributed.launcher import read_task
from options import UserError
from tf1 import tf

TRAIN_SMOOTH = pathlib.Path(__file__).with_name('train_smooth.py')
TOLERANCE = 5e-5  # of the largest change of a weight
COMMANDS = 'munged', 'slurmctld', 'slurmd', 'srun', 'scancel', 'sinfo'
# Task 2 of a step of three tasks on two nodes.
STEP = {'SLURM_STEP_NUM_TASKS': '3', 'SLURM_STEP_NODELIST': 'node[08-09]', 'SLURM_STEP_TASKS_PER_NODE': '2,1',
        'SLURM_PROCID': '2', 'SLURM_NODEID': '1', 'SLURM_LOCALID': '0', 'SLURM_JOB_ID': '5', 'SLURM_STEP_ID': '1'}


@pytest.fixture
def step(monkeypatch):
    """A function that sets the environment to that of STEP with changes."""
    def set_environment(**changes):
        monkeypatch.delenv('TF_CONFIG', raising=False)
        for name, value in {**STEP, **changes}.items():
            monkeypatch.setenv(name, value)
    return set_environment


##################################################################################
# The environment of a step
##################################################################################

@pytest.mark.parametrize('text, expected', [
    ('a', ['a']), ('a,b1', ['a', 'b1']), ('a[1-3]', ['a1', 'a2', 'a3']), ('a[09-10,12],b', ['a09', 'a10', 'a12', 'b']),
    ('r[1-2]n[7,9]', ['r1n7', 'r1n9', 'r2n7', 'r2n9']), ('a-b.c[0-1]x', ['a-b.c0x', 'a-b.c1x'])])
def test_host_names_expand_ranges(text, expected):
    assert slurm.host_names(text) == expected


@pytest.mark.parametrize('text, expected', [('2', [2]), ('2,1', [2, 1]), ('2(x3),1', [2, 2, 2, 1])])
def test_task_counts_expand_repetitions(text, expected):
    assert slurm.task_counts(text) == expected


def test_read_task_of_a_slurm_step(step):
    step()
    port = 10000 + 21 * 16
    assert read_task() == ([f'node08:{port}', f'node08:{port + 1}', f'node09:{port}'], 2)


def test_read_task_prefers_tf_config(step, monkeypatch):
    step()
    monkeypatch.setenv('TF_CONFIG', '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}')
    assert read_task() == (['a:1'], 0)


def test_step_of_one_task_is_a_single_process(step):
    step(SLURM_STEP_NUM_TASKS='1')
    assert read_task() == ((), 0)


def test_batch_script_is_a_single_process(step, monkeypatch):
    """In a batch script, Slurm sets the number of tasks of the job, but not of a step."""
    step(SLURM_NTASKS='3')
    monkeypatch.delenv('SLURM_STEP_NUM_TASKS')
    assert read_task() == ((), 0)


def test_read_step_rejects_tasks_that_are_not_numbered_node_by_node(step):
    step(SLURM_PROCID='1')
    with pytest.raises(UserError, match='add --distribution=block to srun'):
        slurm.read_step()


def test_ports_of_consecutive_jobs_and_steps_differ():
    first_ports = [slurm.step_port(job, number) for job in range(100, 200) for number in range(slurm.STEPS_PER_JOB)]
    assert len(set(first_ports)) == len(first_ports)


@pytest.mark.parametrize('job', [0, 1, 12345, 2**31])
def test_ports_are_below_those_of_outgoing_connections(job):
    assert 1024 < slurm.step_port(job, 0) < 32768 - slurm.PORTS_PER_STEP


def test_task_uses_the_gpu_of_its_local_rank(run_main, step, monkeypatch):
    step(SLURM_PROCID='1', SLURM_NODEID='0', SLURM_LOCALID='1')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5')
    assert run_main('--batch_size', 64)[0] == 2  # three workers cannot share a batch of 64: training does not start
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '5'


def test_workers_are_refused_in_a_step(run_main, step):
    step()
    code, _, err = run_main('--workers', 2)
    message = '--workers cannot be used in a Slurm step, whose tasks are the workers: omit it'
    assert (code, err) == (2, f'main.py: {message}\n')


@pytest.mark.parametrize('phase', ['test', 'eval', 'export', 'compare'])
def test_only_the_first_task_of_a_step_samples(run_main, step, phase):
    step()
    assert run_main('--phase', phase) == (0, '', '')


##################################################################################
# A real Slurm cluster
##################################################################################

@pytest.fixture(scope='module')
def srun(tmp_path_factory):
    """A function that starts two tasks in a Slurm cluster of one node, localhost. It returns srun's process.

    The function's attribute `environment` holds the environment of Slurm's commands.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f'requires root and slurm-wlm (missing: {", ".join(missing) or "root"})')
    folder = tmp_path_factory.mktemp('slurm')
    (folder / 'key').write_bytes(os.urandom(1024))
    (folder / 'key').chmod(0o400)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(2)]
        ports = [server.getsockname()[1] for server in servers]
    config = folder / 'slurm.conf'
    config.write_text(f'''
        ClusterName=test
        SlurmctldHost={socket.gethostname().split(".")[0]}(127.0.0.1)
        SlurmUser=root
        AuthInfo=socket={folder}/munge
        SlurmctldPort={ports[0]}
        SlurmdPort={ports[1]}
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd.pid
        ProctrackType=proctrack/pgid
        TaskPlugin=task/none
        NodeName=localhost NodeAddr=127.0.0.1 CPUs=2
        PartitionName=all Nodes=localhost Default=YES OverSubscribe=FORCE:4
        '''.replace('        ', ''))
    for name in 'state', 'spool':
        (folder / name).mkdir()
    environment = {**os.environ, 'SLURM_CONF': str(config)}
    daemons = [['munged', '-F', '-f', '-S', folder / 'munge', '--key-file', folder / 'key', '--seed-file',
                folder / 'seed', '--pid-file', folder / 'munged.pid', '--log-file', folder / 'munged.log'],
               ['slurmctld', '-D'], ['slurmd', '-D', '-N', 'localhost']]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / 'log').open('w'))
        for command in daemons:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if command[0] == 'munged':
                wait_until(folder, (folder / 'munge').exists)
        wait_until(folder, lambda: state_of_nodes(environment) == 'idle')

        def start(*command, cwd, name='test'):
            process = subprocess.Popen(['srun', '--job-name', name, '-n', '2', *map(str, command)], cwd=cwd,
                                       env={**environment, 'PYTHONPATH': str(ROOT)}, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        start.environment = environment
        yield start


def state_of_nodes(environment):
    result = subprocess.run(['sinfo', '-h', '-o', '%T'], env=environment, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def wait_until(folder, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, (folder / 'log').read_text()
        time.sleep(0.1)


def finish(process):
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.mark.slow
def test_two_tasks_train_the_same_weights_as_one_process(srun, tmp_path):
    options = json.dumps({'gan_type': 'gan'})
    command = f"exec {sys.executable} {TRAIN_SMOOTH} $SLURM_PROCID.npz '{options}'"
    code, _, err = finish(srun('sh', '-c', command, cwd=tmp_path))
    assert code == 0, err
    subprocess.run([sys.executable, TRAIN_SMOOTH, 'single.npz', options], cwd=tmp_path, check=True, timeout=600,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True)
    single, *tasks = (dict(np.load(tmp_path / f'{name}.npz')) for name in ('single', 0, 1))
    names = [name for name in single if re.match('5/(generator|discriminator)/(?!.*(moving|Exponential))', name)]
    change = max(abs(single[name] - single[name.replace('5/', '0/', 1)]).max() for name in names)
    assert change > 1e-3
    for name in names:
        for task in tasks:
            np.testing.assert_allclose(task[name], single[name], rtol=0, atol=TOLERANCE * change, err_msg=name)


@pytest.mark.slow
def test_run_resumes_bit_exactly_after_scancel(srun, tmp_path, small_data):
    options = [sys.executable, MAIN, '--phase', 'train', '--dataset', 'mnist', '--data_dir', small_data, '--network',
               'dcgan', '--ch', 8, '--img_size', 32, '--batch_size', 8, '--epoch', 1, '--print_freq', 1,
               '--sample_num', 4]
    process = srun(*options, '--name', 'interrupted', '--iteration', 1000, cwd=tmp_path, name='interrupted')
    assert any(re.search(r'\[ *3/', line) for line in process.stdout)
    subprocess.run(['scancel', '--signal=TERM', '--name=interrupted'], env=srun.environment, check=True)
    code, out, err = finish(process)
    assert code == 128 + signal.SIGTERM and 'Stopped at step' in out, err
    steps = int(re.search('Stopped at step ([0-9]+)', out)[1]) + 3
    for name in 'interrupted', 'uninterrupted':
        code, out, err = finish(srun(*options, '--name', name, '--iteration', steps, cwd=tmp_path))
        assert code == 0 and 'Training with 2 workers' in out, err
        assert ('Resuming at step' in out) == (name == 'interrupted')
    readers = [tf.train.load_checkpoint(str(tmp_path / 'checkpoint' / name / 'SAGAN' / f'SAGAN.model-{steps}'))
               for name in ('uninterrupted', 'interrupted')]
    expected, weights = ({name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
                         for reader in readers)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)

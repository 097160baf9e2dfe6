"""Read the list of workers from the environment of a Slurm step. srun starts a step."""

import os
import re

from options import UserError

# Each step uses its own block of ports, below the ephemeral ports (from 32768 on Linux).
FIRST_PORT, PORTS_PER_STEP, NUM_BLOCKS = 10000, 16, 1400
STEPS_PER_JOB = 4


def in_step():
    """Return whether this process is one of several tasks of a Slurm step, and TF_CONFIG is not set."""
    return int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1 and not os.environ.get('TF_CONFIG')


def rank():
    """Return the number of this task in its Slurm step, or 0 outside a step of several tasks."""
    return int(os.environ['SLURM_PROCID']) if in_step() else 0


def local_rank():
    """Return the number of this task on its node."""
    return int(os.environ['SLURM_LOCALID'])


def read_step():
    """Read the addresses of all tasks of this Slurm step, and the number of this task.

    Returns:
        (addresses, index) as launcher.read_task returns them.

    Raises:
        UserError: if the tasks are not numbered node by node. Node-by-node numbering is Slurm's default.
    """
    environ = os.environ
    first_port = step_port(int(environ['SLURM_JOB_ID']), int(environ['SLURM_STEP_ID']))
    tasks = [(node, local) for node, count in enumerate(task_counts(environ['SLURM_STEP_TASKS_PER_NODE']))
              for local in range(count)]
    index = rank()
    own_task = int(environ['SLURM_NODEID']), local_rank()
    if tasks[index] != own_task:
        raise UserError('the tasks of this Slurm step are not numbered node by node: add --distribution=block to srun')
    hosts = host_names(environ['SLURM_STEP_NODELIST'])
    return [f'{hosts[node]}:{first_port + local}' for node, local in tasks], index


def step_port(job, step):
    """Return the first port of a step.

    Steps of a job, or of jobs with nearby IDs, have different ports if their step IDs are below STEPS_PER_JOB.
    """
    return FIRST_PORT + (job * STEPS_PER_JOB + step) % NUM_BLOCKS * PORTS_PER_STEP


def task_counts(text):
    """Return the number of tasks on each node: '2(x3),1' is [2, 2, 2, 1]."""
    counts = []
    for count, repeats in re.findall(r'(\d+)(?:\(x(\d+)\))?', text):
        counts += [int(count)] * int(repeats or 1)
    return counts


def host_names(text):
    """Return the names of the hosts in Slurm's notation: 'a[09-10,12],b' is ['a09', 'a10', 'a12', 'b']."""
    names = []
    for item in re.findall(r'(?:\[[^]]*\]|[^],[])+', text):
        expanded = ['']
        for part in re.findall(r'\[[^]]*\]|[^][]+', item):
            expanded = [name + suffix for name in expanded for suffix in expand_ranges(part)]
        names += expanded
    return names


def expand_ranges(part):
    """Return the strings that a part of a host name stands for: '[09-10,12]' is ['09', '10', '12']."""
    if not part.startswith('['):
        return [part]
    numbers = []
    for piece in part[1:-1].split(','):
        first, _, last = piece.partition('-')
        numbers += [f'{number:0{len(first)}}' for number in range(int(first), int(last or first) + 1)]
    return numbers

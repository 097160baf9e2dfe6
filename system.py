"""Differences between Linux, macOS and Windows, one function each. This module imports only the standard library."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def is_linux():
    """Return whether this is Linux. macOS can neither pin a process to cores nor end it with its parent."""
    return sys.platform == 'linux'


def is_windows():
    """Return whether this is Windows."""
    return sys.platform == 'win32'


def available_cores():
    """Return the sorted numbers of the cores that this process may use. On macOS and Windows, return all cores."""
    if hasattr(os, 'sched_getaffinity'):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def stop_signals():
    """Return the signals that stop training: Ctrl-C, SIGTERM and, on Windows, Ctrl-Break."""
    names = 'SIGINT', 'SIGTERM', 'SIGBREAK'
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def start_process(command, cores, **options):
    """Start a process in its own session, so that it does not receive this process's Ctrl-C.

    On Linux, the new process runs only on the given cores and ends when this process ends. macOS offers neither.

    Args:
        command: a list of words.
        cores: numbers of cores.
        options: other arguments of subprocess.Popen.

    Returns:
        A subprocess.Popen.
    """
    if not is_linux():
        return subprocess.Popen(command, start_new_session=True, **options)
    libc = ctypes.CDLL(None)

    def prepare():
        os.sched_setaffinity(0, cores)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **options)


def join_command(words):
    """Return words as one command line, quoted for the shell of this system."""
    if is_windows():
        return subprocess.list2cmdline(words)
    return shlex.join(words)

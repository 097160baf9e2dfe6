"""Fixtures that several test files share."""

import contextlib
import gc
import io
import os
import subprocess
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# A proxy that does not exist, so that neither a test nor a process that it starts reaches a network.
os.environ.update(http_proxy='http://127.0.0.1:9', https_proxy='http://127.0.0.1:9', no_proxy='',
                  PYTHONDONTWRITEBYTECODE='1')

import pytest
from helpers import MAIN

import main
import SAGAN
from datasets.digits import make_digits
from evaluation import classifier
from tf1 import tf


@pytest.fixture
def sess():
    """A session with its own graph. Its random numbers are the same in every run of a test."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        yield session


@pytest.fixture(scope='session')
def small_data(tmp_path_factory):
    """A data_dir with the data set mnist: 300 training and 100 test digits. Tests that change the data copy it."""
    folder = tmp_path_factory.mktemp('data')
    (folder / 'mnist').mkdir()
    make_digits(str(folder / 'mnist'), train=300, test=100)
    return folder


@pytest.fixture
def few_statistics(monkeypatch):
    """Compute the batch norm statistics of the averaged weights from one batch, which is faster."""
    monkeypatch.setattr(SAGAN, 'STATISTICS_BATCHES', 1)


@pytest.fixture
def start_main(tmp_path):
    """A function that starts main.py in tmp_path and returns the process, whose stdout and stderr are pipes."""
    def start(*options, **kwargs):
        return subprocess.Popen([sys.executable, MAIN, *map(str, options)], cwd=tmp_path, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    return start


@pytest.fixture
def run_main(tmp_path, monkeypatch, capfd):
    """A function that runs main.main in tmp_path, in this process.

    It returns (exit code, standard output, standard error).
    """
    def run(*options):
        monkeypatch.setattr(classifier, 'MIN_STEPS', 12)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['main.py', *map(str, options)])
        capfd.readouterr()
        with tf.Graph().as_default():
            try:
                main.main()
                code = 0
            except SystemExit as error:
                code = error.code
        return code, *capfd.readouterr()
    return run


@pytest.fixture
def build_model(sess, tmp_path, small_data, few_statistics):
    """A function that builds a SAGAN with its folders under tmp_path and its variables at their initial values."""
    def build(**options):
        folders = {'checkpoint_dir': str(tmp_path / 'checkpoint'), 'result_dir': str(tmp_path / 'results'),
                   'log_dir': str(tmp_path / 'log'), 'data_dir': str(small_data)}
        model = SAGAN.SAGAN(sess, **{**folders, **options})
        model.build_model()
        sess.run(tf.global_variables_initializer())
        model.refresh_statistics()
        return model
    return build


@pytest.fixture(scope='session')
def run_main_in():
    """A function that runs main.main in a given folder, in this process, for fixtures of a wider scope than run_main.

    It returns (exit code, standard output, standard error).
    """
    def run(folder, *options):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, tf.Graph().as_default(), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(classifier, 'MIN_STEPS', 12)
            patch.setattr(SAGAN, 'STATISTICS_BATCHES', 1)
            patch.chdir(folder)
            patch.setattr(sys, 'argv', ['main.py', *map(str, options)])
            try:
                main.main()
                code = 0
            except SystemExit as error:
                code = error.code
        gc.collect()  # a session keeps its variables until it is deleted
        return code, out.getvalue(), err.getvalue()
    return run


@pytest.fixture(autouse=True)
def free_sessions(request):
    """Free the sessions of a slow test. Each holds up to 300 MB and is part of a reference cycle."""
    yield
    if request.node.get_closest_marker('slow'):
        gc.collect()

"""What the tests share: a small data set, a fresh graph, and main.py as a user starts it."""

import os
import subprocess
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# A proxy where nothing listens, so that no test reaches a network, nor does what it starts.
os.environ.update(http_proxy='http://127.0.0.1:9', https_proxy='http://127.0.0.1:9', no_proxy='',
                  PYTHONDONTWRITEBYTECODE='1')

import pytest
from helpers import MAIN

import main
import SAGAN
import sampling
from datasets.idx import make_digits
from evaluation import classifier
from tf1 import tf


@pytest.fixture
def sess():
    """A session on a graph of its own, whose random numbers are the same in each run of a test."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        yield session


@pytest.fixture(scope='session')
def small_data(tmp_path_factory):
    """A data_dir with 300 + 100 digits under the name of mnist; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp('data')
    (folder / 'mnist').mkdir()
    make_digits(str(folder / 'mnist'), train=300, test=100)
    return folder


@pytest.fixture
def start(tmp_path):
    """Start main.py in an empty folder -> the process; its standard output and error are pipes."""
    def start_main(*options, **kwargs):
        return subprocess.Popen([sys.executable, MAIN, *map(str, options)], cwd=tmp_path, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    return start_main


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run main.py's main in an empty folder, in this process -> (exit code, standard output, standard error)."""
    def run_main(*options):
        monkeypatch.setattr(classifier, 'LEAST_STEPS', 12)
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
    return run_main


@pytest.fixture
def build(sess, tmp_path, small_data, monkeypatch):
    """Build a SAGAN whose folders lie in an empty folder, its variables at their initial values."""
    monkeypatch.setattr(sampling, 'STATISTICS_BATCHES', 1)

    def build_model(**options):
        folders = {f'{kind}_dir': str(tmp_path / kind) for kind in ('checkpoint', 'log')}
        folders.update(result_dir=str(tmp_path / 'results'), data_dir=str(small_data))
        model = SAGAN.SAGAN(sess, **{**folders, **options})
        model.build_model()
        sess.run(tf.global_variables_initializer())
        model.refresh_statistics()
        return model
    return build_model

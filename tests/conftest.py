"""What the tests share: a small data set, a fresh graph, and main.py as a user starts it."""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# A proxy where nothing listens, so that no test reaches a network, nor does what it starts.
os.environ.update(http_proxy='http://127.0.0.1:9', https_proxy='http://127.0.0.1:9', no_proxy='',
                  PYTHONDONTWRITEBYTECODE='1')

import pytest

import datasets
import main
import metrics
import SAGAN
import sampling
from tf1 import tf
from utils import draw_z

MAIN = pathlib.Path(__file__).parents[1] / 'main.py'


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
    datasets.make_digits(str(folder / 'mnist'), train=300, test=100)
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
        monkeypatch.setattr(metrics, 'LEAST_STEPS', 12)
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


SMALL = 12, 16, 1  # an image_shape that is quick to compute


def images_and_z(model, count, step=0):
    """A batch to train on, as the feed of that step; of each image as much as fits the model's image_shape."""
    (images, _), _ = datasets.load_mnist('mnist', model.data_dir)
    height, width, _ = model.image_shape
    return {model.inputs: images[step * count:(step + 1) * count, -height:, -width:] / 255,
            model.z: draw_z(count, model.z_dim, 7, step), model.step: step}

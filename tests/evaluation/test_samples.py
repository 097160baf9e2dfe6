"""Samples as files."""

import os

import imageio.v3 as imageio
import numpy as np
import pytest
from helpers import ROOT

from datasets import load_dataset
from evaluation.samples import write_single_images
from tf1 import tf


def draw(count, channels=1):
    """Return random pixels [count, 12, 16, channels] and z [count, 5]."""
    rng = np.random.default_rng(count)
    return rng.integers(256, size=[count, 12, 16, channels], dtype=np.uint8), rng.standard_normal([count, 5])


@pytest.mark.parametrize('channels', [1, 3])
def test_write_single_images_writes_a_png_per_image(tmp_path, channels):
    pixels, z = draw(3, channels)
    write_single_images(str(tmp_path / 'samples'), pixels, z)
    for number, image in enumerate(pixels):
        assert (imageio.imread(tmp_path / 'samples' / f'{number:05d}.png') == image.squeeze()).all()


@pytest.mark.parametrize('channels', [1, 3])
def test_write_single_images_writes_pixels_and_z_to_one_file(tmp_path, channels):
    pixels, z = draw(3, channels)
    write_single_images(str(tmp_path / 'samples'), pixels, z)
    saved = np.load(tmp_path / 'samples' / 'samples.npz')
    assert sorted(saved.files) == ['arr_0', 'z']
    assert saved['arr_0'].dtype == np.uint8
    assert (saved['arr_0'] == pixels).all() and (saved['z'] == z).all()


@pytest.mark.parametrize('channels', [1, 3])
def test_write_single_images_writes_an_array_for_the_evaluator_of_guided_diffusion(tmp_path, channels):
    """The evaluator feeds arr_0 as float32 to a placeholder of this shape."""
    pixels, z = draw(2, channels)
    write_single_images(str(tmp_path / 'samples'), pixels, z)
    images = np.load(tmp_path / 'samples' / 'samples.npz')['arr_0'].astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as sess:
        image_input = tf.placeholder(tf.float32, [None, None, None, 3])
        fed = sess.run(image_input[..., 2], {image_input: images})
    np.testing.assert_array_equal(fed, pixels[..., -1])


def test_documented_lines_write_real_images(small_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(small_data)
    lines = (ROOT / 'docs' / 'evaluation.md').read_text().split('```python\n')[1].split('```')[0]
    exec(lines, {})
    images, labels = load_dataset('mnist', small_data).test
    saved = np.load(tmp_path / 'results' / 'mnist_test' / 'samples.npz')
    assert (saved['arr_0'] == images).all() and (saved['arr_1'] == labels).all()


def test_write_single_images_writes_labels(tmp_path):
    write_single_images(str(tmp_path / 'samples'), *draw(3), labels=np.array([2, 0, 1]))
    assert np.load(tmp_path / 'samples' / 'samples.npz')['arr_1'].tolist() == [2, 0, 1]


def test_write_single_images_replaces_the_folder(tmp_path):
    for count in 3, 1:
        write_single_images(str(tmp_path / 'samples'), *draw(count))
    assert sorted(os.listdir(tmp_path / 'samples')) == ['00000.png', 'samples.npz']


def test_write_single_images_leaves_no_other_folder(tmp_path):
    write_single_images(str(tmp_path / 'samples'), *draw(1))
    assert os.listdir(tmp_path) == ['samples']

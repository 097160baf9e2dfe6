"""The attention maps of a model, the figure and the page."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
from tiny_gan import TinyGAN, folders_in, open_model, random_dataset

import SAGAN as module
from datasets import load_dataset
from evaluation.attention import (
    attention_sections,
    layer_maps,
    real_images,
    take_snapshot,
    write_attention_figure,
    write_attention_page,
)
from explorer.snapshots import SNAPSHOT_IMAGES, LayerMaps, make_snapshot, write_snapshot
from utils import Stream, draw_z, to_uint8


@pytest.fixture(scope='module', autouse=True)
def one_batch_of_statistics():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'STATISTICS_BATCHES', 1)
        yield


@pytest.fixture(scope='module')
def model(tmp_path_factory, small_data):
    """A TinyGAN for MNIST. Its attention layers have 14 x 14 positions and 7 x 7 keys; the gammas are 0.25 and 0.5."""
    with open_model(TinyGAN, attention='paper', data_dir=str(small_data),
                    **folders_in(tmp_path_factory.mktemp('model'))) as model:
        generator, = model.layers['generator']
        discriminator, = model.layers['discriminator']
        generator.gamma.load([0.25], model.sess)
        discriminator.gamma.load([0.5], model.sess)
        yield model


@pytest.fixture(scope='module')
def z():
    return draw_z(2, 62, 0)


def map_of(model, network, feed):
    """Return the attention map of a network's layer as [2, 14, 14, 7, 7]."""
    return model.sess.run(f'{network}/attention/attention_map:0', feed).reshape(2, 14, 14, 7, 7)


##################################################################################
# Images and maps
##################################################################################

def test_real_images_are_the_first_test_images(model):
    test_images, _ = load_dataset('mnist', model.config.data_dir).test
    np.testing.assert_allclose(real_images(model.config, 3) * 255, test_images[:3], rtol=1e-6)


def test_real_images_come_from_a_loaded_dataset(model):
    dataset = random_dataset((28, 28, 1))
    test_images, _ = dataset.test
    np.testing.assert_allclose(real_images(model.config, 3, dataset) * 255, test_images[:3], rtol=1e-6)


def test_real_images_are_none_without_a_data_set(model):
    assert real_images(dataclasses.replace(model.config, data_dir='none'), 3) is None


def test_real_images_are_none_if_the_test_split_is_too_small(model):
    assert real_images(model.config, 9, random_dataset((28, 28, 1), test=8)) is None


def test_layer_maps_show_the_generator_on_its_own_images(model, z):
    maps, _ = layer_maps(model, z, None, None)
    assert maps.network == 'generator'
    np.testing.assert_allclose(maps.images, model.sample(z), atol=1e-5)
    np.testing.assert_allclose(maps.maps, map_of(model, 'generator', {model.z: z}), atol=1e-5)


def test_layer_maps_show_the_discriminator_on_real_images(model, z):
    real = real_images(model.config, 2)
    _, maps = layer_maps(model, z, None, real)
    assert maps.network == 'discriminator' and maps.images is real
    np.testing.assert_allclose(maps.maps, map_of(model, 'discriminator', {model.inputs: real}), atol=1e-5)


def test_layer_maps_show_the_discriminator_on_generated_images_without_real_ones(model, z):
    generator, discriminator = layer_maps(model, z, None, None)
    assert discriminator.images is generator.images


def test_layer_maps_have_the_gamma_of_their_layer(model, z):
    assert [maps.gamma for maps in layer_maps(model, z, None, None)] == [0.25, 0.5]


def test_layer_maps_sum_to_1_over_the_keys(model, z):
    for maps in layer_maps(model, z, None, None):
        np.testing.assert_allclose(maps.maps.sum((3, 4)), 1, rtol=1e-5)


##################################################################################
# The figure
##################################################################################

def sections_of(model, z, monkeypatch, **options):
    monkeypatch.setattr(model, 'config', dataclasses.replace(model.config, **options))
    return attention_sections(model, z)


def test_attention_sections_are_titled_by_network_images_and_gamma(model, z):
    assert [title for title, _, _ in attention_sections(model, z)] == [
        'Generator, on its own images (gamma 0.250)', 'Discriminator, on real test images (gamma 0.500)']


def test_attention_sections_without_a_data_set_are_on_generated_images(model, z, monkeypatch):
    (_, generated, _), (title, images, _) = sections_of(model, z, monkeypatch, data_dir='none')
    assert title == 'Discriminator, on generated images (gamma 0.500)'
    assert images is generated


@pytest.mark.parametrize('network', ['generator', 'discriminator'])
def test_attention_of_selects_the_network(model, z, monkeypatch, network):
    (title, _, _), = sections_of(model, z, monkeypatch, attention_of=network)
    assert title.startswith(network.capitalize())


def test_write_attention_figure_writes_a_file_with_the_suffix(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model.run, 'results', str(tmp_path))
    write_attention_figure(model, 7, 0, '_step7')
    assert [path.name for path in tmp_path.iterdir()] == ['SAGAN_attention_step7.png']


def test_write_attention_figure_writes_nothing_without_attention_layers(tmp_path, small_data):
    with open_model(TinyGAN, attention='none', data_dir=str(small_data), **folders_in(tmp_path)) as model:
        write_attention_figure(model, 7, 0)
    assert list(tmp_path.iterdir()) == []


##################################################################################
# Snapshots and the page
##################################################################################

def test_take_snapshot_shows_the_first_z_of_the_training_grids(model):
    _, arrays = take_snapshot(model, None, 2, 30)
    z = draw_z(SNAPSHOT_IMAGES, 62, model.config.seed, Stream.FIXED_Z)
    np.testing.assert_array_equal(arrays['generator'], to_uint8(model.sample(z)))


@pytest.mark.parametrize('has_real_images', [True, False])
def test_take_snapshot_records_epoch_step_and_the_kind_of_images(model, has_real_images):
    real = real_images(model.config, SNAPSHOT_IMAGES) if has_real_images else None
    metadata, _ = take_snapshot(model, real, 2, 30)
    assert (metadata['epoch'], metadata['step'], metadata['real']) == (2, 30, has_real_images)


@pytest.fixture(scope='module')
def conditional_model(tmp_path_factory):
    """A model of 3 classes, whose different betas make the classes visible in the images."""
    with open_model(TinyGAN, image_shape=(8, 8, 1), attention='paper', conditional=True, classes=3,
                    **folders_in(tmp_path_factory.mktemp('conditional'))) as model:
        beta = model.averages[[v.op.name for v in model.g_variables].index('generator/g_bn1/beta')]
        beta.load(np.random.default_rng(0).normal(size=[3, 8]), model.sess)
        yield model


@pytest.mark.slow
def test_take_snapshot_of_a_conditional_model_shows_each_z_in_each_class(conditional_model):
    _, arrays = take_snapshot(conditional_model, None, 2, 30)
    z = np.repeat(draw_z(3, 62, 0, Stream.FIXED_Z), 3, 0)[:SNAPSHOT_IMAGES]
    expected = to_uint8(conditional_model.sample(z, np.array([0, 1, 2, 0, 1, 2, 0, 1])))
    np.testing.assert_array_equal(arrays['generator'], expected)


@pytest.mark.slow
def test_take_snapshot_of_one_class_shows_different_z_in_it(conditional_model, monkeypatch):
    monkeypatch.setattr(conditional_model, 'target_class', 2)
    _, arrays = take_snapshot(conditional_model, None, 2, 30, key=(5, Stream.FIGURE_Z))
    expected = to_uint8(conditional_model.sample(draw_z(SNAPSHOT_IMAGES, 62, 5, Stream.FIGURE_Z), np.full(8, 2)))
    np.testing.assert_array_equal(arrays['generator'], expected)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """The run of the model, with empty folders."""
    (tmp_path / 'maps').mkdir()
    monkeypatch.setattr(model.run, 'results', str(tmp_path))
    monkeypatch.setattr(model.run, 'snapshots', str(tmp_path / 'maps'))
    return model.run


def snapshot_of(epoch, step):
    rng = np.random.default_rng(step)
    maps = rng.dirichlet(np.ones(16), [2, 16]).reshape(2, 4, 4, 4, 4)
    return make_snapshot([LayerMaps('generator', 0.5, rng.random([2, 8, 8, 1]), maps)], epoch, step, True)


def snapshots_on(page):
    """Return (epoch, step) of each snapshot on a page."""
    snapshots, = re.findall(r'"snapshots":(\[.*?\])', pathlib.Path(page).read_text())
    return [(snapshot['epoch'], snapshot['step']) for snapshot in json.loads(snapshots)]


def test_write_attention_page_writes_nothing_without_snapshots(run, tmp_path):
    write_attention_page(run)
    assert [path.name for path in tmp_path.iterdir()] == ['maps']


def test_write_attention_page_shows_the_snapshots_of_training(run):
    write_snapshot(run.snapshots, snapshot_of(1, 10))
    write_snapshot(run.snapshots, snapshot_of(2, 20))
    write_attention_page(run)
    assert snapshots_on(run.result_path('explorer.html')) == [(1, 10), (2, 20)]


def test_write_attention_page_can_leave_out_the_snapshots_of_training(run):
    write_snapshot(run.snapshots, snapshot_of(1, 10))
    write_attention_page(run, snapshot_of(0, 15), '_label7', with_saved=False)
    assert snapshots_on(run.result_path('explorer.html', '_label7')) == [(0, 15)]


def test_write_attention_page_inserts_another_snapshot_by_its_step(run):
    write_snapshot(run.snapshots, snapshot_of(1, 10))
    write_snapshot(run.snapshots, snapshot_of(2, 20))
    write_attention_page(run, snapshot_of(0, 15), '_step15')
    assert snapshots_on(run.result_path('explorer.html', '_step15')) == [(1, 10), (0, 15), (2, 20)]


def test_write_attention_page_replaces_the_snapshot_of_the_same_step_and_keeps_its_epoch(run):
    write_snapshot(run.snapshots, snapshot_of(1, 10))
    write_attention_page(run, snapshot_of(0, 10))
    assert snapshots_on(run.result_path('explorer.html')) == [(1, 10)]

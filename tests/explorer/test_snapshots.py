"""Attention snapshots: their content, their files, and which of them are read."""

import json
import shutil

import numpy as np
import pytest
from helpers import SMALL

from evaluation.attention import take_snapshot
from explorer import snapshots
from explorer.snapshots import (
    SNAPSHOT_IMAGES,
    LayerMaps,
    make_snapshot,
    read_snapshots,
    snapshot_paths,
    write_snapshot,
)
from utils import Stream


def random_layer(seed, grid=(3, 4), network='generator', gamma=0.5):
    """Return a LayerMaps of two random images and maps."""
    rng = np.random.default_rng(seed)
    maps = rng.random([2, *grid, *grid]) ** 8
    maps /= maps.sum((-1, -2), keepdims=True)
    return LayerMaps(network, gamma, rng.random([2, grid[0] * 2, grid[1] * 2, 3]), maps)


def flat_maps(layer):
    """Return the maps as [K, N, M]."""
    count, rows, columns = layer.maps.shape[:3]
    return layer.maps.reshape(count, rows * columns, -1)


def write_steps(folder, steps):
    """Write one snapshot per step; return the size of a file."""
    for step in steps:
        write_snapshot(folder, make_snapshot([random_layer(step)], step, step, True))
    return (folder / f'{steps[0]}.npz').stat().st_size


def steps_of(read):
    return [metadata['step'] for metadata, _ in read]


def test_make_snapshot_records_weights_in_255ths_of_the_largest():
    layer = random_layer(0)
    _, arrays = make_snapshot([layer], 1, 10, True)
    maps = flat_maps(layer)
    np.testing.assert_allclose(arrays['most_0'], maps.max(2), rtol=1e-6)
    np.testing.assert_allclose(arrays['shares_0'], 255 * maps / maps.max(2, keepdims=True), atol=0.501)


def test_make_snapshot_records_images_as_bytes():
    layer = random_layer(0)
    _, arrays = make_snapshot([layer], 1, 10, True)
    assert (arrays['generator'] == np.round(255 * layer.images)).all()


def test_make_snapshot_keeps_the_32_largest_weights_of_a_large_map():
    layer = random_layer(0, grid=(17, 16))
    _, arrays = make_snapshot([layer], 1, 10, True)
    largest = np.argsort(flat_maps(layer), 2)[:, :, -32:]
    assert (np.sort(arrays['keys_0'], 2) == np.sort(largest, 2)).all()


def test_make_snapshot_keeps_weights_of_a_large_map_in_the_order_of_their_keys():
    layer = random_layer(0, grid=(17, 16))
    _, arrays = make_snapshot([layer], 1, 10, True)
    maps = flat_maps(layer)
    weights = np.take_along_axis(maps, arrays['keys_0'].astype(int), 2)
    np.testing.assert_allclose(arrays['shares_0'], 255 * weights / maps.max(2, keepdims=True), atol=0.501)


def test_make_snapshot_sums_the_other_weights_of_a_large_map():
    layer = random_layer(0, grid=(17, 16))
    _, arrays = make_snapshot([layer], 1, 10, True)
    np.testing.assert_allclose(arrays['rest_0'], np.sort(flat_maps(layer), 2)[:, :, :-32].sum(2), atol=1e-6)


def test_make_snapshot_keeps_all_weights_of_256_positions():
    _, arrays = make_snapshot([random_layer(0, grid=(16, 16))], 1, 10, True)
    assert arrays['shares_0'].shape == (2, 256, 256)


def test_make_snapshot_replaces_nan_with_0():
    layer = random_layer(0)
    metadata, arrays = make_snapshot([layer._replace(gamma=np.nan, maps=np.full_like(layer.maps, np.nan))], 1, 10, True)
    assert metadata['layers'][0]['gamma'] == 0
    assert not arrays['most_0'].any()
    assert not arrays['shares_0'].any()


def test_snapshot_file_format(tmp_path):
    layers = [random_layer(0), random_layer(1, grid=(17, 16), network='discriminator', gamma=-0.25)]
    write_snapshot(tmp_path, make_snapshot(layers, 2, 10, True))
    with np.load(tmp_path / '10.npz') as file:
        arrays = {name: (array.dtype.name, array.shape) for name, array in file.items()}
        metadata = json.loads(str(file['facts']))
    del arrays['facts']
    assert arrays == {
        'generator': ('uint8', (2, 6, 8, 3)), 'most_0': ('float32', (2, 12)), 'shares_0': ('uint8', (2, 12, 12)),
        'discriminator': ('uint8', (2, 34, 32, 3)), 'most_1': ('float32', (2, 272)),
        'shares_1': ('uint8', (2, 272, 32)), 'keys_1': ('uint16', (2, 272, 32)), 'rest_1': ('float32', (2, 272))}
    assert metadata == {'epoch': 2, 'step': 10, 'real': True, 'layers': [
        {'network': 'generator', 'positions': [3, 4], 'keys': [3, 4], 'gamma': 0.5},
        {'network': 'discriminator', 'positions': [17, 16], 'keys': [17, 16], 'gamma': -0.25}]}


def test_read_snapshots_returns_what_was_written(tmp_path):
    metadata, arrays = make_snapshot([random_layer(0)], 2, 10, True)
    write_snapshot(tmp_path, (metadata, arrays))
    [(read_metadata, read_arrays)], left_out = read_snapshots(tmp_path)
    assert read_metadata == json.loads(json.dumps(metadata))
    assert read_arrays.keys() == arrays.keys()
    assert all((read_arrays[name] == arrays[name]).all() for name in arrays)
    assert left_out == 0


def test_snapshot_paths_are_sorted_by_step(tmp_path):
    for name in '10.npz', '9.npz', '100.npz', 'x.npz', '9.npz.1.part':
        (tmp_path / name).touch()
    assert list(snapshot_paths(tmp_path).items()) == [(step, tmp_path / f'{step}.npz') for step in (9, 10, 100)]


def test_read_snapshots_leaves_out_every_other_snapshot_above_the_limit(tmp_path, monkeypatch):
    size = write_steps(tmp_path, range(1, 14))
    monkeypatch.setattr(snapshots, 'PAGE_BYTES', size * 7.5 * 4 / 3)
    read, left_out = read_snapshots(tmp_path)
    assert steps_of(read) == [1, 3, 5, 7, 9, 11, 13]  # the last one stays
    assert left_out == 6


def test_read_snapshots_never_leaves_out_requested_steps(tmp_path, monkeypatch):
    size = write_steps(tmp_path, range(1, 13))
    monkeypatch.setattr(snapshots, 'PAGE_BYTES', size * 6.5 * 4 / 3)
    read, left_out = read_snapshots(tmp_path, 5)
    assert steps_of(read) == [2, 4, 5, 6, 8, 10, 12]
    assert left_out == 5


def test_read_snapshots_keeps_at_least_four(tmp_path, monkeypatch):
    write_steps(tmp_path, range(1, 17))
    monkeypatch.setattr(snapshots, 'PAGE_BYTES', 1)
    assert steps_of(read_snapshots(tmp_path)[0]) == [4, 8, 12, 16]


def test_read_snapshots_reports_and_leaves_out_damaged_files(tmp_path, capfd):
    write_steps(tmp_path, [1, 2, 3])
    (tmp_path / '2.npz').write_bytes(b'PK damaged')
    read, left_out = read_snapshots(tmp_path)
    out = capfd.readouterr().out
    assert steps_of(read) == [1, 3]
    assert left_out == 1
    assert out.startswith(f'{tmp_path}/2.npz is left out') and out.count('\n') == 1


def test_read_snapshots_survives_a_flipped_bit_anywhere(tmp_path):
    write_steps(tmp_path, [1])
    path = tmp_path / '1.npz'
    data = path.read_bytes()
    for i in range(0, len(data), len(data) // 150):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1:])
        read, left_out = read_snapshots(tmp_path)
        assert len(read) + left_out == 1


@pytest.mark.slow
def test_model_snapshot_applies_the_discriminator_to_real_images(build_model):
    model = build_model(image_shape=SMALL)
    real = np.random.default_rng(0).random([SNAPSHOT_IMAGES, *SMALL]).astype(np.float32)
    metadata, arrays = take_snapshot(model, real, 2, 30)
    assert (metadata['epoch'], metadata['step'], metadata['real']) == (2, 30, True)
    assert (arrays['discriminator'] == np.round(255 * real)).all()


@pytest.mark.slow
def test_model_snapshot_shows_generated_images_of_the_fixed_z(build_model):
    model = build_model(image_shape=SMALL)
    _, arrays = take_snapshot(model, None, 2, 30)
    z = model.draw_z(SNAPSHOT_IMAGES, model.config.seed, Stream.FIXED_Z)
    expected = np.round(255 * model.sample(z))
    assert (arrays['generator'] == expected).all()
    assert (arrays['discriminator'] == expected).all()
    assert (z[:4] == model.draw_grid(model.config.seed, Stream.FIXED_Z)[0][:4]).all()  # the z of the sample grids


@pytest.mark.slow
def test_model_snapshot_records_the_attention_map_of_the_graph(build_model):
    model = build_model(image_shape=SMALL)
    z = model.draw_z(SNAPSHOT_IMAGES, model.config.seed, Stream.FIXED_Z)
    beta = model.fetch(model.layers['generator'][0].attention_map, z)  # [K, N, N]
    metadata, arrays = take_snapshot(model, None, 2, 30)
    weights = arrays['shares_0'] / 255 * arrays['most_0'][:, :, None]
    assert metadata['layers'][0]['positions'] == (3, 4)
    assert (abs(weights - beta) <= beta.max(2, keepdims=True) * 0.501 / 255 + 1e-7).all()


@pytest.fixture
def training_options(small_data, few_statistics):
    """The options of a run with two steps per epoch."""
    return ['--dataset', 'mnist', '--data_dir', small_data, '--network', 'dcgan', '--ch', 8, '--img_size', 32,
            '--batch_size', 8, '--iteration', 2, '--save_freq', 2, '--sample_num', 4]


@pytest.mark.slow
def test_resumed_run_has_the_snapshots_and_page_of_an_uninterrupted_run(run_main, tmp_path, training_options):
    assert run_main(*training_options, '--epoch', 3, '--name', 'whole')[0] == 0
    assert run_main(*training_options, '--epoch', 1, '--name', 'parts')[0] == 0
    whole, parts = (tmp_path / 'results' / name for name in ('whole', 'parts'))
    # After a kill, a snapshot may be newer than the checkpoint.
    shutil.copy(parts / 'SAGAN_maps' / '2.npz', parts / 'SAGAN_maps' / '8.npz')
    assert run_main(*training_options, '--epoch', 3, '--name', 'parts')[0] == 0
    assert list(snapshot_paths(whole / 'SAGAN_maps')) == [2, 4, 6]
    assert list(snapshot_paths(parts / 'SAGAN_maps')) == [2, 4, 6]
    for step in 2, 4, 6:
        with np.load(whole / f'SAGAN_maps/{step}.npz') as one, np.load(parts / f'SAGAN_maps/{step}.npz') as other:
            assert one.files == other.files
            assert all((one[name] == other[name]).all() for name in one.files)
    page = (whole / 'SAGAN_explorer.html').read_text()
    assert (parts / 'SAGAN_explorer.html').read_text() == page.replace('"title":"whole"', '"title":"parts"')


@pytest.mark.slow
def test_phase_test_adds_a_snapshot_of_its_step_to_the_page(run_main, tmp_path, training_options):
    assert run_main(*training_options, '--epoch', 2, '--name', 'run')[0] == 0
    (tmp_path / 'results/run/SAGAN_maps/4.npz').unlink()
    assert run_main('--phase', 'test', '--name', 'run', '--test_num', 1)[0] == 0
    assert '"snapshots":[{"epoch":1,"step":2,"real":true},{"epoch":0,"step":4,"real":true}]' in (
        tmp_path / 'results/run/SAGAN_explorer.html').read_text()

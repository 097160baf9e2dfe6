"""Feature extraction and reference statistics, with small files that the tests write."""

import re

import numpy as np
import pytest

from evaluation.features import check_reference, load_features, load_reference, split_spec
from evaluation.metrics import frechet_of_statistics
from evaluation.progress import Progress
from options import UserError
from tf1 import tf

WEIGHTS = np.float32([[1, 0], [0, 2], [-1, 1]])  # [3, 2]


def pooled_features(images):
    """Return the mean colour of the images [B, H, W, 3], multiplied by WEIGHTS: [B, 1, 1, 2]."""
    mean = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])
    return tf.reshape(tf.matmul(mean, WEIGHTS), [-1, 1, 1, 2])


def expected_features(pixels):
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3)).mean((1, 2)) @ WEIGHTS


def write_frozen_graph(path, input_name='ExpandDims', output_name='pool_3', shape=(1, None, None, 3)):
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, shape, input_name)
        tf.identity(pooled_features(images), output_name)
        path.write_bytes(graph.as_graph_def().SerializeToString())
    return str(path)


def write_saved_model(path, input_name='images', dtype=tf.float32):
    with tf.Graph().as_default(), tf.Session() as sess:
        images = tf.placeholder(dtype, [None, None, None, 3])
        scale = tf.get_variable('scale', initializer=1.)
        sess.run(tf.global_variables_initializer())
        features = pooled_features(images) * scale
        tf.saved_model.simple_save(sess, str(path), {input_name: images}, {'features': features})
    return str(path)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, [120, 4, 5, 3]).astype(np.uint8)


def test_frozen_graph_uses_the_tensors_of_the_original_fid_by_default(tmp_path, pixels):
    """The graph was frozen with batches of one image, as the Inception graph was."""
    features, probabilities = load_features(write_frozen_graph(tmp_path / 'graph.pb'), 3)(pixels)
    np.testing.assert_allclose(features, expected_features(pixels), rtol=1e-4)
    assert probabilities is None


def test_frozen_graph_uses_the_given_tensors(tmp_path, pixels):
    path = write_frozen_graph(tmp_path / 'graph.pb', 'x', 'y')
    features, _ = load_features(f'{path}:x:0:y:0', 3)(pixels)
    np.testing.assert_allclose(features, expected_features(pixels), rtol=1e-4)


@pytest.mark.parametrize('dtype', [tf.float32, tf.uint8])
def test_saved_model_maps_images_to_features(tmp_path, pixels, dtype):
    features, _ = load_features(write_saved_model(tmp_path / 'model', dtype=dtype), 3)(pixels)
    np.testing.assert_allclose(features, expected_features(pixels), rtol=1e-4)


def test_grey_images_are_repeated_in_three_channels(tmp_path, pixels, capsys):
    features, _ = load_features(write_frozen_graph(tmp_path / 'graph.pb'), 1)(pixels[..., :1])
    np.testing.assert_allclose(features, expected_features(pixels[..., :1]), rtol=1e-4)
    assert re.search(r'Grey images are repeated in three channels for .*graph.pb\n$', capsys.readouterr().out)


def test_grey_images_stay_grey_for_a_network_of_one_channel(tmp_path, pixels):
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.float32, [None, 4, 5, 1], 'x')
        tf.reshape(images, [-1, 20], 'y')
        (tmp_path / 'graph.pb').write_bytes(graph.as_graph_def().SerializeToString())
    features, _ = load_features(f'{tmp_path}/graph.pb:x:y', 1)(pixels[..., :1])
    np.testing.assert_array_equal(features, pixels[..., 0].reshape(120, 20))


def test_extract_counts_images(tmp_path, pixels, capsys):
    with Progress('Features', 120) as progress:
        load_features(write_frozen_graph(tmp_path / 'graph.pb'), 3)(pixels, progress)
    assert progress.done == 120


@pytest.mark.parametrize('spec, parts', [
    ('a/graph.pb', ('a/graph.pb', 'ExpandDims:0', 'pool_3:0')),
    ('graph.pb:x:y', ('graph.pb', 'x:0', 'y:0')),
    ('graph.pb:scope/x:0:scope/y:0', ('graph.pb', 'scope/x:0', 'scope/y:0')),
    ('C:/graph.pb', ('C:/graph.pb', 'ExpandDims:0', 'pool_3:0')),
    ('C:/graph.pb:x:y', ('C:/graph.pb', 'x:0', 'y:0'))])
def test_split_spec_separates_file_and_tensors(spec, parts):
    assert split_spec(spec) == parts


@pytest.mark.parametrize('spec, words', [
    ('missing.pb', 'missing.pb cannot be read'), ('text.pb', 'text.pb has no tensors ExpandDims:0 and pool_3:0'),
    ('graph.pb:x:z', 'graph.pb has no tensors x:0 and z:0'), ('empty', 'empty is not a SavedModel'),
    ('model', r'model has no signature with an input images and an output features \(signatures: .*serving_default')])
def test_load_features_refuses_what_is_not_a_network(tmp_path, monkeypatch, spec, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.pb').write_text('not a graph')
    write_frozen_graph(tmp_path / 'graph.pb', 'x', 'y')
    (tmp_path / 'empty').mkdir()
    write_saved_model(tmp_path / 'model', input_name='pixels')
    with pytest.raises(UserError, match=f'^{words}.*: pass a frozen graph as FILE:INPUT:OUTPUT, or a SavedModel'):
        load_features(spec, 3)


def test_extract_refuses_images_that_do_not_fit(tmp_path, pixels):
    extract = load_features(write_frozen_graph(tmp_path / 'graph.pb', shape=(None, 8, 8, 3)), 3)
    with pytest.raises(UserError, match='graph.pb cannot process images of 4 x 5 x 3'):
        extract(pixels)


##################################################################################
# The reference
##################################################################################

@pytest.fixture
def reference_path(tmp_path):
    return tmp_path / 'fid.npz'


def test_load_reference_reads_mean_and_covariance(reference_path):
    np.savez(reference_path, mu=np.array([1., 2.]), sigma=np.eye(2))
    reference = load_reference(reference_path)
    assert (reference.name, reference.features) == ('fid.npz', None)
    other = load_reference(reference_path).statistics._replace(mean=np.array([4., 6.]))
    assert frechet_of_statistics(reference.statistics, other) == pytest.approx(3 ** 2 + 4 ** 2)


def test_load_reference_computes_the_statistics_of_activations(reference_path):
    activations = np.random.default_rng(0).normal(size=[20, 1, 1, 3])
    np.savez(reference_path, activations=activations)
    reference = load_reference(reference_path)
    features = activations.reshape(20, 3)
    np.testing.assert_array_equal(reference.features, features)
    np.testing.assert_allclose(reference.statistics.covariance, np.cov(features.T))


@pytest.mark.parametrize('arrays, words', [
    ({'mu': np.ones(2)}, 'neither mu and sigma nor'), ({'other': np.ones(2)}, 'neither mu and sigma nor'),
    ({'mu': np.ones(2), 'sigma': np.eye(3)}, r'mu has 2 values, but sigma is \[3, 3\]'),
    ({'mu': np.array([1, np.nan]), 'sigma': np.eye(2)}, 'mu holds values that are not finite'),
    ({'mu': np.array(['a', 'b']), 'sigma': np.eye(2)}, 'mu holds values that are not finite'),
    ({'mu': np.array([{}, {}]), 'sigma': np.eye(2)}, 'cannot be read'),
    ({'activations': np.float32(3)}, 'activations is not'), ({'activations': np.ones([1, 2])}, 'activations is not')],
    ids=['no sigma', 'other names', 'shapes', 'NaN', 'text', 'objects', 'a number', 'one image'])
def test_load_reference_refuses_other_arrays(reference_path, arrays, words):
    np.savez(reference_path, **arrays)
    with pytest.raises(UserError, match=f'fid.npz .*{words}'):
        load_reference(reference_path)


@pytest.mark.parametrize('content', [None, b'', b'no zip file', b'PK\x03\x04 cut off'])
def test_load_reference_refuses_damaged_files(reference_path, content):
    if content is not None:
        reference_path.write_bytes(content)
    with pytest.raises(UserError, match='fid.npz cannot be read'):
        load_reference(reference_path)


def test_check_reference_refuses_features_of_another_size(tmp_path, reference_path, pixels):
    np.savez(reference_path, mu=np.ones(3), sigma=np.eye(3))
    extract = load_features(write_frozen_graph(tmp_path / 'graph.pb'), 3)
    with pytest.raises(UserError, match='its features have 3 dimensions, those of --features have 2'):
        check_reference(load_reference(reference_path), extract, pixels[:2])

import os

import numpy as np
import pytest

from datasets import Dataset, load_dataset
from evaluation import classifier
from evaluation.classifier import load_classifier, rotate_images
from evaluation.metrics import class_accuracy
from options import UserError
from tf1 import tf

NUM_CLASSES = 4


def shaded_images(count, size, channels, rng):
    """Return images that get brighter towards one of their four sides, and these sides as labels."""
    sides = rng.integers(NUM_CLASSES, size=count)
    shade = np.linspace(0, 200, size)[:, None, None] + rng.integers(0, 50, [count, size, size, channels])
    return rotate_images(shade.astype(np.uint8), sides), sides


def shaded_dataset(size=12, channels=1, digest='its digest'):
    rng = np.random.default_rng(0)
    return Dataset(shaded_images(120, size, channels, rng), shaded_images(20, size, channels, rng), tuple('abcd'),
                   digest)


def upright_dataset():
    """Return a data set without classes whose images all get brighter towards the same side."""
    dataset = shaded_dataset()
    return dataset._replace(class_names=(), **{
        split: (rotate_images(images, -sides), None)
        for split, (images, sides) in [('train', dataset.train), ('test', dataset.test)]})


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setattr(classifier, 'MIN_STEPS', 40)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Train a classifier. Return its checkpoint_dir, and its features and probabilities of the test images."""
    checkpoint_dir = tmp_path_factory.mktemp('checkpoint')
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(classifier, 'MIN_STEPS', 40)
        classify = load_classifier('own', shaded_dataset(), str(checkpoint_dir))
    return checkpoint_dir, *classify(shaded_dataset().test[0])


@pytest.fixture
def checkpoint_copy(trained, tmp_path):
    """Copy the checkpoint_dir for tests that change it. Return the copy and the folder of the classifier in it."""
    source = trained[0] / 'classifier_own_12x12x1'
    folder = tmp_path / 'checkpoint' / source.name
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder.parent, folder


def test_load_classifier_returns_features_and_probabilities(trained):
    _, features, probabilities = trained
    assert features.shape == (20, 128) and probabilities.shape == (20, NUM_CLASSES)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-4)


def test_load_classifier_learns_the_classes(trained):
    _, _, probabilities = trained
    assert class_accuracy(probabilities, shaded_dataset().test[1]) > 0.7


def test_load_classifier_names_the_folder_after_the_data_set_and_its_shape(trained):
    assert os.listdir(trained[0]) == ['classifier_own_12x12x1']


def test_load_classifier_saves_the_digest_of_its_data(trained):
    assert (trained[0] / 'classifier_own_12x12x1' / 'trained_on').read_text() == 'its digest'


def test_load_classifier_restores_without_training(trained, capsys):
    checkpoint_dir, features, _ = trained
    restored_features, _ = load_classifier('own', shaded_dataset(), str(checkpoint_dir))(shaded_dataset().test[0])
    assert (restored_features == features).all()
    assert capsys.readouterr().out == ''


def test_load_classifier_does_not_hash_data_that_has_a_digest(trained, monkeypatch):
    monkeypatch.setattr('datasets.dataset.hashlib', None)
    load_classifier('own', shaded_dataset(), str(trained[0]))


@pytest.mark.slow
@pytest.mark.parametrize('damage', [
    lambda folder: os.truncate(folder / 'classifier.data-00000-of-00001', 100),
    lambda folder: (folder / 'classifier.index').unlink(),
    lambda folder: (folder / 'classifier.index').write_bytes(b''),
    lambda folder: (folder / 'trained_on').write_bytes(b'\xff'),
    lambda folder: (folder / 'trained_on').write_text('another digest'),
    lambda folder: (folder / 'trained_on').unlink()],
    ids=['short weights', 'no index', 'empty index', 'damaged digest', 'other data', 'no digest'])
def test_load_classifier_retrains_bit_identically(trained, checkpoint_copy, capsys, damage):
    checkpoint_dir, folder = checkpoint_copy
    damage(folder)
    features, _ = load_classifier('own', shaded_dataset(), str(checkpoint_dir))(shaded_dataset().test[0])
    assert 'Training the classifier that scores own samples' in capsys.readouterr().out
    assert (features == trained[1]).all()
    assert (folder / 'trained_on').read_text() == 'its digest'


def test_load_classifier_classifies_in_batches(trained, monkeypatch):
    monkeypatch.setattr(classifier, 'BATCH_PIXELS', 3 * 12 * 12)
    checkpoint_dir, features, probabilities = trained
    batched = load_classifier('own', shaded_dataset(), str(checkpoint_dir))(shaded_dataset().test[0])
    for values, expected in zip(batched, (features, probabilities), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_load_classifier_recognises_rotations_without_classes(tmp_path):
    dataset = upright_dataset()
    rotations = np.arange(20) % 4
    _, probabilities = load_classifier('own', dataset, str(tmp_path))(rotate_images(dataset.test[0], rotations))
    assert class_accuracy(probabilities, rotations) > 0.9


@pytest.mark.slow
def test_load_classifier_accepts_large_colour_images(tmp_path):
    dataset = shaded_dataset(36, 3)
    _, probabilities = load_classifier('own', dataset, str(tmp_path))(dataset.test[0])
    assert class_accuracy(probabilities, dataset.test[1]) > 0.7
    assert os.listdir(tmp_path) == ['classifier_own_36x36x3']


@pytest.mark.slow
def test_load_classifier_learns_digits(small_data, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, 'MIN_STEPS', 75)
    dataset = load_dataset('mnist', small_data)
    _, probabilities = load_classifier('mnist', dataset, str(tmp_path))(dataset.test[0])
    assert class_accuracy(probabilities, dataset.test[1]) > 0.3
    assert os.listdir(tmp_path) == ['classifier_mnist']


def test_load_classifier_reports_its_progress_in_quarters(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifier, 'EPOCHS', 4)
    monkeypatch.setattr(classifier, 'MIN_STEPS', 1)
    load_classifier('own', shaded_dataset(), str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(' after')[0] for line in lines] == [
        'Training the classifier that scores own samples. This is done only once; if it is interrupted, it starts '
        'again', 'Training the classifier: 25%', 'Training the classifier: 50%', 'Training the classifier: 75%']


def test_load_classifier_reports_that_it_cannot_save(tmp_path, monkeypatch):
    def save(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, 'No space left on device')

    monkeypatch.setattr(classifier, 'MIN_STEPS', 1)
    monkeypatch.setattr(tf.train.Saver, 'save', save)
    with pytest.raises(UserError, match=r'saved in .*_12x12x1 \(No space left on device\): free some disk space'):
        load_classifier('own', shaded_dataset(), str(tmp_path))


def test_load_classifier_needs_enough_training_images(tmp_path):
    images, labels = shaded_dataset().train
    dataset = shaded_dataset()._replace(train=(images[:5], labels[:5]))
    with pytest.raises(UserError, match='at least 6 images are needed, not 5.*: add training images'):
        load_classifier('own', dataset, str(tmp_path))
    assert not os.listdir(tmp_path)


def test_rotate_images_turns_counterclockwise():
    image = np.array([[1, 2], [3, 4]])[None, :, :, None]
    rotated = rotate_images(np.repeat(image, 4, 0), [0, 1, 2, -1])
    assert rotated[..., 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]

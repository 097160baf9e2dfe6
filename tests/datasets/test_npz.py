import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from datasets import npz
from options import UserError

GREY = np.random.default_rng(0).integers(0, 256, [40, 8, 12]).astype(np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, [40, 8, 12, 3]).astype(np.uint8)
LABELS = np.arange(40) % 3
KERAS = {'x_train': GREY[:30], 'y_train': LABELS[:30], 'x_test': GREY[30:], 'y_test': LABELS[30:]}
MEDMNIST = {'train_images': COLOUR[:20], 'train_labels': LABELS[:20, None], 'val_images': COLOUR[20:30],
            'val_labels': LABELS[20:30, None], 'test_images': COLOUR[30:], 'test_labels': LABELS[30:, None]}


def save(folder, **arrays):
    """Write arrays as own.npz and return its path."""
    np.savez(folder / 'own.npz', **arrays)
    return str(folder / 'own.npz')


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


##################################################################################
# Keys
##################################################################################

def test_load_reads_the_keys_of_keras(tmp_path):
    dataset = npz.load(save(tmp_path, **KERAS))
    assert (dataset.train[0] == GREY[:30, :, :, None]).all() and (dataset.train[1] == LABELS[:30]).all()
    assert (dataset.test[0] == GREY[30:, :, :, None]).all() and (dataset.test[1] == LABELS[30:]).all()


def test_load_reads_the_keys_of_medmnist(tmp_path):
    dataset = npz.load(save(tmp_path, **MEDMNIST))
    assert (dataset.train[0] == COLOUR[:20]).all() and (dataset.train[1] == LABELS[:20]).all()
    assert (dataset.test[0] == COLOUR[30:]).all() and (dataset.test[1] == LABELS[30:]).all()


def test_load_reports_that_validation_images_are_not_used(tmp_path):
    note, = npz.load(save(tmp_path, **MEDMNIST)).notes
    assert note == 'The 10 images of the validation split are not used, because there is a test split'


def test_load_tests_on_validation_images_if_there_are_no_test_images(tmp_path):
    del (arrays := dict(MEDMNIST))['test_images']
    dataset = npz.load(save(tmp_path, **arrays))
    assert (dataset.test[0] == COLOUR[20:30]).all() and dataset.held_out == 'the validation split'


@pytest.mark.parametrize('images_key, labels_key', [('arr_0', 'arr_1'), ('images', 'labels'), ('x_train', 'y_train')])
def test_load_holds_out_every_tenth_image_of_a_single_split(tmp_path, images_key, labels_key):
    dataset = npz.load(save(tmp_path, **{images_key: COLOUR, labels_key: LABELS}))
    assert (dataset.test[0] == COLOUR[9::10]).all() and (dataset.test[1] == LABELS[9::10]).all()
    assert len(dataset.train[0]) == 36 and (dataset.train[0][9] == COLOUR[10]).all()


def test_load_trains_on_the_only_image_of_a_class(tmp_path):
    labels = np.where(np.arange(40) == 9, 1, 0)
    dataset = npz.load(save(tmp_path, arr_0=COLOUR, arr_1=labels))
    assert dataset.train[1].sum() == 1 and len(dataset.train[0]) == 37


def test_load_without_labels_has_no_classes(tmp_path):
    dataset = npz.load(save(tmp_path, arr_0=COLOUR))
    assert (dataset.train[1], dataset.test[1], dataset.class_names) == (None, None, ())


def test_load_has_no_classes_if_all_labels_are_equal(tmp_path):
    dataset = npz.load(save(tmp_path, arr_0=COLOUR, arr_1=np.full(40, 7)))
    assert (dataset.train[1], dataset.test[1], dataset.class_names) == (None, None, ())
    assert dataset.notes == ('No classes, because all training labels are 7',)


def test_load_names_the_classes_after_their_numbers(tmp_path):
    assert npz.load(save(tmp_path, arr_0=COLOUR, arr_1=LABELS * 70)).class_names == ('0', '70', '140')


def test_load_interleaves_images_that_are_stored_class_by_class(tmp_path):
    labels = np.repeat([4, 5, 7], [6, 3, 1])
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None], [10, 4, 4])  # image k has the value k
    dataset = npz.load(save(tmp_path, x_train=images, y_train=labels, x_test=images, y_test=labels))
    order = [0, 6, 1, 2, 7, 9, 3, 4, 8, 5]  # sorted by (k + 1/2) / n for image k of a class of n images
    assert (dataset.train[0][:, 0, 0, 0].tolist(), dataset.test[1].tolist()) == (order, [0, 1, 0, 0, 1, 2, 0, 0, 1, 0])


def test_load_reports_a_changed_order(tmp_path):
    labels = np.sort(LABELS)
    assert 'class by class' in npz.load(save(tmp_path, x_train=GREY, y_train=labels)).notes[0]


def test_load_keeps_the_order_of_mixed_classes(tmp_path):
    dataset = npz.load(save(tmp_path, **KERAS))
    assert ((dataset.train[0][..., 0] == GREY[:30]).all(), dataset.notes) == (True, ())


def test_load_lists_other_arrays(tmp_path):
    dataset = npz.load(save(tmp_path, arr_0=COLOUR, z=np.zeros([40, 62])))
    assert dataset.left_out == (('z', 'not images or their labels'),)


def test_load_reads_compressed_arrays_in_any_memory_order(tmp_path):
    np.savez_compressed(tmp_path / 'own.npz', arr_0=np.asfortranarray(COLOUR))
    assert (npz.load(str(tmp_path / 'own.npz')).train[0][:9] == COLOUR[:9]).all()


@pytest.mark.parametrize('arrays, shape', [(KERAS, (8, 12, 1)), (MEDMNIST, (8, 12, 3))])
def test_native_shape_is_that_of_the_training_images(tmp_path, arrays, shape):
    assert npz.native_shape(save(tmp_path, **arrays)) == shape


##################################################################################
# Files
##################################################################################

def test_load_reads_the_only_npz_in_a_folder(tmp_path):
    save(tmp_path, **KERAS)
    assert npz.matches(str(tmp_path)) and npz.native_shape(str(tmp_path)) == (8, 12, 1)
    assert (npz.load(str(tmp_path)).train[0] == GREY[:30, :, :, None]).all()


def test_load_refuses_a_folder_with_several_npz_files(tmp_path):
    for name in 'a.npz', 'b.npz':
        np.savez(tmp_path / name, arr_0=COLOUR)
    with pytest.raises(UserError, match=r'holds several npz files .*--dataset .*/a\.npz'):
        npz.load(str(tmp_path))


@pytest.mark.parametrize('name', ['', 'nowhere', 'nowhere.npz', 'a.png'])
def test_matches_nothing_else(tmp_path, name):
    (tmp_path / 'a.png').touch()
    assert not npz.matches(str(tmp_path / name))


##################################################################################
# What is refused
##################################################################################

@pytest.mark.parametrize('arrays, complaint', [
    ({'arr_0': COLOUR / 255}, 'arr_0 in .*own.npz cannot be used as images .the values are float64, not uint8'),
    ({'arr_0': COLOUR.astype(np.uint16)}, 'the values are uint16, not uint8'),
    ({'arr_0': COLOUR.transpose(0, 3, 1, 2)}, r'the shape is \[40, 3, 8, 12\]'),
    ({'arr_0': COLOUR[0, 0, 0]}, r'the shape is \[3\]'),
    ({'arr_0': COLOUR[:0]}, 'holds no images'),
    ({'arr_0': COLOUR, 'arr_1': np.eye(3)[LABELS].astype(int)}, r'arr_1 .*the shape is \[40, 3\], several values'),
    ({'arr_0': COLOUR, 'arr_1': LABELS / 2}, 'the values are float64'),
    ({'arr_0': COLOUR, 'arr_1': LABELS - 1}, 'it holds -1'),
    ({'arr_0': COLOUR, 'arr_1': LABELS[:-1]}, 'arr_1 .*does not match the images .40 images, 39 labels'),
    ({'x_train': GREY, 'y_train': LABELS, 'x_test': GREY}, 'y_test in .* is missing: store labels for all splits'),
    ({'x_train': GREY, 'x_test': COLOUR}, 'splits of different image sizes'),
    ({'test_images': GREY}, 'has no training images .its keys are test_images.: store them as one of x_train'),
    ({}, 'its keys are none')],
    ids=['float', 'uint16', 'channels first', 'one pixel', 'empty', 'one-hot', 'float labels', 'negative',
         'fewer labels', 'no test labels', 'two sizes', 'test only', 'no array'])
def test_load_refuses_other_arrays(tmp_path, arrays, complaint):
    with pytest.raises(UserError, match=complaint):
        npz.load(save(tmp_path, **arrays))


@pytest.mark.parametrize('key', ['arr_0', 'arr_1'])
def test_load_unpickles_nothing(tmp_path, key):
    arrays = {'arr_0': COLOUR, 'arr_1': LABELS, key: np.array([Trap(tmp_path / 'sprung')] * 40, object)}
    with pytest.raises(UserError, match=f'{key} in .* cannot be used .it holds pickled objects'):
        npz.load(save(tmp_path, **arrays))
    assert not (tmp_path / 'sprung').exists()


def damaged(change):
    """Return the bytes of an npz file whose array file was changed."""
    file = io.BytesIO()
    np.lib.format.write_array(file, COLOUR)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as target:
        target.writestr('arr_0.npy', change(file.getvalue()))
    return archive.getvalue()


GOOD = damaged(lambda content: content)


@pytest.mark.parametrize('content', [
    b'', b'hello', GOOD[:-100], GOOD[:2000] + b'12345678' + GOOD[2008:], damaged(lambda content: b''),
    damaged(lambda content: b'hello'), damaged(lambda content: content[:40]), pickle.dumps([1, 2])],
    ids=['empty', 'text', 'truncated', 'flipped', 'empty array', 'no array', 'header', 'pickle'])
def test_load_reports_damage(tmp_path, content):
    (tmp_path / 'own.npz').write_bytes(content)
    with pytest.raises(UserError, match='own.npz is not a complete npz file .*: replace it') as error:
        npz.load(str(tmp_path / 'own.npz'))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('change', [
    lambda content: content[:-1], lambda content: content + b'0',
    lambda content: content.replace(b'(40, 8, 12, 3), }     ', b'(40, 999999, 12, 3), }')],
    ids=['one byte short', 'one byte too long', 'header of a huge array'])
def test_load_compares_the_size_of_an_array_with_its_header(tmp_path, change):
    (tmp_path / 'own.npz').write_bytes(damaged(change))
    with pytest.raises(UserError, match='arr_0 in .* is damaged .[0-9]+ bytes of data, [0-9]+ according to its'):
        npz.load(str(tmp_path / 'own.npz'))

import gzip
import os

import numpy as np
import pytest

from datasets import idx
from datasets.idx import FILES
from options import UserError

TRAIN, TEST = 30, 10  # images
TYPES = {0x08: '>u1', 0x0b: '>i2', 0x0c: '>i4', 0x0d: '>f4'}  # https://yann.lecun.com/exdb/mnist


def idx_bytes(array, code=0x08):
    """Return an array as the bytes of an IDX file: the magic number, the dimensions, the items."""
    array = np.asarray(array)
    header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, '>u4').tobytes()
    return header + array.astype(TYPES[code]).tobytes()


def arrays(height=28, width=28, classes=3, count=TRAIN + TEST):
    """Return random images [N, H, W] and labels [N], 0, 1, 2, 0, ..."""
    images = np.random.default_rng(0).integers(0, 256, [count, height, width]).astype(np.uint8)
    return images, np.arange(count) % classes


def write_four(folder, images, labels, names=FILES):
    """Write the files of both splits, gzipped if the name says so."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]
    for name, content in zip(names, contents, strict=True):
        content = idx_bytes(content)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
    return str(folder)


def emnist_names(prefix):
    return [f'{prefix}-{name.replace("t10k", "test")}' for name in FILES]


def same(split, images, labels):
    """Return whether a split holds these images [N, H, W] and labels."""
    return (split[0] == images[..., None]).all() and (split[1] == labels).all() and len(split[0]) == len(images)


@pytest.fixture
def folder(tmp_path):
    """The folder of the four plain files."""
    write_four(tmp_path / 'own', *arrays())
    return tmp_path / 'own'


##################################################################################
# Files
##################################################################################

@pytest.mark.parametrize('names', [
    FILES, [f'{name}.gz' for name in FILES], [f'{FILES[0]}.gz', *FILES[1:]],
    [name.replace('-idx', '.idx') for name in FILES]], ids=['plain', 'gzipped', 'mixed', 'with a dot'])
def test_load_reads_both_splits(tmp_path, names):
    images, labels = arrays()
    dataset = idx.load(write_four(tmp_path / 'own', images, labels, names))
    assert same(dataset.train, images[:TRAIN], labels[:TRAIN]) and same(dataset.test, images[TRAIN:], labels[TRAIN:])


@pytest.mark.parametrize('subfolder', ['raw', 'gzip'])
def test_load_looks_into_the_subfolder(tmp_path, subfolder):
    images, labels = arrays()
    write_four(tmp_path / 'own' / subfolder, images, labels)
    assert same(idx.load(str(tmp_path / 'own')).train, images[:TRAIN], labels[:TRAIN])


def test_load_prefers_a_plain_file(folder):
    images, labels = arrays()
    (folder / f'{FILES[0]}.gz').write_bytes(b'damaged')
    assert same(idx.load(str(folder)).train, images[:TRAIN], labels[:TRAIN])


@pytest.mark.parametrize('height, width', [(20, 28), (1, 3), (64, 64)])
def test_load_reads_images_of_any_size(tmp_path, height, width):
    images, labels = arrays(height, width)
    path = write_four(tmp_path / 'own', images, labels)
    assert same(idx.load(path).train, images[:TRAIN], labels[:TRAIN])
    assert idx.native_shape(path) == (height, width, 1)


def test_matches_only_a_folder_with_idx_files(folder, tmp_path):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'a.png').touch()
    assert idx.matches(str(folder))
    assert not any(idx.matches(str(tmp_path / name)) for name in ('other', 'nowhere', ''))


def test_load_without_test_files_holds_out_every_tenth_image(folder):
    images, labels = arrays()
    for name in FILES[2:]:
        (folder / name).unlink()
    dataset = idx.load(str(folder))
    assert same(dataset.test, images[9:TRAIN:10], labels[9:TRAIN:10])
    assert (len(dataset.train[0]), dataset.held_out) == (27, 'every tenth image')


@pytest.mark.parametrize('name', FILES)
def test_load_reports_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f'own/{name}.gz is missing: put all files'):
        idx.load(str(folder))


def test_load_lists_the_other_files_in_the_folder(folder):
    (folder / 'a.png').touch()
    assert idx.load(str(folder)).left_out == (('a.png', 'not an IDX file'),)


def test_missing_files_are_named(folder):
    (folder / FILES[1]).unlink()
    assert idx.missing_files(str(folder)) == [FILES[1]]


def test_missing_files_of_a_missing_folder_are_all_files(tmp_path):
    assert idx.missing_files(str(tmp_path / 'nowhere')) == list(FILES)


##################################################################################
# Labels and classes
##################################################################################

def test_load_numbers_the_labels_that_occur(tmp_path):
    images, labels = arrays()
    values = np.array([7, 255, 30])
    dataset = idx.load(write_four(tmp_path / 'own', images, values[labels]))
    assert dataset.class_names == ('7', '30', '255')
    assert (dataset.train[1] == np.array([0, 2, 1])[labels[:TRAIN]]).all()


def test_load_leaves_out_test_images_of_unknown_classes(folder):
    images, labels = arrays()
    (folder / FILES[3]).write_bytes(idx_bytes([9, *labels[TRAIN + 1:]]))
    dataset = idx.load(str(folder))
    assert same(dataset.test, images[TRAIN + 1:], labels[TRAIN + 1:])
    assert dataset.notes == ('Test images of classes without training images are not used (1)',)


@pytest.mark.parametrize('code', [0x0b, 0x0c], ids=['int16', 'int32'])
def test_load_reads_labels_of_wider_integer_types(folder, code):
    images, labels = arrays()
    (folder / FILES[1]).write_bytes(idx_bytes(labels[:TRAIN], code))
    assert same(idx.load(str(folder)).train, images[:TRAIN], labels[:TRAIN])


def test_load_reads_the_first_column_of_qmnist(tmp_path):
    images, labels = arrays()
    names = ['qmnist-train-images-idx3-ubyte', 'qmnist-train-labels-idx2-int', 'qmnist-test-images-idx3-ubyte',
             'qmnist-test-labels-idx2-int']
    path = write_four(tmp_path / 'own', images, labels, names)
    table = np.arange(len(labels) * 8).reshape(-1, 8) + 1000
    table[:, 0] = labels
    for name, rows in (names[1], table[:TRAIN]), (names[3], table[TRAIN:]):
        (tmp_path / 'own' / name).write_bytes(idx_bytes(rows, 0x0c))
    dataset = idx.load(path)
    assert same(dataset.train, images[:TRAIN], labels[:TRAIN]) and same(dataset.test, images[TRAIN:], labels[TRAIN:])


##################################################################################
# EMNIST
##################################################################################

@pytest.fixture
def emnist(tmp_path):
    """A folder with two data sets of EMNIST, of 20 x 28 images, which are stored transposed."""
    images, labels = arrays(28, 20)
    for prefix in 'emnist-letters', 'emnist-digits':
        write_four(tmp_path / 'EMNIST' / 'raw', images, labels + 1, emnist_names(prefix))
    (tmp_path / 'EMNIST' / 'raw' / 'emnist-letters-mapping.txt').write_text('1 65 97\n2 66 98\n\n3 67 99\n')
    return tmp_path


@pytest.mark.parametrize('path', ['EMNIST/emnist-letters', 'EMNIST/raw/emnist-letters', 'emnist-letters'])
def test_load_turns_emnist_upright(emnist, path):
    images, labels = arrays(28, 20)
    path = str(emnist / path)
    assert idx.matches(path) and idx.native_shape(path) == (20, 28, 1)
    assert same(idx.load(path).train, images[:TRAIN].transpose(0, 2, 1), labels[:TRAIN])


def test_load_reports_that_images_are_transposed(emnist):
    assert idx.load(str(emnist / 'emnist-letters')).notes == ('The images are transposed back',)


def test_load_names_classes_by_the_mapping(emnist):
    assert idx.load(str(emnist / 'emnist-letters')).class_names == ('A', 'B', 'C')


def test_load_names_classes_by_number_without_a_mapping(emnist):
    assert idx.load(str(emnist / 'emnist-digits')).class_names == ('1', '2', '3')


@pytest.mark.parametrize('line', ['2 x', '2', '2 10', '2 99999999', '2 -1'])
def test_load_refuses_a_damaged_mapping(emnist, line):
    (emnist / 'EMNIST' / 'raw' / 'emnist-letters-mapping.txt').write_text(f'1 65\n{line}\n')
    with pytest.raises(UserError, match=f"emnist-letters-mapping.txt is damaged .the line '{line}' is not"):
        idx.load(str(emnist / 'emnist-letters'))


def test_load_refuses_a_folder_of_several_data_sets(emnist):
    with pytest.raises(UserError, match='EMNIST holds several data sets .emnist-digits, emnist-letters.: choose one, '
                                        'for example --dataset .*/EMNIST/emnist-digits'):
        idx.load(str(emnist / 'EMNIST'))


def test_load_finds_the_only_prefix_in_a_folder(tmp_path):
    images, labels = arrays()
    path = write_four(tmp_path / 'own', images, labels, emnist_names('some'))
    assert same(idx.load(path).train, images[:TRAIN], labels[:TRAIN])


##################################################################################
# Damage
##################################################################################

def gzipped(content):
    return gzip.compress(content, mtime=0)


IMAGES = idx_bytes(arrays()[0][:TRAIN])


@pytest.mark.parametrize('content, complaint', [
    (gzipped(IMAGES)[:-100], 'not a valid gzip file'),
    (gzipped(IMAGES)[:2000] + b'12345678' + gzipped(IMAGES)[2008:], 'not a valid gzip file'),
    (b'hello', 'not a valid gzip file'),
    (b'', r'not an IDX file .it starts with the bytes none\)'),
    (gzipped(b'hello'), 'not an IDX file .it starts with the bytes 68 65 6c 6c'),
    (gzipped(IMAGES[:8]), 'its header is incomplete'),
    (gzipped(IMAGES[:-1]), '23519 bytes of data, 23520 according'),
    (gzipped(IMAGES + b'0'), '23521 bytes of data, 23520 according'),
    (gzipped(idx_bytes(np.zeros([0, 28, 28]))), 'holds no images'),
    (gzipped(idx_bytes(np.zeros([TRAIN, 28, 28]), 0x0d)), 'the values are >f4, not uint8'),
    (gzipped(idx_bytes(np.zeros([TRAIN]))), r'cannot be used as images .the shape is \[30\]'),
    (gzipped(idx_bytes(np.zeros([TRAIN - 1, 28, 28]))), 'does not match the images .29 images, 30 labels')],
    ids=['truncated', 'flipped', 'plain text', 'empty', 'text', 'header', 'one byte short', 'one byte too long',
         'no images', 'float', 'labels', 'one image fewer'])
def test_load_reports_damaged_images(folder, content, complaint):
    (folder / FILES[0]).unlink()
    (folder / f'{FILES[0]}.gz').write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        idx.load(str(folder))
    assert str(folder) in str(error.value) and 'delete' not in str(error.value)


@pytest.mark.parametrize('array, code, complaint', [
    (np.zeros([TEST, 28, 28]), 0x08, 'several values per image'),
    (np.zeros([TEST, 3]), 0x08, 'several values per image'),
    (np.zeros([TEST]), 0x0d, 'cannot be used as labels .the values are >f4'),
    (-np.ones([TEST]), 0x0c, 'it holds -1'),
    (np.zeros([TEST - 1]), 0x08, 'does not match the images .10 images, 9 labels')],
    ids=['images', 'one-hot', 'float', 'negative', 'one label fewer'])
def test_load_reports_invalid_labels(folder, array, code, complaint):
    (folder / FILES[3]).write_bytes(idx_bytes(array, code))
    with pytest.raises(UserError, match=complaint) as error:
        idx.load(str(folder))
    assert FILES[3] in str(error.value)


@pytest.mark.parametrize('content', [b'', b'hello', IMAGES[:10], idx_bytes(np.zeros([3, 2, 2]), 0x0c)])
def test_native_shape_reports_damage(folder, content):
    (folder / FILES[0]).write_bytes(content)
    with pytest.raises(UserError, match=FILES[0]):
        idx.native_shape(str(folder))


def test_write_idx_writes_what_load_reads(tmp_path):
    images, _ = arrays()
    idx.write_idx(str(tmp_path / 'x.gz'), images)
    assert (idx.read_idx(str(tmp_path / 'x.gz')) == images).all() and os.listdir(tmp_path) == ['x.gz']

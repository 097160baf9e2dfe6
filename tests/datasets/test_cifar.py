import io
import tarfile

import numpy as np
import pytest

from datasets import cifar
from datasets.cifar import CIFAR10, CIFAR100
from options import UserError

COUNT = 7  # images in each file
NAMES100 = [f'thing{number}' for number in range(100)]


def cifar_file(seed, version=CIFAR10):
    """Return the bytes of a file of the binary version, its images and its labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, [COUNT, 32, 32, 3]).astype(np.uint8)
    labels = rng.integers(version.num_classes, size=COUNT).astype(np.uint8)
    coarse = [] if version is CIFAR10 else [250]  # not a valid class, so that a test fails if it is read as one
    records = [bytes([*coarse, label]) + b''.join(image[:, :, channel].tobytes() for channel in range(3))
               for image, label in zip(images, labels, strict=True)]
    return b''.join(records), images, labels


FILES = {version: {name: cifar_file(seed, version) for seed, name in enumerate([*version.train_files,
                                                                                 version.test_file])}
         for version in (CIFAR10, CIFAR100)}


def contents(version):
    """Return {file name: bytes} of a version."""
    files = {name: content for name, (content, _, _) in FILES[version].items()}
    return {**files, **({'fine_label_names.txt': '\n'.join(NAMES100).encode()} if version is CIFAR100 else {})}


def write_files(folder, version=CIFAR10):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents(version).items():
        (folder / name).write_bytes(content)
    return str(folder)


def tar(files):
    """Return a gzipped tar archive of {name: bytes}, or of {name: target} for a symbolic link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def archive_of(version):
    return tar({f'{version.folder}/{name}': content for name, content in contents(version).items()})


def is_right(dataset, version):
    """Return whether a data set has the images and labels of all files."""
    splits = [[FILES[version][name] for name in names] for names in (version.train_files, [version.test_file])]
    return all((images == np.concatenate([part for _, part, _ in files])).all() and
               (labels == np.concatenate([part for _, _, part in files])).all()
               for (images, labels), files in zip((dataset.train, dataset.test), splits, strict=True))


BOTH = pytest.mark.parametrize('version', [CIFAR10, CIFAR100], ids=['CIFAR-10', 'CIFAR-100'])


##################################################################################
# Locations
##################################################################################

@BOTH
def test_load_reads_the_files_of_a_folder(tmp_path, version):
    assert is_right(cifar.load(write_files(tmp_path / 'own', version)), version)


@BOTH
def test_load_reads_the_folder_of_the_archive(tmp_path, version):
    write_files(tmp_path / version.folder, version)
    assert is_right(cifar.load(str(tmp_path)), version)


@BOTH
@pytest.mark.parametrize('path', ['', 'itself'])
def test_load_reads_the_archive(tmp_path, version, path):
    (tmp_path / version.archive).write_bytes(archive_of(version))
    assert is_right(cifar.load(str(tmp_path / (version.archive if path else ''))), version)


@BOTH
def test_load_writes_nothing(tmp_path, version):
    (tmp_path / version.archive).write_bytes(archive_of(version))
    cifar.load(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [version.archive]


def test_load_prefers_an_archive_to_an_incomplete_folder(tmp_path):
    write_files(tmp_path)
    (tmp_path / 'data_batch_2.bin').unlink()
    (tmp_path / CIFAR10.archive).write_bytes(archive_of(CIFAR10))
    assert is_right(cifar.load(str(tmp_path)), CIFAR10)


@pytest.mark.parametrize('name', ['train.bin', 'a.png', 'notes.tar.gz'])
def test_matches_nothing_else(tmp_path, name):
    (tmp_path / name).touch()
    assert not cifar.matches(str(tmp_path)) and not cifar.matches(str(tmp_path / name))


def test_native_shape_is_32_by_32_by_3(tmp_path):
    assert cifar.native_shape(write_files(tmp_path)) == (32, 32, 3)


##################################################################################
# Classes
##################################################################################

def test_load_names_the_ten_classes(tmp_path):
    names = cifar.load(write_files(tmp_path)).class_names
    assert names == cifar.CLASS_NAMES and len(set(names)) == 10


def test_load_reads_the_names_of_the_fine_labels(tmp_path):
    assert cifar.load(write_files(tmp_path, CIFAR100)).class_names == tuple(NAMES100)


def test_load_numbers_the_fine_labels_without_their_names(tmp_path):
    write_files(tmp_path, CIFAR100)
    (tmp_path / 'fine_label_names.txt').unlink()
    assert cifar.load(str(tmp_path)).class_names == tuple(map(str, range(100)))


##################################################################################
# Damage
##################################################################################

@pytest.mark.parametrize('content', [b'', contents(CIFAR10)['data_batch_3.bin'][:-1],
                                     b'\x0a' + contents(CIFAR10)['data_batch_3.bin'][1:]],
                         ids=['empty', 'one byte short', 'label 10'])
def test_load_reports_a_damaged_file(tmp_path, content):
    write_files(tmp_path)
    (tmp_path / 'data_batch_3.bin').write_bytes(content)
    with pytest.raises(UserError, match='data_batch_3.bin is not a CIFAR-10 file .*: replace it$'):
        cifar.load(str(tmp_path))


def test_load_reports_a_missing_file(tmp_path):
    write_files(tmp_path)
    (tmp_path / 'data_batch_3.bin').unlink()
    with pytest.raises(UserError, match='data_batch_3.bin is missing'):
        cifar.load(str(tmp_path))


def test_load_reports_damaged_names(tmp_path):
    write_files(tmp_path, CIFAR100)
    (tmp_path / 'fine_label_names.txt').write_text('apple\napple\n')
    with pytest.raises(UserError, match='fine_label_names.txt is damaged .1 names, not 100'):
        cifar.load(str(tmp_path))


@pytest.mark.parametrize('archive, complaint', [
    (archive_of(CIFAR10)[:-400], 'is not a complete CIFAR-10 archive'),
    (b'no archive', 'is not a complete CIFAR-10 archive'),
    (tar({'x/data_batch_1.bin': contents(CIFAR10)['data_batch_1.bin']}), 'data_batch_2.bin is missing'),
    (tar({f'x/{name}': '/etc/passwd' for name in contents(CIFAR10)}), 'data_batch_1.bin is missing')],
    ids=['truncated', 'plain text', 'missing files', 'links'])
def test_load_reports_a_bad_archive(tmp_path, archive, complaint):
    (tmp_path / CIFAR10.archive).write_bytes(archive)
    with pytest.raises(UserError, match=complaint) as error:
        cifar.load(str(tmp_path))
    assert 'delete' not in str(error.value)


@pytest.mark.parametrize('name, archive', [
    ('cifar-10-batches-py', CIFAR10.archive), ('cifar-10-python.tar.gz', CIFAR10.archive),
    ('data_batch_1', CIFAR10.archive), ('cifar-100-python', CIFAR100.archive)])
def test_load_refuses_the_python_version(tmp_path, name, archive):
    (tmp_path / name).touch()
    for path in tmp_path, tmp_path / name:
        assert cifar.matches(str(path))
        with pytest.raises(UserError, match=f'the Python version of .*a pickle.* binary version, {archive}'):
            cifar.load(str(path))

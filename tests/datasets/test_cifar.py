import io
import os
import tarfile

import numpy as np
import pytest

from datasets import cifar, find_dataset, load_dataset
from datasets.cifar import ARCHIVE, FILES, find_cifar10, load_cifar10
from options import UserError

COUNT = 7  # images in each file


def cifar_file(seed):
    """Return the bytes of a file of CIFAR-10's binary version, its images and its labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, [COUNT, 32, 32, 3]).astype(np.uint8)
    labels = rng.integers(10, size=COUNT).astype(np.uint8)
    records = [bytes([label]) + b''.join(image[:, :, channel].tobytes() for channel in range(3))
               for image, label in zip(images, labels, strict=True)]
    return b''.join(records), images, labels


def tar(*members):
    """Return a gzipped tar archive of (name, bytes) for a file or (name, target) for a symbolic link."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


CONTENT = [cifar_file(seed) for seed in range(6)]
MEMBERS = [(f'cifar-10-batches-bin/{name}', content) for name, (content, _, _) in zip(FILES, CONTENT, strict=True)]
GOOD_ARCHIVE = tar(*MEMBERS, ('cifar-10-batches-bin/readme.html', b'text'))


@pytest.fixture
def publish(serve, monkeypatch):
    """Make an archive the published one: the mirror serves it, and its digest is the expected one."""
    def publish_archive(archive):
        monkeypatch.setattr(cifar, 'SOURCE', serve({ARCHIVE: archive}, 'good'))
    return publish_archive


@pytest.fixture
def folder(tmp_path):
    """Write the six files and return their folder."""
    (tmp_path / 'cifar10').mkdir()
    for name, (content, _, _) in zip(FILES, CONTENT, strict=True):
        (tmp_path / 'cifar10' / name).write_bytes(content)
    return tmp_path / 'cifar10'


##################################################################################
# find_cifar10
##################################################################################

def test_find_cifar10_names_the_folder(folder):
    assert find_cifar10('cifar10', str(folder.parent)) == f'Data set: cifar10 in {folder}'


def test_find_cifar10_downloads_the_six_files(publish, tmp_path):
    publish(GOOD_ARCHIVE)
    find_cifar10('cifar10', str(tmp_path))
    content = {path.name: path.read_bytes() for path in (tmp_path / 'cifar10').iterdir()}
    assert content == {name: content for name, (content, _, _) in zip(FILES, CONTENT, strict=True)}


def test_find_cifar10_reports_the_download(publish, tmp_path):
    publish(GOOD_ARCHIVE)
    assert find_cifar10('cifar10', str(tmp_path)) == f'Data set: cifar10, downloaded to {tmp_path / "cifar10"}'


def test_find_cifar10_unpacks_an_archive_in_the_folder(publish, tmp_path):
    publish(GOOD_ARCHIVE)
    (tmp_path / 'cifar10').mkdir()
    (tmp_path / 'cifar10' / ARCHIVE).write_bytes(GOOD_ARCHIVE)
    assert 'unpacked in' in find_cifar10('cifar10', str(tmp_path))


def test_find_cifar10_keeps_an_archive_that_it_did_not_download(publish, tmp_path):
    publish(GOOD_ARCHIVE)
    (tmp_path / 'cifar10').mkdir()
    (tmp_path / 'cifar10' / ARCHIVE).write_bytes(GOOD_ARCHIVE)
    find_cifar10('cifar10', str(tmp_path))
    assert sorted(os.listdir(tmp_path / 'cifar10')) == sorted([*FILES, ARCHIVE])


def test_find_cifar10_rejects_another_archive_in_the_folder(publish, tmp_path):
    publish(GOOD_ARCHIVE)
    (tmp_path / 'cifar10').mkdir()
    (tmp_path / 'cifar10' / ARCHIVE).write_bytes(tar(*MEMBERS, ('more', b'')))
    with pytest.raises(UserError, match='is not the published archive of CIFAR-10'):
        find_cifar10('cifar10', str(tmp_path))
    assert os.listdir(tmp_path / 'cifar10') == [ARCHIVE]


@pytest.mark.parametrize('archive, complaint', [
    (tar(*MEMBERS, ('../x', b'outside')), r"is not safe to unpack .it contains '../x'"),
    (tar(*MEMBERS, ('/tmp/x', b'outside')), 'is not safe to unpack .it contains'),
    (tar(*MEMBERS[:5], ('cifar-10-batches-bin/test_batch.bin', '/etc/passwd')), 'is not safe to unpack'),
    (tar(*MEMBERS[:5]), 'is not a complete archive'),
    (tar(*MEMBERS)[:-400], 'is not a complete archive'),
    (b'no archive', 'is not a complete archive')],
    ids=['parent folder', 'absolute path', 'link', 'missing file', 'truncated', 'plain text'])
def test_find_cifar10_reports_a_bad_archive(publish, tmp_path, archive, complaint):
    publish(archive)
    with pytest.raises(UserError, match=complaint):
        find_cifar10('cifar10', str(tmp_path / 'data'))


def test_find_cifar10_extracts_nothing_from_an_unsafe_archive(publish, tmp_path):
    publish(tar(*MEMBERS, ('../x', b'outside')))
    with pytest.raises(UserError):
        find_cifar10('cifar10', str(tmp_path))
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [tmp_path / 'cifar10' / ARCHIVE]


##################################################################################
# load_cifar10
##################################################################################

def test_load_cifar10_concatenates_the_training_files(folder):
    (images, labels), _ = load_cifar10('cifar10', folder.parent)
    assert (images == np.concatenate([images for _, images, _ in CONTENT[:5]])).all()
    assert (labels == np.concatenate([labels for _, _, labels in CONTENT[:5]])).all()


def test_load_cifar10_reads_the_test_file(folder):
    _, (images, labels) = load_cifar10('cifar10', folder.parent)
    assert (images == CONTENT[5][1]).all() and (labels == CONTENT[5][2]).all()


@pytest.mark.parametrize('content', [b'', CONTENT[2][0][:-1], b'\x0a' + CONTENT[2][0][1:]],
                         ids=['empty', 'one byte short', 'label 10'])
def test_load_cifar10_reports_a_damaged_file(folder, content):
    (folder / 'data_batch_3.bin').write_bytes(content)
    with pytest.raises(UserError, match='data_batch_3.bin is not a file of CIFAR-10'):
        load_cifar10('cifar10', folder.parent)


def test_load_cifar10_reports_a_missing_file(folder):
    (folder / 'data_batch_3.bin').unlink()
    with pytest.raises(UserError, match='data_batch_3.bin is missing'):
        load_cifar10('cifar10', folder.parent)


def test_find_dataset_finds_cifar10(folder):
    assert find_dataset('cifar10', str(folder.parent)) == ('cifar10', f'Data set: cifar10 in {folder}')


def test_load_dataset_loads_cifar10(folder):
    dataset = load_dataset('cifar10', folder.parent, (32, 32, 3))
    assert dataset.train[0].shape == (5 * COUNT, 32, 32, 3) and dataset.test[0].shape == (COUNT, 32, 32, 3)
    assert dataset.class_names == cifar.CLASS_NAMES and len(cifar.CLASS_NAMES) == 10

import zipfile

import pytest

from datasets import zip_folder
from datasets.zip_folder import list_members, open_member, open_zip
from options import UserError


@pytest.fixture
def make_zip(tmp_path):
    """A function that writes a zip file with the members {name: bytes} and returns its path."""
    def make(members, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / 'own.zip', 'w', compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return tmp_path / 'own.zip'
    return make


def read_all(path):
    """Return {path: content} of a zip file, and the members that are left out."""
    with open_zip(path) as archive:
        members, left_out = list_members(archive)
        return {name: open_member(archive, info).read() for name, info in members.items()}, left_out


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_list_members_lists_files_sorted_by_path(make_zip, compression):
    members, left_out = read_all(make_zip({'b/1.png': b'one', 'b/': b'', 'a.png': b'two' * 99}, compression))
    assert list(members.items()) == [('a.png', b'two' * 99), ('b/1.png', b'one')] and left_out == []


@pytest.mark.parametrize('name, path', [('a\\b.png', 'a/b.png'), ('./a/./b.png', 'a/b.png'), ('Ä☃.png', 'Ä☃.png')])
def test_list_members_normalizes_paths(make_zip, name, path):
    assert read_all(make_zip({name: b''}))[0] == {path: b''}


@pytest.mark.parametrize('name', ['.hidden.png', '.git/a.png', '__MACOSX/._a.png', 'folder/'])
def test_list_members_skips(make_zip, name):
    assert read_all(make_zip({name: b''})) == ({}, [])


@pytest.mark.parametrize('name', ['../a.png', 'a/../../b.png', '/a.png', '..\\a.png', 'C:\\a.png', 'c:/a.png'])
def test_list_members_leaves_out_names_outside_the_zip_file(make_zip, name):
    assert read_all(make_zip({name: b''})) == ({}, [(name, 'its name points outside the zip file')])


def test_list_members_leaves_out_encrypted_members(make_zip):
    path = make_zip({'a.png': b'content'})
    content = bytearray(path.read_bytes())
    content[content.index(b'PK\x01\x02') + 8] |= 1  # the encryption flag in the central directory
    path.write_bytes(content)
    assert read_all(path) == ({}, [('a.png', 'encrypted')])


@pytest.mark.parametrize('content', [b'', b'text', b'PK\x03\x04', b'PK\x05\x06' + bytes(5)])
def test_open_zip_rejects_what_is_not_a_zip_file(tmp_path, content):
    (tmp_path / 'own.zip').write_bytes(content)
    with pytest.raises(UserError, match='own.zip is not a valid zip file'):
        read_all(tmp_path / 'own.zip')


def test_open_zip_rejects_a_truncated_file(make_zip):
    path = make_zip({'a.png': bytes(1000)})
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match='own.zip is not a valid zip file'):
        read_all(path)


def test_open_zip_rejects_a_zip_bomb(make_zip):
    """The file is rejected before anything is unpacked."""
    path = make_zip({'a.png': b'', 'notes.txt': bytes(2 ** 24 + 1)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match='looks like a zip bomb .*notes.txt.* unpacks from .* to 16,777,217 bytes'):
        read_all(path)


@pytest.mark.parametrize('content, compression', [(bytes(9999), zipfile.ZIP_DEFLATED),
                                                  (bytes(10001), zipfile.ZIP_STORED)])
def test_open_zip_accepts_small_or_uncompressed_members(make_zip, monkeypatch, content, compression):
    monkeypatch.setattr(zip_folder, 'MAX_BYTES', 10000)
    assert read_all(make_zip({'a.png': content}, compression))[0] == {'a.png': content}


def test_open_member_rejects_a_large_member(make_zip, monkeypatch):
    monkeypatch.setattr(zip_folder, 'MAX_MEMBER', 999)
    with pytest.raises(ValueError, match='larger than 999 bytes'):
        read_all(make_zip({'a.png': bytes(1000)}))


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_open_member_rejects_damaged_content(make_zip, compression):
    path = make_zip({'a.png': bytes(range(256))}, compression)
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match='damaged in the zip file'):
        read_all(path)

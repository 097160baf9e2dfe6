import os
import socket
import threading

import pytest

from datasets import download, sources
from datasets.download import download_files
from options import UserError

FILES = {'images.gz': b'images' * 20000, 'labels.gz': b'labels' * 30}


def test_download_files_writes_the_bytes_of_the_mirror(serve, tmp_path):
    download_files(str(tmp_path / 'data'), serve(FILES, 'good'), list(FILES))
    assert {path.name: path.read_bytes() for path in (tmp_path / 'data').iterdir()} == FILES


def test_download_files_writes_only_the_named_files(serve, tmp_path):
    download_files(str(tmp_path), serve(FILES, 'good'), ['labels.gz'])
    assert os.listdir(tmp_path) == ['labels.gz']


def test_download_files_tries_the_next_mirror(serve, tmp_path):
    download_files(str(tmp_path), serve(FILES, 'wrong', 'truncated', 'absent', 'good'), list(FILES))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize('kind, cause', [('truncated', 'not the expected file .its sha256 is'),
                                         ('wrong', 'not the expected file .its sha256 is'), ('absent', '404')])
def test_download_files_reports_the_cause(serve, tmp_path, kind, cause):
    with pytest.raises(UserError, match=cause):
        download_files(str(tmp_path), serve(FILES, kind), list(FILES))


@pytest.mark.parametrize('kind', ['truncated', 'wrong', 'absent'])
def test_download_files_leaves_no_part_of_a_file(serve, tmp_path, kind):
    with pytest.raises(UserError):
        download_files(str(tmp_path), serve(FILES, kind), list(FILES))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('words', [['--dataset digits'], [*FILES]])
def test_download_files_advises_in_one_line(serve, tmp_path, words):
    with pytest.raises(UserError) as error:
        download_files(str(tmp_path), serve(FILES, 'absent'), list(FILES))
    message = str(error.value)
    assert '\n' not in message and all(word in message for word in [*words, str(tmp_path)])


def test_download_files_gives_up_on_a_silent_server(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        source = serve(FILES, f'http://127.0.0.1:{silent.getsockname()[1]}/')
        with pytest.raises(UserError, match='no answer|timed out'):
            download_files(str(tmp_path), source, list(FILES))


def test_download_files_gives_up_on_an_endless_name_lookup(serve, tmp_path, monkeypatch):
    end_of_test = threading.Event()

    def look_up(*args):
        end_of_test.wait()
        raise socket.gaierror('no such name')

    monkeypatch.setattr(download, 'TIMEOUT', 0.2)
    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    try:
        with pytest.raises(UserError, match='no answer within 0.2 s'):
            download_files(str(tmp_path), serve(FILES, 'good'), list(FILES))
    finally:
        end_of_test.set()


@pytest.mark.parametrize('source', sources.SOURCES.values(), ids=sources.SOURCES)
def test_timeouts_of_all_mirrors_add_up_to_less_than_15_seconds(source):
    assert len(source.mirrors) * download.TIMEOUT < 15

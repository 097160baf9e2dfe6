"""Download files and check them: a file is either complete or absent."""

import hashlib
import os
import queue
import threading
import urllib.request
from http.client import HTTPException
from typing import NamedTuple

from tqdm import tqdm

from options import UserError
from utils import atomic_write, make_folder

TIMEOUT = 6  # seconds without data before the next mirror is tried; two silent mirrors take less than 15 s


class Source(NamedTuple):
    """Where to download a data set.

    mirrors: URLs, each with a final slash, in the order in which they are tried.
    algorithm: the hash function of the digests, a name that hashlib knows.
    digests: {file name: hexadecimal digest}.
    """
    mirrors: tuple
    algorithm: str
    digests: dict


def download_files(folder, source, names):
    """Download the named files of a source into a folder. Raise UserError if every mirror fails."""
    mirrors = list(source.mirrors)
    for name in names:
        while True:
            try:
                download_file(mirrors[0] + name, os.path.join(folder, name), source.algorithm, source.digests[name])
                break
            except ConnectionError as error:
                del mirrors[0]  # do not retry this mirror for the other files
                if not mirrors:
                    raise UserError(f'the download to {folder} failed ({error}): put {", ".join(names)} in that '
                                    'folder, or use --dataset digits, which needs no network') from error


def download_file(url, path, algorithm, digest):
    """Download url to path, with a progress bar.

    Raises:
        ConnectionError: if the server cannot be reached or sends nothing for TIMEOUT seconds, or the digest is wrong.
    """
    chunks = queue.Queue()

    def receive():
        """Put the length of the file, its chunks and a final b'' in the queue, or the error instead."""
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                chunks.put(response.length)
                while chunk := response.read(1 << 16):
                    chunks.put(chunk)
            chunks.put(b'')
        except (OSError, HTTPException) as error:
            chunks.put(error)

    def next_chunk():
        try:
            chunk = chunks.get(timeout=TIMEOUT)
        except queue.Empty:
            raise ConnectionError(f'{url}: no answer within {TIMEOUT} s') from None
        if isinstance(chunk, Exception):
            raise ConnectionError(f'{url}: {chunk}') from chunk
        return chunk

    # Receive in a thread, because the lookup of a host name ignores the timeout.
    threading.Thread(target=receive, daemon=True).start()
    length = next_chunk()
    computed = hashlib.new(algorithm)
    make_folder(os.path.dirname(path))
    with atomic_write(path) as part:
        with (open(part, 'wb') as file,
              tqdm(desc=os.path.basename(path), total=length, unit='B', unit_scale=True, disable=None) as bar):
            while chunk := next_chunk():
                file.write(chunk)
                computed.update(chunk)
                bar.update(len(chunk))
        if computed.hexdigest() != digest:
            raise ConnectionError(f'{url}: not the expected file (its {algorithm} is {computed.hexdigest()})')

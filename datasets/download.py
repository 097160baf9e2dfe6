"""Files fetched from the network: whole, or not there."""

import hashlib
import os
import queue
import threading
import urllib.request
from http.client import HTTPException

from tqdm import tqdm

from utils import atomic_write, make_folder

PATIENCE = 6  # seconds without a byte after which a mirror is given up, so that two mirrors take less than 15


def download(folder, files, mirrors, algorithm):
    """Fetch files, {name: digest}, into folder, each from the first mirror that has it whole.

    Raises ConnectionError where no mirror gives one.
    """
    mirrors = list(mirrors)
    for name, digest in files.items():
        while True:
            try:
                fetch(mirrors[0] + name, os.path.join(folder, name), algorithm, digest)
                break
            except ConnectionError:
                mirrors.pop(0)
                if not mirrors:
                    raise


def fetch(url, path, algorithm, digest):
    """Download url to path, showing a progress bar; path appears once the digest is right.

    Raises ConnectionError where the file does not come, or not whole, or nothing arrives for PATIENCE seconds.
    """
    chunks = queue.Queue()

    def receive():
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                chunks.put(response.length)
                while chunk := response.read(1 << 16):
                    chunks.put(chunk)
            chunks.put(b'')
        except (OSError, HTTPException) as error:
            chunks.put(error)

    def next_chunk():
        try:
            chunk = chunks.get(timeout=PATIENCE)
        except queue.Empty:
            raise ConnectionError(f'{url}: no answer within {PATIENCE} s') from None
        if isinstance(chunk, Exception):
            raise ConnectionError(f'{url}: {chunk}') from chunk
        return chunk

    # In a thread of its own, because looking up a host's name obeys no timeout.
    threading.Thread(target=receive, daemon=True).start()
    length = next_chunk()
    check = hashlib.new(algorithm)
    make_folder(os.path.dirname(path))
    with atomic_write(path) as part:
        with open(part, 'wb') as file, tqdm(desc=os.path.basename(path), total=length, unit='B', unit_scale=True,
                                            disable=None) as bar:
            while chunk := next_chunk():
                file.write(chunk)
                check.update(chunk)
                bar.update(len(chunk))
        if check.hexdigest() != digest:
            raise ConnectionError(f'{url}: not the expected file, its {algorithm} is {check.hexdigest()}')

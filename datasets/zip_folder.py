"""A zip file that is read like a folder. Nothing is unpacked to disk."""

import contextlib
import io
import lzma
import zipfile
import zlib

from options import UserError

MAX_RATIO = 100  # unpacked size : packed size of a member. Deflate reaches 1000 on zeros; images stay far below 100
MAX_BYTES = 2 ** 24  # smaller members may exceed that ratio
MAX_MEMBER = 2 ** 30  # bytes; members are read into memory as a whole


@contextlib.contextmanager
def open_zip(path):
    """Open a zip file for reading.

    Raises:
        UserError: if the file is damaged or looks like a zip bomb.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f'{path} is not a valid zip file ({error}): replace it, or unpack it to a folder') from error
    with archive:
        for info in archive.infolist():
            if info.file_size > MAX_BYTES and info.file_size > MAX_RATIO * info.compress_size:
                raise UserError(f'{path} looks like a zip bomb ({info.filename!r} unpacks from {info.compress_size:,} '
                                f'to {info.file_size:,} bytes): unpack it to a folder if you trust it')
        yield archive


def list_members(archive):
    """List the files of an archive. Hidden files and folders are skipped, as in an image folder.

    Returns:
        {path: ZipInfo}, sorted by path, and [(path, reason)] of the members that cannot be read.
    """
    members, left_out = {}, []
    for info in archive.infolist():
        parts = [part for part in info.filename.replace('\\', '/').split('/') if part != '.']  # some tools write '\'
        if '..' in parts or parts[0] == '' or parts[0].endswith(':'):
            left_out.append((info.filename, 'its name points outside the zip file'))
        elif parts[-1] == '' or any(part.startswith('.') for part in parts):
            continue
        elif info.flag_bits & 1:
            left_out.append((info.filename, 'encrypted'))
        else:
            members['/'.join(parts)] = info
    return dict(sorted(members.items())), left_out


def open_member(archive, info):
    """Read a member into memory and return it as a binary file. Raise ValueError if it is damaged or too large."""
    if info.file_size > MAX_MEMBER:
        raise ValueError(f'larger than {MAX_MEMBER:,} bytes')
    try:
        return io.BytesIO(archive.read(info))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f'damaged in the zip file: {error}') from error

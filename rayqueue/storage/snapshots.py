"""Snapshots of producer state: `<offset, 20 digits>.snapshot`, a CRC32C (4 bytes, little endian) and opaque bytes.

A snapshot spares reading the index from the log start; without one nothing is lost, so it is not fsynced. But for that
at the log start: it tells of producers whose records are deleted.
"""

from __future__ import annotations

import os

import google_crc32c

from rayqueue.storage.checkpoint import replace_file
from rayqueue.storage.files import FileSystem

SUFFIX = ".snapshot"
_KEPT = 2  # the newest may be damaged, or lie in what recovery cuts off


def _offsets(files: FileSystem, directory: str) -> list[int]:
    stems = (n[: -len(SUFFIX)] for n in files.list_directory(directory) or [] if n.endswith(SUFFIX))
    return sorted(int(stem) for stem in stems if len(stem) == 20 and stem.isdigit())


def _path(directory: str, offset: int) -> str:
    return os.path.join(directory, f"{offset:020d}{SUFFIX}")


def write(files: FileSystem, directory: str, offset: int, data: bytes, durable: bool = False) -> None:
    """Keeps the state as of `offset`, and of the older snapshots only the newest.

    Raises:
        OSError: it was not written.
    """
    files.make_directory(directory)
    replace_file(files, _path(directory, offset), google_crc32c.value(data).to_bytes(4, "little") + data, durable)
    for old in _offsets(files, directory)[:-_KEPT]:
        files.remove(_path(directory, old))


def latest(files: FileSystem, directory: str) -> tuple[int, bytes] | None:
    """(offset, data) of the newest sound snapshot, or None."""
    for offset in reversed(_offsets(files, directory)):
        content = files.read(_path(directory, offset))
        if len(content) >= 4 and int.from_bytes(content[:4], "little") == google_crc32c.value(content[4:]):
            return offset, content[4:]
    return None


def remove_above(files: FileSystem, directory: str, log_end: int) -> None:
    """Removes snapshots of a tail that recovery cut off: other records will stand at those offsets."""
    for offset in _offsets(files, directory):
        if offset > log_end:
            files.remove(_path(directory, offset))

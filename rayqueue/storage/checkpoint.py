"""The checkpoint of a log: what cannot be told from its segments, or only by reading all of them.

One small file, `checkpoint`: a line of JSON and, after it, the line's CRC32C in eight hex digits. It is replaced as a
whole (written beside, fsynced, renamed, directory fsynced). A damaged or missing one costs time at the next start, as
every batch is verified again, and forgets where in its first segment the log started.
"""

from __future__ import annotations

import errno
import logging
import os

import google_crc32c
import msgspec

from rayqueue.storage.files import FileSystem, Piece

NAME = "checkpoint"
TEMPORARY = ".tmp"
_VERSION = 1

_log = logging.getLogger(__name__)


class Checkpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says.

    Attributes:
        log_start_offset: records below it are deleted, whether or not their segment is still there.
        recovery_point: everything below this offset is durable and was verified. Invariant: not above what was fsynced.
        generation: number of times that bytes below the log end were rewritten.
        leader_epochs: (epoch, its first offset) of epochs that began below the recovery point, ascending.
        compacted: below this offset the log has been compacted.
        committed: below this offset the records were committed when it was written; -1: not known.
        segment_created_ms: when the active segment got its first batch, ms since the epoch; -1: not known.
    """

    log_start_offset: int
    recovery_point: int
    generation: int
    leader_epochs: list[tuple[int, int]]
    segment_created_ms: int = -1
    committed: int = -1
    compacted: int = 0
    version: int = _VERSION


def encode(checkpoint: Checkpoint) -> bytes:
    """The file's content."""
    line = msgspec.json.encode(checkpoint)
    return line + b"\n%08x\n" % google_crc32c.value(line)


def decode(data: bytes) -> Checkpoint | None:
    """The checkpoint in a file's content, or None when it is damaged or of another version."""
    line, _, crc = data.partition(b"\n")
    try:
        if int(crc, 16) != google_crc32c.value(line):
            return None
        checkpoint = msgspec.json.decode(line, type=Checkpoint)
    except (ValueError, msgspec.DecodeError):
        return None
    return checkpoint if checkpoint.version == _VERSION else None


def read(files: FileSystem, directory: str) -> Checkpoint | None:
    """The directory's checkpoint; None when there is none that can be trusted."""
    path = os.path.join(directory, NAME)
    if files.size(path) is None:
        return None
    checkpoint = decode(files.read(path))
    if checkpoint is None:
        _log.warning("the checkpoint %s is damaged: verifying the whole log instead", path)
    return checkpoint


def write(files: FileSystem, directory: str, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint, durably.

    Raises:
        OSError: it was not written, the old one stands; or (EIO) it was, and nobody knows whether it is durable.
    """
    replace_file(files, os.path.join(directory, NAME), encode(checkpoint))
    try:
        files.sync_directory(directory)
    except OSError as error:
        raise OSError(errno.EIO, f"the checkpoint may not be durable: {error.strerror}", directory) from error


def replace_file(files: FileSystem, path: str, data: Piece, durable: bool = True) -> None:
    """Writes a file beside `path` and renames it over it; the rename is durable after an fsync of the directory."""
    temporary = write_beside(files, path, data, durable)
    try:
        files.replace(temporary, path)
    except OSError:
        files.remove(temporary)
        raise


def write_beside(files: FileSystem, path: str, data: Piece, durable: bool = True) -> str:
    """Writes a file that is to take the place of `path`; its name, which a recovery removes.

    Raises:
        OSError: it was not written, and is removed again.
    """
    temporary = path + TEMPORARY
    files.remove(temporary)
    file = files.open_append(temporary)
    try:
        files.append(file, [data], len(data))
        if durable:
            files.sync(file)
    except OSError:
        files.remove(temporary)
        raise
    return temporary

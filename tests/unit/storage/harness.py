"""What the storage tests share: batches with recognisable records, whole-log reads, and file systems that fail."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import pyarrow as pa

from rayqueue.config.topic import TopicConfig
from rayqueue.protocol import ipc
from rayqueue.protocol.batches import decode
from rayqueue.protocol.messages import BatchHeader
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE
from rayqueue.storage.files import AppendFile, OsFiles, Piece
from rayqueue.storage.log import Log, LogBatch

EVERYTHING = 1 << 62


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory, where there is one: for tests that make thousands of logs, or run examples."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


def config(**settings: object) -> TopicConfig:
    return TopicConfig.parse(settings)


def value(offset: int, size: int = 20) -> bytes:
    """The record that every test expects at an offset."""
    return (b"record %d " % offset).ljust(size, b".")


def batch(
    base: int,
    count: int = 1,
    timestamp: int = 1_000,
    size: int = 20,
    epoch: int = 0,
    producer: tuple[int, int, int] = (-1, -1, -1),
    attributes: int = 0,
    codec: str | None = None,
) -> LogBatch:
    """A batch for offsets base to base + count - 1; its records' timestamps count up from `timestamp`."""
    rows = pa.record_batch(
        [
            pa.array([b"k%d" % (base + i) for i in range(count)], pa.binary()),
            pa.array([value(base + i, size) for i in range(count)], pa.binary()),
            pa.nulls(count, HEADERS_TYPE),
            pa.array(range(timestamp, timestamp + count), TIMESTAMP_TYPE),
        ],
        schema=DEFAULT_SCHEMA,
    )
    message = ipc.split_message(serialized(rows, codec))
    pid, pepoch, sequence = producer
    last = timestamp + count - 1
    header = BatchHeader(
        base, base + count - 1, count, epoch, pid, pepoch, sequence, timestamp, last, attributes, 0
    )  # fmt: skip
    raw, header.crc = ipc.build_header(message, header, google_crc32c.value(message.body))
    return LogBatch(header, raw, message.body)


def serialized(rows: pa.RecordBatch, codec: str | None = None) -> pa.Buffer:
    """The batch as a record batch message."""
    if codec is None:
        return rows.serialize()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(rows)
        end = sink.tell()
    start = rows.schema.serialize().size
    return sink.getvalue().slice(start, end - start)


def fill(log: Log, batches: int, count: int = 1, now_ms: int = 1_000, **kwargs: int) -> None:
    """Appends so many batches of `count` records, one at a time."""
    for _ in range(batches):
        log.append([batch(log.log_end_offset, count, **kwargs)], now_ms)


def slices(log: Log, max_bytes: int = 1 << 20) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
    """Everything from the log start to the log end: (base offset, batches) of each slice."""
    offset = log.log_start_offset
    while (piece := log.read(offset, max_bytes, EVERYTHING)) is not None:
        assert piece.base_offset <= offset < piece.next_offset
        yield piece.base_offset, decode(piece.data, piece.entries, log.schema)
        offset = piece.next_offset
    assert offset == log.log_end_offset


def values(log: Log) -> list[bytes]:
    """The values of all records from the log start on."""
    found: list[bytes] = []
    first = None
    for base, batches in slices(log):
        first = base if first is None else first
        for rows in batches:
            found += rows.column("value").to_pylist()
    return found[log.log_start_offset - first :] if first is not None else []


def expected(start: int, end: int, size: int = 20) -> list[bytes]:
    return [value(offset, size) for offset in range(start, end)]


def names(directory: Path, suffix: str = "") -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.endswith(suffix))


class FastFiles(OsFiles):
    """Files without real fsyncs, for tests that open thousands of logs and lose no power."""

    def sync(self, file: AppendFile) -> None:
        os.fstat(file.fd)

    def sync_directory(self, path: str) -> None:
        os.stat(path)


class FullDisk(FastFiles):
    """A disk with room for `room` bytes; None: enough. Writes beyond it are cut short, then fail."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.truncate_fails = False

    def write(self, file: AppendFile, pieces: Sequence[Piece | memoryview]) -> int:
        if self.room is None:
            return super().write(file, pieces)
        data = b"".join(bytes(piece) for piece in pieces)[: self.room]
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.path)
        self.room -= len(data)
        return super().write(file, [data])

    def truncate(self, file: AppendFile, size: int) -> None:
        if self.truncate_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO), file.path)
        super().truncate(file, size)


class NoDescriptors(FastFiles):
    """A process that may open `left` more files; None: enough."""

    def __init__(self) -> None:
        self.left: int | None = None

    def open_append(self, path: str, create: bool = True) -> AppendFile:
        if self.left is not None:
            if self.left == 0:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
            self.left -= 1
        return super().open_append(path, create)


class BrokenDisk(FastFiles):
    """A disk whose next fsync or write fails with EIO, once."""

    def __init__(self) -> None:
        self.fail_sync = False
        self.fail_write = False
        self.syncs = 0

    def sync(self, file: AppendFile) -> None:
        self.syncs += 1
        if self.fail_sync:
            self.fail_sync = False
            raise OSError(errno.EIO, os.strerror(errno.EIO), file.path)

    def write(self, file: AppendFile, pieces: Sequence[Piece | memoryview]) -> int:
        if self.fail_write:
            self.fail_write = False
            raise OSError(errno.EIO, os.strerror(errno.EIO), file.path)
        return super().write(file, pieces)


class Crash(Exception):
    """The process ends here."""


class Dying(FastFiles):
    """A process that dies before its n-th change of the file system."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _change(self) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1

    def write(self, file: AppendFile, pieces: object) -> int:
        self._change()
        return super().write(file, pieces)  # type: ignore[arg-type]

    def replace(self, source: str, target: str) -> None:
        self._change()
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self._change()
        super().remove(path)

    def truncate(self, file: AppendFile, size: int) -> None:
        self._change()
        super().truncate(file, size)


class PowerLoss(OsFiles):
    """Files that remember what was durable: the content of each at its last fsync, the names in each directory.

    `lose_power` makes of it a directory such as a power cut may leave.
    """

    def __init__(self) -> None:
        self._contents: dict[int, bytes] = {}  # inode -> content at its last fsync
        self._names: dict[str, dict[str, int]] = {}  # directory -> name -> inode at its last fsync
        self._open: dict[int, int] = {}  # inode -> descriptor: keeps unlinked files, and inodes from being reused

    def open_append(self, path: str, create: bool = True) -> AppendFile:
        file = super().open_append(path, create)
        inode = os.fstat(file.fd).st_ino
        if inode not in self._open:
            self._open[inode] = os.open(path, os.O_RDONLY)
        return file

    def sync(self, file: AppendFile) -> None:
        inode = os.fstat(file.fd).st_ino
        self._contents[inode] = _content(self._open[inode])

    def sync_directory(self, path: str) -> None:
        self._names[path] = _names(path)

    def lose_power(self, directory: str, target: Path, rng: random.Random) -> None:
        """Copies to `target` what a power cut now might leave of `directory`."""
        durable, present = self._names.get(directory, {}), _names(directory)
        target.mkdir()
        for name in sorted(durable.keys() | present.keys()):
            inode = rng.choice([durable.get(name), present.get(name)])
            if inode is not None:
                (target / name).write_bytes(self._left(inode, rng))

    def _left(self, inode: int, rng: random.Random) -> bytes:
        safe = self._contents.get(inode, b"")
        now = _content(self._open[inode])
        if not now.startswith(safe):  # it was cut or overwritten since
            return rng.choice([safe, now])
        left = bytearray(now[: rng.randint(len(safe), len(now))])
        if rng.random() < 0.3 and len(left) > len(safe):  # blocks that were allocated, but not written
            hole = rng.randint(len(safe), len(left))
            end = rng.randint(hole, len(left))
            left[hole:end] = bytes(end - hole)
        return bytes(left)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _names(directory: str) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(directory)}

"""The file system, as a seam: everything the log does to files goes through a `FileSystem`.

`OsFiles` is the real one. Tests put one in its place that remembers what was durable at each fsync, or that runs out
of space. All paths are strings; errors are OSError, as from the operating system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import pyarrow as pa

Piece: TypeAlias = "bytes | pa.Buffer"

# Failures of a write after which a log goes on, for nothing of it is left in the files: a full disk, and no descriptor
# to open a file with. After any other nobody knows what the disk holds.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
PASSING = NO_SPACE | NO_DESCRIPTORS

_IOV_MAX = 1024
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
if hasattr(_libc, "fallocate"):  # Linux
    _libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_MAP_FAILED = ctypes.c_void_p(-1).value


class AppendFile:
    """A file open for appending. It closes when nobody holds it any more, so a thread in the middle of an fsync keeps
    the descriptor of a segment that another thread is rolling or deleting."""

    __slots__ = ("fd", "path", "reserved")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.reserved = 0  # up to where the disk has set room aside, bytes

    def __del__(self) -> None:
        os.close(self.fd)


class FileSystem(Protocol):
    """What the log asks of a file system."""

    def open_append(self, path: str, create: bool = True) -> AppendFile:
        """Opens for appending; creates the file when there is none, if it may."""

    def append(self, file: AppendFile, pieces: Sequence[Piece], total: int) -> None:
        """Writes all pieces (`total` bytes) at the end. After an error part of them may stand in the file."""

    def reserve(self, file: AppendFile, end: int) -> None:
        """Asks for room on the disk up to `end`, without changing the file's size; a hint, it never fails."""

    def give_back(self, file: AppendFile) -> None:
        """Gives back what was reserved beyond the file's end. Nobody may be appending to it: what came between two
        steps of this would be cut off."""

    def truncate(self, file: AppendFile, size: int) -> None:
        """Sets the file's size, and gives back what was reserved beyond it."""

    def overwrite(self, path: str, position: int, data: bytes) -> None:
        """Replaces bytes in the middle of a file."""

    def sync(self, file: AppendFile) -> None:
        """Makes the file's content durable (fdatasync)."""

    def sync_directory(self, path: str) -> None: ...

    def make_directory(self, path: str) -> bool:
        """Makes it with its parents; whether it was missing."""

    def list_directory(self, path: str) -> list[str] | None:
        """The names in it, or None when it does not exist."""

    def replace(self, source: str, target: str) -> None:
        """Renames, over what stands there."""

    def remove(self, path: str) -> None:
        """Unlinks; a file that is gone already is fine."""

    def remove_tree(self, path: str) -> None: ...

    def size(self, path: str) -> int | None:
        """In bytes; None when there is no such file."""

    def read(self, path: str, position: int = 0, length: int = -1) -> bytes: ...

    def map(self, path: str, length: int) -> pa.Buffer:
        """The first `length` bytes, mapped shared and read-only, also where `length` is beyond the end: bytes that
        are appended later show up in it. Bytes beyond the end must not be touched (SIGBUS)."""


def _sync_data(fd: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where fsync stops at the drive's cache
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


class _Unmap:
    """Owner of a mapping: unmaps when the last buffer over it is gone."""

    __slots__ = ("address", "length", "munmap")

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.length = length
        self.munmap = _libc.munmap

    def __del__(self) -> None:
        self.munmap(self.address, self.length)


def map_file(path: str, length: int) -> pa.Buffer:
    """See `FileSystem.map`.

    Python's own `mmap` refuses a length beyond the end of the file and holds a descriptor for each mapping. A mapping
    made once for the room that a segment will take, without a descriptor, is what lets a reader follow a growing file
    with no system call at all (LMDB maps its file the same way).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)
    return pa.foreign_buffer(address, length, _Unmap(address, length))


class OsFiles:
    """The operating system's files."""

    def open_append(self, path: str, create: bool = True) -> AppendFile:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return AppendFile(os.open(path, flags, 0o644), path)

    def append(self, file: AppendFile, pieces: Sequence[Piece], total: int) -> None:
        written = self.write(file, pieces[:_IOV_MAX])
        if written == total:
            return
        # More pieces than one call takes, or a short write: a signal, 2 GiB, a disk that is nearly full.
        rest = [memoryview(piece).cast("B") for piece in pieces]
        while written < total:
            taken = written
            while rest and taken >= len(rest[0]):
                taken -= len(rest.pop(0))
            rest[0] = rest[0][taken:]
            total -= written
            written = self.write(file, rest[:_IOV_MAX])
            if written == 0:
                raise OSError(errno.EIO, "a write took no bytes", file.path)

    def write(self, file: AppendFile, pieces: Sequence[Piece | memoryview]) -> int:
        """One system call's worth; returns how many bytes it took."""
        return os.writev(file.fd, pieces)

    def reserve(self, file: AppendFile, end: int) -> None:
        size = end - file.reserved
        if hasattr(_libc, "fallocate") and size > 0:
            # Refused on a full disk and by file systems that have no such thing: then the writes do without.
            _libc.fallocate(file.fd, _KEEP_SIZE, file.reserved, size)
            file.reserved = end

    def give_back(self, file: AppendFile) -> None:
        os.ftruncate(file.fd, os.fstat(file.fd).st_size)
        file.reserved = 0

    def truncate(self, file: AppendFile, size: int) -> None:
        os.ftruncate(file.fd, size)
        file.reserved = 0

    def overwrite(self, path: str, position: int, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.pwrite(fd, data, position) != len(data):
                raise OSError(errno.EIO, "short write", path)
        finally:
            os.close(fd)

    def sync(self, file: AppendFile) -> None:
        _sync_data(file.fd)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def make_directory(self, path: str) -> bool:
        if os.path.isdir(path):
            return False
        os.makedirs(path, exist_ok=True)
        return True

    def list_directory(self, path: str) -> list[str] | None:
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return None

    def replace(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_tree(self, path: str) -> None:
        shutil.rmtree(path)

    def size(self, path: str) -> int | None:
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return None

    def read(self, path: str, position: int = 0, length: int = -1) -> bytes:
        with open(path, "rb", buffering=0) as file:
            file.seek(position)
            return file.read() if length < 0 else file.read(length)

    def map(self, path: str, length: int) -> pa.Buffer:
        return map_file(path, length)

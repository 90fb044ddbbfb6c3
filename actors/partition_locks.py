"""One lock for each partition of a broker: two of its processes never have the same log open.

When `num.replica.actors` changes, partitions go from one replica actor to another, and both learn of it in their own
time. All locks are in one file, `locks/partitions`, a byte for each partition, at a place that its id gives: so a
thousand partitions cost one descriptor, and some 200 bytes each in the kernel. The file stays empty; the locks are gone
when the process is, however it ends.

On Linux the locks belong to the open file (F_OFD_SETLK), so also two replica actors in one process exclude each other.
Elsewhere they are POSIX's, which belong to the process: two in one process, as in tests, do not.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from hashlib import blake2b
from pathlib import Path

from rayqueue.errors import StorageError

Key = tuple[bytes, int]  # topic id and number

_FLOCK = struct.Struct("hhqqi4x")  # Linux, 64 bit: type, whence, start, length, pid


class PartitionInUse(StorageError):
    """Another process has the partition's log open."""


class PartitionLocks:
    """The locks that one replica actor holds. For any thread; none of it waits.

    Args:
        root: the broker's directory.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "locks" / "partitions"
        self._file: int | None = None
        self._held: set[Key] = set()
        self._mutex = threading.Lock()

    def take(self, key: Key) -> None:
        """Takes a partition's lock; it may be held already.

        Raises:
            PartitionInUse: another process has it.
            OSError: the file cannot be opened or locked.
        """
        with self._mutex:
            if key in self._held:
                return
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _lock(self._file, _place(key), fcntl.LOCK_EX)
            except (BlockingIOError, PermissionError):  # POSIX leaves open which
                raise PartitionInUse("another replica actor of this broker still has it open") from None
            self._held.add(key)

    def release(self, key: Key) -> None:
        """Gives a lock back, once the log is closed."""
        with self._mutex:
            if key in self._held and self._file is not None:
                self._held.discard(key)
                _lock(self._file, _place(key), fcntl.LOCK_UN)

    def close(self) -> None:
        """Gives all back."""
        with self._mutex:
            self._held.clear()
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _place(key: Key) -> int:
    """Where in the file, below 2**62. Were two ids to share a place, one partition would wait for the other."""
    return int.from_bytes(blake2b(key[0] + b"%d" % key[1], digest_size=8).digest(), "big") >> 2


def _lock(file: int, start: int, what: int) -> None:
    if not hasattr(fcntl, "F_OFD_SETLK"):
        fcntl.lockf(file, what | (0 if what == fcntl.LOCK_UN else fcntl.LOCK_NB), 1, start)
        return
    kind = fcntl.F_UNLCK if what == fcntl.LOCK_UN else fcntl.F_WRLCK
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0))

"""Memory that a producer and a server on one host share: large batches go through it, and past the socket.

The server makes it when a connection begins whose two ends have the same address, seals it, so that it can never be
shortened under its reader (a page that is gone is a SIGBUS), and says in its welcome where it is: a descriptor of its
own, which the client opens through /proc. That needs the same user and the same process namespace; who has not both
sends as ever. The client alone says which bytes are used; the server only reads, and has read by the time it answers.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
from bisect import insort
from collections import deque
from collections.abc import Sequence

import pyarrow as pa

from rayqueue.errors import ProtocolError
from rayqueue.protocol.messages import ProduceBatch, SharedMemory

SIZE = 16 << 20  # what a connection may use; only pages that are used take memory
BATCH_BYTES_MIN = 32 * 1024  # below, a copy through the socket is as cheap
_ALIGNMENT = 64
_PREFIX = "rayqueue-"


class ServerMemory:
    """The server's end: reads what the client has put there.

    Attributes:
        offer: what the client is told.

    Raises:
        OSError: there is no such memory on this system.
    """

    def __init__(self, size: int = SIZE) -> None:
        if not (hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")):
            raise OSError("no memory can be shared here")
        name = _PREFIX + secrets.token_hex(16)
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, size)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._data = pa.py_buffer(mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ))
        except BaseException:
            os.close(self._fd)
            raise
        self.offer = SharedMemory(os.getpid(), self._fd, size, name)

    def rows(self, batches: Sequence[ProduceBatch], sent: Sequence[pa.Buffer]) -> list[pa.Buffer]:
        """The batches' rows: where they say they lie, else the next of those that were sent.

        Raises:
            ProtocolError: there is no such place, the rows have more bytes than there are, or what was sent is not what
                is missing.
        """
        if sum(batch.size for batch in batches) > self._data.size:
            raise ProtocolError(f"rows in shared memory cannot be more than its {self._data.size} bytes")
        if sum(not batch.size for batch in batches) != len(sent):
            raise ProtocolError("a ProduceRequest has a row for each batch whose row is not in shared memory")
        others = iter(sent)
        return [self._row(batch) if batch.size else next(others) for batch in batches]

    def _row(self, batch: ProduceBatch) -> pa.Buffer:
        position, size = batch.position, batch.size
        if size < 0 or position % 8 or not 0 <= position <= self._data.size - size:
            raise ProtocolError(f"{size} bytes at {position} do not lie in the {self._data.size} that are shared")
        return self._data.slice(position, size)

    def close(self) -> None:
        """Gives the descriptor back; the memory goes when nobody uses it."""
        os.close(self._fd)


class _Space:
    """A piece in use, until the last buffer over it is gone."""

    __slots__ = ("_freed", "_memory", "_place")

    def __init__(self, memory: mmap.mmap, place: tuple[int, int], freed: deque[tuple[int, int]]) -> None:
        self._memory = memory
        self._place = place
        self._freed = freed

    def __del__(self) -> None:
        # Anywhere, at any time, perhaps in the middle of `write`: nothing but this.
        self._freed.append(self._place)


def _check_name(path: str, offer: SharedMemory) -> None:
    """The name is random, so only the server's memory has it."""
    if not offer.name.startswith(_PREFIX) or os.readlink(path) != f"/memfd:{offer.name} (deleted)":
        raise ValueError("another file has this number here")


class ClientMemory:
    """The client's end. `write` is one thread's at a time.

    Args:
        offer: what the server said.

    Raises:
        OSError: it cannot be reached from here; ValueError: what is there is not it.
    """

    def __init__(self, offer: SharedMemory) -> None:
        path = f"/proc/{offer.pid}/fd/{offer.fd}"
        _check_name(path, offer)  # before: what is opened may be anything, if another process has this number here
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _check_name(f"/proc/self/fd/{fd}", offer)
            if os.fstat(fd).st_size != offer.size:
                raise ValueError("the server's memory has another size than it says")
            self._memory = mmap.mmap(fd, offer.size)
        finally:
            os.close(fd)
        self._view = memoryview(self._memory)
        self._begin = pa.py_buffer(self._memory).address
        self._size = offer.size
        self._used: list[tuple[int, int]] = []  # (start, end), ascending
        self._freed: deque[tuple[int, int]] = deque()

    def write(self, batch: pa.RecordBatch) -> pa.Buffer | None:
        """The IPC message of a batch, written to where the server sees it; None when there is no room.

        The room is free again when the buffer that is returned, and all that share it, are gone.
        """
        schema_size = batch.schema.serialize().size  # the writer begins with it
        size = pa.ipc.get_record_batch_size(batch)
        start = self._find(schema_size + size)
        if start < 0:
            return None
        end = start + schema_size + size
        insort(self._used, (start, end))
        space = _Space(self._memory, (start, end), self._freed)
        with pa.FixedSizeBufferWriter(pa.py_buffer(self._view[start:end])) as sink:
            pa.ipc.new_stream(sink, batch.schema).write_batch(batch)  # and no end of stream
        return pa.foreign_buffer(self._begin + start + schema_size, size, space)

    def _find(self, size: int) -> int:
        """The lowest place with so much room, for the lowest pages are warm; -1 if there is none."""
        with contextlib.suppress(IndexError):
            while True:
                self._used.remove(self._freed.popleft())
        start = 0
        for begin, end in self._used:
            if begin - start >= size:
                return start
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
        return start if self._size - start >= size else -1

    def refer(self, batch: ProduceBatch, row: pa.Buffer) -> bool:
        """Has the batch say where its row lies; False for a row that does not lie in this memory."""
        position = row.address - self._begin
        if not 0 <= position < self._size:
            return False
        batch.position, batch.size = position, row.size
        return True

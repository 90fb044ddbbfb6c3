"""What the parts of a log share.

Readers take what the writer published: a segment's `extent` and `next_offset` are set after the bytes are written, then
the tuple of segments, then the log end. So a reader that sees a log end finds all below it. No lock is taken for that:
each is one assignment of an immutable value.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from rayqueue.errors import StorageError
from rayqueue.protocol.schemas import serialize_schema
from rayqueue.protocol.sparse import sparse_schema
from rayqueue.storage.files import FileSystem
from rayqueue.storage.recovery import Recovered
from rayqueue.storage.segment import Segment

_log = logging.getLogger(__name__)


class Cleaning:
    """That the log is being compacted, and how that is stopped."""

    def __init__(self) -> None:
        self._running = threading.Lock()
        self._guard = threading.Lock()
        self._halts = 0
        self._stop = threading.Event()

    def stopped(self, wait_s: float = 0.0) -> bool:
        """Whether compaction has to end; waits so long for that."""
        return self._stop.wait(wait_s)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Compaction runs."""
        with self._running:
            yield

    @contextmanager
    def halted(self) -> Iterator[None]:
        """No compaction meanwhile: one that is under way is told to stop, and waited for."""
        with self._guard:
            self._halts += 1
            self._stop.set()
        try:
            with self._running:
                yield
        finally:
            with self._guard:
                self._halts -= 1
                if not self._halts:
                    self._stop.clear()


class LogState:
    """The state of an open log.

    Attributes:
        segments: ascending by base offset. Only the last may be open for writing (`Segment.closed`).
        log_start, log_end: invariant: log_start <= log_end, except within a call that moves both.
        generation: changes when bytes below the log end were rewritten.
        cuts: how often the log was cut back, by this process.
        epochs: (leader epoch, its first offset), ascending.
        committed: what the owner of the log said is committed, for the next checkpoint; -1: not known.
        compacted: below it the log has been compacted.
        cleaning: stops compaction. Taken before any lock of `Durability`.
        appended_bytes: in this process; only grows.
        begun: segments begun or closed in this process; only grows.
        anchored: the name of the first segment is durable, as far as the writer has seen to it.
        used: read or appended to since idle files were last looked for.
    """

    def __init__(self, files: FileSystem, directory: str, schema: pa.Schema, recovered: Recovered) -> None:
        self.files = files
        self.directory = directory
        self.schema = schema
        self.segments: tuple[Segment, ...] = tuple(recovered.segments)
        self.log_start = recovered.log_start_offset
        self.log_end = recovered.log_end_offset
        self.generation = recovered.generation
        self.cuts = 0
        self.epochs = recovered.leader_epochs
        self.committed = recovered.committed
        self.compacted = recovered.compacted
        self.cleaning = Cleaning()
        self._publishing = threading.Lock()  # held while `segments` becomes another tuple
        self.appended_bytes = 0
        self.begun = 0
        self.anchored = False
        self.used = False
        self.closed = False
        self._failure: str | None = None

    def stored_schema(self, sparse: bool) -> pa.Schema:
        """The schema of a segment, whose batches are sparse or are not."""
        return sparse_schema(self.schema) if sparse else self.schema

    def schema_message(self, sparse: bool = False) -> bytes:
        """The IPC schema message that such a segment begins with."""
        return serialize_schema(self.stored_schema(sparse))

    def add_segments(self, created: Sequence[Segment]) -> None:
        """Segments that have been appended to the log."""
        with self._publishing:
            self.segments = (*self.segments, *created)

    def replace_segments(self, group: Sequence[Segment], made: Segment) -> None:
        """One segment takes the place of neighbouring ones."""
        with self._publishing:
            row = self.segments.index(group[0])
            self.segments = (*self.segments[:row], made, *self.segments[row + len(group) :])

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @property
    def online(self) -> bool:
        return self._failure is None and not self.closed

    def check_online(self) -> None:
        """Raises StorageError when the log failed or is closed."""
        if self._failure is not None:
            raise StorageError(self._failure)
        if self.closed:
            raise StorageError(f"the log in {self.directory} is closed")

    def go_offline(self, error: BaseException) -> StorageError:
        """After an error that leaves open what is on disk, nothing is written or read any more."""
        self._failure = (
            f"the log in {self.directory} is offline after a disk error ({error}): check the disk, then restart the "
            f"replica actor; it recovers from what is on disk"
        )
        _log.error("%s", self._failure)
        return StorageError(self._failure)

    def release(self) -> None:
        """Closes files and mappings; they open again when needed."""
        for segment in self.segments:
            segment.release()

"""What the parts of a log share.

Readers take what the writer published: a segment's `extent` and `next_offset` are set after the bytes are written, then
the tuple of segments, then the log end. So a reader that sees a log end finds all below it. No lock is taken for that:
each is one assignment of an immutable value.
"""

from __future__ import annotations

import logging

import pyarrow as pa

from rayqueue.errors import StorageError
from rayqueue.protocol.schemas import serialize_schema
from rayqueue.storage.files import FileSystem
from rayqueue.storage.recovery import Recovered
from rayqueue.storage.segment import Segment

_log = logging.getLogger(__name__)


class LogState:
    """The state of an open log.

    Attributes:
        segments: ascending by base offset. Only the last may be open for writing (`Segment.closed`).
        log_start, log_end: invariant: log_start <= log_end, except within a call that moves both.
        generation: changes when bytes below the log end were rewritten.
        epochs: (leader epoch, its first offset), ascending.
        committed: what the owner of the log said is committed, for the next checkpoint; -1: not known.
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
        self.epochs = recovered.leader_epochs
        self.committed = recovered.committed
        self.appended_bytes = 0
        self.begun = 0
        self.anchored = False
        self.used = False
        self.closed = False
        self._failure: str | None = None

    @property
    def schema_message(self) -> bytes:
        """The IPC schema message that every segment begins with."""
        return serialize_schema(self.schema)

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

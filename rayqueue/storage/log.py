"""The log of one partition replica: segments in a directory, one writer, any number of readers.

Threads: `append`, `enforce_retention`, `delete_before`, `write_snapshot`, `update_config`, `close` and `delete` belong
to one thread, the writer. `flush` may run in a second one. `read` and the look-ups may run in any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import OffsetOutOfRange, StorageError
from rayqueue.storage import retention, snapshots, truncation
from rayqueue.storage.appender import LogBatch, append
from rayqueue.storage.compaction import plan as plans
from rayqueue.storage.compaction import run as compaction
from rayqueue.storage.durability import Durability
from rayqueue.storage.files import NO_DESCRIPTORS, PASSING, FileSystem
from rayqueue.storage.index import Entries
from rayqueue.storage.lookup import Lookup
from rayqueue.storage.reader import LogSlice
from rayqueue.storage.recovery import Recovered, Recovery
from rayqueue.storage.segment import CutBackFailed
from rayqueue.storage.state import LogState

__all__ = ["Log", "LogBatch"]


class Log:
    """A recovered, open log. Made by `Log.open`.

    Attributes:
        repairs: what recovery put right, in words; empty after a clean stop.
    """

    def __init__(
        self, files: FileSystem, directory: str, schema: pa.Schema, config: TopicConfig, recovered: Recovered
    ) -> None:
        self.repairs = recovered.repairs
        self._config = config
        self._state = LogState(files, directory, schema, recovered)
        self._durability = Durability(self._state, recovered.recovery_point)
        self._lookup = Lookup(self._state, self._durability)

    @classmethod
    def open(cls, files: FileSystem, directory: str, schema: pa.Schema, config: TopicConfig) -> Log:
        """Recovers the log in a directory; it need not exist, and is made by the first append.

        Args:
            schema: the topic's log schema.

        Raises:
            StorageError: the directory cannot be read or repaired.
        """
        try:
            recovered = Recovery(files, directory, schema).run()
        except OSError as error:
            raise StorageError(f"cannot open the log in {directory}: {error}") from error
        return cls(files, directory, schema, config, recovered)

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> str:
        return self._state.directory

    @property
    def schema(self) -> pa.Schema:
        return self._state.schema

    @property
    def log_start_offset(self) -> int:
        """The first offset that can be read."""
        return self._state.log_start

    @property
    def log_end_offset(self) -> int:
        """The offset the next record gets."""
        return self._state.log_end

    @property
    def flushed_offset(self) -> int:
        """Everything below it is durable."""
        return self._durability.flushed

    @property
    def online(self) -> bool:
        """Whether it can be read and written: neither failed nor closed."""
        return self._state.online

    @property
    def sound(self) -> bool:
        """Whether it has not failed; closed or not."""
        return not self._state.failed

    @property
    def generation(self) -> int:
        """Changes when bytes below the log end were rewritten: mapped readers must map anew."""
        return self._state.generation

    @property
    def size_bytes(self) -> int:
        """Bytes in the data files."""
        return sum(segment.extent.size for segment in self._state.segments)

    @property
    def segment_count(self) -> int:
        return len(self._state.segments)

    @property
    def leader_epochs(self) -> list[tuple[int, int]]:
        """(epoch, its first offset), ascending."""
        return list(self._state.epochs)

    @property
    def committed_offset(self) -> int:
        """Below it the records were committed when the last checkpoint was written; -1: not known."""
        return self._state.committed

    def note_committed(self, offset: int) -> None:
        """The high watermark, for the next checkpoint: who opens the log then knows it at once. It may be behind."""
        self._state.committed = offset

    # --- writing ---------------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[LogBatch], now_ms: int) -> bool:
        """Writes batches at the log end, all or none. They are not durable before `flush`.

        Args:
            batches: in offset order, the first at the log end offset.
            now_ms: wall clock, ms.

        Returns:
            Whether a segment was rolled: the moment for a producer snapshot, and for `flush` in its thread, so that
            closed segments do not pile up unflushed.

        Raises:
            StorageError: on a full disk, or without a descriptor left, nothing was appended, and the log stays usable.
                After any other I/O error it is offline, every later call raises, and only recovery tells whether the
                batches are in it.
            OffsetOutOfRange, CorruptRecord: the batches do not continue the log, or are no whole messages.
        """
        state = self._state
        state.check_online()
        if not batches:
            return False
        segments = state.segments
        active = segments[-1] if segments and not segments[-1].closed else None
        try:
            created, size = append(state, active, batches, now_ms, self._config)
        except CutBackFailed as error:
            raise state.go_offline(error) from error
        except OSError as error:
            raise self._refused(error) from error
        epochs = state.epochs
        for entry, _, _ in batches:
            if not epochs or entry.leader_epoch > epochs[-1][0]:
                epochs.append((entry.leader_epoch, entry.base_offset))
        state.used = True
        state.appended_bytes += size
        if created:
            state.add_segments(created)
            state.begun += len(created)
        state.log_end = batches[-1].entry.last_offset + 1
        return len(created) > (not segments)

    def _refused(self, error: OSError) -> StorageError:
        if error.errno not in PASSING:
            return self._state.go_offline(error)
        none_left = error.errno in NO_DESCRIPTORS
        hint = "raise the limit of open files (ulimit -n)" if none_left else "free space or lower retention"
        return StorageError(f"cannot write to {self._state.directory}: {error.strerror}; {hint}, then retry")

    def flush(self) -> int:
        """Makes durable what is appended (fdatasync), and what recovery found above the recovery point. Callable from
        another thread; of the writer's calls only `close` and `delete` wait for it.

        Returns:
            The offset below which all is durable.

        Raises:
            StorageError: the disk failed. The log is offline for good: after a failed fsync nobody knows what the
                kernel dropped, so it is never tried again.
        """
        return self._durability.flush()

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int, limit: int) -> LogSlice | None:
        """Whole batches of one segment, from the one containing `offset` on, without copying.

        Args:
            offset: where to begin.
            max_bytes: stop before exceeding this, but return one batch at least.
            limit: only batches whose last offset is below it.

        Returns:
            The slice, or None when no whole batch lies below the limit.

        Raises:
            OffsetOutOfRange: the offset is below the log start or above the log end.
            CorruptRecord: the files are damaged there. (A batch's bytes are compared with its CRC by `decode`.)
            StorageError: the log is offline or closed.
        """
        return self._lookup.read(offset, max_bytes, limit)

    def offset_for_timestamp(self, timestamp: int, limit: int) -> tuple[int, int] | None:
        """The first record, in a batch below `limit`, whose timestamp is not below `timestamp` (ms).

        Returns:
            Its offset and timestamp, or None when there is none.

        Raises:
            CorruptRecord, StorageError: as `read`.
        """
        return self._lookup.offset_for_timestamp(timestamp, limit)

    def entries_from(self, offset: int) -> Iterator[Entries]:
        """Index entries of the batches from the one containing `offset` on, ENTRY[n] a segment.

        Raises:
            CorruptRecord, StorageError: as `read`.
        """
        return self._lookup.entries_from(offset)

    # --- deleting --------------------------------------------------------------------------------------------------

    def enforce_retention(self, now_ms: int, high_watermark: int, before: Callable[[int], None] | None = None) -> bool:
        """Deletes the oldest segments that `retention.ms`, `.bytes` and `.records` no longer allow, up to the high
        watermark; closes files and mappings that nobody used since the last call.

        Args:
            now_ms: wall clock, ms.
            before: called with the new log start before anything is deleted.

        Returns:
            Whether the log start moved.

        Raises:
            StorageError: the disk failed.
        """
        state = self._state
        state.check_online()
        start, segments = state.log_start, state.segments
        try:
            doomed = retention.expired(segments, self._config, now_ms, high_watermark, start)
        except OSError as error:
            raise StorageError(f"cannot read the log in {state.directory}: {error}") from error
        if doomed:
            end = segments[doomed - 1].next_offset
            if before is not None:
                before(end)
            self._durability.move_start(end)
        if state.segments and retention.wants_roll(state.segments[-1], self._config, now_ms):
            self._close_active()
        if not state.used:
            state.release()
        state.used = False
        return state.log_start != start

    def _close_active(self) -> None:
        """Closes the active segment, so that retention can take it; the next append begins another."""
        segment = self._state.segments[-1]
        if segment.closed:
            return
        try:
            segment.end_stream()
        except CutBackFailed as error:
            raise self._state.go_offline(error) from error
        except OSError as error:
            raise self._refused(error) from error
        segment.closed = True
        self._state.begun += 1

    def delete_before(self, offset: int) -> int:
        """Deletes the records below `offset` (KIP-107): the log starts there from now on, also after a restart.

        Returns:
            The new log start offset.

        Raises:
            OffsetOutOfRange: the offset is above the log end.
            StorageError: the disk failed.
        """
        state = self._state
        state.check_online()
        if offset > state.log_end:
            raise OffsetOutOfRange(f"cannot delete up to offset {offset}: the log ends at {state.log_end}")
        if offset > state.log_start:
            self._durability.move_start(offset)
        return state.log_start

    def truncate(self, offset: int) -> int:
        """Cuts the log back to `offset`, or to the start of the batch that holds it: for a follower whose leader has
        other records there. One that is cut back to its start still knows the producers and the leader epoch of what
        was deleted below. Bytes that are kept may be written anew, so this takes time, and the log has a new
        generation; a crash meanwhile leaves the old log or a part of it that reaches at least to the cut.

        Returns:
            The new log end offset.

        Raises:
            StorageError: the disk is full, or there is no descriptor left: nothing was cut, and the log stays usable
                (`online`). Or the disk failed, and the log is offline.
            CorruptRecord: the index is damaged there.
        """
        truncation.truncate(self._state, self._durability, offset)
        return self._state.log_end

    def reset(self, start: int) -> None:
        """Removes all records; the log begins at `start` (KIP-101: a follower whose leader has deleted more), and knows
        nothing of what was below.

        Raises:
            StorageError: as `truncate`.
        """
        truncation.reset(self._state, self._durability, start)

    # --- compacting ------------------------------------------------------------------------------------------------

    def compaction_due(self, now_ms: int, high_watermark: int) -> plans.Plan | None:
        """What `compact` should do now; None where the topic is not compacted, or nothing is due.

        Raises:
            StorageError: the log is offline, or cannot be read.
        """
        return compaction.due(self._state, self._config, now_ms, high_watermark)

    def compact(self, due: plans.Plan, work: compaction.Work) -> compaction.Compacted:
        """Compacts the log: of each key the newest record stays, at its offset. Callable from another thread;
        `truncate`, `reset`, `close` and `delete` stop it and wait for that.

        Args:
            due: from `compaction_due`.

        Raises:
            CorruptRecord: something is damaged. What was done before it stays, and so does the rest.
            StorageError: the disk is full, or could not be read or written: what it failed at has changed nothing.
                Or it failed while files were swapped, and the log is offline.
        """
        return compaction.compact(self._state, self._durability, self._config, due, work)

    # --- the rest --------------------------------------------------------------------------------------------------

    def write_snapshot(self, offset: int, data: bytes, durable: bool = False) -> None:
        """Keeps producer state as of `offset`; the newest two are kept. One that is durable is so, name and all, when
        records below it are deleted: it tells of them.

        Raises:
            StorageError: it was not written. The log stays usable.
        """
        state = self._state
        state.check_online()
        try:
            snapshots.write(state.files, state.directory, offset, data, durable)
        except OSError as error:
            raise StorageError(f"cannot write a snapshot in {state.directory}: {error}") from error

    def latest_snapshot(self) -> tuple[int, bytes] | None:
        """(offset, data) of the newest sound snapshot, or None. It never lies above the log end.

        Raises:
            StorageError: the directory cannot be read.
        """
        state = self._state
        state.check_online()
        try:
            return snapshots.latest(state.files, state.directory)
        except OSError as error:
            raise StorageError(f"cannot read the snapshots in {state.directory}: {error}") from error

    def update_config(self, config: TopicConfig) -> None:
        """New settings; they hold from the next append or retention on."""
        self._config = config

    def release(self) -> None:
        """Closes files and mappings until they are needed again. What is not flushed stays so."""
        self._state.release()

    def close(self) -> None:
        """Flushes, writes the checkpoint, so that the next start verifies nothing, and closes. Idempotent.

        Raises:
            StorageError: the last flush failed; the log is closed all the same.
        """
        self._durability.close()

    def delete(self) -> None:
        """Closes the log and removes its directory.

        Raises:
            StorageError: it could not be removed.
        """
        self._durability.delete()

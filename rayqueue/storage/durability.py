"""Making a log durable: fsync, checkpoint, and the moves of the log start that depend on it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rayqueue.errors import StorageError
from rayqueue.storage import checkpoint as checkpoints
from rayqueue.storage import retention
from rayqueue.storage.checkpoint import Checkpoint
from rayqueue.storage.files import PASSING
from rayqueue.storage.recovery import rebuild_index
from rayqueue.storage.segment import NO_TIMESTAMP, Segment
from rayqueue.storage.state import LogState

# Bytes after which a flush also writes a checkpoint: bounds what a start after a crash has to verify.
CHECKPOINT_BYTES = 64 << 20
# Of a directory that is being deleted: whoever lists its parent may remove it.
DELETED_SUFFIX = ".deleted"

_log = logging.getLogger(__name__)


class Durability:
    """Flushes and checkpoints of a log.

    `flush` may run beside the writer, and an fsync may take seconds: nothing that the writer does waits for one, but
    for `close` and `delete`. The writer may wait while a checkpoint is written, as it writes them itself.
    """

    def __init__(self, state: LogState, flushed: int) -> None:
        self._state = state
        self._flushed = flushed
        self._checkpointed = flushed
        self._checkpointed_bytes = 0
        # Value of `LogState.begun` up to which new files' directory entries are durable. What lies above the recovery
        # point was begun by a process that died: nobody knows which of its fsyncs it came to.
        self._begun = -1 if state.log_end > flushed else 0
        self._directory_durable = False  # nor whether it came to this one
        # Held by a flush: one at a time. Taken before the other one.
        self._flush_lock = threading.Lock()
        # Held while the log start moves, and while a checkpoint is made and written, so that none is followed by an
        # older one. Never held during the fsync of a segment.
        self._checkpoint_lock = threading.RLock()

    @property
    def flushed(self) -> int:
        """Everything below this offset is durable."""
        return self._flushed

    def flush(self, checkpoint: bool = False) -> int:
        """See `Log.flush`; with `checkpoint`, one is written in any case."""
        with self._flush_lock:
            return self._flush(checkpoint)

    def _flush(self, checkpoint: bool) -> int:
        state = self._state
        state.check_online()
        with self._checkpoint_lock:  # not while a move of the start may still be undone
            # Before any fsync begins, and in this order: what is published below `end` is in `begun` and `segments`.
            end, begun, appended = state.log_end, state.begun, state.appended_bytes
            segments = state.segments
        checkpoint |= begun != self._begun or appended - self._checkpointed_bytes >= CHECKPOINT_BYTES
        if end == self._flushed and not checkpoint:
            return end
        try:
            # The index can be made again from the data, so it has to be durable only below a recovery point.
            for segment in segments:
                segment.sync(index=checkpoint)
                if segment.closed:
                    segment.release_writers()
            self._sync_directory(begun)
            self._flushed = max(self._flushed, end)
            if checkpoint and self._try_checkpoint():
                self._checkpointed_bytes = appended
        except OSError as error:
            raise state.go_offline(error) from error
        return self._flushed

    def _sync_directory(self, begun: int) -> None:
        """Makes the directory entries of new files durable, and once that of the directory itself."""
        directory = self._state.directory
        if begun != self._begun or not self._directory_durable:
            self._state.files.sync_directory(directory)
        if not self._directory_durable:
            self._state.files.sync_directory(os.path.dirname(directory))
            self._directory_durable = True
        self._begun = begun

    def _try_checkpoint(self) -> bool:
        """Writes a checkpoint unless the disk is full: the one before it still holds, and a later flush writes one."""
        try:
            self._write_checkpoint()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            _log.warning("no room for a checkpoint in %s: a start after a crash takes longer", self._state.directory)
            return False
        return True

    def _write_checkpoint(self) -> None:
        state = self._state
        with self._checkpoint_lock:
            point = max(self._flushed, state.log_start)
            segments = state.segments
            checkpoint = Checkpoint(
                log_start_offset=state.log_start,
                recovery_point=point,
                generation=state.generation,
                leader_epochs=[epoch for epoch in state.epochs if epoch[1] < point],
                segment_created_ms=segments[-1].created_ms if segments else NO_TIMESTAMP,
                committed=min(state.committed, state.log_end),
                compacted=state.compacted,
            )
            checkpoints.write(state.files, state.directory, checkpoint)
            self._checkpointed = point

    def move_start(self, offset: int) -> None:
        """Moves the log start, durably, and only then unlinks the segments that lie below it; also under a flush,
        which then passes them over.

        Raises:
            StorageError: the disk is full, and the start is where whole segments could be deleted; or it failed, and
                the log is offline.
        """
        state = self._state
        with self._checkpoint_lock:
            before = state.log_start, state.epochs
            gone = [segment for segment in state.segments if segment.next_offset <= offset]
            state.log_start = offset
            state.segments = tuple(segment for segment in state.segments if segment.next_offset > offset)
            state.epochs = retention.epochs_from(state.epochs, offset)
            try:
                if not self._try_checkpoint():
                    # Room comes from what is deleted. A log is known to start where its first segment does, so
                    # segments may go before the checkpoint says so, but for the last: its end would be forgotten.
                    last = [] if state.segments else gone[-1:]
                    gone = [segment for segment in gone if segment not in last]
                    _remove(gone)
                    gone = last
                    if not self._try_checkpoint():
                        state.segments = (*last, *state.segments)
                        state.log_start = max(before[0], state.segments[0].base_offset)
                        state.epochs = retention.epochs_from(before[1], state.log_start)
                        raise StorageError(
                            f"no room for a checkpoint in {state.directory}: its log starts at {state.log_start}, not "
                            f"{offset}; free space, then delete again"
                        )
                _remove(gone)
            except OSError as error:
                raise state.go_offline(error) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No flush and no other checkpoint meanwhile; the log is online, and is not closed before the end of it.

        Raises:
            StorageError: the log failed or is closed.
        """
        with self._flush_lock, self._checkpoint_lock:
            self._state.check_online()
            yield

    def note_cut(self, end: int, start: int, sound: int) -> None:
        """Before the log is cut back to `end`, or to nothing where `start` is the end: from `end` on nothing counts as
        durable any more, and that is durable when this returns. Called `alone`.

        Args:
            sound: below it what is known of leader epochs still holds.

        Raises:
            OSError: it could not be noted; nothing has changed.
        """
        state = self._state
        before = self._flushed, state.generation, state.log_start, state.committed, state.epochs, state.compacted
        state.cuts += 1
        state.epochs = [epoch for epoch in state.epochs if epoch[1] < sound]
        self._flushed = end if start == end else min(self._flushed, end)
        state.committed = min(state.committed, end)
        state.compacted = min(state.compacted, end)
        state.log_start = start
        state.generation += 1
        try:
            state.files.make_directory(state.directory)
            self._write_checkpoint()
        except OSError:
            self._flushed, state.generation, state.log_start, state.committed, state.epochs, state.compacted = before
            raise

    def raise_generation(self) -> None:
        """The next generation, durably. Called `alone`.

        Raises:
            OSError: it could not be written; who reads looks again at what has not changed.
        """
        self._state.generation += 1
        self._write_checkpoint()

    def note_compacted(self, end: int) -> None:
        """All below `end` has been compacted. Lost in a crash, it is done once more.

        Raises:
            StorageError: the log failed, or is closed.
        """
        with self.alone():
            self._state.compacted = min(end, self._state.log_end)
            try:
                self._try_checkpoint()
            except OSError as error:
                raise self._state.go_offline(error) from error

    def repair_index(self, segment: Segment) -> None:
        """Makes the index of a closed segment again from its data file. Of one that has been deleted, or cut and
        written anew since the caller took it, nothing is made: another file stands under its name, or none.

        Raises:
            StorageError: it could not be written, or the log was closed: its files are another process's.
        """
        state = self._state
        with self._checkpoint_lock:
            state.check_online()
            if segment.removed:
                return
            try:
                rebuild_index(state.files, segment, state.schema)
                state.generation += 1
                self._write_checkpoint()
            except OSError as error:
                raise StorageError(f"cannot rebuild the index of {segment.path('.arrow')}: {error}") from error

    def close(self) -> None:
        """Flushes and writes the checkpoint where anything changed since the last; then the log is closed.

        Raises:
            StorageError: the last flush failed; the log is closed all the same.
        """
        state = self._state
        with (
            state.cleaning.halted(),
            self._flush_lock,
        ):  # so that a flush under way writes no checkpoint into what the next process has opened
            try:
                if state.online and (state.log_end != self._checkpointed or state.begun != self._begun):
                    self._flush(checkpoint=True)
            finally:
                with self._checkpoint_lock:  # nor an index that a reader is making again
                    state.closed = True
                state.release()

    def delete(self) -> None:
        """See `Log.delete`."""
        state = self._state
        with state.cleaning.halted(), self._flush_lock, self._checkpoint_lock:
            state.closed = True
            for segment in state.segments:
                segment.removed = True
            state.release()
            try:
                if state.files.list_directory(state.directory) is None:
                    return
                # Renamed first, so that a crash leaves no half of a log under its name.
                doomed = state.directory + DELETED_SUFFIX
                state.files.replace(state.directory, doomed)
                state.files.remove_tree(doomed)
            except OSError as error:
                raise StorageError(f"cannot delete {state.directory}: {error}") from error


def _remove(segments: list[Segment]) -> None:
    for segment in segments:
        segment.remove_files()

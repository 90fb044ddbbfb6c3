"""Making a log durable: fsync, checkpoint, and the moves of the log start that depend on it."""

from __future__ import annotations

import os
import threading

from rayqueue.errors import StorageError
from rayqueue.storage import checkpoint as checkpoints
from rayqueue.storage import retention
from rayqueue.storage.checkpoint import Checkpoint
from rayqueue.storage.recovery import rebuild_index
from rayqueue.storage.segment import NO_TIMESTAMP, Segment
from rayqueue.storage.state import LogState

# Bytes after which a flush also writes a checkpoint: bounds what a start after a crash has to verify.
CHECKPOINT_BYTES = 64 << 20


class Durability:
    """Flushes and checkpoints of a log; `flush` may run beside the writer."""

    def __init__(self, state: LogState, flushed: int) -> None:
        self._state = state
        self._flushed = flushed
        self._checkpointed = flushed
        self._checkpointed_bytes = 0
        self._begun = 0  # value of `LogState.begun` up to which new files' directory entries are durable
        self._directory_durable = bool(state.segments)
        # Held during fsyncs, so that the start does not move nor a segment go under them.
        self._flush_lock = threading.Lock()
        # Held while a checkpoint is made and written, so that none is followed by an older one.
        self._checkpoint_lock = threading.RLock()

    @property
    def flushed(self) -> int:
        """Everything below this offset is durable."""
        return self._flushed

    def flush(self, checkpoint: bool = False) -> int:
        """See `Log.flush`; with `checkpoint`, one is written in any case."""
        state = self._state
        with self._flush_lock:
            state.check_online()
            # In this order: what is published below `end` is in `begun` and in `segments`.
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
                if checkpoint:
                    self._write_checkpoint()
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
            )
            checkpoints.write(state.files, state.directory, checkpoint)
            self._checkpointed = point

    def move_start(self, offset: int) -> None:
        """Moves the log start, durably, and only then unlinks the segments that lie below it.

        Raises:
            StorageError: the disk failed; the log is offline.
        """
        state = self._state
        with self._flush_lock, self._checkpoint_lock:
            gone = [segment for segment in state.segments if segment.next_offset <= offset]
            state.log_start = offset
            state.segments = tuple(segment for segment in state.segments if segment.next_offset > offset)
            state.epochs = retention.epochs_from(state.epochs, offset)
            try:
                self._write_checkpoint()
                for segment in gone:
                    segment.remove_files()
            except OSError as error:
                raise state.go_offline(error) from error

    def repair_index(self, segment: Segment) -> None:
        """Makes the index of a closed segment again from its data file.

        Raises:
            StorageError: it could not be written.
        """
        state = self._state
        with self._checkpoint_lock:
            try:
                rebuild_index(state.files, segment, state.schema_message)
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
        try:
            if state.online and (state.log_end != self._checkpointed or state.begun != self._begun):
                self.flush(checkpoint=True)
        finally:
            state.closed = True
            state.release()

    def delete(self) -> None:
        """See `Log.delete`."""
        state = self._state
        with self._flush_lock:
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


# Of a directory that is being deleted: whoever lists its parent may remove it.
DELETED_SUFFIX = ".deleted"

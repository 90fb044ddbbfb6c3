"""Writing a compacted segment beside those that it is to replace."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from rayqueue.protocol import sparse
from rayqueue.protocol.ipc import END_OF_STREAM, IpcMessage
from rayqueue.protocol.messages import BatchHeader
from rayqueue.protocol.schemas import serialize_schema
from rayqueue.storage.checkpoint import TEMPORARY
from rayqueue.storage.files import FileSystem, Piece
from rayqueue.storage.index import Entries, pack_entry, repositioned
from rayqueue.storage.reader import DATA_SUFFIX, INDEX_SUFFIX, Extent, segment_path

_WRITE_BYTES = 4 << 20
_WRITE_PIECES = 512
_BESIDE = ".compacted" + TEMPORARY

Pace = Callable[[int], None]


class SegmentWriter:
    """A segment of sparse batches that comes into being under temporary names.

    Args:
        base_offset: its name, and that of the segment whose place it takes.
        schema: the topic's log schema.
        pace: called with the bytes of each write, before it.
    """

    def __init__(self, files: FileSystem, directory: str, base_offset: int, schema: pa.Schema, pace: Pace) -> None:
        self._files = files
        self._pace = pace
        self.base_offset = base_offset
        self.next_offset = base_offset
        self.paths = [segment_path(directory, base_offset, suffix) for suffix in (DATA_SUFFIX, INDEX_SUFFIX)]
        self.beside = [path + _BESIDE for path in self.paths]
        for path in self.beside:
            files.remove(path)
        self._data = files.open_append(self.beside[0])
        self._index = files.open_append(self.beside[1])
        head = serialize_schema(sparse.sparse_schema(schema))
        self._empty = sparse.empty_message(schema)
        self._pieces: list[Piece] = [head]
        self._entries: list[bytes] = []
        self._waiting = len(head)
        self._size = len(head)
        self._filler: BatchHeader | None = None
        self.batches = 0

    def add(self, header: BatchHeader, message: IpcMessage) -> None:
        """A batch that follows."""
        self._end_filler()
        self._add(header, message)

    def _add(self, header: BatchHeader, message: IpcMessage) -> None:
        raw, body = sparse.sealed(message, header)
        length = len(raw) + body.size
        self._put([raw, body] if body.size else [raw], length, pack_entry(header, self._size, length, len(raw)), 1)
        self.next_offset = header.last_offset + 1

    def drop(self, first: int, last: int, leader_epoch: int, max_timestamp: int) -> None:
        """Nothing is left of offsets `first` to `last`: a filler stands for them, and for what is dropped around."""
        open_one = self._filler
        if open_one is not None and open_one.leader_epoch == leader_epoch:
            open_one.last_offset = last
            open_one.max_timestamp = open_one.min_timestamp = max(max_timestamp, open_one.max_timestamp)
            return
        self._end_filler()
        self._filler = sparse.filler(first, last, leader_epoch, max_timestamp)

    def _end_filler(self) -> None:
        if self._filler is not None:
            header, self._filler = self._filler, None
            self._add(header, self._empty)

    def copy(self, entries: Entries, data: pa.Buffer) -> None:
        """Sparse batches that follow, byte for byte. data: the whole segment's that they stand in."""
        self._end_filler()
        start = int(entries["position"][0])
        length = int(entries["position"][-1]) + int(entries["length"][-1]) - start
        moved = repositioned(entries, self._size - start)
        self._put([data.slice(start, length)], length, moved, len(entries))
        self.next_offset = int(entries["last_offset"][-1]) + 1

    def _put(self, pieces: list[Piece], length: int, entries: bytes, count: int) -> None:
        self._pieces += pieces
        self._entries.append(entries)
        self._size += length
        self._waiting += length
        self.batches += count
        if self._waiting >= _WRITE_BYTES or len(self._pieces) >= _WRITE_PIECES:
            self._write()

    def _write(self) -> None:
        self._pace(self._waiting)
        self._files.append(self._data, self._pieces, self._waiting)
        index = b"".join(self._entries)
        if index:
            self._files.append(self._index, [index], len(index))
        self._pieces, self._entries, self._waiting = [], [], 0

    def finish(self) -> Extent:
        """Ends the stream and makes both files durable, under their temporary names."""
        self._end_filler()
        extent = Extent(self.batches, self._size)
        self._pieces.append(END_OF_STREAM)
        self._waiting += len(END_OF_STREAM)
        self._write()
        self._files.sync(self._data)
        self._files.sync(self._index)
        return extent

    def discard(self) -> None:
        """Removes what was written."""
        for path in self.beside:
            self._files.remove(path)

"""A thread that compares CRCs of what was read ahead, while the caller works on what it has been given.

It is a help and nothing else: what it has not come to, the reader does itself, and a batch that it finds damaged is
left to the reader, which then says so at the right place.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TypeAlias

from rayqueue.client.fetching.chunk import LogChunk
from rayqueue.errors import CorruptRecord
from rayqueue.protocol.crc import RELEASES

log = logging.getLogger("rayqueue.consumer")

# Chunks that may wait; the reader looks at others itself.
WAITING_MAX = 4

_Queue: TypeAlias = "SimpleQueue[LogChunk | None]"


class Ahead:
    """The thread of one consumer. It begins with the first chunk, sleeps without one, and knows no consumer."""

    def __init__(self) -> None:
        self._chunks: _Queue = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._idle = not RELEASES  # there is nothing to be gained, or no thread to be had

    def check(self, chunk: LogChunk) -> None:
        """Has the CRCs of a chunk compared."""
        if self._idle or self._chunks.qsize() >= WAITING_MAX:
            return
        if self._thread is None:
            thread = threading.Thread(target=_run, args=(self._chunks,), name="rayqueue-ahead", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # too many threads
                log.warning("no reading ahead: %s", error)
                self._idle = True
                return
            self._thread = thread
        self._chunks.put(chunk)

    def close(self) -> None:
        """Ends the thread, after what waits for it: milliseconds."""
        self._idle = True
        if self._thread is not None:
            self._chunks.put(None)
            self._thread.join()
            self._thread = None


def _run(chunks: _Queue) -> None:
    while (chunk := chunks.get()) is not None:
        try:
            chunk.check_ahead()
        except CorruptRecord as error:
            log.debug("left to the reader: %s", error)
        del chunk  # it holds memory

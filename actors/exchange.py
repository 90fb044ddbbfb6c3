"""The server's end of a data connection.

Whoever has something to say to a client writes it to the connection at once and never waits for the client: what the
connection does not take is left to a thread of the exchange's own, which is started when it is first needed. So a
client that stops reading blocks that thread and nobody else.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import pyarrow as pa

from rayqueue.client.framed_socket import FramedSocket, Views, views_of
from rayqueue.client.io.shared_memory import ServerMemory
from rayqueue.errors import ProtocolError
from rayqueue.protocol import codec
from rayqueue.protocol.frames import FAILURE, MESSAGE, pack_head
from rayqueue.protocol.messages import Hello

log = logging.getLogger(__name__)

Written = Callable[[], None]
Outgoing = tuple[Views, "Written | None"]

LINGER_S = 2.0  # for a client to read why it was refused


class Exchange:
    """`receive` belongs to the handler's thread; `send` is anybody's.

    Attributes:
        hello: what the client opened it with.
        on_idle: called, on the exchange's own thread, when what could not be written at once has been, and after
            `wake`.
        memory: shared with the client, which may put rows there.
    """

    def __init__(self, framed: FramedSocket, hello: Hello) -> None:
        self.hello = hello
        self.on_idle: Callable[[], None] | None = None
        self.memory: ServerMemory | None = None
        self._framed = framed
        self._outbox: deque[Outgoing] = deque()  # taken only by who holds `_writing`, so their order holds
        self._writing = threading.Lock()
        self._blocked = False  # the outbox waits for the client; the thread has it
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._finished = False
        self._broken = False

    def __repr__(self) -> str:
        return f"Exchange({self.hello.kind}, {self.hello.client_id!r})"

    # --- reading ---------------------------------------------------------------------------------------------------

    def receive(self) -> tuple[bytes, list[pa.Buffer]] | None:
        """The next message and its rows; None when the client has ended or is gone.

        Raises:
            ProtocolError: it is too large, or no message.
        """
        try:
            frame = self._framed.receive()
        except OSError:
            return None
        if frame is None:
            return None
        kind, message, rows = frame
        if kind != MESSAGE:
            raise ProtocolError("a client sends no failures")
        return message, rows

    # --- writing ---------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether all that was sent has been written."""
        return not self._outbox and not self._blocked

    def send(self, message: bytes, rows: list[pa.Buffer] | None = None, written: Written | None = None) -> None:
        """Writes a message, or what the connection takes of it; the thread writes the rest. What comes after the end is
        dropped: nobody is there to read it.

        Args:
            written: called when the message is written or dropped: what it holds can be given back.
        """
        self._outbox.append((views_of(pack_head(message, rows or ()), rows or ()), written))
        self._flush()

    def _flush(self) -> None:
        """Writes what can be written without waiting. Who finds somebody else at it leaves it to them."""
        while self._outbox and not self._blocked:
            if not self._writing.acquire(blocking=False):
                return  # whoever is at it looks once more after leaving
            try:
                while self._outbox and not self._blocked:
                    self._write_one(wait=False)
            finally:
                self._writing.release()
        if self._blocked:
            self.wake()

    def _write_one(self, wait: bool) -> None:
        """Writes the first message of the outbox; if it may not `wait`, perhaps only its beginning."""
        views, written = self._outbox.popleft()
        while views and not self._broken and not self._finished:
            try:
                views = self._framed.send_some(views, wait)
            except OSError as error:
                # The reader sees the same break and ends the exchange.
                log.debug("a client is gone: %s", error)
                self._broken = True
            else:
                if views and not wait:
                    self._outbox.appendleft((views, written))
                    self._blocked = True
                    return
        if written is not None:
            written()

    def wake(self) -> None:
        """Has the thread write what is left, and call `on_idle`: for what the caller has no time for."""
        if self._thread is None:
            with self._starting:
                if self._thread is None and not self._finished:
                    thread = threading.Thread(target=self._write_behind, name="exchange-writer", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as error:  # too many threads: this client is given up, not the process
                        log.warning("%r is ended: %s", self, error)
                        self._give_up()
                        return
                    self._thread = thread
        self._wakes.put(None)

    def _give_up(self) -> None:
        self._broken = True
        self._blocked = False
        self._framed.shut_down()
        self._flush()  # drops what is left

    def _write_behind(self) -> None:
        while True:
            self._wakes.get()
            while self._blocked:
                with self._writing:
                    while self._outbox:
                        self._write_one(wait=True)
                    self._blocked = False
            self._flush()
            if self._finished:
                return
            if self.on_idle is not None:
                self.on_idle()

    # --- the end ---------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Breaks the connection, from any thread: `receive` returns None."""
        self._framed.shut_down()

    def finish(self, error: BaseException | None = None) -> None:
        """Ends the connection, with the reason if there is one; what the client did not read is dropped."""
        if error is not None and not self._broken:
            self._refuse(error)
        self._finished = self._broken = True
        self._framed.shut_down()
        if self._thread is not None:
            self._wakes.put(None)
            self._thread.join()
        self._blocked = False
        self._flush()
        with self._writing:  # somebody may be about to write: the descriptor must not be another client's by then
            self._framed.close()

    def _refuse(self, error: BaseException) -> None:
        self._outbox.append((views_of(pack_head(codec.encode_failure(error), (), FAILURE)), None))
        # Somebody else may be at it, and is about to leave: it has to be written before this direction ends.
        if not self._blocked and self._writing.acquire(timeout=LINGER_S):
            try:
                while self._outbox and not self._blocked:
                    self._write_one(wait=False)
            finally:
                self._writing.release()
        self._framed.shut_down(socket.SHUT_WR)
        self._framed.drain(LINGER_S)

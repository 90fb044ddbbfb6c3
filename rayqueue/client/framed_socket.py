"""A connected socket that carries frames; both ends of a data connection use it.

Small frames are cut out of a buffer that one `recv` fills with as many as have come. The rows of a large one are read
into memory of their own by a single system call, outside the interpreter's lock; there Arrow reads them in place.
"""

from __future__ import annotations

import contextlib
import socket
import time
import weakref
from collections.abc import Sequence

import pyarrow as pa

from rayqueue.errors import ProtocolError
from rayqueue.protocol.frames import (
    PREFIX_SIZE,
    Prefix,
    split_rows,
    unpack_prefix,
    unpack_sizes,
)

BUFFER_BYTES = 64 * 1024
HEAD_BYTES = 64 * 1024  # what a frame may have beside its rows and `max_bytes`
BUFFERS_MAX = 512  # pieces of memory a system call takes; the kernel's limit is 1,024

Frame = tuple[int, bytes, list[pa.Buffer]]  # kind, message, rows
Views = list[memoryview]

ROWS_MAX = 100_000
MESSAGE_BYTES_MAX = 16 << 20

# A node that is lost says nothing more: the kernel asks it after 1 s of silence, and gives up after two asks. (For a
# process that hangs its kernel answers: that one is ended by its broker.) TCP_KEEPALIVE is what macOS calls the first.
_KEEPALIVE = (("TCP_KEEPIDLE", 1), ("TCP_KEEPALIVE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 2))


class _Large:
    """Rows on their way into memory of their own."""

    __slots__ = ("data", "filled", "kind", "message", "size", "sizes", "view")

    def __init__(self, kind: int, message: bytes, sizes: tuple[int, ...], size: int) -> None:
        self.kind, self.message, self.sizes, self.size = kind, message, sizes, size
        self.data = pa.allocate_buffer(size)
        self.view = memoryview(self.data).cast("B")
        self.filled = 0


class FramedSocket:
    """Reads are one thread's, writes one thread's at a time.

    Args:
        sock: connected, in blocking mode; owned from now on.
        max_bytes: largest frame taken.

    Attributes:
        message_bytes_max: what a frame may have beside its rows, of which `head_bytes` on top of `max_bytes`.
    """

    def __init__(self, sock: socket.socket, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.message_bytes_max = MESSAGE_BYTES_MAX
        self.head_bytes = HEAD_BYTES
        self._sock = sock
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # of what was received and not yet taken
        self._large: _Large | None = None
        # A client that its user forgot to close gives its descriptor back without a ResourceWarning at every socket.
        self._finalize = weakref.finalize(self, sock.close)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """For `select`; -1 when closed."""
        return self._sock.fileno()

    def is_local(self) -> bool:
        """Whether both ends have the same address: the peer is on this host, or seems to be."""
        try:
            return bool(self._sock.getsockname()[0] == self._sock.getpeername()[0])
        except OSError:
            return False

    # --- reading ---------------------------------------------------------------------------------------------------

    def receive(self) -> Frame | None:
        """The next frame, waiting for it; None when the peer has ended the connection.

        Raises:
            OSError: the connection is broken (TimeoutError: a timeout was set and has passed).
            ProtocolError: what came is no frame, or a larger one than `max_bytes`.
        """
        while (frame := self._parse()) is None:
            if not self._fill(0 if self._large is None else _WHOLE):
                return None
        return frame

    def receive_within(self, timeout_s: float) -> Frame | None:
        """As `receive`, but all of the frame has to be here in time; afterwards there is no timeout.

        Raises:
            TimeoutError: it is not.
        """
        give_up = time.monotonic() + timeout_s
        while (frame := self._parse()) is None:
            left = give_up - time.monotonic()
            if left <= 0:
                raise TimeoutError("the peer says nothing, or not all of it")
            self._sock.settimeout(left)
            if not self._fill(0):
                return None
        self._sock.settimeout(None)
        return frame

    def receive_nowait(self) -> Frame | None:
        """The next frame if it is here.

        Raises:
            EOFError: the peer has ended the connection.
            OSError, ProtocolError: as `receive`.
        """
        while (frame := self._parse()) is None:
            try:
                if not self._fill(_NOW):
                    raise EOFError
            except BlockingIOError:
                return None
        return frame

    def _fill(self, flags: int) -> int:
        """Receives once; the number of bytes, 0 at the end."""
        large = self._large
        if large is not None:
            count = self._sock.recv_into(large.view[large.filled :], 0, flags)
            large.filled += count
        else:
            count = self._sock.recv_into(self._view[self._end :], 0, flags)
            self._end += count
        return count

    def _parse(self) -> Frame | None:
        large = self._large
        if large is not None:
            if large.filled < large.size:
                return None
            self._large = None
            return large.kind, large.message, split_rows(large.data, large.sizes)
        start, have = self._start, self._end - self._start
        if have < PREFIX_SIZE:
            self._make_room(PREFIX_SIZE)
            return None
        prefix = unpack_prefix(self._buffer, start)
        head_size, size = prefix.head_size, prefix.size
        if size > self.max_bytes + self.head_bytes:
            raise ProtocolError(f"a message of {size} bytes is above socket.request.max.bytes ({self.max_bytes})")
        if prefix.row_count > ROWS_MAX or prefix.message_size > self.message_bytes_max:
            raise ProtocolError(f"a frame has at most {ROWS_MAX} rows and {self.message_bytes_max} bytes beside them")
        if have >= size:
            return self._cut(prefix)
        if have >= head_size and size > BUFFER_BYTES:
            self._begin_large(prefix)
        else:
            self._make_room(size if size <= BUFFER_BYTES else head_size)
        return None

    def _cut(self, prefix: Prefix) -> Frame:
        """A frame that lies in the buffer as a whole."""
        start = self._start
        rows_at = start + prefix.head_size
        message = bytes(self._view[rows_at - prefix.message_size : rows_at])
        end = start + prefix.size
        rows: list[pa.Buffer] = []
        if prefix.row_count:
            data = pa.py_buffer(bytes(self._view[rows_at:end]))
            rows = split_rows(data, unpack_sizes(self._buffer, start, prefix))
        self._start = end
        self._settle()
        return prefix.kind, message, rows

    def _settle(self) -> None:
        """After a frame: an empty buffer begins anew, and one that had grown is given back."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > BUFFER_BYTES:
                self._renew(BUFFER_BYTES)

    def _begin_large(self, prefix: Prefix) -> None:
        start = self._start
        rows_at = start + prefix.head_size
        message = bytes(self._view[rows_at - prefix.message_size : rows_at])
        large = _Large(prefix.kind, message, unpack_sizes(self._buffer, start, prefix), prefix.rows_size)
        have = self._end - rows_at
        large.view[:have] = self._view[rows_at : self._end]
        large.filled = have
        self._start = self._end
        self._settle()
        self._large = large

    def _make_room(self, size: int) -> None:
        """Lets the buffer take more of the `size` bytes that begin with the first that was not taken."""
        if self._start + size <= len(self._buffer) or (not self._start and self._end < len(self._buffer)):
            return
        rest = bytes(self._view[self._start : self._end])
        if len(rest) == len(self._buffer):
            # Not at once to the size that is claimed: memory is for bytes that have come.
            self._renew(min(size, 2 * len(rest)))
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _renew(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)

    # --- writing ---------------------------------------------------------------------------------------------------

    def send(self, head: bytes, rows: Sequence[pa.Buffer] = ()) -> None:
        """Sends a frame; waits while the peer does not read.

        Raises:
            OSError: the connection is broken.
        """
        views = views_of(head, rows)
        while views:
            views = self.send_some(views)

    def send_some(self, views: Views, wait: bool = True) -> Views:
        """Sends what the connection takes at once (at least something if `wait`); what is left.

        Raises:
            OSError: the connection is broken.
        """
        try:
            sent = self._sock.sendmsg(views[:BUFFERS_MAX], (), _SEND if wait else _SEND_NOW)
        except BlockingIOError:
            return views
        for index, view in enumerate(views):
            if sent < view.nbytes:
                return [view[sent:], *views[index + 1 :]]
            sent -= view.nbytes
        return []

    # --- the end ---------------------------------------------------------------------------------------------------

    def give_up_after(self, seconds: float) -> None:
        """Breaks the connection when what was sent stays unacknowledged so long: keep-alive does not ask meanwhile."""
        if self._sock.family != getattr(socket, "AF_UNIX", None) and hasattr(socket, "TCP_USER_TIMEOUT"):
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    def shut_down(self, how: int = socket.SHUT_RDWR) -> None:
        """Ends the connection; a thread that waits in it returns. The descriptor stays until `close`."""
        with contextlib.suppress(OSError):  # it has ended already
            self._sock.shutdown(how)

    def drain(self, timeout_s: float) -> None:
        """Reads and drops what comes until the peer hangs up or time is out.

        Closing with bytes unread would reset the connection, and take away from the peer what was said to it last.
        """
        give_up = time.monotonic() + timeout_s
        try:
            while (left := give_up - time.monotonic()) > 0:
                self._sock.settimeout(left)
                if not self._sock.recv_into(self._view):
                    return
        except OSError:
            return  # it is gone, or will not hang up

    def close(self) -> None:
        """Gives the descriptor back; nobody may be reading or writing."""
        self._finalize()


# Plain numbers: to join two members of an enumeration takes six calls.
_SEND = int(getattr(socket, "MSG_NOSIGNAL", 0))
_NOW = int(socket.MSG_DONTWAIT)
_SEND_NOW = _SEND | _NOW
_WHOLE = int(socket.MSG_WAITALL)


def views_of(head: bytes, rows: Sequence[pa.Buffer] = ()) -> Views:
    """The pieces of a frame as `send_some` takes them; empty rows have no piece."""
    views = [memoryview(head)]
    for row in rows:
        if row.size:
            views.append(memoryview(row).cast("B"))
    return views

"""Links between processes that can be cut: every connection to a rayqueue server goes through here.

The servers listen on one loopback address and tell everybody another one (`advertised.host`). There, on the same
ports, this forwards. Who opened a connection is found by its socket's inode, in /proc. A cut link is silent, both ways,
and nothing is refused or reset: what was sent meanwhile comes late, as after TCP has sent it again. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

LISTEN_HOST = "127.0.0.1"
ADVERTISED_HOST = "127.0.0.2"
CHUNK = 256 * 1024
BROKER_PORTS = 32
# Group coordinators listen on the ports after the first offset, as many as brokers; coordinators and replica actors on
# those after the second (docs/operations.md).
GROUPS_OFFSET = 500
OTHERS_OFFSET = 1000
OTHER_PORTS = 64
WAIT_S = 0.2

# (process id of who opened the connection, port it was opened to) -> whether it is cut
Cut = Callable[[int, int], bool]


@dataclass(eq=False)
class _Pipe:
    """One connection: two sockets, and what was read from each and not yet written to the other.

    pid: of who opened it, 0: not known.
    cuts: that concern it; with any, nothing is read from it, and nothing written to it.
    ended: sockets that nothing more comes from.
    """

    port: int
    client: socket.socket
    server: socket.socket
    cuts: set[Cut] = field(default_factory=set)
    waiting: dict[socket.socket, bytes] = field(default_factory=dict)
    ended: set[socket.socket] = field(default_factory=set)
    pid: int = 0

    def other(self, one: socket.socket) -> socket.socket:
        return self.server if one is self.client else self.client


class Links:
    """Forwards from ADVERTISED_HOST to LISTEN_HOST, on one thread, until `close`.

    Attributes:
        port: to be given to the cluster (`port`); the ports it takes from there on are forwarded.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self.port = self._listen()
        self._pipes: set[_Pipe] = set()
        self._cuts: dict[Cut, list[int]] = {}
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    @property
    def settings(self) -> dict[str, object]:
        """Of the cluster, so that everybody comes through here."""
        return {"listen.host": LISTEN_HOST, "advertised.host": ADVERTISED_HOST, "port": self.port}

    def close(self) -> None:
        """Ends all connections."""
        self._closed.set()
        self._wake.send(b"x")
        self._thread.join(5)
        for pipe in list(self._pipes):
            self._end(pipe)
        for one in [*self._listeners, self._wake, self._woken]:
            one.close()
        self._selector.close()

    @contextlib.contextmanager
    def cut(self, cut: Cut, pids: Iterable[int]) -> Iterator[Callable[[], int]]:
        """Connections for which `cut` says so are silent for the length of the block, also those that are opened.

        pids: the processes that may have opened them. Gives a function that counts the connections cut at that moment.
        """
        with self._lock:
            self._cuts[cut] = list(pids)
            self._apply(self._pipes)
        try:
            yield lambda: sum(cut in pipe.cuts for pipe in list(self._pipes))
        finally:
            with self._lock:
                del self._cuts[cut]
                self._apply(self._pipes)
            self._wake.send(b"x")

    # --- the thread --------------------------------------------------------------------------------------------------

    def _listen(self) -> int:
        """Listens on all the ports there may be; the first of them."""
        for base in range(21000, 60000, 1100):
            try:
                for port in [*range(base, base + BROKER_PORTS), *_others(base)]:
                    _check_free(port)
                    self._listeners.append(_listener(port))
            except OSError:
                while self._listeners:
                    self._listeners.pop().close()
                continue
            for one in self._listeners:
                self._selector.register(one, selectors.EVENT_READ, one)
            return base
        raise OSError("no range of ports is free")

    def _run(self) -> None:
        while not self._closed.is_set():
            ready = self._selector.select(WAIT_S)
            with self._lock:
                for key, events in ready:
                    if key.fileobj is self._woken:
                        self._woken.recv(4096)
                    elif isinstance(key.data, _Pipe):
                        self._move(key.data, key.fileobj, events)  # type: ignore[arg-type]
                    else:
                        self._accept(key.data)

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        port = listener.getsockname()[1]
        server = socket.socket()
        try:
            server.connect((LISTEN_HOST, port))  # loopback: at once, or refused
        except OSError:
            client.close()
            server.close()
            return
        pipe = _Pipe(port, client, server)
        self._pipes.add(pipe)
        for one in (client, server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ, pipe)
        self._apply([pipe])

    def _move(self, pipe: _Pipe, one: socket.socket, events: int) -> None:
        """Reads from a socket what the other can take; writes what waited for room."""
        if pipe.cuts or pipe not in self._pipes:
            return
        try:
            if events & selectors.EVENT_WRITE:
                self._write(pipe, one, pipe.waiting.pop(one))
            if events & selectors.EVENT_READ and pipe.other(one) not in pipe.waiting:
                data = one.recv(CHUNK)
                if data:
                    self._write(pipe, pipe.other(one), data)
                else:  # nothing waits for the other then, so it has all of it
                    pipe.ended.add(one)
                    pipe.other(one).shutdown(socket.SHUT_WR)
                if len(pipe.ended) == 2:
                    self._end(pipe)
                    return
            self._watch(pipe)
        except BlockingIOError:
            return
        except OSError:
            self._end(pipe)

    def _write(self, pipe: _Pipe, to: socket.socket, data: bytes) -> None:
        try:
            sent = to.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            pipe.waiting[to] = data[sent:]

    def _watch(self, pipe: _Pipe) -> None:
        """What is waited for of both sockets: nothing of one that is cut, no data for one that takes none."""
        for one in (pipe.client, pipe.server):
            readable = one not in pipe.ended and pipe.other(one) not in pipe.waiting
            wanted = selectors.EVENT_READ * readable | selectors.EVENT_WRITE * (one in pipe.waiting)
            wanted = 0 if pipe.cuts else wanted
            registered = self._selector.get_map().get(one)
            if registered is None and wanted:
                self._selector.register(one, wanted, pipe)
            elif registered is not None and not wanted:
                self._selector.unregister(one)
            elif registered is not None and registered.events != wanted:
                self._selector.modify(one, wanted, pipe)

    def _apply(self, pipes: Iterable[_Pipe]) -> None:
        """Which cuts concern these connections, by who opened them."""
        opened = self._opened_by() if self._cuts else {}
        for pipe in pipes:
            pid = opened.get(_peer(pipe.client), pipe.pid)
            pipe.pid = pid  # a process that has ended has no sockets any more
            pipe.cuts = {cut for cut in self._cuts if cut(pid, pipe.port)}
            self._watch(pipe)

    def _end(self, pipe: _Pipe) -> None:
        self._pipes.discard(pipe)
        for one in (pipe.client, pipe.server):
            if one.fileno() in self._selector.get_map():
                self._selector.unregister(one)
            one.close()

    def _opened_by(self) -> dict[tuple[str, int], int]:
        """Local address of a socket -> the process, of those that count, that has it."""
        inodes = _inodes({pid for pids in self._cuts.values() for pid in pids})
        return {address: inodes[inode] for address, inode in _sockets() if inode in inodes}


def _others(base: int) -> Iterator[int]:
    yield from range(base + GROUPS_OFFSET, base + GROUPS_OFFSET + BROKER_PORTS)
    yield from range(base + OTHERS_OFFSET, base + OTHERS_OFFSET + OTHER_PORTS)


def _listener(port: int) -> socket.socket:
    one = socket.socket()
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((ADVERTISED_HOST, port))
        one.listen(128)
    except OSError:
        one.close()
        raise
    return one


def _check_free(port: int) -> None:
    """Raises OSError when somebody listens where the cluster will."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((LISTEN_HOST, port))


def _peer(one: socket.socket) -> tuple[str, int]:
    try:
        host, port = one.getpeername()
        return host, port
    except OSError:
        return "", 0


def _inodes(pids: Iterable[int]) -> dict[int, int]:
    """Inode of a socket -> process."""
    found = {}
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        try:
            entries = os.listdir(directory)
        except OSError:
            continue  # it has ended
        for entry in entries:
            try:
                target = os.readlink(f"{directory}/{entry}")
            except OSError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                found[int(target[8:-1])] = pid
    return found


def _sockets() -> Iterator[tuple[tuple[str, int], int]]:
    """(local IPv4 address, inode) of the TCP sockets of this machine; gRPC's are IPv6 ones with mapped addresses."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            fields = line.split()
            host, _, port = fields[1].partition(":")
            # Words of four bytes in the machine's order; the last one is the IPv4 address.
            yield (socket.inet_ntoa(bytes.fromhex(host[-8:])[::-1]), int(port, 16)), int(fields[9])

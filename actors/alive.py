"""Whether a process of this machine is alive to questions: asked by its neighbours, over a socket named after its lock.

The socket is one of Linux's abstract Unix sockets: it is gone with its process, takes no file and no port, and no
network lies between. What is answered is one byte, after the process has shown to itself that it is not dead-locked.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from rayqueue.errors import BrokerNotAvailable, RequestTimeout

log = logging.getLogger(__name__)

_BYTE = b"!"
# After an error that says nothing of the socket, such as too many open files.
_AGAIN_S = 0.1
_CREDENTIALS = struct.Struct("3i")  # of the process at the other end: its id, user and group


def _name(lock: Path) -> str:
    return "\0rayqueue-" + blake2b(os.fsencode(lock.absolute()), digest_size=16).hexdigest()


class AliveServer:
    """Answers for the process that holds a lock; one thread. On other systems than Linux, nobody is answered.

    Args:
        lock: the lock file, held by this process.
        check: takes the locks, or goes the way, that questions of clients take; when it returns, we live.
    """

    def __init__(self, lock: Path, check: Callable[[], object]) -> None:
        self._check = check
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        if sys.platform != "linux":
            return
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(_name(lock))
            listening.listen()
        except OSError as error:  # it can be done without: one that hangs is not ended then, unless it was stopped
            log.warning("nobody can ask whether the holder of %s lives: %s", lock, error)
            listening.close()
            return
        self._socket = listening
        threading.Thread(target=self._run, args=(listening,), name="alive", daemon=True).start()

    def _run(self, listening: socket.socket) -> None:
        while True:
            try:
                asker, _ = listening.accept()
            except OSError as error:
                if self._closed.is_set():
                    return
                log.warning("nobody is answered at the moment: %s", error)
                self._closed.wait(_AGAIN_S)
                continue
            with asker:
                try:
                    self._check()
                    asker.send(_BYTE, socket.MSG_DONTWAIT)
                except Exception as error:  # of any kind: who is answered nothing asks again
                    log.debug("not answered: %r", error)

    def close(self) -> None:
        """Answers no more."""
        self._closed.set()
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._socket.close()
            self._socket = None


def ask(lock: Path, pid: int, timeout_s: float) -> None:
    """Asks the process that holds a lock; returns when it has answered.

    Raises:
        RequestTimeout: it is there, and says nothing.
        BrokerNotAvailable: nobody is there, or not for this; or another one: names are free to all on the machine.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.settimeout(timeout_s)
        try:
            asker.connect(_name(lock))
            credentials = asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[0] != pid:
                raise BrokerNotAvailable(f"another process than {pid}, which holds {lock}, has its name")
            answer = asker.recv(1)
        except (TimeoutError, BlockingIOError) as error:  # the latter: nobody accepts, and its queue is full
            raise RequestTimeout(f"the holder of {lock} does not answer") from error
        except OSError as error:
            raise BrokerNotAvailable(f"nobody answers for {lock} ({error})") from error
    if answer != _BYTE:
        raise BrokerNotAvailable(f"the holder of {lock} cannot say now whether it lives")

"""The process that holds a directory's lock: which one it is, and how it is ended when it hangs.

A process that is stopped or hangs keeps its flock, and its successor waits for it. A process id alone does not name a
process for ever: it is killed only as the one that started when the lock's note says, and only while the lock is held.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)


class Holder(NamedTuple):
    """A process of this machine. started: when it did, in the kernel's ticks since boot."""

    pid: int
    started: int


def lock_note() -> str:
    """What this process writes into a lock file that it holds: pid, host, start."""
    status = _status(os.getpid())
    return f"{os.getpid()} {socket.gethostname()} {status[1] if status else 0}\n"


def holder_of(path: Path) -> Holder | None:
    """Who has the lock, if it is another process, of this machine, that can be told apart from others of its id."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                words = file.read().split()
            else:
                return None  # nobody; closing gives it back
    except OSError as error:
        log.debug("%s: %s", path, error)
        return None
    if len(words) != 3 or words[1] != socket.gethostname() or not (words[0].isdigit() and words[2].isdigit()):
        return None
    holder = Holder(int(words[0]), int(words[2]))
    status = _status(holder.pid)
    ours = holder.pid == os.getpid()
    return holder if status and status[1] == holder.started and not ours else None


def is_stopped(holder: Holder) -> bool:
    """Whether it was stopped by a signal (or a debugger) and waits to be continued."""
    status = _status(holder.pid)
    return status is not None and status[1] == holder.started and status[0] in "Tt"


def kill(holder: Holder) -> bool:
    """SIGKILL to that process and no other; False when it is gone, or this system cannot name a process for sure."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        process = os.pidfd_open(holder.pid)
    except OSError as error:
        log.info("process %d cannot be ended: %s", holder.pid, error)
        return False
    try:
        status = _status(holder.pid)  # of the process that we have hold of, or it is gone
        if status is None or status[1] != holder.started:
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return True
    except OSError as error:
        log.info("process %d cannot be ended: %s", holder.pid, error)
        return False
    finally:
        os.close(process)


def _status(pid: int) -> tuple[str, int] | None:
    """(state, start in ticks since boot) of a process; None: there is none, or this is not Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before may have anything in it
    return fields[0], int(fields[19])

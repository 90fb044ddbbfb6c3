"""Who a data directory belongs to: its lock, its identity file, and the ports that are kept.

    <data_dir>/
      coordinator-<id>/       see coordinator_directory
      <broker id>/            lock, identity.json, coordinators.json, ports/broker, ports/replica-<slot>,
                              ports/groups, locks/groups, locks/replica-<slot>, locks/partitions (`partition_locks`),
                              partitions/
      logs/                   one file a process

Every file has one writer: the process that holds the lock beside it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import pyarrow as pa

from rayqueue.actors.lock_holder import lock_note
from rayqueue.errors import StorageError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Listening(Protocol):
    """A server that listens from the moment it is made."""

    port: int

    def shutdown(self) -> None:
        """Listens no longer."""
        ...


S = TypeVar("S", bound=Listening)

LOCK_RETRY_S = 0.1
PORT_RETRY_S = 0.1
# How long a kept port is waited for before another one is chosen: a process that ends frees it within this.
PORT_WAIT_S = 10.0


class DirectoryLock:
    """An exclusive lock on a directory, by flock on a file in it: gone when the process is gone, however it ends."""

    def __init__(self, path: Path) -> None:
        """path: the lock file; its directory is made."""
        self.path = path
        self._file: int | None = None

    def try_acquire(self) -> bool:
        """Takes the lock if it is free.

        Raises:
            StorageError: the directory cannot be written, or its disk is full or gone.
        """
        if self._file is not None:
            return True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sign(file)
            except BlockingIOError:
                os.close(file)
                return False
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            raise StorageError(
                f"cannot use {self.path.parent}: {error.strerror}; free some space or choose another data_dir"
            ) from error
        self._file = file
        return True

    @staticmethod
    def _sign(file: int) -> None:
        """Writes who has the lock. Cut only afterwards: the block that is there is used again, also on a full disk."""
        note = lock_note().encode()
        os.pwrite(file, note, 0)
        os.ftruncate(file, len(note))

    def acquire(self, stop: threading.Event, waiting: Callable[[str], None] = log.info) -> bool:
        """Takes the lock, waiting for as long as another process has it; False when `stop` was set meanwhile.

        `waiting` is told once who has it: a predecessor that is being killed, or another cluster.
        """
        told = False
        while not self.try_acquire():
            if not told:
                waiting(f"{self.path.parent} is in use by {self.holder()}")
                told = True
            if stop.wait(LOCK_RETRY_S):
                return False
        return True

    def holder(self) -> str:
        """Who has the lock, in words."""
        try:
            pid, host, *_ = [*self.path.read_text(errors="replace").split(), "", ""]
        except OSError:
            pid, host = "", ""
        return f"process {pid} on {host}" if pid else "another process"

    def release(self) -> None:
        """Gives the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def replica_lock(directory: Path, slot: int) -> Path:
    """The lock file of a broker's replica actor."""
    return directory / "locks" / f"replica-{slot}"


def groups_lock(directory: Path) -> Path:
    """The lock file of a broker's group coordinator."""
    return directory / "locks" / "groups"


class BrokerIdentity(msgspec.Struct):
    """What `<data_dir>/<broker id>/identity.json` says. It never changes: a directory is one broker of one cluster."""

    cluster_id: str
    broker_id: int
    directory_id: str


class CoordinatorIdentity(msgspec.Struct):
    """What `<data_dir>/coordinator-<id>/identity.json` says. cluster_id: "" until the metadata log has said it."""

    cluster_id: str
    directory_id: str


def read_json(path: Path, kind: type[T]) -> T | None:
    """The struct that stands in a file; None when there is no file.

    Raises:
        StorageError: the file cannot be read, or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(f"{path} is damaged or cannot be read ({error}): restore it from a copy") from error


def write_json(path: Path, value: object) -> None:
    """Writes a struct so that after a crash the file holds the old one or the new one, whole.

    Raises:
        StorageError: the disk failed or is full.
    """
    _write(path, json.dumps(msgspec.to_builtins(value), indent=2).encode() + b"\n")


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            written = 0
            while written < len(data):  # a disk that is nearly full takes a part; the next write says so
                written += os.write(file, data[written:])
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free some space or choose another data_dir"
        ) from error


def kept_token(path: Path, given: str | None = None) -> str:
    """The token that stands in a file, put there when there is none: the one that was given, else a new one (256 random
    bits). Only the owner can read the file.

    Raises:
        StorageError: the file cannot be read or written.
    """
    try:
        token = path.read_text().strip()
        if token and given in (None, token):
            return token
    except FileNotFoundError:
        log.info("a new token is kept in %s", path)
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read the token in {path}: {error}") from error
    token = given or secrets.token_urlsafe(32)
    _write(path, token.encode() + b"\n")
    return token


def kept_port(path: Path) -> int:
    """The port that a server listened on last time; 0 when it never did (or the file holds no port).

    Raises:
        StorageError: the file cannot be read; what was kept is not given up for that.
    """
    try:
        port = int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
    except OSError as error:
        raise StorageError(f"cannot read the port in {path}: {error.strerror}") from error
    return port if 0 < port < 65_536 else 0


def bind_server(
    directory: Path,
    name: str,
    host: str,
    make: Callable[[int], S],
    stop: threading.Event | None = None,
    fixed_port: int = 0,
    waiting: Callable[[str], None] = log.warning,
) -> S:
    """A server on the port it had last time, so that addresses stay valid.

    Call it with the directory's lock held: the predecessor is gone then, its port free or about to be.

    Args:
        directory, name: the port is kept in `<directory>/ports/<name>`.
        host: where it listens, for messages.
        make: makes a server that listens on a port, 0 for a free one; raises OSError or pyarrow.ArrowException when
            it cannot.
        stop: set: give up.
        fixed_port: a port that was set, to be used and waited for; 0: the kept one, else a free one.
        waiting: told when the port is taken.

    Raises:
        StorageError: the host cannot be listened on, the port cannot be kept, or `stop` was set.
    """
    path = directory / "ports" / name
    stop = stop or threading.Event()
    wanted = fixed_port or kept_port(path)
    waited = 0.0
    while True:
        try:
            server = make(wanted)
            break
        except (OSError, pa.ArrowException) as error:
            if not wanted:
                raise StorageError(
                    f"cannot listen on {host}: {error}; set listen.host to an address of this node"
                ) from error
            if waited == 0.0:
                waiting(f"port {wanted} of {host} is taken by another program: free it")
        if stop.wait(PORT_RETRY_S):
            raise StorageError(f"stopped while waiting for port {wanted} of {host}")
        waited += PORT_RETRY_S
        if not fixed_port and waited >= PORT_WAIT_S:
            log.warning("port %d stays taken: another one is chosen, addresses with the old one are void", wanted)
            wanted = 0
    try:
        if server.port != kept_port(path):
            _write(path, f"{server.port}\n".encode())
    except StorageError:
        server.shutdown()  # nobody would know of it, and the next try makes another one
        raise
    return server

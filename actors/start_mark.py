"""Whether a replica actor's process starts cleanly: what the one before it wrote has not been lost.

A process that dies leaves what it wrote in the page cache, and its successor finds all of it. A machine that goes down
takes with it what was not fsynced, and so does a device that is detached; unless the process had stopped in order, with
every log flushed. So a process notes the boot of the machine and the device that it writes to, and, when it stops in
order, that it did. `<broker's directory>/starts/replica-<slot>`:

    {"boot_id": "...", "device": 2049, "stopped": false, "unclean": false}

Where nothing is known, a start is unclean. That costs time at most: the replica has to catch up with another one, or
to be compared with the others (`coordination.unclean`).
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from rayqueue.actors.identity import read_json, write_json
from rayqueue.errors import StorageError

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Mark(msgspec.Struct, frozen=True):
    """What the file says.

    Attributes:
        boot_id: of the kernel; "": it has none, so nobody can tell whether it is still the same boot.
        device: where the broker's directory lies (st_dev).
        stopped: the process has stopped in order, with its logs flushed.
        unclean: it started uncleanly, and the coordinator has not heard of that.
    """

    boot_id: str
    device: int
    stopped: bool = False
    unclean: bool = False


class StartMark:
    """The mark of one replica actor; written by who holds its lock.

    Args:
        root: the broker's directory.
        slot: which of its replica actors.
        boot_id: where the kernel says which boot this is.
    """

    def __init__(self, root: Path, slot: int, boot_id: Path = BOOT_ID) -> None:
        self._root = root
        self._path = root / "starts" / f"replica-{slot}"
        self._boot_id = boot_id
        self._mark: Mark | None = None  # as this process has written it

    def begin(self) -> bool:
        """Before anything is written to a log: whether this start is unclean. Until `told`, the next one is too.

        Raises:
            StorageError: the mark cannot be read, written or removed.
        """
        boot_id = self._boot_id.read_text().strip() if self._boot_id.exists() else ""
        device = os.stat(self._root).st_dev
        unclean = self._is_unclean(boot_id, device)
        self._write(Mark(boot_id, device, unclean=unclean))
        return unclean

    def _is_unclean(self, boot_id: str, device: int) -> bool:
        try:
            before = read_json(self._path, Mark)
        except StorageError as error:
            log.warning("it is not known how the process before ended: %s", error)
            return True
        if before is None:
            partitions = self._root / "partitions"
            return partitions.is_dir() and any(partitions.iterdir())
        same = bool(boot_id) and (before.boot_id, before.device) == (boot_id, device)
        return before.unclean or not (same or before.stopped)

    def _write(self, mark: Mark) -> None:
        try:
            write_json(self._path, mark)
        except StorageError as error:
            # Nor may the old one stand: it could say that all is well. Without one the next start is unclean.
            log.warning("the next start will count as unclean: %s", error)
            self._remove()
            return
        self._mark = mark

    def _remove(self) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
                directory = os.open(self._path.parent, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
        except OSError as error:
            raise StorageError(f"cannot remove {self._path}: {error.strerror}") from error

    def told(self) -> None:
        """The coordinator knows how this process started."""
        if self._mark is not None and self._mark.unclean:
            self._write(msgspec.structs.replace(self._mark, unclean=False))

    def end(self) -> None:
        """Every log that this process may have written to, or that one before it had, is flushed and closed."""
        if self._mark is not None:
            self._write(msgspec.structs.replace(self._mark, stopped=True))

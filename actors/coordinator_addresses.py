"""Where the coordinators of the cluster are, and in which order to try them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from rayqueue.actors.identity import read_json, write_json
from rayqueue.errors import StorageError

log = logging.getLogger(__name__)

Address = tuple[str, int]


def kept_addresses(directory: Path) -> list[Address]:
    """What a broker's processes have last learned, which was kept in the broker's directory: Ray starts a process again
    with the addresses of its first start, and those may be of nodes that are gone."""
    try:
        return read_json(directory / "coordinators.json", list[Address]) or []
    except StorageError as error:
        log.warning("%s", error)
        return []


class CoordinatorAddresses:
    """Safe for many threads.

    Args:
        known: what the process was started with; these stay, behind what is learned.
        keep_in: a directory in which to keep what is learned.
    """

    def __init__(self, known: Iterable[Address], keep_in: Path | None = None) -> None:
        self._known = tuple(dict.fromkeys(known))
        self._keep_in = keep_in
        self._learned: list[Address] = []
        self._lock = threading.Lock()
        self._order = list(self._known)
        self._active: Address | None = None

    def __repr__(self) -> str:
        return f"CoordinatorAddresses({self._order}, active {self._active})"

    @property
    def active(self) -> Address | None:
        """The one that served last; None before any has."""
        return self._active

    def candidates(self) -> list[Address]:
        """All, the one that served last first, and last those that failed."""
        with self._lock:
            return list(self._order)

    def good(self, address: Address) -> None:
        """It serves: it is the active one."""
        if address == self._active and self._order[0] == address:
            return
        with self._lock:
            self._active = address
            self._order = [address, *(one for one in self._order if one != address)]

    def prefer(self, address: Address) -> None:
        """It says that it is the active one: it is tried first."""
        with self._lock:
            if address in self._order:
                self._order = [address, *(one for one in self._order if one != address)]

    def failed(self, address: Address) -> None:
        """It is not active, or away, or hangs: the others first."""
        with self._lock:
            if address in self._order:
                self._order.remove(address)
                self._order.append(address)

    def learn(self, addresses: Iterable[Address]) -> None:
        """These are what the metadata log says at present; in place of what it said before."""
        learned = sorted(addresses)
        if learned == self._learned:
            return
        self._learned = learned
        self._keep()
        with self._lock:
            wanted = dict.fromkeys([*learned, *self._known])
            kept = [one for one in self._order if one in wanted]
            self._order = [*kept, *(one for one in wanted if one not in kept)]

    def _keep(self) -> None:
        if self._keep_in is None:
            return
        try:
            write_json(self._keep_in / "coordinators.json", self._learned)
        except StorageError as error:  # a full disk: what was kept before may do
            log.warning("%s", error)

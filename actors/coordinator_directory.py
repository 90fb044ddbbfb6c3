"""A coordinator's directory: whose copy of which cluster's metadata lies there, and where the others were last.

::

    <data_dir>/coordinator-<id>/    lock, identity.json, peers.json, ports/coordinator, metadata/ (see quorum_store)
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from rayqueue.actors.alive import AliveServer
from rayqueue.actors.identity import CoordinatorIdentity, DirectoryLock, read_json, write_json
from rayqueue.actors.options import CoordinatorOptions
from rayqueue.actors.quorum_store import QuorumStore
from rayqueue.coordination.quorum.messages import Membership, Voter, first_entries
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import ClusterMismatch, StorageError
from rayqueue.storage.files import FileSystem

Address = tuple[str, int]


class CoordinatorDirectory:
    """See the module. `acquire` comes first; then all but the attributes belong to the loop.

    Attributes:
        addresses: where coordinators listen, by id; replaced as a whole.
        identity: whose directory it is. Its cluster id is "" until the cluster's own log has said it.
    """

    def __init__(self, files: FileSystem, options: CoordinatorOptions) -> None:
        self._files = files
        self._options = options
        self.path = Path(options.directory)
        self._lock = DirectoryLock(self.path / "lock")
        self._alive: AliveServer | None = None
        self.identity = CoordinatorIdentity("", "")
        self.addresses: dict[int, Address] = dict(options.peers)
        self._forming = ""
        self._joining = options.cluster_id
        self._told: dict[int, Address] = {}  # by the log, last

    @property
    def cluster_id(self) -> str:
        """Of the cluster that lies here, or is joined; "": not known yet."""
        return self.identity.cluster_id or self._forming or self._joining

    def acquire(self, stop: threading.Event, waiting: Callable[[str], None]) -> bool:
        """Takes the lock and reads what is there; False when `stop` was set.

        Raises:
            StorageError: it cannot be read or written. ClusterMismatch: another cluster lies here.
        """
        if not self._lock.acquire(stop, waiting):
            return False
        path = self.path / "identity.json"
        identity = read_json(path, CoordinatorIdentity)
        if identity is None:
            identity = CoordinatorIdentity("", uuid.uuid4().hex)
            write_json(path, identity)
        joins = self._options.cluster_id
        if joins and identity.cluster_id and identity.cluster_id != joins:
            raise ClusterMismatch(
                f"{self.path} holds metadata of cluster {identity.cluster_id}, not {joins}: use another data_dir"
            )
        self.identity = identity
        kept = read_json(self.path / "peers.json", dict[int, Address]) or {}  # newer than what Ray starts us again with
        self.addresses = {**dict(self._options.peers), **kept}
        self._told = kept
        return True

    def answer_for(self, check: Callable[[], object]) -> None:
        """Neighbours that ask whether this process lives are answered when `check` returns; see `AliveServer`."""
        self._alive = AliveServer(self._lock.path, check)

    def form(self, cluster_id: str) -> None:
        """The next `open` begins a log here, if there is none."""
        if not self.cluster_id:
            self._forming = cluster_id

    def open(self) -> tuple[Voter, QuorumStore] | None:
        """The copy of the log that lies here; None: there is none, and it has not been said that there should be.

        Raises:
            StorageError: the disk failed. CorruptRecord: what was promised is damaged, or gone.
        """
        me = Voter(self._options.coordinator_id, self.identity.directory_id)
        first = first_entries(Membership((me,))) if self._forming else []
        store = QuorumStore(self._files, self.path / "metadata", first)
        if self.identity.cluster_id and store.empty:
            raise StorageError(
                f"{self.path} belongs to cluster {self.identity.cluster_id}, but its metadata log is lost: restore it "
                "from a copy, or remove this directory if other nodes have the cluster's metadata"
            )
        if store.empty and not self._joining:
            store.close()
            return None
        return me, store

    def note(self, state: ClusterState) -> None:
        """Keeps what the log says of the cluster's id and of where the others are.

        Raises:
            StorageError: the disk failed or is full.
        """
        if state.cluster_id and self.identity.cluster_id != state.cluster_id:
            # Only now: after the log says it, so that a log that is lost is noticed.
            self.identity = CoordinatorIdentity(state.cluster_id, self.identity.directory_id)
            write_json(self.path / "identity.json", self.identity)
        told = {c.coordinator_id: (c.host, c.port) for c in state.coordinators.values()}
        # What it says once more, after a restart, is older than what `meet` has said.
        news = {one: address for one, address in told.items() if self._told.get(one) != address}
        if news:
            self._told |= news
            self.addresses = {**self.addresses, **news}
            write_json(self.path / "peers.json", self._told)

    def meet(self, addresses: dict[int, Address]) -> None:
        """These coordinators are there; what the log says later counts more."""
        self.addresses = {**self.addresses, **addresses}

    def join(self, cluster_id: str) -> None:
        """The next `open` makes an empty copy, to be filled by this cluster."""
        if not self.cluster_id:
            self._joining = cluster_id

    def release(self) -> None:
        """Lets go of the directory."""
        if self._alive is not None:
            self._alive.close()
        self._lock.release()

"""A coordinator's copy of the metadata log: the shell around `coordination.quorum`. All of it runs in the actor's loop.

The machine's effects are performed in order, but for one liberty: what a turn has to keep is kept with one fsync at the
turn's end, after its messages are on their way. The machine knows: what promises something it sends only once it is
told that the write behind it is durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from rayqueue.actors.quorum_links import QuorumLinks
from rayqueue.actors.quorum_store import QuorumStore
from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.machine import QuorumMachine
from rayqueue.coordination.quorum.messages import Membership, Voter
from rayqueue.coordination.quorum.status import QuorumStatus

_DISK = (ev.PersistVote, ev.Append, ev.Truncate, ev.SaveSnapshot, ev.InstallSnapshot, ev.Compact)
Told = (
    ev.Apply
    | ev.Restore
    | ev.TakeSnapshot
    | ev.BecomeActive
    | ev.StepDown
    | ev.LeaderKnown
    | ev.Committed
    | ev.Dropped
    | ev.ReadReady
)


class QuorumNode:
    """See the module.

    Args:
        me: this copy. store: its disk. links: to the others.
        tell: called with what is news for the coordinator; it may `post` in turn.
        now_ms: boot time.
    """

    def __init__(
        self,
        me: Voter,
        store: QuorumStore,
        links: QuorumLinks,
        config: QuorumConfig,
        tell: Callable[[Told], None],
        now_ms: int,
    ) -> None:
        self._store = store
        self._links = links
        self._tell = tell
        self._events: deque[ev.Event] = deque()
        self._membership: Membership | None = None
        self.machine = QuorumMachine(me, store.stored, config, Random(), now_ms)

    def __repr__(self) -> str:
        return f"QuorumNode({self.machine.me}, epoch {self.machine.epoch}, {self.machine.role.name})"

    @property
    def status(self) -> QuorumStatus:
        """For `rayqueue status`, and for whoever decides who should vote."""
        return self.machine.status()

    def next_deadline_ms(self) -> int | None:
        """When `run` is due, whatever else happens."""
        return self.machine.next_deadline_ms()

    def post(self, event: ev.Event) -> None:
        """An event for the next step; performed by `run`."""
        self._events.append(event)

    def run(self, now_ms: int) -> None:
        """Takes all events, and what comes of them, until nothing is left to do at this time.

        Raises:
            StorageError: the disk failed: this node is over.
        """
        deadline = self.next_deadline_ms()
        if deadline is not None and deadline <= now_ms:
            self._events.append(ev.Tick())
        while self._events:
            keep: list[ev.DiskEffect] = []
            while self._events:
                self._perform(self.machine.step(self._events.popleft(), now_ms), keep)
            if keep:
                self._events.append(ev.Persisted(self._store.write(keep)))
        membership = self.machine.log.membership
        if membership is not self._membership:
            self._membership = membership
            self._links.keep({*membership.voters, *membership.learners})

    def _perform(self, effects: list[ev.Effect], keep: list[ev.DiskEffect]) -> None:
        for effect in effects:
            if isinstance(effect, ev.Send):
                self._links.send(effect.message)
            elif isinstance(effect, _DISK):
                keep.append(effect)
            else:
                self._tell(effect)

    def close(self) -> None:
        """Ends the links and closes the disk."""
        self._links.stop()
        self._store.close()

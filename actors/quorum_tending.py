"""What the active coordinator does for the quorum itself: step by step towards the voters that there should be."""

from __future__ import annotations

from rayqueue.coordination.quorum.events import Action
from rayqueue.coordination.quorum.messages import Voter
from rayqueue.coordination.quorum.status import QuorumStatus
from rayqueue.coordination.quorum.voters import BrokerPlace, next_change
from rayqueue.coordination.records import CoordinatorRecord
from rayqueue.coordination.state import ClusterState

INTERVAL_MS = 250
# A copy that has not been heard so long is not made a voter.
SILENT_MS = 3_000
VOTERS_MAX = 5


class QuorumTending:
    """Decides on changes of the membership, one at a time.

    Attributes:
        due_ms: when to ask again.
    """

    def __init__(self) -> None:
        self.due_ms = 0
        # Copies that were given up as learners, as the process they had then: another process is another chance.
        self._given_up: dict[Voter, str] = {}

    def next_change(self, status: QuorumStatus, state: ClusterState, now_ms: int) -> tuple[Action, Voter] | None:
        """The change to ask for now, if any."""
        if now_ms < self.due_ms:
            return None
        self.due_ms = now_ms + INTERVAL_MS
        registered = {Voter(c.coordinator_id, c.directory_id): c for c in state.coordinators.values()}
        silent = {peer.voter: peer.silent_ms for peer in status.peers}
        places = [
            BrokerPlace(voter, record.node_id, self._alive(status, silent, voter, record))
            for voter, record in sorted(registered.items())
        ]
        change = next_change(status, places, VOTERS_MAX)
        if change is not None and change[0] is Action.REMOVE and change[1] in registered:
            self._given_up[change[1]] = registered[change[1]].incarnation
        return change

    def _alive(self, status: QuorumStatus, silent: dict[Voter, int], voter: Voter, record: CoordinatorRecord) -> bool:
        if voter == status.me:
            return True
        if voter in silent:
            return silent[voter] < SILENT_MS
        return self._given_up.get(voter) != record.incarnation

"""What the coordinator does by itself when something has changed or time has passed.

::

    all that is added to a partition is in sync                       -> its reassignment is completed
    nobody who has all of a partition is there, for a while,
        and unclean.leader.election.enable is set                     -> whoever is there leads
    too many partitions of a broker are not led by it as was wanted,
        and auto.leader.rebalance.enable is set                       -> it gets back those for which it is in sync

Asked again without a change it does nothing: it looks at the state, and keeps of its own only since when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rayqueue.config.broker import BrokerConfig
from rayqueue.coordination.leadership import prefer, uncleanly
from rayqueue.coordination.reassignment import completed
from rayqueue.coordination.records import PartitionRecord, Record
from rayqueue.coordination.state import ClusterState, Topic

Key = tuple[bytes, int]
UNCLEAN = "unclean.leader.election.enable"

# A partition waits so long for somebody who has all of it: after a start of the whole cluster processes come back one
# after the other, and the first of them is not the best.
UNCLEAN_GRACE_MS = 5_000
# Leaders that move in one go; each costs its producers a look at the metadata. If there are more they follow soon.
MOVES_MAX = 1_000
NEXT_MOVES_MS = 1_000


class Upkeep:
    """See the module.

    Args:
        state: the coordinator's; whoever is given records replays them before the next are made.
    """

    def __init__(self, state: ClusterState, config: BrokerConfig, now_ms: int) -> None:
        self._state = state
        self._percentage = config.leader_imbalance_per_broker_percentage
        self._interval_ms = config.leader_imbalance_check_interval_seconds * 1000
        self._balance_ms = now_ms + self._interval_ms if config.auto_leader_rebalance_enable else None
        self._leaderless: dict[Key, int] = {}  # where an unclean election is allowed: when it is made
        self._looked_at = -1

    def next_deadline_ms(self) -> int | None:
        """When `due` is to be asked though nothing has changed."""
        due = list(self._leaderless.values())
        if self._balance_ms is not None:
            due.append(self._balance_ms)
        return min(due, default=None)

    def due(self, end: int, now_ms: int) -> Iterator[list[Record]]:
        """What is to be done now, record batch by record batch.

        Args:
            end: of the metadata log; where it has not moved, nothing has changed.
        """
        if end != self._looked_at:
            yield from self._reassigned()
            self._look_for_leaderless(now_ms)
            self._looked_at = end
        yield from self._elected(now_ms)
        if self._balance_ms is not None and now_ms >= self._balance_ms:
            moves = self._balanced()
            self._balance_ms = now_ms + (NEXT_MOVES_MS if len(moves) == MOVES_MAX else self._interval_ms)
            if moves:
                yield list(moves)

    # --- reassignments -----------------------------------------------------------------------------------------------

    def _reassigned(self) -> Iterator[list[Record]]:
        for topic_id, number in sorted(self._state.reassigning):
            topic = self._state.topics_by_id[topic_id]
            records = completed(self._state, topic, topic.partitions[number])
            if records:
                yield records

    # --- unclean elections -------------------------------------------------------------------------------------------

    def _look_for_leaderless(self, now_ms: int) -> None:
        state = self._state
        default = state.topic_defaults.get(UNCLEAN, "false")
        topics = state.topics.values() if state.lost else ()  # while everybody is there, this costs nothing
        present = {
            (topic.topic_id, partition.partition)
            for topic in topics
            if topic.overrides.get(UNCLEAN, default) == "true"
            for partition in topic.partitions
            if not state.is_there(partition, partition.leader)
        }
        self._leaderless = {key: self._leaderless.get(key, now_ms + UNCLEAN_GRACE_MS) for key in sorted(present)}

    def _elected(self, now_ms: int) -> Iterator[list[Record]]:
        for key, due_ms in list(self._leaderless.items()):
            if now_ms < due_ms:
                continue
            topic = self._state.topics_by_id[key[0]]
            record = uncleanly(self._state, topic, topic.partitions[key[1]])
            del self._leaderless[key]  # it is looked for again when something has changed
            if record is not None:
                yield [record]

    # --- the balance of leaders --------------------------------------------------------------------------------------

    def _balanced(self) -> list[PartitionRecord]:
        """Partitions of brokers that lead too few of those that they should, given back to them."""
        wanted: Counter[int] = Counter()
        elsewhere: dict[int, list[tuple[Topic, PartitionRecord]]] = {}
        for topic, partition in self._state.partitions():
            first = partition.replicas[0]
            wanted[first] += 1
            if partition.leader != first and not partition.target:
                elsewhere.setdefault(first, []).append((topic, partition))
        moves = []
        for broker_id, away in sorted(elsewhere.items()):
            if 100 * len(away) > self._percentage * wanted[broker_id]:
                found = (prefer(self._state, topic, partition) for topic, partition in away)
                moves += [record for record in found if record is not None]
        return moves[:MOVES_MAX]

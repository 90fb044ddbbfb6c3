"""Which partitions a consumer reads, and the callbacks that tell of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rayqueue.client.fetching.engine import Engine
from rayqueue.client.subscription import Subscription, difference
from rayqueue.errors import ConfigError, OffsetOutOfRange, RayQueueError, UnknownTopicOrPartition
from rayqueue.types import NO_OFFSET, OFFSET_BEGINNING, OFFSET_END, TopicPartition

Callback = Callable[[Any, list[TopicPartition]], None]
Key = tuple[str, int]

# A broker that serves answers sooner. Topics that are known already need not wait longer for one.
KNOWN_TIMEOUT_S = 1.0


class Assignment:
    """The partitions of a subscription, or those assigned by hand.

    Attributes:
        subscription: the topics subscribed to, or None.
        frozen: iteration ends at offsets fixed at its start; a partition found later is not part of it.
        telling: a callback is running.
    """

    def __init__(self, engine: Engine, owner: Any) -> None:
        self._engine = engine
        self._owner = owner
        self._machine = engine.machine
        self._seen_image = -1
        self._callbacks: dict[str, Callback | None] = {}
        self._due: deque[tuple[Callback, list[TopicPartition]]] = deque()
        self.subscription: Subscription | None = None
        self.frozen = False
        self.telling = False

    # --- asked for by the user ---------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, callbacks: dict[str, Callback | None]) -> None:
        """Reads all partitions of the topics; `callbacks`: on_assign, on_revoke, on_lost.

        Raises:
            UnknownTopicOrPartition: a topic named does not exist.
            ConfigError: a callback cannot be called.
        """
        check_callbacks(callbacks)
        self._look_at(subscription.names, everything=bool(subscription.patterns))
        self.clear()
        self._machine.leaders.asks = subscription.asks()
        self.subscription = subscription
        self._callbacks = callbacks
        wanted = subscription.partitions(self._machine.leaders.topics.values())
        self._add(sorted(wanted), wanted, self._engine.config.auto_offset_reset)
        self._seen_image = self._machine.leaders.image

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Reads these partitions; one that stays and is given no offset keeps its position.

        Raises:
            UnknownTopicOrPartition: there is no such topic or partition.
            BrokerNotAvailable: see `_look_at`.
        """
        starts = {(tp.topic, tp.partition): start_of(tp) for tp in partitions}
        names = tuple(dict.fromkeys(topic for topic, _ in starts))
        self._look_at(names)
        topics = self._machine.leaders.topics
        for topic, partition in starts:
            count = len(topics[topic].partitions)
            if not 0 <= partition < count:
                raise UnknownTopicOrPartition(f"topic {topic!r} has partitions 0 to {count - 1}, not {partition}")
        if self.subscription is not None:
            self.clear()
        self.unassign([key for key in self._machine.cursors if key not in starts])
        self._machine.leaders.asks = list(names)
        self._seen_image = self._machine.leaders.image
        for key, start in starts.items():
            cursor = self._machine.cursors.get(key)
            topic_id = topics[key[0]].topic_id
            if cursor is None or cursor.topic_id != topic_id:
                if cursor is not None:
                    self._machine.revoke(key)
                self._machine.assign(key[0], topic_id, key[1], self._start() if start is None else start)
            elif start is not None:
                self._machine.seek(cursor, start)

    def _start(self) -> str:
        """Where a partition begins of which nothing is said."""
        return self._engine.config.auto_offset_reset

    def unassign(self, keys: list[Key]) -> None:
        """Stops reading these partitions."""
        for key in keys:
            self._machine.revoke(key)

    def clear(self) -> None:
        """Reads nothing any more; tells on_revoke."""
        gone = sorted(self._machine.cursors)
        for key in gone:
            self._machine.revoke(key)
        revoke, subscribed = self._callbacks.get("on_revoke"), self.subscription is not None
        self.subscription = None
        self._callbacks = {}
        self._machine.leaders.asks = []
        self._due.clear()
        if subscribed and revoke is not None and gone:
            revoke(self._owner(), [TopicPartition(*key) for key in gone])

    def _look_at(self, names: Iterable[str], everything: bool = False) -> None:
        """Brings the machine fresh metadata of topics; a missing one is an error at once.

        While no broker answers what is known of them has to do; topics that are not known are waited for.

        Raises:
            UnknownTopicOrPartition: there is none of that name.
            BrokerNotAvailable: no broker has answered in `request.timeout.ms`.
        """
        client, leaders = self._engine.client, self._machine.leaders
        wanted = list(names)
        asked = None if everything else wanted
        known = asked is not None and all(name in leaders.topics for name in wanted)
        try:
            response = client.refresh(asked, timeout_s=KNOWN_TIMEOUT_S if known else None)
        except RayQueueError as error:
            if not (known and error.retriable):
                raise
            leaders.ask_by(self._engine.now_ms())  # by `poll`, which waits for brokers as it does for leaders
            return
        found = {topic.name for topic in response.topics}
        for name in wanted:
            if name not in found:
                client.topic(name, refresh=True, auto_create=True)  # raises, unless it has come up meanwhile
                response = client.refresh(asked)
        self._engine.learn(response.topics, asked, response.index)

    # --- iteration that ends -----------------------------------------------------------------------------------

    def freeze(self, ends_of: Callable[[list[Key]], dict[Key, int]]) -> Callable[[], bool]:
        """Nothing is handed out at or above the ends as of now; gives what says whether all below was."""
        ends = ends_of(sorted(self._machine.cursors))
        self.frozen = True
        for key, end in ends.items():
            self._machine.limit(self._machine.cursors[key], end)
        return self._finished

    def _finished(self) -> bool:
        return all(cursor.finished for cursor in self._machine.cursors.values())

    def thaw(self) -> None:
        """There is no end any more."""
        self.frozen = False
        for cursor in self._machine.cursors.values():
            self._machine.limit(cursor, None)

    # --- found out by metadata ---------------------------------------------------------------------------------

    def follow(self) -> None:
        """After new metadata: partitions that came or went. Callbacks are kept for `tell`."""
        leaders = self._machine.leaders
        if self._seen_image == leaders.image:
            return
        self._seen_image = leaders.image
        now = {key: cursor.topic_id for key, cursor in self._machine.cursors.items()}
        if self.subscription is None:
            wanted = {
                key: leaders.topics[key[0]].topic_id if leaders.exists_now(*key) else topic_id
                for key, topic_id in now.items()
            }
        else:
            wanted = self.subscription.partitions(leaders.topics.values())
            # A topic asked for by name that is gone stays, with its error, until the user lets go of it.
            named = self.subscription.names
            wanted.update((k, i) for k, i in now.items() if k[0] in named and k[0] not in leaders.topics)
        added, dropped = difference(now, wanted)
        for key in dropped:
            self._machine.revoke(key)
        self._callback("on_lost" if self._callbacks.get("on_lost") else "on_revoke", dropped)
        # They are younger than the subscription, so "latest" as of then is their beginning: nothing is skipped.
        policy = self._engine.config.auto_offset_reset
        self._add(added, wanted, policy if policy == "none" else "earliest")

    def _add(self, keys: list[Key], ids: dict[Key, bytes], start: str) -> None:
        for topic, partition in keys:
            cursor = self._machine.assign(topic, ids[topic, partition], partition, start)
            if self.frozen:
                self._machine.limit(cursor, 0)
        self._callback("on_assign", keys)

    def _callback(self, name: str, keys: list[Key]) -> None:
        callback = self._callbacks.get(name)
        if callback is not None and keys:
            self._due.append((callback, [TopicPartition(*key) for key in keys]))

    def tell(self) -> bool:
        """Runs the callbacks that are due; True if there were any."""
        if not self._due:
            return False
        self.telling = True
        try:
            while self._due:
                callback, partitions = self._due.popleft()
                callback(self._owner(), partitions)
        finally:
            self.telling = False
        return True


def check_callbacks(callbacks: Mapping[str, Any]) -> None:
    """Raises ConfigError where one cannot be called."""
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise ConfigError(f"{name} is a function (consumer, partitions), not {callback!r}")


def start_of(tp: TopicPartition) -> int | str | None:
    """Where a TopicPartition says to start: an offset, "earliest", "latest", or None.

    Raises:
        OffsetOutOfRange: the offset is negative and none of the named ones.
        ConfigError: it is not a whole number.
    """
    offset = tp.offset
    if offset is None or offset == NO_OFFSET:
        return None
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise ConfigError(f"an offset is a whole number, OFFSET_BEGINNING or OFFSET_END, not {offset!r}")
    if offset == OFFSET_BEGINNING:
        return "earliest"
    if offset == OFFSET_END:
        return "latest"
    if offset < 0:
        raise OffsetOutOfRange(f"offsets start at 0; {offset} is neither one, nor OFFSET_BEGINNING, nor OFFSET_END")
    return offset


def topic_partition(given: Any) -> TopicPartition:
    """A TopicPartition given as one, or as a (topic, partition) pair.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(given, TopicPartition):
        return given
    if isinstance(given, tuple) and 2 <= len(given) <= 3 and isinstance(given[0], str) and isinstance(given[1], int):
        return TopicPartition(*given)
    raise ConfigError(f"a partition is TopicPartition(topic, partition), not {given!r}")

"""The consumer: reads topics from any position, as messages or as Arrow tables."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn

import pyarrow as pa

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.fetcher import COMMITTED
from rayqueue.client.fetching.arguments import column_names, positive, split_arguments, timeout_of, topic_list
from rayqueue.client.fetching.assignment import Assignment, Callback, start_of, topic_partition
from rayqueue.client.fetching.engine import Engine
from rayqueue.client.fetching.guard import Guard
from rayqueue.client.fetching.positions import OffsetAndTimestamp, Partition
from rayqueue.client.fetching.reader import Reader
from rayqueue.client.groups.assignment import GroupAssignment
from rayqueue.client.groups.commits import Commits
from rayqueue.client.groups.membership import Membership
from rayqueue.client.subscription import Subscription
from rayqueue.config import ConsumerConfig
from rayqueue.errors import ConfigError
from rayqueue.message import Message
from rayqueue.types import TopicPartition

__all__ = ["Consumer", "Message", "OffsetAndTimestamp"]


class Consumer(Commits):
    """Reads records of topics or partitions, in the order of their offsets in each partition.

    With a `group_id` it shares the partitions of what it subscribes to with the other members of its group, and goes
    on where the group has committed. Without one it stands alone and reads every partition. It is for one thread at a
    time, does its work inside the calls, and wakes as soon as there is data; that it lives is said to its group by a
    thread of its own, however long the work between two calls takes.

        with Consumer("clicks", auto_offset_reset="earliest") as consumer:
            for message in consumer:
                print(message.offset, message.value)

    Args:
        *topics: names and "^patterns" to subscribe to; settings as a dict may stand among them.
        stop_at: "latest": iteration ends at the end of each partition as of its start; None: it never ends.
        **settings: Kafka's names with underscores (`rayqueue.config.CONSUMER_SETTINGS`).

    Raises:
        ConfigError: a setting is unknown, malformed, or not built yet.
        UnknownTopicOrPartition: a topic does not exist; the message has the command that creates it.
    """

    def __init__(self, *topics: Any, stop_at: Literal["latest"] | None = None, **settings: Any) -> None:
        names, given = split_arguments(topics, settings)
        if stop_at not in (None, "latest"):
            raise ConfigError(f"stop_at is None or 'latest', not {stop_at!r}")
        self._config = ConsumerConfig.parse(given)
        self._stop_at = stop_at
        self._guard = Guard()
        client = ClusterClient(self._config)
        self._engine = Engine(client, self._config)
        self._machine = self._engine.machine
        self._membership = None if self._config.group_id is None else Membership(self._engine)
        owner = weakref.ref(self)
        self._assignment: Assignment = (
            Assignment(self._engine, owner)
            if self._membership is None
            else GroupAssignment(self._engine, owner, self._membership)
        )
        self._reader = Reader(self._engine, self._assignment)
        if self._membership is not None:
            self._membership.auto.cursors = self._machine.cursors
        self._timeout_s = self._config.request_timeout_ms / 1000
        # Streams are closed before gRPC is torn down, also when a consumer is simply forgotten.
        self._finalize = weakref.finalize(self, _end, self._membership, self._engine)
        if names:
            try:
                self.subscribe(names)
            except BaseException:
                self.close()
                raise

    # --- what to read ------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topics: Any,
        on_assign: Callback | None = None,
        on_revoke: Callback | None = None,
        on_lost: Callback | None = None,
    ) -> None:
        """Reads all partitions of these topics, in place of what was read before; with a group, its share of them.

        A member of a group is given partitions inside `poll`, and goes on where the group has committed. Another
        subscription is a change in place: what both have goes on.

        Topics and partitions that appear later are found when metadata is refreshed (`metadata.max.age.ms`) and read
        from their beginning.

        Args:
            topics: a name, a "^pattern", or a list of these.
            on_assign, on_revoke, on_lost: called inside `poll` as f(consumer, partitions), with those that come or go
                and no others. on_assign may move them (`seek`). on_revoke: they are still ours to commit; what was
                handed out has been, with `enable.auto.commit`. on_lost: they are gone with their topic, or others may
                have them by now: nothing can be committed; without it on_revoke is called.

        Raises:
            UnknownTopicOrPartition: a topic does not exist (a pattern may match nothing).
        """
        with self._guard:
            self._reader.let_go()
            callbacks = {"on_assign": on_assign, "on_revoke": on_revoke, "on_lost": on_lost}
            self._assignment.subscribe(Subscription(topic_list(topics)), callbacks)
            self._fix_latest()

    def subscription(self) -> list[str]:
        """The topics and patterns subscribed to."""
        with self._guard:
            found = self._assignment.subscription
            return [] if found is None else [*found.names, *(pattern.pattern for pattern in found.patterns)]

    def unsubscribe(self) -> None:
        """Reads nothing any more: on_revoke is called, a group is left. A member that the group has refused may
        subscribe again after it."""
        with self._guard:
            self._reader.let_go()
            self._assignment.clear()
            self._engine.perform()

    def assign(self, partitions: Iterable[Partition] | Partition) -> None:
        """Reads these partitions, each from its `offset`, in place of what was read before.

        A partition without an offset keeps its position if it was assigned; else it begins where the group has
        committed, if there is a group, and otherwise as `auto.offset.reset` says. Who is assigned partitions by hand is
        no member of its group, and commits as long as nobody is. Inside an on_assign callback it only moves the
        positions of the partitions just assigned.

        While no broker answers, topics that are known from before are assigned all the same, and `poll` goes on when
        brokers are back.

        Raises:
            UnknownTopicOrPartition: there is no such topic or partition.
            BrokerNotAvailable: no broker has answered in `request.timeout.ms`, and a topic is new to this consumer.
        """
        with self._guard:
            single = isinstance(partitions, (TopicPartition, tuple))
            wanted = [topic_partition(p) for p in ([partitions] if single else partitions)]
            if self._assignment.telling:
                for tp in wanted:
                    if start_of(tp) is not None:
                        self.seek(tp)
                return
            self._reader.let_go()
            self._assignment.assign(wanted)
            self._fix_latest(*([COMMITTED] if self._config.auto_offset_reset == "latest" else []))

    def unassign(self, partitions: Iterable[Partition] | None = None) -> None:
        """Stops reading these partitions; None: all, which is `unsubscribe`.

        Raises:
            ConfigError: some, of a member of a group: the group says what it reads.
        """
        with self._guard:
            self._reader.let_go()
            if partitions is None:
                self._assignment.clear()
            else:
                self._assignment.unassign([cursor.key for cursor in self._cursors(tuple(partitions))])
            self._engine.perform()

    def assignment(self) -> list[TopicPartition]:
        """The partitions read, in order."""
        with self._guard:
            return [TopicPartition(*key) for key in sorted(self._machine.cursors)]

    # --- reading -----------------------------------------------------------------------------------------------

    def poll(self, timeout: float | None = 1.0) -> Message | None:
        """The next record, as soon as there is one.

        Args:
            timeout: seconds to wait; 0: do not; None or negative: for ever.

        Raises:
            OffsetOutOfRange, CorruptRecord: the partition stays where it is until it is moved with `seek`.
            UnknownTopicOrPartition: a topic was deleted.
            FencedInstance: another consumer has joined with our `group.instance.id`.
            UnsupportedAssignor: the group's other members have another `partition.assignment`.
            RayQueueError: see `rayqueue.errors`. A leader or coordinator that is away is no error: it is waited for
                (`repr` of the consumer says for what it waits).
        """
        guard = self._guard
        if not guard.acquire(False):
            raise guard.busy()
        try:
            if guard.shut:
                raise guard.refusal()
            return self._reader.poll(timeout)
        finally:
            guard.release()

    def consume(self, num_messages: int | None = None, timeout: float | None = 1.0) -> list[Message]:
        """Up to `num_messages` records (None: `max.poll.records`), as soon as there are any; [] if there are none.

        Raises: as `poll`; records that came before a damaged one are handed out first.
        """
        with self._guard:
            count = self._config.max_poll_records if num_messages is None else positive(num_messages, "num_messages")
            return self._reader.consume(count, timeout_of(timeout))

    def consume_arrow(
        self, max_records: int | None = None, timeout: float | None = 1.0, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """What there is, as a table, as soon as there is anything; empty (never None) if there is nothing.

        One call gives one schema: default topics together, a typed topic apart from others. Values are not copied:
        on the host that holds the replica they lie in the mapped segment files. Deserializers are not applied.

        Args:
            max_records: at most so many; None: what is there, about 8 MB at most.
            columns: those wanted, in this order; others are not read.

        Returns:
            topic (string), partition (int32), offset (int64), timestamp (timestamp[ms, UTC]), then key (binary),
            headers (map<string, binary>), value (binary), or the columns of the typed topic.

        Raises: as `poll`; SchemaMismatch: the topic has no such column.
        """
        with self._guard:
            count = None if max_records is None else positive(max_records, "max_records")
            return self._reader.table(count, timeout_of(timeout), column_names(columns))

    def __iter__(self) -> Iterator[Message]:
        """All records from the position on; with stop_at="latest" up to the end as of now."""
        with self._guard:
            until = self._freeze(self._stop_at)
        try:
            yield from self._reader.messages(self._config.max_poll_records, until, self._guard)
        finally:
            self._thaw(until is not None)

    def iter_batches(
        self,
        format: Literal["arrow", "pandas"] = "arrow",
        columns: Sequence[str] | None = None,
        max_records: int | None = None,
        stop_at: Literal["latest"] | None = None,
    ) -> Iterator[Any]:
        """Tables (or pandas DataFrames) as by `consume_arrow`, none of them empty.

        Args:
            stop_at: as the consumer's own, which it overrides.
        """
        if format not in ("arrow", "pandas"):
            raise ConfigError(f"format is 'arrow' or 'pandas', not {format!r}")
        wanted = column_names(columns)
        count = None if max_records is None else positive(max_records, "max_records")
        return self._batches(format, wanted, count, stop_at or self._stop_at)

    def _batches(
        self, format: str, columns: tuple[str, ...] | None, count: int | None, stop: str | None
    ) -> Iterator[Any]:
        with self._guard:
            until = self._freeze(stop)
        try:
            while True:
                with self._guard:
                    table = self._reader.table(count, None, columns, until)
                if not table.num_rows:
                    return
                yield table if format == "arrow" else table.to_pandas()
        finally:
            self._thaw(until is not None)

    def _freeze(self, stop_at: str | None) -> Any:
        if stop_at is None:
            return None
        if stop_at != "latest":
            raise ConfigError(f"stop_at is None or 'latest', not {stop_at!r}")
        self._reader.let_go()
        return self._assignment.freeze(self._ends)

    def _thaw(self, frozen: bool) -> None:
        if frozen and not self._guard.closed:
            self._reader.let_go()
            self._assignment.thaw()

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends streams and connections: commits (`enable.auto.commit`), calls on_revoke, leaves the group.

        A `with` block that ends by an error commits nothing of what it was handed last. Closing again does nothing.
        """
        if self._guard.closed:
            return
        with self._guard:
            try:
                self._reader.let_go()
                self._assignment.clear()
            finally:
                self._guard.close()
                self._finalize()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._membership is not None and not self._guard.shut:
            # What it was handed last was not processed: it is not committed, and read again. What was committed is.
            with self._guard:
                self._reader.take_back(self._membership.auto.back_to)
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._guard.closed else f"{len(self._machine.cursors)} partitions"
        group = "" if self._membership is None or self._guard.closed else f", {self._membership.describe()}"
        return f"Consumer({self._config.bootstrap_servers!r}, {state}{group})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Consumer cannot be pickled: make one in each process, with the same settings")


def _end(membership: Membership | None, engine: Engine) -> None:
    try:
        if membership is not None:
            membership.close()
    finally:
        engine.close()

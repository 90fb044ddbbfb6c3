"""The admin client: topics, their settings, partitions and records, and the cluster as a whole. No Ray, no actors."""

from __future__ import annotations

import difflib
import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import pyarrow as pa

from rayqueue.admin_descriptions import (
    INTERNAL_PREFIX,
    BrokerDescription,
    ClusterDescription,
    ConfigEntry,
    NewTopic,
    PartitionDescription,
    PartitionReassignment,
    TopicDescription,
)
from rayqueue.admin_groups import AdminGroups
from rayqueue.admin_leaders import ask_delete, ask_leaders, ask_logs, first_failure, partition_of, truncations
from rayqueue.admin_partitions import Election, Named, first_error, reassign_request, reassignments
from rayqueue.admin_topics import (
    config_changes,
    config_entries,
    describe,
    describe_cluster,
    difference,
    topic_spec,
)
from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.fetching.positions import Partition
from rayqueue.config import AdminConfig, merge
from rayqueue.errors import (
    ConfigError,
    InvalidPartitions,
    RayQueueError,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from rayqueue.protocol.messages import (
    AlterConfigRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    ElectLeadersResponse,
    LogDescription,
    MetadataRequest,
    MetadataResponse,
    ReassignPartitionsResponse,
    TopicInfo,
    TopicsResponse,
)
from rayqueue.types import TopicPartition

__all__ = [
    "AdminClient",
    "BrokerDescription",
    "ClusterDescription",
    "ConfigEntry",
    "NewTopic",
    "PartitionDescription",
    "PartitionReassignment",
    "TopicDescription",
]

log = logging.getLogger(__name__)

# How long the coordinator may wait for the replica actors concerned, and we a little longer for its answer.
CHANGE_TIMEOUT_MS = 30_000
CHANGE_MARGIN_S = 5.0
DESCRIBE_TIMEOUT_S = 3.0  # also when a leader is away; what is missing is then said
# How long a broker may take to see a change in its own copy of the metadata before we stop waiting for it.
SETTLE_TIMEOUT_S = 2.0


class AdminClient(AdminGroups):
    """Administers a cluster. Calls are synchronous; it is thread-safe, and closes with `with` or `close()`.

    Args:
        config: a dict of settings, or the bootstrap servers alone, as text or a list.
        settings: the same by keyword: `bootstrap_servers="auto"`, `cluster`, `token`, `request_timeout_ms`, ...

    Raises:
        ConfigError: a setting is unknown or malformed.
    """

    def __init__(self, config: Mapping[str, Any] | str | Sequence[str] | None = None, /, **settings: Any) -> None:
        given = {"bootstrap.servers": config} if isinstance(config, (str, list, tuple)) else config
        self.config = AdminConfig.parse(merge(given, settings))  # type: ignore[arg-type]  # merge checks it
        self._client = ClusterClient(self.config)
        self._index = -1  # newest metadata index one of our changes has reached; later reads wait for it
        self._closing = weakref.finalize(self, self._client.close)

    def __repr__(self) -> str:
        return f"AdminClient({self.config.bootstrap_servers!r})"

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AdminClient holds connections and is not pickled: make one where it is used")

    def close(self) -> None:
        """Closes the connections; may be called again."""
        self._closing()

    # --- topics ----------------------------------------------------------------------------------------------------

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        replication_factor: int | None = None,
        config: Mapping[str, Any] | None = None,
        schema: pa.Schema | None = None,
        key_column: str | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Creates a topic and returns once every partition has a leader.

        Args:
            name: `[a-zA-Z0-9._-]{1,249}`.
            partitions: how many.
            replication_factor: replicas of each; None for the cluster's default.
            config: settings of the topic by Kafka's names (`retention.ms`, ... or `retention_ms`).
            schema: columns of a typed topic; None for Kafka's record of key, value and headers. A dictionary column is
                stored, described and consumed as its value type: dictionary<int32, string> comes back as string.
            key_column: the column of `schema` that keys the records.
            exist_ok: an equal topic that exists already is fine.

        Raises:
            TopicAlreadyExists: it exists; with exist_ok, it exists and differs, and the message says how.
            InvalidTopic, InvalidPartitions, InvalidReplicationFactor, SchemaMismatch, ConfigError: bad arguments.
        """
        topic = NewTopic(name, partitions, replication_factor, config, schema, key_column)
        try:
            self.create_topics([topic])
        except TopicAlreadyExists:
            if not exist_ok:
                raise
            differs = difference(self._client.topic(name, refresh=True), topic)
            if differs:
                raise TopicAlreadyExists(f"topic {name!r} exists already, with {differs}") from None

    def create_topics(self, topics: Sequence[NewTopic]) -> None:
        """Creates several topics in one request.

        Raises:
            RayQueueError: the first error, if a topic could not be created; the others then exist all the same. The
                message names those that were created and those that were not.
            ConfigError: it was given something else than NewTopics.
        """
        if isinstance(topics, NewTopic) or not isinstance(topics, Iterable):
            raise ConfigError(f"create_topics takes a list of NewTopic(name, partitions, ...), not {topics!r}")
        specs = [topic_spec(topic) for topic in topics]
        doubled = sorted({spec.name for spec in specs if [other.name for other in specs].count(spec.name) > 1})
        if doubled:
            raise TopicAlreadyExists(f"topic {doubled[0]!r} is asked for twice in one call: leave one out")
        if specs:
            self._change("create_topics", CreateTopicsRequest(specs, CHANGE_TIMEOUT_MS))

    def delete_topic(self, name: str) -> None:
        """Deletes a topic and its records, for good.

        Raises:
            UnknownTopicOrPartition: there is none.
        """
        names = [topic.name for topic in self._metadata().topics]
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`rayqueue topic list` shows those that exist"
            raise UnknownTopicOrPartition(f"there is no topic {name!r} to delete; {hint}")
        self._change("delete_topics", DeleteTopicsRequest([name], CHANGE_TIMEOUT_MS))

    def create_partitions(self, name: str, partitions: int) -> None:
        """Adds partitions, so that there are `partitions` in all. Keyed records may land elsewhere from then on.

        Raises:
            UnknownTopicOrPartition: there is no such topic.
            InvalidPartitions: not more than there are.
        """
        present = len(self._topic(name).partitions)
        if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions <= present:
            raise InvalidPartitions(
                f"topic {name!r} has {present} partitions: give a new total above that, not {partitions!r} "
                "(partitions cannot be taken away)"
            )
        self._change("create_partitions", CreatePartitionsRequest(name, partitions, CHANGE_TIMEOUT_MS))

    def list_topics(self, internal: bool = False) -> list[str]:
        """Names of all topics, sorted; rayqueue's own only when `internal`."""
        names = (topic.name for topic in self._metadata().topics)
        return sorted(name for name in names if internal or not name.startswith(INTERNAL_PREFIX))

    def describe_topic(self, name: str) -> TopicDescription:
        """A topic with its partitions: leaders, replicas, offsets, sizes, settings.

        A leader that does not answer within 3 s leaves its partition's offsets None and says why in `error`.

        Raises:
            UnknownTopicOrPartition: there is none.
        """
        return self.describe_topics([name])[0]

    def describe_topics(self, names: Iterable[str] | None = None, internal: bool = False) -> list[TopicDescription]:
        """Several topics, or all of them (rayqueue's own only when `internal`), in the order given or by name."""
        topics = {topic.name: topic for topic in self._metadata().topics}
        wanted = list(names) if names is not None else self.list_topics(internal)
        found = [topics[name] if name in topics else self._topic(name) for name in wanted]
        logs, problems = self._logs(found)
        return [describe(topic, logs[topic.name], problems[topic.name]) for topic in found]

    def _logs(self, topics: list[TopicInfo]) -> tuple[dict[str, dict[int, LogDescription]], dict[str, dict[int, str]]]:
        """What the leaders say of their logs, and why some do not; by topic and partition."""
        queries = {TopicPartition(t.name, p.partition): None for t in topics for p in t.partitions}
        timeout_s = min(DESCRIBE_TIMEOUT_S, self.config.request_timeout_ms / 1000)
        answers, failures = ask_leaders(self._client, queries, ask_logs, timeout_s)
        logs: dict[str, dict[int, LogDescription]] = {topic.name: {} for topic in topics}
        problems: dict[str, dict[int, str]] = {topic.name: {} for topic in topics}
        for tp, answer in answers.items():
            if answer.description is not None:
                logs[tp.topic][tp.partition] = answer.description
        for tp, error in failures.items():
            problems[tp.topic][tp.partition] = str(error)
        return logs, problems

    # --- settings --------------------------------------------------------------------------------------------------

    def describe_topic_config(self, name: str) -> dict[str, ConfigEntry]:
        """Every effective setting of a topic by dotted name: its value, whether that is the default, and its source.

        Raises:
            UnknownTopicOrPartition: there is no such topic.
        """
        return config_entries(self._topic(name))

    def alter_topic_config(self, name: str, config: Mapping[str, Any]) -> None:
        """Changes settings of a topic; None resets one to the default. In effect at every replica on return.

        Raises:
            UnknownTopicOrPartition: there is no such topic.
            ConfigError: a setting is unknown, malformed, or contradicts another.
        """
        changes = config_changes(config, self._topic(name))
        self._change("alter_config", AlterConfigRequest(name, changes, CHANGE_TIMEOUT_MS))

    # --- records ---------------------------------------------------------------------------------------------------

    def delete_records(
        self, offsets: Mapping[TopicPartition, int] | Mapping[tuple[str, int], int] | Iterable[Partition]
    ) -> dict[TopicPartition, int]:
        """Deletes the records before an offset of each partition; the log starts there afterwards.

        Args:
            offsets: {TopicPartition: offset}, or TopicPartitions with their offsets; tuples will do. -1 (OFFSET_END):
                all records.

        Returns:
            The new log start offset of each partition.

        Raises:
            UnknownTopicOrPartition: there is no such topic or partition.
            OffsetOutOfRange: an offset is beyond the partition's end. Other partitions may have been done.
        """
        wanted = truncations(offsets)
        for tp in wanted:
            partition_of(self._topic(tp.topic), tp.partition)
        timeout_s = self.config.request_timeout_ms / 1000
        answers, failures = ask_leaders(self._client, dict(wanted), ask_delete, timeout_s)
        failure = first_failure(failures, wanted)
        if failure is not None:
            raise failure
        return {tp: answers[tp].offset for tp in wanted}

    # --- the cluster -----------------------------------------------------------------------------------------------

    def describe_cluster(self) -> ClusterDescription:
        """Brokers, coordinator, and how many partitions lack a leader or replicas."""
        return describe_cluster(self._metadata())

    def elect_leaders(self, partitions: Iterable[Named] | None = None, unclean: bool = False) -> int:
        """Gives partitions back to the replicas that were to lead them (the first of each one's replicas), where those
        are in sync: after restarts leaders may have gathered on few brokers.

        Args:
            partitions: which; None: all.
            unclean: instead: partitions (to be named) that nobody leads get a leader that is there, though it may lack
                records that were acked: those are lost for good (KIP-460).

        Returns:
            How many partitions have another leader now.

        Raises:
            UnknownTopicOrPartition: there is no such topic or partition.
            NotEnoughReplicas: the preferred leader of a partition that was named is not in sync; or no replica is there
                at all. Others may have been done.
        """
        election = Election.of(partitions, unclean, self._topic)
        response = self._ask("elect_leaders", election.request, ElectLeadersResponse)
        election.check(response)
        return int(response.moved)

    def reassign_partitions(
        self, assignment: Mapping[Named, Sequence[int] | None], throttle: int | None = None
    ) -> None:
        """Gives partitions other replicas (KIP-455); returns when that has begun (`list_partition_reassignments`). New
        replicas copy the log; when they are in sync, those not named any more delete theirs. What is under way is
        replaced.

        Args:
            assignment: {(topic, partition) or TopicPartition: broker ids, the preferred leader first}; more or fewer
                than it had change its replication factor. None: what is under way is cancelled, the replicas stay.
            throttle: bytes a second at which each replica actor that leads feeds replicas that are being added, for all
                reassignments under way; None: no limit.

        Raises:
            UnknownTopicOrPartition: there is no such topic or partition.
            InvalidReplicaAssignment: a broker stands twice, does not exist or is not alive.
            NoReassignmentInProgress: nothing to cancel.
            ConfigError: fewer replicas than the topic's own min.insync.replicas; a malformed argument.
            NotEnoughReplicas: of the replicas that would be left nobody is in sync. Others may have been done.
        """
        request = reassign_request(assignment, throttle, self._topic)
        response = self._ask("reassign_partitions", request, ReassignPartitionsResponse)
        failed = [result for result in response.results if result.error]
        if failed:
            raise first_error(failed, [r.name for r in response.results if not r.error], "reassigned")

    def list_partition_reassignments(self) -> dict[TopicPartition, PartitionReassignment]:
        """The partitions that are being given other replicas now."""
        return reassignments(self._metadata())

    # --- how it asks -----------------------------------------------------------------------------------------------

    def _metadata(self) -> MetadataResponse:
        return self._client.refresh(None, self._index)

    def _topic(self, name: str) -> TopicInfo:
        """The topic, asked anew, so that what we changed is seen."""
        self._client.refresh([name], self._index)
        return self._client.topic(name)

    def _change(self, action: str, request: Any) -> None:
        """Asks the coordinator for a change of topics, and waits until the brokers know of it.

        Raises:
            RayQueueError: the first topic's error.
        """
        response = self._ask(action, request, TopicsResponse)
        failed = [result for result in response.results if result.error]
        if failed:
            raise first_error(failed, [r.name for r in response.results if not r.error], "created")

    def _ask(self, action: str, request: Any, response_type: type[Any]) -> Any:
        """Asks the coordinator, and waits until the brokers know of what it did."""
        timeout_s = CHANGE_TIMEOUT_MS / 1000 + CHANGE_MARGIN_S
        response = self._client.call_coordinator(action, request, response_type, timeout_s=timeout_s)
        self._index = max(self._index, response.index)
        self._settle()
        return response

    def _settle(self) -> None:
        """Waits until every living broker's metadata has our change, so that no client asks one that lags behind."""
        for broker in self._client.refresh([], self._index).brokers:
            if not broker.alive:
                continue
            try:
                channel = self._client.channel(broker.host, broker.port)
                channel.call("metadata", MetadataRequest([], self._index), MetadataResponse, SETTLE_TIMEOUT_S)
            except RayQueueError as error:
                # It is dying or stopped; it learns of the change when it is back, as after any outage.
                log.info("broker %d has not confirmed metadata index %d: %s", broker.broker_id, self._index, error)

"""Requests and responses, as msgspec structs (MessagePack arrays, so a field may be added at the end).

Two kinds of conversation (docs/protocol.md): *actions* (Flight DoAction: one request, one reply) and *exchanges*
(Flight DoExchange: a stream each way, opened by a `Hello` as the descriptor's command and answered by a `Welcome`).
On an exchange a message is the application metadata of a Flight message; record batches travel beside it, as rows of
one binary column, each row a whole Arrow IPC message (produce) or a run of them as they stand in the segment (fetch).

Ids: `topic_id` is the 16 bytes of the topic's UUID. Timestamps are ms since the epoch. Offsets count records.
"""

# size: one catalogue of all that is said on the wire; docs/protocol.md is held against it, and it holds no logic

from __future__ import annotations

from typing import Annotated

import msgspec

PROTOCOL_VERSION = 2

NO_PRODUCER = -1
# Producer ids from here on are of group coordinators: of the owners of the shards of the topic of groups.
GROUP_PRODUCER_BASE = 1 << 62
NO_EPOCH = -1
NO_SEQUENCE = -1
NO_TIMESTAMP = -1
LATEST_TIMESTAMP = -1
EARLIEST_TIMESTAMP = -2

# On a watch exchange both ends say something at least so often; who hears nothing for SESSION_TIMEOUT_MS gives up.
BEAT_INTERVAL_MS = 200
SESSION_TIMEOUT_MS = 1_000

# BatchHeader.attributes, Kafka's bits where Kafka has one.
COMPRESSION_MASK = 0x07
COMPRESSION_CODES = {"none": 0, "lz4": 3, "zstd": 4}
LOG_APPEND_TIME = 1 << 3
CONTROL_BATCH = 1 << 5
DELETE_HORIZON = 1 << 6  # min_timestamp is when this batch's tombstones may go, ms
SPARSE_BATCH = 1 << 8  # after compaction: offsets stand in a column


class BatchHeader(msgspec.Struct, array_like=True, gc=False):
    """What the log says of a batch: in its IPC custom metadata, and in the segment's index.

    Invariants: base_offset <= last_offset; record_count == last_offset - base_offset + 1 unless it is a control batch
    or stands for batches that were compacted away (then 0). A sparse batch has record_count rows or fewer.
    """

    base_offset: int
    last_offset: int
    record_count: int
    leader_epoch: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    min_timestamp: int
    max_timestamp: int
    attributes: int
    crc: int


# --- opening an exchange -------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, array_like=True):
    """Opens an exchange. Empty or -1 means "not checked" (a client that does not know yet).

    Attributes:
        version: protocol version of the caller.
        kind: "produce", "fetch", "follow", "watch", "group", "quorum" or "call".
        cluster_id, broker_id, incarnation: whom the caller believes to reach (a reused port never answers for another).
        client_id: for logs.
        token: the cluster's, or empty.
        share: the caller seems to be on the server's host, and can share memory with it.
    """

    version: int
    kind: str
    cluster_id: str = ""
    broker_id: int = -1
    incarnation: str = ""
    client_id: str = ""
    token: str = ""
    share: bool = False


class DataCall(msgspec.Struct, array_like=True):
    """A request on a data connection of kind "call"; its answer is a reply as an action's (`codec.encode_reply`).

    Attributes:
        action: its name. body: the encoded request.
    """

    action: str
    body: bytes


class SharedMemory(msgspec.Struct, array_like=True):
    """Memory of the server's that a producer on its host may put rows into (`client.io.shared_memory`).

    Attributes:
        pid, fd: whose descriptor it is. size: bytes. name: what that descriptor is called, random.
    """

    pid: int
    fd: int
    size: int
    name: str


class Welcome(msgspec.Struct, array_like=True):
    """First message from the server on an exchange.

    Attributes:
        max_in_flight: produce requests the server takes before it stops reading the stream.
        nonce_path, nonce: a file in the data directory and what it holds: a client that reads the same there is on a
            host with this file system and may map segments.
        shared: memory for rows, where the caller asked for it and the server has it.
    """

    version: int
    cluster_id: str
    broker_id: int
    incarnation: str
    max_in_flight: int
    nonce_path: str
    nonce: str
    shared: SharedMemory | None = None


# --- produce -------------------------------------------------------------------------------------------------------


Int16 = Annotated[int, msgspec.Meta(ge=-1, le=2**15 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
UInt16 = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class ProduceBatch(msgspec.Struct, array_like=True, gc=False):
    """One batch for one partition; its IPC message is the row of the same index. Numbers outside of what the log's
    header holds are refused when they are decoded.

    Attributes:
        crc: CRC32C of the message's body, continued over its header (`ipc.wire_crc`).
        attributes: compression bits.
        position, size: where the message lies in the connection's shared memory, bytes; size 0: it is among the rows.
    """

    topic_id: bytes
    partition: Int32
    leader_epoch: Int32
    producer_id: Int64
    producer_epoch: Int16
    base_sequence: Int32
    record_count: Int32
    min_timestamp: Int64
    max_timestamp: Int64
    attributes: UInt16
    crc: UInt32
    position: Int64 = 0
    size: Int64 = 0


class ProduceRequest(msgspec.Struct, array_like=True):
    """Batches to append. Answers come in the order of requests; acks=0 gets none."""

    correlation: int
    acks: int  # 0, 1, or -1 for all
    batches: list[ProduceBatch]


class ProduceResult(msgspec.Struct, array_like=True, gc=False):
    """What became of a batch: its offset, or an error by name (`error == ""`: appended)."""

    base_offset: int
    timestamp: int  # the append time where the topic's timestamps are LogAppendTime, else -1
    error: str = ""
    message: str = ""


class ProduceResponse(msgspec.Struct, array_like=True):
    correlation: int
    results: list[ProduceResult]


# --- fetch ---------------------------------------------------------------------------------------------------------


class FetchPartition(msgspec.Struct, array_like=True):
    """Starts a subscription.

    Attributes:
        subscription: chosen by the client, unique on the stream; a seek is a new subscription.
        offset: where to start.
        leader_epoch: the newest epoch the client has seen for the partition, or -1.
        mapped: True: only watermarks are sent, the client maps the segments itself; a follower in sync does that too.
    """

    subscription: int
    topic_id: bytes
    partition: int
    offset: int
    leader_epoch: int
    mapped: bool


class FetchRequest(msgspec.Struct, array_like=True):
    """Changes a fetch stream: subscriptions to start, to end, and bytes of credit to add. One that changes nothing asks
    whether the server lives, and is answered by a part of `PING`."""

    add: list[FetchPartition]
    remove: list[int]
    credit: int


PING = 0  # a subscription that nobody has


class FetchPart(msgspec.Struct, array_like=True):
    """News of one subscription.

    Attributes:
        entries: index entries (`storage.index.ENTRY` bytes) of the batches in this part's row; empty: no row data.
        path, generation: mapped subscriptions: the replica's directory and the generation of its segments.
        error, message: the subscription has ended with this error.
    """

    subscription: int
    high_watermark: int
    log_start: int
    leader_epoch: int
    entries: bytes = b""
    path: str = ""
    generation: int = 0
    error: str = ""
    message: str = ""


class FetchResponse(msgspec.Struct, array_like=True):
    """Parts; row i of the record batch beside it (when there is one) is the data of part i."""

    parts: list[FetchPart]


# --- follow: between replica actors --------------------------------------------------------------------------------


class FollowHello(msgspec.Struct, array_like=True):
    """First message of a follower's process on a follow exchange: who it is.

    Attributes:
        number: of its streams to this leader, rising: what still comes on an older one is no news.
    """

    broker_id: int
    slot: int
    incarnation: str
    number: int = 0


class FollowPartition(msgspec.Struct, array_like=True):
    """Asks to be fed.

    Attributes:
        subscription: chosen by the follower, never used again on the stream.
        leader_epoch: under which it follows.
        offset, last_epoch: where its log ends, and of which leader epoch its last batch is, also where that is
            deleted; -1: not known.
    """

    subscription: int
    topic_id: bytes
    partition: int
    leader_epoch: int
    offset: int
    last_epoch: int


class FollowAck(msgspec.Struct, array_like=True, gc=False):
    """The follower holds everything below `end`, as durably as the topic asks. watched: consumers wait there, so that
    it wants to hear of the high watermark at once; else with the next batch, or soon."""

    subscription: int
    leader_epoch: int
    end: int
    watched: bool = False


class FollowRequest(msgspec.Struct, array_like=True):
    """Changes a follow stream: what to begin and to end, what is held, and bytes of credit to add."""

    add: list[FollowPartition]
    remove: list[int]
    acks: list[FollowAck]
    credit: int


class FollowPart(msgspec.Struct, array_like=True):
    """News of one subscription.

    Attributes:
        entries: index entries of the batches in this part's row; empty: no row data.
        log_end: of the leader.
        error: the subscription has ended with this error; "OffsetOutOfRange" with log_start and log_end.
        epoch, end: when epoch is not -1 the subscription has ended, because the logs diverge: of the epochs up to the
            follower's last the leader's latest is `epoch`, and ends at `end`.
        producers: when the follower's log has to begin anew: what the leader knows of them below where that is
            (`replication.producer_state`); empty: not told.
    """

    subscription: int
    leader_epoch: int
    high_watermark: int
    log_start: int
    log_end: int
    entries: bytes = b""
    error: str = ""
    epoch: int = -1
    end: int = -1
    producers: bytes = b""


class FollowResponse(msgspec.Struct, array_like=True):
    """Parts; row i beside it is the data of part i."""

    parts: list[FollowPart]


# --- actions: any server -------------------------------------------------------------------------------------------


class Empty(msgspec.Struct, array_like=True):
    """No content."""


class Identity(msgspec.Struct, array_like=True):
    """Answer to `identify`: who listens here."""

    version: int
    cluster_id: str
    role: str  # "broker", "replica", "coordinator", "group coordinator"
    broker_id: int
    incarnation: str
    pid: int


# --- actions: metadata, at any broker ------------------------------------------------------------------------------


class BrokerInfo(msgspec.Struct, array_like=True):
    broker_id: int
    host: str
    port: int
    node_id: str
    incarnation: str
    alive: bool


class ReplicaAddress(msgspec.Struct, array_like=True):
    """The replica actor that hosts a replica."""

    broker_id: int
    host: str
    port: int
    incarnation: str


class PartitionInfo(msgspec.Struct, array_like=True):
    """Attributes:
    leader: broker id or -1; host, port, incarnation: the leader's replica actor.
    followers: those of the other replicas in sync, which consumers on their host may read from.
    elr: eligible to lead, though not in sync.
    adding, removing: of the replicas, those that a reassignment adds and will remove.
    unclean_epoch: the last leader epoch that began with an unclean election, or -1.
    """

    partition: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]
    host: str
    port: int
    incarnation: str
    followers: list[ReplicaAddress] = []
    elr: list[int] = []
    adding: list[int] = []
    removing: list[int] = []
    unclean_epoch: int = -1


class TopicInfo(msgspec.Struct, array_like=True):
    """Attributes: schema: IPC-serialised Arrow schema as it stands on disk; key_column: of a typed topic, or ""."""

    name: str
    topic_id: bytes
    schema: bytes
    typed: bool
    key_column: str
    configs: dict[str, str]  # effective values, Kafka's names
    partitions: list[PartitionInfo]
    overrides: list[str] = []  # names of the configs that were set on the topic itself


class MetadataRequest(msgspec.Struct, array_like=True):
    """Attributes:
    topics: names, or None for all.
    min_index: wait (shortly) until the broker's image is this new.
    auto_create: create what is missing, where `auto.create.topics.enable` is on.
    """

    topics: list[str] | None
    min_index: int = -1
    auto_create: bool = False


class MetadataResponse(msgspec.Struct, array_like=True):
    """Topics that do not exist are left out."""

    cluster_id: str
    index: int  # of the metadata log
    brokers: list[BrokerInfo]
    coordinator_host: str
    coordinator_port: int
    coordinator_epoch: int
    topics: list[TopicInfo]


class InitProducerIdResponse(msgspec.Struct, array_like=True):
    producer_id: int
    producer_epoch: int


# --- actions: replica actors ---------------------------------------------------------------------------------------


class OffsetQuery(msgspec.Struct, array_like=True):
    """Attributes:
    timestamp: EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, or ms: the first record at or after it.
    leader_epoch: the newest that the client has seen, or -1: who led before is not to answer.
    """

    topic_id: bytes
    partition: int
    timestamp: int
    leader_epoch: int = -1


class ListOffsetsRequest(msgspec.Struct, array_like=True):
    queries: list[OffsetQuery]


class OffsetAnswer(msgspec.Struct, array_like=True):
    """Attributes: offset: -1 when no record is that new; timestamp: the record's, or -1."""

    offset: int
    timestamp: int
    error: str = ""
    message: str = ""


class ListOffsetsResponse(msgspec.Struct, array_like=True):
    answers: list[OffsetAnswer]


class TruncateQuery(msgspec.Struct, array_like=True):
    """Delete records before `offset` (-1: the high watermark)."""

    topic_id: bytes
    partition: int
    offset: int


class DeleteRecordsRequest(msgspec.Struct, array_like=True):
    queries: list[TruncateQuery]


class LogDescription(msgspec.Struct, array_like=True):
    """A partition replica on its disk."""

    topic_id: bytes
    partition: int
    path: str
    size: int  # bytes
    segments: int
    log_start: int
    log_end: int
    high_watermark: int
    leader_epoch: int


class DescribeLogsResponse(msgspec.Struct, array_like=True):
    logs: list[LogDescription]


# --- actions: coordinator ------------------------------------------------------------------------------------------


class TopicSpec(msgspec.Struct, array_like=True):
    """Attributes: replication_factor: -1: the default; schema: IPC-serialised user schema, b"" for Kafka's record."""

    name: str
    partitions: int
    replication_factor: int
    configs: dict[str, str]
    schema: bytes
    key_column: str


class CreateTopicsRequest(msgspec.Struct, array_like=True):
    topics: list[TopicSpec]
    timeout_ms: int = 30_000


class NamedError(msgspec.Struct, array_like=True):
    """The outcome for one topic; error == "" is success."""

    name: str
    error: str = ""
    message: str = ""


class TopicsResponse(msgspec.Struct, array_like=True):
    """Attributes: index: metadata index from which on the change is seen."""

    index: int
    results: list[NamedError]


class CreateGroupsTopic(msgspec.Struct, array_like=True):
    """Creates the topic of groups, as the cluster's settings say; answered by TopicsResponse: TopicAlreadyExists is
    none of the outcomes."""

    timeout_ms: int = 30_000


class DeleteTopicsRequest(msgspec.Struct, array_like=True):
    names: list[str]
    timeout_ms: int = 30_000


class CreatePartitionsRequest(msgspec.Struct, array_like=True):
    name: str
    partitions: int  # the new total
    timeout_ms: int = 30_000


class AlterConfigRequest(msgspec.Struct, array_like=True):
    """Attributes: configs: new values; None takes an override away."""

    name: str
    configs: dict[str, str | None]
    timeout_ms: int = 30_000


class RegisterCoordinator(msgspec.Struct, array_like=True):
    """A coordinator's process has started; see CoordinatorRecord. Answered by Registered."""

    coordinator_id: int
    directory_id: str
    incarnation: str
    host: str
    port: int
    node_id: str


class RegisterBroker(msgspec.Struct, array_like=True):
    broker_id: int
    directory_id: str
    incarnation: str
    host: str
    port: int
    node_id: str
    pool_size: int  # replica actors of this broker


class RegisterReplicaActor(msgspec.Struct, array_like=True):
    """A new process of a replica actor: it leads nothing until it reads of a new leader epoch in the metadata log.

    Attributes:
        unclean: what the process before had written may be lost, where it was not fsynced.
    """

    broker_id: int
    slot: int
    incarnation: str
    host: str
    port: int
    unclean: bool = False


class RegisterGroupActor(msgspec.Struct, array_like=True):
    """A new process of a broker's group coordinator. Answered by Registered."""

    broker_id: int
    incarnation: str
    host: str
    port: int


class LogEnd(msgspec.Struct, array_like=True):
    """Where a replica's log ends, and of which leader epoch its last batch is (-1: it has none). leader_epoch: the
    partition's, in which nobody leads."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    last_epoch: int
    log_end: int


class ReportLogEnds(msgspec.Struct, array_like=True):
    """Replicas that started uncleanly, where nobody is left who did not: the highest is to lead."""

    broker_id: int
    slot: int
    incarnation: str
    logs: list[LogEnd]


class Registered(msgspec.Struct, array_like=True):
    index: int  # metadata index of the registration


class AlterPartition(msgspec.Struct, array_like=True):
    """A leader's wish for one partition. isr: (broker id, incarnation) of each member, itself included."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    partition_epoch: int
    isr: list[tuple[int, str]]


class AlterPartitionsRequest(msgspec.Struct, array_like=True):
    """From the process of a replica actor that leads all of them."""

    broker_id: int
    slot: int
    incarnation: str
    partitions: list[AlterPartition]


class AlterPartitionsResponse(msgspec.Struct, array_like=True):
    """Attributes: errors: by name, one a partition, "" where it was done; what was done is in the metadata log."""

    index: int
    errors: list[str]


class ResignLeaderRequest(msgspec.Struct, array_like=True):
    """A leader whose log has failed asks to be replaced: by one in sync or eligible, also one that is yet to return."""

    broker_id: int
    slot: int
    incarnation: str
    topic_id: bytes
    partition: int
    leader_epoch: int


class ElectLeadersRequest(msgspec.Struct, array_like=True):
    """Give partitions back to their preferred leaders. keys: (topic id, partition), or None for all.

    Attributes:
        unclean: instead: where nobody leads, let somebody lead who may lack what was acked (KIP-460).
    """

    keys: list[tuple[bytes, int]] | None
    timeout_ms: int = 30_000
    unclean: bool = False


class ElectLeadersResponse(msgspec.Struct, array_like=True):
    """Attributes: moved: how many changed their leader; errors: by name, one a partition asked for."""

    index: int
    moved: int
    errors: list[str]


class Reassignment(msgspec.Struct, array_like=True):
    """A partition's replicas as they shall be, the preferred leader first; None: what is under way is cancelled."""

    topic_id: bytes
    partition: int
    replicas: list[int] | None


class ReassignPartitionsRequest(msgspec.Struct, array_like=True):
    """Attributes: throttle: bytes a second at which each replica actor that leads feeds replicas that are being added,
    for all reassignments from now on; 0: no limit, -1: as it is."""

    changes: list[Reassignment]
    throttle: int = -1


class ReassignPartitionsResponse(msgspec.Struct, array_like=True):
    """Attributes: results: one a change, in order; names are topic-partition."""

    index: int
    results: list[NamedError]


class ControlledShutdownRequest(msgspec.Struct, array_like=True):
    """From a broker that is about to end, with its replica actors: others shall lead what they lead.

    The answer waits until the new leaders serve. From then on what it hosts leads nothing and joins no ISR, until the
    broker's next start.
    """

    broker_id: int
    incarnation: str
    timeout_ms: int = 10_000


class ControlledShutdownResponse(msgspec.Struct, array_like=True):
    """Attributes: remaining: partitions that it still leads and others could, but they are not in sync yet."""

    index: int
    remaining: int


class WatchRequest(msgspec.Struct, array_like=True):
    """First message of a watch exchange: wants the metadata log from `index` on (the next index wanted)."""

    index: int
    watcher: str  # incarnation


class WatchBeat(msgspec.Struct, array_like=True, gc=False):
    """The watcher lives, and has acted on the metadata log below `applied`; said at least every BEAT_INTERVAL_MS."""

    applied: int


class AttendRequest(msgspec.Struct, array_like=True):
    """First message of an attend exchange: this process lives. WatchBeats follow, twice a second."""

    watcher: str  # incarnation


class ActiveCoordinator(msgspec.Struct, array_like=True):
    """A coordinator's message on an attend exchange: it is the active one, in this epoch."""

    epoch: int


class MetadataBatch(msgspec.Struct, array_like=True):
    """An empty one fills a silence. Whole commands, committed.

    Attributes: index: of the first record; records: as `coordination.records` encodes them.
    """

    index: int
    end: int  # next index after this batch
    coordinator_epoch: int
    records: list[bytes]


class AllocateProducerIds(msgspec.Struct, array_like=True):
    broker_id: int


class ProducerIdBlock(msgspec.Struct, array_like=True):
    first: int
    count: int

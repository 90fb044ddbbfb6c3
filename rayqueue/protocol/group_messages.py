"""What members, clients and group coordinators say to each other (KIP-848's shape; docs/protocol.md, Groups).

Ids: `topic_id` is the 16 bytes of the topic's UUID, so that offsets of a topic that was deleted never serve its
namesake. Times are ms since the epoch, durations ms. Offsets count records.
"""

from __future__ import annotations

import msgspec

# GroupHeartbeat.member_epoch
JOIN_EPOCH = 0  # to come in, or to come back after being fenced
LEAVE_EPOCH = -1  # to go for good
LEAVE_STATIC_EPOCH = -2  # to go for a while: a static member whose partitions are kept for its session

NO_OFFSET = -1


class GroupPartition(msgspec.Struct, array_like=True, frozen=True, order=True, gc=False):
    """A partition as groups name it."""

    topic_id: bytes
    partition: int


class AssignedTopic(msgspec.Struct, array_like=True, frozen=True):
    """Partitions of one topic, in order. topic: its name."""

    topic_id: bytes
    topic: str
    partitions: list[int]


# --- the session of a member: an exchange of kind "group" ----------------------------------------------------------


class GroupHeartbeat(msgspec.Struct, array_like=True):
    """Said by a member at each `heartbeat_interval_ms`, and at once when it has news. None: as it was said last.

    Attributes:
        member_id: chosen by the member, new for each consumer (KIP-1082). instance_id: of a static member, or "".
        member_epoch: as the coordinator gave it last; JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH.
        host, client_id: for people. local_brokers: those whose replicas lie on the member's host.
        session_timeout_ms: silence after which it is out. rebalance_timeout_ms: how long it may hold what it is asked
            to give up before it is put out; 0: for ever, with a warning in the group's description.
        topics: names subscribed to (patterns are resolved by the member); those that do not exist are waited for.
        assignor: "uniform" or "range".
        owned: what it holds now, also what it still has to give up.
    """

    group_id: str
    member_id: str
    member_epoch: int
    instance_id: str = ""
    host: str = ""
    client_id: str = ""
    local_brokers: list[int] | None = None
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 0
    topics: list[str] | None = None
    assignor: str = ""
    owned: list[GroupPartition] | None = None


class GroupHeartbeatResponse(msgspec.Struct, array_like=True):
    """Answers a heartbeat; comes also unasked, when the member is to hold something else.

    Attributes:
        coordinator_epoch: of who answers; a member refuses answers of a lower one than it has heard of.
        member_epoch: to be used from now on; another one with each change of `assignment`. So a heartbeat that says it
            was sent by a member that knew of the assignment: only then `owned` tells what was given up for it.
        assignment: all that the member is to hold now; what it holds beyond is to be given up, and then reported by
            `owned`; None: as it was said last.
        error, message: UnknownMember, StaleMemberEpoch (both: let go of everything, join anew under the same id),
            FencedInstance (another member has this instance_id: final), UnsupportedAssignor, InvalidGroup (final),
            NotGroupCoordinator (look for another, keep everything).
    """

    group_id: str
    member_id: str
    coordinator_epoch: int
    member_epoch: int
    heartbeat_interval_ms: int
    assignment: list[AssignedTopic] | None = None
    error: str = ""
    message: str = ""


# --- actions of the group coordinator ------------------------------------------------------------------------------


class CommittedOffset(msgspec.Struct, array_like=True, frozen=True):
    """A position of a group: the next record it wants.

    Attributes:
        offset: NO_OFFSET: nothing is committed. leader_epoch: of the last record consumed, -1 where unknown.
        metadata: the user's. commit_ms: when it was committed; of a request: 0.
    """

    topic_id: bytes
    partition: int
    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_ms: int = 0


class OffsetCommitRequest(msgspec.Struct, array_like=True):
    """Without a member (member_id "") it is taken while the group has no members: a consumer with `assign`, or a reset.

    Attributes:
        member_epoch: that under which the member held the partitions.
        number: rises with each request of a member, also when it says one again: a request that was given up and
            arrives after a later one (by a connection that broke) must not set its offsets back. 0: not counted.
    """

    group_id: str
    member_id: str
    member_epoch: int
    offsets: list[CommittedOffset]
    number: int = 0


class OffsetCommitResponse(msgspec.Struct, array_like=True):
    """Attributes: errors, messages: beside the request's offsets; "": it is committed, else PartitionNotOwned, ..."""

    errors: list[str]
    messages: list[str]


class OffsetFetchRequest(msgspec.Struct, array_like=True):
    """Attributes: partitions: None: all that are committed. member_id: "" for who is none."""

    group_id: str
    partitions: list[GroupPartition] | None
    member_id: str = ""
    member_epoch: int = 0


class OffsetFetchResponse(msgspec.Struct, array_like=True):
    offsets: list[CommittedOffset]  # beside the request's partitions


class ListGroupsRequest(msgspec.Struct, array_like=True):
    """The groups of one shard, or of all shards that this coordinator serves (-1)."""

    shard: int = -1


class GroupListing(msgspec.Struct, array_like=True):
    """Attributes: state: "Empty", "Assigning", "Reconciling", "Stable"."""

    group_id: str
    state: str
    members: int
    group_epoch: int


class ListGroupsResponse(msgspec.Struct, array_like=True):
    groups: list[GroupListing]


class DescribeGroupRequest(msgspec.Struct, array_like=True):
    group_id: str


class MemberDescription(msgspec.Struct, array_like=True):
    """A member. holds: what it may read now; revoking: asked back and not yet given; target: what it will have.

    Attributes:
        heard_ms: since its last heartbeat. behind_ms: since it was asked to give up what it still holds, or 0.
    """

    member_id: str
    instance_id: str
    host: str
    client_id: str
    member_epoch: int
    topics: list[str]
    holds: list[AssignedTopic]
    revoking: list[AssignedTopic]
    target: list[AssignedTopic]
    heard_ms: int
    behind_ms: int
    session_timeout_ms: int


class DescribeGroupResponse(msgspec.Struct, array_like=True):
    """A group that nobody ever heard of is `GroupNotFound`."""

    group_id: str
    state: str
    group_epoch: int
    assignor: str
    coordinator: int  # broker id
    coordinator_epoch: int
    members: list[MemberDescription]
    offsets: list[CommittedOffset]


class DeleteGroupRequest(msgspec.Struct, array_like=True):
    """Attributes: partitions: None: the group and all it has (GroupNotEmpty while it has members), else these offsets
    (GroupNotEmpty while a member is subscribed to their topic)."""

    group_id: str
    partitions: list[GroupPartition] | None = None


# --- action of any broker ------------------------------------------------------------------------------------------


class FindGroupCoordinator(msgspec.Struct, array_like=True):
    """Who serves this group? The topic of groups is created when it is asked for the first time.

    Attributes:
        known: the `leader_epoch` of the answer with which the asker had no luck: another one is waited for shortly; -1:
            none.
        shard: who serves this one, whatever the group: for who wants all of them; -1: the group's.
    """

    group_id: str
    known: int = -1
    shard: int = -1


class GroupCoordinatorAddress(msgspec.Struct, array_like=True):
    """Attributes: shard: partition of `__consumer_offsets`. Nobody at the moment: `GroupCoordinatorNotAvailable`."""

    shard: int
    broker_id: int
    host: str
    port: int
    incarnation: str
    leader_epoch: int

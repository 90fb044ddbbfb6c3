"""Records of the offsets topic: MessagePack keys and values of a compacted log. Only these change a shard's state.

    key                                  value (an array; without one: a tombstone)
    ["owner"]                            who serves the shard: the fence, see Owner
    ["barrier"]                          none: says nothing, is there to be committed
    ["group",   group]                   Group
    ["member",  group, member]           Member         what a member said of itself
    ["target",  group, member]           Target         what it is to have
    ["current", group, member]           Current        what it has, and what it was asked to give up
    ["offset",  group, topic id, n]      Offset

Compaction keeps the last value of each key, so a state is a value a key, and keys may be replayed in any order among
each other. Arrays grow at their ends, with defaults.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rayqueue.errors import CorruptRecord
from rayqueue.protocol.group_messages import GroupPartition

# --- keys -----------------------------------------------------------------------------------------------------------


class OwnerKey(msgspec.Struct, tag="owner", array_like=True, frozen=True):
    """There is one."""


class BarrierKey(msgspec.Struct, tag="barrier", array_like=True, frozen=True):
    """There is one."""


class GroupKey(msgspec.Struct, tag="group", array_like=True, frozen=True):
    """Of a group."""

    group_id: str


class MemberKey(msgspec.Struct, tag="member", array_like=True, frozen=True):
    """Of a member."""

    group_id: str
    member_id: str


class TargetKey(msgspec.Struct, tag="target", array_like=True, frozen=True):
    """Of a member's target assignment."""

    group_id: str
    member_id: str


class CurrentKey(msgspec.Struct, tag="current", array_like=True, frozen=True):
    """Of a member's current assignment."""

    group_id: str
    member_id: str


class OffsetKey(msgspec.Struct, tag="offset", array_like=True, frozen=True):
    """Of a committed offset."""

    group_id: str
    topic_id: bytes
    partition: int


Key = OwnerKey | BarrierKey | GroupKey | MemberKey | TargetKey | CurrentKey | OffsetKey

# --- values ---------------------------------------------------------------------------------------------------------


class Owner(msgspec.Struct, array_like=True, frozen=True):
    """A process has taken over the shard.

    Attributes:
        number: one more than that of the owner before it, from 1 on; its producer id and epoch are made of it.
        leader_epoch: of the shard's partition.
    """

    number: int
    broker_id: int
    incarnation: str
    leader_epoch: int


class Group(msgspec.Struct, array_like=True, frozen=True):
    """A group that has, or had, members.

    Attributes:
        epoch: rises by one with every change of its members, of what they are to have, and of what they have.
        changed_epoch: of the last change after which another target assignment is due. target_epoch: of the last
            target assignment; below changed_epoch while another is due.
        assignor: of its members. emptied_ms: wall clock when the last member went, 0 while there are members.
    """

    epoch: int
    changed_epoch: int
    target_epoch: int
    assignor: str
    emptied_ms: int = 0


class Member(msgspec.Struct, array_like=True, frozen=True):
    """What a member said (`GroupHeartbeat`).

    Attributes:
        joined_epoch: the group's, with its coming in. topics: in order.
        away: a static member that went for a while; its session runs.
    """

    instance_id: str
    host: str
    client_id: str
    local_brokers: list[int]
    session_timeout_ms: int
    rebalance_timeout_ms: int
    topics: list[str]
    joined_epoch: int
    away: bool = False


class TopicPartitions(msgspec.Struct, array_like=True, frozen=True):
    """Partitions of a topic, in order."""

    topic_id: bytes
    partitions: list[int]


class Target(msgspec.Struct, array_like=True, frozen=True):
    """What a member is to have once all others have given it up."""

    topics: list[TopicPartitions]


class HeldPartitions(msgspec.Struct, array_like=True, frozen=True):
    """Partitions of a topic, in order; epochs: entry i: the group's when partitions[i] was given to the member."""

    topic_id: bytes
    partitions: list[int]
    epochs: list[int]


class Current(msgspec.Struct, array_like=True, frozen=True):
    """What a member has.

    Attributes:
        member_epoch: the group's epoch of the last change of `assigned`. assigned: what it is to hold.
        revoking: what it was to hold before, and has not yet said that it gave up.
    """

    member_epoch: int
    assigned: list[HeldPartitions]
    revoking: list[HeldPartitions]


class Offset(msgspec.Struct, array_like=True, frozen=True):
    """A committed offset (`CommittedOffset`).

    Attributes:
        member_id, number: of the commit: one of the same member with a lower number came late, and is passed over.
    """

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int
    member_id: str = ""
    number: int = 0


Value = Owner | Group | Member | Target | Current | Offset
Record = tuple[Key, Value | None]
Encoded = tuple[bytes, bytes | None]

# --- as bytes -------------------------------------------------------------------------------------------------------

BARRIER: Record = (BarrierKey(), None)

_encode = msgspec.msgpack.Encoder().encode
_decode_key: Any = msgspec.msgpack.Decoder(Key).decode
_DECODE_VALUE: dict[type, Any] = {
    OwnerKey: msgspec.msgpack.Decoder(Owner).decode,
    GroupKey: msgspec.msgpack.Decoder(Group).decode,
    MemberKey: msgspec.msgpack.Decoder(Member).decode,
    TargetKey: msgspec.msgpack.Decoder(Target).decode,
    CurrentKey: msgspec.msgpack.Decoder(Current).decode,
    OffsetKey: msgspec.msgpack.Decoder(Offset).decode,
}


def encode_record(record: Record) -> Encoded:
    """Key and value as they stand in the log."""
    key, value = record
    return _encode(key), None if value is None else _encode(value)


def decode_record(key: bytes, value: bytes | None) -> Record:
    """Of a record of the log.

    Raises:
        CorruptRecord: these are no key and value of ours.
    """
    try:
        decoded = _decode_key(key)
        if value is None or type(decoded) is BarrierKey:
            return decoded, None
        return decoded, _DECODE_VALUE[type(decoded)](value)
    except msgspec.MsgspecError as error:
        raise CorruptRecord(f"the offsets topic holds what no group coordinator wrote: {error}") from error


def owner_record(number: int, broker_id: int, incarnation: str, leader_epoch: int) -> Encoded:
    """The fence that a shard is taken over with."""
    return encode_record((OwnerKey(), Owner(number, broker_id, incarnation, leader_epoch)))


# --- partitions -----------------------------------------------------------------------------------------------------


def by_topic(partitions: list[GroupPartition]) -> dict[bytes, list[int]]:
    """Partition numbers by topic id; both in order."""
    topics: dict[bytes, list[int]] = {}
    for one in sorted(partitions):
        topics.setdefault(one.topic_id, []).append(one.partition)
    return topics


def target_of(partitions: list[GroupPartition]) -> Target:
    """As a value."""
    return Target([TopicPartitions(topic_id, numbers) for topic_id, numbers in by_topic(partitions).items()])


def held_of(partitions: dict[GroupPartition, int]) -> list[HeldPartitions]:
    """As part of a value. partitions: with the epoch at which each was given."""
    return [
        HeldPartitions(topic_id, numbers, [partitions[GroupPartition(topic_id, n)] for n in numbers])
        for topic_id, numbers in by_topic(list(partitions)).items()
    ]

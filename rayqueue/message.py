"""A record as a consumer hands it out."""

from __future__ import annotations

from typing import Any

import msgspec

from rayqueue.errors import SerializationError

_SHOWN = 60


class Message(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One record. What is seldom asked for is read from the batch it came in when it is asked for.

    A deserializer runs when `value` or `key` is first read, and raises SerializationError there; the next message is
    not held up by it. A message kept keeps its batch in memory; pickled it stands alone.

    Attributes:
        topic: str. partition: int. offset: int.
        timestamp: int, ms since the epoch. timestamp_type: 0 set by the producer, 1 by the log.
        key: bytes or None, or what `key_deserializer` makes; on a typed topic the value of its key column.
        value: bytes or None, or what `value_deserializer` makes; on a typed topic a dict of its columns.
        headers: list of (str, bytes) pairs, [] where there are none.
        leader_epoch: int, of the leader that wrote it.
    """

    # A struct: millions a second are made, by C code. Rows and bytes do not point back at messages, so these are no
    # part of a cycle and the collector need not look at them (`LazyMessage` may be: it is looked at).
    _rows: Any
    _row: int
    key: Any = None
    value: Any = None

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._rows.topic  # type: ignore[no-any-return]

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self._rows.partition  # type: ignore[no-any-return]

    @property
    def offset(self) -> int:
        """The offset in the partition."""
        return self._rows.base_offset + self._row  # type: ignore[no-any-return]

    @property
    def timestamp(self) -> int:
        """ms since the epoch."""
        return self._rows.timestamps[self._row]  # type: ignore[no-any-return]

    @property
    def timestamp_type(self) -> int:
        """TIMESTAMP_CREATE_TIME or TIMESTAMP_LOG_APPEND_TIME."""
        return self._rows.timestamp_type  # type: ignore[no-any-return]

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """The headers, in order."""
        return self._rows.headers[self._row]  # type: ignore[no-any-return]

    @property
    def leader_epoch(self) -> int:
        """The epoch of the leader that wrote the record."""
        return self._rows.leader_epoch  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return (
            f"Message({self.topic}-{self.partition} offset {self.offset}, timestamp {self.timestamp}, "
            f"key={self._shown('key')}, value={self._shown('value')})"
        )

    def _shown(self, name: str) -> str:
        try:
            text = repr(getattr(self, name))
        except SerializationError:
            return "<cannot be deserialized>"
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return _content(self) == _content(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, _content(self)


class LazyMessage(Message, frozen=True, eq=False, gc=True):
    """A message whose key and value are made when they are first read: of a typed topic, or by a deserializer."""

    @property  # type: ignore[misc]
    def key(self) -> Any:
        """The key.

        Raises:
            SerializationError: the deserializer failed.
        """
        return self._rows.keys[self._row]

    @property  # type: ignore[misc]
    def value(self) -> Any:
        """The value.

        Raises:
            SerializationError: the deserializer failed.
        """
        return self._rows.values[self._row]


def _content(message: Message) -> tuple[Any, ...]:
    return (
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.timestamp_type,
        message.key,
        message.value,
        message.headers,
        message.leader_epoch,
    )


class _Single:
    """The rows of a message that stands alone."""

    def __init__(self, content: tuple[Any, ...]) -> None:
        self.topic, self.partition, self.base_offset, timestamp, self.timestamp_type = content[:5]
        _, _, headers, self.leader_epoch = content[5:]
        self.timestamps = [timestamp]
        self.headers = [headers]


def _restore(*content: Any) -> Message:
    return Message(_Single(content), 0, content[5], content[6])

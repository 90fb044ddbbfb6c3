"""Bytes of messages: MessagePack by msgspec, one encoder, one decoder a type, and the reply envelope of actions."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

from rayqueue import errors

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode

_OK = b"\x00"
_FAILED = b"\x01"


_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}
_making = threading.Lock()


def decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """The decoder of a message type.

    msgspec notes what it learns of a struct on the struct itself, and a second thread that makes a decoder of it at the
    same moment may see that half-done (a segmentation fault, seen with msgspec 0.22): so one thread at a time.
    """
    found = _decoders.get(kind)
    if found is None:
        with _making:
            found = _decoders.get(kind) or _decoders.setdefault(kind, msgspec.msgpack.Decoder(kind))
    return found


def decode(data: bytes | memoryview, kind: type[T]) -> T:
    """Decodes a message.

    Raises:
        ProtocolError: the bytes are no such message.
    """
    try:
        return decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.ProtocolError(
            f"{len(data)} bytes are not a {kind.__name__} ({error}); is the peer a rayqueue of the same version?"
        ) from error


class Failure(msgspec.Struct, array_like=True):
    error: str
    message: str


def encode_reply(value: Any) -> bytes:
    """A successful reply to an action."""
    return _OK + encode(value)


def encode_failure(error: BaseException) -> bytes:
    """An error as the reply to an action; one that is not ours is passed on as RayQueueError with its text."""
    if isinstance(error, errors.RayQueueError):
        return _FAILED + encode(Failure(type(error).__name__, str(error)))
    return _FAILED + encode(Failure("RayQueueError", f"{type(error).__name__}: {error}"))


def decode_reply(data: bytes, kind: type[T]) -> T:
    """The value of a reply.

    Raises:
        RayQueueError: the error that the peer replied with, of its own class.
        ProtocolError: the bytes are no reply.
    """
    if data[:1] == _OK:
        return decode(data[1:], kind)
    if data[:1] == _FAILED:
        failure = decode(data[1:], Failure)
        raise errors.from_wire(failure.error, failure.message)
    raise errors.ProtocolError("the reply is not one of rayqueue; is the address that of a rayqueue broker?")

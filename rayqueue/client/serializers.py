"""Turning keys and values into bytes: `value_serializer` and `key_serializer`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from rayqueue.errors import ConfigError, SerializationError

Serializer = Callable[[Any], bytes | None]


def to_bytes(value: Any, what: str) -> bytes | None:
    """The bytes of a key or value without a serializer: str as UTF-8, bytes-like as they are, None as null.

    Args:
        value: what was given.
        what: "key", "value", or another part of a record (for which there are no serializers), for the message.

    Raises:
        SerializationError: it is none of these, or a str that UTF-8 cannot write.
    """
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise SerializationError(f"the {what} is a str that is not valid Unicode: {error}") from error
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    hint = f"pass {what}_serializer='json' or a function to Producer, or " if what in ("key", "value") else ""
    raise SerializationError(f"a {what} is bytes, str or None, not {type(value).__name__}: {hint}convert it")


def serializer(given: Any, what: str) -> Serializer:
    """The function behind the setting `value.serializer` or `key.serializer`.

    Args:
        given: None, "json", "utf-8", or f(value) -> bytes | str | None. None values stay null and are not passed on.
        what: "key" or "value".

    Raises:
        ConfigError: it is none of these.
    """
    if given is None:
        return lambda value: to_bytes(value, what)
    if given == "json":
        return _guard(_json, what)
    if given == "utf-8":
        return _guard(_text, what)
    if callable(given):
        return _guard(given, what)
    raise ConfigError(f"{what}.serializer must be 'json', 'utf-8' or a function, not {given!r}")


def _json(value: Any) -> bytes:
    made = msgspec.json.encode(value)
    # msgspec writes null for what JSON has no word for; whoever reads it would not know that there was a number.
    if b"null" in made and _not_finite(msgspec.to_builtins(value)):
        raise ValueError("JSON has no NaN and no infinity: make it None")
    return made


def _not_finite(value: Any) -> bool:
    """Whether NaN or an infinity is somewhere in builtin values."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_not_finite, value.values()))
    return isinstance(value, (list, tuple, set, frozenset)) and any(map(_not_finite, value))


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"'utf-8' takes str, not {type(value).__name__}")
    return value.encode()


def _guard(function: Callable[[Any], Any], what: str) -> Serializer:
    def serialize(value: Any) -> bytes | None:
        if value is None:
            return None
        try:
            made = function(value)
        except Exception as error:
            raise SerializationError(f"the {what} serializer failed on a {type(value).__name__}: {error}") from error
        if made is not None and not isinstance(made, (bytes, bytearray, memoryview, str)):
            raise SerializationError(f"the {what} serializer made a {type(made).__name__}; it has to make bytes or str")
        return to_bytes(made, what)

    return serialize

"""Turning bytes into keys and values: `value_deserializer` and `key_deserializer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from rayqueue.errors import ConfigError

Deserializer = Callable[[bytes], Any]


def deserializer(given: Any, what: str) -> Deserializer | None:
    """The function behind the setting `value.deserializer` or `key.deserializer`.

    Args:
        given: None (bytes stay bytes), "json", "utf-8", or f(bytes) -> anything. Nulls are not passed to it.
        what: "key" or "value".

    Raises:
        ConfigError: it is none of these.
    """
    if given is None:
        return None
    if given == "json":
        return msgspec.json.decode
    if given == "utf-8":
        return bytes.decode
    if callable(given):
        function: Deserializer = given
        return function
    raise ConfigError(f"{what}.deserializer must be 'json', 'utf-8' or a function, not {given!r}")

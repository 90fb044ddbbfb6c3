"""The kinder spellings of a consumer's arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rayqueue.config.settings import merge
from rayqueue.errors import ConfigError


def split_arguments(given: Sequence[Any], settings: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Topics and settings out of `Consumer("a", "b", {...}, key=value)`.

    Settings that ask for nothing (`group_id=None`) are left out.

    Raises:
        ConfigError: a setting stands twice with two values, or an argument is neither topic nor settings.
    """
    topics: list[Any] = []
    merged: dict[str, Any] = dict(settings)
    for argument in given:
        if isinstance(argument, Mapping):
            merged = merge(argument, merged)
        else:
            topics += topic_list(argument)
    for name in ("group.id", "group_id"):
        if name in merged and merged[name] is None:
            del merged[name]
    return topics, merged


def topic_list(topics: Any) -> list[str | re.Pattern[str]]:
    """Topics given as a name, a pattern, or a list of these.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(topics, (str, re.Pattern)):
        return [topics]
    if isinstance(topics, (list, tuple, set, frozenset)):
        return list(topics)
    raise ConfigError(f"topics are names, '^patterns' or a list of them, not {topics!r}")


def timeout_of(timeout: float | None) -> float | None:
    """Seconds to wait; None and negative: for ever.

    Raises:
        ConfigError: it is not a number.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout:
        raise ConfigError(f"timeout is a number of seconds, or None to wait for ever, not {timeout!r}")
    return None if timeout < 0 else min(float(timeout), 1e8)


def positive(value: Any, name: str) -> int:
    """A whole number above 0.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is a whole number above 0, not {value!r}")
    return value


def column_names(columns: Any) -> tuple[str, ...] | None:
    """The columns wanted; None: all.

    Raises:
        ConfigError: they are not a list of names.
    """
    if columns is None:
        return None
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ConfigError(f"columns is a list of different column names, or None for all, not {columns!r}")
    return names

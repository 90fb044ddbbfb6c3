"""The machinery of settings: a table of `Setting`s, and how a mapping of names to values becomes a checked dict."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayqueue.errors import ConfigError

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: Kafka's dotted name.
        default: its value when nobody sets it.
        check: takes the given value (also as text), returns the value to use, raises ValueError with what is asked.
        doc: what it does, in a line.
        later: what has to be built before it works; setting it is a ConfigError.
    """

    name: str
    default: Any
    check: Callable[[Any], Any]
    doc: str
    later: str = ""

    @property
    def attribute(self) -> str:
        """The name as a keyword argument."""
        return self.name.replace(".", "_")


Table = dict[str, Setting]


def table(*settings: Setting) -> Table:
    """Settings by name."""
    return {setting.name: setting for setting in settings}


def integer(low: int, high: int = INT64_MAX) -> Callable[[Any], int]:
    """A whole number in [low, high]."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError(f"a whole number from {low} to {high}")
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError(f"a whole number from {low} to {high}") from None
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return check


def number(low: float, high: float) -> Callable[[Any], float]:
    """A number in [low, high]."""

    def check(value: Any) -> float:
        try:
            result = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"a number from {low:g} to {high:g}") from None
        if isinstance(value, bool) or not low <= result <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return result

    return check


def boolean(value: Any) -> bool:
    """True or False, also as text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError("true or false")


def one_of(*choices: str) -> Callable[[Any], str]:
    """One of some words."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return value

    return check


def text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """None, or what `check` takes."""
    return lambda value: None if value is None else check(value)


def anything(value: Any) -> Any:
    """A value that is checked where it is used."""
    return value


def resolve(settings: Table, key: str, what: str) -> Setting:
    """The setting called `key`, dotted or with underscores.

    Raises:
        ConfigError: there is none; the message has the nearest name. Or it is not built yet.
    """
    setting = settings.get(key) or settings.get(key.replace("_", "."))
    if setting is None:
        near = difflib.get_close_matches(key.replace("_", "."), settings, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(settings))}"
        raise ConfigError(f"unknown {what} setting {key!r}{hint}")
    if setting.later:
        raise ConfigError(f"the {what} setting {setting.name!r} is not available yet: {setting.later}")
    return setting


def merge(config: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping of a client's dict and its keyword arguments.

    Raises:
        ConfigError: the same setting stands in both with two values.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"settings are a dict or keyword arguments, not {type(config).__name__}")
    merged: dict[str, Any] = dict(config or {})
    spelled = {key.replace("_", "."): key for key in merged}
    for key, value in keywords.items():
        other = spelled.get(key.replace("_", "."))
        if other is not None and merged[other] != value:
            raise ConfigError(f"{key!r} is given twice, as {merged[other]!r} and {value!r}")
        if other is None:
            merged[key] = value
    return merged


def parse(settings: Table, given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Checked values of all settings of a table, by dotted name.

    Args:
        settings: the table.
        given: what was set, by dotted or underscored name.
        what: "topic", "producer", ... for messages.

    Raises:
        ConfigError: a name is unknown, or a value is not what the setting takes.
    """
    values = {name: setting.default for name, setting in settings.items()}
    for key, value in given.items():
        setting = resolve(settings, key, what)
        try:
            values[setting.name] = setting.check(value)
        except ValueError as error:
            raise ConfigError(f"{setting.name} must be {error}, not {value!r}") from None
    return values


def to_text(value: Any) -> str:
    """A value as it is kept in the metadata log and shown."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)

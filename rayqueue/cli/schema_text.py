"""Arrow schemas on the command line: `name:type,...`, or a file that has one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayqueue.errors import ConfigError

_ALIASES = {
    "str": "string",
    "text": "string",
    "bytes": "binary",
    "int": "int64",
    "long": "int64",
    "short": "int16",
    "date": "date32",
    "boolean": "bool",
    "timestamp": "timestamp[us]",
    "duration": "duration[us]",
}
_KNOWN = (
    "int8 to int64, uint8 to uint64, float, double, bool, string, binary, date32, timestamp[ms], timestamp[us, UTC], "
)
_KNOWN += "time64[us], duration[ms], decimal128(12, 2), list<type>, map<type, type>, struct<name: type, ...>"
_OPEN, _CLOSE = "<([", ">)]"


def parse_schema(text: str) -> pa.Schema:
    """The schema of `name:type,...`; a type may end in " not null".

    Raises:
        ConfigError: it is not one; the message says which types there are.
    """
    return pa.schema([_field(part, text) for part in _split(text)])


def _field(part: str, whole: str) -> pa.Field:
    name, colon, kind = part.partition(":")
    if not colon or not name.strip() or not kind.strip():
        raise ConfigError(f"{part.strip()!r} in the schema {whole!r} is not name:type")
    kind = kind.strip()
    nullable = not kind.endswith(" not null")
    return pa.field(name.strip(), parse_type(kind.removesuffix(" not null")), nullable)


def parse_type(text: str) -> pa.DataType:
    """The Arrow type that `str(type)` or a common short name denotes.

    Raises:
        ConfigError: there is none.
    """
    text = text.strip()
    nested = re.fullmatch(r"(list|large_list|map|struct)<(.*)>", text, re.DOTALL)
    if nested:
        return _nested(nested[1], nested[2], text)
    decimal = re.fullmatch(r"decimal(?:128|256)?\(\s*(\d+)\s*,\s*(-?\d+)\s*\)", text)
    if decimal:
        make = pa.decimal256 if text.startswith("decimal256") else pa.decimal128
        try:
            return make(int(decimal[1]), int(decimal[2]))
        except (pa.ArrowInvalid, ValueError) as error:
            raise ConfigError(f"the type {text!r} is not possible: {error}") from None
    zoned = re.fullmatch(r"timestamp\[(s|ms|us|ns)\s*,\s*(?:tz=)?([^\]]+)\]", text)
    if zoned:
        return pa.timestamp(zoned[1], tz=zoned[2].strip())
    fixed = re.fullmatch(r"fixed_size_binary\[(\d+)\]", text)
    if fixed:
        return pa.binary(int(fixed[1]))
    try:
        return pa.type_for_alias(_ALIASES.get(text, text))
    except ValueError:
        raise ConfigError(f"there is no type {text!r}; there are {_KNOWN}") from None


def _nested(kind: str, inside: str, text: str) -> pa.DataType:
    parts = _split(inside)
    if kind in ("list", "large_list") and len(parts) == 1:
        # Arrow itself writes list<item: int64>.
        item = parse_type(re.sub(r"^\s*(item|element)\s*:", "", parts[0]))
        return pa.list_(item) if kind == "list" else pa.large_list(item)
    if kind == "map" and len(parts) == 2:
        return pa.map_(parse_type(parts[0]), parse_type(parts[1]))
    if kind == "struct" and parts:
        return pa.struct([_field(part, text) for part in parts])
    raise ConfigError(f"there is no type {text!r}; there are {_KNOWN}")


def _split(text: str) -> list[str]:
    """Parts between commas that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def read_schema_file(path: str) -> pa.Schema:
    """The schema in a file: Parquet, Arrow (file, stream or schema message), or JSON.

    JSON is `{"name": "type", ...}`, or a list of `{"name": ..., "type": ..., "nullable": true}`. The log's `timestamp`
    and what pandas notes are left out, so a file that rayqueue wrote can be given.

    Raises:
        ConfigError: no schema can be read from it. OSError: the file cannot be read.
    """
    data = Path(path).read_bytes()
    if data[:4] == b"PAR1":
        import pyarrow.parquet as pq

        return _columns(pq.read_schema(path))
    if data[:6] == b"ARROW1":
        return _columns(pa.ipc.open_file(data).schema)
    if data[:4] == b"\xff\xff\xff\xff":
        return _columns(pa.ipc.read_schema(pa.py_buffer(data)))
    try:
        return _from_json(json.loads(data))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} is neither Parquet, Arrow nor JSON ({error}): no schema can be read from it"
        ) from None


def _columns(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name != "timestamp"])


def _from_json(value: Any) -> pa.Schema:
    if isinstance(value, dict):
        return pa.schema([(name, parse_type(str(kind))) for name, kind in value.items()])
    if isinstance(value, list) and all(isinstance(item, dict) and {"name", "type"} <= set(item) for item in value):
        fields = [pa.field(i["name"], parse_type(str(i["type"])), bool(i.get("nullable", True))) for i in value]
        return pa.schema(fields)
    raise ConfigError('a JSON schema is {"name": "type", ...} or [{"name": "...", "type": "..."}, ...]')

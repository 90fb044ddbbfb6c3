r"""How `topic consume` prints a record: formats such as `%t %p %o %k %v %h %T\n`, as in kcat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import click
import msgspec

FIELDS = {
    "t": "topic",
    "p": "partition",
    "o": "offset",
    "k": "key",
    "v": "value",
    "h": "headers",
    "T": "timestamp in ms",
    "K": "bytes of the key",
    "V": "bytes of the value",
}
_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}

_encode_json = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """A record as it is printed. value: bytes, a dict of a typed topic's columns, or None."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: Any
    value: Any
    headers: list[tuple[str, bytes | None]] | None


Render = Callable[[Row], bytes]


def compile_format(text: str) -> Render:
    """The function that prints a row in this format.

    Raises:
        click.BadParameter: it has a %x or an escape that does not exist.
    """
    pieces: list[bytes | Callable[[Row], bytes]] = []
    at = 0
    while at < len(text):
        if text[at] == "%":
            pieces.append(_field(text[at + 1 : at + 2]))
            at += 2
        elif text[at] == "\\":
            piece, length = _escape(text[at:])
            pieces.append(piece)
            at += length
        else:
            pieces.append(text[at].encode())
            at += 1
    parts = [piece if callable(piece) else _constant(piece) for piece in _joined(pieces)]
    return lambda row: b"".join([part(row) for part in parts])


def _joined(pieces: list[bytes | Callable[[Row], bytes]]) -> list[bytes | Callable[[Row], bytes]]:
    joined: list[bytes | Callable[[Row], bytes]] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if isinstance(piece, bytes) and isinstance(last, bytes):
            joined[-1] = last + piece
        else:
            joined.append(piece)
    return joined


def _constant(data: bytes) -> Render:
    return lambda row: data


def _field(letter: str) -> bytes | Render:
    renders: dict[str, bytes | Render] = {
        "%": b"%",
        "t": lambda row: row.topic.encode(),
        "p": lambda row: b"%d" % row.partition,
        "o": lambda row: b"%d" % row.offset,
        "k": lambda row: plain(row.key),
        "v": lambda row: plain(row.value),
        "h": lambda row: b",".join(name.encode() + b"=" + plain(value) for name, value in row.headers or ()),
        "T": lambda row: b"%d" % row.timestamp,
        "K": lambda row: b"%d" % (-1 if row.key is None else len(plain(row.key))),
        "V": lambda row: b"%d" % (-1 if row.value is None else len(plain(row.value))),
    }
    if letter not in renders:
        known = ", ".join(f"%{name} {what}" for name, what in FIELDS.items())
        raise click.BadParameter(f"there is no %{letter}; there are {known}, %% a percent sign")
    return renders[letter]


def _escape(text: str) -> tuple[bytes, int]:
    letter = text[1:2]
    if letter in _ESCAPES:
        return _ESCAPES[letter], 2
    digits = text[2:4]
    if letter == "x" and len(digits) == 2 and all(c in "0123456789abcdefABCDEF" for c in digits):
        return bytes([int(digits, 16)]), 4
    raise click.BadParameter(rf"there is no \{letter or ' at the end'}; there are \n \t \r \0 \\ and \xNN")


def plain(value: Any) -> bytes:
    """A key or value as it is printed: bytes and text as they are, nothing for None, the rest as JSON."""
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    return _encode_json(value)


def render_json(row: Row) -> bytes:
    """A record as a line of JSON; `topic produce --json` takes it back."""
    line = {
        "topic": row.topic,
        "partition": row.partition,
        "offset": row.offset,
        "timestamp": row.timestamp,
        "key": textual(row.key),
        "value": textual(row.value),
        "headers": [[name, textual(value)] for name, value in row.headers or ()],
    }
    return _encode_json(line) + b"\n"


def textual(value: Any) -> Any:
    """Bytes as text where they are UTF-8, else as {"base64": ...}; other values as they are."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return {"base64": data}  # msgspec writes bytes as base64
    return value

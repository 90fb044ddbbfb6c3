"""Small batches of the default schema, written and read without Arrow: what a lone record costs is its latency.

An Arrow array, a record batch and a NumPy call cost microseconds each however little is in them; the way of one record
through them took some fifty on either side. Here the bytes are laid out and taken apart with `struct`, in five.
What is written is what pyarrow reads: a record batch message of `DEFAULT_SCHEMA`, not compressed, buffers padded to
8 bytes. What is read is a batch as it stands in the log, under the header that `ipc.build_header` lays out and with a
body that anybody may have written: every count, length and offset in it is checked before it is used.

The body, column by column (Arrow columnar format, "Variable-size Binary Layout", "Map")::

    key, value   validity bitmap (absent without nulls) | n + 1 int32 ends | bytes
    headers      bitmap | n + 1 int32 ends of the pairs; a pair: struct without bitmap;
                 m names: no bitmap | m + 1 ends | UTF-8; m values: bitmap | m + 1 ends | bytes
    timestamp    no bitmap | n int64, ms
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeAlias

import google_crc32c
import pyarrow as pa

from rayqueue.errors import CorruptRecord
from rayqueue.protocol import ipc
from rayqueue.protocol.messages import BatchHeader

Pairs: TypeAlias = "Sequence[tuple[str, bytes | None]]"

# Up to here this way is the faster one, whatever the records hold (without keys and headers a batch is written faster
# up to 1,000 records). Reading ends earlier: Arrow makes nothing of a column that nobody asks for.
WRITE_RECORDS_MAX = 256
READ_RECORDS_MAX = 64
READ_PAIRS_MAX = 16
BYTES_MAX = 256 * 1024

_NODES = 7  # key, value, headers, its struct, names, values; timestamp
_BUFFERS = 17
_ENDS = [struct.Struct(f"<{count + 1}i") for count in range(WRITE_RECORDS_MAX + 1)]
_TIMES = [struct.Struct(f"<{count}q") for count in range(WRITE_RECORDS_MAX + 1)]
_PAD = [bytes(-size % 8) for size in range(8)]

# --- writing -------------------------------------------------------------------------------------------------------

# The flatbuffer (see `ipc`, but without custom metadata). Positions in it, counted behind the prefix:
#   0    u32 -> Message; 4 vtable of Message; 16 vtable of RecordBatch
#   32   Message: -> RecordBatch, body length, version, type
#   52   RecordBatch: length, -> nodes, -> buffers
#   76   u32 count, FieldNodes (rows, nulls); 196 u32 count, Buffers (position, length)
_METADATA_SIZE = 472
_START = struct.pack(
    "<IiI6H5H6xiI",
    *(ipc.CONTINUATION, _METADATA_SIZE, 32),
    *(12, 20, 16, 18, 4, 8),  # Message: version, type, header, body length
    *(10, 20, 4, 12, 16),  # RecordBatch: length, nodes, buffers
    *(32 - 4, 52 - 36),
)
_TYPE = struct.pack("<hbxi", ipc.METADATA_V5, ipc.RECORD_BATCH, 52 - 16)
_NODES_HEAD = struct.pack("<II4xI", 76 - 64, 196 - 68, _NODES)
_BUFFERS_HEAD = struct.pack("<4xI", _BUFFERS)
_HEADER = struct.Struct(f"<48sq8sq16s{2 * _NODES}q8s{2 * _BUFFERS}q")
_INT64 = struct.Struct("<q")
assert len(_START) == 48 and _HEADER.size == ipc.PREFIX_SIZE + _METADATA_SIZE


# Part of a body: how many nulls; position and length of each of its buffers; their bytes; where they end. (A tuple
# without names: to make a named one takes longer than the work.)
_Column: TypeAlias = "tuple[int, tuple[int, ...], bytes, int]"


def write_message(
    keys: Sequence[bytes | None] | None,
    values: Sequence[bytes | None],
    headers: Sequence[Pairs | None] | None,
    times: Sequence[int],
) -> tuple[bytes, int]:
    """A record batch message of the default schema, and its CRC32C as it travels beside it (`ipc.wire_crc`).

    Args:
        keys, values: n each, 1 <= n <= WRITE_RECORDS_MAX; together far below 2 GiB. keys: None, nobody has one.
        headers: the pairs of each record; None: nobody has any.
        times: n, ms since the epoch.
    """
    count = len(values)
    key_nulls, of_keys, key_data, at = _nulls(count, 0) if keys is None else _binary(keys, 0)
    value_nulls, of_values, value_data, at = _binary(values, at)
    if headers is None:
        pairs = pair_nulls = 0
        header_nulls, of_headers, header_data, at = _nulls(count, at)
        of_pairs: tuple[int, ...] = (at, 0, at, 4, at + 8, 0, at + 8, 0, at + 8, 4, at + 16, 0)
        pair_data, at = bytes(16), at + 16
    else:
        header_nulls, of_headers, header_data, at = _lists(headers, at)
        pairs, pair_nulls, of_pairs, pair_data, at = _pairs(headers, at)
    body = b"".join((key_data, value_data, header_data, pair_data, _TIMES[count].pack(*times)))
    header = _HEADER.pack(
        *(_START, len(body), _TYPE, count, _NODES_HEAD),
        *(count, key_nulls, count, value_nulls, count, header_nulls, pairs, 0, pairs, 0, pairs, pair_nulls, count, 0),
        _BUFFERS_HEAD,
        *of_keys,
        *of_values,
        *of_headers,
        *of_pairs,
        *(at, 0, at, 8 * count),
    )
    return header + body, google_crc32c.extend(google_crc32c.value(body), header)


# In a message as `_HEADER` lays it out: where the stretches begin that all have in common, and what lies between them.
_BODY_LENGTH_AT, _TYPE_AT, _ROWS_AT = 48, 56, 64
_NODES_AT = 72 + len(_NODES_HEAD)
_NODES_END = _NODES_AT + 16 * _NODES
_BUFFERS_AT = _NODES_END + len(_BUFFERS_HEAD)
assert _HEADER.size == _BUFFERS_AT + 16 * _BUFFERS


def split_small(message: pa.Buffer) -> ipc.IpcMessage | None:
    """`ipc.split_message` for what `write_message` makes, told by its fixed bytes; None for any other message."""
    size = message.size - _HEADER.size
    if size < 0:
        return None
    header = message.slice(0, _HEADER.size).to_pybytes()
    if (
        header[:_BODY_LENGTH_AT] != _START
        or header[_TYPE_AT:_ROWS_AT] != _TYPE
        or header[_NODES_AT - len(_NODES_HEAD) : _NODES_AT] != _NODES_HEAD
        or header[_NODES_END:_BUFFERS_AT] != _BUFFERS_HEAD
        or _INT64.unpack_from(header, _BODY_LENGTH_AT)[0] != size
    ):
        return None
    rows = _INT64.unpack_from(header, _ROWS_AT)[0]
    body = message.slice(_HEADER.size, size)
    return ipc.IpcMessage(rows, header[_NODES_AT:_NODES_END], header[_BUFFERS_AT:], "none", header, body)


def _nulls(count: int, at: int) -> _Column:
    """A column of nulls, from `at` on: bitmap, ends, and a third buffer without bytes."""
    bits, length = (count + 7) // 8, 4 * count + 4
    start = at + (bits + 7 & ~7)
    end = start + (length + 7 & ~7)
    return count, (at, bits, start, length, end, 0), bytes(end - at), end


def _binary(values: Sequence[bytes | None], at: int) -> _Column:
    """A column of bytes, from `at` on."""
    nulls, bits, bitmap = 0, 0, b""
    try:
        data = b"".join(values)  # type: ignore[arg-type]
    except TypeError:
        nulls, bits, bitmap = _validity(values)
        values = [value or b"" for value in values]
        data = b"".join(values)  # type: ignore[arg-type]
    length, ends = _ends(values)  # type: ignore[arg-type]
    start = at + len(bitmap)
    middle, size = start + len(ends), len(data)
    pad = _PAD[size & 7]
    buffers = (at, bits, start, length, middle, size)
    return nulls, buffers, bitmap + ends + data + pad, middle + size + len(pad)


def _lists(lists: Sequence[Pairs | None], at: int) -> _Column:
    """The outer part of a map column, from `at` on: bitmap, ends, and the absent bitmap of its structs."""
    nulls, bits, bitmap = _validity(lists) if None in lists else (0, 0, b"")
    length, ends = _ends([some or () for some in lists])
    start = at + len(bitmap)
    end = start + len(ends)
    return nulls, (at, bits, start, length, end, 0), bitmap + ends, end


def _pairs(lists: Sequence[Pairs | None], at: int) -> tuple[int, int, tuple[int, ...], bytes, int]:
    """The inner part of the headers' map: how many pairs, and a column of names and one of values."""
    pairs = [pair for some in lists if some for pair in some]
    _, of_names, names, at = _binary([name.encode() for name, _ in pairs], at)
    nulls, of_values, values, at = _binary([value for _, value in pairs], at)
    return len(pairs), nulls, of_names + of_values, names + values, at


def _validity(values: Sequence[object]) -> tuple[int, int, bytes]:
    """How many are None; and the bitmap that says which are not: its length, and it, padded."""
    number = sum(1 << place for place, value in enumerate(values) if value is not None)
    bits = (len(values) + 7) // 8
    return values.count(None), bits, number.to_bytes(bits + 7 & ~7, "little")


def _ends(values: Sequence[Sequence[object]]) -> tuple[int, bytes]:
    """The running sum of lengths from 0 on, as int32: its length in bytes, and it, padded."""
    packed = _ends_of(len(values)).pack(*accumulate(map(len, values), initial=0))
    length = len(packed)
    return length, packed + b"\0\0\0\0" if length & 7 else packed


def _ends_of(count: int) -> struct.Struct:
    return _ENDS[count] if count <= WRITE_RECORDS_MAX else struct.Struct(f"<{count + 1}i")


# --- reading -------------------------------------------------------------------------------------------------------

# A header as `ipc.build_header` lays it out for such a batch. What differs from batch to batch: body length, the
# `BatchHeader`, and the numbers: rows, nodes, buffers. The stretches between them must be as they are here.
_LOG_HEADER = ipc.build_header(
    ipc.IpcMessage(0, bytes(16 * _NODES), bytes(16 * _BUFFERS), "none", b"", pa.py_buffer(b"")),
    BatchHeader(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    0,
)[0]
_BODY_AT = len(_LOG_HEADER)
_NUMBERS = struct.Struct(f"<q24x{2 * _NODES}q8x{2 * _BUFFERS}q")
assert ipc.ROWS_AT + _NUMBERS.size == _BODY_AT
_DIFFERING = (
    (ipc.BODY_LENGTH_AT, ipc.BODY_LENGTH_AT + 8),
    (ipc.VALUE_AT, ipc.VALUE_AT + ipc.VALUE_DIGITS),
    (ipc.ROWS_AT, ipc.ROWS_AT + 8),
    (ipc.NODES_AT, ipc.NODES_AT + 16 * _NODES),
    (ipc.NODES_AT + 16 * _NODES + 8, _BODY_AT),
)
_FIXED = [(start, end, _LOG_HEADER[start:end]) for (_, start), (end, _) in pairwise(((0, 0), *_DIFFERING))]
# Where the buffers of the columns begin among the numbers; a bitmap, ends and bytes are six.
_KEYS, _VALUES, _LISTS, _NAMES, _CONTENTS, _STAMP_BITS, _STAMPS = 15, 21, 27, 33, 39, 45, 47


class Records(NamedTuple):
    """The records of a batch, a list a column.

    Attributes:
        keys, values: bytes or None each. headers: pairs of each record; None: nobody has any.
        times: ms since the epoch.
    """

    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[list[tuple[str, bytes | None]]] | None
    times: Sequence[int]


def read_batch(message: bytes, header_length: int, rows: int) -> Records | None:
    """The records of a batch of the default schema as it stands in the log.

    Args:
        message: all of it; its CRC32C has been looked at, or nobody wants it looked at.
        header_length: of its prefix and metadata, bytes. rows: how many records it should have.

    Returns:
        None where the layout is another one (compressed, other columns, many records): that is for pyarrow.

    Raises:
        CorruptRecord: it contradicts itself.
    """
    size = len(message) - _BODY_AT
    if header_length != _BODY_AT or size < 0 or not 0 < rows <= READ_RECORDS_MAX:
        return None
    for start, end, fixed in _FIXED:
        if message[start:end] != fixed:
            return None
    numbers = _NUMBERS.unpack_from(message, ipc.ROWS_AT)
    length, keys, key_nulls, values, value_nulls, lists, list_nulls, pairs, struct_nulls = numbers[:9]
    names, name_nulls, contents, content_nulls, stamps, stamp_nulls = numbers[9:_KEYS]
    if struct_nulls or name_nulls or names != pairs or contents != pairs or pairs > READ_PAIRS_MAX:
        return None
    if _INT64.unpack_from(message, ipc.BODY_LENGTH_AT)[0] != size or stamp_nulls:
        raise CorruptRecord("its header contradicts its body")
    if not rows == length == keys == values == lists == stamps:
        raise CorruptRecord(f"it holds {length} rows where {rows} should be")
    stamps_at, stamps_length = numbers[_STAMPS:]
    return Records(
        _read_binary(message, size, rows, key_nulls, *numbers[_KEYS:_VALUES]),
        _read_binary(message, size, rows, value_nulls, *numbers[_VALUES:_LISTS]),
        None if list_nulls == rows else _read_headers(message, size, rows, list_nulls, pairs, content_nulls, numbers),
        _TIMES[rows].unpack_from(message, _place(size, stamps_at, stamps_length, 8 * rows)),
    )


def _place(size: int, at: int, length: int, wanted: int) -> int:
    """Where in the message a buffer begins that must lie in the body and have `wanted` bytes."""
    if not (at >= 0 and wanted <= length <= size - at):
        raise CorruptRecord("a buffer lies outside of its body, or is too short")
    return _BODY_AT + at


def _read_ends(message: bytes, size: int, count: int, at: int, length: int, limit: int) -> Sequence[int]:
    """The n + 1 ends of n things in something of length `limit`."""
    start = _place(size, at, length, 4 * count + 4)  # first: it bounds the count
    ends = _ends_of(count).unpack_from(message, start)
    if ends[0] < 0 or ends[-1] > limit or (ends[0] > ends[1] if count == 1 else list(ends) != sorted(ends)):
        raise CorruptRecord("its offsets do not ascend within the data")
    return ends


def _read_valid(message: bytes, size: int, count: int, nulls: int, at: int, length: int) -> list[bool]:
    """Which of n things are not null."""
    wanted = (count + 7) // 8
    start = _place(size, at, length, wanted)
    bits = int.from_bytes(message[start : start + wanted], "little")
    valid = [bits >> place & 1 == 1 for place in range(count)]
    if valid.count(False) != nulls:
        raise CorruptRecord("its bitmap has not as many nulls as its header says")
    return valid


def _read_bytes(
    message: bytes, size: int, count: int, ends_at: int, ends_length: int, data_at: int, data_length: int
) -> list[bytes]:
    """A column of bytes, whatever stands for a null among them."""
    start = _place(size, data_at, data_length, 0)
    ends = _read_ends(message, size, count, ends_at, ends_length, data_length)
    if count == 1:
        return [message[start + ends[0] : start + ends[1]]]
    data = message[start : start + data_length]
    return [data[begin:end] for begin, end in pairwise(ends)]


def _read_binary(
    message: bytes, size: int, count: int, nulls: int, bits_at: int, bits_length: int, *bytes_at: int
) -> list[bytes | None]:
    """A column of bytes or nulls; bytes_at: position and length of its ends and of its data."""
    if nulls == count:
        return [None] * count
    found: list[bytes | None] = [*_read_bytes(message, size, count, *bytes_at)]
    if nulls:
        valid = _read_valid(message, size, count, nulls, bits_at, bits_length)
        found = [value if there else None for value, there in zip(found, valid, strict=True)]
    return found


def _read_headers(
    message: bytes, size: int, rows: int, nulls: int, pairs: int, content_nulls: int, numbers: Sequence[int]
) -> list[list[tuple[str, bytes | None]]]:
    """The headers; [] for a record without."""
    bits_at, bits, ends_at, length = numbers[_LISTS : _LISTS + 4]
    ends = _read_ends(message, size, rows, ends_at, length, pairs)
    found: list[tuple[str, bytes | None]] = []
    if pairs:
        # The names first: none is null, so that the body bounds how many pairs there are.
        names = _read_bytes(message, size, pairs, *numbers[_NAMES + 2 : _CONTENTS])
        contents = _read_binary(message, size, pairs, content_nulls, *numbers[_CONTENTS:_STAMP_BITS])
        try:
            found = [(name.decode(), content) for name, content in zip(names, contents, strict=True)]
        except UnicodeDecodeError as error:
            raise CorruptRecord(f"a header's name is not text: {error}") from error
    lists = [found[start:end] for start, end in pairwise(ends)]
    if nulls:
        valid = _read_valid(message, size, rows, nulls, bits_at, bits)
        lists = [some if there else [] for some, there in zip(lists, valid, strict=True)]
    return lists

"""The header of a record batch as it stands in the log: an Arrow IPC message whose metadata we lay out ourselves.

A producer sends ``RecordBatch.serialize()``: an encapsulated IPC message (header and body). The leader keeps the body
byte for byte and writes a new header, which says the same about the body and carries, as custom metadata under the
key ``rayqueue``, what makes the batch a part of the log (`BatchHeader`). The value is fixed-width ASCII hex, so it is
valid UTF-8 for every Arrow implementation and stands at a fixed place.

::

    0xFFFFFFFF | i32 metadata length | metadata (flatbuffer) | body
    metadata, little endian, offsets from its start:
      0    u32 -> Message table
      4    vtables: Message (14 bytes), KeyValue (8), RecordBatch (12), BodyCompression (8)
      48   Message: version V5, header type RecordBatch, -> RecordBatch, -> [KeyValue], body length
      72   [KeyValue] of one: KeyValue, key "rayqueue"
      108  value: u32 length, 114 hex digits (`BatchHeader`, crc last)
      232  RecordBatch: length, -> nodes, -> buffers, -> compression
      256  BodyCompression (unreferenced when the body is not compressed)
      268  u32 count, FieldNode structs of 16 bytes
      ...  u32 count, Buffer structs of 16 bytes

Source: Arrow columnar format, "Encapsulated message format"; Message.fbs; flatbuffers "Internals".
"""

from __future__ import annotations

import struct

import google_crc32c
import msgspec
import pyarrow as pa

from rayqueue.errors import CorruptRecord
from rayqueue.protocol.crc import crc_of
from rayqueue.protocol.messages import BatchHeader

CONTINUATION = 0xFFFFFFFF
END_OF_STREAM = struct.pack("<II", CONTINUATION, 0)
PREFIX_SIZE = 8
HEADER_VERSION = 1

_HEADER = struct.Struct(">BHqiiiqhiqqI")
VALUE_DIGITS = _HEADER.size * 2
CRC_DIGITS = 8
_VALUE_AT = 112
_VALUE_END = _VALUE_AT + VALUE_DIGITS
# Positions in the whole message, prefix included.
VALUE_AT = PREFIX_SIZE + _VALUE_AT
CRC_AT = VALUE_AT + VALUE_DIGITS - CRC_DIGITS
CRC_END = CRC_AT + CRC_DIGITS
_ZERO_CRC = b"0" * CRC_DIGITS
BODY_LENGTH_AT = PREFIX_SIZE + 64

_NODES_AT = 272
_RECORD_BATCH_TABLE = 232
ROWS_AT = PREFIX_SIZE + _RECORD_BATCH_TABLE + 8
NODES_AT = PREFIX_SIZE + _NODES_AT
RECORD_BATCH = 3  # the type of a Message
METADATA_V5 = 4
_FIELDS_MAX = 5  # of the tables that are read

_CODEC = {"lz4": 0, "zstd": 1}
_CODEC_NAMES = {0: "lz4", 1: "zstd"}

# Root; vtables of Message, KeyValue, RecordBatch, BodyCompression; without and with a compressed body.
_FRONT = [
    struct.pack("<I7H4H6H4H2x", 48, 14, 24, 4, 6, 8, 16, 12, 8, 12, 4, 8, 12, 24, 8, 4, 16, codec_at, 8, 8, 4, 5)
    for codec_at in (0, 20)
]
_MESSAGE = struct.Struct("<ihBxIIq")
_KEY_VALUE = struct.pack("<IIiII I8s4x I", 1, 80 - 76, 80 - 18, 92 - 84, 108 - 88, 8, b"rayqueue", VALUE_DIGITS)
_GAP = bytes(_RECORD_BATCH_TABLE - _VALUE_END)
_RECORD_BATCH = struct.Struct("<iIqII")
_COMPRESSION = {codec: struct.pack("<ibb2x", 256 - 38, code, 0) for codec, code in (*_CODEC.items(), ("none", 0))}
_PREFIX = struct.Struct("<Ii")
_COUNT = struct.Struct("<4xI")

_UINT16 = struct.Struct("<H")
_INT32 = struct.Struct("<i")
_UINT32 = struct.Struct("<I")
_INT64 = struct.Struct("<q")
_VTABLES = [struct.Struct(f"<{count}H") for count in range(_FIELDS_MAX + 1)]


class IpcMessage(msgspec.Struct, frozen=True, gc=False):
    """What a record batch message says of its body.

    Attributes:
        length: rows in the batch.
        nodes: the FieldNode structs, as bytes.
        buffers: the Buffer structs, as bytes.
        codec: body compression: "none", "lz4" or "zstd".
        header: the message's prefix and metadata, as sent.
        body: the body, sharing memory with the message.
    """

    length: int
    nodes: bytes
    buffers: bytes
    codec: str
    header: bytes
    body: pa.Buffer


def _vector(metadata: bytes, at: int) -> bytes:
    """The elements of the vector of 16-byte structs that the uoffset at `at` points to; at 0: there is none."""
    if not at:
        return b""
    start = at + _UINT32.unpack_from(metadata, at)[0]
    end = start + 4 + _UINT32.unpack_from(metadata, start)[0] * 16
    if end > len(metadata):
        raise CorruptRecord("a record batch message points outside its own header: the producer sent damaged data")
    return metadata[start + 4 : end]


def _fields(metadata: bytes, table: int) -> list[int]:
    """Positions of the table's first fields, 0 for one that is absent."""
    vtable = table - _INT32.unpack_from(metadata, table)[0]
    count = (_UINT16.unpack_from(metadata, vtable)[0] - 4) // 2
    layout = _VTABLES[max(0, min(count, _FIELDS_MAX))]
    fields = [table + offset if offset else 0 for offset in layout.unpack_from(metadata, vtable + 4)]
    # Flatbuffers cut trailing fields that have their default value out of the vtable.
    return fields + [0] * (_FIELDS_MAX - len(fields))


def split_message(message: pa.Buffer) -> IpcMessage:
    """Takes an encapsulated record batch message apart without copying its body.

    Raises:
        CorruptRecord: the bytes are not a record batch message, or it is cut short.
    """
    size = message.size
    if size < PREFIX_SIZE + 8:
        raise CorruptRecord(f"{size} bytes are too few for a record batch message")
    continuation, length = _PREFIX.unpack(message.slice(0, PREFIX_SIZE).to_pybytes())
    if continuation != CONTINUATION or length <= 0 or PREFIX_SIZE + length > size:
        raise CorruptRecord("the bytes are not an Arrow record batch message")
    header = message.slice(0, PREFIX_SIZE + length).to_pybytes()
    metadata = header[PREFIX_SIZE:]
    try:
        message_fields = _fields(metadata, _UINT32.unpack_from(metadata)[0])
        header_type = metadata[message_fields[1]]
        batch_at = message_fields[2]
        body_length = _INT64.unpack_from(metadata, message_fields[3])[0] if message_fields[3] else 0
        if header_type != RECORD_BATCH:
            raise CorruptRecord("the message is not a record batch (schemas and dictionaries are not taken here)")
        fields = _fields(metadata, batch_at + _UINT32.unpack_from(metadata, batch_at)[0])
        rows = _INT64.unpack_from(metadata, fields[0])[0] if fields[0] else 0
        nodes, buffers = _vector(metadata, fields[1]), _vector(metadata, fields[2])
        codec = _codec(metadata, fields)
    except (struct.error, IndexError) as error:
        raise CorruptRecord(f"the header of a record batch message is damaged: {error}") from error
    if body_length < 0 or PREFIX_SIZE + length + body_length != size:
        raise CorruptRecord(f"a record batch message of {size} bytes says that its body has {body_length}")
    return IpcMessage(rows, nodes, buffers, codec, header, message.slice(PREFIX_SIZE + length, body_length))


def inflated_size(message: IpcMessage) -> int:
    """Bytes that the body has when it is decompressed, as its buffers say of themselves; its size when it is not.

    Each buffer of a compressed body begins with its length as an int64, -1 for one that is stored as it is.

    Raises:
        CorruptRecord: a buffer lies outside the body, or says something impossible.
    """
    if message.codec == "none":
        return message.body.size
    body, total = memoryview(message.body), 0
    for offset, length in struct.iter_unpack("<qq", message.buffers):
        if length == 0:
            continue
        if offset < 0 or length < 8 or offset + length > len(body):
            raise CorruptRecord("a buffer of a compressed batch lies outside of its body")
        (inflated,) = struct.unpack_from("<q", body, offset)
        if inflated < -1:
            raise CorruptRecord("a buffer of a compressed batch has a negative length")
        total += length - 8 if inflated == -1 else inflated
    return total


def _codec(metadata: bytes, fields: list[int]) -> str:
    if not fields[3]:
        return "none"
    table = fields[3] + _UINT32.unpack_from(metadata, fields[3])[0]
    compression = _fields(metadata, table)
    codec = metadata[compression[0]] if compression[0] else 0
    if codec not in _CODEC_NAMES:
        raise CorruptRecord(f"unknown Arrow body compression {codec}; use lz4 or zstd")
    return _CODEC_NAMES[codec]


def _pack_header(header: BatchHeader) -> bytes:
    return (
        _HEADER.pack(
            HEADER_VERSION,
            header.attributes,
            header.base_offset,
            header.last_offset - header.base_offset,
            header.record_count,
            header.leader_epoch,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.min_timestamp,
            header.max_timestamp,
            0,
        )
        .hex()
        .encode()
    )


def build_header(message: IpcMessage, header: BatchHeader, body_crc: int) -> tuple[bytes, int]:
    """The log's header for a batch, and the CRC that stands in it.

    Args:
        message: the batch as the producer sent it.
        header: what the leader says of it; its `crc` is ignored.
        body_crc: CRC32C of the body.

    Returns:
        The prefix and metadata to write before the body, and the batch's CRC32C: of the body, continued over this
        header with the CRC's own eight digits as zeros. (The body comes first so that the CRC a producer sent can be
        checked and ours computed in one pass over the body.)
    """
    nodes, buffers = message.nodes, message.buffers
    buffers_at = _NODES_AT + len(nodes) + 8
    parts = (
        _PREFIX.pack(CONTINUATION, buffers_at + len(buffers)),
        _FRONT[message.codec != "none"],
        _MESSAGE.pack(48 - 4, METADATA_V5, RECORD_BATCH, _RECORD_BATCH_TABLE - 56, 72 - 60, message.body.size),
        _KEY_VALUE,
        _pack_header(header),
        _GAP,
        _RECORD_BATCH.pack(
            _RECORD_BATCH_TABLE - 26, _NODES_AT - 4 - (_RECORD_BATCH_TABLE + 4), message.length,
            buffers_at - 4 - (_RECORD_BATCH_TABLE + 16), 256 - (_RECORD_BATCH_TABLE + 20),
        ),
        _COMPRESSION[message.codec],
        _COUNT.pack(len(nodes) // 16),
        nodes,
        _COUNT.pack(len(buffers) // 16),
        buffers,
    )  # fmt: skip
    raw = b"".join(parts)
    crc = google_crc32c.extend(body_crc, raw)
    return raw[:CRC_AT] + b"%08x" % crc + raw[CRC_END:], crc


def read_header(header: bytes) -> BatchHeader:
    """Reads the `BatchHeader` out of a message header that `build_header` made.

    Args:
        header: prefix and metadata of the message.

    Raises:
        CorruptRecord: there is no such header, or it is damaged.
    """
    try:
        values = _HEADER.unpack(bytes.fromhex(header[VALUE_AT : VALUE_AT + VALUE_DIGITS].decode("ascii")))
    except (ValueError, struct.error) as error:
        raise CorruptRecord("the batch header in the log is damaged") from error
    version, attributes, base, delta, count, epoch, pid, pepoch, seq, min_ts, max_ts, crc = values
    if version != HEADER_VERSION:
        raise CorruptRecord(f"batch header version {version} is not known here; a newer rayqueue wrote this log")
    return BatchHeader(base, base + delta, count, epoch, pid, pepoch, seq, min_ts, max_ts, attributes, crc)


def body_length(header: bytes) -> int:
    """The length of the body that follows a message header made by `build_header`, bytes.

    Raises:
        CorruptRecord: the header is too short to say.
    """
    if len(header) < BODY_LENGTH_AT + 8:
        raise CorruptRecord("the batch header in the log is cut short")
    return int(struct.unpack_from("<q", header, BODY_LENGTH_AT)[0])


def message_crc(header: bytes, body: pa.Buffer | bytes) -> int:
    """The CRC32C a batch with this header and body should have (see `build_header`)."""
    raw = header[:CRC_AT] + _ZERO_CRC + header[CRC_END:]
    return int(google_crc32c.extend(crc_of(body), raw))


def wire_crc(message: IpcMessage, body_crc: int) -> int:
    """The CRC32C that travels beside a produced message: of its body, continued over its header as sent."""
    return int(google_crc32c.extend(body_crc, message.header))

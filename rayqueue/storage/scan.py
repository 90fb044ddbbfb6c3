"""Reading a segment's data file without its index: message by message, as recovery and verification do."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from rayqueue.errors import CorruptRecord
from rayqueue.protocol import ipc
from rayqueue.protocol.messages import BatchHeader

_PREFIX = struct.Struct("<Ii")
_MAX_METADATA = 64 << 20


class ScannedBatch(NamedTuple):
    """A batch found in a data file.

    Attributes:
        header: what its message header says.
        position, length, header_length: of the message, bytes.
        sound: whether its bytes match their CRC32C.
    """

    header: BatchHeader
    position: int
    length: int
    header_length: int
    sound: bool


class Torn(CorruptRecord):
    """There is no whole message at this place.

    Attributes:
        position: where, bytes from the start of the file.
        ended: there is an end-of-stream marker, or the file ends here: nothing is wrong.
    """

    def __init__(self, message: str, position: int = 0, ended: bool = False) -> None:
        super().__init__(message)
        self.position = position
        self.ended = ended


def metadata_end(data: pa.Buffer, position: int) -> int:
    """Where the metadata of the message at `position` ends, bytes.

    Raises:
        Torn: there is no whole header.
    """
    if position == data.size:
        raise Torn("the file ends", position, ended=True)
    if position + ipc.PREFIX_SIZE > data.size:
        raise Torn(f"{data.size - position} bytes at the end are no message", position)
    continuation, length = _PREFIX.unpack(data.slice(position, ipc.PREFIX_SIZE).to_pybytes())
    if continuation == ipc.CONTINUATION and length == 0:
        raise Torn("the stream ends", position, ended=True)
    end = position + ipc.PREFIX_SIZE + length
    if continuation != ipc.CONTINUATION or length < 0 or length > _MAX_METADATA:
        raise Torn("the bytes are not the start of a message", position)
    if end > data.size:
        raise Torn("the file ends within a message's header", position)
    return int(end)


def schema_end(data: pa.Buffer, *schemas: bytes) -> int:
    """Where the schema message at the start of a data file ends, bytes.

    Args:
        data: the whole file.
        schemas: the schema messages of which one should stand there.

    Raises:
        Torn: the file is too short, or starts with anything else.
    """
    for schema in schemas:
        if data.size >= len(schema) and data.slice(0, len(schema)).equals(pa.py_buffer(schema)):
            return len(schema)
    end = metadata_end(data, 0)
    try:
        found = pa.ipc.read_schema(data.slice(0, end))
        expected = [pa.ipc.read_schema(pa.py_buffer(schema)) for schema in schemas]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Torn(f"the schema message is damaged: {error}", 0) from error
    if not any(found.equals(one) for one in expected):
        raise Torn("the schema is not the topic's", 0)
    return end


def scan_batch(data: pa.Buffer, position: int) -> ScannedBatch:
    """The batch at `position`.

    Raises:
        Torn: there is none.
    """
    header_end = metadata_end(data, position)
    header = data.slice(position, header_end - position).to_pybytes()
    try:
        batch = ipc.read_header(header)
        body = ipc.body_length(header)
    except CorruptRecord as error:
        raise Torn(str(error), position) from error
    if body < 0 or (header_end + body) % 8:
        raise Torn(f"the message says that its body has {body} bytes", position)
    if header_end + body > data.size:
        raise Torn("the file ends within a message's body", position)
    crc = ipc.message_crc(header, data.slice(header_end, body))
    sound = header[ipc.CRC_AT : ipc.CRC_END] == b"%08x" % crc
    return ScannedBatch(batch, position, header_end + body - position, len(header), sound)


def scan(data: pa.Buffer, position: int) -> Iterator[ScannedBatch]:
    """The batches from `position` on, up to the end of the file or an end-of-stream marker.

    Raises:
        Torn: from the iterator, where the file stops making sense.
    """
    while True:
        try:
            batch = scan_batch(data, position)
        except Torn as stop:
            if stop.ended:
                return
            raise
        yield batch
        position += batch.length

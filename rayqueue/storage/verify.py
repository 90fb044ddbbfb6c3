"""Looking into a log's files without opening the log: `rayqueue log dump` and `rayqueue log verify`.

Nothing is changed. While a broker writes to the log, its newest batches may be reported as lacking index entries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rayqueue.errors import StorageError
from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.messages import SPARSE_BATCH, BatchHeader
from rayqueue.protocol.sparse import OFFSET_COLUMN, offsets_of
from rayqueue.storage import checkpoint as checkpoints
from rayqueue.storage import scan
from rayqueue.storage.files import OsFiles
from rayqueue.storage.index import ENTRY, ENTRY_SIZE, Entries, pack_entry, sound_entries
from rayqueue.storage.reader import DATA_SUFFIX, INDEX_SUFFIX, segment_bases, segment_path

_NO_SCHEMA = "there is no schema message at the start"


class Problem(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        path: the file.
        position: byte in the file.
        offset: the first offset concerned; -1: not known.
        message: what is wrong.
    """

    path: str
    position: int
    offset: int
    message: str


@dataclass
class SegmentReport:
    """What a segment holds, and what is wrong with it.

    Attributes:
        path: the data file.
        base_offset, next_offset: of its records; equal when there are none.
        size: of the data file, bytes.
        closed: it ends with an end-of-stream marker.
    """

    path: str
    base_offset: int
    next_offset: int
    batches: int = 0
    records: int = 0
    size: int = 0
    closed: bool = False
    problems: list[Problem] = field(default_factory=list)


class DumpedBatch(NamedTuple):
    """A batch in a segment file.

    Attributes:
        path: the data file.
        position, length: of the message, bytes.
        header: the batch's header.
        sound: whether it matches its CRC32C.
        rows: the batch's records, in the mapping of the file, a sparse one's with their offsets in the last column;
            None when it is damaged.
    """

    path: str
    position: int
    length: int
    header: BatchHeader
    sound: bool
    rows: pa.RecordBatch | None


def segment_files(path: str) -> list[str]:
    """The data files that a path means: a segment's own, or all of a log's directory, in offset order.

    Raises:
        StorageError: the path is neither.
    """
    if os.path.isdir(path):
        bases = segment_bases(os.listdir(path))
        if not bases and not os.path.exists(os.path.join(path, checkpoints.NAME)):
            raise StorageError(f"{path} is not a log: it holds no segments; give a partition's directory")
        return [segment_path(path, base, DATA_SUFFIX) for base in bases]
    stem = os.path.basename(path)[: -len(DATA_SUFFIX)]
    if path.endswith(DATA_SUFFIX) and len(stem) == 20 and stem.isdigit() and os.path.isfile(path):
        return [path]
    raise StorageError(f"{path} is neither a partition's directory nor a segment (<20 digits>{DATA_SUFFIX})")


def dump(path: str, skipped: Callable[[Problem], None] | None = None) -> Iterator[DumpedBatch]:
    """The batches in a segment file or a log's directory, as far as each file can be read.

    Args:
        path: the file or directory.
        skipped: told where a file cannot be read further; batches that are damaged are yielded.

    Raises:
        StorageError: the path is neither, or cannot be read.
    """
    for file in segment_files(path):
        data, _ = _mapped(file)
        try:
            schema, position = _schema(data)
            if schema is None:
                raise scan.Torn(_NO_SCHEMA)
            for batch in scan.scan(data, position):
                rows = _rows(data.slice(batch.position, batch.length), schema) if batch.sound else None
                yield DumpedBatch(file, batch.position, batch.length, batch.header, batch.sound, rows)
        except scan.Torn as torn:
            if skipped is not None:
                skipped(Problem(file, torn.position, -1, str(torn)))


def verify(path: str) -> Iterator[SegmentReport]:
    """Reads every byte of a segment file or a log's directory and says what is wrong, a report a segment.

    Raises:
        StorageError: the path is neither, or cannot be read.
    """
    files = segment_files(path)
    if os.path.isdir(path):
        yield from _verify_directory(path, files)
    else:
        yield _verify_segment(path)


def _verify_directory(directory: str, files: list[str]) -> Iterator[SegmentReport]:
    checkpoint_path = os.path.join(directory, checkpoints.NAME)
    damaged = os.path.exists(checkpoint_path) and checkpoints.read(OsFiles(), directory) is None
    previous: SegmentReport | None = None
    for i, file in enumerate(files):
        report = _verify_segment(file)
        if previous is not None and report.base_offset != previous.next_offset:
            missing = f"offsets {previous.next_offset} to {report.base_offset - 1} are missing before this segment"
            report.problems.append(Problem(file, 0, previous.next_offset, missing))
        if i + 1 < len(files) and not report.closed:
            report.problems.append(
                Problem(file, report.size, report.next_offset, "no end-of-stream marker although it is closed")
            )
        if damaged and i == 0:
            report.problems.append(Problem(checkpoint_path, 0, -1, "the checkpoint does not match its CRC32C"))
        previous = report
        yield report


def _verify_segment(path: str) -> SegmentReport:
    base = int(os.path.basename(path)[: -len(DATA_SUFFIX)])
    # The index first: what it names was written before it.
    index = path[: -len(DATA_SUFFIX)] + INDEX_SUFFIX
    entries, problems = _index(index)
    data, size = _mapped(path)
    report = SegmentReport(path, base, base, size=size, problems=problems)
    schema, position = _schema(data)
    if schema is None:
        report.problems.append(Problem(path, 0, -1, _NO_SCHEMA))
        position = int(entries["position"][0]) if len(entries) else size
    unindexed: tuple[int, int] | None = None
    try:
        for batch in scan.scan(data, position):
            if report.batches == len(entries):
                unindexed = batch.position, report.next_offset
            _check_batch(report, batch, data, schema, entries)
            position = batch.position + batch.length
    except scan.Torn as torn:
        report.problems.append(Problem(path, torn.position, report.next_offset, str(torn)))
        position = -1
    report.closed = position >= 0 and data.slice(position).equals(pa.py_buffer(END_OF_STREAM))
    if unindexed is not None and os.path.exists(index):  # one that is missing is named already
        at, first = unindexed
        batches, last = report.batches - len(entries), report.next_offset - 1
        report.problems.append(
            Problem(path, at, first, f"offsets {first} to {last} (batches: {batches}) have no index entry")
        )
    if report.batches < len(entries):
        last = int(entries["last_offset"][-1])
        lost = f"the index goes on to offset {last}, the data ends before it"
        report.problems.append(Problem(path, size, report.next_offset, lost))
    return report


def _check_batch(
    report: SegmentReport, batch: scan.ScannedBatch, data: pa.Buffer, schema: pa.Schema | None, entries: Entries
) -> None:
    header, row, expected = batch.header, report.batches, report.next_offset
    name = f"offsets {expected} to {header.last_offset}"
    report.batches += 1

    def problem(message: str) -> None:
        report.problems.append(Problem(report.path, batch.position, expected, message))

    if not batch.sound:
        # Its header is not to be trusted; where the next batch should begin is in the index.
        problem(f"the batch of offset {expected} does not match its CRC32C")
        report.next_offset = int(entries["last_offset"][row]) + 1 if row < len(entries) else expected
        return
    report.next_offset = header.last_offset + 1
    if header.base_offset != expected:
        problem(f"offset {header.base_offset} stands where {expected} should be")
    rows = None if schema is None else _rows(data.slice(batch.position, batch.length), schema)
    report.records += header.record_count if rows is None else rows.num_rows
    if schema is not None and rows is None:
        problem(f"{name} are not a record batch of the segment's schema")
    elif rows is not None and header.attributes & SPARSE_BATCH and not _ascend(rows, header):
        problem(f"{name} are sparse, and the offsets of their rows do not ascend within them")
    if row < len(entries) and entries[row].tobytes() != pack_entry(
        header, batch.position, batch.length, batch.header_length
    ):
        problem(f"{name} have another index entry ({row}) than their header says")


def _ascend(rows: pa.RecordBatch, header: BatchHeader) -> bool:
    """Whether a sparse batch has a column of offsets, which ascend from its first offset on to at most its last."""
    if rows.schema.names[-1] != OFFSET_COLUMN:
        return False
    offsets = np.concatenate([[header.base_offset - 1], offsets_of(rows), [header.last_offset + 1]])
    return bool((np.diff(offsets) > 0).all())


def _index(path: str) -> tuple[Entries, list[Problem]]:
    if not os.path.exists(path):
        return np.empty(0, ENTRY), [Problem(path, 0, -1, "the index is missing; it is made again at the next start")]
    problems = []
    with open(path, "rb") as file:
        raw = file.read()
    count, rest = divmod(len(raw), ENTRY_SIZE)
    entries = np.frombuffer(raw, ENTRY, count)
    if rest:
        problems.append(Problem(path, count * ENTRY_SIZE, -1, f"{rest} bytes at the end are no whole entry"))
    row = 0
    while (row := row + sound_entries(entries[row:])) < count:
        problems.append(Problem(path, row * ENTRY_SIZE, -1, f"entry {row} does not match its CRC32C"))
        row += 1
    return entries, problems


def _mapped(path: str) -> tuple[pa.Buffer, int]:
    try:
        size = os.path.getsize(path)
        return (OsFiles().map(path, size) if size else pa.py_buffer(b"")), size
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def _schema(data: pa.Buffer) -> tuple[pa.Schema | None, int]:
    """The schema a data file begins with and where its message ends, or None."""
    try:
        end = scan.metadata_end(data, 0)
        return pa.ipc.read_schema(data.slice(0, end)), end
    except (scan.Torn, pa.ArrowException, OSError, ValueError):
        return None, 0


def _rows(message: pa.Buffer, schema: pa.Schema) -> pa.RecordBatch | None:
    try:
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError):
        return None
    return batch

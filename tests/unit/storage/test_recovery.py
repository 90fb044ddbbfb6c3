"""Opening what a crash or a bad disk left behind, case by case."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rayqueue.errors import CorruptRecord, StorageError
from rayqueue.protocol.batches import decode
from rayqueue.protocol.ipc import END_OF_STREAM
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, serialize_schema
from rayqueue.storage.index import ENTRY_SIZE
from rayqueue.storage.log import Log
from tests.unit.storage.harness import EVERYTHING, FastFiles, batch, config, expected, fill, names, values

SCHEMA = serialize_schema(DEFAULT_SCHEMA)


def open_log(directory: Path, **settings: object) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, config(**settings))


def segment(directory: Path, base: int = 0, suffix: str = ".arrow") -> Path:
    return directory / f"{base:020d}{suffix}"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A log of ten batches that nobody flushed or closed."""
    fill(open_log(tmp_path / "p"), 10)
    return tmp_path / "p"


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A log of three segments, 21 records, closed in order."""
    log = open_log(tmp_path / "p", segment_bytes=8192)
    fill(log, 21)
    assert log.segment_count == 3
    log.close()
    return tmp_path / "p"


def reads_on(directory: Path, end: int, start: int = 0) -> Log:
    """The log opens with these offsets, can be appended to, and opens again without another repair."""
    log = open_log(directory)
    assert (log.log_start_offset, log.log_end_offset) == (start, end)
    assert values(log) == expected(start, end)
    fill(log, 3)
    assert values(log) == expected(start, end + 3)
    again = open_log(directory)
    assert again.repairs == []
    assert values(again) == expected(start, end + 3)
    return log


def test_a_process_that_died_loses_nothing(crashed: Path) -> None:
    log = reads_on(crashed, 10)
    assert log.generation == 0


def test_a_torn_tail_is_cut(crashed: Path) -> None:
    data = segment(crashed)
    with data.open("ab") as file:
        file.write(batch(10).header[:100])
    size = data.stat().st_size
    log = open_log(crashed)
    assert data.stat().st_size == size - 100
    assert len(log.repairs) == 1
    assert log.generation == 0  # nobody can have mapped what was cut
    reads_on(crashed, 10)


def test_a_batch_without_its_index_entry_is_kept(crashed: Path) -> None:
    tail = batch(10, 4)
    with segment(crashed).open("ab") as file:
        file.write(tail.header + tail.body.to_pybytes())
    assert reads_on(crashed, 14).generation == 0


@pytest.mark.parametrize("left", [0, 1, ENTRY_SIZE - 1, ENTRY_SIZE, 5 * ENTRY_SIZE + 7])
def test_a_torn_index_is_completed_from_the_data(crashed: Path, left: int) -> None:
    cut(segment(crashed, suffix=".index"), left)
    reads_on(crashed, 10)


def test_a_missing_index_is_made_again(crashed: Path, tmp_path: Path) -> None:
    index = segment(crashed, suffix=".index")
    before = index.read_bytes()
    index.unlink()
    open_log(crashed)
    assert index.read_bytes() == before


@pytest.mark.parametrize("position", [0, 3 * ENTRY_SIZE + 20, 9 * ENTRY_SIZE + ENTRY_SIZE - 1])
def test_a_damaged_index_entry_is_made_again_and_readers_map_anew(crashed: Path, position: int) -> None:
    index = segment(crashed, suffix=".index")
    before = index.read_bytes()
    flip(index, position)
    log = reads_on(crashed, 10)
    assert index.read_bytes().startswith(before)
    assert log.generation == 1


def test_index_entries_beyond_the_data_are_dropped(crashed: Path) -> None:
    data = segment(crashed)
    cut(data, data.stat().st_size - 1)
    assert reads_on(crashed, 9).generation == 1


def test_a_damaged_batch_that_was_not_checkpointed_ends_the_log(crashed: Path) -> None:
    position = int(open_log(crashed).read(6, 1, EVERYTHING).entries["position"][0])
    inode = segment(crashed).stat().st_ino
    flip(segment(crashed), position + 700)
    log = reads_on(crashed, 6)
    assert log.generation == 1
    assert segment(crashed).stat().st_ino != inode, "a reader may have mapped what was cut: the old file must live on"


def test_a_cut_takes_the_segments_behind_it(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    log.append([batch(offset) for offset in range(20)], 0)
    bases = [int(name[:20]) for name in names(tmp_path / "p", ".arrow")]
    flip(segment(tmp_path / "p", bases[1]), 1000)
    log = open_log(tmp_path / "p")
    assert log.log_end_offset == bases[1]
    assert names(tmp_path / "p", ".arrow") == [f"{base:020d}.arrow" for base in bases[:2]]
    reads_on(tmp_path / "p", bases[1])


def test_a_missing_segment_that_was_not_checkpointed_ends_the_log(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    log.append([batch(offset) for offset in range(20)], 0)
    bases = [int(name[:20]) for name in names(tmp_path / "p", ".arrow")]
    segment(tmp_path / "p", bases[2]).unlink()
    reads_on(tmp_path / "p", bases[2])
    assert names(tmp_path / "p", ".index") == [f"{base:020d}.index" for base in bases[:2]]


def test_a_damaged_closed_segment_is_an_error_and_not_dropped(closed: Path) -> None:
    log = open_log(closed)
    entry = log.read(10, 1, EVERYTHING).entries[0]
    log.close()
    base = int(names(closed, ".arrow")[1][:20])
    flip(segment(closed, base), int(entry["position"]) + int(entry["length"]) - 30)
    log = open_log(closed)
    assert log.repairs == []
    assert log.log_end_offset == 21
    piece = log.read(10, 1, EVERYTHING)
    with pytest.raises(CorruptRecord, match="offsets 10 to 10"):
        decode(piece.data, piece.entries, DEFAULT_SCHEMA)
    piece = log.read(11, 1, EVERYTHING)
    assert decode(piece.data, piece.entries, DEFAULT_SCHEMA)[0].num_rows == 1


def test_a_damaged_header_in_a_closed_segment_costs_no_other_batch(closed: Path) -> None:
    base = int(names(closed, ".arrow")[1][:20])
    log = open_log(closed)
    position = int(log.read(base + 1, 1, EVERYTHING).entries["position"][0])
    log.close()
    flip(segment(closed, base), position + 2)
    segment(closed, base, ".index").unlink()
    log = open_log(closed)
    assert log.log_end_offset == 21
    with pytest.raises(CorruptRecord, match=f"offsets from {base + 1} on are missing"):
        log.read(base + 1, 1, EVERYTHING)
    assert log.read(20, 1, EVERYTHING).base_offset == 20


def test_a_closed_segment_cut_short_is_an_error_where_it_is_short(closed: Path) -> None:
    path = segment(closed, int(names(closed, ".arrow")[1][:20]))
    cut(path, path.stat().st_size // 2)
    log = open_log(closed)
    base, end = (int(name[:20]) for name in names(closed, ".arrow")[1:3])
    assert log.read(base, 1, EVERYTHING).base_offset == base
    with pytest.raises(CorruptRecord, match="cut short"):
        log.read(end - 1, 1, EVERYTHING)
    assert log.read(end, 1, EVERYTHING).base_offset == end
    assert log.log_end_offset == 21


@pytest.mark.parametrize("position", [ENTRY_SIZE + 8, 2 * ENTRY_SIZE + 60, 3 * ENTRY_SIZE + 1])
def test_a_flipped_bit_in_a_closed_index_is_mended_by_the_first_read(closed: Path, position: int) -> None:
    index = segment(closed, suffix=".index")
    before = index.read_bytes()
    flip(index, position)
    log = open_log(closed)
    assert values(log) == expected(0, 21)
    assert index.read_bytes() == before
    assert log.generation == 1
    log.close()
    assert open_log(closed).generation == 1


@pytest.mark.parametrize("damage", ["missing", "short", "first", "last", "odd"])
def test_a_closed_index_with_damaged_edges_is_made_again_at_the_start(closed: Path, damage: str) -> None:
    index = segment(closed, suffix=".index")
    before = index.read_bytes()
    if damage == "missing":
        index.unlink()
    elif damage == "odd":
        index.write_bytes(before + b"xx")
    elif damage == "short":
        cut(index, 2 * ENTRY_SIZE)
    else:
        flip(index, 5 if damage == "first" else len(before) - 5)
    log = open_log(closed)
    assert index.read_bytes() == before
    assert values(log) == expected(0, 21)


def test_only_what_is_above_the_checkpoint_is_verified(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    log.close()
    log = open_log(tmp_path / "p")
    fill(log, 5)
    flip(segment(tmp_path / "p"), len(SCHEMA) + 700)
    log = open_log(tmp_path / "p")
    assert log.log_end_offset == 10
    with pytest.raises(CorruptRecord):
        values(log)


def test_a_lost_checkpoint_only_costs_time(closed: Path) -> None:
    (closed / "checkpoint").unlink()
    reads_on(closed, 21)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json\n00000000\n", b"\xff" * 40])
def test_a_damaged_checkpoint_only_costs_time(closed: Path, content: bytes) -> None:
    (closed / "checkpoint").write_bytes(content)
    reads_on(closed, 21)


def test_every_byte_of_the_checkpoint_is_checked(closed: Path) -> None:
    before = (closed / "checkpoint").read_bytes()
    for position in range(len(before) - 1):
        (closed / "checkpoint").write_bytes(before)
        flip(closed / "checkpoint", position)
        assert open_log(closed).log_end_offset == 21


def test_leader_epochs_come_back_with_and_without_a_checkpoint(tmp_path: Path) -> None:
    log = open_log(tmp_path / "p", segment_bytes=4096)
    for epoch in (1, 1, 4, 4, 7):
        fill(log, 3, epoch=epoch)
    log.close()
    log = open_log(tmp_path / "p", segment_bytes=4096)
    fill(log, 2, epoch=9)
    wanted = [(1, 0), (4, 6), (7, 12), (9, 15)]
    assert log.leader_epochs == wanted
    assert open_log(tmp_path / "p").leader_epochs == wanted
    (tmp_path / "p" / "checkpoint").unlink()
    assert open_log(tmp_path / "p").leader_epochs == wanted


def test_a_damaged_schema_message_costs_no_batch(crashed: Path) -> None:
    flip(segment(crashed), 40)
    reads_on(crashed, 10)
    assert segment(crashed).read_bytes().startswith(SCHEMA)


@pytest.mark.parametrize("size", [0, 5, len(SCHEMA) - 1, len(SCHEMA)])
def test_a_segment_that_was_being_made_becomes_the_active_one(tmp_path: Path, size: int) -> None:
    log = open_log(tmp_path / "p")
    fill(log, 5)
    log.close()
    segment(tmp_path / "p", 5).write_bytes(SCHEMA[:size])
    log = reads_on(tmp_path / "p", 5)
    assert segment(tmp_path / "p", 0).read_bytes().endswith(END_OF_STREAM)
    assert log.segment_count == 2


def test_a_crash_between_the_marker_and_the_next_segment(crashed: Path) -> None:
    with segment(crashed).open("ab") as file:
        file.write(END_OF_STREAM)
    reads_on(crashed, 10)


def test_leftovers_are_removed(crashed: Path) -> None:
    (crashed / "checkpoint.tmp").write_bytes(b"half")
    segment(crashed, 77, ".index").write_bytes(b"x" * 80)
    (crashed / "notes").write_bytes(b"somebody's")
    reads_on(crashed, 10)
    assert names(crashed) == [f"{0:020d}.arrow", f"{0:020d}.index", "notes"]


def test_a_directory_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("a file")
    with pytest.raises(StorageError, match="cannot open the log"):
        open_log(tmp_path / "p")


def test_a_log_recovers_to_the_same_wherever_recovery_itself_is_interrupted(tmp_path: Path) -> None:
    """Recovery cuts a log of many segments; a second one after any number of its steps ends in the same place."""

    class Interrupted(FastFiles):
        steps = 1 << 30

        def _step(self) -> None:
            self.steps -= 1
            if self.steps < 0:
                raise OSError("the power is gone")

        def remove(self, path: str) -> None:
            self._step()
            super().remove(path)

        def replace(self, source: str, target: str) -> None:
            self._step()
            super().replace(source, target)

    log = open_log(tmp_path / "p", segment_bytes=4096)
    log.append([batch(offset) for offset in range(20)], 0)
    bases = [int(name[:20]) for name in names(tmp_path / "p", ".arrow")]
    flip(segment(tmp_path / "p", bases[1]), 1000)
    interruptions = 0
    while True:
        shutil.copytree(tmp_path / "p", tmp_path / f"p{interruptions}")
        files = Interrupted()
        files.steps = interruptions
        try:
            Log.open(files, str(tmp_path / f"p{interruptions}"), DEFAULT_SCHEMA, config())
        except StorageError:
            reads_on(tmp_path / f"p{interruptions}", bases[1])
            interruptions += 1
            continue
        break
    assert interruptions > 6


def test_what_was_committed_is_known_from_the_checkpoint_but_never_beyond_the_end(tmp_path: Path) -> None:
    log = Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config())
    assert log.committed_offset == -1
    fill(log, 10)
    log.note_committed(7)
    log.close()
    again = Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config())
    assert again.committed_offset == 7
    again.truncate(4)
    assert again.committed_offset == 4
    again.note_committed(9)  # said before the records were there: the file says what it holds
    again.close()
    assert Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config()).committed_offset == 4

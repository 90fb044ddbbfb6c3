"""Any cut and any flipped bit in any file: what is read then is a prefix of what was written, or a typed error."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rayqueue.config.topic import TopicConfig
from rayqueue.errors import CorruptRecord
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage import checkpoint as checkpoints
from rayqueue.storage.log import Log
from tests.unit.storage.harness import FastFiles, batch, config, expected, fill, names, scratch, slices, values

SMALL_SEGMENTS = config(segment_bytes=4096)
STEPS = st.lists(
    st.one_of(st.tuples(st.just("append"), st.integers(1, 9)), st.sampled_from([("flush", 0), ("close", 0)])),
    min_size=1,
    max_size=14,
)


@dataclass
class Written:
    """A log on disk that was not closed in order.

    Attributes:
        end: its log end offset.
        verified: offsets below it were checkpointed: damage there is reported, not cut.
        ends: data file name -> (byte where each of its batches ends, the offset after it).
    """

    directory: Path
    settings: TopicConfig = SMALL_SEGMENTS
    end: int = 0
    verified: int = 0
    ends: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def last_file(self) -> str:
        return max(self.ends)

    def open(self) -> Log:
        return Log.open(FastFiles(), str(self.directory), DEFAULT_SCHEMA, self.settings)


def write(directory: Path, steps: list[tuple[str, int]], settings: TopicConfig = SMALL_SEGMENTS) -> Written:
    written = Written(directory, settings)
    log = written.open()
    for step, count in steps:
        if step == "append":
            log.append([batch(log.log_end_offset, count)], 0)
        elif step == "flush":
            log.flush()
        else:
            log.close()
            log = written.open()
    written.end = log.log_end_offset
    checkpoint = checkpoints.read(FastFiles(), str(directory))
    written.verified = checkpoint.recovery_point if checkpoint is not None else 0
    for entries in log.entries_from(0):
        name = f"{int(entries['base_offset'][0]):020d}.arrow"
        lengths = (entries["position"] + entries["length"]).tolist()
        written.ends[name] = list(zip(lengths, (entries["last_offset"] + 1).tolist(), strict=True))
    return written


def survives(written: Written, least: int) -> None:
    """The log reads as a prefix of what was written, at least up to `least`, and goes on after it."""
    log = written.open()
    end = log.log_end_offset
    assert least <= end <= written.end
    assert log.log_start_offset == 0
    assert values(log) == expected(0, end)
    fill(log, 2)
    again = written.open()
    assert values(again) == expected(0, end + 2)


@given(STEPS, st.data())
def test_any_cut_of_the_last_segment_leaves_the_batches_before_it(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    with scratch() as directory:
        written = write(directory / "p", steps)
        if not written.ends:
            return
        path = directory / "p" / written.last_file
        cut = data.draw(st.integers(0, path.stat().st_size))
        path.write_bytes(path.read_bytes()[:cut])
        survives(written, whole_before(written, cut))


def whole_before(written: Written, cut: int) -> int:
    """The offset after the last batch that ends at or before byte `cut` of the last segment."""
    whole = [after for end, after in written.ends[written.last_file] if end <= cut]
    return max(whole, default=int(written.last_file[:20]))


@given(STEPS, st.data())
def test_any_cut_or_flip_of_an_index_loses_nothing(steps: list[tuple[str, int]], data: st.DataObject) -> None:
    with scratch() as directory:
        written = write(directory / "p", steps)
        if not written.ends:
            return
        path = directory / "p" / data.draw(st.sampled_from(names(directory / "p", ".index")))
        damage(path, data)
        survives(written, written.end)


@given(STEPS, st.data())
def test_any_damage_to_the_checkpoint_loses_nothing(steps: list[tuple[str, int]], data: st.DataObject) -> None:
    with scratch() as directory:
        written = write(directory / "p", steps)
        path = directory / "p" / "checkpoint"
        if not path.exists():
            return
        damage(path, data)
        survives(written, written.end)


@given(STEPS, st.data())
def test_any_cut_or_flip_of_any_data_file_is_cut_off_or_reported(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    with scratch() as directory:
        written = write(directory / "p", steps)
        if not written.ends:
            return
        name = data.draw(st.sampled_from(sorted(written.ends)))
        position = damage(directory / "p" / name, data)
        before = max((after for end, after in written.ends[name] if end <= position), default=int(name[:20]))
        log = written.open()
        good = 0
        try:
            for base, batches in slices(log, max_bytes=1):
                assert base == good, "a hole"
                found = [v for rows in batches for v in rows.column("value").to_pylist()]
                assert found == expected(base, base + len(found)), "garbage"
                good = base + len(found)
        except CorruptRecord:
            assert good < written.verified, "only what was checkpointed may be damaged and still there"
        assert good >= before


def damage(path: Path, data: st.DataObject) -> int:
    """Cuts the file or flips a bit of it; the first byte concerned."""
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, max(0, len(content) - 1)), label=f"position in {path.name}")
    if data.draw(st.booleans(), label="cut"):
        path.write_bytes(content[:position])
    elif content:
        content[position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        path.write_bytes(content)
    return position


def test_a_thousand_random_cuts_of_data_and_index(soak: int) -> None:
    """Both files of an un-checkpointed log cut at random, some with rubbish behind the cut."""
    rng = random.Random(20_121)
    with scratch() as directory:
        written = write(directory / "p", [("append", rng.randint(1, 5)) for _ in range(12)], config())
        assert len(written.ends) == 1 and written.verified == 0
        data_path = directory / "p" / written.last_file
        index_path = data_path.with_suffix(".index")
        data, index = data_path.read_bytes(), index_path.read_bytes()
        for _ in range(1000 * soak):
            shutil.rmtree(directory / "p")
            (directory / "p").mkdir()
            cut = rng.randint(0, len(data))
            data_path.write_bytes(data[:cut] + b"\xa5" * (rng.randrange(2) * rng.randrange(200)))
            index_path.write_bytes(index[: rng.randint(0, len(index))])
            log = written.open()
            assert log.log_end_offset == whole_before(written, cut)
            assert values(log) == expected(0, log.log_end_offset)

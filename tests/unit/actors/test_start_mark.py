"""When a start is unclean: the machine went down, or nobody knows, and the logs were not flushed in order before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rayqueue.actors import identity
from rayqueue.actors.identity import read_json, write_json
from rayqueue.actors.start_mark import BOOT_ID, Mark, StartMark


class Machine:
    """A machine with a broker's directory that holds a partition."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "0"
        (self.root / "partitions" / "t").mkdir(parents=True)
        self.boot_id = directory / "boot_id"
        self.boot("first")

    def boot(self, boot_id: str) -> None:
        self.boot_id.write_text(boot_id + "\n")

    def process(self) -> StartMark:
        return StartMark(self.root, 0, self.boot_id)

    @property
    def mark(self) -> Mark | None:
        return read_json(self.root / "starts" / "replica-0", Mark)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    process = made.process()
    process.begin()
    process.told()
    return made


def test_the_first_start_in_an_empty_directory_is_clean(tmp_path: Path) -> None:
    assert StartMark(tmp_path, 0).begin() is False


def test_a_directory_with_logs_and_no_mark_is_not_known_to_be_clean(tmp_path: Path) -> None:
    assert Machine(tmp_path).process().begin() is True


def test_a_process_that_died_left_what_it_wrote_in_the_page_cache(machine: Machine) -> None:
    assert machine.process().begin() is False


def test_after_the_machine_went_down_a_start_is_unclean_once_the_coordinator_knows_no_more(machine: Machine) -> None:
    machine.boot("second")
    assert machine.process().begin() is True
    assert machine.process().begin() is True, "the one before died before it could say so"
    process = machine.process()
    assert process.begin() is True
    process.told()
    assert machine.process().begin() is False


def test_a_process_that_stopped_in_order_has_lost_nothing(machine: Machine) -> None:
    process = machine.process()
    process.begin()
    process.end()
    machine.boot("second")
    following = machine.process()
    assert following.begin() is False
    machine.boot("third")
    assert machine.process().begin() is True, "that one did not stop in order"


def test_an_unclean_start_that_nobody_was_told_of_outlives_a_stop_in_order(machine: Machine) -> None:
    machine.boot("second")
    process = machine.process()
    assert process.begin() is True
    process.end()
    assert machine.process().begin() is True


def test_another_device_is_another_page_cache(machine: Machine) -> None:
    mark = machine.mark
    assert mark is not None and mark.device == os.stat(machine.root).st_dev
    write_json(machine.root / "starts" / "replica-0", Mark(mark.boot_id, mark.device + 1))
    assert machine.process().begin() is True


def test_where_the_system_has_no_boot_id_only_a_stop_in_order_is_clean(machine: Machine) -> None:
    machine.boot_id.unlink()
    process = machine.process()
    assert process.begin() is True
    process.told()
    assert machine.process().begin() is True
    process.end()
    assert machine.process().begin() is False


def test_a_damaged_mark_says_nothing(machine: Machine) -> None:
    (machine.root / "starts" / "replica-0").write_text("{")
    assert machine.process().begin() is True


def test_on_a_full_disk_the_process_starts_and_the_next_start_counts_as_unclean(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = machine.process()
    process.begin()
    process.end()

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(identity.os, "write", full)
        assert machine.process().begin() is False, "what is known of the one before is known"
    assert machine.mark is None
    assert machine.process().begin() is True


@pytest.mark.skipif(not BOOT_ID.exists(), reason="Linux")
def test_linux_tells_its_boot(tmp_path: Path) -> None:
    process = StartMark(tmp_path, 0)
    process.begin()
    mark = read_json(tmp_path / "starts" / "replica-0", Mark)
    assert mark is not None and len(mark.boot_id) == 36

"""The metadata log: what a start finds in it is durable before anybody acts on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayqueue.actors.metadata_log import MetadataLog
from rayqueue.errors import StorageError
from rayqueue.storage.files import AppendFile, OsFiles
from tests.unit.storage.harness import BrokenDisk


class Covered(OsFiles):
    """Files that note how many bytes each had at its newest fsync."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def sync(self, file: AppendFile) -> None:
        self.bytes[file.path] = os.fstat(file.fd).st_size


def test_records_that_the_process_before_had_not_flushed_are_durable_once_opened(tmp_path: Path) -> None:
    MetadataLog(OsFiles(), tmp_path / "metadata").append([b"one", b"two"], 1, 0)  # and died before the flush
    files = Covered()
    log = MetadataLog(files, tmp_path / "metadata")
    assert log.records == [b"one", b"two"]
    data = tmp_path / "metadata" / f"{0:020d}.arrow"
    assert files.bytes[str(data)] == data.stat().st_size
    log.append([b"three"], 2, 0)
    assert log.flush() == 3
    log.close()
    again = MetadataLog(OsFiles(), tmp_path / "metadata")
    assert again.records == [b"one", b"two", b"three"]
    assert again.command_ends == log.command_ends == [2, 3], "which records are one command is known again"


def test_a_tail_that_cannot_be_made_durable_is_not_opened(tmp_path: Path) -> None:
    MetadataLog(OsFiles(), tmp_path / "metadata").append([b"one"], 1, 0)
    files = BrokenDisk()
    files.fail_sync = True
    with pytest.raises(StorageError, match="offline"):
        MetadataLog(files, tmp_path / "metadata")

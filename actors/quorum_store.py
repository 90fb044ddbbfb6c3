"""A copy of the metadata log on disk: a journal of what the quorum's machine has asked to keep, and a snapshot.

::

    <directory>/journal     frames; the first says epoch, vote and where the log begins, each later one holds what was
                            kept with one fsync: entries, cuts, votes, in order
    <directory>/snapshot    one frame: the state up to an index (missing: from the log's start)

    frame = magic, length, CRC32C of the payload (4 bytes each, little endian), payload (MessagePack)

A frame is written whole and made durable before the next is begun. So a damaged frame with nothing after it was being
written when the process or the machine ended, and nobody was promised anything of it: it is dropped. A damaged frame
with a sound one behind it is damage to what was promised: the copy refuses to start (a voter that has forgotten what it
promised is worse than one that is gone).

The journal is written anew, into another file that replaces it, when the directory is opened (which also makes durable
what a process before had not), when its beginning may go, and when a snapshot takes its place.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import google_crc32c
import msgspec

from rayqueue.coordination.quorum.events import (
    Append,
    Compact,
    DiskEffect,
    InstallSnapshot,
    PersistVote,
    SaveSnapshot,
    Truncate,
)
from rayqueue.coordination.quorum.messages import Entry, Snapshot, Stored, Voter
from rayqueue.errors import CorruptRecord, StorageError
from rayqueue.storage.files import AppendFile, FileSystem

T = TypeVar("T")

_HEAD = struct.Struct("<4sII")
_MAGIC = b"rqmj"
_VERSION = 1


class _Base(msgspec.Struct, array_like=True, tag=0):
    version: int
    epoch: int
    vote: Voter | None
    index: int
    index_epoch: int


class _Entries(msgspec.Struct, array_like=True, tag=1):
    entries: tuple[Entry, ...]


class _Cut(msgspec.Struct, array_like=True, tag=2):
    end: int


class _Vote(msgspec.Struct, array_like=True, tag=3):
    epoch: int
    vote: Voter | None


_Kept = _Base | _Entries | _Cut | _Vote
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[_Kept]] = msgspec.msgpack.Decoder(list[_Kept])
_snapshots: msgspec.msgpack.Decoder[Snapshot] = msgspec.msgpack.Decoder(Snapshot)


class QuorumStore:
    """An open copy; one thread uses it. After an error it must be opened anew.

    Attributes:
        stored: what the directory holds, as it grows.
    """

    def __init__(self, files: FileSystem, directory: Path, first_entries: Sequence[Entry] = ()) -> None:
        """Opens the directory, making it if need be.

        Args:
            first_entries: the log of a directory that is empty.

        Raises:
            StorageError: the disk failed or is full. CorruptRecord: what was promised is damaged.
        """
        self._files = files
        self._directory = str(directory)
        self._journal = f"{self._directory}/journal"
        self._snapshot = f"{self._directory}/snapshot"
        self._file: AppendFile | None = None
        try:
            files.make_directory(self._directory)
            self.stored = read_stored(files, directory)
            if self.empty:
                self.stored.entries = list(first_entries)
            self._rewrite()
        except OSError as error:
            raise StorageError(f"cannot open the metadata log in {directory}: {error.strerror}") from error

    def __repr__(self) -> str:
        stored = self.stored
        return f"QuorumStore(epoch {stored.epoch}, {stored.base_index}..{stored.base_index + len(stored.entries)})"

    @property
    def empty(self) -> bool:
        """Whether nothing has ever been kept here."""
        return not (self.stored.epoch or self.stored.entries or self.stored.snapshot.index)

    def write(self, effects: Sequence[DiskEffect]) -> int:
        """Performs effects in order and makes them durable; the number of the last one.

        Raises:
            StorageError: the disk failed or is full: what it holds is not known.
        """
        kept: list[_Kept] = []
        try:
            for effect in effects:
                match effect:
                    case SaveSnapshot() | InstallSnapshot() | Compact():
                        self._append(kept)
                        kept = []
                        self._replace(effect)
                    case _:
                        kept.append(self._keep(effect))
            self._append(kept)
        except OSError as error:
            raise StorageError(f"cannot write the metadata log {self._journal}: {error.strerror}") from error
        return effects[-1].write

    def close(self) -> None:
        """Closes the journal."""
        self._file = None

    # --- writing -----------------------------------------------------------------------------------------------------

    def _keep(self, effect: Append | Truncate | PersistVote) -> _Kept:
        stored = self.stored
        match effect:
            case Append(entries=entries):
                stored.entries.extend(entries)
                return _Entries(entries)
            case Truncate(end=end):
                del stored.entries[end - stored.base_index :]
                return _Cut(end)
            case PersistVote(epoch=epoch, vote=vote):
                stored.epoch, stored.vote = epoch, vote
                return _Vote(epoch, vote)

    def _append(self, kept: list[_Kept]) -> None:
        if not kept:
            return
        assert self._file is not None
        frame = _frame(_encoder.encode(kept))
        self._files.append(self._file, [frame], len(frame))
        self._files.sync(self._file)

    def _replace(self, effect: SaveSnapshot | InstallSnapshot | Compact) -> None:
        stored = self.stored
        if isinstance(effect, Compact):
            del stored.entries[: effect.index - stored.base_index]
            stored.base_index, stored.base_epoch = effect.index, effect.epoch
            self._rewrite()
            return
        # The snapshot first: a log that does not reach it is dropped by whoever finds it so.
        self._write_file(self._snapshot, _frame(_encoder.encode(effect.snapshot)))
        stored.snapshot = effect.snapshot
        if isinstance(effect, InstallSnapshot):
            stored.entries = []
            stored.base_index, stored.base_epoch = effect.snapshot.index, effect.snapshot.epoch
            self._rewrite()

    def _rewrite(self) -> None:
        stored = self.stored
        base = _Base(_VERSION, stored.epoch, stored.vote, stored.base_index, stored.base_epoch)
        kept: list[_Kept] = [base, _Entries(tuple(stored.entries))]
        self._file = None
        self._write_file(self._journal, _frame(_encoder.encode(kept)))
        self._file = self._files.open_append(self._journal, create=False)

    def _write_file(self, path: str, data: bytes) -> None:
        """Puts a file in place of another, whole or not at all."""
        temporary = path + ".new"
        self._files.remove(temporary)
        file = self._files.open_append(temporary)
        self._files.append(file, [data], len(data))
        self._files.sync(file)
        self._files.replace(temporary, path)
        self._files.sync_directory(self._directory)


_ADVICE = "if a majority of the other coordinators is well, remove this directory: the node joins anew, as another copy"


def read_stored(files: FileSystem, directory: Path) -> Stored:
    """What a copy holds; changes nothing, so it may be another process's.

    Raises:
        OSError: it cannot be read. StorageError: it is of another version. CorruptRecord: it is damaged.
    """
    stored = Stored()
    journal, snapshot = f"{directory}/journal", f"{directory}/snapshot"
    if files.size(snapshot) is not None:
        payloads = _frames(files.read(snapshot), snapshot)
        if not payloads:
            raise CorruptRecord(f"{snapshot} is damaged: {_ADVICE}")
        stored.snapshot = _decoded(_snapshots, payloads[0], snapshot)
    if files.size(journal) is None:
        if stored.snapshot.index:
            raise CorruptRecord(f"{journal} is missing beside its snapshot: {_ADVICE}")
        return stored
    payloads = _frames(files.read(journal), journal)
    if not payloads:
        raise CorruptRecord(f"{journal} is damaged: {_ADVICE}")
    for payload in payloads:
        for kept in _decoded(_decoder, payload, journal):
            _replay(stored, kept, journal)
    return stored


def _replay(stored: Stored, kept: _Kept, path: str) -> None:
    match kept:
        case _Base():
            if kept.version != _VERSION:
                raise StorageError(
                    f"{path} is of version {kept.version}, this is {_VERSION}: use the rayqueue it is of"
                )
            stored.epoch, stored.vote = kept.epoch, kept.vote
            stored.base_index, stored.base_epoch, stored.entries = kept.index, kept.index_epoch, []
        case _Entries(entries=entries):
            for entry in entries:
                if entry.index != stored.base_index + len(stored.entries) + 1:
                    raise CorruptRecord(f"{path} has entry {entry.index} at the wrong place: {_ADVICE}")
                stored.entries.append(entry)
        case _Cut(end=end):
            del stored.entries[end - stored.base_index :]
        case _Vote(epoch=epoch, vote=vote):
            stored.epoch, stored.vote = epoch, vote


def _frame(payload: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, len(payload), google_crc32c.value(payload)) + payload


def _frames(data: bytes, path: str) -> list[bytes]:
    """The payloads; a last frame that is damaged is left out.

    Raises:
        CorruptRecord: there is a sound frame behind a damaged one.
    """
    payloads, at = [], 0
    while (payload := _payload_at(data, at)) is not None:
        payloads.append(payload)
        at += _HEAD.size + len(payload)
    behind = data.find(_MAGIC, at + 1)
    while behind >= 0:
        if _payload_at(data, behind) is not None:
            raise CorruptRecord(f"{path} is damaged at byte {at}: {_ADVICE}")
        behind = data.find(_MAGIC, behind + 1)
    return payloads


def _payload_at(data: bytes, at: int) -> bytes | None:
    """The payload of the frame that begins there; None when no sound one does."""
    if len(data) - at < _HEAD.size:
        return None
    magic, length, crc = _HEAD.unpack_from(data, at)
    payload = data[at + _HEAD.size : at + _HEAD.size + length]
    if magic != _MAGIC or len(payload) < length or google_crc32c.value(payload) != crc:
        return None
    return payload


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes, path: str) -> T:
    try:
        return decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise StorageError(f"{path} is of another version of rayqueue: {error}") from error

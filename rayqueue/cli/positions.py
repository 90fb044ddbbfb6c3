"""Where `topic consume` begins: `-o start | end | -10 | @2026-01-01 | 42`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

import click

from rayqueue.errors import OffsetOutOfRange
from rayqueue.types import Watermarks


@dataclass(frozen=True)
class Start:
    """A place in every partition.

    Attributes:
        kind: "start", "end", "last" (number: how many records before the end), "offset" (number), "time" (number: ms).
    """

    kind: str
    number: int = 0

    @property
    def reset(self) -> str:
        """The consumer's `auto.offset.reset`: also when retention overtakes a reader that began at the start."""
        return "earliest" if self.kind == "start" else "latest" if self.kind == "end" else "none"

    def offset(self, where: str, marks: Watermarks) -> int:
        """The offset in a partition, for all kinds but "time".

        Raises:
            OffsetOutOfRange: an offset was asked for that is not there.
        """
        if self.kind == "start":
            return marks.low
        if self.kind == "last":
            return max(marks.low, marks.high - self.number)
        if self.kind == "offset":
            if not self.fits(marks):
                raise OffsetOutOfRange(f"{self._unfit(where, marks)}; -o start begins at the first")
            return self.number
        return marks.high

    def fits(self, marks: Watermarks) -> bool:
        """Whether a partition has this place; only an offset may be missing. The next to be written is there, too."""
        return self.kind != "offset" or marks.low <= self.number <= marks.high

    def _unfit(self, where: str, marks: Watermarks) -> str:
        if marks.low == marks.high:
            return f"{where} is empty (its next offset is {marks.high}), there is no offset {self.number}"
        return f"{where} has offsets {marks.low} to {marks.high - 1}, not {self.number}"

    def offsets(self, marks: Mapping[str, Watermarks], warn: Callable[[str], None]) -> dict[str, int]:
        """The offset in each partition. One without the offset that others have starts as near to it as it can.

        Args:
            marks: by partition, as messages name it. warn: told of partitions that start elsewhere.

        Raises:
            OffsetOutOfRange: no partition has the offset that was asked for.
        """
        if marks and not any(self.fits(each) for each in marks.values()):
            where = max(marks, key=lambda name: marks[name].high)
            return {where: self.offset(where, marks[where])}  # raises
        found = {}
        for where, each in marks.items():
            if self.fits(each):
                found[where] = self.offset(where, each)
                continue
            found[where] = each.high if self.number > each.high else each.low
            place = "end" if self.number > each.high else "first offset"
            warn(f"{self._unfit(where, each)}: it starts at its {place}, {found[where]}")
        return found


def parse_start(text: str) -> Start:
    """Reads what `-o` was given.

    Raises:
        click.BadParameter: it is none of the forms.
    """
    word = text.strip().lower()
    if word in ("start", "earliest", "beginning"):
        return Start("start")
    if word in ("end", "latest"):
        return Start("end")
    if word.startswith("@"):
        return Start("time", parse_time(text.strip()[1:]))
    try:
        number = int(word)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is none of start, end, an offset such as 42, -10 for the last ten, or a time such as @2026-01-31"
        ) from None
    return Start("last", -number) if word.startswith("-") else Start("offset", number)


def parse_time(text: str) -> int:
    """Milliseconds since the epoch of a date, a date and time (local without a zone), or such a number.

    Raises:
        click.BadParameter: it is none of them.
    """
    if text.isdigit() and len(text) > 8:
        return int(text)
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time: 2026-01-31, 2026-01-31T12:00, 2026-01-31T12:00:00Z, or ms since 1970"
        ) from None
    return round((moment if moment.tzinfo else moment.astimezone()).astimezone(timezone.utc).timestamp() * 1000)

"""What the histories of a group's members must not show. Pure, as `checker`.

Who owns a partition is told from outside by the commits that are taken: those of two owners may not be mixed. That a
member handles records which are not its own any more is allowed, for a while, and only its commits are refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from tests.chaos.history import Anomaly, Event

GROUP_KINDS = {
    "two-owners": "commits of a partition by one owner are taken before and after those of another one",
    "offset-regress": "a committed offset goes back",
    "unhandled": "acked, and no member of the group handled it, though the group was at the end",
}


class Commit(NamedTuple):
    """One that was taken, of one partition. owner: member and how often it had been given the partition."""

    asked: int
    answered: int
    owner: tuple[str, int]
    offset: int


class GroupChecker:
    """Takes the events of members, each one's in its order."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, int], int] = defaultdict(int)
        self._asked: dict[str, Event] = {}
        self._commits: dict[int, list[Commit]] = defaultdict(list)
        self._handled: set[tuple[int, int]] = set()
        self._members = False

    def take(self, event: Event) -> None:
        """One event."""
        match event.event:
            case "given":
                self._members = True
                for partition in map(int, event.offsets or ()):
                    self._given[event.process, partition] += 1
            case "handled":
                self._handled.update((partition, offset) for partition, offset, _ in event.records or ())
            case "commit":
                self._asked[event.process] = event
            case "committed":
                asked = self._asked.pop(event.process)
                for name, offset in (event.offsets or {}).items():
                    owner = (event.process, self._given[event.process, int(name)])
                    self._commits[int(name)].append(Commit(asked.time, event.time, owner, offset))

    def anomalies(self, acked: Mapping[str, tuple[int, int]]) -> list[Anomaly]:
        """What is wrong. acked: values by what the log said of their place."""
        found = []
        for partition, commits in sorted(self._commits.items()):
            found += _regress(partition, commits) + _mixed(partition, commits)
        if self._members:
            found += [
                Anomaly("unhandled", f"{value}, acked at {partition}/{offset}")
                for value, (partition, offset) in acked.items()
                if (partition, offset) not in self._handled
            ]
        return found


def _regress(partition: int, commits: list[Commit]) -> list[Anomaly]:
    """Commits that were asked for after a higher one had been answered."""
    found = []
    answered = sorted(commits, key=lambda commit: commit.answered)
    highest: Commit | None = None
    seen = 0
    for commit in sorted(commits, key=lambda one: one.asked):
        while seen < len(answered) and answered[seen].answered < commit.asked:
            if highest is None or answered[seen].offset > highest.offset:
                highest = answered[seen]
            seen += 1
        if highest is not None and commit.offset < highest.offset:
            text = f"p{partition}: {highest.owner[0]} at {highest.offset}, later {commit.owner[0]} at {commit.offset}"
            found.append(Anomaly("offset-regress", text))
    return found


def _mixed(partition: int, commits: list[Commit]) -> list[Anomaly]:
    """Owners with one commit answered before, and one asked for after, a commit of another owner."""
    first: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    for commit in commits:
        first[commit.owner] = min(commit.answered, first.get(commit.owner, commit.answered))
        last[commit.owner] = max(commit.asked, last.get(commit.owner, commit.asked))
    found = []
    for owner in first:
        others = [c for c in commits if c.owner != owner and first[owner] < c.asked and c.answered < last[owner]]
        if others:
            text = f"p{partition}: {others[0].owner[0]} commits {others[0].offset} amid the commits of {owner[0]}"
            found.append(Anomaly("two-owners", text))
    return found

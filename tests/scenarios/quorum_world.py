"""The world of the quorum's scenarios: nothing happens by itself; commands say what does.

voters 1 2 3 | blank 4                     a cluster formatted with these voters; a broker with an empty directory
deliver [quietly]                          messages and writes in the order they were made, until all is quiet
wait MS [quietly]                          time passes for all, in beats; each time what comes of it is delivered
timeout of 1                               1's clock shows its deadline; nothing is delivered
cut 1 from 2 3 | cut 1 to 2 | heal         links: both ways, one way, all whole again
stall the disk of 2 | free the disk of 2   writes of 2 do not become durable; they do
crash 2 | restart 2 | lose the disk of 2   what was not durable is lost; a new process; and a new directory
1 proposes x y | 1 reads                   requests to a node; they are numbered
1 adds 4 | 1 promotes 4 | 1 removes 2      changes of the membership
1 hands over to 2
show                                       every node's role, epoch and log; | stands after what is committed
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random
from typing import Any

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.machine import QuorumMachine
from rayqueue.coordination.quorum.messages import Entry, Membership, Voter, first_entries
from tests.scenarios import quorum_words as words
from tests.simulation.quorum_store import QuorumStore

CONFIG = QuorumConfig(snapshot_after_entries=10, kept_entries=2, snapshot_chunk_bytes=16, append_entries_max=8)
_DISK = (ev.PersistVote, ev.Append, ev.Truncate, ev.SaveSnapshot, ev.InstallSnapshot, ev.Compact)
_ACTIONS = {"adds": ev.Action.ADD_LEARNER, "promotes": ev.Action.PROMOTE, "removes": ev.Action.REMOVE}


class Broker:
    """A node: its machine while it runs, its disk always."""

    def __init__(self, me: Voter, log: list[Entry]) -> None:
        self.me = me
        self.store = QuorumStore(log)
        self.machine: QuorumMachine | None = None
        self.writes: deque[Any] = deque()
        self.stalled = False
        self.state: list[str] = []
        self.ahead_ms = 0  # its boot clock, before the others'


class World:
    """Runs commands."""

    def __init__(self) -> None:
        self._brokers: dict[int, Broker] = {}
        self._cuts: set[tuple[int, int]] = set()
        self._queue: deque[Callable[[], None]] = deque()
        self._requests = count(1)
        self._now_ms = 0
        self._out: list[str] = []

    def run(self, command: str) -> list[str]:
        """What a command prints."""
        self._out = []
        try:
            self._command(command.split())
        except (AssertionError, KeyError, ValueError) as error:
            self._out.append(f"error: {error!r}")
        return self._out

    def _command(self, w: list[str]) -> None:
        match w:
            case ["voters", *ids]:
                log = first_entries(Membership(tuple(Voter(int(i), "") for i in ids)))
                for i in ids:
                    self._new(int(i), "", log)
            case ["blank", i]:
                self._new(int(i), "", [])
            case ["deliver", *how]:
                self._deliver(quiet=how == ["quietly"])
            case ["wait", ms, *how]:
                self._wait(int(ms), how == ["quietly"])
            case ["timeout", "of", i]:
                machine = self._running(int(i))
                ahead = (machine.next_deadline_ms() or 0) - self._clock(int(i))
                self._brokers[int(i)].ahead_ms += max(0, ahead)
                self._step(int(i), ev.Tick())
            case ["cut", i, "from", *others]:
                self._cuts |= {(int(a), int(b)) for o in others for a, b in ((i, o), (o, i))}
            case ["cut", i, "to", *others]:
                self._cuts |= {(int(i), int(o)) for o in others}
            case ["heal"]:
                self._cuts.clear()
            case ["show"]:
                self._show()
            case [*verb, "the", "disk", "of", i]:
                self._disk(" ".join(verb), int(i))
            case ["crash", i]:
                self._crash(int(i))
            case ["restart", i]:
                self._start(int(i))
            case [i, *request]:
                self._request(int(i), request)

    # --- brokers ------------------------------------------------------------------------------------------------------

    def _new(self, i: int, directory: str, log: list[Entry]) -> None:
        self._brokers[i] = Broker(Voter(i, directory), log)
        self._start(i)

    def _start(self, i: int) -> None:
        broker = self._brokers[i]
        broker.state, broker.stalled = [], False
        broker.machine = QuorumMachine(broker.me, broker.store.recovered(), CONFIG, Random(i), self._clock(i))
        self._step(i, ev.Tick())

    def _crash(self, i: int) -> None:
        self._brokers[i].machine = None
        self._brokers[i].writes.clear()

    def _disk(self, verb: str, i: int) -> None:
        broker = self._brokers[i]
        match verb:
            case "stall":
                broker.stalled = True
            case "free":
                broker.stalled = False
                self._queue.append(lambda: self._sync(i))
            case "lose":
                self._crash(i)
                self._new(i, broker.me.directory_id + "'", [])
            case _:
                raise ValueError(verb)

    def _running(self, i: int) -> QuorumMachine:
        machine = self._brokers[i].machine
        if machine is None:
            raise ValueError(f"{i} does not run")
        return machine

    def _request(self, i: int, request: list[str]) -> None:
        match request:
            case ["proposes", *values]:
                for value in values:
                    self._step(i, ev.Propose(next(self._requests), value.encode()))
            case ["reads"]:
                self._step(i, ev.Read(next(self._requests)))
            case ["hands", "over", "to", other]:
                self._step(i, ev.Transfer(next(self._requests), self._voter(other)))
            case [action, other] if action in _ACTIONS:
                self._step(i, ev.ChangeMembership(next(self._requests), _ACTIONS[action], self._voter(other)))
            case _:
                raise ValueError(" ".join(request))

    def _voter(self, name: str) -> Voter:
        return Voter(int(name.rstrip("'")), name.lstrip("0123456789"))

    # --- events -------------------------------------------------------------------------------------------------------

    def _clock(self, i: int) -> int:
        return self._now_ms + self._brokers[i].ahead_ms

    def _step(self, i: int, event: ev.Event) -> None:
        broker, machine = self._brokers[i], self._running(i)
        role = machine.role
        effects = machine.step(event, self._clock(i))
        machine.validate()
        if machine.role is not role:
            self._say(i, f"becomes {machine.role.name} in epoch {machine.epoch}")
        wrote = False
        for effect in effects:
            if isinstance(effect, ev.Send):
                self._queue.append(partial(self._receive, effect.message))
                continue
            self._say(i, words.effect(effect))
            if isinstance(effect, _DISK):
                broker.writes.append(effect)
                wrote = True
            elif isinstance(effect, ev.Apply):
                broker.state += [e.payload.decode() for e in effect.entries if not e.kind]
            elif isinstance(effect, ev.Restore):
                broker.state = effect.snapshot.data.decode().split()
            elif isinstance(effect, ev.TakeSnapshot):
                taken = ev.SnapshotTaken(effect.index, " ".join(broker.state).encode())
                self._queue.append(partial(self._step, i, taken))
        if wrote:
            self._queue.append(lambda: self._sync(i))

    def _receive(self, message: Any) -> None:
        source, target = message.sender.broker_id, message.to.broker_id
        cut = (source, target) in self._cuts
        down = self._brokers[target].machine is None
        self._out.append(words.message(message) + (" (cut off)" if cut else " (nobody there)" if down else ""))
        if not cut and not down:
            self._step(target, message)

    def _sync(self, i: int) -> None:
        broker = self._brokers[i]
        if broker.machine is None or broker.stalled or not broker.writes:
            return
        number = broker.writes[-1].write
        while broker.writes:
            broker.store.apply(broker.writes.popleft())
        self._step(i, ev.Persisted(number))

    def _deliver(self, quiet: bool = False) -> None:
        out = len(self._out)
        while self._queue:
            self._queue.popleft()()
        if quiet:
            del self._out[out:]

    def _wait(self, ms: int, quiet: bool) -> None:
        until = self._now_ms + ms
        out = len(self._out)
        self._deliver()
        while self._now_ms < until:
            self._now_ms = min([until, *(max(d, self._now_ms + 1) for d in self._deadlines().values())])
            for i, deadline in self._deadlines().items():
                if deadline <= self._now_ms:
                    self._step(i, ev.Tick())
            self._deliver()
        if quiet:
            del self._out[out:]

    def _deadlines(self) -> dict[int, int]:
        found = {i: m.next_deadline_ms() for i, b in self._brokers.items() if (m := b.machine)}
        return {i: at - self._brokers[i].ahead_ms for i, at in found.items() if at is not None}

    # --- words --------------------------------------------------------------------------------------------------------

    def _say(self, i: int, text: str) -> None:
        self._out.append(f"{words.who(self._brokers[i].me)} {text}")

    def _show(self) -> None:
        for broker in self._brokers.values():
            machine = broker.machine
            if machine is None:
                self._out.append(f"{words.who(broker.me)}: down")
                continue
            log = machine.log
            before = [words.entry(e) for e in log.entries if e.index <= machine.commit]
            after = [words.entry(e) for e in log.entries if e.index > machine.commit]
            base = [f"...{log.base_index}@{log.base_epoch}"] if log.base_index else []
            role = f"{'active ' if machine.is_active else ''}{machine.role.name}"
            text = ", ".join(base + before) + " |" + (" " + ", ".join(after) if after else "")
            self._out.append(f"{words.who(broker.me)}: {role}, epoch {machine.epoch}: {text}")

"""A broker's simulated group coordinator: process, clock, and the shell around the shard's machine, as an actor has it.

told to lead ─▶ Lead ─▶ reads the log ─▶ Replay ─▶ appends its fence ─▶ reads on up to it ─▶ Replay, Loaded
                 ▲                                     │ refused, or nobody knows
                 └──────────────── after a while ──────┴── TakeOverAnew
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from rayqueue.groups import events as ev
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.machine import ShardMachine
from rayqueue.groups.records import owner_record
from rayqueue.testing.simulation.clock import Clock
from rayqueue.testing.simulation.process import Process
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace
from tests.simulation.groups_checker import Checker
from tests.simulation.groups_log import Frame, GroupLog

if TYPE_CHECKING:
    from tests.simulation.groups_exchange import Exchange

RETRY_US = 50_000


class Owner:
    """One broker's group coordinator.

    Attributes:
        told_epoch: the leader epoch under which it believes to lead; -1: it does not.
        process: the present one.
    """

    def __init__(
        self,
        broker_id: int,
        scheduler: Scheduler,
        random: Random,
        trace: Trace,
        log: GroupLog,
        checker: Checker,
        config: GroupConfig,
    ) -> None:
        self.broker_id = broker_id
        self._scheduler, self._random, self._trace = scheduler, random, trace
        self._log, self._checker, self._config = log, checker, config
        self.clock = Clock(scheduler, random.uniform(0.98, 1.02), random.randrange(10_000), 1_700_000_000_000)
        self.told_epoch = -1
        self.topics: dict[str, ev.TopicFacts] = {}
        self._calls = count(1)
        self.start()

    # --- the process ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process; it knows nothing."""
        self._trace.add(f"owner {self.broker_id}", "starts")
        self.machine = ShardMachine(0, self.broker_id, self._config)
        self.process = Process(self._scheduler, self.clock, self.machine, self._step, ev.Tick(), self._perform)
        self._sessions = count(1)
        self._exchanges: dict[int, Exchange] = {}
        self._replies: dict[int, Callable[[Any], None]] = {}
        self._reign = 0
        self.process.post(ev.Topics(self.topics))
        if self.told_epoch >= 0:
            self.take_over()

    def kill(self) -> None:
        """SIGKILL: its peers see their connections break."""
        self._trace.add(f"owner {self.broker_id}", "is killed")
        self.process.end()
        for exchange in list(self._exchanges.values()):
            exchange.break_off()
        self._exchanges.clear()

    @property
    def up(self) -> bool:
        """Whether its process runs."""
        return self.process.alive and not self.process.paused

    def _step(self, event: Any, now_ms: int) -> Sequence[ev.Effect]:
        if callable(event):
            event()
            return ()
        return self._machine_step(event)

    def _machine_step(self, event: ev.Event) -> Sequence[ev.Effect]:
        self._checker.seen[type(event).__name__] += 1
        effects = self.machine.step(event, self.clock.now_ms(), self.clock.wall_ms())
        self.machine.validate()
        if isinstance(event, ev.Appended) and self.machine.is_idle and self._random.random() < 0.1:
            self._checker.serves(self.machine)
        return effects

    def _do(self, event: ev.Event) -> None:
        self._perform(self._machine_step(event))

    def _perform(self, effects: Sequence[ev.Effect]) -> None:
        for effect in effects:
            self._checker.seen[type(effect).__name__] += 1
            match effect:
                case ev.Append():
                    self._append(effect)
                case ev.Reply():
                    self._answer(effect.call, effect.response)
                case ev.Refuse():
                    self._answer(effect.call, effect.error)
                case ev.Push():
                    exchange = self._exchanges.get(effect.session)
                    if exchange is not None:
                        exchange.down(effect.response)
                case ev.TakeOverAnew():
                    self._trace.add(f"owner {self.broker_id}", f"takes over anew: {effect.reason}")
                    self._scheduler.after(self._random.randrange(RETRY_US), self._guarded(self.take_over))
                case ev.Warn():
                    self._trace.add(f"owner {self.broker_id}", effect.message)

    def _guarded(self, action: Callable[..., None]) -> Callable[..., None]:
        """Runs in the process, once it runs; not at all in a later one, or in a later reign."""
        process, reign = self.process, self._reign

        def inside(*args: Any) -> None:
            if process is self.process and reign == self._reign:
                action(*args)

        return lambda *args: process.post(lambda: inside(*args))

    # --- the shard -----------------------------------------------------------------------------------------------

    def told(self, epoch: int) -> None:
        """The metadata says that this broker leads the partition under this epoch, or (-1) that it does not."""
        self.told_epoch = epoch
        if epoch >= 0:
            self.process.post(self.take_over)
        else:
            self.process.post(ev.Resign())

    def tell_topics(self, topics: dict[str, ev.TopicFacts]) -> None:
        """The metadata says that these are all topics."""
        self.topics = topics
        self.process.post(ev.Topics(topics))

    def take_over(self) -> None:
        """From the beginning."""
        if self.told_epoch < 0:
            return
        self._reign += 1
        self._sequence = 0
        self._do(ev.Lead(self.told_epoch))
        self._scheduler.after(self._random.randrange(20_000), self._guarded(self._read))

    def _read(self) -> None:
        end = self._log.end
        self._replay(0, end)
        self._number = self.machine.owner.number + 1 if self.machine.owner is not None else 1
        fence = owner_record(self._number, self.broker_id, "", self.told_epoch)
        self._send([fence], self._guarded(lambda error, fence_end: self._fenced(error, end, fence_end)))

    def _replay(self, begin: int, end: int) -> None:
        self._do(ev.Replay([(key, value, 0) for key, value in self._log.read(begin, end)]))

    def _fenced(self, error: str, begin: int, end: int) -> None:
        if error:
            self._scheduler.after(self._random.randrange(RETRY_US), self._guarded(self.take_over))
            return
        self._replay(begin, end)
        self._trace.add(f"owner {self.broker_id}", f"serves as owner {self._number} of epoch {self.told_epoch}")
        self._do(ev.Loaded())

    def _append(self, effect: ev.Append) -> None:
        number = effect.number

        def then(error: str, end: int) -> None:
            self._do(ev.AppendFailed(number, error) if error else ev.Appended(number))

        self._send(effect.records, self._guarded(then))

    def _send(self, records: list[Any], then: Callable[[str, int], None]) -> None:
        frame = Frame(self.broker_id, self._number, self.told_epoch, self._sequence, records)
        self._sequence += 1
        self._log.append(frame, then)

    # --- who asks ------------------------------------------------------------------------------------------------

    def accept(self, exchange: Exchange) -> int:
        """A member's connection; gives its session."""
        session = next(self._sessions)
        self._exchanges[session] = exchange
        return session

    def closed(self, session: int) -> None:
        """It is there no more."""
        self._exchanges.pop(session, None)

    def ask(self, message: Any, session: int, answer: Callable[[Any], None]) -> None:
        """A message for the machine."""
        call = next(self._calls)
        number = self.machine.owner.number if self.machine.owner is not None else 0
        self._replies[call] = self._checker.may_answer(number, answer)
        self.process.post(ev.Request(call, message, session))

    def _answer(self, call: int, response: Any) -> None:
        self._replies.pop(call)(response)

"""Which partitions a consumer with a group reads: what the group gives it, or what is assigned by hand."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from rayqueue.client.cursor import Cursor
from rayqueue.client.fetcher import COMMITTED
from rayqueue.client.fetching.assignment import Assignment, Callback, Key, check_callbacks
from rayqueue.client.fetching.background import in_background
from rayqueue.client.fetching.engine import Engine
from rayqueue.client.fetching.inbox import CommittedCame
from rayqueue.client.groups.membership import Membership
from rayqueue.client.groups.session import now_ms
from rayqueue.client.io.interrupts import Uninterrupted
from rayqueue.client.subscription import Subscription
from rayqueue.errors import ConfigError, RayQueueError
from rayqueue.protocol.group_messages import CommittedOffset, GroupPartition
from rayqueue.protocol.messages import TopicInfo
from rayqueue.types import TopicPartition

log = logging.getLogger("rayqueue.consumer")


class GroupAssignment(Assignment):
    """Does, at the start of a poll, what the member's machine asks for: gives up, takes, and tells callbacks.

    A partition is given up in this order: what was handed out is committed, on_revoke is called, the cursor goes, the
    member says so. It is taken in this order: the member holds it, the cursor is there, on_assign is called (and may
    move it), and it begins at what was committed.
    """

    def __init__(self, engine: Engine, owner: Any, membership: Membership) -> None:
        super().__init__(engine, owner)
        self._membership = membership
        self._session = membership.session
        self._auto = membership.auto
        self._asked: dict[int, list[Cursor]] = {}  # whose committed offsets are on their way, by number
        self._numbers = 0
        self._retry_ms: int | None = None  # when to ask anew for committed offsets
        self._again: list[Cursor] = []  # of these
        self._awaits_topics = False  # partitions are to be taken that metadata does not have yet
        self._ends: dict[Key, int] = {}  # where iteration ends, while `frozen`
        self._known: dict[bytes, int] = {}  # partitions of each topic when it was subscribed to; 0: it came later
        engine.on_committed = weakref.WeakMethod(self._committed)

    # --- asked for by the user ---------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, callbacks: dict[str, Callback | None]) -> None:
        """Joins the group; partitions come inside `poll`. A subscription before it is changed in place: what both have
        goes on without a pause."""
        check_callbacks(callbacks)
        self._look_at(subscription.names, everything=bool(subscription.patterns))
        if self.subscription is None:
            self.clear()
        else:
            self._found()  # what has come since is younger than the subscription before
        self._machine.leaders.asks = subscription.asks()
        self.subscription = subscription
        self._callbacks = callbacks
        for topic in self._wanted_topics():
            self._known.setdefault(topic.topic_id, len(topic.partitions))
        self._seen_image = self._machine.leaders.image
        self._membership.subscribed = True
        self._membership.polls.polled_ms = now_ms()
        self._session.start()
        self._session.subscribe(self._names())

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Reads these without being a member; a partition begins at what was committed, unless it is said where."""
        before = set(self._machine.cursors.values())
        super().assign(partitions)
        if self._auto.enabled:
            self._session.start()
        self._ask_committed([cursor for cursor in self._machine.cursors.values() if cursor not in before])

    def _start(self) -> str:
        return COMMITTED

    def unassign(self, keys: list[Key]) -> None:
        """Stops reading these partitions; what was handed out of them is committed.

        Raises:
            ConfigError: the group says which partitions are read.
        """
        if self.subscription is not None and keys:
            raise ConfigError(
                "a member of a group reads what the group gives it: pause the partitions, or unsubscribe from the topic"
            )
        self._give_up(keys)

    def clear(self) -> None:
        """Reads nothing any more: commits, tells on_revoke, leaves the group."""
        try:
            self._note_lost()
            self._give_up(sorted(self._machine.cursors), "on_revoke" if self.subscription is not None else "")
        finally:
            self._due.clear()
            self.subscription = None
            self._callbacks = {}
            self._known.clear()
            self._machine.leaders.asks = []
            if self._membership.subscribed:
                refused = self._session.error
                self._session.leave()
                self._membership.subscribed = False
                if self._machine.fatal is refused and self._session.error is None:
                    self._machine.fatal = None  # who subscribes anew asks anew

    def _names(self) -> list[str]:
        """The topics to say to the group: those named, and those that exist and match a pattern."""
        assert self.subscription is not None
        return [*self.subscription.names, *(topic.name for topic in self._found())]

    def _found(self) -> list[TopicInfo]:
        """The topics subscribed to that exist; of those not known yet all partitions are new."""
        found = self._wanted_topics()
        for topic in found:
            self._known.setdefault(topic.topic_id, 0)
        return found

    def _wanted_topics(self) -> list[TopicInfo]:
        assert self.subscription is not None
        return [topic for name, topic in self._machine.leaders.topics.items() if self.subscription.matches(name)]

    # --- iteration that ends -----------------------------------------------------------------------------------------

    def freeze(self, ends_of: Callable[[list[Key]], dict[Key, int]]) -> Callable[[], bool]:
        """Of a member: also what it is given later ends where it ended now. It has an end when nothing is left of what
        it holds, and the group is not about to give it more."""
        if self.subscription is None:
            return super().freeze(ends_of)
        self._ends = ends_of(sorted(self.subscription.partitions(self._machine.leaders.topics.values())))
        self.frozen = True
        for key, cursor in self._machine.cursors.items():
            self._machine.limit(cursor, self._ends.get(key, 0))
        return self._finished

    def _finished(self) -> bool:
        if not super()._finished():
            return False
        return self.subscription is None or (not self._session.news and self._membership.waiting.settled())

    # --- found out by metadata, and told by the group ----------------------------------------------------------------

    def follow(self) -> None:
        """At the start of a poll: every position is that after what former calls have handed out."""
        if self.telling:
            return  # a callback reads
        now = now_ms()
        self._membership.polls.polled_ms = now
        if self._membership.polls.left:
            self._membership.polls.left = False
            if self.subscription is not None:
                self._session.subscribe(self._names())
        if self._seen_image != self._machine.leaders.image:
            self._new_image()
        if self._session.news:
            self._changes(now)
        if self._retry_ms is not None and now >= self._retry_ms:
            self._retry_ms = None
            again, self._again = self._again, []
            self._ask_committed([c for c in again if self._machine.cursors.get(c.key) is c and c.reset == COMMITTED])
        self._auto.look(self._machine.cursors.values(), now)

    def _new_image(self) -> None:
        if self.subscription is None:
            super().follow()
            return
        leaders = self._machine.leaders
        self._seen_image = leaders.image
        for name in self.subscription.names:
            if name not in leaders.topics:
                log.warning("topic %r does not exist (any more): nothing comes from it until it is created", name)
        self._session.subscribe(self._names())
        gone = [key for key, c in self._machine.cursors.items() if not leaders.exists(c.topic, c.topic_id, c.partition)]
        if gone:
            with Uninterrupted():
                self._lose(gone)
            self.tell()
        if self._awaits_topics:
            self._session.news = True

    def _changes(self, now: int) -> None:
        try:
            self._note_lost()
            changes = self._session.changes()
            if changes.revoke:
                self._give_up([(topic, part.partition) for part, topic in changes.revoke.items()], "on_revoke")
            if changes.assign:
                self._take(changes.assign, now)
        except BaseException:
            self._session.news = True  # of what was not come to: an error of a callback, or Ctrl-C
            raise
        if self._session.error is not None:
            self._machine.fatal = self._session.error
        self._engine.perform()

    def _note_lost(self) -> None:
        with Uninterrupted():
            lost = self._session.take_lost()
            self._lose([(topic, part.partition) for part, topic in lost.items()])
        self.tell()

    def _lose(self, keys: list[Key]) -> None:
        """They are not ours any more, or not there any more: nothing of them can be committed."""
        held = [key for key in sorted(keys) if key in self._machine.cursors]
        self._drop(held)
        self._callback("on_lost" if self._callbacks.get("on_lost") else "on_revoke", held)

    def _give_up(self, keys: list[Key], callback: str = "") -> None:
        """Commits, tells, lets go. An error of the callback comes out when that is done."""
        held = [key for key in sorted(keys) if key in self._machine.cursors]
        self._auto.finish([self._machine.cursors[key] for key in held])
        try:
            self._callback(callback, held)
            self.tell()
        finally:
            with Uninterrupted():
                self._drop(held)

    def _drop(self, keys: list[Key]) -> None:
        cursors = [self._machine.cursors[key] for key in keys if key in self._machine.cursors]
        for cursor in cursors:
            self._machine.revoke(cursor.key)
            self._auto.forget(cursor)
        if self._membership.subscribed:
            self._session.gave_up([GroupPartition(cursor.topic_id, cursor.partition) for cursor in cursors])

    def _take(self, assigned: dict[GroupPartition, str], now: int) -> None:
        """Takes what metadata has; for the rest it is asked: the group may know of a partition before us."""
        leaders = self._machine.leaders
        there = [part for part, topic in assigned.items() if leaders.exists(topic, part.topic_id, part.partition)]
        self._awaits_topics = len(there) < len(assigned)
        if self._awaits_topics:
            leaders.ask_by(now + self._machine.limits.backoff_ms(3))
        with Uninterrupted():
            cursors = []
            for part in self._session.take(there):
                cursor = self._machine.assign(assigned[part], part.topic_id, part.partition, COMMITTED)
                if self.frozen:
                    self._machine.limit(cursor, self._ends.get(cursor.key, 0))
                cursors.append(cursor)
            self._ask_committed(cursors)
            self._callback("on_assign", sorted(cursor.key for cursor in cursors))
        self.tell()

    # --- where to begin ----------------------------------------------------------------------------------------------

    def _ask_committed(self, cursors: Iterable[Cursor]) -> None:
        asked = [cursor for cursor in cursors if cursor.reset == COMMITTED]
        if not asked:
            return
        self._numbers += 1
        number = self._numbers
        self._asked[number] = asked
        partitions = [GroupPartition(cursor.topic_id, cursor.partition) for cursor in asked]
        committer, inbox = self._membership.committer, self._engine.inbox

        def run() -> None:
            try:
                inbox.put(CommittedCame(number, committer.committed(partitions, as_member=True)))
            except RayQueueError as error:
                inbox.put(CommittedCame(number, error))

        in_background(run, "committed", lambda error: inbox.put(CommittedCame(number, error)))

    def _committed(self, number: int, answer: list[CommittedOffset] | RayQueueError) -> None:
        cursors = self._asked.pop(number, [])
        waiting = [c for c in cursors if self._machine.cursors.get(c.key) is c and c.reset == COMMITTED]
        if isinstance(answer, RayQueueError):
            self._not_known(waiting, answer)
            return
        found = {(offset.topic_id, offset.partition): offset for offset in answer}
        for cursor in waiting:
            offset = found.get((cursor.topic_id, cursor.partition))
            if offset is None or offset.offset < 0:
                self._machine.seek(cursor, self._policy(cursor))
            else:
                # A leader of an older epoch than that of the last record read may not have it (KIP-320).
                cursor.leader_epoch = max(cursor.leader_epoch, offset.leader_epoch)
                cursor.consumed_epoch = offset.leader_epoch
                self._auto.started(cursor, offset.offset)
                self._machine.seek(cursor, offset.offset)

    def _not_known(self, cursors: list[Cursor], error: RayQueueError) -> None:
        if not cursors:
            return
        names = ", ".join(f"{cursor.topic}-{cursor.partition}" for cursor in cursors[:5])
        log.warning("where to begin with %s is not known yet, asking again: %s", names, error)
        self._again += cursors
        self._retry_ms = now_ms() + self._machine.limits.backoff_ms(10)

    def _policy(self, cursor: Cursor) -> str:
        """Without a committed offset. A partition, or topic, that came while we were subscribed is read from its
        beginning: the end as of now would leave out what was written before it was found."""
        policy = self._engine.config.auto_offset_reset
        added = cursor.partition >= self._known.get(cursor.topic_id, cursor.partition + 1)
        return "earliest" if added and policy != "none" else policy

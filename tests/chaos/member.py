"""A member of the workload's consumer group, in a process of its own without Ray: `python -m tests.chaos.member`.

It handles what the group gives it, and commits what it has handled: now and then, and when partitions are asked back.
When its standard input ends it goes on until the group has committed all there is, then leaves.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from pathlib import Path

import rayqueue
from rayqueue.errors import RayQueueError
from rayqueue.types import TopicPartition
from tests.chaos.history import Recorder
from tests.chaos.workload import AFTER_ERROR_S, POLL_S, named, told_to_end, value_of

GROUP = "chaos-group"
SESSION_MS = 6_000
COMMIT_EVERY_S = 0.5
BATCH = 200


class Member:
    """One life of a member."""

    def __init__(self, args: argparse.Namespace, history: Recorder) -> None:
        self._topic, self._partitions, self._end_timeout_s = args.topic, args.partitions, args.end_timeout
        self._history, self._random = history, random.Random(args.seed)
        self._handled: dict[int, int] = {}  # partition → next offset, of what is held and not yet committed
        self._consumer = rayqueue.Consumer(
            bootstrap_servers=args.servers,
            group_id=GROUP,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=SESSION_MS,
            client_id=args.name,
        )

    def run(self, stop: threading.Event) -> int:
        """Until `stop`, and then until the group is at the end. Exit status."""
        with self._consumer:
            self._subscribe()
            commit_at = 0.0
            deadline: float | None = None
            while True:
                self._poll()
                if time.monotonic() >= commit_at:
                    self._commit()
                    commit_at = time.monotonic() + self._random.uniform(0, 2 * COMMIT_EVERY_S)
                if not stop.is_set():
                    continue
                deadline = deadline or time.monotonic() + self._end_timeout_s
                if self._at_the_end():
                    self._history.add("done")
                    return 0
                if time.monotonic() > deadline:
                    self._history.add("error", error=f"the group is not at the end after {self._end_timeout_s:g} s")
                    return 1

    def _subscribe(self) -> None:
        """As long as no broker answers, which is an error after request.timeout.ms, again."""
        deadline = time.monotonic() + self._end_timeout_s
        while True:
            try:
                self._consumer.subscribe(
                    [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
                )
                return
            except RayQueueError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise

    def _poll(self) -> None:
        try:
            messages = self._consumer.consume(BATCH, timeout=POLL_S)
        except RayQueueError as error:
            self._history.add("error", error=named(error))
            threading.Event().wait(AFTER_ERROR_S)
            return
        if messages:
            self._history.add("handled", records=[(m.partition, m.offset, value_of(m.value)) for m in messages])
            self._handled.update((m.partition, m.offset + 1) for m in messages)

    def _commit(self) -> None:
        if not self._handled:
            return
        offsets = {str(partition): offset for partition, offset in self._handled.items()}
        wanted = [TopicPartition(self._topic, partition, offset) for partition, offset in self._handled.items()]
        self._handled = {}
        self._history.add("commit", offsets=offsets)
        try:
            self._consumer.commit(offsets=wanted)
        except RayQueueError as error:  # taken or not: what was handled is handled again by who has it now
            self._history.add("uncommitted", error=named(error))
        else:
            self._history.add("committed", offsets=offsets)

    def _on_assign(self, _: object, partitions: list[TopicPartition]) -> None:
        self._history.add("given", offsets={str(tp.partition): -1 for tp in partitions})

    def _on_revoke(self, _: object, partitions: list[TopicPartition]) -> None:
        self._commit()
        self._drop("revoked", partitions)

    def _on_lost(self, _: object, partitions: list[TopicPartition]) -> None:
        self._drop("lost", partitions)

    def _drop(self, event: str, partitions: list[TopicPartition]) -> None:
        self._history.add(event, offsets={str(tp.partition): -1 for tp in partitions})
        for tp in partitions:
            self._handled.pop(tp.partition, None)

    def _at_the_end(self) -> bool:
        all_of_it = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        try:
            committed = self._consumer.committed(all_of_it)
            ends = [self._consumer.get_watermark_offsets(tp).high for tp in all_of_it]
        except RayQueueError as error:
            print(f"the end is not known yet: {named(error)}", file=sys.stderr, flush=True)
            return False
        return all((tp.offset or 0) >= end for tp, end in zip(committed, ends, strict=True))


def main() -> int:
    """Exit status: 1 when the group did not come to the end in time."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.member", description=__doc__)
    parser.add_argument("--name", required=True, help="the member's, in its history")
    parser.add_argument("--history", required=True, type=Path, help="the file it is written to")
    parser.add_argument("--servers", required=True, help="bootstrap servers")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", required=True, type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--end-timeout", type=float, default=90.0, help="s the group may take to the end")
    args = parser.parse_args()
    return Member(args, Recorder(args.history, args.name)).run(told_to_end())


if __name__ == "__main__":
    sys.exit(main())

"""Answers wait for a committed append that began after what they say was decided.

For a command that is the append of its own records. What changes nothing (a heartbeat without news, a look at offsets)
waits for one too: who owned the shard, and has lost it without knowing, could otherwise tell what is no longer so.
Where none is due a barrier record makes one, one for all that wait, and only one at a time.

    decided ──▶ next ── append n begins ──▶ waits for n ── Appended(n) ──▶ out, in the order decided
"""

from __future__ import annotations

from collections import deque

from rayqueue.groups.events import Push, Refuse, Reply

Answer = Reply | Refuse | Push


class Answers:
    """See the module.

    Invariants: numbers wait in order; appended <= issued.

    Attributes:
        issued: number of the last append. appended: of the last one that is committed.
    """

    def __init__(self) -> None:
        self.issued = 0
        self.appended = 0
        self._first = 1  # number of the present reign's first append
        self._next: list[Answer] = []
        self._waiting: deque[tuple[int, Answer]] = deque()

    def decided(self, answer: Answer) -> None:
        """To be given once the next append is committed."""
        self._next.append(answer)

    @property
    def need_barrier(self) -> bool:
        """Answers wait for an append, and none is under way behind which the next could be made for more of them."""
        return bool(self._next) and self.issued == self.appended

    def issue(self) -> int:
        """An append begins; gives its number."""
        self.issued += 1
        for answer in self._next:
            self._waiting.append((self.issued, answer))
        self._next.clear()
        return self.issued

    def committed(self, number: int) -> list[Answer]:
        """The append is committed, with all before it: what may be said now."""
        if number < self._first or number <= self.appended:
            return []
        self.appended = number
        done = []
        while self._waiting and self._waiting[0][0] <= number:
            done.append(self._waiting.popleft()[1])
        return done

    def is_present(self, number: int) -> bool:
        """Whether the append is of this reign, and under way."""
        return self._first <= number and self.appended < number <= self.issued

    def drop(self) -> list[Answer]:
        """The reign is over: what was still to be said."""
        dropped = [answer for _, answer in self._waiting] + self._next
        self._waiting.clear()
        self._next = []
        self._first = self.issued + 1
        self.appended = self.issued
        return dropped

    def validate(self) -> None:
        """Asserts the invariants."""
        numbers = [number for number, _ in self._waiting]
        assert numbers == sorted(numbers) and all(self.appended < n <= self.issued for n in numbers)
        assert self.appended <= self.issued
        assert not self.need_barrier

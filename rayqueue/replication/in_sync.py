"""The in-sync replicas as a leader counts them: what is committed, and what it has proposed (KIP-497, KIP-903).

::

    settled --propose--> asked --Assign (the partition epoch has risen)--> settled
                           | `-- refused --> settled, but what was proposed still counts

The coordinator may take a proposal long before the leader hears of it, and from then on elect whom it names. So the
high watermark counts the *maximal* ISR: every member of the committed one (a removal counts when it is committed) and
everyone proposed (an addition counts at once). A refusal is no proof either: the shell repeats a request whose outcome
it does not know, the first one may have been taken, or be on its way still. Proposals die with their partition epoch.
"""

from __future__ import annotations

from collections.abc import Iterable


class InSync:
    """The ISR under one partition epoch.

    Attributes:
        committed: as the metadata log has it. Invariant: the leader is a member.
        maximal: all who may be members. Invariant: contains `committed`, and the coordinator's ISR at any time.
        outstanding: a proposal is at the coordinator.
        retry_ms: when the next proposal may be made after one was refused, else None.
    """

    def __init__(self, leader: int, isr: Iterable[int], partition_epoch: int) -> None:
        self._leader = leader
        self.commit(isr, partition_epoch)

    def commit(self, isr: Iterable[int], partition_epoch: int) -> None:
        """The metadata log says so."""
        self.partition_epoch = partition_epoch
        self.committed = self.maximal = frozenset((self._leader, *isr))
        self.outstanding = False
        self.retry_ms: int | None = None

    def may_propose(self, now_ms: int) -> bool:
        """Whether a proposal may be made now."""
        if self.retry_ms is not None and now_ms >= self.retry_ms:
            self.retry_ms = None
        return not self.outstanding and self.retry_ms is None

    def wants(self, isr: frozenset[int]) -> bool:
        """Whether there is something to propose: another ISR, or that nobody else is in doubt."""
        return isr != self.committed or not self.maximal <= isr

    def propose(self, isr: frozenset[int]) -> None:
        """It goes to the coordinator."""
        assert not self.outstanding
        self.outstanding = True
        self.maximal |= isr

    def refuse(self, partition_epoch: int, retry_ms: int) -> None:
        """The coordinator says no."""
        if partition_epoch == self.partition_epoch:
            self.outstanding = False
            self.retry_ms = retry_ms

    def validate(self) -> None:
        """Every invariant."""
        assert self._leader in self.committed <= self.maximal

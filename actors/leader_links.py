"""The links of one replica actor to the leaders that its partitions follow: one to each leader's process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from rayqueue.actors.leader_link import FollowerEvent, LeaderLink, LeaderProcess
from rayqueue.protocol.messages import FollowHello
from rayqueue.replication import events as ev

if TYPE_CHECKING:
    from rayqueue.actors.hosted_partition import HostedPartition


class LeaderLinks:
    """All methods belong to the loop.

    Args:
        hello: who we are. token: the cluster's.
        submit: gives what came on a link to the loop.
    """

    def __init__(self, hello: FollowHello, token: str | None, submit: Callable[[list[FollowerEvent]], None]) -> None:
        self._hello = hello
        self._token = token
        self._submit = submit
        self._links: dict[LeaderProcess, LeaderLink] = {}
        self._followed: dict[HostedPartition, tuple[LeaderLink, int]] = {}
        self._opened = 0
        self._closed = False

    def follow(self, partition: HostedPartition, effect: ev.Follow) -> None:
        """Subscribes a partition at its leader, in place of any subscription before."""
        self.unfollow(partition)
        leader = partition.leader_process
        if self._closed or leader is None or leader.broker_id != effect.leader:
            # Its process is not known yet. The machine tries again after a while; the metadata log will say.
            partition.later(ev.FeedLost(effect.leader_epoch))
            return
        link = self._links.get(leader)
        if link is None or link.ended:
            self._opened += 1
            hello = msgspec.structs.replace(self._hello, number=self._opened)
            link = self._links[leader] = LeaderLink(leader, hello, self._token, self._submit)
        number = link.follow(partition, effect)
        if number:
            self._followed[partition] = link, number
        else:
            partition.later(ev.FeedLost(effect.leader_epoch))

    def unfollow(self, partition: HostedPartition) -> None:
        """Ends a partition's subscription."""
        link, subscription = self._followed.pop(partition, (None, 0))
        if link is not None:
            link.unfollow(subscription)

    def ack(self, partition: HostedPartition, effect: ev.AckFetch) -> None:
        """Tells a partition's leader what is held."""
        link, subscription = self._followed.get(partition, (None, 0))
        if link is not None:
            link.ack(subscription, effect, bool(partition.listeners))

    def flush(self) -> None:
        """Sends what the turn has said, and ends links that nothing needs."""
        for leader, link in list(self._links.items()):
            if link.idle:
                del self._links[leader]
                link.close()
            else:
                link.flush()

    @property
    def unsent(self) -> bool:
        """A leader does not read: `flush` is to be called again soon."""
        return any(link.unsent for link in self._links.values())

    def close(self) -> None:
        """Ends all."""
        self._closed = True
        self._followed.clear()
        for link in self._links.values():
            link.close()
        self._links.clear()

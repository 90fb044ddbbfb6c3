"""Which of two copies of the metadata log, both of one coordinator, is the cluster's.

A coordinator whose node is gone for long is given up, and its number goes to a copy on another node; then the node
comes back with its disk. While a coordinator is active that does no harm: the number is taken. When the whole cluster
starts again both copies lie there, and one process can have the number. To start the one that was given up would be
safe, for nobody counts its vote, but the one that votes would be missing, perhaps to a majority.

So the log that is the most advanced of all says which of them votes. It is no older than any change of the voters that
a majority of what lies there has agreed to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from rayqueue.actors.identity import CoordinatorIdentity, read_json
from rayqueue.actors.quorum_store import read_stored
from rayqueue.coordination.quorum.log import QuorumLog
from rayqueue.coordination.quorum.messages import Membership, Voter
from rayqueue.errors import RayQueueError
from rayqueue.storage.files import OsFiles

log = logging.getLogger(__name__)


class Copy(msgspec.Struct, frozen=True):
    """A coordinator's directory.

    Attributes:
        me: its number and directory id. end: (epoch, index) of its log's last entry; (-1, -1): it cannot be read.
        membership: the newest in its log.
    """

    me: Voter
    end: tuple[int, int]
    membership: Membership


def read_copy(data_dir: str, coordinator_id: int) -> Copy:
    """Looks into a coordinator's directory, which may be in use; changes nothing."""
    directory = Path(data_dir) / f"coordinator-{coordinator_id}"
    me = Voter(coordinator_id, "")
    try:
        identity = read_json(directory / "identity.json", CoordinatorIdentity)
        me = Voter(coordinator_id, identity.directory_id if identity else "")
        stored = QuorumLog(read_stored(OsFiles(), directory / "metadata"))
        return Copy(me, (stored.last_epoch, stored.end), stored.membership)
    except (OSError, RayQueueError) as error:
        log.warning("%s cannot be read: %s", directory, error)
        return Copy(me, (-1, -1), Membership())


def choose(copies: Iterable[Copy]) -> dict[int, Copy]:
    """By number, the copy to start: one that votes before one that listens before any other, then the most advanced."""
    found = list(copies)
    now = max(found, key=lambda one: one.end).membership
    chosen: dict[int, Copy] = {}
    for one in sorted(found, key=lambda one: (one.me in now.voters, one.me in now.learners, one.end)):
        chosen[one.me.broker_id] = one
    return chosen

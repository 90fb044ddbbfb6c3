"""What `rayqueue status` says of consumer groups: asked of their coordinators, where there ever was a group."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from rayqueue.admin import AdminClient
from rayqueue.cluster_status import ClusterStatus, GroupStatus
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.errors import GroupNotFound, RayQueueError

# A status is looked at when something is wrong: it does not wait long for those who do not answer.
TIMEOUT_MS = 3_000
GROUPS_MAX = 100


def with_groups(status: ClusterStatus, settings: Mapping[str, Any]) -> ClusterStatus:
    """The status and its groups, or why they are not known.

    Args:
        settings: of an AdminClient, that say where the cluster is.
    """
    if all(topic.name != GROUPS_TOPIC for topic in status.topics):
        return status
    groups: list[GroupStatus] = []
    problems = list(status.problems)
    try:
        with AdminClient({**settings, "request.timeout.ms": TIMEOUT_MS}) as admin:
            listed = admin.list_groups()
            until = time.monotonic() + TIMEOUT_MS / 1000
            for one in listed[:GROUPS_MAX]:
                late = time.monotonic() > until  # a leader that is away holds up each group that reads from it
                groups += [GroupStatus(one.group, one.state, one.members, None)] if late else _look(admin, one.group)
    except RayQueueError as error:
        problems.append(f"consumer groups: {error}")
        listed = []
    more = max(0, len(listed) - GROUPS_MAX)
    return dataclasses.replace(status, groups=groups, more_groups=more, problems=problems)


def _look(admin: AdminClient, group: str) -> list[GroupStatus]:
    try:
        told = admin.describe_group(group)
    except GroupNotFound:
        return []  # deleted since it was listed
    return [GroupStatus(group, told.state, len(told.members), told.lag)]

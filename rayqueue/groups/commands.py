"""What a command's handler gives back, and what handlers may know. Handlers change nothing: they give records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rayqueue.groups.assignors import Assignor, Topics, assign_ranges
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.records import Record
from rayqueue.groups.state import ShardState
from rayqueue.groups.uniform import assign_uniformly

DEFAULT_ASSIGNOR = "uniform"
ASSIGNORS: dict[str, Assignor] = {"uniform": assign_uniformly, "range": assign_ranges}


@dataclass(slots=True)
class Result:
    """Records to be replayed and appended, and the response that is given once they are committed."""

    records: list[Record] = field(default_factory=list)
    response: Any = None


class Surroundings:
    """What handlers need besides their group's state.

    Attributes:
        state: of the shard. topics: all there are, by name. names: of topics, by id.
        epoch: the leader epoch we serve the shard under.
    """

    def __init__(self, broker_id: int, config: GroupConfig) -> None:
        self.broker_id = broker_id
        self.config = config
        self.state = ShardState()
        self.topics: Topics = {}
        self.names: dict[bytes, str] = {}
        self.epoch = -1

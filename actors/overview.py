"""What the coordinator tells, through Ray, of the cluster as a whole."""

from __future__ import annotations

from typing import Protocol

from rayqueue.actors.names import broker_name, coordinator_name, group_coordinator_name, replica_name
from rayqueue.actors.options import ClusterOverview, CoordinatorOptions
from rayqueue.client.addresses import format_addresses
from rayqueue.coordination.machine import CoordinatorMachine
from rayqueue.coordination.quorum.status import QuorumStatus
from rayqueue.coordination.views import describe_cluster
from rayqueue.protocol.messages import MetadataRequest


class BrokerPlacer(Protocol):
    """Starts brokers where they are wanted, in threads of its own."""

    problems: dict[str, str]

    def start(self) -> None:
        """The coordinator serves: begin."""
        ...

    def stop(self) -> None:
        """Start nothing more."""
        ...

    def want(self, brokers: int | None) -> None:
        """At least so many brokers are wanted; None: one on every node."""
        ...

    def missing_coordinators(self, voters: set[int]) -> dict[int, str]:
        """Coordinators that should vote and do not, by id."""
        ...

    def missing(self, running: set[int]) -> dict[int, str]:
        """Brokers that are wanted and do not run, by id; -1: it has not looked yet."""
        ...


def describe(
    machine: CoordinatorMachine,
    quorum: QuorumStatus,
    options: CoordinatorOptions,
    token: str | None,
    placer: BrokerPlacer | None,
) -> ClusterOverview:
    """The cluster as the coordinator's machine and placer see it; called between two events."""
    state = machine.state
    brokers = [broker for _, broker in sorted(state.brokers.items())]
    actors = [actor for _, actor in sorted(state.replica_actors.items())]
    running = {broker.broker_id for broker in brokers if machine.is_watching(broker.incarnation)}
    missing = {broker_name(options.name, i): why for i, why in placer.missing(running).items()} if placer else {}
    voters = {voter.broker_id for voter in quorum.membership.voters}
    if placer is not None:
        waited = placer.missing_coordinators(voters).items()
        missing |= {coordinator_name(options.name, one): why for one, why in waited}
    for broker in brokers:
        for slot in range(broker.pool_size if broker.broker_id in running else 0):
            actor = state.replica_actors.get((broker.broker_id, slot))
            if actor is None or not machine.is_watching(actor.incarnation):
                missing[replica_name(options.name, broker.broker_id, slot)] = "has not registered"
            elif not machine.leads(actor):
                missing[replica_name(options.name, broker.broker_id, slot)] = "is opening its partitions"
    for broker_id in sorted(running & state.group_brokers()):
        serves = state.group_actors.get(broker_id)
        if serves is None or not machine.is_watching(serves.incarnation):
            missing[group_coordinator_name(options.name, broker_id)] = "has not registered"
    request = MetadataRequest(None)
    incarnations = [broker.incarnation for broker in brokers] + [actor.incarnation for actor in actors]
    return ClusterOverview(
        bootstrap_servers=format_addresses([(broker.host, broker.port) for broker in brokers]),
        token=token,
        options=options,
        metadata=describe_cluster(state, request, machine.end, machine.address, machine.epoch),
        brokers=brokers,
        replica_actors=actors,
        watching=[incarnation for incarnation in incarnations if machine.is_watching(incarnation)],
        missing=missing,
        problems=sorted(placer.problems.values()) if placer else [],
        coordinators=[record for _, record in sorted(state.coordinators.items())],
        quorum=quorum,
    )

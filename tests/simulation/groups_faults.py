"""The faults of the groups' simulation, and what else happens to groups; each with the proof that it took effect."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rayqueue.testing.simulation.nemesis import Injected
from tests.simulation.groups_member import SimulatedMember
from tests.simulation.groups_owner import Owner
from tests.simulation.groups_world import World

MEMBERS_MAX = 7
SLOW_METADATA_US = 5_000_000


class Faults:
    """What the nemesis may do. Each method draws its victim, harms it, and says how to heal; None: not possible now."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random: Random = world.random

    def all(self) -> dict[str, Callable[[], Injected | None]]:
        """By name."""
        return {
            "kill owner": self.kill_owner,
            "pause owner": self.pause_owner,
            "move leader": self.move_leader,
            "zombie owner": self.zombie_owner,
            "kill all owners": self.kill_all_owners,
            "failing appends": self.failing_appends,
            "compaction": self.compaction,
            "kill member": self.kill_member,
            "pause member": self.pause_member,
            "leave": self.leave,
            "more members": self.more_members,
            "subscribe": self.subscribe,
            "topics": self.change_topics,
            "break": self.break_exchanges,
            "stall": self.stall,
            "cut": self.cut,
            "bad network": self.bad_network,
            "slow network": self.slow_network,
            "clock": self.clock,
            "wall clock": self.wall_clock,
        }

    # --- owners --------------------------------------------------------------------------------------------------

    def _owner(self) -> Owner | None:
        """Leaders first: mostly who leads."""
        owners = self._world.owners
        if self._random.random() < 0.7:
            leader = owners[self._world.log.leader]
            return leader if leader.up else None
        up = [owner for owner in owners.values() if owner.up]
        return self._random.choice(up) if up else None

    def kill_owner(self) -> Injected | None:
        """SIGKILL; it is started again, or another broker leads, or both."""
        owner = self._owner()
        if owner is None:
            return None
        owner.kill()
        if self._random.random() < 0.5:
            self._move()
        return Injected(f"kill owner {owner.broker_id}", lambda: restart(owner), lambda: "process ended")

    def kill_all_owners(self) -> Injected | None:
        """All at once: groups go on from the log alone."""
        owners = [owner for owner in self._world.owners.values() if owner.process.alive]
        if len(owners) < 2 or self._random.random() < 0.5:
            return None
        for owner in owners:
            owner.kill()

        def heal() -> None:
            for owner in owners:
                restart(owner)

        return Injected("kill all owners", heal, lambda: f"{len(owners)} processes ended")

    def pause_owner(self) -> Injected | None:
        """SIGSTOP; meanwhile another may lead."""
        owner = self._owner()
        if owner is None:
            return None
        process = owner.process
        process.pause()
        if self._random.random() < 0.5:
            self._move()
        proof = lambda: process.waited and f"{process.waited} events waited" or ""  # noqa: E731
        return Injected(f"pause owner {owner.broker_id}", process.resume, proof)

    def _move(self) -> int:
        world = self._world
        others = [broker_id for broker_id, owner in world.owners.items() if owner.process.alive]
        world.lead(self._random.choice(others or list(world.owners)))
        return world.log.leader

    def move_leader(self) -> Injected | None:
        """Another leads, or the same one under another epoch."""
        leader = self._move()
        return Injected(f"broker {leader} leads", lambda: None, lambda: "another epoch")

    def zombie_owner(self) -> Injected | None:
        """Another leads, and who led does not hear of it, nor is told by the partition that it is refused."""
        world = self._world
        before, usual_us = world.log.leader, world.slow_metadata_us
        others = [one for one, owner in world.owners.items() if one != before and owner.up]
        if not others or usual_us >= SLOW_METADATA_US:
            return None
        world.slow_metadata_us = SLOW_METADATA_US
        world.log.apart.add(before)
        leader = self._random.choice(others)
        world.lead(leader)

        def heal() -> None:
            world.slow_metadata_us = usual_us
            world.log.apart.discard(before)

        return Injected(f"broker {before} does not hear that {leader} leads", heal, lambda: "two think they own")

    def failing_appends(self) -> Injected | None:
        """Appends fail, or come late, or nobody hears of them."""
        log = self._world.log
        if log.refuses or log.loses or log.lates:
            return None
        before = log.refused + log.lost + log.late
        log.refuses, log.loses, log.lates = (self._random.choice((0.0, 0.02, 0.1)) for _ in range(3))

        def heal() -> None:
            log.refuses = log.loses = log.lates = 0.0

        def proof() -> str:
            failed = log.refused + log.lost + log.late - before
            return f"{failed} appends refused, unheard of or late" if failed else ""

        return Injected("failing appends", heal, proof)

    def compaction(self) -> Injected | None:
        """The log is compacted."""
        before = self._world.log.compacted
        self._world.log.compact()
        removed = self._world.log.compacted - before
        return Injected("compaction", lambda: None, lambda: f"{removed} records removed" if removed else "")

    # --- members -------------------------------------------------------------------------------------------------

    def _member(self) -> SimulatedMember | None:
        there = [one for one in self._world.members.values() if one.process.alive and not one.process.paused]
        there = [one for one in there if not one.leaving]
        return self._random.choice(there) if there else None

    def kill_member(self) -> Injected | None:
        """SIGKILL; it comes back."""
        member = self._member()
        if member is None:
            return None
        member.kill()
        return Injected(f"kill {member.name}", lambda: come_back(member), lambda: "process ended")

    def pause_member(self) -> Injected | None:
        """SIGSTOP."""
        member = self._member()
        if member is None:
            return None
        process = member.process
        process.pause()
        proof = lambda: process.waited and f"{process.waited} events waited" or ""  # noqa: E731
        return Injected(f"pause {member.name}", process.resume, proof)

    def leave(self) -> Injected | None:
        """In order; it comes back."""
        member = self._member()
        if member is None:
            return None
        member.leaving = True
        member.leave()

        def heal() -> None:
            if member.process.alive:
                member.kill()
            come_back(member)

        return Injected(f"{member.name} leaves", heal, lambda: "it left")

    def more_members(self) -> Injected | None:
        """One more; some have the instance id of another, which they replace."""
        world = self._world
        if len(world.members) >= MEMBERS_MAX or not world.topics:
            return None
        name = f"m{len(world.members)}"
        topics = self._topics()
        statics = [one for one in world.members.values() if one.instance_id]
        like = self._random.choice(statics) if statics and self._random.random() < 0.5 else None
        group_id = like.group_id if like is not None else "g"
        world.members[name] = SimulatedMember(world, name, group_id, topics, like.instance_id if like else "")
        return Injected(f"{name} joins", lambda: None, lambda: "one more")

    def _topics(self) -> list[str]:
        names = list(self._world.topics)
        return names if self._random.random() < 0.5 else self._random.sample(names, self._random.randint(1, len(names)))

    def subscribe(self) -> Injected | None:
        """To something else; also to what does not exist."""
        member = self._member()
        if member is None or not self._world.topics:
            return None
        topics = [*self._topics(), *(["nothing"] if self._random.random() < 0.2 else [])]
        member.subscribe(topics)
        return Injected(f"{member.name} subscribes to {topics}", lambda: None, lambda: "another subscription")

    def change_topics(self) -> Injected | None:
        """A topic more, or larger, or deleted."""
        world = self._world
        name = f"t{self._random.randrange(4)}"
        there = world.topics.get(name)
        if there is not None and self._random.random() < 0.4 and len(world.topics) > 1:
            world.delete_topic(name)
            return Injected(f"delete {name}", lambda: None, lambda: "a topic less")
        partitions = (len(there.replicas) if there else 0) + self._random.randint(1, 3)
        world.create_topic(name, partitions)
        return Injected(f"{name} has {partitions} partitions", lambda: None, lambda: "more partitions")

    # --- between them --------------------------------------------------------------------------------------------

    def break_exchanges(self) -> Injected | None:
        """Connections break."""
        there = [one for one in self._world.members.values() if one.exchange is not None]
        for member in there:
            assert member.exchange is not None
            member.exchange.break_off()
        return Injected("break connections", lambda: None, lambda: f"{len(there)} broke" if there else "")

    def stall(self) -> Injected | None:
        """What some members say is read late: they try another connection meanwhile."""
        there = [
            one for one in self._world.members.values() if one.exchange is not None and self._random.random() < 0.5
        ]
        for member in there:
            assert member.exchange is not None
            member.exchange.stall(self._random.randrange(100_000, 4_000_000))
        return Injected("late reads", lambda: None, lambda: f"of {len(there)} members" if there else "")

    def cut(self) -> Injected | None:
        """A member and a coordinator hear nothing of each other, and do not learn of it."""
        member = self._member()
        if member is None:
            return None
        pair = (member.name, self._world.log.leader)
        if pair in self._world.cuts:
            return None
        self._world.cuts.add(pair)
        return Injected(f"cut {pair}", lambda: self._world.cuts.discard(pair), lambda: "they were apart")

    def bad_network(self) -> Injected | None:
        """Calls and answers get lost, and come twice."""
        network = self._world.network
        if network.loss:
            return None
        before = network.lost + network.duplicated
        network.loss, network.duplication = self._random.choice((0.05, 0.2)), self._random.choice((0.0, 0.2))

        def heal() -> None:
            network.loss = network.duplication = 0.0

        def proof() -> str:
            count = network.lost + network.duplicated - before
            return f"{count} messages lost or doubled" if count else ""

        return Injected(f"lose {network.loss:.0%}", heal, proof)

    def slow_network(self) -> Injected | None:
        """Calls take long, and overtake each other."""
        network = self._world.network
        usual_us = network.delay_us_max
        if usual_us > 100_000:
            return None
        before, network.delay_us_max = network.sent, self._random.choice((200_000, 1_500_000))

        def heal() -> None:
            network.delay_us_max = usual_us

        return Injected("slow calls", heal, lambda: f"{network.sent - before} sent" if network.sent > before else "")

    def clock(self) -> Injected | None:
        """A boot clock runs too fast or slow."""
        owner = self._random.choice(list(self._world.owners.values()))
        rate = owner.clock.rate
        if abs(rate - 1) > 0.1:
            return None
        owner.clock.run_at(self._random.choice((0.5, 2.0)))
        return Injected(f"clock of {owner.broker_id}", lambda: owner.clock.run_at(rate), lambda: "it was wrong")

    def wall_clock(self) -> Injected | None:
        """Somebody sets the wall clock."""
        owner = self._random.choice(list(self._world.owners.values()))
        ms = self._random.choice((-3_600_000, -1_000, 1_000, 3_600_000))
        owner.clock.step_wall(ms)
        return Injected(f"wall clock of {owner.broker_id} set by {ms} ms", lambda: None, lambda: "it was set")


def restart(owner: Owner) -> None:
    """Starts the process again, if nobody else has."""
    if not owner.process.alive:
        owner.start()


def come_back(member: SimulatedMember) -> None:
    """A new process of the same consumer."""
    if not member.process.alive:
        member.leaving = False
        member.start()

"""The assignor `uniform`: balanced, then sticky, then local.

Balanced: no partition could be handed on, from member to member over topics that each subscribes to, so that somebody
who has at least two more than somebody else ends with one fewer. With equal subscriptions counts differ by at most one.
Sticky: who was to have a partition keeps it, unless balance takes it away; what is new, or was taken away, goes on.
Local: of what is not kept, as much as balance allows goes to members on whose host a replica lies; and what a member
gives up is, if it can choose, not local to it.

It is the search for an optimal semi-matching (Harvey, Ladner, Lovasz, Tamir, 2006): give each partition to somebody,
then hand on along the shortest path from the most loaded member to one with two fewer, until there is none. Paths lead
over `classes`: topics that have the same subscribers, so with equal subscriptions each path is one step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace

from rayqueue.groups.assignors import Assignment, Members, Topics, in_order, subscribers
from rayqueue.protocol.group_messages import GroupPartition

Replicas = tuple[int, ...]  # broker ids, in order
Bins = dict[Replicas, list[GroupPartition]]


def assign_uniformly(members: Members, topics: Topics, before: Mapping[str, Collection[GroupPartition]]) -> Assignment:
    """See the module. before: the last assignment; it may name members, topics and partitions that are gone."""
    work = _Work(members, topics)
    work.keep(before)
    work.give_out()
    work.balance()
    work.swap()
    return work.assignment()


class _Work:
    """Members and classes are numbered.

    Attributes:
        load: partitions a member has. kept, moved: a member's partitions, by class, then by replicas.
        subs: members of a class, in order.
    """

    def __init__(self, members: Members, topics: Topics) -> None:
        self.ids = in_order(members)
        number = {member_id: n for n, member_id in enumerate(self.ids)}
        self.hosts = [members[member_id].local_brokers for member_id in self.ids]
        self.load = [0] * len(self.ids)
        self.kept: list[dict[int, Bins]] = [{} for _ in self.ids]
        self.moved: list[dict[int, Bins]] = [{} for _ in self.ids]
        self.subs: list[tuple[int, ...]] = []
        self._partitions: dict[GroupPartition, tuple[int, Replicas]] = {}
        self._left: list[tuple[GroupPartition, int, Replicas]] = []
        self._local: dict[tuple[int, Replicas], bool] = {}
        classes: dict[tuple[int, ...], int] = {}
        shared: dict[Replicas, Replicas] = {}
        for name, there in subscribers(members, topics).items():
            key = tuple(number[member_id] for member_id in there)
            kind = classes.setdefault(key, len(classes))
            facts = topics[name]
            for n, brokers in enumerate(facts.replicas):
                replicas = tuple(sorted(brokers))
                one = GroupPartition(facts.topic_id, n)
                self._partitions[one] = kind, shared.setdefault(replicas, replicas)
        self.subs = list(classes)

    def is_local(self, member: int, replicas: Replicas) -> bool:
        """Whether a replica lies on the member's host."""
        key = (member, replicas)
        known = self._local.get(key)
        if known is None:
            known = self._local[key] = not self.hosts[member].isdisjoint(replicas)
        return known

    # --- every partition to somebody -----------------------------------------------------------------------------

    def keep(self, before: Mapping[str, Collection[GroupPartition]]) -> None:
        """What members may keep they keep, for now."""
        owner = {one: n for n, member_id in enumerate(self.ids) for one in before.get(member_id, ())}
        allowed = [frozenset(there) for there in self.subs]
        for one, (kind, replicas) in self._partitions.items():
            member = owner.get(one)
            if member is not None and member in allowed[kind]:
                self.kept[member].setdefault(kind, {}).setdefault(replicas, []).append(one)
                self.load[member] += 1
            else:
                self._left.append((one, kind, replicas))

    def give_out(self) -> None:
        """The others go to the least loaded member: of those to whom they are local, where there are any."""
        heaps: dict[tuple[int, Replicas | None], list[tuple[int, int]]] = {}
        local: list[tuple[int, GroupPartition, int, Replicas, tuple[int, Replicas]]] = []
        rest = []
        count: dict[tuple[int, Replicas], int] = {}
        for place, (one, kind, replicas) in enumerate(self._left):
            key = (kind, replicas)
            if key not in count:
                near = [(self.load[m], m) for m in self.subs[kind] if self.is_local(m, replicas)]
                count[key] = len(near)
                heapify(near)
                heaps[key] = near
            if 0 < count[key] < len(self.subs[kind]):
                local.append((place, one, kind, replicas, key))
            else:
                rest.append((one, kind, replicas))
        for _, one, kind, replicas, key in sorted(local, key=lambda entry: (count[entry[4]], entry[0])):
            self._give(one, kind, replicas, heaps[key])
        for one, kind, replicas in rest:
            heap = heaps.get((kind, None))
            if heap is None:
                heap = heaps[kind, None] = [(self.load[m], m) for m in self.subs[kind]]
                heapify(heap)
            self._give(one, kind, replicas, heap)

    def _give(self, one: GroupPartition, kind: int, replicas: Replicas, heap: list[tuple[int, int]]) -> None:
        load, member = heap[0]
        while load != self.load[member]:  # it has got some by another heap
            heapreplace(heap, (self.load[member], member))
            load, member = heap[0]
        self.moved[member].setdefault(kind, {}).setdefault(replicas, []).append(one)
        self.load[member] += 1

    # --- balance -------------------------------------------------------------------------------------------------

    def balance(self) -> None:
        """Hands on until nobody can have one fewer for somebody who has two fewer."""
        heap = [(-load, member) for member, load in enumerate(self.load)]
        heapify(heap)
        while heap:
            load, member = heappop(heap)
            if -load != self.load[member]:
                continue
            # Without a path a member is done for good: whom it reaches has nearly as many as it, and no path of
            # another member, which has no more than this one, leads through those to somebody who has fewer.
            path = self._path(member)
            if path:
                for source, kind, target in path:
                    self._hand_on(source, kind, target)
                heappush(heap, (-self.load[member], member))
                last = path[-1][2]
                heappush(heap, (-self.load[last], last))

    def _path(self, start: int) -> list[tuple[int, int, int]]:
        """Steps (from, class, to) to the least loaded of the nearest members that have at least two fewer."""
        limit = self.load[start] - 2
        came: dict[int, tuple[int, int]] = {start: (start, -1)}
        seen: set[int] = set()
        front = [start]
        while front:
            reached = []
            for member in front:
                for kind in self._classes(member):
                    if kind in seen:
                        continue
                    seen.add(kind)
                    for other in self.subs[kind]:
                        if other not in came:
                            came[other] = (member, kind)
                            reached.append(other)
            fewest = min((self.load[other] for other in reached), default=limit + 1)
            if fewest <= limit:
                ends = [other for other in reached if self.load[other] == fewest]
                end = ends[0] if len(ends) == 1 else max(ends, key=lambda m: (self._gain(*came[m], m), -m))
                return self._way(came, start, end)
            front = reached
        return []

    def _way(self, came: dict[int, tuple[int, int]], start: int, end: int) -> list[tuple[int, int, int]]:
        steps = []
        while end != start:
            source, kind = came[end]
            steps.append((source, kind, end))
            end = source
        return steps[::-1]

    def _classes(self, member: int) -> Iterator[int]:
        """Those it has partitions of; those that it has not kept first."""
        moved = self.moved[member]
        yield from (kind for kind, bins in moved.items() if bins)
        yield from (kind for kind, bins in self.kept[member].items() if bins and not moved.get(kind))

    def _choices(self, source: int, kind: int) -> Bins:
        return self.moved[source].get(kind) or self.kept[source][kind]

    def _gain(self, source: int, kind: int, target: int) -> int:
        return max(self._nearer(source, replicas, target) for replicas in self._choices(source, kind))

    def _nearer(self, source: int, replicas: Replicas, target: int) -> int:
        return self.is_local(target, replicas) - self.is_local(source, replicas)

    def _hand_on(self, source: int, kind: int, target: int) -> None:
        bins = self._choices(source, kind)
        replicas = max(bins, key=lambda one: (self._nearer(source, one, target), one))
        self._move(bins, replicas, target, kind)
        self.load[source] -= 1
        self.load[target] += 1

    def _move(self, bins: Bins, replicas: Replicas, target: int, kind: int) -> None:
        one = bins[replicas].pop()
        if not bins[replicas]:
            del bins[replicas]
        self.moved[target].setdefault(kind, {}).setdefault(replicas, []).append(one)

    # --- locality ------------------------------------------------------------------------------------------------

    def swap(self) -> None:
        """Members exchange what they have not kept, as long as more becomes local by it; counts stay as they are."""
        if not any(self.hosts):
            return
        for kind, there in enumerate(self.subs):
            while self._swap_class(kind, there):
                pass

    def _swap_class(self, kind: int, there: tuple[int, ...]) -> bool:
        better = False
        for member in there:
            bins = self.moved[member].get(kind)
            if bins is None:
                continue
            for replicas in [one for one in sorted(bins) if not self.is_local(member, one)]:
                for other in there:
                    if self.is_local(other, replicas):
                        while replicas in bins and self._swap_one(kind, member, replicas, other):
                            better = True
        return better

    def _swap_one(self, kind: int, member: int, replicas: Replicas, other: int) -> bool:
        """Gives one of these, which are local to `other` only, for one that is worth less to that one."""
        theirs = self.moved[other].get(kind)
        if not theirs:
            return False
        back = max(theirs, key=lambda one: (self._nearer(other, one, member), one))
        if self._nearer(other, back, member) < 0:
            return False
        self._move(self.moved[member][kind], replicas, other, kind)
        self._move(theirs, back, member, kind)
        return True

    # --- the result ----------------------------------------------------------------------------------------------

    def assignment(self) -> Assignment:
        """By member id."""
        result: Assignment = {}
        for n, member_id in enumerate(self.ids):
            result[member_id] = {
                one
                for parts in (self.kept[n], self.moved[n])
                for bins in parts.values()
                for group in bins.values()
                for one in group
            }
        return result

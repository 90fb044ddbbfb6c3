"""Why a member has nothing to read, in words."""

from __future__ import annotations

from rayqueue.client.groups.watch import why_nothing
from rayqueue.protocol.group_messages import AssignedTopic, DescribeGroupResponse, MemberDescription


def member(
    name: str,
    holds: list[int] | None = None,
    revoking: list[int] | None = None,
    target: list[int] | None = None,
    behind_ms: int = 0,
) -> MemberDescription:
    def topics(partitions: list[int] | None) -> list[AssignedTopic]:
        return [AssignedTopic(b"t" * 16, "t", partitions)] if partitions else []

    shares = topics(holds), topics(revoking), topics(target)
    return MemberDescription(name, "", f"host-{name}", f"client-{name}", 4, ["t"], *shares, 10, behind_ms, 45_000)


def why(*members: MemberDescription) -> str:
    return why_nothing(DescribeGroupResponse("g", "Reconciling", 4, "uniform", 0, 0, list(members), []), "me")


def test_who_holds_what_it_waits_for_and_since_when() -> None:
    text = why(
        member("me", target=[1, 2]), member("x", [0], [1], [0], behind_ms=12_000), member("y", [2, 3], target=[3])
    )
    assert text == (
        "waiting for t-1 held by member x (client-x on host-x, asked to give it up 12 s ago); "
        "t-2 held by member y (client-y on host-y)"
    )


def test_more_members_than_partitions() -> None:
    assert why(member("me"), member("x", [0], target=[0])) == (
        "for 2 members share 1 partitions: it takes over when one of them goes"
    )


def test_no_partitions_at_all() -> None:
    assert why(member("me")) == "for there are no partitions of t (yet)"


def test_not_known_there() -> None:
    assert "does not know it" in why(member("x", [0], target=[0]))


def test_about_to_take() -> None:
    assert why(member("me", target=[0, 1])) == "it is about to take 2 partitions"

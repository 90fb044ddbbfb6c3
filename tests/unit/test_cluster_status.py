"""What `status` says of partitions."""

from __future__ import annotations

from rayqueue.cluster_status import ClusterStatus, PartitionStatus, TopicStatus, summary


def status(*partitions: PartitionStatus) -> ClusterStatus:
    return ClusterStatus("c", "id", "h:1", False, "", 3, 17, [], [TopicStatus("t", False, list(partitions))])


def test_all_is_well() -> None:
    found = status(PartitionStatus(0, 1, 4, [1, 2, 3], [1, 2, 3], offline=False, min_isr=2))
    assert summary(found) == []
    assert "0 under-replicated, 0 below min.insync.replicas, 0 offline, 0 being reassigned" in str(found)


def test_what_is_wrong_is_said_the_worst_first() -> None:
    found = status(
        PartitionStatus(0, 1, 4, [1, 2, 3], [1, 2], offline=False, min_isr=2),
        PartitionStatus(1, 1, 4, [1, 2, 3], [1], offline=False, elr=[2], min_isr=2),
        PartitionStatus(2, -1, 4, [1, 2, 3], [3], offline=True, min_isr=1),
        PartitionStatus(3, 1, 9, [1, 2, 3], [1], offline=False, min_isr=1, unclean=True),
    )
    offline, unclean, minimum, replicated = summary(found)
    assert offline.startswith("1 partition is offline") and "t-2" in offline
    assert "UNCLEAN" in unclean and "t-3" in unclean
    assert "t-1" in minimum and "t-0" not in minimum
    assert replicated.startswith("4 partitions are under-replicated")
    assert "1 (eligible 2)" in str(found)
    counts = found.to_dict()
    assert [counts[k] for k in ("under_replicated", "under_min_isr", "offline", "unclean")] == [4, 1, 1, 1]


def test_a_reassignment_is_shown_and_is_no_problem() -> None:
    moving = PartitionStatus(0, 1, 4, [1, 2, 3], [1, 2], offline=False, adding=[3], removing=[2], min_isr=1)
    found = status(moving)
    assert summary(found) == [] and found.reassigning == [("t", 0)]
    assert "1,-2,+3" in str(found) and "1 being reassigned" in str(found)
    (topic,) = found.to_dict()["topics"]
    shown = topic["partitions"][0]
    assert (shown["adding"], shown["removing"], shown["reassigning"], shown["leader_epoch"]) == ([3], [2], True, 4)
    assert (shown["under_replicated"], shown["under_min_isr"]) == (False, False)

"""The fetch machine and a leader of old, which does not know that it is one."""

from __future__ import annotations

from tests.unit.client.fake_chunks import topic_info
from tests.unit.client.fake_leader import Bench


def test_a_zombie_that_calls_an_offset_out_of_range_resets_nobody() -> None:
    bench = Bench(reset="earliest")
    cursor = bench.assign(start=50)
    bench.run()
    bench.tell(leader_epoch=3)
    bench.tell(leader_epoch=2, error="OffsetOutOfRange", message="it ends at 20")
    bench.run()
    bench.learn(topic_info(epoch=3, port=3000))
    bench.run()
    assert cursor.position == 50 and bench.newest().offset == 50 and bench.endpoint.port == 3000


def test_who_is_asked_for_offsets_is_told_the_newest_leader_epoch_seen() -> None:
    bench = Bench()
    cursor = bench.assign()
    bench.run()
    bench.tell(leader_epoch=3)
    bench.learn(topic_info(epoch=3))
    bench.machine.seek(cursor, "latest")
    bench.run()
    assert [query.leader_epoch for query in bench.lookup().queries] == [3]

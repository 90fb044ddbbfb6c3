"""Open chunks, linger, memory, and the hand-over between a chunk's owner and who closes it."""

from types import SimpleNamespace

from rayqueue.client.accumulator import NOBODY, Accumulator, Chunk

ME, OTHER = 11, 22


def _topic(name: str = "t", full_at: int = 1000, plain: bool = True) -> SimpleNamespace:
    return SimpleNamespace(name=name, chunk=None, full_at=full_at, plain=plain, contended=False, record_max=500)


class _Topic(SimpleNamespace):
    __hash__ = object.__hash__


def _make(**given: object) -> _Topic:
    return _Topic(**{**vars(_topic()), **given})


def _opened(accumulator: Accumulator, topic: _Topic, writer: int = ME, size: int = 100) -> Chunk:
    granted = accumulator.grant(topic, size)
    accumulator.memory.take(granted)
    return accumulator.open(topic, None, granted, writer)


def test_a_chunk_is_handed_out_after_linger() -> None:
    accumulator = Accumulator(5.0, 1000, 100_000)
    topic = _make()
    chunk = _opened(accumulator, topic)
    chunk.append(b"v", None, 1, None, -1, 40)
    assert accumulator.take_due(100.0, {topic}) == []
    assert accumulator.next_deadline_ms({topic}) == 105.0
    assert accumulator.take_due(104.9, {topic}) == []
    assert accumulator.take_due(105.0, {topic}) == [chunk]
    assert topic.chunk is None
    assert not accumulator.pending


def test_without_linger_it_is_handed_out_at_once_unless_nothing_could_be_sent() -> None:
    accumulator = Accumulator(0.0, 1000, 100_000)
    topic = _make()
    chunk = _opened(accumulator, topic)
    assert accumulator.take_due(100.0, set()) == [], "the window is full: let it grow"
    assert accumulator.take_due(100.0 + accumulator.HOLD_MS, set()) == [chunk], "but not for ever"
    second = _opened(accumulator, topic)
    assert accumulator.take_due(300.0, {topic}) == [second]


def test_a_flush_does_not_linger() -> None:
    accumulator = Accumulator(60_000.0, 1000, 100_000)
    topic = _make()
    chunk = _opened(accumulator, topic)
    accumulator.hurry += 1
    assert accumulator.take_due(1.0, {topic}) == [chunk]


def test_closed_work_keeps_its_order() -> None:
    accumulator = Accumulator(60_000.0, 1000, 100_000)
    topic = _make()
    chunk = _opened(accumulator, topic)
    accumulator.close(topic)
    accumulator.add("table")
    later = _opened(accumulator, topic)
    accumulator.close(topic)
    assert accumulator.take_due(0.0, set()) == [chunk, "table", later]


def test_memory_a_chunk_did_not_use_is_given_back_when_it_is_closed() -> None:
    accumulator = Accumulator(0.0, 1000, 100_000)
    topic = _make()
    chunk = _opened(accumulator, topic)
    assert accumulator.memory.free == 100_000 - 1000
    chunk.append(b"v" * 8, None, 1, None, -1, 40)
    accumulator.close(topic)
    assert chunk.size == chunk.granted == 40
    assert accumulator.memory.free == 100_000 - 40


def test_grants_are_whole_batches_while_there_is_memory_and_hold_the_record() -> None:
    accumulator = Accumulator(0.0, 1000, 4000)
    topic = _make()
    assert accumulator.grant(topic, 40) == 1000, "a batch for each partition, not a crumb of what is left"
    accumulator.memory.take(3500)
    assert accumulator.grant(topic, 40) == 500
    accumulator.memory.take(500)
    assert accumulator.grant(topic, 40) == 40


def test_a_full_chunk_is_closed_for_the_next_record() -> None:
    accumulator = Accumulator(0.0, 1000, 100_000)
    topic = _make(full_at=100)
    chunk = _opened(accumulator, topic)
    chunk.append(b"", None, 1, None, -1, 60)
    assert accumulator.writable(topic, ME, 40) is chunk
    assert accumulator.writable(topic, ME, 41) is None
    assert chunk.closed
    assert topic.chunk is None


def test_another_threads_chunk_is_closed_and_the_next_belongs_to_nobody() -> None:
    accumulator = Accumulator(0.0, 1000, 100_000)
    topic = _make()
    first = _opened(accumulator, topic, ME)
    assert first.owner == ME
    assert accumulator.writable(topic, OTHER, 10) is None
    assert first.closed
    shared = _opened(accumulator, topic, OTHER)
    assert shared.owner == NOBODY
    assert accumulator.writable(topic, ME, 10) is shared
    accumulator.close(topic)
    again = _opened(accumulator, topic, ME)
    assert again.owner == NOBODY, "two wrote to the last one"
    accumulator.close(topic)
    assert _opened(accumulator, topic, ME).owner == ME, "one alone wrote to the last one"


def test_the_hot_path_sees_only_plain_chunks_with_an_owner() -> None:
    accumulator = Accumulator(0.0, 1000, 100_000)
    topic = _make()
    chunk = _opened(accumulator, topic)
    accumulator.offer_fast(topic)
    assert accumulator.fast == {"t": chunk}
    chunk.append(b"v", None, 1, [("h", b"1")], -1, 40)
    accumulator.offer_fast(topic)
    assert accumulator.fast == {}
    accumulator.close(topic)
    _opened(accumulator, topic)
    accumulator.offer_fast(topic)
    accumulator.close(topic)
    assert accumulator.fast == {}
    _opened(accumulator, _make(name="typed", plain=False))
    accumulator.offer_fast(_make(name="typed", plain=False))
    assert accumulator.fast == {}


def test_columns_begin_when_they_are_first_used() -> None:
    chunk = Chunk(None, None, 1000, owner=ME, writer=ME, limit=500)
    chunk.append(b"a", None, 1, None, -1, 10)
    assert (chunk.keys, chunk.headers, chunk.partitions) == (None, None, None)
    chunk.append(b"b", b"k", 2, [("h", b"")], 3, 10)
    chunk.append(b"c", None, 3, None, -1, 10)
    assert chunk.keys == [None, b"k", None]
    assert chunk.headers == [None, [("h", b"")], None]
    assert chunk.partitions == [-1, 3, -1]
    assert not chunk.plain


def test_an_interrupted_record_is_taken_back() -> None:
    chunk = Chunk(None, None, 1000, owner=ME, writer=ME, limit=500)
    chunk.append(b"a", b"k", 1, None, -1, 10)
    chunk.keys.append(b"half")  # type: ignore[union-attr]
    chunk.times.append(2)
    chunk.truncate(1)
    assert (chunk.values, chunk.keys, chunk.times) == ([b"a"], [b"k"], [1])


def test_who_closes_counts_after_it_said_so() -> None:
    """The interleavings of an append without the lock: the record is in, or its owner can tell that it is not."""
    for appended_first in (True, False):
        chunk = Chunk(None, None, 1000, owner=ME, writer=ME, limit=500)
        chunk.append(b"a", None, 1, None, -1, 10)
        index = len(chunk.values)
        if appended_first:
            chunk.values.append(b"b")
            chunk.close()
        else:
            chunk.close()
            chunk.values.append(b"b")
        assert chunk.closed, "the owner's look after its append"
        assert (index < chunk.count) is appended_first

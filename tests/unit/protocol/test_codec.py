"""The codec: bytes that are no message, errors over the wire, and decoders made by many threads at once."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Iterator

import msgspec
import pytest

from rayqueue import errors
from rayqueue.protocol import codec
from rayqueue.protocol.messages import FetchRequest, Hello, MetadataRequest, ProduceBatch, ProduceRequest, Registered


@pytest.fixture
def eager_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def decode_after(barrier: threading.Barrier, raw: bytes, kind: type, seen: list[object]) -> None:
    barrier.wait(10)
    seen.append(codec.decode(raw, kind))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x93\x01\xff", ProduceRequest),
        (b"\x93", FetchRequest),
        (b"\x93\x90", FetchRequest),
        (b"\x92", MetadataRequest),
        (b"", Hello),
    ],
)
@pytest.mark.parametrize("count", [b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
def test_a_count_that_the_bytes_do_not_bear_out_takes_no_memory(head: bytes, kind: type, count: bytes) -> None:
    """Four thousand million elements, characters or bytes in a message of a few."""
    codec.decoder(kind)
    tracemalloc.start()
    try:
        with pytest.raises(errors.ProtocolError):
            codec.decode(head + count + b"\x01\x01", kind)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_many_threads_meet_a_new_message_at_once(eager_switches: None) -> None:
    """msgspec crashed the process when two threads made the first decoder of a struct together."""
    for number in range(100):
        inner = msgspec.defstruct(f"Inner{number}", [(f"x{i}", list[int]) for i in range(10)], array_like=True)
        fields = [(f"a{i}", list[str]) for i in range(20)]
        kind = msgspec.defstruct(f"Outer{number}", [*fields, ("n", list[inner])], array_like=True)  # type: ignore[valid-type]
        raw = msgspec.msgpack.encode([["q"]] * 20 + [[]])
        barrier = threading.Barrier(4)
        seen: list[object] = []

        threads = [threading.Thread(target=decode_after, args=(barrier, raw, kind, seen)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(seen) == 4


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xc1", codec.encode(["a", "b"]), codec.encode({"topics": None})])
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(errors.ProtocolError, match="not a MetadataRequest"):
        codec.decode(data, MetadataRequest)


def test_every_error_keeps_its_class_and_text_over_the_wire() -> None:
    for name, kind in errors.BY_NAME.items():
        with pytest.raises(kind, match="because of x") as caught:
            codec.decode_reply(codec.encode_failure(kind("because of x")), Registered)
        assert type(caught.value).__name__ == name


def test_an_error_of_a_newer_peer_and_a_reply_of_a_stranger() -> None:
    newer = b"\x01" + codec.encode(codec.Failure("NotInventedYet", "text"))
    with pytest.raises(errors.RayQueueError, match="NotInventedYet: text"):
        codec.decode_reply(newer, Registered)
    for stranger in (b"", b"HTTP/1.1 200 OK"):
        with pytest.raises(errors.ProtocolError, match="rayqueue"):
            codec.decode_reply(stranger, Registered)


FIELDS = dict.fromkeys(ProduceBatch.__struct_fields__[1:], 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", 2**31),
        ("leader_epoch", -2),
        ("producer_id", 2**63),
        ("producer_epoch", 2**15),
        ("base_sequence", 2**31),
        ("record_count", 2**31),
        ("min_timestamp", -2),
        ("max_timestamp", 2**63),
        ("attributes", 2**16),
        ("crc", 2**32),
    ],
)
def test_numbers_that_the_log_cannot_hold_are_refused_on_the_wire(field: str, value: int) -> None:
    batch = [b"t" * 16, *{**FIELDS, field: value}.values()]
    with pytest.raises(errors.ProtocolError, match="ProduceRequest"):
        codec.decode(codec.encode([1, -1, [batch]]), ProduceRequest)

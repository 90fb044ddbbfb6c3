"""The token bucket: no more goes than the rate gives, but for one burst and one batch, and no less than it could."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rayqueue.replication.token_bucket import BURST_MS, REFILL_MS, TokenBucket


def test_it_begins_full_and_holds_no_more_than_a_burst() -> None:
    bucket = TokenBucket(10_000, 5_000)
    assert bucket.available(5_000) == bucket.available(900_000) == 10_000 * BURST_MS // 1000


def test_what_is_taken_comes_back_at_the_rate() -> None:
    bucket = TokenBucket(10_000, 0)
    bucket.take(2_000, 0)
    assert bucket.available(0) == 0
    assert bucket.ready_ms(0) == REFILL_MS
    assert bucket.available(REFILL_MS) == 200
    assert bucket.available(100) == 1_000


def test_a_batch_larger_than_the_bucket_is_paid_off_first() -> None:
    bucket = TokenBucket(1_000, 0)
    bucket.take(10_200, 0)
    assert bucket.available(9_999) == 0
    assert bucket.ready_ms(0) == 10_000 + REFILL_MS
    assert bucket.available(10_500) == BURST_MS


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1_000, 1_000)
    bucket.take(BURST_MS, 1_000)
    assert bucket.available(500) == 0
    assert bucket.available(1_000) == 0
    assert bucket.available(1_001) == 1


def test_the_slowest_rate_gives_a_byte_in_the_end() -> None:
    bucket = TokenBucket(1, 0)
    bucket.take(1, 0)
    assert bucket.available(bucket.ready_ms(0)) > 0


@given(
    st.integers(1, 10**7),
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 200_000)), min_size=1, max_size=60),
)
def test_in_any_time_no_more_goes_than_the_rate_and_one_burst_and_one_batch(
    rate: int, steps: list[tuple[int, int]]
) -> None:
    bucket, now_ms = TokenBucket(rate, 0), 0
    sent: list[tuple[int, int]] = []
    for wait_ms, size in steps:
        now_ms += wait_ms
        if bucket.available(now_ms) > 0:
            bucket.take(size, now_ms)
            sent.append((now_ms, size))
        else:
            again = bucket.ready_ms(now_ms)
            assert again > now_ms and bucket.available(again) > 0, "who comes when told finds something"
            now_ms = again
    for i, (begin, _) in enumerate(sent):
        for j in range(i, len(sent)):
            total = sum(size for _, size in sent[i : j + 1])
            allowed = rate * (sent[j][0] - begin + BURST_MS) / 1000 + max(size for _, size in sent[i : j + 1]) + 1
            assert total <= allowed

"""Hashes of keys, and the map of their newest offsets, against a dict."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from rayqueue.storage.compaction.key_map import ENTRY_BYTES, KeyMap, Keys, hash_keys

SEED = (11, 12)


def pairs(keys: Keys) -> list[tuple[int, int]]:
    return list(zip(keys.high.tolist(), keys.low.tolist(), strict=True))


def test_equal_keys_have_equal_hashes_and_others_other_ones() -> None:
    rng = random.Random(1)
    keys = [rng.randbytes(rng.randint(0, 40)) for _ in range(3000)]
    keys += [b"", b"\0", b"\0\0", b"\0" * 8, b"\0" * 9, b"a", b"a\0", bytes([128]) + bytes(7), bytes([128]) + bytes(15)]
    keys += keys[:500]
    hashes = pairs(hash_keys(pa.array(keys, pa.binary()), SEED))
    found = dict(zip(keys, hashes, strict=True))
    assert [found[key] for key in keys] == hashes
    assert len({one for one, _ in found.values()}) == len({one for _, one in found.values()}) == len(found)


def test_a_flipped_bit_anywhere_changes_both_halves() -> None:
    """Also the highest bits of neighbouring words, which a product alone would carry nowhere."""
    flips = [sum(1 << bit for bit in bits).to_bytes(24, "little") for bits in [(), (63,), (63, 127), (63, 127, 95)]]
    flips += [(1 << bit).to_bytes(24, "little") for bit in range(192)]
    keys = hash_keys(pa.array([*dict.fromkeys(flips)], pa.binary()), SEED)
    assert len(set(keys.high.tolist())) == len(set(keys.low.tolist())) == len(set(flips))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["", "x", "yy", None, "x"], pa.string()),
        pa.array([b"", b"x", b"yy", None, b"x"], pa.large_binary()),
        pa.array([-1, 5, 7, None, 5], pa.int16()),
        pa.array([1, 2, 3, None, 2], pa.uint64()),
        pa.array([b"abc", b"abd", b"abe", None, b"abd"], pa.binary(3)),
    ],
)
def test_keys_of_every_type_also_of_a_slice(column: pa.Array) -> None:
    whole = hash_keys(column, SEED)
    assert whole.keyed is not None and whole.keyed.tolist() == [True, True, True, False, True]
    hashes = pairs(whole)
    assert hashes[1] == hashes[4] and len({hashes[0], hashes[1], hashes[2]}) == 3
    assert pairs(hash_keys(column.slice(1, 2), SEED)) == hashes[1:3]
    assert pairs(hash_keys(column.slice(5), SEED)) == []


def test_another_seed_gives_other_hashes() -> None:
    column = pa.array([b"k%d" % i for i in range(100)], pa.binary())
    assert not set(pairs(hash_keys(column, SEED))) & set(pairs(hash_keys(column, (12, 11))))


def test_it_knows_what_a_dict_knows() -> None:
    rng = random.Random(2)
    for _ in range(30):
        newest, model, offset = KeyMap(10_000), dict[bytes, int](), 0
        for _ in range(rng.randint(1, 8)):
            keys = [rng.choice([None, b"k%d" % rng.randint(0, 40)]) for _ in range(rng.randint(0, 60))]
            offsets = np.arange(offset, offset + len(keys))
            newest.add(hash_keys(pa.array(keys, pa.binary()), SEED), offsets)
            model.update((key, at) for key, at in zip(keys, offsets.tolist(), strict=True) if key is not None)
            offset += len(keys)
        asked = [rng.choice([None, b"k%d" % rng.randint(0, 60)]) for _ in range(200)]
        at = [rng.randint(0, offset) for _ in asked]
        answers = newest.superseded(hash_keys(pa.array(asked, pa.binary()), SEED), np.array(at)).tolist()
        assert answers == [key is not None and one < model.get(key, -1) for key, one in zip(asked, at, strict=True)]
        assert len(newest) == len(model)


def test_keys_that_share_half_of_their_hash_are_told_apart() -> None:
    newest = KeyMap(100)
    high, low = np.array([7, 7, 7, 9], np.uint64), np.array([1, 3, 2, 1], np.uint64)
    newest.add(Keys(high, low, None), np.arange(4))
    assert newest.superseded(Keys(high, low, None), np.arange(4)).tolist() == [False] * 4
    assert newest.superseded(Keys(high, low, None), np.arange(4) - 1).tolist() == [True] * 4
    assert newest.superseded(Keys(high, low + np.uint64(7), None), np.zeros(4, np.int64)).tolist() == [False] * 4


def test_it_takes_no_more_than_it_may() -> None:
    newest, offset = KeyMap(1000), 0
    while newest.fits(50):
        newest.add(hash_keys(pa.array([b"%d" % (offset + i) for i in range(50)], pa.binary()), SEED), np.arange(50))
        offset += 50
    assert 750 < len(newest) == offset <= 1000
    repeated = KeyMap(1000)
    for _ in range(100):
        assert repeated.fits(50)
        repeated.add(hash_keys(pa.array([b"%d" % i for i in range(50)], pa.binary()), SEED), np.arange(50))
    assert len(repeated) == 50
    assert KeyMap(10).fits(5000), "an empty one takes a batch of any size"
    assert ENTRY_BYTES >= 24

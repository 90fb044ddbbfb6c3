"""CRC32C outside the interpreter's lock: the same values, whichever way they are computed."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest

from rayqueue.protocol import crc


@pytest.mark.parametrize("size", [0, 1, 9, 65_535, 65_536, 65_537, 1_000_003])
@pytest.mark.parametrize("start", [0, 1, 7])
def test_it_is_the_same_crc(size: int, start: int) -> None:
    data = pa.py_buffer(np.random.default_rng(size).bytes(size + start)).slice(start)
    expected = google_crc32c.value(data.to_pybytes())
    assert crc.crc_of(data) == expected
    assert crc.crc_of(data.to_pybytes()) == expected


def test_without_the_library_it_is_computed_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crc, "_extend", None)
    data = pa.py_buffer(bytes(200_000))
    assert crc.crc_of(data) == google_crc32c.value(data)


def test_a_google_crc32c_without_its_library_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert crc._library() is None

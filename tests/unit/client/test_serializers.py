"""Keys and values into bytes."""

import math

import pytest

from rayqueue.client.serializers import serializer, to_bytes
from rayqueue.errors import ConfigError, SerializationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"x", b"x"), ("é", b"\xc3\xa9"), (None, None), (bytearray(b"ab"), b"ab"), (memoryview(b"ab"), b"ab"), ("", b"")],
)
def test_bytes_and_text_need_no_serializer(value: object, expected: bytes | None) -> None:
    assert to_bytes(value, "value") == expected


@pytest.mark.parametrize("value", [5, 1.5, {"a": 1}, object()])
def test_other_types_are_refused_by_name(value: object) -> None:
    with pytest.raises(SerializationError, match=f"{type(value).__name__}.*value_serializer"):
        to_bytes(value, "value")


def test_text_that_utf8_cannot_write_is_refused() -> None:
    with pytest.raises(SerializationError, match="Unicode"):
        to_bytes("\ud800", "key")


def test_json_and_utf8_by_name() -> None:
    assert serializer("json", "value")({"a": [1, None]}) == b'{"a":[1,null]}'
    assert serializer("utf-8", "key")("k") == b"k"
    with pytest.raises(SerializationError, match="key serializer failed on a int"):
        serializer("utf-8", "key")(5)


@pytest.mark.parametrize("value", [math.nan, {"a": [1, -math.inf]}, [(1.5, {"b": math.inf})]])
def test_json_refuses_what_it_has_no_word_for(value: object) -> None:
    with pytest.raises(SerializationError, match="no NaN and no infinity"):
        serializer("json", "value")(value)


def test_other_parts_of_a_record_have_no_serializer_to_set() -> None:
    with pytest.raises(SerializationError, match="header is bytes.*not int: convert it") as raised:
        to_bytes(5, "header")
    assert "serializer" not in str(raised.value)


def test_a_function_serializes_and_its_failure_names_the_type() -> None:
    assert serializer(lambda n: n.to_bytes(2, "big"), "key")(258) == b"\x01\x02"
    assert serializer(str, "value")(12) == b"12", "a function may make str"
    with pytest.raises(SerializationError, match=r"key serializer failed on a str: .*to_bytes"):
        serializer(lambda n: n.to_bytes(2, "big"), "key")("no number")
    with pytest.raises(SerializationError, match="made a list"):
        serializer(lambda _: [1], "value")(1)


def test_null_stays_null() -> None:
    assert serializer("json", "value")(None) is None


def test_what_is_no_serializer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"value.serializer"):
        serializer("avro", "value")

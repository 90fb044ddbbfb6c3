"""How records are printed."""

import datetime
import json

import click
import pytest

from rayqueue.cli.record_format import Row, compile_format, render_json

ROW = Row("clicks", 2, 41, 1700000000000, b"u1", b"hello", [("a", b"1"), ("b", None)])


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (r"%v\n", b"hello\n"),
        (r"%t %p %o %k %v %h %T\n", b"clicks 2 41 u1 hello a=1,b= 1700000000000\n"),
        (r"%K:%V", b"2:5"),
        (r"100%%\t\x41\\\0", b"100%\tA\\\0"),
        ("é", "é".encode()),
        ("", b""),
    ],
)
def test_formats(text, printed):
    assert compile_format(text)(ROW) == printed


def test_missing_key_and_value():
    row = ROW._replace(key=None, value=None, headers=None)
    assert compile_format("[%k][%v][%h] %K %V")(row) == b"[][][] -1 -1"


def test_bytes_that_are_no_text_pass_unchanged():
    assert compile_format("%v")(ROW._replace(value=b"\xff\x00")) == b"\xff\x00"


def test_columns_become_json():
    row = ROW._replace(value={"delay": 1.5, "day": datetime.date(2013, 1, 1), "who": None})
    assert compile_format("%v")(row) == b'{"delay":1.5,"day":"2013-01-01","who":null}'


@pytest.mark.parametrize("text", ["%x", "%", "\\q", "\\", "\\xg0", "\\x4"])
def test_what_does_not_exist(text):
    with pytest.raises(click.BadParameter):
        compile_format(text)


def test_json_lines():
    assert json.loads(render_json(ROW)) == {
        "topic": "clicks",
        "partition": 2,
        "offset": 41,
        "timestamp": 1700000000000,
        "key": "u1",
        "value": "hello",
        "headers": [["a", "1"], ["b", None]],
    }
    assert render_json(ROW).endswith(b"}\n")


def test_json_keeps_bytes_that_are_no_text():
    assert json.loads(render_json(ROW._replace(value=b"\xff\xfe")))["value"] == {"base64": "//4="}

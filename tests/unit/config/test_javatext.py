from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.config.javatext import LINE_LENGTH_MAX, Property, parse, quote
from shmq.errors import ConfigError


def pairs(text: str) -> list[tuple[str, str]]:
    return [(one.key, one.value) for one in parse(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# no\n! no\n  # no", []),
        ("a=1", [("a", "1")]),
        ("a = 1", [("a", "1")]),
        ("a:1\nb 2\nc\t3", [("a", "1"), ("b", "2"), ("c", "3")]),
        ("a", [("a", "")]),
        ("a==1", [("a", "=1")]),
        ("a : = 1", [("a", "= 1")]),
        ("  a=1  ", [("a", "1  ")]),
        ("a=1\r\nb=2\rc=3", [("a", "1"), ("b", "2"), ("c", "3")]),
        ("a=1,\\\n   2,\\\n  3", [("a", "1,2,3")]),
        ("a=1\\\\\nb=2", [("a", "1\\"), ("b", "2")]),
        ("a=1\\", [("a", "1")]),
        ("a\\=b=c\\:d", [("a=b", "c:d")]),
        ("a\\ b=1", [("a b", "1")]),
        ("a=\\t\\n\\r\\f\\q", [("a", "\t\n\r\fq")]),
        ("a=\\u00e9", [("a", "é")]),
        ("a=\\ud83d\\ude00", [("a", "😀")]),
        ("a=\\ud83d", [("a", "�")]),
        ("a=1\na=2", [("a", "1"), ("a", "2")]),
        ("\\\n\\\na=1", [("a", "1")]),
        ("a=1\\\n# part of it", [("a", "1# part of it")]),
    ],
)
def test_what_java_reads(text: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(text) == expected


def test_lines_are_counted_from_one() -> None:
    assert parse("#\n\na=1\\\n2\nb=3") == [Property("a", "12", 3), Property("b", "3", 5)]


@pytest.mark.parametrize("escape", ["\\u", "\\u12", "\\u12g4", "\\u 123"])
def test_broken_escape(escape: str) -> None:
    with pytest.raises(ConfigError, match=r"broken \\u escape: line=2"):
        parse(f"a=1\nb={escape}")


def test_length_of_a_line() -> None:
    longest = "a=" + "x" * (LINE_LENGTH_MAX - 2)
    assert len(parse(longest)[0].value) == LINE_LENGTH_MAX - 2
    with pytest.raises(ConfigError, match="line too long: line=1"):
        parse(longest + "x")


@given(st.text())
def test_quoted_text_is_read_back(value: str) -> None:
    assert pairs(f"key={quote(value)}\nnext=1") == [("key", value), ("next", "1")]

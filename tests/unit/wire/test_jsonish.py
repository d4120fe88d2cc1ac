"""JSON as fastjson writes it, and as it must be refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from shmq.errors import ProtocolError
from shmq.wire import jsonish
from shmq.wire.jsonish import DEPTH_MAX, ObjectKeyed, dumps, loads


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a":[1,2.5,null,true,"x"]}', {"a": [1, 2.5, None, True, "x"]}),
        ('{0:"a",-1:"b",name:"c"}', {"0": "a", "-1": "b", "name": "c"}),
        ("{'a':'b\"'}", {"a": 'b"'}),
        ("[1,,2,]", [1, 2]),
        ('{"a":1,}', {"a": 1}),
        ('{"a:1":{b:"{c:2}"}}', {"a:1": {"b": "{c:2}"}}),
        ('"\\u540d\\n"', "名\n"),
        ("'\\x41\\0\\v'", "A\0\v"),
        ("'\\ud83d\\ude00'", "😀"),
        ("'\\ud83d'", "\ufffd"),
        ("9223372036854775807", 2**63 - 1),
        ("{'a':12345678901234567890123}", {"a": 12345678901234567890123}),
        (" { } ", {}),
        ("{a:1.5e3}", {"a": 1500.0}),
    ],
)
def test_read(text: str, wanted: Any) -> None:
    assert loads(text.encode()) == wanted


def test_objects_as_names() -> None:
    text = b'{{"brokerName":"b","queueId":0,"topic":"T"}:{"offset":5},{queueId:1}:6}'
    found = loads(text)
    assert isinstance(found, ObjectKeyed)
    assert found == [
        ({"brokerName": "b", "queueId": 0, "topic": "T"}, {"offset": 5}),
        ({"queueId": 1}, 6),
    ]
    assert loads(dumps({"t": found})) == {"t": found}
    assert dumps(found) == jsonish.dumps_object_keyed(found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"a":{"x":1},"b":{"$ref":"$.a"}}', {"a": {"x": 1}, "b": {"x": 1}}),
        ('[{"x":1},{"$ref":"$[0]"}]', [{"x": 1}, {"x": 1}]),
        ('{"a":[{"x":{"y":2}}],"b":{"$ref":"$.a[0].x"}}', {"a": [{"x": {"y": 2}}], "b": {"y": 2}}),
        ('{"a":{"b.c":[7]},"d":{"$ref":"$.a[\'b.c\']"}}', {"a": {"b.c": [7]}, "d": [7]}),
        ('{"a":1,"b":{"$ref":"$.c"},"c":{"$ref":"$.d"},"d":[3]}',
         {"a": 1, "b": [3], "c": [3], "d": [3]}),
        ('{"$ref":5}', {"$ref": 5}),
        ('"$ref"', "$ref"),
    ],
)  # fmt: skip
def test_references(text: str, wanted: Any) -> None:
    assert loads(text.encode()) == wanted


@pytest.mark.parametrize(
    "text",
    [
        '{"$ref":"$"}', '{"a":{"$ref":"$"}}', '{"a":{"$ref":"$.a"}}', '{"a":{"$ref":".."}}',
        '{"a":{"$ref":"@"}}', '{"a":{"$ref":"$.b"},"b":{"$ref":"$.a"}}', '{"a":{"$ref":"$.z"}}',
        '{"a":{"b":{"$ref":"$.a"}}}', '{"a":{"$ref":"$.a.b"}}', '[{"$ref":"$[5]"}]',
        '{"a":{"$ref":"x"}}', '{"a":{"$ref":"$$"}}',
    ],
)  # fmt: skip
def test_references_that_lead_nowhere_or_in_circles(text: str) -> None:
    with pytest.raises(ProtocolError):
        loads(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "}", "[", "]", "{a}", "{a:}", "{:1}", "{a:1 b:2}", "[1 2]", "'", '"', "'\\",
        "'\\u12'", "'\\q'", "nul", "tru e", "1 2", "{a:1}x", "{{}}", "{{1:2}:3,a:4}", "--1", "+1",
        "{'a':" + "1" * 41 + "}", "{'a':1,{}:2,}x", "NaN", "{a:Infinity}",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        loads(text.encode())


def test_depth_is_limited() -> None:
    for opening, closing in (("[", ",]"), ("{'a':", ",}")):
        fits = opening * DEPTH_MAX + "1" + closing * DEPTH_MAX
        assert loads(fits.encode()) is not None
        with pytest.raises(ProtocolError, match="too deep"):
            loads((opening + fits + closing).encode())
    for opening in ("[", "{a:", "{'a':[", '{"a":'):
        with pytest.raises(ProtocolError):
            loads((opening * 100_000).encode())


def test_size_is_limited() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        loads(bytes(jsonish.SIZE_MAX + 1))
    with pytest.raises(ProtocolError, match="loose JSON too long"):
        loads(b"['" + b"x" * jsonish.LOOSE_SIZE_MAX + b"']")


def test_references_cannot_blow_a_document_up() -> None:
    """Each level names the one before twice: two to the number of levels."""
    levels = [f'"l{n}":[{{"$ref":"$.l{n - 1}"}},{{"$ref":"$.l{n - 1}"}}]' for n in range(1, 40)]
    text = '{"l0":[1],' + ",".join(levels) + "}"
    start = time.monotonic()
    with pytest.raises(ProtocolError, match="blow"):
        loads(text.encode())
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "text", ['{"' * 50_000, "{a" * 50_000, '"\\' * 50_000, "[" + "{a:1}," * 50_000, "'" * 99_999]
)
def test_hostile_texts_take_no_time(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(ProtocolError):
        loads(text.encode())
    assert time.monotonic() - start < 10


def test_written_compact() -> None:
    assert dumps({"a": [1, None, True], 5: "名"}) == '{"a":[1,null,true],"5":"名"}'.encode()

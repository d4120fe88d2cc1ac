"""Properties and message ids."""

from __future__ import annotations

import pytest

from shmq.errors import ProtocolError
from shmq.wire.messageid import (
    host_bytes,
    host_text,
    offset_message_id,
    parse_offset_message_id,
)
from shmq.wire.properties import PROPERTIES_SIZE_MAX, decode_properties, encode_properties


def test_properties_are_written_and_read() -> None:
    sent = {"KEYS": "a b", "名": "值", "x": "1\n"}
    assert encode_properties(sent) == "KEYS\x01a b\x02名\x01值\x02x\x011\n\x02".encode()
    assert decode_properties(encode_properties(sent)) == sent
    assert encode_properties({}) == b""


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", {}),
        (b"\x02\x02", {}),
        (b"a\x01b", {"a": "b"}),
        (b"a\x01b\x02c", {"a": "b"}),
        (b"a\x01\x02b\x01c\x02", {"b": "c"}),
        (b"a\x01b\x01c\x02", {"a": "b\x01c"}),
        (b"a\x01b\x02a\x01c\x02", {"a": "c"}),
        (b"\x01b\x02", {}),
    ],
)
def test_properties_as_they_come(data: bytes, wanted: dict[str, str]) -> None:
    assert decode_properties(data) == wanted
    assert decode_properties(memoryview(data)) == wanted


@pytest.mark.parametrize("pair", [("a\x01", "b"), ("a\x02", "b"), ("a", "b\x02"), ("", "b")])
def test_separators_inside(pair: tuple[str, str]) -> None:
    with pytest.raises(ProtocolError, match="separator"):
        encode_properties(dict([pair]))


def test_properties_at_their_limit() -> None:
    assert len(encode_properties({"a": "x" * (PROPERTIES_SIZE_MAX - 3)})) == PROPERTIES_SIZE_MAX
    with pytest.raises(ProtocolError, match="too long"):
        encode_properties({"a": "x" * (PROPERTIES_SIZE_MAX - 2)})
    with pytest.raises(ProtocolError, match="UTF-8"):
        decode_properties(b"a\x01\xff\x02")


@pytest.mark.parametrize("address", ["127.0.0.1", "255.255.255.255", "::1", "fe80::1%eth0"])
def test_message_ids(address: str) -> None:
    host = host_bytes(address)
    text = offset_message_id(host, 10911, 2**63 - 1)
    assert len(text) == (32 if len(host) == 4 else 56)
    assert text == text.upper()
    assert parse_offset_message_id(text) == (host, 10911, 2**63 - 1)
    assert parse_offset_message_id(text.lower()) == (host, 10911, 2**63 - 1)
    assert host_bytes(host_text(host)) == host


def test_message_ids_that_are_none() -> None:
    good = offset_message_id(bytes(4), 65_535, 0)
    parse_offset_message_id(good)
    for bad in (
        "",
        good[:-1],
        good + "0",
        "G" + good[1:],
        good[:8] + "00010000" + good[16:],
        good[:8] + "FFFFFFFF" + good[16:],
        good[:16] + "F" + good[17:],
        " " * 2 + good[2:],
    ):
        with pytest.raises(ProtocolError):
            parse_offset_message_id(bad)
    with pytest.raises(ValueError, match="localhost"):
        host_bytes("localhost")

"""Headers as strict and as loose peers write them, and cut at every byte."""

from __future__ import annotations

import pytest

from shmq.errors import ProtocolError
from shmq.wire.header import BINARY, JSON, LANGUAGES, Header, decode_header, encode_header


def loose(text: str) -> Header:
    return decode_header(text.encode(), JSON)


def test_what_absent_keys_mean() -> None:
    assert loose('{"code":10}') == Header(10, 0, 0, "OTHER", 0, None, {})
    assert loose('{"code":10,"extFields":null,"remark":null,"language":null}').ext == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{code:10,opaque:7}", Header(10, 7, 0, "OTHER", 0, None, {})),
        ('{"code":"10","flag":"1"}', Header(10, 0, 1, "OTHER", 0, None, {})),
        ('{"code":10,"language":9}', Header(10, 0, 0, "GO", 0, None, {})),
        ('{"code":10,"language":99}', Header(10, 0, 0, "OTHER", 0, None, {})),
        (
            '{"code":10,"extFields":{"a":1,"b":true,"c":null,"d":"x"}}',
            Header(10, 0, 0, "OTHER", 0, None, {"a": "1", "b": "true", "d": "x"}),
        ),
        (
            '{"code":10,"extFields":{"a":{"b":[1]}}}',
            Header(10, 0, 0, "OTHER", 0, None, {"a": '{"b":[1]}'}),
        ),
        ('{"code":10,"remark":5}', Header(10, 0, 0, "OTHER", 0, "5", {})),
        ('{"code":null}', Header(0, 0, 0, "OTHER", 0, None, {})),
        ("{'code':1,}", Header(1, 0, 0, "OTHER", 0, None, {})),
    ],
)
def test_loose_headers(text: str, wanted: Header) -> None:
    assert loose(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "5", "null", "{}", '{"opaque":1}', '{"code":"x"}', '{"code":1.5}',
        '{"code":2147483648}', '{"code":-2147483649}', '{"code":1,"opaque":99999999999}',
        '{"code":true}', '{"code":[1]}', '{"code":1,"extFields":[]}', '{"code":1,"extFields":5}',
        '{"code":1} x', "\xff", "{" * 1000, '{"a":' * 1000, '{"code":1,"extFields":{"a":"\\ud800',
    ],
)  # fmt: skip
def test_what_is_no_header(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode_header(text.encode("latin-1"), JSON)


@pytest.mark.parametrize("number", [-(2**31), -1, 0, 1, 2**31 - 1])
def test_numbers_at_their_limits(number: int) -> None:
    for serialization in (JSON, BINARY):
        sent = Header(5, number, number)
        assert decode_header(encode_header(sent, serialization), serialization) == sent


@pytest.mark.parametrize("code", [-(2**15), 2**15 - 1])
def test_codes_of_binary_headers(code: int) -> None:
    assert decode_header(encode_header(Header(code), BINARY), BINARY).code == code
    outside = code + (1 if code > 0 else -1)
    with pytest.raises(ProtocolError, match="does not fit"):
        encode_header(Header(outside), BINARY)
    assert decode_header(encode_header(Header(outside), JSON), JSON).code == outside


def test_languages_by_number() -> None:
    for number, name in enumerate(LANGUAGES):
        data = bytearray(encode_header(Header(1, language=name), BINARY))
        assert data[2] == number
        assert decode_header(data, BINARY).language == name
        data[2] = 200
        assert decode_header(data, BINARY).language == "OTHER"
    assert encode_header(Header(1, language="COBOL"), BINARY)[2] == LANGUAGES.index("OTHER")


def test_a_binary_header_cut_at_every_byte() -> None:
    data = encode_header(Header(1, remark="r", ext={"key": "value", "k": ""}), BINARY)
    assert decode_header(data, BINARY).ext == {"key": "value", "k": ""}
    for cut in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_header(data[:cut], BINARY)


def test_binary_headers_with_every_byte_bent() -> None:
    """Refused or understood, never anything else."""
    data = encode_header(Header(1, remark="r", ext={"key": "value"}), BINARY)
    for at in range(len(data)):
        for bits in (0x01, 0x80, 0xFF):
            bent = bytearray(data)
            bent[at] ^= bits
            try:
                header = decode_header(bent, BINARY)
            except ProtocolError:
                continue
            assert isinstance(header, Header)


def test_another_serialization() -> None:
    with pytest.raises(ProtocolError, match="unknown serialization"):
        decode_header(b"{}", 2)

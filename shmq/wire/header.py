"""Header of one remoting command: what it asks or answers, without its body.

Two forms, named by byte 4 of the frame (`wire.frame` has the frame's table):

JSON (0): one object, UTF-8; our own are compact and have Java's keys in Java's order

    code, extFields, flag, language, opaque, remark, serializeTypeCurrentRPC, version

BINARY (1), big-endian, packed:

    offset  size  type  field
         0     2  i16   code
         2     1  i8    language         0..13, place in LANGUAGES
         3     2  i16   version
         5     4  i32   opaque           chosen by the asking side, copied into the answer
         9     4  i32   flag             bit 0: answer, bit 1: one-way
        13     4  i32   remark_size      0 = none
        17     n  utf8  remark
      17+n     4  i32   ext_size         bytes of all that follows, 0 = none
                        ext entries:     i16 key_size, key, i32 value_size, value

Written by: everybody. Source: Apache RocketMQ remoting/protocol/RocketMQSerializable,
RemotingCommand; shapes of real frames are in tests/golden.
"""

from __future__ import annotations

import re
import struct
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import orjson
from msgspec import Meta

from shmq.errors import ProtocolError
from shmq.wire import jsonish

Buffer: TypeAlias = bytes | bytearray | memoryview

JSON: Final = 0
BINARY: Final = 1

FLAG_RESPONSE: Final = 1
FLAG_ONEWAY: Final = 2

OUR_LANGUAGE: Final = "PYTHON"
OUR_VERSION: Final = 513  # V5_5_0; clients allow SQL92 from 232 on.

LANGUAGES: Final = (
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY",
    "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST", "NODE_JS",
)  # fmt: skip
LANGUAGE_BYTES: Final = {name: number for number, name in enumerate(LANGUAGES)}
OTHER_LANGUAGE: Final = LANGUAGE_BYTES["OTHER"]

INT16_MIN: Final = -(2**15)
INT16_MAX: Final = 2**15 - 1
INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1

_FIXED: Final = struct.Struct(">hbhiii")
_INT32: Final = struct.Struct(">i")
_KEY_SIZE: Final = struct.Struct(">h")
_FIXED_SIZE: Final = 17
assert _FIXED.size == _FIXED_SIZE

_NUMBER: Final = re.compile("[+-]?[0-9]{1,19}")

_Int32: TypeAlias = Annotated[int, Meta(ge=INT32_MIN, le=INT32_MAX)]


class Header(msgspec.Struct):
    """One remoting command without its body."""

    code: int
    opaque: int = 0
    flag: int = 0
    language: str = OUR_LANGUAGE
    version: int = OUR_VERSION
    remark: str | None = None
    ext: dict[str, str] = {}

    @property
    def is_response(self) -> bool:
        """Whether this answers a request with the same opaque."""
        return self.flag & FLAG_RESPONSE != 0

    @property
    def is_oneway(self) -> bool:
        """Whether the asking side wants no answer, not even an error."""
        return self.flag & FLAG_ONEWAY != 0


class _JsonHeader(msgspec.Struct, rename={"ext": "extFields"}):
    """What well-formed JSON headers look like; absent keys mean what they mean to Java."""

    code: _Int32
    opaque: _Int32 = 0
    flag: _Int32 = 0
    language: str | None = None
    version: _Int32 = 0
    remark: str | None = None
    ext: dict[str, str] | None = None


_decode_json: Final = msgspec.json.Decoder(_JsonHeader).decode


def decode_header(data: Buffer, serialization: int) -> Header:
    """Header from its bytes; unknown keys are ignored, ext values are made text.

    Raises:
        ProtocolError: the bytes are no header of that serialization, or a number leaves its range.
    """
    if serialization == BINARY:
        return _decode_binary(bytes(data))
    if serialization != JSON:
        raise ProtocolError(
            "unknown serialization type", found=serialization, allowed=(JSON, BINARY)
        )
    try:
        read = _decode_json(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        read = _decode_loose(bytes(data))
    return Header(
        read.code,
        read.opaque,
        read.flag,
        read.language or "OTHER",
        read.version,
        read.remark,
        read.ext or {},
    )


def encode_header(header: Header, serialization: int) -> bytes:
    """Bytes of `header`: compact JSON in Java's key order, or the binary form.

    An answer always has extFields, if only an empty one: Java reads it unconditionally.
    """
    if serialization == BINARY:
        return _encode_binary(header)
    assert serialization == JSON, serialization
    ext = header.ext
    assert all(type(value) is str for value in ext.values()), "Go drops other ext values"
    ext_text = b""
    if ext or header.flag & FLAG_RESPONSE:
        ext_text = b'"extFields":%b,' % orjson.dumps(ext)
    remark_text = b""
    if header.remark is not None:
        remark_text = b'"remark":%b,' % orjson.dumps(header.remark)
    return (
        b'{"code":%d,%b"flag":%d,"language":%b,"opaque":%d,%b'
        b'"serializeTypeCurrentRPC":"JSON","version":%d}'
        % (
            header.code,
            ext_text,
            header.flag,
            orjson.dumps(header.language),
            header.opaque,
            remark_text,
            header.version,
        )
    )


def encode_frame(header: Header, body: bytes = b"", serialization: int = JSON) -> bytes:
    """A whole frame: length, type and header size, header, body."""
    head = encode_header(header, serialization)
    head_size = len(head)
    assert head_size < 1 << 24, head_size
    return b"%b%b%b%b" % (
        (4 + head_size + len(body)).to_bytes(4, "big"),
        (serialization << 24 | head_size).to_bytes(4, "big"),
        head,
        body,
    )


def answer(
    request: Header, code: int, remark: str | None = None, ext: dict[str, str] | None = None
) -> Header:
    """Header that answers `request`: its opaque, our language and version."""
    return Header(
        code, request.opaque, FLAG_RESPONSE, remark=remark, ext={} if ext is None else ext
    )


def _decode_loose(data: bytes) -> _JsonHeader:
    """Header from what strict decoding refused: bare numbers in ext, unquoted names, nulls."""
    read = jsonish.loads(data)
    if not isinstance(read, dict):
        raise ProtocolError("header is not an object", found=type(read).__name__)
    ext = read.get("extFields")
    if ext is not None and not isinstance(ext, dict):
        raise ProtocolError("extFields is not an object", found=type(ext).__name__)
    if "code" not in read:
        raise ProtocolError("header without code", keys=sorted(map(str, read))[:20])
    language, remark = read.get("language"), read.get("remark")
    return _JsonHeader(
        code=_loose_int("code", read.get("code")),
        opaque=_loose_int("opaque", read.get("opaque", 0)),
        flag=_loose_int("flag", read.get("flag", 0)),
        language=_loose_language(language),
        version=_loose_int("version", read.get("version", 0)),
        remark=None if remark is None else _loose_text(remark),
        ext={
            str(key): _loose_text(value) for key, value in (ext or {}).items() if value is not None
        },
    )


def _loose_language(value: object) -> str | None:
    """Language by name, or by number as fastjson reads an enum."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(LANGUAGES):
        return LANGUAGES[value]
    return value if isinstance(value, str) else None


def _loose_int(name: str, value: object) -> int:
    """A header number, also when it was sent as text; null is 0, as in Java."""
    if value is None:
        return 0
    if isinstance(value, str):
        value = int(value) if _NUMBER.fullmatch(value) else None
    if type(value) is not int:
        raise ProtocolError("header number is not a number", key=name, found=value)
    if not INT32_MIN <= value <= INT32_MAX:
        raise ProtocolError("header number leaves 32 bits", key=name, found=value)
    return value


def _loose_text(value: Any) -> str:
    """Text of a JSON value, as Java's map of strings would hold it."""
    if isinstance(value, str):
        return value
    return jsonish.dumps(value).decode()


def _decode_binary(data: bytes) -> Header:
    """Header in its binary form."""
    size = len(data)
    if size < _FIXED.size + 4:
        raise ProtocolError("binary header too short", size=size, size_min=_FIXED.size + 4)
    code, language, version, opaque, flag, remark_size = _FIXED.unpack_from(data)
    remark_end = _FIXED.size + remark_size
    if remark_size < 0 or remark_end + 4 > size:
        raise ProtocolError("remark longer than header", remark_size=remark_size, size=size)
    (ext_size,) = _INT32.unpack_from(data, remark_end)
    if ext_size < 0 or remark_end + 4 + ext_size > size:
        raise ProtocolError("ext fields longer than header", ext_size=ext_size, size=size)
    try:
        remark = data[_FIXED.size : remark_end].decode() if remark_size else None
        ext = _decode_ext(data, remark_end + 4, remark_end + 4 + ext_size)
    except UnicodeDecodeError as error:
        raise ProtocolError("binary header is not UTF-8", position=error.start) from None
    name = LANGUAGES[language] if 0 <= language < len(LANGUAGES) else "OTHER"
    return Header(code, opaque, flag, name, version, remark, ext)


def _decode_ext(data: bytes, position: int, end: int) -> dict[str, str]:
    """Ext fields from [position, end) of a binary header."""
    ext: dict[str, str] = {}
    while position < end:
        if position + 2 > end:
            raise ProtocolError("ext field cut off", position=position, end=end)
        (key_size,) = _KEY_SIZE.unpack_from(data, position)
        key_end = position + 2 + key_size
        if key_size < 0 or key_end + 4 > end:
            raise ProtocolError("ext key longer than header", key_size=key_size, end=end)
        (value_size,) = _INT32.unpack_from(data, key_end)
        value_end = key_end + 4 + value_size
        if value_size < 0 or value_end > end:
            raise ProtocolError("ext value longer than header", value_size=value_size, end=end)
        ext[data[position + 2 : key_end].decode()] = data[key_end + 4 : value_end].decode()
        position = value_end
    return ext


def _encode_binary(header: Header) -> bytes:
    """Binary form of `header`; its code and version must fit into 16 bits."""
    if not INT16_MIN <= header.code <= INT16_MAX:
        raise ProtocolError("code does not fit into a binary header", code=header.code)
    remark = b"" if header.remark is None else header.remark.encode()
    parts = [
        _FIXED.pack(
            header.code,
            LANGUAGE_BYTES.get(header.language, OTHER_LANGUAGE),
            header.version,
            header.opaque,
            header.flag,
            len(remark),
        ),
        remark,
        b"",  # Replaced below by the size of what follows.
    ]
    for key, value in header.ext.items():
        key_bytes, value_bytes = key.encode(), value.encode()
        parts += (
            _KEY_SIZE.pack(len(key_bytes)),
            key_bytes,
            _INT32.pack(len(value_bytes)),
            value_bytes,
        )
    parts[2] = _INT32.pack(sum(map(len, parts)) - _FIXED.size - len(remark))
    return b"".join(parts)

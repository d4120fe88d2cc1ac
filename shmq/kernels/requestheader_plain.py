"""Plain twin of requestheader.py: headers of requests, when they are of a plain form."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

INT32_MAX: Final = 2**31 - 1
SIGNED: Final = frozenset({"AccessKey", "Signature"})

# The grammar of a plain JSON header; possessive, so that time grows with the size only.
_BLANK: Final = rb"[ \t\n\r]*+"
_KEY: Final = rb'"([^"\\\x00-\x1f]*+)"'
_STRING: Final = rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"'
_INTEGER: Final = rb"-?(?:0|[1-9][0-9]{0,17})"
_NAMED: Final = _BLANK + _KEY + _BLANK + b":" + _BLANK
_EXT_FIELD: Final = _NAMED + b"(" + _STRING + b")" + _BLANK
_EXT: Final = rb"\{(?:" + _BLANK + b"|" + _EXT_FIELD + b"(?:," + _EXT_FIELD + rb")*+)\}"
_VALUE: Final = b"|".join((_EXT, _STRING, _INTEGER, b"true", b"false", b"null"))
_MEMBER: Final = _NAMED + b"(" + _VALUE + b")" + _BLANK
_NAMED_VALUE: Final = _NAMED + b"(?P<value>" + _VALUE + b")" + _BLANK
_HEADER: Final = _BLANK + rb"\{" + _MEMBER + b"(?:," + _MEMBER + rb")*+\}" + _BLANK

_is_integer: Final = re.compile(_INTEGER).fullmatch
_find_members: Final = re.compile(_NAMED_VALUE).finditer
_find_ext_fields: Final = re.compile(_NAMED + b"(?P<value>" + _STRING + b")").finditer
_is_header: Final = re.compile(_HEADER).fullmatch

_BINARY_FIXED: Final = struct.Struct(">hbhiii")
_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")


class NotPlain(Exception):
    """The request is for the general path."""


class Header(NamedTuple):
    """A header; values of ext fields are as they came, with escapes if `json`."""

    code: int
    opaque: int
    flag: int
    ext: dict[str, bytes]
    json: bool


def read_json(data: bytes, once_only: Collection[str]) -> Header:
    """A JSON header that is plain: see _HEADER and the kernel's grammar."""
    try:
        data.decode()
    except UnicodeDecodeError:
        raise NotPlain from None
    if _is_header(data) is None:
        raise NotPlain
    numbers: dict[bytes, int] = {}
    ext: list[tuple[bytes, bytes]] | None = None
    for name, value in _pairs(_find_members, data):
        if (name == b"extFields") != value.startswith(b"{"):
            raise NotPlain
        if name == b"extFields":
            if ext is not None:
                raise NotPlain
            ext = [(key, text[1:-1]) for key, text in _pairs(_find_ext_fields, value)]
        elif name in {b"code", b"flag", b"opaque", b"version"}:
            if _is_integer(value) is None or (name in numbers and name != b"version"):
                raise NotPlain
            numbers[name] = int(value)
            if name == b"version" and not -INT32_MAX - 1 <= numbers[name] <= INT32_MAX:
                raise NotPlain
        elif name in {b"language", b"remark"} and not value.startswith((b'"', b"n")):
            raise NotPlain
    return Header(
        code=numbers.get(b"code", 0),
        opaque=numbers.get(b"opaque", 0),
        flag=numbers.get(b"flag", 0),
        ext=_fields_of(ext or [], once_only),
        json=True,
    )


def read_binary(data: bytes, once_only: Collection[str]) -> Header:
    """A binary header; every text in it must be UTF-8, no size may be more than there is."""
    try:
        code, _, _, opaque, flag, size = _BINARY_FIXED.unpack_from(data)
        rest = data[_BINARY_FIXED.size :]
        _, rest = _cut_text(rest, size)
        (ext_size,) = _INT32.unpack_from(rest)
        rest = rest[_INT32.size :]
        if ext_size != len(rest):
            raise NotPlain
        ext: list[tuple[bytes, bytes]] = []
        while rest:
            (size,) = _INT16.unpack_from(rest)
            name, rest = _cut_text(rest[_INT16.size :], size)
            if not name:
                raise NotPlain
            (size,) = _INT32.unpack_from(rest)
            value, rest = _cut_text(rest[_INT32.size :], size)
            ext.append((name, value))
    except (struct.error, UnicodeDecodeError):
        raise NotPlain from None
    return Header(code=code, opaque=opaque, flag=flag, ext=_fields_of(ext, once_only), json=False)


def number(
    fields: dict[str, bytes],
    name: str,
    *,
    signed: bool = False,
    digits_max: int = 10,
    limit: int = INT32_MAX,
    default: int | None = None,
) -> int:
    """A field of decimal digits; an absent one is not plain but when it has a default."""
    if name not in fields and default is not None:
        return default
    text = fields.get(name, b"")
    digits = text.removeprefix(b"-") if signed else text
    if not digits.isdigit() or len(digits) > digits_max or not -limit - 1 <= int(text) <= limit:
        raise NotPlain
    return int(text)


def _pairs(find: Any, data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and value of each member; the value is the last group, others are of nested names."""
    return [(match[1], match["value"]) for match in find(data)]


def _fields_of(ext: list[tuple[bytes, bytes]], once_only: Collection[str]) -> dict[str, bytes]:
    """Ext fields by name, when none of those used comes twice and the request is not signed."""
    fields: dict[str, bytes] = {}
    for key, value in ext:
        name = key.decode()
        if name in SIGNED or (name in once_only and name in fields):
            raise NotPlain
        fields[name] = value
    return fields


def _cut_text(data: bytes, size: int) -> tuple[bytes, bytes]:
    """A text of so many bytes, and what follows it."""
    if not 0 <= size <= len(data):
        raise NotPlain
    data[:size].decode()
    return data[:size], data[size:]

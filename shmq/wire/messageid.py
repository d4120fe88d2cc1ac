"""Ids that name a message by its place: the offset message id.

Upper-case hex of: address (4 or 16 bytes), port (i32), physical offset (i64); all big-endian.
32 characters for an IPv4 store host, 56 for an IPv6 one.

Source: Apache RocketMQ common/message/MessageDecoder.createMessageId.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

from shmq.errors import ProtocolError

_PLACE: Final = struct.Struct(">iq")
IPV4_SIZE: Final = 4
IPV6_SIZE: Final = 16
ID_SIZES: Final = (2 * (IPV4_SIZE + _PLACE.size), 2 * (IPV6_SIZE + _PLACE.size))  # (32, 56)
PORT_MAX: Final = 0xFFFF


class MessagePlace(NamedTuple):
    """What an offset message id says."""

    host: bytes  # 4 or 16 bytes
    port: int
    physical_offset: int


def offset_message_id(host: bytes, port: int, physical_offset: int) -> str:
    """Id of the message whose record lies at `physical_offset` of the broker at host:port."""
    assert len(host) in (IPV4_SIZE, IPV6_SIZE), host
    return (host + _PLACE.pack(port, physical_offset)).hex().upper()


def parse_offset_message_id(text: str) -> MessagePlace:
    """Host, port and physical offset that the id names.

    Raises:
        ProtocolError: `text` is not 32 or 56 hex digits, or names an impossible place.
    """
    if len(text) not in ID_SIZES:
        raise ProtocolError("message id length", found=len(text), allowed=ID_SIZES)
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise ProtocolError("message id is not hex", found=text) from None
    if 2 * len(data) != len(text):  # fromhex skips blanks.
        raise ProtocolError("message id is not hex", found=text)
    host = data[: -_PLACE.size]
    port, physical_offset = _PLACE.unpack(data[-_PLACE.size :])
    if not 0 <= port <= PORT_MAX or physical_offset < 0:
        raise ProtocolError("message id names no place", port=port, physical_offset=physical_offset)
    return MessagePlace(host, port, physical_offset)


def host_bytes(address: str) -> bytes:
    """The 4 or 16 bytes of a numeric IPv4 or IPv6 address; a scope ("%eth0") is dropped.

    Raises:
        ValueError: `address` is a name or no address.
    """
    return ipaddress.ip_address(address.partition("%")[0]).packed


def host_text(host: bytes) -> str:
    """Text form of a 4 or 16 byte address."""
    return str(ipaddress.ip_address(host))

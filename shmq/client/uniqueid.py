"""Ids that a client gives its messages (UNIQ_KEY), in the form of Apache's clients.

Upper-case hex of: address (4 bytes, or 16), pid (i16), a number of this process (i32), ms since
the first of the month (i32), a counter (i16); big-endian. 32 or 56 characters.

Source: Apache RocketMQ common/message/MessageClientIDSetter.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import time
from typing import Final

COUNTER_MASK: Final = 0xFFFF
LOOPBACK: Final = "127.0.0.1"


def local_address() -> str:
    """An address by which others may know this host; asks the kernel's routes, sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Of the block for documentation: nobody is there.
            address: str = probe.getsockname()[0]
        except OSError:
            return LOOPBACK
    return address


def month_of(now: float) -> tuple[float, float]:
    """First moments of the month of `now` and of the next, local time as in Java; epoch seconds."""
    year, month = time.localtime(now)[:2]
    begin, end = (
        time.mktime((year, number, 1, 0, 0, 0, 0, 0, -1)) for number in (month, month + 1)
    )
    return begin, end


class IdMaker:
    """Makes ids; for one process and from any thread."""

    def __init__(self, address: str) -> None:
        packed = ipaddress.ip_address(address.partition("%")[0]).packed
        number = os.urandom(4)  # In place of the hash of Java's class loader.
        head = packed + (os.getpid() & 0xFFFF).to_bytes(2, "big") + number
        self._head = head.hex().upper()
        self._counter = itertools.count(int.from_bytes(os.urandom(2), "big"))
        self._month_start, self._month_end = month_of(time.time())

    def next(self) -> str:
        """A new id."""
        now = time.time()
        if now >= self._month_end:
            self._month_start, self._month_end = month_of(now)
        return (
            f"{self._head}{int((now - self._month_start) * 1000) & 0xFFFFFFFF:08X}"
            f"{next(self._counter) & COUNTER_MASK:04X}"
        )

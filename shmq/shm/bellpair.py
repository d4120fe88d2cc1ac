"""Bells between a client and the broker: pairs of stream sockets, of which each has one end.

Neither end can make a call of the other wait, whatever it does to its own.
"""

from __future__ import annotations

import socket
from typing import Final

RUNG: Final = b"\0"
TAKE_SIZE: Final = 4096


def make_bell() -> tuple[int, int]:
    """Descriptors of the two ends."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return first.detach(), second.detach()


def ring_bell(end: socket.socket) -> None:
    """Make the other end readable; nothing happens when nobody has it any more."""
    try:
        end.send(RUNG, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:  # It is rung already, so often that no more fits; or nobody is there.
        return


def hush_bell(end: socket.socket) -> bool:
    """Take what was rung, without waiting; False when the other end is closed."""
    try:
        return bool(end.recv(TAKE_SIZE, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False

"""What the broker tells systemd: sd_notify, which is one datagram on a Unix socket.

Without NOTIFY_SOCKET in the environment every call does nothing. A service manager that does not
take the datagram is no reason to stop: the failure is remembered in `last_error` and that is all.
Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS_SIZE_MAX: Final = 1024


class Notifier:
    """Sends states to the service manager, if there is one."""

    def __init__(self, environ: Mapping[str, str], *, pid: int) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval_ms = _watchdog_interval_ms(environ, pid=pid)
        self.last_error: OSError | None = None

    @property
    def enabled(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def ready(self, status: str) -> None:
        """Say that the broker serves."""
        self._send(f"READY=1\nSTATUS={_line(status)}\nMAINPID={os.getpid()}")

    def reloading(self, monotonic_us: int) -> None:
        """Say that the settings are read again; ready() ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}")

    def stopping(self, status: str) -> None:
        """Say that the broker drains."""
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """Say in a line what the broker does now."""
        self._send(f"STATUS={_line(status)}")

    def watchdog(self) -> None:
        """Say that the supervisor and all roles live."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, timeout_ms: int, status: str) -> None:
        """Ask for `timeout_ms` from now on, and say what takes so long."""
        self._send(f"EXTEND_TIMEOUT_USEC={timeout_ms * 1000}\nSTATUS={_line(status)}")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._address)
        except OSError as error:
            self.last_error = error


def _address(value: str) -> str | None:
    """Socket address of NOTIFY_SOCKET; `@` stands for the abstract namespace."""
    if value.startswith("@") and len(value) > 1:
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog_interval_ms(environ: Mapping[str, str], *, pid: int) -> int:
    """Time between two watchdog messages, half of what is allowed; 0 when none are wanted."""
    for_pid = environ.get("WATCHDOG_PID", "")
    timeout_us = environ.get("WATCHDOG_USEC", "")
    if not timeout_us.isascii() or not timeout_us.isdigit():
        return 0
    if for_pid not in {"", str(pid)}:
        return 0
    return max(int(timeout_us) // 2000, 1) if int(timeout_us) > 0 else 0


def _line(status: str) -> str:
    return " ".join(status.split())[:STATUS_SIZE_MAX]

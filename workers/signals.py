"""Signals of the supervisor: taken as flags and one byte in a pipe, handled in its loop."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

TAKEN: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Inbox:
    """What the supervisor was asked for by signals. One at a time in a process."""

    def __init__(self) -> None:
        self.stop_asked = False
        self.hasten_asked = False
        self._reload_asked = False
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_handlers: dict[signal.Signals, Any] = {}
        self._old_wakeup_fd = -1

    def open(self) -> None:
        """Set the handlers."""
        # The C handler writes the byte, so no signal is lost between a look and the sleep.
        self._old_wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in TAKEN:
            self._old_handlers[number] = signal.signal(number, self._on_signal)

    def fileno(self) -> int:
        """Readable after a signal."""
        return self._read_fd

    def empty(self) -> None:
        """Forget the bytes; the flags stay."""
        try:
            while os.read(self._read_fd, 4096):
                pass
        except BlockingIOError:
            return

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last call."""
        asked = self._reload_asked
        self._reload_asked = False
        return asked

    def restore(self) -> None:
        """Set the handlers back to what they were, in the supervisor."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers.clear()
        signal.set_wakeup_fd(self._old_wakeup_fd)
        self.close()

    def close(self) -> None:
        """Close the pipe; also in a child, which must have set its own wakeup descriptor before."""
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.stop_asked:
            self.hasten_asked = True
        elif number in {signal.SIGTERM, signal.SIGINT}:
            self.stop_asked = True
        elif number == signal.SIGHUP:
            self._reload_asked = True

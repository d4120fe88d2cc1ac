"""The gate before sends: whether the store takes messages now, and if not, why."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from shmq.errors import RequestRefused
from shmq.layout.control import Word
from shmq.wire.codes import ResponseCode
from shmq.workers.base import epoch_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.config import Settings
    from shmq.shm.arena import Arena

LOOK_INTERVAL_MS: Final = 50
PARTS_PER_PERCENT: Final = 100
SLAVE: Final = "SLAVE"


class Gate:
    """Looks at the shared words now and then; cheap to ask with every read."""

    def __init__(self, *, arena: Arena, settings: Settings) -> None:
        self._settings = settings
        self._flush_error = arena.reader(Word.FLUSH_ERROR)
        self._no_room_since = arena.reader(Word.NO_ROOM_SINCE)
        self._disk_used = arena.reader(Word.DISK_USED)
        self._reason: Callable[[], RequestRefused] | None = None
        """Makes the refusal anew: one that was raised before holds on to what it went through."""
        self._look_due_ms = 0
        self.shut = False
        """Shut by hand: sends of one connection are refused because they waited too long."""

    def reload(self, settings: Settings) -> None:
        """Take the limits anew."""
        self._settings = settings
        self._look_due_ms = 0

    def closed(self, now_ms: int) -> bool:
        """Whether sends must take the general path, which refuses them."""
        if now_ms >= self._look_due_ms:
            self._look_due_ms = now_ms + LOOK_INTERVAL_MS
            self._reason = self._why()
        return self.shut or self._reason is not None

    def check(self) -> None:
        """Let a send pass.

        Raises:
            RequestRefused: the store takes none now.
        """
        if self._reason is not None:
            raise self._reason()

    def _why(self) -> Callable[[], RequestRefused] | None:
        settings = self._settings
        if self._flush_error.load():
            return partial(
                RequestRefused,
                ResponseCode.SERVICE_NOT_AVAILABLE,
                "the store takes no more messages: writing the commitlog failed",
                errno=self._flush_error.load(),
                hint="repair the disk, then restart the broker",
            )
        if self._no_room_since.load():
            return partial(
                RequestRefused,
                ResponseCode.SERVICE_NOT_AVAILABLE,
                "the disk has no room for the commitlog",
                hint="make room; sends are then taken again by themselves",
            )
        used_percent = self._disk_used.load() / PARTS_PER_PERCENT
        if used_percent >= settings.disk_space_warning_level_ratio:
            return partial(
                RequestRefused,
                ResponseCode.SERVICE_NOT_AVAILABLE,
                "the disk of the commitlog is too full",
                used_percent=used_percent,
                allowed_percent=settings.disk_space_warning_level_ratio,
            )
        if settings.broker_role == SLAVE:
            return partial(
                RequestRefused,
                ResponseCode.SYSTEM_BUSY,
                "this broker is a slave; send to its master",
            )
        begin_ms = settings.start_accept_send_request_time_stamp
        if begin_ms and epoch_ms() < begin_ms:
            return partial(
                RequestRefused,
                ResponseCode.SYSTEM_ERROR,
                "the broker takes messages only later",
                begin_timestamp_ms=begin_ms,
            )
        return None

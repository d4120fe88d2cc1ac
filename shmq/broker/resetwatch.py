"""Resets that wait, as a serve process meets them in pulls: who is told, who has adopted.

    pull of a queue whose reset waits
        its connection was told, and asks for the very offset  -> adopted: it is served
        else                                                   -> told: 21 and the offset

A connection is told by the answer to a pull, or to a question for the committed offset (14). Once
adopted, the queue's pulls are served at once; the coordinator hears of it, and takes the reset away
from everybody. A coordinator that has died over that is told again when its successor shows the
reset once more.

Why it must be the very offset: a consumer that is told drops what it has and comes back from there,
Java's of 4.x after more than 10 s. What it, or another that had the queue, still pulls and commits
before is from where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from shmq.broker.views import Views
    from shmq.wire.internal import ResetView

TOLD_MAX: Final = 4096


class ResetKey(NamedTuple):
    """A queue as a group reads it."""

    group: str
    topic: str
    queue_id: int


Told = dict[ResetKey, int]
"""Numbers of the resets that a connection was told of."""


class ResetWatch:
    """What one serve process knows of resets that wait."""

    def __init__(self, *, views: Views, on_adopted: Callable[[ResetKey, int], None]) -> None:
        self._views = views
        self._on_adopted = on_adopted
        self._adopted: Told = {}

    def refresh(self) -> None:
        """The views have changed."""
        if not self._adopted:
            return
        self._adopted = {
            key: number for key, number in self._adopted.items() if self._number(key) == number
        }
        for key, number in self._adopted.items():
            self._on_adopted(key, number)

    def meet(self, key: ResetKey, offset: int, told: Told) -> ResetView | None:
        """The reset that a pull from `offset` must be answered with; None: it is to be served."""
        reset = self._reset(key)
        if reset is None or self._adopted.get(key) == reset.number:
            return None
        if told.get(key) == reset.number and offset == reset.offset:
            self._adopted[key] = reset.number
            self._on_adopted(key, reset.number)
            return None
        self._tell(key, reset.number, told)
        return reset

    def waits(self, key: ResetKey) -> bool:
        """Whether a reset of the queue waits."""
        reset = self._reset(key)
        return reset is not None and self._adopted.get(key) != reset.number

    def asked(self, key: ResetKey, answered: int, told: Told) -> None:
        """A connection has asked for the committed offset, and `answered` is the answer."""
        reset = self._reset(key)
        if reset is not None and reset.offset == answered:
            self._tell(key, reset.number, told)

    @staticmethod
    def _tell(key: ResetKey, number: int, told: Told) -> None:
        if len(told) >= TOLD_MAX:
            told.clear()
        told[key] = number

    def _reset(self, key: ResetKey) -> ResetView | None:
        queues = self._views.resets.get(key.group)
        return None if queues is None else queues.get((key.topic, key.queue_id))

    def _number(self, key: ResetKey) -> int:
        reset = self._reset(key)
        return 0 if reset is None else reset.number

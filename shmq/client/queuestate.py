"""How far a consumer is with one queue: given, acknowledged, committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmq.client.model import Queue
    from shmq.client.transport import QueueReader


class QueueState:
    """One queue that this consumer reads."""

    __slots__ = (
        "acked",
        "committed",
        "epoch",
        "given",
        "queue",
        "reader",
        "released",
        "reset_number",
        "reset_offset",
    )

    def __init__(
        self, queue: Queue, reader: QueueReader, offset: int, committed: int | None
    ) -> None:
        self.queue = queue
        self.reader = reader
        self.given = offset
        """End of what was given to the application."""
        self.acked = offset
        """End of what it has done with."""
        self.committed = committed
        """What the broker has, None if it has nothing."""
        self.epoch = 0
        """Grows with each seek: what was given before counts no more."""
        self.released = False
        """Whether it is another's now."""
        self.reset_number = 0
        """Of the last reset that was heard of."""
        self.reset_offset: int | None = None
        """Where a reset has set it, until that is committed."""

    @property
    def commit_offset(self) -> int:
        """What the broker should have."""
        if self.reset_offset is not None:
            return self.reset_offset
        if self.acked >= self.given:
            return max(self.acked, self.reader.next_offset)
        return self.acked

    def acknowledge(self, epoch: int, offset: int) -> None:
        """All before `offset` is done with."""
        if epoch == self.epoch and offset > self.acked:
            self.acked = offset

"""A body to be filled in place: in the ring where there is shared memory, else in our own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from shmq.errors import Closed

if TYPE_CHECKING:
    from shmq.client.model import Body


class Room(Protocol):
    """Where the body is."""

    view: memoryview

    def commit(self) -> Any:
        """Send it; gives its ticket."""

    def give_back(self) -> None:
        """Do not send it."""


class OwnRoom:
    """Memory of this process; the body is posted as any other."""

    def __init__(self, size: int, post: Callable[[Body], Any]) -> None:
        self.view = memoryview(bytearray(size))
        self._post = post

    def commit(self) -> Any:
        """Send it; gives its ticket."""
        return self._post(bytes(self.view))

    def give_back(self) -> None:
        """Do not send it."""


class Loan:
    """One body to be filled; as a context manager it is committed at the end of the block.

    After an error in the block it is given back instead.
    """

    def __init__(self, room: Room) -> None:
        self._room: Room | None = room
        self.ticket: Any = None
        """Of the message, once it was committed; see tickets.Ticket."""

    def __enter__(self) -> memoryview:
        return self.body

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._room is None:
            return
        if kind is None:
            self.commit()
        else:
            self.give_back()

    @property
    def body(self) -> memoryview:
        """The bytes to fill; of no use after the commit."""
        return self._open().view

    def commit(self) -> Any:
        """Send the body as it is now; gives its ticket."""
        room = self._open()
        self._room = None
        self.ticket = room.commit()
        self._release(room)
        return self.ticket

    def give_back(self) -> None:
        """Send nothing."""
        room = self._open()
        self._room = None
        room.give_back()
        self._release(room)

    def _open(self) -> Room:
        if self._room is None:
            raise Closed("loan is over", hint="take another")
        return self._room

    @staticmethod
    def _release(room: Room) -> None:
        with contextlib.suppress(BufferError):  # A part of it is held by somebody.
            room.view.release()

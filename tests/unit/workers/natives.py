"""A native client's ring as serve would hand it over, without the serve process."""

from __future__ import annotations

import socket
from typing import Final

from shmq.layout.control import Word
from shmq.shm.links import RECEIVERS, LinkSender
from shmq.shm.nativering import NativeRing
from tests.unit.workers.house import House, Producer, encode

STORE_HOST: Final = b"\x7f\0\0\1"
STORE_PORT: Final = 10911
STARTS: Final = {"writer": Word.WRITER_STARTS, "dispatch": Word.DISPATCH_STARTS}


def stranger_record(topic: str, body: bytes, **fields: int) -> bytes:
    """A record that the writer takes from a client of this house."""
    return encode(topic, body, store_host=STORE_HOST, store_port=STORE_PORT, **fields)


class Natives:
    """The rings of one serve process and what it has told of them."""

    def __init__(self, house: House, serve: int = 0) -> None:
        self.house = house
        arena = house.arena
        self.rings: dict[int, NativeRing] = {}
        self.links = [
            LinkSender(
                arena.links[receiver][serve],
                linked=arena.linked(serve),
                starts=arena.reader(STARTS[receiver]),
            )
            for receiver in RECEIVERS
        ]
        self._open: list[NativeRing | socket.socket] = []

    def add(
        self,
        index: int = 0,
        *,
        epoch: int = 1,
        slots: tuple[int, ...] = (),
        data_size: int = 64 * 1024,
    ) -> Native:
        """A ring of a new client, which may append to these slots."""
        native, ends = NativeRing.create(
            index=index, epoch=epoch, entry_count=16, data_size=data_size
        )
        self.rings[index] = native
        self._open.append(native)
        grants = self.house.arena.granted(index)
        for slot in slots:
            grants[slot >> 3] |= 1 << (slot & 7)
        client = Native(native, [socket.socket(fileno=fd) for fd in ends])
        self._open += client.ends
        self.settle()
        return client

    def drop(self, index: int) -> None:
        """The client is gone."""
        self.rings.pop(index).close()
        self.settle()

    def settle(self) -> None:
        """Tell writer and dispatch."""
        for link in self.links:
            assert link.settle(self.rings)

    def close(self) -> None:
        """Close all rings and bells."""
        for one in self._open:
            one.close()


class Native:
    """The client's side of a ring."""

    def __init__(self, native: NativeRing, ends: list[socket.socket]) -> None:
        self.native = native
        self.ends = ends
        self.work, self.done, self.news = ends
        self.producer = Producer(native.ring)

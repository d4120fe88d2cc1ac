"""Brokers that bench/host knows how to start."""

from __future__ import annotations

import psutil

from bench.host.brokers import Places, System
from bench.peers.child import PeerError
from bench.peers.load import Cell
from bench.peers.peer import Peer


class SystemPeer(Peer):
    """A peer whose server is a System of bench.host."""

    def __init__(self) -> None:
        super().__init__()
        self._system: System | None = None

    def make(self, places: Places) -> System:
        """The system, not started."""
        raise NotImplementedError

    @property
    def system(self) -> System:
        """The system that runs."""
        if self._system is None:
            raise PeerError(f"{self.name}: not started")
        return self._system

    def start(self) -> None:
        """Broker and name server."""
        self._system = self.make(Places(self.folder))
        self._system.spawn()
        self._system.await_ready()

    def prepare(self, stream: str, cell: Cell) -> None:  # noqa: ARG002 - the same for all cells
        """A topic of one queue, so that there is one order."""
        self.system.check()
        self.system.prepare_topic(stream, 1)

    def forget(self, stream: str) -> None:
        """Its messages stand among the others in the commitlog, until the end of the round."""

    def tree(self) -> list[psutil.Process]:
        """All processes of the system."""
        return self.system.tree()

    def stop(self) -> None:
        """End all of them."""
        if self._system is not None:
            self._system.stop()

"""multiprocessing.Queue of the standard library."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator
from typing import Any

from bench.peers.adapters.python import ENV, agent
from bench.peers.child import Agent, Child, PeerError
from bench.peers.load import Cell, Timing
from bench.peers.peer import AGENT_EXIT_S, AGENT_START_S, MEMORY, Peer


class MpQueue(Peer):
    """Two processes that a third one has forked, as the module needs it."""

    name = "mp-queue"
    title = "multiprocessing.Queue"
    version = f"Python {platform.python_version()}"
    client = "Python"
    durable = MEMORY
    durability = "nothing: a pipe, and a list in the sender; accepted when in that list or the pipe"
    settings = {  # noqa: RUF012
        "queue": "at most 16 objects, so that the sender cannot run ahead; fork",
        "batching": "a list of 256 bodies (16 of 64 KiB) an object; singly for the latency",
        "waiting": "blocking",
    }
    has_backlog = False

    def missing(self) -> str | None:
        """It is in the standard library."""
        return None

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        return agent("mp_queue", sys.executable)

    def env(self) -> dict[str, str]:
        """Where the modules are."""
        return ENV

    @contextlib.contextmanager
    def agents(
        self, stream: str, cell: Cell, timing: Timing, extra: dict[str, Any]
    ) -> Iterator[tuple[Agent, Agent]]:
        """One program that holds the queue and forks both."""
        command = self.command("both", stream, cell.spin)
        command += self.arguments("both", stream, cell, timing, extra)
        child = Child(self.name, command, folder=self.folder, env=self.env())
        sender, receiver = Agent(child, "produce"), Agent(child, "consume")
        try:
            receiver.wait("attached", AGENT_START_S)
            yield sender, receiver
            for role in (sender, receiver):
                role.say("exit")
            status = child.finish(AGENT_EXIT_S)
            if status != 0:
                raise PeerError(f"{child.name}: ended with {status}: {child.tail()}")
        finally:
            child.stop(1.0)

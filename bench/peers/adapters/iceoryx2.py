"""iceoryx2: publish and subscribe in shared memory, no server."""

from __future__ import annotations

import uuid
from pathlib import Path

from bench.peers.adapters.python import ENV, PYTHON, agent
from bench.peers.peer import INSTALLED, MEMORY, Peer, not_installed

AGENT = INSTALLED / "bin" / "iceoryx2-agent"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel has it


class Iceoryx2Rust(Peer):
    """The Rust library itself."""

    name = "iceoryx2-rust"
    title = "iceoryx2, Rust"
    version = "0.10.0"
    client = "Rust"
    durable = MEMORY
    durability = "memory only (shared memory of the publisher); gone with it"
    settings = {  # noqa: RUF012
        "service": "byte slices, no overflow (the publisher waits), buffer of 16 MiB, 4096 at most",
        "batching": "none offered; one notification for 256 samples (16 of 64 KiB)",
        "waiting": "event service (listener), spinning: receive() in a loop",
    }
    has_backlog = False
    can_spin = True

    def missing(self) -> str | None:
        """Our agent, with the library in it."""
        return not_installed("iceoryx2", AGENT)

    def start(self) -> None:
        """Names of its own for all that it makes."""
        self._prefix = f"shmqbench{uuid.uuid4().hex[:8]}_"

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        return [str(AGENT), *self._places()]

    def _places(self) -> list[str]:
        return [f"prefix={self._prefix}", f"root={self.folder}/iceoryx2"]

    def forget(self, stream: str) -> None:  # noqa: ARG002 - whatever is left of this run
        """What processes that were ended have left."""
        super().forget("iceoryx2")
        for segment in SHARED_MEMORY.glob(f"{self._prefix}*"):
            segment.unlink(missing_ok=True)


class Iceoryx2Python(Iceoryx2Rust):
    """Its Python binding."""

    name = "iceoryx2-python"
    title = "iceoryx2, Python"
    client = "Python, iceoryx2 0.10.0"

    def missing(self) -> str | None:
        """The binding's environment."""
        return not_installed("python", PYTHON)

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        return [*agent("iceoryx"), *self._places()]

    def env(self) -> dict[str, str]:
        """Where the modules are."""
        return ENV

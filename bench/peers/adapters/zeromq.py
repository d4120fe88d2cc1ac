"""ZeroMQ over ipc: PUSH to PULL, no server."""

from __future__ import annotations

from bench.peers.adapters.python import ENV, PYTHON, agent
from bench.peers.peer import MEMORY, Peer, not_installed


class ZeroMQ(Peer):
    """pyzmq with its defaults."""

    name = "zeromq"
    title = "ZeroMQ ipc"
    version = "pyzmq 27.3.0"
    client = "Python"
    durable = MEMORY
    durability = "nothing: queues of both processes; accepted when queued in the sender"
    settings = {  # noqa: RUF012
        "transport": "ipc:// (Unix socket)",
        "sockets": "PUSH and PULL, high-water marks of 1000 (default), frames of 64 KiB not copied",
        "batching": "by the library itself",
        "waiting": "blocking, spinning: NOBLOCK in a loop",
    }
    has_backlog = False
    can_spin = True

    def missing(self) -> str | None:
        """The client's environment."""
        return not_installed("python", PYTHON)

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        return [*agent("zeromq"), f"address=ipc://{self.folder}/{stream}.sock"]

    def env(self) -> dict[str, str]:
        """Where the modules are."""
        return ENV

    def forget(self, stream: str) -> None:
        """The socket's file."""
        (self.folder / f"{stream}.sock").unlink(missing_ok=True)

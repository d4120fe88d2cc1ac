"""NATS JetStream: a server that keeps streams in files."""

from __future__ import annotations

import subprocess

from bench.host.brokers import free_port
from bench.peers.load import Cell
from bench.peers.peer import DISK, INSTALLED, PAGE_CACHE, Peer, not_installed

SERVER = INSTALLED / "bin" / "nats-server"
AGENT = INSTALLED / "bin" / "nats-agent"
START_S = 20.0
FORGET_S = 60.0


class Nats(Peer):
    """Loopback TCP (it has no Unix sockets), file storage, synced every two minutes (default)."""

    name = "nats"
    title = "NATS JetStream"
    version = "2.15.2"
    client = "Go, nats.go 1.55.0"
    durable = PAGE_CACHE
    durability = "page cache (file storage, fsync every 2 minutes, the default)"
    settings = {  # noqa: RUF012
        "transport": "TCP over loopback",
        "producer": "PublishAsync, up to 4096 or 16 MiB unacknowledged",
        "consumer": "ordered consumer, pulls of up to 4096 or 8 MiB",
        "waiting": "blocking",
    }
    sync_interval = "2m"

    def missing(self) -> str | None:
        """The server and our agent."""
        return not_installed("nats", SERVER, AGENT)

    def start(self) -> None:
        """The server."""
        self._address = f"nats://127.0.0.1:{free_port()}"
        port = self._address.rpartition(":")[2]
        conf = self.folder / "nats.conf"
        conf.write_text(
            f'listen: "127.0.0.1:{port}"\n'
            f'jetstream {{ store_dir: "{self.folder}/store", sync_interval: {self.sync_interval},'
            " max_file_store: 64GB }\n"
        )
        child = self.serve("nats-server", [str(SERVER), "-c", str(conf)])
        child.wait_line("ready line", lambda line: "Server is ready" in line, START_S)

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        return [str(AGENT), f"address={self._address}"]

    def prepare(self, stream: str, cell: Cell) -> None:
        """The first agent creates it."""

    def forget(self, stream: str) -> None:
        """Delete the stream."""
        command = [str(AGENT), f"address={self._address}", "role=forget", f"stream={stream}"]
        subprocess.run(command, check=False, timeout=FORGET_S, capture_output=True)


class NatsSync(Nats):
    """The same with a sync before each acknowledgement."""

    name = "nats-sync"
    title = "NATS JetStream, sync always"
    durable = DISK
    durability = "disk (sync_interval: always)"
    settings = Nats.settings | {"sync_interval": "always"}
    sync_interval = "always"

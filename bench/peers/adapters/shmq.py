"""shmq itself, through its own client library."""

from __future__ import annotations

import importlib.util
import sys

from bench.host.brokers import Places, System, wait_until
from bench.host.brokers import Shmq as Broker
from bench.peers.adapters.python import ENV, agent
from bench.peers.adapters.systems import SystemPeer
from bench.peers.peer import DISK, PAGE_CACHE, ROOT

HOT_POOL_SIZE = 2 << 30
"""What the loads write fits, as it fits the page cache of those who map files."""
WARM_S = 60.0


class WarmBroker(Broker):
    """Ready when all hot pages are there: the writer touches them before they are needed."""

    def await_ready(self) -> None:  # noqa: D102
        super().await_ready()
        wait_until("hot pages touched", self._is_warm, WARM_S)

    def _is_warm(self) -> bool:
        segments = self.status()["segments"]
        (pool,) = (one for one in segments if one["name"].endswith(".pool"))
        return bool(pool["touched"] >= pool["size"])


class Shmq(SystemPeer):
    """`shmq standalone` (asynchronous flush); the client maps shared memory."""

    name = "shmq"
    title = "shmq"
    version = "this tree"
    client = "Python, shmq.client"
    durable = PAGE_CACHE
    durability = "the broker's memory pool and page cache (asynchronous flush)"
    settings = {  # noqa: RUF012
        "transport": "shared memory, a Unix socket for control",
        "producer": "post_many of 2-D arrays: 256 bodies (16 of 64 KiB); singly: post; "
        "window of 4096 messages or 16 MiB",
        "consumer": "subscribe, batches of 1024 as views, all body bytes read",
        "waiting": "blocking",
        "hotPoolSize": f"{HOT_POOL_SIZE >> 20} MiB",
    }
    overrides: dict[str, str] = {"hotPoolSize": str(HOT_POOL_SIZE)}  # noqa: RUF012
    query = ""
    can_spin = True

    def missing(self) -> str | None:
        """The client library, and its native transport where that is what is measured."""
        if importlib.util.find_spec("shmq.client") is None:
            return "this tree has no shmq.client yet"
        if not self.query and not any((ROOT / "shmq" / "client").glob("native*")):
            return "this tree has no shared-memory transport (shmq/client/native*) yet"
        return None

    def make(self, places: Places) -> System:
        """As bench/host runs it."""
        return WarmBroker(places, self.overrides)

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        address = f"unix:{self.system.socket_path}{self.query}"
        return [*agent("shmq_client", sys.executable), f"address={address}"]

    def env(self) -> dict[str, str]:
        """Where the modules are."""
        return ENV


class ShmqCopy(Shmq):
    """The same broker, by copies over the Unix socket, as a client without shared memory has it."""

    name = "shmq-copy"
    title = "shmq, copies over the socket"
    settings = Shmq.settings | {"transport": "Unix socket (?copy=1)"}
    query = "?copy=1"


class ShmqSync(Shmq):
    """The broker flushes before it answers."""

    name = "shmq-sync"
    title = "shmq, SYNC_FLUSH"
    durable = DISK
    durability = "disk (SYNC_FLUSH: fsync before the answer)"
    settings = Shmq.settings | {"flushDiskType": "SYNC_FLUSH"}
    overrides = Shmq.overrides | {"flushDiskType": "SYNC_FLUSH"}

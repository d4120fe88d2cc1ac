"""Apache RocketMQ with its Java client."""

from __future__ import annotations

from bench.host.brokers import BIN_DIR, Apache, Places, System
from bench.peers.adapters.java import java
from bench.peers.adapters.systems import SystemPeer
from bench.peers.peer import INSTALLED, PAGE_CACHE, ROOT, not_installed

CLIENT_LIB = ROOT / "tests" / "compat" / "java" / "lib" / "5.5.0"
CLIENT_JVM = ("-server", "-Xms512m", "-Xmx1g")
HEAP = "2g"
UPDATE_BROKER_CONFIG = 25
# Beyond these a pull is cut short; the defaults are 32 messages and 256 KiB.
CONFIG = b"maxTransferCountOnMessageInMemory=256\nmaxTransferBytesOnMessageInMemory=4194304\n"


class RocketMQ(SystemPeer):
    """Broker and name server with their defaults (ASYNC_FLUSH), but for larger pulls."""

    name = "rocketmq"
    title = "Apache RocketMQ"
    version = "5.5.0"
    client = "Java 17, Apache's client 5.5.0"
    durable = PAGE_CACHE
    durability = "page cache (commitlog, ASYNC_FLUSH: fsync each 500 ms)"
    settings = {  # noqa: RUF012
        "transport": "TCP over loopback",
        "broker": f"heap {HEAP}, {CONFIG.decode().strip().replace(chr(10), ', ')}",
        "producer": "batches of 256 (16 of 64 KiB), each awaited; singly: async, window 256",
        "consumer": "DefaultLitePullConsumer, one queue, pulls of 256",
        "waiting": "long polling",
    }

    def missing(self) -> str | None:
        """Apache's jars and our agent."""
        return not_installed(
            "rocketmq", CLIENT_LIB, BIN_DIR / "lib", INSTALLED / "rocketmq" / "classes"
        )

    def make(self, places: Places) -> System:
        """As bench/host runs it."""
        return Apache(places, HEAP)

    def start(self) -> None:
        """Broker and name server, and larger pulls."""
        super().start()
        with self.system.broker() as broker:
            broker.ask_ok(UPDATE_BROKER_CONFIG, body=CONFIG)

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        home = f"-Duser.home={self.system.places.folder('home')}"
        command = java("rocketmq", "rocketmq.RocketmqAgent", CLIENT_LIB, *CLIENT_JVM, home)
        places = self.system.places
        return [*command, f"address=127.0.0.1:{places.namesrv_port}", "broker=broker"]

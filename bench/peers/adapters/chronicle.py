"""Chronicle Queue: a memory-mapped log without a broker."""

from __future__ import annotations

from bench.peers.adapters.java import AGENT_HEAP, OPENS, java
from bench.peers.peer import INSTALLED, PAGE_CACHE, Peer, not_installed

LIB = INSTALLED / "chronicle" / "lib"


class Chronicle(Peer):
    """The open-source queue with its defaults: a file of the day, mapped in blocks of 64 MiB."""

    name = "chronicle"
    title = "Chronicle Queue"
    version = "2026.4"
    client = "Java 17"
    durable = PAGE_CACHE
    durability = "page cache (mapped files of the queue); no fsync"
    settings = {  # noqa: RUF012
        "queue": "defaults (FAST_DAILY, blocks of 64 MiB; the preloader is in the paid edition)",
        "batching": "none offered: one document each",
        "waiting": "Pauser.sleepy(), spinning: Pauser.busy()",
        "jvm": " ".join(AGENT_HEAP),
    }
    can_spin = True

    def missing(self) -> str | None:
        """Its jars and our agent."""
        return not_installed("chronicle", LIB, INSTALLED / "chronicle" / "classes")

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        flags = [*AGENT_HEAP, *OPENS, "-Dchronicle.analytics.disable=true"]
        flags += ["-Dchronicle.announcer.disable=true", "-Dchronicle.disk.monitor.disable=true"]
        return java("chronicle", "chronicle.ChronicleAgent", LIB, *flags)

"""Aeron: shared-memory logs, and with its archive a recording on disk."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from bench.peers.adapters.java import AGENT_HEAP, OPENS, java
from bench.peers.child import wait_until
from bench.peers.peer import INSTALLED, MEMORY, PAGE_CACHE, Peer, not_installed

LIB = INSTALLED / "aeron" / "lib"
START_S = 20.0
DRIVER = {
    "aeron.threading.mode": "SHARED",
    "aeron.shared.idle.strategy": "org.agrona.concurrent.BackoffIdleStrategy",
    "aeron.ipc.mtu.length": "65504",
    "aeron.term.buffer.sparse.file": "false",
    "aeron.dir.delete.on.shutdown": "true",
}
ARCHIVE = {
    "aeron.archive.threading.mode": "SHARED",
    "aeron.archive.control.channel.enabled": "false",
    "aeron.archive.control.channel": "aeron:ipc",
    "aeron.archive.control.response.channel": "aeron:ipc",
    "aeron.archive.replication.channel": "aeron:udp?endpoint=localhost:0",
    "aeron.archive.file.sync.level": "0",
    "aeron.archive.catalog.file.sync.level": "0",
    "aeron.archive.recording.events.enabled": "false",
}


class AeronIpc(Peer):
    """Publication and subscription over aeron:ipc, with a media driver of its own."""

    name = "aeron-ipc"
    title = "Aeron IPC"
    version = "1.51.0"
    client = "Java 17"
    durable = MEMORY
    durability = "memory only (term buffers in /dev/shm); without a subscriber nothing is accepted"
    settings = {  # noqa: RUF012
        "driver": "MediaDriver, threading SHARED, BackoffIdleStrategy, MTU 65504, "
        "terms of 64 MiB, not sparse",
        "batching": "tryClaim, or offer above the MTU; 256 fragments a poll",
        "waiting": "BackoffIdleStrategy, spinning: BusySpinIdleStrategy",
        "jvm": " ".join(AGENT_HEAP),
    }
    has_backlog = False
    can_spin = True
    server = "io.aeron.driver.MediaDriver"
    archived = False

    def missing(self) -> str | None:
        """Its jar and our agent."""
        return not_installed("aeron", LIB, INSTALLED / "aeron" / "classes")

    def start(self) -> None:
        """The media driver, for the archive with it."""
        self._dir = Path("/dev/shm") / f"shmq-bench-aeron-{uuid.uuid4().hex[:8]}"  # noqa: S108
        properties = DRIVER | {"aeron.dir": str(self._dir)}
        if self.archived:
            properties |= ARCHIVE | {"aeron.archive.dir": str(self.folder / "archive")}
        flags = [f"-D{key}={value}" for key, value in properties.items()]
        child = self.serve(
            self.server, java("aeron", self.server, LIB, *AGENT_HEAP, *OPENS, *flags)
        )

        def ready() -> bool:
            child.check()
            marks = [self._dir / "cnc.dat"]
            marks += [self.folder / "archive" / "archive.catalog"] if self.archived else []
            return all(mark.exists() for mark in marks)

        wait_until("the media driver", ready, START_S)

    def stop(self) -> None:
        """End it and take away its buffers."""
        super().stop()
        if hasattr(self, "_dir"):
            shutil.rmtree(self._dir, ignore_errors=True)

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        command = java("aeron", "aeron.AeronAgent", LIB, *AGENT_HEAP, *OPENS)
        return [*command, f"dir={self._dir}", f"archive={int(self.archived)}"]


class AeronArchive(AeronIpc):
    """The same, recorded; the consumer replays the recording and follows it."""

    name = "aeron-archive"
    title = "Aeron Archive"
    durable = PAGE_CACHE
    durability = "page cache (recording files, sync level 0); accepted when recorded"
    settings = AeronIpc.settings | {
        "driver": AeronIpc.settings["driver"].replace("MediaDriver", "ArchivingMediaDriver"),
        "archive": "threading SHARED, sync level 0, segments of 128 MiB; control over aeron:ipc",
        "consumer": "replay of the recording from 0 that follows it, over aeron:ipc",
    }
    has_backlog = True
    server = "io.aeron.archive.ArchivingMediaDriver"
    archived = True

    def forget(self, stream: str) -> None:
        """The segments of a recording that is over: the archive does not read them again."""
        super().forget(stream)
        for segment in (self.folder / "archive").glob("*.rec"):
            segment.unlink()

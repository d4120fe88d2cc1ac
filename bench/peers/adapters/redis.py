"""Redis Streams over a Unix socket."""

from __future__ import annotations

import socket

from bench.peers.adapters.python import ENV, PYTHON, agent
from bench.peers.peer import DISK, INSTALLED, MEMORY, PAGE_CACHE, Peer, not_installed

SERVER = INSTALLED / "bin" / "redis-server"
START_S = 20.0
ASK_S = 30.0


class RedisMemory(Peer):
    """Without persistence."""

    name = "redis-memory"
    title = "Redis Streams, memory only"
    version = "7.0.15"
    client = "Python, redis 8.1.0 with hiredis 3.5.0"
    durable = MEMORY
    durability = "memory only (appendonly no, save off)"
    settings = {  # noqa: RUF012
        "transport": "Unix socket",
        "producer": "XADD in pipelines of 256 (16 of 64 KiB)",
        "consumer": "XREAD COUNT 256 BLOCK 100",
        "waiting": "blocking",
    }
    server_options: tuple[str, ...] = ("--appendonly", "no")

    def missing(self) -> str | None:
        """The server and the client's environment."""
        return not_installed("redis", SERVER) or not_installed("python", PYTHON)

    def start(self) -> None:
        """The server."""
        self._socket = self.folder / "redis.sock"
        command = [str(SERVER), "--port", "0", "--unixsocket", str(self._socket), "--save", ""]
        command += ["--daemonize", "no", "--dir", str(self.folder), *self.server_options]
        child = self.serve("redis-server", command)
        child.wait_line("ready line", lambda line: "ready to accept" in line.lower(), START_S)

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: ARG002, FBT001, D102
        return [*agent("redis_streams"), f"address={self._socket}"]

    def env(self) -> dict[str, str]:
        """Where the modules are."""
        return ENV

    def forget(self, stream: str) -> None:
        """Delete the stream's key."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ASK_S)
            connection.connect(str(self._socket))
            connection.sendall(f"DEL {stream}\r\n".encode())
            connection.recv(64)


class RedisEverySecond(RedisMemory):
    """With the append-only file, synced each second."""

    name = "redis"
    title = "Redis Streams, AOF every second"
    durable = PAGE_CACHE
    durability = "page cache (append-only file), fsync each second"
    settings = RedisMemory.settings | {"appendonly": "yes", "appendfsync": "everysec"}
    server_options = ("--appendonly", "yes", "--appendfsync", "everysec")


class RedisAlways(RedisMemory):
    """With the append-only file, synced before each answer."""

    name = "redis-always"
    title = "Redis Streams, AOF always"
    durable = DISK
    durability = "disk (append-only file, fsync before the answer)"
    settings = RedisMemory.settings | {"appendonly": "yes", "appendfsync": "always"}
    server_options = ("--appendonly", "yes", "--appendfsync", "always")

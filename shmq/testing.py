"""A private broker for tests: its own folder, ports and socket, with ways to hurt it.

    with PrivateBroker(tmp_path) as broker, broker.connect() as mq:
        mq.send("orders", b"one")
        broker.crash()      # SIGKILL to all of its processes at once
        broker.start()      # what was confirmed is there

The pytest fixture `shmq_broker` (shmq.pytest_plugin) gives one that is started already.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import psutil

from shmq.errors import ConfigError, NotConnected
from shmq.units import MiB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmq.client import Client

START_MAX_S: Final = 30.0
STOP_MAX_S: Final = 30.0
PORT_TRIES_MAX: Final = 100
VIP_BELOW: Final = 2
SOCKET_PATH_MAX: Final = 100
SMALL: Final[dict[str, Any]] = {
    "bindAddress": "127.0.0.1",
    "brokerIP1": "127.0.0.1",
    "hotPoolSize": 64 * MiB,
    "mappedFileSizeCommitLog": 64 * MiB,
    "mappedFileSizeConsumeQueue": 600_000,
    "maxHashSlotNum": 100_000,
    "maxIndexNum": 400_000,
    "queuesMax": 4096,
    "serveProcessNums": 1,
    "logLevel": "warning",
    "diskSpaceWarningLevelRatio": 99,
    "cleanFileForciblyEnable": "false",
}
"""Settings of a broker that is started often and stores little."""


class PrivateBroker:
    """`shmq standalone` in a folder of its own. Nothing of it is left after stop()."""

    __test__ = False  # It is no test class, whatever its users call it.

    def __init__(self, folder: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        """Make the folder, but start nothing.

        Args:
            folder: where store and log go; None: a temporary one, removed at the end.
            settings: keys of broker.conf with their values, stronger than SMALL.
        """
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="shmq-") if folder is None else folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = self.folder / "store"
        self._sockets = Path(tempfile.mkdtemp(prefix="shmq-"))  # Paths of sockets must be short.
        self.socket = self._sockets / "shmq.sock"
        self.log = self.folder / "broker.log"
        self.port, self.namesrv_port = _free_ports()
        self._settings = SMALL | settings
        self._conf = self.folder / "broker.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        """What the broker said when it was ready."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Addresses

    @property
    def address(self) -> str:
        """Of its Unix socket, for shmq.connect(): the native door."""
        return f"unix:{self.socket}"

    @property
    def tcp_address(self) -> str:
        """Of its TCP port, for shmq.connect()."""
        return f"broker:127.0.0.1:{self.port}"

    @property
    def namesrv_address(self) -> str:
        """Of its name server, for clients of any language."""
        return f"127.0.0.1:{self.namesrv_port}"

    def connect(self, **options: Any) -> Client:
        """A client over its Unix socket; `options` as of shmq.connect()."""
        import shmq  # noqa: PLC0415  who only wants addresses needs no client

        return shmq.connect(self.address, **options)

    # Life

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            NotConnected: it did not come up; says what it printed.
        """
        if self._process is not None and self._process.poll() is None:
            raise ConfigError("the broker runs already", pid=self._process.pid)
        self._write_settings()
        command = [
            sys.executable, "-c", "from shmq.workers.cli import main; main()", "standalone",
            "--config", str(self._conf), "--store", str(self.store),
            "--listen", f"127.0.0.1:{self.port}",
            "--namesrv-listen", f"127.0.0.1:{self.namesrv_port}",
            "--socket", str(self.socket), "--json",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own command
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        self.ready = self._await_ready()

    def stop(self) -> int:
        """Drain it, as SIGTERM does; its exit code."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            self.crash()
            raise
        finally:
            self._forget()

    def crash(self) -> None:
        """SIGKILL to all of its processes at once, as the machine's death would look to clients.

        Start it again: what was confirmed is there.
        """
        process = self._process
        if process is None:
            return
        victims = self.processes()
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.suspend()
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait(STOP_MAX_S)
        psutil.wait_procs(victims, timeout=STOP_MAX_S)
        self._forget()

    def restart(self) -> None:
        """Drain it, then start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove what is temporary. After a crash that takes a start: see start()."""
        try:
            if self._process is None and self.store.exists() and self._crashed():
                self.start()  # So that nothing is left in shared memory.
            self.stop()
        finally:
            shutil.rmtree(self._sockets, ignore_errors=True)
            if self._temporary:
                shutil.rmtree(self.folder, ignore_errors=True)

    # Controls

    def kill(self, role: str) -> int:
        """SIGKILL to one process of a role (writer, flush, dispatch, serve0, ...); its pid.

        The supervisor starts another within a second.
        """
        victims = self.processes(role)
        if not victims:
            raise ConfigError("no process of that role", role=role, running=self._roles())
        victims[0].kill()
        pid: int = victims[0].pid
        return pid

    @contextlib.contextmanager
    def stopped(self, role: str) -> Iterator[None]:
        """A role that does nothing for a while (SIGSTOP), and goes on afterwards."""
        victims = self.processes(role)
        for victim in victims:
            victim.suspend()
        try:
            yield
        finally:
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.resume()

    def set_clock(self, offset_s: float) -> None:
        """Let its time of day be so many seconds ahead of the host's; negative: behind.

        Store timestamps follow it within a second.
        """
        self.configure(clockOffsetMillis=round(offset_s * 1000))

    def configure(self, **settings: Any) -> None:
        """Change settings; those that a running broker takes (SIGHUP) are taken at once."""
        self._settings |= settings
        self._write_settings()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)

    def processes(self, role: str = "") -> list[psutil.Process]:
        """Its running processes; of one role, where `role` is the begin of its name."""
        process = self._process
        if process is None or process.poll() is not None:
            return []
        supervisor = psutil.Process(process.pid)
        found = [] if role else [supervisor]
        for one in supervisor.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if f"shmq: {role}" in " ".join(one.cmdline()):
                    found.append(one)
        return found

    def _roles(self) -> list[str]:
        names: list[str] = []
        for one in self.processes()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                names.append(" ".join(one.cmdline()).partition("shmq: ")[2].strip())
        return sorted(names)

    def _write_settings(self) -> None:
        lines = (f"{key}={value}" for key, value in self._settings.items())
        self._conf.write_text("\n".join(lines) + "\n")

    def _await_ready(self) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        deadline = time.monotonic() + START_MAX_S
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self.crash()
                raise NotConnected(
                    "the broker is not ready", waited_s=START_MAX_S, log=self._tail()
                )
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                code = process.wait(STOP_MAX_S)
                self._forget()
                raise NotConnected("the broker ended at once", exit_code=code, log=self._tail())
            line += part
        found: dict[str, Any] = json.loads(line.splitlines()[-1])
        return found

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def _crashed(self) -> bool:
        return (self.store / "abort").exists()

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdout is not None:
            process.stdout.close()


def _free_ports() -> tuple[int, int]:
    """A port with the one two below it, and another."""
    for _ in range(PORT_TRIES_MAX):
        with (
            contextlib.suppress(OSError),
            socket.socket() as first,
            socket.socket() as vip,
            socket.socket() as second,
        ):
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            vip.bind(("127.0.0.1", port - VIP_BELOW))
            second.bind(("127.0.0.1", 0))
            return port, second.getsockname()[1]
    raise NotConnected("no free ports on 127.0.0.1", tries=PORT_TRIES_MAX)

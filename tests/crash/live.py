"""A running `shmq standalone` for tests: its processes by role, its kills, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import psutil

from shmq.workers.context import instance_of
from shmq.workers.statefile import read_state
from tests.compat.processes import Process, free_port
from tests.crash.peer import PATIENCE, Address, Peer, connect, eventually

START_TIMEOUT_S: Final = 30.0 * PATIENCE
TITLE: Final = "shmq: "
SHM: Final = Path("/dev/shm")  # noqa: S108  where POSIX shared memory lies
SMALL: Final[dict[str, object]] = {
    "serveProcessNums": 2,
    "restartsMax": 1000,
    "hotPoolSize": 64 * 1024 * 1024,
    "hotPageSize": 1024 * 1024,
    "mappedFileSizeCommitLog": 16 * 1024 * 1024,
    "mappedFileSizeConsumeQueue": 20 * 10_000,
    "maxHashSlotNum": 1000,
    "maxIndexNum": 4000,
    "maxMessageSize": 1024 * 1024,
    "queuesMax": 4096,
    "brokerIP1": "127.0.0.1",
}
"""Small files and a small pool, so that a short test goes past the ends of both."""


class Broker:
    """One broker on one store, started and ended as often as a test wants."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: dict[str, object] | None = None,
    ) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.socket_path = folder / "s.sock"
        port = free_port(beside=(0, -2))
        self.tcp_port = port
        self.tcp: Address = ("127.0.0.1", port)
        self.vip: Address = ("127.0.0.1", port - 2)
        self.namesrv: Address = ("127.0.0.1", free_port())
        self.settings_file = folder / "broker.conf"
        self.settings: dict[str, object] = {**SMALL, **(settings or {})}
        self.write_settings()
        self.wrapper: list[str] = []
        """Program and arguments that the broker is started through."""
        self.program = [str(Path(sys.executable).parent / "shmq")]
        self._process: Process | None = None
        self.seen_pids: dict[int, float] = {}
        """Every process of every run, with its start time."""

    def write_settings(self, **more: object) -> None:
        """Write the settings file, changed by `more`."""
        self.settings.update(more)
        self.settings_file.parent.mkdir(parents=True, exist_ok=True)
        self.settings_file.write_text(
            "".join(f"{key}={value}\n" for key, value in self.settings.items())
        )

    # Life

    def launch(self) -> Process:
        """Start it without waiting for anything."""
        assert isinstance(self.tcp, tuple)
        assert isinstance(self.namesrv, tuple)
        self._process = Process(
            [
                *self.wrapper,
                *self.program,
                "standalone",
                *("--store", str(self.store)),
                *("--listen", f"127.0.0.1:{self.tcp[1]}"),
                *("--namesrv-listen", f"127.0.0.1:{self.namesrv[1]}"),
                *("--socket", str(self.socket_path)),
                *("-c", str(self.settings_file)),
                "--json",
            ],
            folder=self.folder,
            name="shmq",
        )
        return self._process

    def start(self) -> dict[str, Any]:
        """Start it and wait for its ready line, which is given back."""
        process = self.launch()
        line = process.await_line(lambda line: '"ready"' in line, timeout_s=START_TIMEOUT_S)
        ready: dict[str, Any] = json.loads(line)
        assert ready["pid"] == process.pid, ready
        self.note_pids()
        return ready

    @property
    def process(self) -> Process:
        """The supervisor's process."""
        assert self._process is not None
        return self._process

    def stop(self, *, how: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Ask it to end; its exit status."""
        self.note_pids()
        return self.process.stop(how=how, timeout_s=timeout_s)

    def log(self) -> str:
        """What it has logged."""
        return self.process.errors.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == name:
                    found.append(entry)
        return found

    # Roles

    def roles(self) -> dict[str, int]:
        """Pid of each live role process, by its title."""
        found = {}
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                title = child.cmdline()[0]
                if title.startswith(TITLE) and "supervisor" not in title:
                    found[title.removeprefix(TITLE)] = child.pid
        return found

    def pid_of(self, role: str) -> int:
        """Pid of a role, waited for when it is just being replaced."""
        eventually(f"a process {role}", lambda: role in self.roles(), timeout_s=5)
        return self.roles()[role]

    def await_boot(self) -> int | None:
        """Pid of the process that opens the store while the broker starts; None: it was missed."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:  # It lives for some milliseconds: no pause.
            roles = self.roles()
            if "boot" in roles or "flush" in roles:
                return roles.get("boot")
        raise AssertionError(f"no boot step within {START_TIMEOUT_S} s")

    def await_other(self, role: str, pid: int, *, timeout_s: float = 5) -> None:
        """Wait until another process than `pid` has the role, or the whole broker has ended."""

        def replaced() -> bool:
            return not self.process.running or self.roles().get(role, pid) != pid

        eventually(f"another process {role} than {pid}", replaced, timeout_s=timeout_s)

    def kill_role(self, role: str, *, how: int = signal.SIGKILL) -> int:
        """Send a role a signal; its pid."""
        self.note_pids()
        pid = self.pid_of(role)
        os.kill(pid, how)
        return pid

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor, whose end the roles do not outlive."""
        self.note_pids()
        assert self.process.kill() == -signal.SIGKILL

    def kill_all(self) -> None:
        """SIGKILL to every process at once."""
        self.note_pids()
        for pid in (*self.roles().values(), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL

    def note_pids(self) -> None:
        """Remember the processes of now, to see at the end that they are gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            for process in (supervisor, *supervisor.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.seen_pids[process.pid] = process.create_time()

    def fd_count(self, pid: int) -> int:
        """Open descriptors of one of its processes."""
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())

    def check_runs(self) -> None:
        """Its state file names its processes as they are."""

        def agrees() -> bool:
            state = read_state(self.store / "run")
            return {role["role"]: role["pid"] for role in state["roles"]} == self.roles()

        eventually("a state file that names the processes", agrees, timeout_s=5)

    # What it leaves

    def segments(self) -> list[str]:
        """Its names in /dev/shm."""
        return sorted(path.name for path in SHM.glob(f"*{instance_of(self.store)}*"))

    def living(self) -> list[int]:
        """Pids of its processes that are still there, zombies too."""
        found = []
        for pid, create_time in self.seen_pids.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).create_time() == create_time:
                    found.append(pid)
        return found

    def await_all_gone(self) -> None:
        """Wait until no process of it lives; those of a killed supervisor need a moment."""
        eventually(f"the end of {self.living()}", lambda: not self.living(), timeout_s=5)

    def check_nothing_left(self, *, kept: tuple[str, ...] = ()) -> None:
        """After an end in its own order: no process, name, socket, port or run directory is left.

        `kept` are the segments that hold what no file has, when that is expected.
        """
        self.await_all_gone()
        assert [name.rpartition(".")[2] for name in self.segments()] == [*kept]
        assert not (self.store / "run").exists(), list((self.store / "run").iterdir())
        assert not self.socket_path.exists()
        for address in (self.tcp, self.vip, self.namesrv):
            with contextlib.suppress(ConnectionRefusedError):
                connect(address).close()
                raise AssertionError(f"somebody listens on {address}")

    def clean_up(self) -> None:
        """After a failed test: end what is left, remove what it holds."""
        if self._process is not None:
            self.note_pids()
            self._process.kill()
        self.await_all_gone()
        for name in self.segments():
            (SHM / name).unlink(missing_ok=True)

    def address_of(self, door: str) -> Address:
        """Where a client finds it: tcp, vip, unix or namesrv."""
        doors: dict[str, Address] = {
            "tcp": self.tcp,
            "vip": self.vip,
            "unix": self.socket_path,
            "namesrv": self.namesrv,
        }
        return doors[door]

    def peer(self) -> Peer:
        """A new connection over TCP."""
        return Peer(self.tcp)

"""The store's lock, the run directory, the state file, and what systemd is told."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmq.errors import ConfigError, StoreError, Unavailable
from shmq.workers import statefile, storelock
from shmq.workers.context import instance_of, make_run_dir
from shmq.workers.notify import Notifier
from shmq.workers.statefile import RunDirLock, read_state, sweep_run_dir, write_state
from shmq.workers.storelock import StoreLock


class Child:
    """A process that does something, says what came of it, and lives until it is ended."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(write, str(act()).encode())
                signal.pause()
            finally:
                os._exit(1)
        os.close(write)

    def wait(self) -> str:
        """What it said."""
        return os.read(self._read, 100).decode()

    def end(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)


def holder_of(folder: Path) -> object:
    """Who holds the lock that cannot be taken."""
    try:
        StoreLock(folder).take()
    except StoreError as error:
        return error.facts.get("holder_pid")
    return None


def lock_as_java(folder: Path) -> None:
    """Java's tryLock takes byte [0, 1)."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)


def test_one_broker_a_store(tmp_path: Path) -> None:
    lock = StoreLock(tmp_path)
    lock.take()
    child = Child(lambda: holder_of(tmp_path))
    assert child.wait() == str(os.getpid())
    child.end()
    lock.release()
    lock.release()
    assert (tmp_path / "lock").read_bytes() == b"lock"
    again = StoreLock(tmp_path)
    again.take()
    again.release()


def test_the_lock_of_an_apache_broker_is_seen(tmp_path: Path) -> None:
    child = Child(lambda: lock_as_java(tmp_path))
    assert child.wait() == "None"
    with pytest.raises(StoreError, match="in use by another broker") as raised:
        StoreLock(tmp_path).take()
    assert raised.value.facts["holder_pid"] == child.pid
    child.end()
    lock = StoreLock(tmp_path)
    lock.take()
    lock.release()


def test_the_last_roles_of_a_dead_supervisor_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = StoreLock(tmp_path)
    lock.take()
    child = Child(lambda: "a role, which has inherited the lock")
    child.wait()
    lock.release()
    monkeypatch.setattr(storelock, "LAST_ROLES_MAX_MS", 50)
    with pytest.raises(StoreError, match="still alive"):
        StoreLock(tmp_path).take()
    monkeypatch.setattr(storelock, "LAST_ROLES_MAX_MS", 20_000)
    child.end()
    again = StoreLock(tmp_path)
    again.take()
    again.release()


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        StoreLock(tmp_path).take()
    assert not (tmp_path / "target").exists()


def test_the_state_of_a_broker_that_runs(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        read_state(tmp_path)
    lock = RunDirLock(tmp_path)
    lock.take()
    for number in range(3):
        write_state(tmp_path, {"pid": 4711, "number": number})
    assert read_state(tmp_path) == {"pid": 4711, "number": 2}
    with pytest.raises(ConfigError, match="in use by another broker") as raised:
        RunDirLock(tmp_path).take()
    assert raised.value.facts["holder_pid"] == 4711
    lock.release()
    with pytest.raises(Unavailable, match="no broker runs here"):
        read_state(tmp_path)
    with pytest.raises(Unavailable):
        read_state(tmp_path / "none")
    RunDirLock(tmp_path).take()


def test_a_run_dir_is_swept_of_our_things_only(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    make_run_dir(run_dir)
    write_state(run_dir, {})
    (run_dir / statefile.MEMBERS_FILE).write_bytes(b"x")
    (run_dir / "mine.txt").write_text("precious")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(run_dir / "s"))
    assert sweep_run_dir(run_dir) == sorted([statefile.STATE_FILE, statefile.MEMBERS_FILE, "s"])
    statefile.remove_run_dir(run_dir)
    assert [path.name for path in run_dir.iterdir()] == ["mine.txt"]
    (run_dir / "mine.txt").unlink()
    statefile.remove_run_dir(run_dir)
    assert not run_dir.exists()


def test_run_dirs_that_are_not_ours_alone(tmp_path: Path) -> None:
    run_dir = tmp_path / "a" / "run"
    make_run_dir(run_dir)
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    make_run_dir(run_dir)
    for mode in (0o720, 0o702, 0o777):
        run_dir.chmod(mode)
        with pytest.raises(ConfigError, match="others may write"):
            make_run_dir(run_dir)
    run_dir.chmod(0o755)
    make_run_dir(run_dir)
    link = tmp_path / "link"
    link.symlink_to(run_dir)
    with pytest.raises(ConfigError, match="not a directory"):
        make_run_dir(link)
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "run"):
        with pytest.raises(ConfigError):
            make_run_dir(path)


def test_an_instance_is_named_after_its_real_folder(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    link = tmp_path / "link"
    link.symlink_to(store)
    assert instance_of(store) == instance_of(link) == instance_of(store / ".." / "store")
    assert instance_of(store) != instance_of(tmp_path)
    assert instance_of(store).isalnum()


# systemd


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_systemd_is_told(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()}, pid=1)
    assert notifier.enabled
    notifier.ready("up\nand running")
    notifier.reloading(5)
    notifier.stopping("bye")
    notifier.watchdog()
    notifier.status("x" * 5000)
    notifier.extend_timeout(30_000, "recovering")
    said = [manager.recv(10_000).decode() for _ in range(6)]
    assert said[0] == f"READY=1\nSTATUS=up and running\nMAINPID={os.getpid()}"
    assert said[1:4] == ["RELOADING=1\nMONOTONIC_USEC=5", "STOPPING=1\nSTATUS=bye", "WATCHDOG=1"]
    assert len(said[4]) == len("STATUS=") + 1024
    assert said[5] == "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=recovering"


def test_an_abstract_address() -> None:
    name = f"shmq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}, pid=1).watchdog()
        assert sock.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("value", ["", "@", "relative", "vsock:2:1"])
def test_without_systemd_nothing_happens(value: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": value}, pid=1)
    assert not notifier.enabled
    notifier.ready("x")
    assert notifier.last_error is None


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}, pid=1)
    notifier.ready("x")
    assert isinstance(notifier.last_error, FileNotFoundError)


@pytest.mark.parametrize(
    ("timeout_us", "for_pid", "interval_ms"),
    [
        ("10000000", "", 5000),
        ("10000000", "7", 5000),
        ("10000000", "8", 0),
        ("1", "", 1),
        ("0", "", 0),
        ("-5", "", 0),
        ("x", "", 0),
        ("", "", 0),
    ],
)
def test_watchdog_intervals(timeout_us: str, for_pid: str, interval_ms: int) -> None:
    environ = {"WATCHDOG_USEC": timeout_us, "WATCHDOG_PID": for_pid}
    assert Notifier(environ, pid=7).watchdog_interval_ms == interval_ms

"""The two systems under measurement: how each is started, awaited, found and ended.

Each holds all its processes (broker and name server) and is alone on the machine while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from bench.host.wire import Peer, PeerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

HOST_DIR = Path(__file__).resolve().parent
BIN_DIR = HOST_DIR / "bin"
PROJECT_DIR = HOST_DIR.parents[1]
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
PORT_TRIES_MAX = 100
OUTPUT_LINES_MAX = 2000
POLL_S = 0.02
JARS_NEEDED = ("rocketmq-broker-5.5.0.jar", "rocketmq-example-5.5.0.jar")
BROKER_JARS = ("rocketmq-broker-", "rocketmq-namesrv-", "rocketmq-controller-", "rocketmq-tiered")

# As Apache's runbroker.sh starts it, but for the heap, which is a setting of the run.
BROKER_JVM = (
    "-server",
    "-XX:+UseG1GC",
    "-XX:G1HeapRegionSize=16m",
    "-XX:G1ReservePercent=25",
    "-XX:InitiatingHeapOccupancyPercent=30",
    "-XX:SoftRefLRUPolicyMSPerMB=0",
    "-XX:-OmitStackTraceInFastThrow",
    "-XX:+AlwaysPreTouch",
    "-XX:MaxDirectMemorySize=15g",
    "-XX:-UseLargePages",
    "-XX:-UseBiasedLocking",
)
NAMESRV_JVM = ("-server", "-Xms256m", "-Xmx256m")


def wait_until(what: str, done: Callable[[], bool], timeout_s: float) -> None:
    """Ask again and again, with a deadline: the other side offers nothing to wait on."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            msg = f"{what}: not within {timeout_s:.0f} s"
            raise PeerError(msg)
        time.sleep(POLL_S)


def jar_dir() -> Path:
    """Where the jars of Apache's release are; got from Maven when they are not there."""
    target = BIN_DIR / "lib"
    if all((target / name).exists() for name in JARS_NEEDED):
        return target
    command = ["mvn", "-q", "-B", "-f", str(HOST_DIR / "java/pom.xml")]
    command += ["org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    subprocess.run(command, check=True, timeout=900)
    return target


def class_path(*, client: bool) -> str:
    """All jars; for a client without the servers', whose log settings it would take for its own."""
    jars = sorted(jar_dir().glob("*.jar"))
    if client:
        jars = [jar for jar in jars if not jar.name.startswith(BROKER_JARS)]
    return ":".join(str(jar) for jar in jars)


def free_port() -> int:
    """A port that is free together with the two below and the one above it (Apache's needs)."""
    for _ in range(PORT_TRIES_MAX):
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                for neighbour in (port - 2, port - 1, port + 1):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", neighbour))
            except OSError:
                continue
            return port
    msg = f"no four free ports in a row after {PORT_TRIES_MAX} tries"
    raise PeerError(msg)


def tree_of(pid: int) -> list[psutil.Process]:
    """A process and everything below it that is alive."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_tree(child: subprocess.Popen[Any], timeout_s: float, *, stragglers_s: float) -> None:
    """SIGTERM, a deadline, then SIGKILL to every process of the tree, each by its pid."""
    tree = tree_of(child.pid)
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout_s)
    _gone, alive = psutil.wait_procs(tree, timeout=stragglers_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10.0)
    child.wait(10.0)


class Process:
    """A child in a session of its own; its output is kept, and it ends with all its children."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], cwd: Path) -> None:
        self.name = name
        self.lines: list[str] = []
        self.began = time.monotonic()
        self._news = threading.Condition()
        self._ended = False
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._child.pid
        self._reader = threading.Thread(target=self._read, name=f"{name}-output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self._child.stdout is None:
            return
        for line in self._child.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                del self.lines[:-OUTPUT_LINES_MAX]
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str, timeout_s: float) -> str:
        """The first line of output that matches; an error when the process ends or time is up."""
        wanted = re.compile(pattern, re.IGNORECASE)

        def found() -> str | None:
            return next((line for line in self.lines if wanted.search(line)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._ended, timeout_s)
            line = found()
            if line is None:
                why = "it ended" if self._ended else f"not within {timeout_s:.0f} s"
                tail = "\n".join(self.lines[-20:])
                msg = f"{self.name} (pid {self.pid}) did not print /{pattern}/: {why}\n{tail}"
                raise PeerError(msg)
            return line

    def check(self) -> None:
        """An error when the process has ended."""
        status = self._child.poll()
        if status is not None:
            tail = "\n".join(self.lines[-20:])
            msg = f"{self.name} (pid {self.pid}) ended with status {status} in the middle\n{tail}"
            raise PeerError(msg)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end; returns the exit status."""
        try:
            status = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            msg = f"{self.name} (pid {self.pid}) did not end within {timeout_s:.0f} s"
            raise PeerError(msg) from error
        self._reader.join(timeout_s)
        return status

    def tree(self) -> list[psutil.Process]:
        """The process and everything below it that is alive."""
        return tree_of(self.pid)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, a deadline, then SIGKILL to every process of the tree, each by its pid."""
        end_tree(self._child, timeout_s, stragglers_s=2.0)
        self._reader.join(10.0)


@dataclass
class Places:
    """The folders and ports of one run of one system."""

    root: Path
    port: int = field(default_factory=free_port)
    namesrv_port: int = field(default_factory=free_port)

    def folder(self, name: str) -> Path:
        """A folder of the run, made when it is missing."""
        place = self.root / name
        place.mkdir(parents=True, exist_ok=True)
        return place


def java(places: Places, jvm: tuple[str, ...], main: str, *args: str, client: bool) -> list[str]:
    """The command line of one of Apache's classes, its logs inside the run's folder."""
    home = f"-Duser.home={places.folder('home')}"
    return ["java", *jvm, home, "-cp", class_path(client=client), main, *args]


def java_env(places: Places) -> dict[str, str]:
    """The environment of a JVM of this run."""
    unwanted = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "ROCKETMQ_SERIALIZE_TYPE"}
    kept = {key: value for key, value in os.environ.items() if key not in unwanted}
    return kept | {"ROCKETMQ_HOME": str(places.folder("rocketmq"))}


class System:
    """A broker with its name server. Use as a context: entering starts, leaving ends everything."""

    name = ""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.processes: list[Process] = []
        self._segments: set[str] = set()

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket, of a system that has one."""
        return None

    def settings(self) -> dict[str, Any]:
        """What a reader of the results must know about how it ran."""
        raise NotImplementedError

    def spawn(self) -> None:
        """Start all processes and return at once."""
        raise NotImplementedError

    def await_ready(self) -> None:
        """Wait until all processes say that they serve."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.spawn()
            self.await_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes, the last started first."""
        self._segments |= {name for process in self.tree() for name in shared_segments(process.pid)}
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()
        for name in self._segments:  # a tidy end leaves none; SIGKILL does
            Path("/dev/shm", name).unlink(missing_ok=True)  # noqa: S108 - where segments are
        self._segments.clear()

    def tree(self) -> list[psutil.Process]:
        """All processes of the system."""
        return [process for child in self.processes for process in child.tree()]

    def check(self) -> None:
        """An error when one of the processes that we started has ended."""
        for process in self.processes:
            process.check()

    def broker(self) -> Peer:
        """A connection to the broker."""
        return Peer(self.places.port)

    def prepare_topic(self, topic: str, queue_count: int) -> None:
        """Create a topic and wait until the name server knows it."""
        with self.broker() as broker, Peer(self.places.namesrv_port) as namesrv:
            broker.create_topic(topic, queue_count)
            wait_until(f"route of {topic}", lambda: namesrv.has_route(topic), START_TIMEOUT_S)


def shared_segments(pid: int) -> Iterator[str]:
    """Names of shmq's shared-memory segments that a process maps."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.search(r"/dev/shm/(shmq\.[^ /]+)$", line)  # noqa: S108  only looked at
            if found:
                yield found[1]


class Apache(System):
    """Apache's broker and name server, release 5.5.0, with their defaults but for `overrides`."""

    name = "apache"

    def __init__(self, places: Places, heap: str, overrides: dict[str, str] | None = None) -> None:
        super().__init__(places)
        self.heap = heap
        self.overrides = overrides or {}

    def settings(self) -> dict[str, Any]:
        """Heap and flags."""
        jvm = " ".join([f"-Xms{self.heap}", f"-Xmx{self.heap}", *BROKER_JVM])
        return {
            "release": "5.5.0",
            "broker_jvm": jvm,
            "namesrv_jvm": " ".join(NAMESRV_JVM),
            "broker.conf": self.overrides,
        }

    def spawn(self) -> None:
        """Start the name server and the broker side by side: the broker registers when it can."""
        places, home = self.places, self.places.folder("rocketmq")
        env = java_env(places)
        namesrv_conf, broker_conf = home / "namesrv.conf", home / "broker.conf"
        namesrv_conf.write_text(
            f"bindAddress=127.0.0.1\nlistenPort={places.namesrv_port}\n"
            f"kvConfigPath={home}/kvConfig.json\nconfigStorePath={home}/namesrv.properties\n"
        )
        broker_conf.write_text(
            "brokerClusterName=bench\nbrokerName=broker\nbrokerId=0\nbrokerIP1=127.0.0.1\n"
            f"listenPort={places.port}\nnamesrvAddr=127.0.0.1:{places.namesrv_port}\n"
            f"storePathRootDir={places.folder('store')}\n"
            f"storePathCommitLog={places.folder('store') / 'commitlog'}\n"
            + "".join(f"{key}={value}\n" for key, value in self.overrides.items())
        )
        namesrv = "org.apache.rocketmq.namesrv.NamesrvStartup"
        broker = "org.apache.rocketmq.broker.BrokerStartup"
        heap = (f"-Xms{self.heap}", f"-Xmx{self.heap}", *BROKER_JVM)
        for title, main, jvm, conf in (
            ("apache name server", namesrv, NAMESRV_JVM, namesrv_conf),
            ("apache broker", broker, ("-XX:+IgnoreUnrecognizedVMOptions", *heap), broker_conf),
        ):
            command = java(places, jvm, main, "-c", str(conf), client=False)
            self.processes.append(Process(title, command, env, home))

    def await_ready(self) -> None:
        """Wait for the line that each prints."""
        for process in self.processes:
            process.wait_for("boot success", START_TIMEOUT_S)


class Shmq(System):
    """shmq as `shmq standalone`: broker and name server in one tree of processes."""

    name = "shmq"

    def __init__(self, places: Places, overrides: dict[str, str]) -> None:
        super().__init__(places)
        self.overrides = overrides

    @property
    def socket_path(self) -> Path:
        """The Unix socket of the remoting door."""
        return self.places.folder("run") / "broker.sock"

    def settings(self) -> dict[str, Any]:
        """The keys that differ from the defaults."""
        return {"broker.conf": self.overrides}

    def spawn(self) -> None:
        """Start the supervisor; it forks the rest."""
        places = self.places
        conf = places.folder("run") / "broker.conf"
        keys = {"brokerClusterName": "bench", "brokerName": "broker"} | self.overrides
        conf.write_text("".join(f"{key}={value}\n" for key, value in keys.items()))
        command = [shmq_command(), "standalone", "--store", str(places.folder("store"))]
        command += ["--listen", f"127.0.0.1:{places.port}"]
        command += ["--namesrv-listen", f"127.0.0.1:{places.namesrv_port}"]
        command += ["--socket", str(self.socket_path), "-c", str(conf)]
        self.processes.append(Process("shmq", command, dict(os.environ), places.folder("run")))

    def await_ready(self) -> None:
        """Wait for its `ready` line."""
        self.processes[0].wait_for(r"\bready\b", START_TIMEOUT_S)

    def status(self) -> dict[str, Any]:
        """What `shmq status --json` says."""
        command = [shmq_command(), "status", "--json", "--store", str(self.places.folder("store"))]
        done = subprocess.run(command, check=True, capture_output=True, timeout=START_TIMEOUT_S)
        status: dict[str, Any] = json.loads(done.stdout)
        return status


def shmq_command() -> str:
    """The installed command beside this interpreter, else the one on the path."""
    beside = Path(sys.executable).parent / "shmq"
    command = str(beside) if beside.exists() else shutil.which("shmq")
    if command is None:
        msg = f"there is no command shmq in {beside.parent} or on the path: run `make setup`"
        raise PeerError(msg)
    return command

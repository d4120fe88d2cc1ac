"""Brokers for the interop tests: shmq, and Apache's name server and broker."""

from __future__ import annotations

import base64
import os
import queue
import signal
import socket
import sys
from pathlib import Path
from typing import Final, Protocol

from tests.compat.ask import ROUTE_BY_TOPIC, SUCCESS, ask
from tests.compat.drivers import HERE
from tests.compat.processes import Process, eventually, free_port

ROOT: Final = HERE.parent.parent
CLUSTER: Final = "compat-cluster"
BROKER_NAME: Final = "compat-broker"
BOOT_TIMEOUT_S: Final = 60.0
SERVER_VERSION: Final = "5.5.0"
BROKER_VERSIONS: Final = (SERVER_VERSION, "5.3.3", "4.9.8")
"""Brokers that setup.sh installs, the newest first; all but the first without a name server."""


SMALL_INDEX: Final = {"maxHashSlotNum": 20_000, "maxIndexNum": 80_000}
"""The same for both kinds of broker, which may be given one store in turn."""


def uri(host: str, port: int) -> str:
    """Address as clients take it, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def write_settings(path: Path, settings: dict[str, object]) -> None:
    """Write a broker.conf."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))


def common_settings(host: str) -> dict[str, object]:
    """Settings that both kinds of broker are started with."""
    return {
        "brokerClusterName": CLUSTER,
        "brokerName": BROKER_NAME,
        "brokerIP1": host,
        "autoCreateTopicEnable": "true",
        "mappedFileSizeCommitLog": 64 * 1024 * 1024,
        **SMALL_INDEX,
        "waitTimeMillsInSendQueue": 10_000,
    }


class Broker(Protocol):
    """A broker with a name server, as the tests see it."""

    target: str
    namesrv: str
    address: str

    def start(self) -> None:
        """Start, on the same store as before; returns when clients can come."""

    def stop(self) -> None:
        """Stop in the orderly way."""

    def kill(self) -> None:
        """End the broker with SIGKILL."""


class ShmqProgram:
    """One of shmq's programs in the foreground."""

    target = "shmq"

    def __init__(self, folder: Path, command: str, *options: str) -> None:
        self._folder = folder
        self._argv = [*shmq_program(), command, *options]
        self._name = f"shmq-{command}"
        self._process: Process | None = None

    def start(self) -> None:
        """Start it and wait for its ready line, which is one and names its addresses."""
        self._process = Process(
            self._argv,
            folder=self._folder,
            name=self._name,
            environ={"PYTHONPATH": str(ROOT)},
            orphan_signal="TERM",
        )
        self._process.await_line(lambda line: " ready in " in line, timeout_s=BOOT_TIMEOUT_S)

    def stop(self) -> None:
        """Stop it; anything but exit status 0 is a failure."""
        process, self._process = self._process, None
        if process is not None:
            status = process.stop()
            assert status == 0, f"{process!r} ended with {status}\n{process.tail()}"

    def kill(self) -> None:
        """End the supervisor with SIGKILL; its processes end with it."""
        process, self._process = self._process, None
        if process is not None:
            assert process.kill() == -signal.SIGKILL


def shmq_program() -> list[str]:
    """How `shmq` is called beside this Python."""
    script = Path(sys.executable).parent / "shmq"
    return [str(script)] if script.exists() else [sys.executable, "-m", "shmq.workers.cli"]


def shmq_settings(folder: Path, host: str, settings: dict[str, object] | None) -> str:
    """Path of a new broker.conf for shmq."""
    path = folder / "broker.conf"
    write_settings(path, {**common_settings(host), "serveProcessNums": 2, **(settings or {})})
    return str(path)


class Shmq(ShmqProgram):
    """`shmq standalone`: broker and embedded name server."""

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", settings: dict[str, object] | None = None
    ) -> None:
        self.address = uri(host, free_port(host, beside=(0, -2, 1)))
        self.namesrv = uri(host, free_port(host))
        super().__init__(
            folder,
            "standalone",
            *("--store", str(folder / "store")),
            *("--listen", self.address),
            *("--namesrv-listen", self.namesrv),
            *("--socket", str(folder / "shmq.sock")),
            *("-c", shmq_settings(folder, host, settings)),
        )


class ShmqBroker(ShmqProgram):
    """`shmq broker`, registered with other name servers, if `namesrv` is not empty."""

    def __init__(
        self,
        folder: Path,
        *,
        namesrv: str,
        host: str = "127.0.0.1",
        settings: dict[str, object] | None = None,
        store: Path | None = None,
    ) -> None:
        self.namesrv = namesrv
        self.address = uri(host, free_port(host, beside=(0, -2, 1)))
        super().__init__(
            folder,
            "broker",
            *("--store", str(store or folder / "store")),
            *("--listen", self.address),
            *("--socket", str(folder / "shmq.sock")),
            *(("-n", namesrv) if namesrv else ()),
            *("-c", shmq_settings(folder, host, settings)),
        )

    def start(self) -> None:
        """Start it and wait until it is registered."""
        super().start()
        await_registration(self.namesrv)


class ShmqNamesrv(ShmqProgram):
    """`shmq namesrv`: a name server alone."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self.address = uri(host, free_port(host))
        super().__init__(
            folder, "namesrv", *("--store", str(folder / "namesrv")), *("--listen", self.address)
        )


def registered(namesrv: str) -> bool:
    """Whether each of these name servers knows a broker that creates topics."""
    return all(
        ask(one, ROUTE_BY_TOPIC, {"topic": "TBW102"}).code == SUCCESS for one in namesrv.split(";")
    )


def await_registration(namesrv: str) -> None:
    """Wait for a registration; Apache's first attempt may fail, and is repeated after 10 s.

    Not with an empty text: that broker has no name server.
    """
    if namesrv:
        eventually("a registration", lambda: registered(namesrv), timeout_s=BOOT_TIMEOUT_S)


class ApacheNamesrv:
    """Apache's name server."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self._folder = folder
        port = free_port(host)
        self.address = uri(host, port)
        self._connect = (host, port)
        self._process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        settings = self._folder / "namesrv.conf"
        write_settings(settings, {"listenPort": self._connect[1]})
        self._process = Process(
            [
                *_java_server(self._folder, "-Xmx128m", "-XX:TieredStopAtLevel=1"),
                "org.apache.rocketmq.namesrv.NamesrvStartup",
                *("-c", str(settings)),
            ],
            folder=self._folder,
            name="apache-namesrv",
        )
        self._process.await_line(lambda line: "boot success" in line, timeout_s=BOOT_TIMEOUT_S)
        socket.create_connection(self._connect, timeout=10).close()

    def stop(self) -> None:
        """Stop it."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()


class ApacheBroker:
    """Apache's broker, registered with the name server at `namesrv`, if that is not empty."""

    target = "apache"

    def __init__(
        self,
        folder: Path,
        *,
        namesrv: str,
        host: str = "127.0.0.1",
        settings: dict[str, object] | None = None,
        version: str = SERVER_VERSION,
        store: Path | None = None,
    ) -> None:
        self._folder = folder
        self._version = version
        port = free_port(host, beside=(0, -2, 1))
        self.namesrv = namesrv
        self.address = uri(host, port)
        self._settings = folder / "broker.conf"
        write_settings(
            self._settings,
            {
                **common_settings(host),
                "brokerIP1": f"[{host}]" if ":" in host else host,
                "brokerId": 0,
                "listenPort": port,
                **({"namesrvAddr": namesrv} if namesrv else {}),
                "storePathRootDir": store or folder / "store",
                **SMALL_INDEX,
                "diskMaxUsedSpaceRatio": 95,
                "osPageCacheBusyTimeOutMills": 10_000,
                **(settings or {}),
            },
        )
        self._process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it is registered, which it is after it listens."""
        options = ["-Xmx1g", "-XX:MaxDirectMemorySize=512m", "-XX:TieredStopAtLevel=1"]
        if self._version.startswith("4."):
            _write_logback_settings(self._folder)
        self._process = Process(
            [
                *_java_server(self._folder, *options, version=self._version),
                "-Drocketmq.broker.diskSpaceWarningLevelRatio=0.98",
                "-Drocketmq.broker.diskSpaceCleanForciblyRatio=0.97",
                "org.apache.rocketmq.broker.BrokerStartup",
                *("-c", str(self._settings)),
            ],
            folder=self._folder,
            name="apache-broker",
        )
        self._process.await_line(lambda line: "boot success" in line, timeout_s=BOOT_TIMEOUT_S)
        await_registration(self.namesrv)

    def stop(self) -> None:
        """Stop it; Java ends with 143 after a SIGTERM that it handled."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(timeout_s=60)

    def kill(self) -> None:
        """End it with SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            assert process.kill() == -signal.SIGKILL


class ApachePair:
    """Apache's name server and broker together, in the place of shmq."""

    target = "apache"

    def __init__(
        self, folder: Path, *, host: str = "127.0.0.1", settings: dict[str, object] | None = None
    ) -> None:
        self._namesrv = ApacheNamesrv(folder, host=host)
        self._broker = ApacheBroker(
            folder, namesrv=self._namesrv.address, host=host, settings=settings
        )
        self.namesrv = self._namesrv.address
        self.address = self._broker.address

    def start(self) -> None:
        """Start both."""
        self._namesrv.start()
        self._broker.start()

    def stop(self) -> None:
        """Stop both."""
        self._broker.stop()
        self._namesrv.stop()

    def kill(self) -> None:
        """End the broker with SIGKILL, and the name server too, as it happens to shmq."""
        self._broker.kill()
        self._namesrv.stop()


class Admin:
    """Apache's mqadmin, in one Java machine for all its commands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said: queue.Queue[str] = queue.Queue()
        self._process = Process(
            [
                *_java_server(folder, "-Xmx256m", "-XX:TieredStopAtLevel=1"),
                "Admin",
            ],
            folder=folder,
            name="mqadmin",
            on_line=self._said.put,
        )

    def run(self, command: str, *words: str, namesrv: str) -> str:
        """What a command printed."""
        line = "\t".join([command, "-n", namesrv, *words])
        self._process.write(line.encode() + b"\n")
        return base64.b64decode(self._said.get(timeout=60)).decode()

    def stop(self) -> None:
        """End it."""
        self._process.end_input()
        self._process.wait()


def new_broker(
    folder: Path, *, host: str = "127.0.0.1", settings: dict[str, object] | None = None
) -> Broker:
    """The broker under test, not started: SHMQ_COMPAT_TARGET=apache checks the tests themselves."""
    target = os.environ.get("SHMQ_COMPAT_TARGET", "shmq")
    kinds: dict[str, type[Shmq | ApachePair]] = {"shmq": Shmq, "apache": ApachePair}
    assert target in kinds, f"SHMQ_COMPAT_TARGET is {target}, allowed: {sorted(kinds)}"
    return kinds[target](folder, host=host, settings=settings)


def _write_logback_settings(folder: Path) -> None:
    """A broker of 4.9 does not start without them; this logs warnings to the error output."""
    settings = folder / "conf" / "logback_broker.xml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(
        '<configuration><appender name="err" class="ch.qos.logback.core.ConsoleAppender">'
        "<target>System.err</target><encoder><pattern>%d %p %c: %m%n</pattern></encoder>"
        '</appender><root level="WARN"><appender-ref ref="err"/></root></configuration>'
    )


def _java_server(folder: Path, *options: str, version: str = SERVER_VERSION) -> list[str]:
    jars = "server" if version == SERVER_VERSION else f"broker-{version}"
    return [
        "java",
        *options,
        "-XX:+UseSerialGC",
        "-Xshare:auto",
        "--add-opens=java.base/java.nio=ALL-UNNAMED",
        "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
        "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
        f"-Duser.home={folder}",
        f"-Drocketmq.home.dir={folder}",
        "-cp",
        f"{HERE}/java/classes/admin:{HERE}/java/lib/{jars}/*",
    ]

"""Brokers for the tests of the client library, and what the tests do with them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import psutil

import shmq
from shmq.client import Client, Consumer, ReceivedMessage
from tests.compat.peers import Shmq
from tests.compat.processes import eventually

# The machine may be busy with other tests: what takes a millisecond then takes seconds.
PATIENCE_S: Final = 45.0
_names: Final = itertools.count(1)


class LiveBroker:
    """`shmq standalone` and the addresses by which a client reaches it."""

    def __init__(self, folder: Path) -> None:
        self._broker = Shmq(folder)
        while self._broker.namesrv == self._broker.address:  # Each was free by itself.
            self._broker = Shmq(folder)
        self.address = self._broker.address
        self.namesrv = self._broker.namesrv
        self.socket = folder / "shmq.sock"
        self.start = self._broker.start
        self.stop = self._broker.stop
        self.kill = self._broker.kill

    def addresses(self) -> dict[str, str]:
        """Address texts by the way they go."""
        return {
            "native": f"unix:{self.socket}",
            "unix": f"unix:{self.socket}?copy=1",
            "namesrv": self.namesrv,
            "broker": f"broker:{self.address}",
        }

    def processes(self, role: str) -> list[psutil.Process]:
        """Running processes of one role, by their titles; waits until there is one."""
        found: list[psutil.Process] = []

        def some() -> bool:
            assert self._broker._process is not None
            found.clear()
            for one in psutil.Process(self._broker._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):  # One that has just ended.
                    if f"shmq: {role}" in " ".join(one.cmdline()):
                        found.append(one)
            return bool(found)

        eventually(f"a process of the role {role}", some, timeout_s=PATIENCE_S)
        return found


def new_name(prefix: str = "T") -> str:
    """A topic's or group's name that nobody else has."""
    return f"{prefix}-{os.getpid()}-{next(_names)}"


def connect(address: str, **options: object) -> Client:
    """A client with timeouts for a busy machine."""
    return shmq.connect(address, **{"timeout": PATIENCE_S, **options})  # type: ignore[arg-type]


def new_topic(client: Client, *, queues: int = 4) -> str:
    """A topic of so many queues."""
    topic = new_name()
    client.create_topic(topic, queues=queues)
    return topic


def take(consumer: Consumer, count: int, *, timeout: float = PATIENCE_S) -> list[ReceivedMessage]:
    """So many messages, acknowledged; fails when they do not come."""
    got: list[ReceivedMessage] = []
    for message in consumer.messages(timeout):
        got.append(message)
        if len(got) == count:
            consumer.put_down()
            return got
    raise AssertionError(f"{len(got)} of {count} messages came within {timeout} s")


def nothing_more(consumer: Consumer, *, within: float = 0.5) -> None:
    """Check that no other message comes."""
    batch = consumer.poll(within)
    assert batch is None, [message.body for message in batch or ()]


def await_assignment(consumers: Iterable[Consumer], topic: str, counts: list[int]) -> None:
    """Wait until the consumers have so many queues of a topic, and none has two holders."""
    consumers = list(consumers)

    def divided() -> bool:
        held = [[q for q in one.assignment() if q.topic == topic] for one in consumers]
        distinct = {queue for queues in held for queue in queues}
        return sorted(map(len, held)) == sorted(counts) and len(distinct) == sum(counts)

    eventually(f"queues of {topic} divided as {counts}", divided, timeout_s=PATIENCE_S)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its exit status: 0, or 1 with the error on standard error."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  shown, and told by the status
            import traceback  # noqa: PLC0415

            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child did not end in time")

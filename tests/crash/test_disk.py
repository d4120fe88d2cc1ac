"""A disk that is full or fails: producers are refused with the reason, consumers go on."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from shmq.units import MiB
from shmq.wire.codes import ResponseCode
from tests.compat.processes import Process
from tests.crash.conftest import NewBroker
from tests.crash.group import Load
from tests.crash.live import Broker
from tests.crash.load import Consumer
from tests.crash.peer import eventually

pytestmark = pytest.mark.crash

DISK_SIZE: Final = 64 * MiB
REFUSED: Final = "the store takes no more messages: writing the commitlog failed"


class SmallDisk:
    """A small file system of its own at a folder, in a mount namespace of its own.

    `wrapper` starts a program in there, where it finds the file system at `folder`; this process
    sees it at `seen`. Who is not root gets a user namespace of its own as well.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        root = os.geteuid() == 0
        as_root = [] if root else ["--user", "--map-root-user"]
        self._holder = Process(
            [
                *("unshare", *as_root, "--mount", "--", "sh", "-c"),
                f"mount -t tmpfs -o size={DISK_SIZE} tmpfs '{folder}' && echo mounted && exec cat",
            ],
            folder=folder.parent,
            name="disk",
        )
        self._holder.await_line(lambda line: "mounted" in line, timeout_s=10)
        enter = [] if root else ["--user", "--preserve-credentials"]
        self.wrapper = ["nsenter", "--target", str(self._holder.pid), *enter, "--mount", "--"]
        self.seen = Path(f"/proc/{self._holder.pid}/root{folder}")

    def close(self) -> None:
        """End it, with all that is on it."""
        self._holder.end_input()
        self._holder.wait(timeout_s=10)


@pytest.fixture
def on_small_disk(new_broker: NewBroker) -> Iterator[tuple[Broker, SmallDisk]]:
    """A broker, not started, whose store is on a small disk."""
    broker = new_broker(mappedFileSizeCommitLog=4 * MiB, diskSpaceWarningLevelRatio=90)
    disk = SmallDisk(broker.store)
    broker.wrapper = disk.wrapper
    try:
        yield broker, disk
    finally:
        broker.clean_up()
        disk.close()


def await_refusals(load: Load) -> str:
    """Wait until both producers are refused and nothing more is acknowledged; the last reason."""
    eventually(
        "a refusal for each",
        lambda: all(producer.refusals for producer in load.producers),
        timeout_s=20,
    )
    code, remark = load.producers[0].refusals[-1]
    assert code == ResponseCode.SERVICE_NOT_AVAILABLE, remark
    assert remark is not None
    return remark


def test_full_disk_refuses_sends_until_there_is_room(
    on_small_disk: tuple[Broker, SmallDisk],
) -> None:
    broker, disk = on_small_disk
    broker.start()
    load = Load(broker, "full", pace_per_s=500)
    ballast = disk.seen / "ballast"
    ballast.write_bytes(bytes(DISK_SIZE * 91 // 100 - used(disk)))
    remark = await_refusals(load)
    assert remark.startswith("the disk of the commitlog is too full: used_percent="), remark
    assert remark.endswith("allowed_percent=90"), remark
    late = Consumer(broker.tcp, topic="topic-full", queue_count=3, group="late")
    late.start()
    late.await_message(load.producers[0].acked[-1])
    late.finish()
    ballast.unlink()
    load.await_all_go_on(time.monotonic())
    load.finish()
    assert [client.connected_count for client in load.clients] == [1, 1, 1]
    load.check()
    assert broker.stop() == 0, broker.process.tail()
    broker.check_nothing_left()


def used(disk: SmallDisk) -> int:
    """Bytes that are used on it."""
    room = os.statvfs(disk.seen)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def test_disk_without_any_room_loses_nothing(on_small_disk: tuple[Broker, SmallDisk]) -> None:
    """The write itself fails. The broker says so and serves readers; the next start has it all."""
    broker, disk = on_small_disk
    broker.write_settings(diskSpaceWarningLevelRatio=99)
    broker.start()
    load = Load(broker, "none", window=64, pace_per_s=4000, body_size_max=4000)
    ballast = disk.seen / "ballast"
    with ballast.open("wb") as file:
        while used(disk) < DISK_SIZE * 97 // 100:
            file.write(bytes(64 * 1024))
            file.flush()
    await_refusals(load)
    late = Consumer(broker.tcp, topic="topic-none", queue_count=3, group="late")
    late.start()
    late.await_message(load.producers[0].acked[-1])
    late.finish()
    pids = broker.roles()
    until = time.monotonic() + 4
    eventually("some seconds without room", lambda: time.monotonic() > until, timeout_s=10)
    assert broker.roles() == pids, "roles die of a full disk"
    for client in load.clients:
        client.abandon()
    ballast.unlink()
    broker.stop()
    broker.start()
    load.check()
    assert broker.stop() == 0
    broker.check_nothing_left()


def test_failed_write_is_final_and_said(new_broker: NewBroker) -> None:
    """Every later write might be a lie too: no more sends, until an operator has looked."""
    broker = new_broker()
    broker.start()
    load = Load(broker, "limit")
    flush = broker.pid_of("flush")
    psutil.Process(flush).rlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    remark = await_refusals(load)
    assert remark.startswith(REFUSED), remark
    assert f"errno={errno.EFBIG}" in remark or f"errno {errno.EFBIG}" in remark, remark
    late = Consumer(broker.tcp, topic="topic-limit", queue_count=3, group="late")
    late.start()
    late.await_message(load.producers[0].acked[-1])
    late.finish()
    (event,) = broker.events("commitlog.failed")
    assert event["errno"] == errno.EFBIG
    assert broker.pid_of("flush") == flush
    for client in load.clients:
        client.abandon()
    broker.stop()
    broker.check_nothing_left(kept=("control", "pool"))
    broker.start()
    load.check()
    assert broker.stop() == 0
    broker.check_nothing_left()

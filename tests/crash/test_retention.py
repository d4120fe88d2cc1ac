"""Retention of a live broker on a small disk: what goes, who goes on, and that space comes back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import shmq
from shmq.client import Client, Consumer
from shmq.units import HOUR_MS, KiB, MiB
from shmq.wire.codes import RequestCode, ResponseCode
from tests.crash.conftest import NewBroker
from tests.crash.group import Load
from tests.crash.live import Broker
from tests.crash.load import take_records
from tests.crash.peer import eventually, pull_fields
from tests.crash.smalldisk import DISK_SIZE, SmallDisk

pytestmark = pytest.mark.crash

FILE_SIZE: Final = 4 * MiB
BODY: Final = random.Random(1).randbytes(64 * KiB)  # noqa: S311  it must not shrink
EVERY_HOUR: Final = ";".join(f"{hour:02d}" for hour in range(24))
TOPIC: Final = "T"
WAIT_S: Final = 30.0


@pytest.fixture
def on_small_disk(new_broker: NewBroker) -> Iterator[tuple[Broker, SmallDisk]]:
    """A broker, not started, whose store is on a small disk and that looks often."""
    broker = new_broker(
        mappedFileSizeCommitLog=FILE_SIZE,
        mappedFileSizeConsumeQueue=20 * 100,
        metadataReserveSize=256 * KiB,
        cleanResourceInterval=100,
        deleteCommitLogFilesInterval=0,
        deleteConsumeQueueFilesInterval=0,
        deleteWhen=EVERY_HOUR,
        hotPoolSize=8 * MiB,
        consumeQueueHotEntries=64,
        diskMaxUsedSpaceRatio=95,
        diskSpaceCleanForciblyRatio=95,
        diskSpaceWarningLevelRatio=99,
    )
    disk = SmallDisk(broker.store)
    broker.wrapper = disk.wrapper
    try:
        yield broker, disk
    finally:
        broker.clean_up()
        disk.close()


def log_files(disk: SmallDisk) -> list[str]:
    """Names of the commitlog files."""
    return sorted(path.name for path in (disk.seen / "commitlog").iterdir())


def queue_files(disk: SmallDisk, topic: str = TOPIC) -> list[str]:
    """Names of the files of queue 0."""
    return sorted(path.name for path in (disk.seen / "consumequeue" / topic / "0").iterdir())


def open_files(pid: int, *, deleted: bool) -> list[str]:
    """Files of rows that a process has open: those without a name, or those with one."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        ours = "/commitlog/0" in target or "/consumequeue/" in target
        if ours and target.endswith("(deleted)") == deleted:
            found.append(target)
    return found


def explain(broker: Broker, disk: SmallDisk, *more: str) -> dict[str, Any]:
    """What `shmq retention explain` says."""
    done = subprocess.run(
        [
            *(*broker.wrapper, *broker.program, "retention", "explain", "--json"),
            *("-c", str(broker.settings_file), "--store", str(broker.store), *more),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def set_clock(broker: Broker, hours: float) -> None:
    """Let the running broker's time of day be ahead."""
    broker.write_settings(clockOffsetMillis=round(hours * HOUR_MS))
    os.kill(broker.process.pid, 1)


def fill(mq: Client, size: int) -> None:
    """Store so many bytes in queue 0."""
    with mq.producer(TOPIC) as producer:
        for _ in range(size // len(BODY)):
            producer.send(BODY)


def test_old_files_go_and_their_space_comes_back(
    on_small_disk: tuple[Broker, SmallDisk],
) -> None:
    broker, disk = on_small_disk
    broker.start()
    with ExitStack() as stack:
        native = stack.enter_context(shmq.connect(f"unix:{broker.socket_path}", timeout=WAIT_S))
        tcp = stack.enter_context(
            shmq.connect(f"broker:127.0.0.1:{broker.tcp_port}", timeout=WAIT_S)
        )
        native.create_topic(TOPIC, queues=1)
        readers = [
            stack.enter_context(mq.subscribe(TOPIC, group=group, start="first"))
            for mq, group in ((native, "native"), (tcp, "tcp"))
        ]
        fill(tcp, 24 * MiB)
        held = [next(reader.messages(WAIT_S)) for reader in readers]
        eventually("all is written", lambda: len(log_files(disk)) == 7, timeout_s=WAIT_S)
        before = log_files(disk)
        used = disk.used()
        pids = [os.getpid(), *broker.roles().values()]
        first = f"commitlog/{before[0]}"
        holders = [pid for pid in pids if first in str(open_files(pid, deleted=False))]
        assert os.getpid() in holders, "the native client reads it by itself"
        assert len(holders) >= 2, "and a serve process for the other"
        causes = [file["cause"] for file in explain(broker, disk)["files"]]
        assert causes[0] in {"young", "needed"}, "needed until its entries are on the disk"
        assert causes[-1] == "newest"

        set_clock(broker, 100)
        eventually("the newest alone", lambda: len(log_files(disk)) == 1, timeout_s=WAIT_S)
        assert log_files(disk) == before[-1:]
        eventually("queue files gone", lambda: len(queue_files(disk)) < 3, timeout_s=WAIT_S)
        eventually(
            "nobody holds what is deleted",
            lambda: not any(open_files(pid, deleted=True) for pid in pids),
            timeout_s=WAIT_S,
        )
        freed = used - disk.used()
        assert freed > 18 * MiB, freed
        assert all(bytes(message.body) == BODY for message in held), "it was read before"

        low = min_offset(broker)
        assert 0 < low < 24 * MiB // len(BODY)
        with broker.peer() as peer:
            moved = peer.ask(
                RequestCode.PULL_MESSAGE, pull_fields(TOPIC, 0, low - 1, group="peer")
            ).header
            assert moved.code == ResponseCode.PULL_OFFSET_MOVED
            assert moved.ext["nextBeginOffset"] == moved.ext["minOffset"] == str(low)
            kept = peer.ask(RequestCode.PULL_MESSAGE, pull_fields(TOPIC, 0, low, group="peer"))
            assert kept.header.code == ResponseCode.SUCCESS
        tcp.send(TOPIC, b"last")
        for reader in readers:
            assert read_until(reader, b"last")[0].queue_offset <= low
    for end in (broker.stop, broker.kill_all):
        end()
        broker.start()
        assert min_offset(broker) == low
    assert broker.stop() == 0, broker.process.tail()


def read_until(consumer: Consumer, body: bytes) -> list[Any]:
    """The messages up to one with this body, in queue order."""
    found: list[Any] = []
    for message in consumer.messages(WAIT_S):
        found.append(message)
        if bytes(message.body) == body:
            return found
    raise AssertionError(f"{body!r} did not come within {WAIT_S} s")


def min_offset(broker: Broker, topic: str = TOPIC, queue_id: int = 0) -> int:
    """First offset kept of a queue."""
    with broker.peer() as peer:
        ext = {"topic": topic, "queueId": queue_id}
        return int(peer.ask_ok(RequestCode.GET_MIN_OFFSET, ext).header.ext["offset"])


def test_a_full_disk_is_cleaned_and_service_resumes(
    on_small_disk: tuple[Broker, SmallDisk],
) -> None:
    """Producers fill the disk until they are refused; nobody helps, and they go on.

    They are so fast that it has no room at all before the ratio is looked at. Housekeeping is
    killed again and again meanwhile.
    """
    broker, disk = on_small_disk
    broker.write_settings(
        diskMaxUsedSpaceRatio=40, diskSpaceCleanForciblyRatio=60, diskSpaceWarningLevelRatio=80
    )
    broker.start()
    began = time.monotonic()
    load = Load(broker, "full", window=64, pace_per_s=20_000, body_size_max=4000)
    eventually(
        "refusals",
        lambda: all(producer.refusals for producer in load.producers),
        timeout_s=WAIT_S,
    )
    _code, remark = load.producers[0].refusals[0]
    assert remark is not None
    assert remark.startswith(("the disk of the commitlog is too full", "the disk has no room"))
    eventually("deletion", lambda: log_files(disk)[0] != "0" * 20, timeout_s=WAIT_S)
    for _ in range(3):
        broker.kill_role("housekeeping")
        load.await_all_go_on(time.monotonic(), within_s=WAIT_S)
    assert disk.used() < DISK_SIZE * 90 // 100
    (event, *_) = broker.events("retention.deleted_early")
    assert event["causes"] == ["disk"]
    load.finish()
    check_kept(broker, load)
    assert time.monotonic() - began < 60
    assert broker.stop() == 0, broker.process.tail()
    broker.start()
    check_kept(broker, load)
    assert broker.stop() == 0
    broker.check_nothing_left()


def check_kept(broker: Broker, load: Load) -> None:
    """All acknowledged messages from the queues' min offsets on are there, and no others."""
    topic = load.producers[0].topic
    with broker.peer() as peer:
        for queue_id in range(load.producers[0].queue_count):
            low = min_offset(broker, topic, queue_id)
            digests: list[bytes] = [b""] * low
            while len(digests) < peer.max_offset(topic, queue_id):
                fields = pull_fields(topic, queue_id, len(digests), group="check", count=512)
                body = peer.ask_ok(RequestCode.PULL_MESSAGE, fields).body
                take_records(body, topic, queue_id, digests)
            acked = [
                one
                for producer in load.producers
                for one in producer.acked
                if one.queue_id == queue_id
            ]
            assert 0 < low < max(one.queue_offset for one in acked)
            for one in acked:
                assert digests[one.queue_offset] in (one.digest, b""), one
            assert sorted(filter(None, digests)) == sorted(set(filter(None, digests)))


def test_a_quota_holds_under_load(on_small_disk: tuple[Broker, SmallDisk]) -> None:
    """The quota is of the store, not of the disk; what a reader has not read may go."""
    broker, disk = on_small_disk
    quota = 16 * MiB
    broker.write_settings(storeQuotaBytes=quota)
    broker.start()
    with ExitStack() as stack:
        mq = stack.enter_context(shmq.connect(f"unix:{broker.socket_path}", timeout=WAIT_S))
        mq.create_topic(TOPIC, queues=1)
        slow = stack.enter_context(mq.subscribe(TOPIC, group="slow", start="first"))
        fill(mq, 28 * MiB)
        assert next(slow.messages(WAIT_S)).queue_offset == 0
        set_clock(broker, 1)  # Entries are synced at once.
        eventually(
            "no more than the quota and one file",
            lambda: len(log_files(disk)) * FILE_SIZE <= quota + FILE_SIZE,
            timeout_s=WAIT_S,
        )
        mq.send(TOPIC, b"last")
        seen = read_until(slow, b"last")
        offsets = [message.queue_offset for message in seen]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
        assert offsets[0] == min_offset(broker), "it goes on with the first that is kept"
        found = explain(broker, disk, "--set", "storeQuotaBytes=1")
        assert [file["cause"] for file in found["files"][:2]] == ["quota", "quota"]
        assert found["files"][-1]["cause"] in {"newest", "needed"}
    assert broker.stop() == 0
    stopped = explain(broker, disk)
    assert (stopped["running"], found["running"]) == (False, True)
    assert [file["goes"] for file in stopped["files"]].count(True) <= 1


def test_operators_ask(on_small_disk: tuple[Broker, SmallDisk]) -> None:
    """What mqadmin deleteExpiredCommitLog asks for: at once, though the hour is wrong."""
    broker, disk = on_small_disk
    wrong = (datetime.now().astimezone() + timedelta(hours=100 + 3)).hour
    broker.write_settings(deleteWhen=f"{wrong:02d}")
    broker.start()
    with shmq.connect(f"unix:{broker.socket_path}", timeout=WAIT_S) as mq, broker.peer() as peer:
        mq.create_topic(TOPIC, queues=1)
        fill(mq, 13 * MiB)
        set_clock(broker, 100)
        eventually(
            "old files",
            lambda: (
                [one["cause"] for one in explain(broker, disk)["files"]]
                == ["hour", "order", "order", "newest"]
            ),
            timeout_s=WAIT_S,
        )
        peer.ask_ok(RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE)
        peer.ask_ok(RequestCode.CLEAN_UNUSED_TOPIC)
        assert len(log_files(disk)) == 4
        peer.ask_ok(RequestCode.DELETE_EXPIRED_COMMITLOG)
        eventually("deletion", lambda: len(log_files(disk)) == 1, timeout_s=WAIT_S)
    assert broker.stop() == 0

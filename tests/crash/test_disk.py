"""A disk that is full or fails: producers are refused with the reason, consumers go on."""

from __future__ import annotations

import errno
import json
import resource
import time
from collections.abc import Iterator
from typing import Final

import psutil
import pytest

from shmq.units import KiB, MiB
from shmq.wire.codes import RequestCode, ResponseCode
from tests.crash.conftest import NewBroker
from tests.crash.group import Load
from tests.crash.live import Broker
from tests.crash.load import Consumer
from tests.crash.peer import Peer, eventually
from tests.crash.smalldisk import DISK_SIZE, SmallDisk

pytestmark = pytest.mark.crash

REFUSED: Final = "the store takes no more messages: writing the commitlog failed"


@pytest.fixture
def on_small_disk(new_broker: NewBroker) -> Iterator[tuple[Broker, SmallDisk]]:
    """A broker, not started, whose store is on a small disk."""
    broker = new_broker(
        mappedFileSizeCommitLog=4 * MiB,
        diskSpaceWarningLevelRatio=90,
        cleanFileForciblyEnable="false",
        metadataReserveSize=256 * KiB,
    )
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
        "a refusal for each, but for what was on its way",
        lambda: all(
            producer.refusals and producer.refusals[-1][0] != ResponseCode.FLUSH_DISK_TIMEOUT
            for producer in load.producers
        ),
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
    ballast.write_bytes(bytes(DISK_SIZE * 91 // 100 - disk.used()))
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


@pytest.mark.parametrize("flush", ["ASYNC_FLUSH", "SYNC_FLUSH"])
def test_disk_without_any_room_loses_nothing(
    on_small_disk: tuple[Broker, SmallDisk], flush: str
) -> None:
    """The write itself fails. Readers and tables are served; with room all goes on by itself."""
    broker, disk = on_small_disk
    broker.write_settings(diskSpaceWarningLevelRatio=99, flushDiskType=flush, syncFlushTimeout=1000)
    broker.start()
    eventually("a reserve", (disk.seen / "reserve").exists, timeout_s=5)
    load = Load(broker, "none", window=64, pace_per_s=4000, body_size_max=4000)
    disk.fill()
    await_refusals(load)
    eventually("no room", lambda: bool(broker.events("commitlog.no_room")), timeout_s=10)
    late = Consumer(broker.tcp, topic="topic-none", queue_count=3, group="late")
    late.start()
    late.await_message(load.producers[0].acked[0])
    late.finish()
    pids = broker.roles()
    with broker.peer() as peer:
        peer.create_topic("made-without-room", 2)
        commit(peer, "made-without-room", 17)
    topics = json.loads((disk.seen / "config" / "topics.json").read_text())
    assert "made-without-room" in topics["topicConfigTable"]
    assert broker.events("reserve.used")
    assert broker.roles() == pids, "roles die of a full disk"
    disk.empty()
    load.await_all_go_on(time.monotonic())
    eventually("a reserve again", (disk.seen / "reserve").exists, timeout_s=5)
    load.finish()
    load.check()
    assert broker.roles() == pids
    assert broker.stop() == 0
    broker.check_nothing_left()
    assert not (disk.seen / "reserve").exists()
    broker.start()
    with broker.peer() as peer:
        assert committed(peer, "made-without-room") == 17
    assert broker.stop() == 0


def test_stopped_without_room_loses_nothing(on_small_disk: tuple[Broker, SmallDisk]) -> None:
    """What is in no file stays in the hot pages; the next start writes it."""
    broker, disk = on_small_disk
    broker.write_settings(diskSpaceWarningLevelRatio=99)
    broker.start()
    load = Load(broker, "end", window=64, pace_per_s=4000, body_size_max=4000)
    disk.fill()
    await_refusals(load)
    for client in load.clients:
        client.abandon()
    broker.stop()
    disk.empty()
    broker.start()
    load.check()
    assert broker.stop() == 0
    broker.check_nothing_left()


def commit(peer: Peer, topic: str, offset: int) -> None:
    """Commit an offset of queue 0 for the group `late`."""
    fields = {"consumerGroup": "late", "topic": topic, "queueId": "0", "commitOffset": str(offset)}
    peer.ask_ok(RequestCode.UPDATE_CONSUMER_OFFSET, fields)


def committed(peer: Peer, topic: str) -> int:
    """What commit() has committed."""
    fields = {"consumerGroup": "late", "topic": topic, "queueId": "0"}
    return int(peer.ask_ok(RequestCode.QUERY_CONSUMER_OFFSET, fields).header.ext["offset"])


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

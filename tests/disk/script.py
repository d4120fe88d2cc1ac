"""What is done to a store while every change of it is written down: three brokers, one by one.

The first begins with nothing and stops cleanly, the second is killed with all its processes, the
third finds what that left in memory. Files are so small that logs and queues go on in new files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.disk.disks import TimedDisk
from tests.disk.onebroker import FIRST_MS, OneBroker
from tests.disk.promises import Promises

LONG_MS: Final = 20_000
"""More than every interval: consumequeues are synced, the checkpoint vouches for them."""


def body(number: int, size: int) -> bytes:
    """A body that is like no other."""
    return b"%06d." % number * (size // 7 + 1)


def run_script(root: Path, disk: TimedDisk, promises: Promises, *, sync: bool) -> None:
    """Do all of it on a disk that works."""
    broker = OneBroker(root, disk=disk, promises=promises, sync=sync, now_ms=FIRST_MS)
    first_life(broker)
    assert broker.stop()
    broker = OneBroker(root, disk=disk, promises=promises, sync=sync, now_ms=FIRST_MS + 200_000)
    second_life(broker)
    broker.kill()
    broker = OneBroker(
        root,
        disk=disk,
        promises=promises,
        sync=sync,
        now_ms=FIRST_MS + 400_000,
        instance=broker.instance,
    )
    third_life(broker)
    broker.power_off()


def first_life(broker: OneBroker) -> None:
    """Topics, messages over two files of each kind, commits, a table of them."""
    broker.create_topic("A")
    broker.send("A", 0, *(body(number, 20) for number in range(5)))
    broker.work()
    broker.work()
    broker.commit("A", 0, 2)
    broker.send("A", 1, body(100, 700), body(101, 5000))
    broker.work(pass_ms=LONG_MS)
    broker.commit("A", 0, 4)
    broker.commit("A", 0, 5)
    broker.work(pass_ms=LONG_MS)
    broker.create_topic("B", queues=1)
    broker.send("B", 0, body(200, 3000))
    broker.send("A", 0, *(body(number, 20) for number in range(5, 45)))
    broker.work()
    broker.commit("A", 0, 30)
    broker.commit("A", 1, 1)
    broker.send("B", 0, body(201, 2000))
    broker.work(pass_ms=LONG_MS)


def second_life(broker: OneBroker) -> None:
    """A little of each, and an end with much that is not synced."""
    broker.commit("A", 0, 40)
    broker.send("A", 1, body(102, 600), body(103, 4500))
    broker.work()
    broker.create_topic("C", queues=1)
    broker.send("C", 0, body(300, 300))
    broker.work(pass_ms=LONG_MS)
    broker.commit("A", 0, 41)
    broker.commit("A", 1, 2)
    broker.create_topic("E", queues=1)
    broker.send("E", 0, body(400, 20))
    broker.send("C", 0, body(301, 6000), *(body(number, 20) for number in range(310, 355)))
    broker.work()


def third_life(broker: OneBroker) -> None:
    """Goes on."""
    broker.commit("A", 0, 44)
    broker.send("A", 0, *(body(number, 20) for number in range(45, 48)))
    broker.work()
    broker.send("C", 0, body(303, 300), *(body(number, 20) for number in range(360, 400)))
    broker.work(pass_ms=LONG_MS)
    broker.work(pass_ms=LONG_MS)


def life_after_cut(root: Path, disk: TimedDisk, promises: Promises, *, sync: bool) -> None:
    """A broker on what a power cut left: recovers, goes on a little, and loses power too."""
    broker = OneBroker(root, disk=disk, promises=promises, sync=sync, now_ms=FIRST_MS + 800_000)
    broker.create_topic("D", queues=1)
    broker.create_topic("A")
    broker.send("A", 0, body(900, 20), body(901, 400))
    broker.work()
    broker.send("D", 0, body(902, 700))
    broker.commit("A", 0, 7)
    broker.work(pass_ms=LONG_MS)
    broker.power_off()

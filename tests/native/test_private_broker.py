"""shmq.testing and the pytest plugin: a private broker, its controls, and that nothing is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import shmq
from shmq.errors import ConfigError, NotConnected
from shmq.testing import PrivateBroker
from tests.compat.processes import eventually

WAIT_S = 30.0


def segments() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("shmq")}  # noqa: S108, PTH208


def test_ready_soon_and_gone_without_a_trace(tmp_path: Path) -> None:
    before = segments()
    broker = PrivateBroker(tmp_path)
    began = time.monotonic()
    with broker:
        took_s = time.monotonic() - began
        with broker.connect() as mq, shmq.connect(broker.tcp_address) as far:
            assert mq.send("T", b"1").topic == far.send("T", b"2").topic == "T"
        assert broker.ready
    assert took_s < 10, "half a second on a quiet machine"
    assert segments() <= before
    assert not broker.socket.parent.exists()
    assert broker.processes() == []


def test_a_crash_loses_nothing(shmq_broker: PrivateBroker) -> None:
    with shmq_broker.connect(timeout=WAIT_S) as mq:
        mq.send("T", b"kept")
        shmq_broker.crash()
        shmq_broker.start()
        with mq.subscribe("T", group="g") as consumer:
            assert next(consumer.messages(WAIT_S)).body == b"kept"


def test_left_crashed_it_is_cleaned_up(tmp_path: Path) -> None:
    before = segments()
    with PrivateBroker(tmp_path) as broker:
        with broker.connect(timeout=WAIT_S) as mq:
            mq.send("T", b"x")
        broker.crash()
    assert segments() <= before


def test_controls(shmq_broker: PrivateBroker) -> None:
    with shmq_broker.connect(timeout=WAIT_S) as mq:
        mq.send("T", b"1")
        pid = shmq_broker.kill("writer")

        def another() -> bool:
            found = shmq_broker.processes("writer")
            return bool(found) and found[0].pid != pid

        eventually("another writer", another, timeout_s=WAIT_S)
        mq.send("T", b"2")
        with shmq_broker.stopped("dispatch"):
            mq.send("T", b"3")
        shmq_broker.restart()
        mq.send("T", b"4")
        with pytest.raises(ConfigError, match=r"no process of that role.*writer"):
            shmq_broker.kill("nobody")
        with pytest.raises(ConfigError, match="runs already"):
            shmq_broker.start()


def test_the_clock(shmq_broker: PrivateBroker) -> None:
    ahead_s = 3600
    shmq_broker.set_clock(ahead_s)
    with shmq_broker.connect(timeout=WAIT_S) as mq:
        mq.create_topic("T", queues=1)
        with mq.subscribe("T", group="g") as consumer:

            def is_ahead() -> bool:
                mq.send("T", b"x")
                message = next(consumer.messages(WAIT_S))
                return abs(message.store_timestamp / 1000 - time.time() - ahead_s) < 60

            eventually("stamps are ahead", is_ahead, timeout_s=WAIT_S)


class TestSettings:
    """A module or class may have settings of its own."""

    @pytest.fixture
    def shmq_settings(self) -> dict[str, object]:
        """Those of this class."""
        return {"flushDiskType": "SYNC_FLUSH"}

    def test_are_taken(self, shmq_broker: PrivateBroker) -> None:
        """The client sees that results must wait for the disk."""
        with shmq_broker.connect(timeout=WAIT_S) as mq:
            mq.send("T", b"x")
            link = mq.core.link
            assert link is not None
            eventually("the session is open", lambda: link.session is not None, timeout_s=WAIT_S)
            assert link.only_reads


def test_wrong_settings_are_said(tmp_path: Path) -> None:
    broker = PrivateBroker(tmp_path, flushDiskType="SOMETIMES")
    try:
        with pytest.raises(NotConnected, match="flushDiskType"):
            broker.start()
    finally:
        broker.close()


@pytest.mark.parametrize("spin", [-1, 2])
def test_odd_spinning(shmq_shared_broker: PrivateBroker, spin: float) -> None:
    with pytest.raises(ConfigError, match="spin"):
        shmq_shared_broker.connect(spin=spin)


def test_spinning_on_both_sides(tmp_path: Path) -> None:
    with (
        PrivateBroker(tmp_path, spinMicros=200) as broker,
        broker.connect(timeout=WAIT_S, spin=0.001) as mq,
    ):
        mq.create_topic("T", queues=1)
        with mq.producer("T") as producer, mq.subscribe("T", group="g") as consumer:
            for number in range(200):
                producer.post(b"%d" % number)
                assert next(consumer.messages(WAIT_S)).body == b"%d" % number

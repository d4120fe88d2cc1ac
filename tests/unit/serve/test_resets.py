"""Resets of a group's offsets: what its consumers are answered until they have adopted them."""

from __future__ import annotations

from typing import Any

import pytest

from shmq.broker.resets import SETTLE_MS
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import Frame
from shmq.wire.header import Header, encode_frame
from shmq.wire.pull import RESET_NUMBER
from shmq.workers.uplink import COMMIT_INTERVAL_MS
from tests.unit.serve.broker import START_MS, Broker, Client
from tests.unit.serve.conftest import MakeBroker
from tests.unit.serve.frames import codes, pull_ext
from tests.unit.serve.test_coordinator import answer_to, heartbeat

FOUND, MOVED = ResponseCode.SUCCESS, ResponseCode.PULL_OFFSET_MOVED


@pytest.fixture
def filled(make_broker: MakeBroker) -> Broker:
    """Two serve processes, 20 messages in queue 0, one a ms, and an older one in queue 3."""
    broker = make_broker(serve_count=2)
    for number in range(20):
        broker.put(b"number %d" % number, now_ms=START_MS + number)
    return broker


def java(code: int, **ext: Any) -> bytes:
    """Frame of a request of a Java client."""
    fields = {name: str(value) for name, value in ext.items()}
    return encode_frame(Header(code, 1, language="JAVA", ext=fields))


def pull(offset: int, **fields: Any) -> bytes:
    """Frame of a Java consumer's pull of queue 0."""
    return java(RequestCode.PULL_MESSAGE, **pull_ext(offset=offset, **fields))


def reset(broker: Broker, client: Client, **ext: Any) -> dict[int, int]:
    """Reset group G; the new offsets by queue id."""
    fields = {"topic": "T", "group": "G", "timestamp": 0, "isForce": "true"} | ext
    answer = answer_to(broker, client, java(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, **fields))
    assert answer.header.code == 0, answer.header.remark
    table = jsonish.loads(answer.body)["offsetTable"]
    return {queue["queueId"]: offset for queue, offset in table}


def commit(broker: Broker, client: Client, offset: int) -> Frame:
    """Commit an offset of queue 0; the answer."""
    fields = {"consumerGroup": "G", "topic": "T", "queueId": 0, "commitOffset": offset}
    frame: Frame = answer_to(broker, client, java(RequestCode.UPDATE_CONSUMER_OFFSET, **fields))
    assert frame.header.code == 0, frame.header.remark
    return frame


def committed(broker: Broker, client: Client) -> int:
    """Ask for the committed offset of queue 0."""
    fields = {"consumerGroup": "G", "topic": "T", "queueId": 0}
    answer = answer_to(broker, client, java(RequestCode.QUERY_CONSUMER_OFFSET, **fields))
    assert answer.header.code == 0, answer.header.remark
    return int(answer.header.ext["offset"])


def known(broker: Broker) -> int | None:
    """The committed offset as the coordinator has it; nobody is told by this."""
    assert broker.coordinator is not None
    return broker.coordinator._control.plane.offsets.get("G", "T", 0)


def test_backwards_while_it_is_consumed(filled: Broker) -> None:
    """Pulls are turned back until the consumer has come back, and its old commits do not count."""
    consumer, operator = filled.connect(), filled.connect()
    assert codes(filled.ask(consumer, pull(10))) == [FOUND]
    commit(filled, consumer, 18)
    assert reset(filled, operator, timestamp=START_MS + 5) == {0: 5, 1: 0, 2: 0, 3: 1}
    assert known(filled) == 5
    for offset in (18, 20, 5, 18):
        (got,) = filled.ask(consumer, pull(offset, commit=18))
        if offset == 5:
            assert got.header.code == FOUND, "it was told before, and has come back"
            break
        assert (got.header.code, got.header.ext["nextBeginOffset"]) == (MOVED, "5")
        assert (got.header.ext["minOffset"], got.header.ext["maxOffset"]) == ("0", "20")
        assert commit(filled, consumer, 18).header.remark == "Offset has been previously reset"
        assert known(filled) == 5
    filled.settle()
    assert commit(filled, consumer, 7).header.remark is None
    assert known(filled) == 7
    assert codes(filled.ask(consumer, pull(12))) == [FOUND]


def test_one_that_happens_to_be_there_was_not_told(filled: Broker) -> None:
    """It may have messages in its hands, whose commits would count."""
    consumer, operator = filled.connect(), filled.connect()
    reset(filled, operator, timestamp=-1)
    assert codes(filled.ask(consumer, pull(20))) == [MOVED]
    commit(filled, consumer, 19)
    assert known(filled) == 20
    assert codes(filled.ask(consumer, pull(20))) == [ResponseCode.PULL_NOT_FOUND]


def test_a_pull_that_waits_is_answered(filled: Broker) -> None:
    consumer, operator = filled.connect(), filled.connect()
    consumer.send(pull(20, suspend_ms=10_000))
    other = filled.connect()
    other.send(pull(20, suspend_ms=10_000, group="H"))
    filled.settle()
    assert not consumer.take()
    assert reset(filled, operator, timestamp=START_MS + 19)[0] == 19
    filled.until(consumer.look)
    (got,) = consumer.take()
    assert (got.header.code, got.header.ext["nextBeginOffset"]) == (MOVED, "19")
    assert int(got.header.ext[RESET_NUMBER]) > 0
    filled.settle()
    assert not other.take()
    assert codes(filled.ask(consumer, pull(19))) == [FOUND]


def test_pulls_of_other_queues_are_served(filled: Broker) -> None:
    """And do not open the short way to the queue whose reset waits."""
    filled.put(b"other", queue_id=1)
    consumer, operator = filled.connect(), filled.connect()
    reset(filled, operator, queueId=0, offset=3)
    for _ in range(3):
        assert codes(filled.ask(consumer, pull(0, queueId=1))) == [FOUND]
    assert codes(filled.ask(consumer, pull(15))) == [MOVED]


def test_a_group_that_is_offline(filled: Broker) -> None:
    """Who asks for the offset is told by that, and not once more."""
    operator = filled.connect()
    reset(filled, operator, timestamp=START_MS + 7)
    consumer = filled.connect()
    assert committed(filled, consumer) == 7
    (got,) = filled.ask(consumer, pull(7))
    assert got.header.code == FOUND
    assert b"number 7" in got.body
    commit(filled, consumer, 9)
    assert known(filled) == 9


def test_two_that_have_the_queue_at_once(filled: Broker) -> None:
    """In a rebalance the one that had the queue is told, but only who comes back adopts."""
    first, second, operator = (filled.connect() for _ in range(3))
    reset(filled, operator, timestamp=START_MS + 3)
    assert codes(filled.ask(first, pull(15))) == [MOVED]
    assert codes(filled.ask(second, pull(16))) == [MOVED]
    commit(filled, first, 15)
    assert codes(filled.ask(first, pull(16))) == [MOVED]
    assert codes(filled.ask(second, pull(3))) == [FOUND]
    assert known(filled) == 3


def test_commits_of_pulls_before_the_reset(filled: Broker) -> None:
    """They may lie in a serve process for a moment."""
    consumer, operator = filled.connect(), filled.connect()
    assert codes(filled.ask(consumer, pull(10, commit=17))) == [FOUND]
    reset(filled, operator, timestamp=START_MS)
    filled.clock.now_ms += COMMIT_INTERVAL_MS
    filled.settle()
    assert known(filled) == 0


def test_again_while_one_waits(filled: Broker) -> None:
    consumer, operator = filled.connect(), filled.connect()
    reset(filled, operator, timestamp=START_MS + 5)
    assert codes(filled.ask(consumer, pull(20))) == [MOVED]
    assert reset(filled, operator, queueId=0, offset=8) == {0: 8}
    (got,) = filled.ask(consumer, pull(5))
    assert (got.header.code, got.header.ext["nextBeginOffset"]) == (MOVED, "8")
    assert codes(filled.ask(consumer, pull(8))) == [FOUND]


@pytest.mark.parametrize("dies", ["before it hears of it", "after it was adopted"])
def test_the_coordinator_dies(filled: Broker, dies: str) -> None:
    """A successor has the resets that wait, and hears again of those that were adopted."""
    consumer, operator = filled.connect(), filled.connect()
    commit(filled, consumer, 18)
    reset(filled, operator, timestamp=START_MS + 5)
    assert codes(filled.ask(consumer, pull(18))) == [MOVED]
    filled.stands.add("coordinator")
    if dies == "after it was adopted":
        assert codes(filled.ask(consumer, pull(5))) == [FOUND]
    filled.new_coordinator()
    filled.stands.clear()
    filled.settle()
    assert known(filled) == 5
    commit(filled, consumer, 17)
    if dies == "after it was adopted":
        assert known(filled) == 17
        return
    assert known(filled) == 5
    assert codes(filled.ask(consumer, pull(18))) == [MOVED]
    assert codes(filled.ask(consumer, pull(5))) == [FOUND]


def test_native_clients_are_told_and_commit(filled: Broker) -> None:
    """They may read where no pull is seen: what they commit next says that they have heard."""
    consumer, operator = filled.connect(), filled.connect()
    assert answer_to(filled, consumer, heartbeat("c")).header.code == 0
    filled.settle()
    consumer.take()
    reset(filled, operator, timestamp=START_MS + 5)
    filled.until(consumer.look)
    (told,) = consumer.take()
    assert told.header.code == RequestCode.RESET_CONSUMER_CLIENT_OFFSET
    assert told.header.ext["group"] == "G"
    table = {queue["queueId"]: at for queue, at in jsonish.loads(told.body)["offsetTable"]}
    assert table == {0: 5, 1: 0, 2: 0, 3: 1}

    def native(offset: int) -> bytes:
        fields = {"consumerGroup": "G", "topic": "T", "queueId": "0", "commitOffset": str(offset)}
        return encode_frame(Header(RequestCode.UPDATE_CONSUMER_OFFSET, 9, ext=fields))

    assert codes(filled.ask(consumer, native(18))) == [0]
    assert known(filled) == 5
    assert codes(filled.ask(consumer, native(5))) == [0]
    assert codes(filled.ask(consumer, native(6))) == [0]
    assert known(filled) == 6


def test_pull_consumers_commit_what_they_remember(filled: Broker) -> None:
    """For some seconds after they have gone back."""
    consumer, operator = filled.connect(), filled.connect()
    heard = heartbeat("c").replace(b'"PYTHON"', b'"JAVA"  ')
    heard = heard.replace(b'"CONSUME_PASSIVELY"', b'"CONSUME_ACTIVELY" ')
    assert answer_to(filled, consumer, heard).header.code == 0
    filled.settle()
    consumer.take()
    reset(filled, operator, timestamp=START_MS + 5)
    assert codes(filled.ask(consumer, pull(18))) == [MOVED]
    assert codes(filled.ask(consumer, pull(5))) == [FOUND]
    filled.settle()
    for passed_ms in (0, SETTLE_MS - 2000):
        filled.clock.now_ms += passed_ms
        filled.settle()
        commit(filled, consumer, 18)
        assert known(filled) == 5
    filled.clock.now_ms += 4000
    filled.settle()
    commit(filled, consumer, 18)
    assert known(filled) == 18


def test_consumers_of_4_x_are_reminded(filled: Broker) -> None:
    """They commit the reset's offset after 10 s, and would rebalance in up to 20 s more."""
    consumer, operator = filled.connect(), filled.connect()
    assert answer_to(filled, consumer, heartbeat("c").replace(b'"PYTHON"', b'"JAVA"  '))
    filled.settle()
    consumer.take()
    reset(filled, operator, timestamp=START_MS + 5)
    assert codes(filled.ask(consumer, pull(18))) == [MOVED]
    assert not consumer.take()
    commit(filled, consumer, 5)
    filled.settle()
    assert codes(consumer.take()) == [RequestCode.NOTIFY_CONSUMER_IDS_CHANGED]
    assert committed(filled, consumer) == 5
    assert codes(filled.ask(consumer, pull(5))) == [FOUND]

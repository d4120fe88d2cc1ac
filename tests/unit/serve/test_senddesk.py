"""Sends of the general path in a serve process: topics that are made, gates, refusals."""

from __future__ import annotations

import errno

import msgspec
import pytest

from shmq.config import Settings
from shmq.errors import RequestRefused
from shmq.layout.control import Word
from shmq.layout.counters import GAUGES, SEGMENT_SIZE, Counter
from shmq.shm.counters import CounterRow, totals
from shmq.units import MINUTE_MS, SECOND_MS
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import BINARY
from shmq.wire.send import BatchMessage, join_batch
from shmq.workers.base import epoch_ms
from shmq.workers.gate import LOOK_INTERVAL_MS, Gate
from shmq.workers.rates import Rates
from tests.unit.serve.broker import Broker
from tests.unit.serve.conftest import MakeBroker
from tests.unit.serve.frames import codes, opaques, properties, pull, request, send

OK = ResponseCode.SUCCESS
BUSY = ResponseCode.SYSTEM_BUSY
CLOSED = ResponseCode.SERVICE_NOT_AVAILABLE


# Topics that are made by sending


def test_a_topic_is_made_and_the_send_goes_on(broker: Broker) -> None:
    client = broker.connect()
    (got,) = broker.ask(client, send(b"new", topic="New", default_topic_queue_count=3))
    assert got.header.code == OK
    assert broker.serve.views.topics["New"].write_queue_nums == 3
    (got,) = broker.ask(client, pull(topic="New"))
    assert b"new" in got.body


def test_sends_behind_one_that_waits_for_its_topic(broker: Broker) -> None:
    """They are not held up by it."""
    client = broker.connect()
    broker.stands.add("coordinator")
    client.send(send(opaque=1, topic="New") + send(opaque=2))
    broker.until(client.look)
    assert opaques(client.take()) == [2]
    broker.stands.clear()
    broker.until(client.look)
    assert opaques(client.take()) == [1]


def test_the_connection_ends_while_its_topic_is_made(broker: Broker) -> None:
    client, other = broker.connect(), broker.connect()
    broker.stands.add("coordinator")
    client.send(send(b"lost", topic="New"))
    broker.until(lambda: broker.serve.uplink.waiting_count == 1)
    client.reset()
    broker.until(lambda: len(broker.serve.door.connections) == 1)
    broker.stands.clear()
    broker.until(lambda: "New" in broker.serve.views.topics)
    broker.settle()
    assert codes(broker.ask(other, pull(topic="New"))) == [ResponseCode.PULL_NOT_FOUND]


def test_the_ring_is_full_when_the_topic_was_made(broker: Broker) -> None:
    client, greedy = broker.connect(), broker.connect()
    broker.stands.update({"writer", "coordinator"})
    client.send(send(topic="New"))
    broker.until(lambda: broker.serve.uplink.waiting_count == 1)
    greedy.send(b"".join(send(opaque=number) for number in range(100)))
    broker.until(lambda: broker.serve._blocked)
    broker.stands.remove("coordinator")
    broker.until(client.look)
    (got,) = client.take()
    assert got.header.code == BUSY
    assert "submission ring is full" in (got.header.remark or "")


def test_the_topic_is_refused_after_all(broker: Broker) -> None:
    """What the general path checks counts for a send that waited for its topic, too."""
    client = broker.connect()
    (got,) = broker.ask(client, send(topic="New", queue_id=99))
    assert got.header.code == ResponseCode.INVALID_PARAMETER


def test_a_default_topic_that_may_not_be_inherited(broker: Broker) -> None:
    client = broker.connect()
    (got,) = broker.ask(client, send(topic="New", default_topic="T"))
    assert got.header.code == ResponseCode.TOPIC_NOT_EXIST


@pytest.mark.parametrize("topic", ["../x", "a/b", "", "x" * 128])
def test_no_name_leaves_the_store(broker: Broker, topic: str) -> None:
    client = broker.connect()
    (got,) = broker.ask(client, send(topic=topic))
    assert got.header.code == ResponseCode.INVALID_PARAMETER
    folders = {path.name for path in (broker.house.store_dir / "consumequeue").glob("*")}
    assert folders <= {"T"}


def test_topics_of_the_system_take_no_sends(broker: Broker) -> None:
    """They are known, with queues; the compiled parser must leave them, too."""
    client = broker.connect()
    topic = "SCHEDULE_TOPIC_XXXX"
    assert topic in broker.serve.views.topics
    (got,) = broker.ask(client, send(topic=topic))
    assert got.header.code == ResponseCode.NO_PERMISSION


def test_ordered_topics_of_a_broker_that_is_only_read(broker: Broker) -> None:
    client = broker.connect()
    view = broker.serve.views.topics["T"]
    assert not broker.serve.sends.is_special(view)
    read_only = Settings(broker_permission=4)
    broker.serve.sends.reload(read_only)
    assert not broker.serve.sends.is_special(view)
    assert broker.serve.sends.is_special(msgspec.structs.replace(view, order=True))
    assert codes(broker.ask(client, send())) == [OK]


@pytest.mark.parametrize("serialization", [0, BINARY])
def test_batch(broker: Broker, serialization: int) -> None:
    client = broker.connect()
    messages = [
        BatchMessage(0, b"m%d" % number, properties(UNIQ_KEY=f"u{number}", TAGS="A").encode())
        for number in range(3)
    ]
    frame = send(
        join_batch(messages),
        code=RequestCode.SEND_BATCH_MESSAGE,
        batch=True,
        serialization=serialization,
    )
    (got,) = broker.ask(client, frame)
    assert (got.header.code, got.serialization) == (OK, serialization)
    assert got.header.ext["msgId"].count(",") == 2
    (got,) = broker.ask(client, pull(tags="A"))
    assert [got.body.count(b"m%d" % number) for number in range(3)] == [1, 1, 1]
    assert got.header.ext["nextBeginOffset"] == "3"


def test_message_too_large_for_the_ring(make_broker: MakeBroker) -> None:
    """A limit of a message above what the ring holds is told, not waited for."""
    broker = make_broker(max_message_size=900_000, pool_size=8 << 20)
    client = broker.connect()
    (got,) = broker.ask(client, send(b"x" * 890_000))
    assert got.header.code == ResponseCode.SYSTEM_ERROR
    assert "does not fit the ring" in (got.header.remark or "")
    assert codes(broker.ask(client, send())) == [OK]


# The gate


@pytest.mark.parametrize("frame", [send(), send(properties="")])
def test_disk_too_full(make_broker: MakeBroker, frame: bytes) -> None:
    """Sends are refused with the share that is used; reads go on; when there is room, sends too."""
    broker = make_broker(disk_space_warning_level_ratio=90)
    client = broker.connect()
    used = broker.arena.writer(Word.DISK_USED, role="boot")
    used.publish(9000)
    broker.clock.now_ms += LOOK_INTERVAL_MS
    (got,) = broker.ask(client, frame)
    assert got.header.code == CLOSED
    assert "used_percent=90" in (got.header.remark or "")
    assert codes(broker.ask(client, pull())) == [ResponseCode.PULL_NOT_FOUND]
    used.publish(8999)
    broker.clock.now_ms += LOOK_INTERVAL_MS
    assert codes(broker.ask(client, frame)) == [OK]


def test_refusals_hold_on_to_nothing(broker: Broker) -> None:
    """Frames that come in pieces, refused again and again: their buffers can be cut each time."""
    client = broker.connect()
    broker.arena.writer(Word.FLUSH_ERROR, role="boot").publish(errno.EIO)
    broker.clock.now_ms += LOOK_INTERVAL_MS
    frame = send(b"x" * 1000)
    for _ in range(5):
        client.send(frame + frame[:500])
        broker.until(client.look)
        assert codes(client.take()) == [CLOSED]
        client.send(frame[500:])
        broker.until(client.look)
        assert codes(client.take()) == [CLOSED]
    made = gate(broker)
    assert made.closed(10_000)
    refusals = []
    for _ in range(2):
        with pytest.raises(RequestRefused) as raised:
            made.check()
        refusals.append(raised.value)
    assert refusals[0] is not refusals[1]


def gate(broker: Broker, **settings: object) -> Gate:
    return Gate(arena=broker.arena, settings=Settings(**settings))  # type: ignore[arg-type]


def test_gate_looks_now_and_then(broker: Broker) -> None:
    made = gate(broker)
    assert not made.closed(1000)
    broker.arena.writer(Word.FLUSH_ERROR, role="boot").publish(errno.EIO)
    assert not made.closed(1000 + LOOK_INTERVAL_MS - 1)
    assert made.closed(1000 + LOOK_INTERVAL_MS)


def test_gate_of_a_slave(broker: Broker) -> None:
    made = gate(broker, broker_role="SLAVE", broker_id=1)
    assert made.closed(1000)
    made.reload(Settings())
    assert not made.closed(1001)


def test_gate_before_its_time(broker: Broker) -> None:
    made = gate(broker, start_accept_send_request_time_stamp=epoch_ms() + MINUTE_MS)
    assert made.closed(1000)
    made.reload(Settings(start_accept_send_request_time_stamp=1))
    assert not made.closed(1000)


def test_reload_reaches_every_part(broker: Broker) -> None:
    client = broker.connect()
    broker.serve.reload(msgspec.structs.replace(broker.settings, broker_permission=2))
    assert codes(broker.ask(client, pull())) == [ResponseCode.NO_PERMISSION]
    assert codes(broker.ask(client, send())) == [OK]


def test_lite_pulls_may_be_forbidden(make_broker: MakeBroker) -> None:
    broker = make_broker(lite_pull_message_enable=False)
    client = broker.connect()
    lite = pull(code=RequestCode.LITE_PULL_MESSAGE)
    assert codes(broker.ask(client, lite)) == [ResponseCode.NO_PERMISSION]
    assert codes(broker.ask(client, pull())) == [ResponseCode.PULL_NOT_FOUND]


def test_look_ups_are_answered_by_serve(broker: Broker) -> None:
    client = broker.connect()
    broker.put()
    broker.stands.add("coordinator")
    (got,) = broker.ask(client, request(RequestCode.GET_MAX_OFFSET, topic="T", queueId="0"))
    assert got.header.ext == {"offset": "1"}


# Counters and rates


def test_counters(broker: Broker) -> None:
    client = broker.connect()
    before = totals(broker.arena.counters)
    broker.ask(client, send() + send(properties="") + send(queue_id=99), count=3)
    broker.ask(client, pull())
    client.send(pull(suspend_ms=1000, offset=2))
    broker.until(lambda: broker.arena.holding(0).load() == 1)
    after = totals(broker.arena.counters)
    grown = {counter: after[counter] - before[counter] for counter in Counter}
    assert grown[Counter.SENDS] == 2
    assert grown[Counter.SENDS_REFUSED] == 1
    assert (grown[Counter.PULLS], grown[Counter.PULLS_FOUND]) == (1, 1)
    assert grown[Counter.PULLED_MESSAGES] == 2
    assert grown[Counter.PULLED_BYTES] > 0
    assert grown[Counter.REQUESTS] == 4
    assert (after[Counter.PULLS_HELD], after[Counter.CONNECTIONS]) == (1, 1)


def test_a_successor_counts_on() -> None:
    segment = memoryview(bytearray(SEGMENT_SIZE))
    first, other = CounterRow(segment, 3), CounterRow(segment, 4)
    for counter in Counter:
        first.add(counter, 10)
        other.add(counter, 5)
    CounterRow(segment, 3)
    found = totals(segment)
    assert found == {counter: 5 if counter in GAUGES else 15 for counter in Counter}


def test_rates(broker: Broker) -> None:
    rates = Rates(broker.arena)
    count = broker.arena.writer(Word.DESCRIPTOR_COUNT, role="boot")
    start = count.load()
    for second in range(71):
        rates.sample(second * SECOND_MS)
        rates.sample(second * SECOND_MS + 1)  # Too early: not taken.
        count.publish(start + (second + 1) * 10)
    assert len(rates._samples) == 71
    info = rates.runtime_info(71 * SECOND_MS)
    assert [float(part) for part in info["putTps"].split()] == [10.0, 10.0, 10.0]
    count.publish(count.load() + 100)
    info = rates.runtime_info(71 * SECOND_MS)
    assert float(info["putTps"].split()[0]) == 20.0
    assert info["msgPutTotalTodayNow"] == str(count.load())


def test_rates_before_there_are_samples(broker: Broker) -> None:
    info = Rates(broker.arena).runtime_info(1000)
    assert info["putTps"] == "0.00 0.00 0.00"

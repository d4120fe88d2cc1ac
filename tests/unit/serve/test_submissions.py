"""The ring between serve and writer: room, answers, flushes, successors, connections that end."""

from __future__ import annotations

import errno

import pytest

from shmq.layout import ring as ring_layout
from shmq.layout.control import BLOCKED_BY_FLUSH, BLOCKED_TEXT, Word
from shmq.layout.counters import Counter
from shmq.shm.counters import totals
from shmq.units import KiB
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import BINARY, JSON
from shmq.wire.send import BatchMessage, join_batch
from tests.unit.serve.broker import Broker, Client
from tests.unit.serve.conftest import MakeBroker
from tests.unit.serve.frames import codes, opaques, properties, pull, request, send

BUSY = ResponseCode.SYSTEM_BUSY
OK = ResponseCode.SUCCESS
LATE = ResponseCode.FLUSH_DISK_TIMEOUT
CLOSED = ResponseCode.SERVICE_NOT_AVAILABLE
RING_ENTRIES = 64  # of a house


def sends(count: int, *, first: int = 0, body: bytes = b"x", **fields: object) -> bytes:
    """So many frames, numbered."""
    frames = [send(body, opaque=number, **fields) for number in range(first, first + count)]  # type: ignore[arg-type]
    return b"".join(frames)


def batch(count: int, *, opaque: int = 1) -> bytes:
    """Frame of a batch, which takes the general path."""
    messages = [BatchMessage(0, b"m%d" % number, b"UNIQ_KEY\x01u\x02") for number in range(count)]
    return send(
        join_batch(messages), opaque=opaque, code=RequestCode.SEND_BATCH_MESSAGE, batch=True
    )


def blocked(broker: Broker) -> int:
    """Connections whose input waits for room."""
    connections = broker.serve.door.connections.values()
    return sum(connection.blocked_ms > 0 for connection in connections)


# Room


def test_full_ring_blocks_the_connection_until_there_is_room(broker: Broker) -> None:
    client = broker.connect()
    broker.stands.add("writer")
    client.send(sends(RING_ENTRIES + 36))
    broker.until(lambda: blocked(broker) == 1)
    assert broker.serve.ring.in_flight == RING_ENTRIES
    assert not client.take()
    client.send(sends(10, first=RING_ENTRIES + 36))
    broker.settle()
    assert broker.serve.ring.in_flight == RING_ENTRIES
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == RING_ENTRIES + 46)
    got = client.take()
    assert set(codes(got)) == {OK}
    assert opaques(got) == list(range(RING_ENTRIES + 46))
    assert [int(one.header.ext["queueOffset"]) for one in got] == list(range(RING_ENTRIES + 46))
    assert blocked(broker) == 0


def test_full_data_part_blocks_as_well(broker: Broker) -> None:
    client = broker.connect()
    broker.stands.add("writer")
    body = b"x" * 8000
    client.send(sends(120, body=body))
    broker.until(lambda: client.look() or blocked(broker))
    assert broker.serve.ring.in_flight <= RING_ENTRIES
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == 120)
    assert set(codes(client.take())) == {OK}


@pytest.mark.parametrize("general", [False, True])
def test_a_pull_behind_a_blocked_send_waits_its_turn(broker: Broker, *, general: bool) -> None:
    client = broker.connect()
    broker.stands.add("writer")
    last = batch(2, opaque=98) if general else send(opaque=98)
    client.send(sends(RING_ENTRIES) + last + pull(opaque=99))
    broker.until(lambda: blocked(broker) == 1)
    broker.settle()
    assert not client.take()
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == RING_ENTRIES + 2)
    assert sorted(opaques(client.take())) == [*range(RING_ENTRIES), 98, 99]


@pytest.mark.parametrize(("waited_ms", "refused"), [(199, False), (200, True), (201, True)])
@pytest.mark.parametrize("general", [False, True])
def test_sends_that_waited_too_long(
    broker: Broker, waited_ms: int, *, refused: bool, general: bool
) -> None:
    """They are told what the broker waits for, and for how many milliseconds they waited."""
    client = broker.connect()
    broker.stands.add("writer")
    client.send(sends(RING_ENTRIES))
    broker.until(lambda: broker.serve.ring.in_flight == RING_ENTRIES)
    broker.arena.writer(Word.BLOCKED_ON, role="boot").publish(BLOCKED_BY_FLUSH)
    client.send((batch(3, opaque=70) if general else send(opaque=70)) + pull(opaque=71))
    broker.until(lambda: blocked(broker) == 1)
    broker.clock.now_ms += waited_ms
    broker.settle()
    got = client.take()
    if not refused:
        assert (got, blocked(broker)) == ([], 1)
    else:
        assert opaques(got) == [70, 71]
        assert got[0].header.code == BUSY
        remark = got[0].header.remark or ""
        assert f"waited_ms={waited_ms}" in remark
        assert "allowed_ms=200" in remark
        assert BLOCKED_TEXT[BLOCKED_BY_FLUSH] in remark
        assert (got[1].header.code, blocked(broker)) == (ResponseCode.PULL_NOT_FOUND, 0)
        assert totals(broker.arena.counters)[Counter.SENDS_REFUSED] == 1
    broker.stands.clear()
    broker.until(lambda: len(client.look()) >= RING_ENTRIES)
    assert set(codes(client.take()[:RING_ENTRIES])) == {OK}


def test_without_fast_failure_sends_wait_as_long_as_it_takes(make_broker: MakeBroker) -> None:
    broker = make_broker(broker_fast_failure_enable=False)
    client = broker.connect()
    broker.stands.add("writer")
    client.send(sends(RING_ENTRIES + 1))
    broker.until(lambda: blocked(broker) == 1)
    broker.clock.now_ms += 60_000
    broker.settle()
    assert (client.take(), blocked(broker)) == ([], 1)
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == RING_ENTRIES + 1)


def test_after_a_refusal_sends_are_taken_again(broker: Broker) -> None:
    client = broker.connect()
    broker.stands.add("writer")
    client.send(sends(RING_ENTRIES + 1))
    broker.until(lambda: blocked(broker) == 1)
    broker.clock.now_ms += 200
    broker.until(client.look)
    assert codes(client.take()) == [BUSY]
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == RING_ENTRIES)
    client.take()
    assert codes(broker.ask(client, send())) == [OK]


def test_a_blocked_connection_may_end(broker: Broker) -> None:
    client, other = broker.connect(), broker.connect()
    broker.stands.add("writer")
    client.send(sends(RING_ENTRIES + 1))
    broker.until(lambda: blocked(broker) == 1)
    client.reset()
    broker.until(lambda: len(broker.serve.door.connections) == 1)
    assert broker.serve._blocked == {}
    broker.stands.clear()
    assert codes(broker.ask(other, send())) == [OK]
    assert broker.serve.door._input_size == 0


# Answers by hand


@pytest.mark.parametrize("serialization", [JSON, BINARY])
def test_an_answer_has_the_form_of_its_request(broker: Broker, serialization: int) -> None:
    """Even when the connection has asked in the other form since."""
    client = broker.connect()
    broker.stands.add("writer")
    client.send(send(serialization=serialization, opaque=1))
    client.send(send(serialization=serialization, opaque=2, properties=""))
    broker.until(lambda: broker.serve.ring.in_flight == 2)
    broker.serve.ring._completions["status"] = ring_layout.STATUS_BAD_RECORD
    other = request(RequestCode.GET_MAX_OFFSET, topic="T", queueId="0", opaque=3)
    client.send(other)
    broker.until(client.look)
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == 3)
    got = sorted(client.take(), key=lambda one: one.header.opaque)
    assert [one.serialization for one in got] == [serialization, serialization, JSON]
    assert codes(got) == [OK, OK, OK]
    assert got[1].header.ext["transactionId"]


def test_records_that_the_writer_finds_unsound(broker: Broker) -> None:
    client = broker.connect()
    broker.stands.add("writer")
    client.send(send(opaque=1) + send(opaque=2) + send(opaque=3))
    broker.until(lambda: broker.serve.ring.in_flight == 3)
    ring = broker.arena.rings[0]
    entry = broker.serve.ring._entries[(ring.submitted.load() - 2) % RING_ENTRIES]
    ring.data[int(entry["data_position"]) + 8] ^= 0xFF  # Its checksum.
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == 3)
    got = client.take()
    assert codes(got) == [OK, ResponseCode.SYSTEM_ERROR, OK]
    assert "unsound; not stored" in (got[1].header.remark or "")


def test_one_way_sends_are_stored_and_not_answered(broker: Broker) -> None:
    client = broker.connect()
    client.send(send(b"fast", flag=2) + send(b"slow", flag=2, properties="") + send(opaque=9))
    broker.until(client.look)
    broker.settle()
    assert opaques(client.take()) == [9]
    (got,) = broker.ask(client, pull())
    assert b"fast" in got.body
    assert b"slow" in got.body
    assert broker.serve.ring._notes == {}


# Sync flush


@pytest.fixture
def synced(make_broker: MakeBroker) -> Broker:
    """A broker that confirms what is on the disk; its flush stands still."""
    broker = make_broker(flush_disk_type="SYNC_FLUSH", sync_flush_timeout=3000)
    broker.stands.add("flush")
    return broker


def ask_two(broker: Broker) -> Client:
    """A send of each path that the writer has appended."""
    client = broker.connect()
    client.send(send(opaque=1) + send(opaque=2, properties=properties(a="1")))
    appended = broker.word(Word.APPEND_OFFSET)
    broker.until(lambda: broker.word(Word.APPEND_OFFSET) > appended)
    broker.settle()
    return client


def test_no_answer_before_the_disk_has_it(synced: Broker) -> None:
    client = ask_two(synced)
    assert not client.take()
    assert synced.serve.ring.in_flight == 2
    synced.stands.clear()
    synced.until(lambda: len(client.look()) == 2)
    assert synced.word(Word.FLUSHED_OFFSET) == synced.word(Word.APPEND_OFFSET)
    assert codes(client.take()) == [OK, OK]


@pytest.mark.parametrize(
    ("wait", "waits"), [("true", True), ("TRUE", True), ("false", False), ("no", False)]
)
def test_a_message_may_say_that_it_does_not_wait(synced: Broker, wait: str, *, waits: bool) -> None:
    """The property WAIT, as Java reads it; for a batch that of its request."""
    client = synced.connect()
    stored, flushed = synced.word(Word.DESCRIPTOR_COUNT), synced.word(Word.FLUSHED_OFFSET)
    client.send(send(opaque=1, properties=properties(WAIT=wait, UNIQ_KEY="AC1100010001")))
    message = BatchMessage(0, b"m", b"UNIQ_KEY\x01u\x02")
    client.send(
        send(
            join_batch([message, message]),
            opaque=2,
            code=RequestCode.SEND_BATCH_MESSAGE,
            batch=True,
            properties=properties(WAIT=wait),
        )
    )
    synced.until(lambda: synced.word(Word.DESCRIPTOR_COUNT) == stored + 3)
    synced.settle()
    if waits:
        assert not client.take()
        synced.stands.clear()
    synced.until(lambda: len(client.look()) == 2)
    assert codes(client.take()) == [OK, OK]
    assert (synced.word(Word.FLUSHED_OFFSET) > flushed) == waits


def test_answers_as_far_as_the_disk_has_them(synced: Broker) -> None:
    """One by one, in order; the end of the record decides, not its start."""
    client = ask_two(synced)
    end = synced.word(Word.APPEND_OFFSET)
    second = _start_of_last(synced)
    flushed = synced.arena.writer(Word.FLUSHED_OFFSET, role="boot")
    flushed.publish(second - 1)
    synced.settle()
    assert not client.take()
    flushed.publish(second)
    synced.until(client.look)
    assert opaques(client.take()) == [1]
    flushed.publish(end - 1)
    synced.settle()
    assert not client.take()
    flushed.publish(end)
    synced.until(client.look)
    assert opaques(client.take()) == [2]


def _start_of_last(broker: Broker) -> int:
    ring = broker.serve.ring
    place = (ring.parser.submitted - 1) % RING_ENTRIES
    return int(ring._completions[place]["physical_offset"])


def test_serve_sleeps_while_it_waits_for_the_disk(synced: Broker) -> None:
    """It is awake when there is something to answer, not as long as something waits."""
    client = ask_two(synced)
    ring = synced.serve.ring
    assert ring.in_flight == 2
    assert ring.answers_wait is False
    synced.arena.writer(Word.FLUSHED_OFFSET, role="boot").publish(_start_of_last(synced))
    assert bool(ring.answers_wait)
    synced.until(client.look)
    assert bool(ring.answers_wait) is False
    synced.arena.writer(Word.FLUSH_ERROR, role="boot").publish(errno.EIO)
    assert bool(ring.answers_wait)


@pytest.mark.parametrize(("waited_ms", "answered"), [(2999, False), (3000, True)])
def test_disk_takes_too_long(synced: Broker, waited_ms: int, *, answered: bool) -> None:
    """They are stored, and that is what the client is told; ids and offsets as always."""
    client = ask_two(synced)
    synced.clock.now_ms += waited_ms
    synced.settle()
    got = client.take()
    if not answered:
        assert got == []
        return
    assert codes(got) == [LATE, LATE]
    assert [one.header.ext["queueOffset"] for one in got] == ["0", "1"]
    assert [bool(one.header.ext["transactionId"]) for one in got] == [True, True]
    assert got[0].header.ext["transactionId"] == "ABC"
    synced.settle()
    assert synced.serve.ring.in_flight == 0
    synced.stands.clear()
    assert codes(synced.ask(client, send())) == [OK]


def test_time_for_the_disk_begins_with_the_wait(synced: Broker) -> None:
    """A send is not late because those before it were."""
    client = ask_two(synced)
    synced.clock.now_ms += 3000
    synced.until(lambda: len(client.look()) == 2)
    client.take()
    client.send(send(opaque=3))
    synced.settle()
    synced.clock.now_ms += 2999
    synced.settle()
    assert not client.take()
    synced.clock.now_ms += 1
    synced.until(client.look)
    assert codes(client.take()) == [LATE]


def test_disk_fails(synced: Broker) -> None:
    """What was appended may be lost: not confirmed; what comes after is refused with the reason."""
    client = ask_two(synced)
    synced.arena.writer(Word.FLUSH_ERROR, role="boot").publish(errno.ENOSPC)
    synced.until(lambda: len(client.look()) == 2)
    assert codes(client.take()) == [LATE, LATE]
    assert codes(synced.ask(client, send(opaque=3))) == [CLOSED]
    synced.clock.now_ms += 50  # The gate looks now and then.
    for frame in (send(opaque=4), batch(2, opaque=4)):
        (got,) = synced.ask(client, frame)
        assert got.header.code == CLOSED
        assert "writing the commitlog failed" in (got.header.remark or "")
        assert str(int(errno.ENOSPC)) in (got.header.remark or "")
    assert codes(synced.ask(client, pull(offset=0))) != [CLOSED]


# Successors, and connections that end


def test_ring_of_a_dead_serve(make_broker: MakeBroker) -> None:
    """Its successor opens when the writer is through with it; nobody gets its answers."""
    broker = make_broker()
    client = broker.connect()
    broker.stands.add("writer")
    client.send(sends(5, body=b"of the dead"))
    broker.until(lambda: broker.arena.rings[0].submitted.load() == 6)
    dead = broker.serve
    dead.uplink.close()
    dead.close()
    client.look()
    assert client.closed
    broker.serves = [broker.new_serve()]
    broker.serve = broker.serves[0]
    broker.until(lambda: broker.serve.views.complete)
    broker.settle()
    assert broker.serve._opened is False
    broker.stands.clear()
    again = broker.connect()
    assert bool(broker.serve._opened)
    broker.settle()
    assert not again.take()
    (got,) = broker.ask(again, send(b"of the living", opaque=44))
    assert (got.header.code, got.header.opaque) == (OK, 44)
    assert got.header.ext["queueOffset"] == "5"
    (got,) = broker.ask(again, pull())
    assert got.body.count(b"of the dead") == 5
    assert got.body.count(b"of the living") == 1


def test_connection_is_gone_before_its_answer(broker: Broker) -> None:
    client, other = broker.connect(), broker.connect()
    broker.stands.add("writer")
    client.send(send(b"stays", opaque=1) + batch(2, opaque=2))
    broker.until(lambda: broker.serve.ring.in_flight == 2)
    client.reset()
    broker.until(lambda: len(broker.serve.door.connections) == 1)
    broker.stands.clear()
    broker.until(lambda: broker.serve.ring.in_flight == 0)
    assert broker.serve.ring._notes == {}
    assert not other.take()
    (got,) = broker.ask(other, pull())
    assert got.header.ext["nextBeginOffset"] == "3"


def test_descriptor_of_a_dead_connection_is_used_again(broker: Broker) -> None:
    """A new connection gets its number in the kernel, but none of its answers."""
    client = broker.connect()
    broker.stands.add("writer")
    client.send(send(opaque=1) + batch(2, opaque=2) + send(opaque=3, properties=""))
    broker.until(lambda: broker.serve.ring.in_flight == 3)
    (fd,) = broker.serve.door.connections
    client.reset()
    broker.until(lambda: not broker.serve.door.connections)
    new = broker.connect()
    assert list(broker.serve.door.connections) == [fd]
    broker.stands.clear()
    broker.until(lambda: broker.serve.ring.in_flight == 0)
    broker.settle()
    assert not new.take()
    assert opaques(broker.ask(new, send(opaque=4))) == [4]


def test_drain_answers_what_was_submitted(broker: Broker) -> None:
    client = broker.connect()
    broker.stands.add("writer")
    client.send(sends(3))
    broker.until(lambda: broker.serve.ring.in_flight == 3)
    assert not broker.serve.drain(broker.clock.now_ms)
    client.send(send(opaque=99))
    broker.stands.clear()
    broker.until(lambda: broker.serve.drain(broker.clock.now_ms))
    assert opaques(client.take() or client.look()) == [0, 1, 2]
    assert broker.serve.ring.in_flight == 0


def test_large_messages_go_through_a_small_ring(make_broker: MakeBroker) -> None:
    broker = make_broker(max_message_size=200 * KiB, pool_size=2048 * KiB)
    client = broker.connect()
    broker.ask(client, send(b"l" * 60_000, opaque=0))
    count = 12
    frames = [send(bytes((65 + number,)) * 60_000, opaque=number) for number in range(count)]
    client.send(b"".join(frames))
    broker.until(lambda: len(client.look()) == count)
    assert opaques(client.take()) == list(range(count))

"""A slow or stuck client never slows the others, and takes a bounded amount of memory."""

from __future__ import annotations

import select
import socket

import pytest

from shmq.layout.counters import Counter
from shmq.shm.counters import totals
from shmq.units import KiB, MiB
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import Header, encode_frame
from shmq.workers.clientdoor import OUTPUT_SIZE_HIGH, READ_SIZE, WRITE_STALL_MAX_MS
from tests.unit.serve.broker import Broker, Client
from tests.unit.serve.conftest import MakeBroker
from tests.unit.serve.frames import codes, opaques, pull, send

OK = ResponseCode.SUCCESS
ANSWER_SIZE = 256 * KiB
PULLS = 64  # of 256 KiB each: 16 MiB


@pytest.fixture
def filled(make_broker: MakeBroker) -> Broker:
    """A broker of which one pull gives a quarter of a MiB."""
    broker = make_broker(
        pool_size=2 * MiB,
        hot_entries=64,
        server_socket_snd_buf_size=64 * KiB,
        server_channel_max_idle_time_seconds=86_400,
    )
    for _ in range(34):
        broker.put(b"m" * 8000)
    return broker


def answered_in_two_turns(broker: Broker, client: Client) -> bool:
    """In the first turn serve submits a send; in the second it is appended and answered."""
    client.send(send())
    for _ in range(2):
        assert not client.take()
        broker.turn()
    return codes(client.take()) == [OK]


def flood(client: Client) -> None:
    """Ask for 16 MiB."""
    client.send(b"".join(pull(opaque=number) for number in range(PULLS)))


def output_size(broker: Broker) -> int:
    """Output that waits, of all connections."""
    return sum(one.output_size for one in broker.serve.door.connections.values())


@pytest.mark.parametrize("kind", ["main", "unix"])
def test_a_client_that_never_reads(filled: Broker, kind: str) -> None:
    stuck, other = filled.connect(kind, receive_buffer=64 * KiB), filled.connect(kind)
    flood(stuck)
    for _ in range(10):
        assert answered_in_two_turns(filled, other)
        assert output_size(filled) < OUTPUT_SIZE_HIGH + ANSWER_SIZE + 9000
    filled.settle(30)
    assert output_size(filled) > OUTPUT_SIZE_HIGH - 2 * ANSWER_SIZE
    assert output_size(filled) < OUTPUT_SIZE_HIGH + ANSWER_SIZE + 9000
    filled.until(lambda: filled.turn() == 0)  # Nothing is done for a client that does not read.
    (waiting,) = [one for one in filled.serve.door.connections.values() if one.output_size]
    assert len(waiting.pending) < 64 * KiB
    assert answered_in_two_turns(filled, other)

    def closed() -> bool:
        filled.clock.now_ms += WRITE_STALL_MAX_MS
        return len(filled.serve.door.connections) == 1

    filled.until(closed)
    assert totals(filled.arena.counters)[Counter.DROPPED] == 1
    assert output_size(filled) == 0


@pytest.mark.parametrize("kind", ["main", "unix"])
def test_a_client_that_reads_late_gets_everything(filled: Broker, kind: str) -> None:
    slow = filled.connect(kind)
    flood(slow)
    filled.settle(20)
    filled.until(lambda: len(slow.look()) == PULLS)
    got = slow.take()
    assert opaques(got) == list(range(PULLS))
    assert set(codes(got)) == {OK}
    assert {len(one.body) for one in got} == {len(got[0].body)}
    assert len(got[0].body) > 200 * KiB


def test_the_kernel_takes_all_output_at_once(make_broker: MakeBroker) -> None:
    """Nothing but the frames that were left asks for another turn then."""
    broker = make_broker(pool_size=2 * MiB, hot_entries=64)
    for _ in range(34):
        broker.put(b"m" * 8000)
    client = broker.connect()
    flood(client)
    broker.until(lambda: len(client.look()) == PULLS)
    assert opaques(client.take()) == list(range(PULLS))
    broker.settle()
    (connection,) = broker.serve.door.connections.values()
    assert (connection.unfinished, connection.events) == (False, select.EPOLLIN)


def test_a_client_that_reads_a_little_now_and_then(filled: Broker) -> None:
    """What it takes makes room for as much, never for more."""
    slow, other = filled.connect("unix"), filled.connect("unix")
    flood(slow)
    filled.settle(10)
    for _ in range(200):
        slow.sock.recv(4 * KiB)
        filled.turn()
        assert output_size(filled) < OUTPUT_SIZE_HIGH + ANSWER_SIZE + 9000
    assert answered_in_two_turns(filled, other)


def test_many_stuck_clients(filled: Broker) -> None:
    stuck = [filled.connect("unix") for _ in range(20)]
    for client in stuck:
        flood(client)
    other = filled.connect("unix")
    filled.settle(10)
    assert answered_in_two_turns(filled, other)
    assert output_size(filled) < 20 * (OUTPUT_SIZE_HIGH + ANSWER_SIZE + 9000)


def test_a_frame_that_never_ends(broker: Broker) -> None:
    slow, other = broker.connect(), broker.connect()
    frame = send(b"x" * 4000)
    for byte in frame[:-1]:
        slow.send(bytes((byte,)))
        broker.serve.step(broker.clock.now_ms)
    assert answered_in_two_turns(broker, other)
    (connection,) = [one for one in broker.serve.door.connections.values() if one.pending]
    assert bytes(connection.pending) == frame[:-1]
    slow.send(frame[-1:])
    broker.until(slow.look)
    assert codes(slow.take()) == [OK]


def test_one_client_fills_the_ring(broker: Broker) -> None:
    """Others wait with it as long as the writer stands still; pulls and look-ups do not."""
    greedy, other = broker.connect(), broker.connect()
    broker.put(b"stored")
    broker.stands.add("writer")
    greedy.send(b"".join(send(opaque=number) for number in range(500)))
    broker.until(lambda: broker.serve._blocked)
    got = broker.ask(other, pull())
    assert codes(got) == [OK]
    broker.stands.clear()
    other.send(send(opaque=1))
    broker.until(other.look)
    assert len(greedy.look()) < 500, "it was not the last to be served"
    broker.until(lambda: len(greedy.look()) == 500)
    assert opaques(greedy.take()) == list(range(500))


def test_answers_to_sends_that_are_not_read(make_broker: MakeBroker) -> None:
    """Many small answers: the client is not read from, then closed for its silence."""
    broker = make_broker(server_socket_snd_buf_size=4 * KiB)
    stuck, other = broker.connect("unix"), broker.connect()
    frames = b"".join(send(b"m", opaque=number) for number in range(2000))
    for _ in range(8):
        stuck.send(frames)
        broker.settle(80)
        assert output_size(broker) < OUTPUT_SIZE_HIGH + 4 * READ_SIZE
    assert stuck.unsent
    assert answered_in_two_turns(broker, other)


@pytest.mark.parametrize(
    "frame",
    [
        (2**31 - 1).to_bytes(4, "big") + bytes(4),
        (16 * MiB).to_bytes(4, "big") + bytes(4),
        (3).to_bytes(4, "big") + bytes(4),
        (2**32 - 1).to_bytes(4, "big") + bytes(4),
        (100).to_bytes(4, "big") + b"\0\0\0\x61" + bytes(96),
        (100).to_bytes(4, "big") + b"\x02\0\0\x08" + bytes(96),
        (100).to_bytes(4, "big") + b"\0\0\0\x08{nojson}" + bytes(88),
        (60).to_bytes(4, "big") + b"\x01\0\0\x08" + bytes(56),
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    ],
)
def test_bytes_that_are_no_frame(broker: Broker, frame: bytes) -> None:
    """The connection is closed at once, nothing is allocated, the others go on."""
    bad, other = broker.connect(), broker.connect()
    bad.send(frame)
    broker.until(lambda: bad.look() or bad.closed)
    assert bad.closed
    assert totals(broker.arena.counters)[Counter.BAD_FRAMES] == 1
    assert answered_in_two_turns(broker, other)


def test_what_came_before_nonsense_is_stored(broker: Broker) -> None:
    bad = broker.connect()
    bad.send(send(b"sound") + b"\xff" * 8)
    broker.until(lambda: bad.look() or bad.closed)
    (got,) = broker.ask(broker.connect(), pull())
    assert got.body.count(b"sound") == 1


def test_half_closed(broker: Broker) -> None:
    """What it sent is stored; nobody else notices."""
    client, other = broker.connect(), broker.connect()
    client.send(send(b"last words"))
    client.sock.shutdown(socket.SHUT_WR)
    broker.until(lambda: client.look() or client.closed)
    assert answered_in_two_turns(broker, other)
    (got,) = broker.ask(other, pull())
    assert got.body.count(b"last words") == 1


def test_responses_of_clients_are_ignored(broker: Broker) -> None:
    """Java answers some of the broker's one-way requests."""
    client = broker.connect()
    from_client = send(opaque=3, flag=1)
    client.send(from_client + send(opaque=4))
    broker.until(client.look)
    broker.settle()
    assert opaques(client.take()) == [4]
    assert totals(broker.arena.counters)[Counter.SENDS] == 2


def test_request_of_a_wrong_form_is_answered(broker: Broker) -> None:
    client = broker.connect()
    ext = {"consumerGroup": "G", "topic": "T", "queueId": "x"}
    (got,) = broker.ask(client, encode_frame(Header(RequestCode.PULL_MESSAGE, ext=ext)))
    assert got.header.code == ResponseCode.SYSTEM_ERROR
    assert "queueId" in (got.header.remark or "")
    assert answered_in_two_turns(broker, client)

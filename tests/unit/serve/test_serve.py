from __future__ import annotations

import gc
import socket
import time

import msgspec
import pytest

from shmq.kernels.answers import AnswerBuilder
from shmq.kernels.sends import SendParser
from shmq.layout.control import Word
from shmq.wire.codes import ResponseCode
from shmq.workers.clientconn import ClientConnection
from tests.unit.serve.broker import Broker
from tests.unit.serve.frames import codes, pull, send

TOPIC_NOT_EXIST = ResponseCode.TOPIC_NOT_EXIST
GROUP_NOT_EXIST = ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
NOT_AVAILABLE = ResponseCode.SERVICE_NOT_AVAILABLE


def test_send_and_pull(broker: Broker) -> None:
    client = broker.connect()
    assert codes(broker.ask(client, send(b"one"))) == [0]
    (got,) = broker.ask(client, pull())
    assert got.header.code == 0
    assert b"one" in got.body


def test_settings_that_may_change_do(broker: Broker) -> None:
    """What SIGHUP brings holds at once: for topics and groups, sends, pulls and the flush."""
    client = broker.connect()
    assert codes(broker.ask(client, send(b"one", topic="before"))) == [0]
    changed = msgspec.structs.replace(
        broker.settings,
        auto_create_topic_enable=False,
        auto_create_subscription_group=False,
        disk_space_warning_level_ratio=0,
        flush_interval_commit_log=1,
        flush_commit_log_least_pages=0,
    )
    assert broker.coordinator is not None
    broker.coordinator.reload(changed)
    assert codes(broker.ask(client, send(b"two", topic="after"))) == [TOPIC_NOT_EXIST]
    assert codes(broker.ask(client, pull(group="new"))) == [GROUP_NOT_EXIST]
    broker.flush.reload(changed)
    broker.clock.now_ms += 2
    broker.until(lambda: broker.word(Word.FLUSHED_OFFSET) == broker.word(Word.APPEND_OFFSET))
    broker.serve.reload(changed)
    assert codes(broker.ask(client, send(b"three", topic="before"))) == [NOT_AVAILABLE]


def test_a_ring_is_let_go_with_its_parser_in_a_cycle() -> None:
    """The collector may free parser and builder; the ring's memory must be free after that."""
    entries, completions = bytearray(64 * 8), bytearray(32 * 8)
    data = bytearray(4096)
    cycle: list[object] = [
        SendParser(
            entries=entries,
            data=data,
            entry_count=8,
            data_size=4096,
            store_host=bytes(4),
            store_port=1,
            cluster=b"C",
            trace_on=True,
            message_size_max=1000,
            frame_size_max=10_000,
        ),
        AnswerBuilder(
            entries=entries,
            completions=completions,
            data=data,
            entry_count=8,
            data_size=4096,
            store_host=bytes(4),
            store_port=1,
            trace_on=True,
        ),
    ]
    cycle.append(cycle)
    with pytest.raises(BufferError):
        data.clear()
    del cycle
    gc.collect()
    for part in (entries, completions, data):
        part.clear()  # BufferError if anybody still held it.


# Sleeping and waking


def slept_s(broker: Broker, timeout_ms: int = 5000) -> float:
    """How long serve's wait() took."""
    start = time.monotonic()
    broker.serve.wait(timeout_ms)
    return time.monotonic() - start


def test_serve_sleeps_until_something_comes(broker: Broker) -> None:
    client = broker.connect()
    broker.settle()
    assert slept_s(broker, 20) >= 0.015
    client.send(send(opaque=1))
    assert slept_s(broker) < 4
    broker.serve.step(0)
    assert broker.serve.ring.in_flight == 1
    assert slept_s(broker, 20) >= 0.015
    broker.writer.step(broker.clock.now_ms)
    assert slept_s(broker) < 4
    broker.serve.wake()
    broker.serve.step(0)
    broker.until(client.look)
    assert codes(client.take()) == [0]


def test_serve_is_woken_by_messages_that_its_pulls_wait_for(broker: Broker) -> None:
    client = broker.connect()
    client.send(pull(suspend_ms=10_000))
    broker.until(lambda: broker.arena.holding(0).load() == 1)
    broker.settle()
    assert slept_s(broker, 20) >= 0.015
    broker.put()
    assert slept_s(broker) < 4
    broker.serve.step(0)
    assert codes(client.take()) == [0]


def test_bell_rings_only_while_serve_sleeps(broker: Broker) -> None:
    """A ring that comes while it is awake is no reason to wake again."""
    bell = broker.arena.bells["serve0"]
    broker.settle()
    bell.ring()
    assert not bell.wait(0)
    bell.arm()
    bell.ring()
    assert bell.wait(0)
    broker.serve.step(0)
    assert not bell.wait(0)


def test_with_blocked_sends_serve_looks_again_soon(broker: Broker) -> None:
    client = broker.connect()
    broker.stands.add("writer")
    client.send(b"".join(send(opaque=number) for number in range(65)))
    broker.until(lambda: broker.serve._blocked)
    broker.settle()
    assert slept_s(broker) < 4


# Who a client is


@pytest.mark.parametrize(
    ("host", "peer", "packed"),
    [
        ("127.0.0.1", "127.0.0.1:{}", bytes((127, 0, 0, 1))),
        ("::1", "[::1]:{}", bytes(15) + b"\x01"),
    ],
)
def test_born_host(host: str, peer: str, packed: bytes) -> None:
    """Over a listener for IPv6 and IPv4: an IPv4 client is one, not a mapped address."""
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    place = (host, listener.getsockname()[1])
    with listener, socket.create_connection(place, timeout=5) as client:
        accepted, _ = listener.accept()
        with accepted:
            found = ClientConnection(accepted, number=1, now_ms=0)
            port = client.getsockname()[1]
    assert (found.peer, found.born_host, found.born_port) == (peer.format(port), packed, port)


def test_born_host_of_a_client_on_this_host() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = ClientConnection(ours, number=1, now_ms=0)
    assert (found.peer, found.born_port) == ("127.0.0.1:0", 0)
    assert found.born_host == bytes((127, 0, 0, 1))


def test_a_client_that_is_gone_when_it_is_accepted() -> None:
    with socket.socket() as never_connected:
        found = ClientConnection(never_connected, number=1, now_ms=0)
    assert found.peer == "0.0.0.0:0"

"""Connections that behave badly: slow, half-closed, oversize, not reading, too many."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Final

import pytest

from shmq.units import KiB, MiB
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import FRAME_SIZE_MAX
from tests.crash.conftest import NewBroker
from tests.crash.group import Load
from tests.crash.live import Broker
from tests.crash.peer import (
    PATIENCE,
    Peer,
    connect,
    eventually,
    pull_fields,
    request_frame,
    send_fields,
)
from tests.hostile.conftest import own_memory

pytestmark = pytest.mark.crash

CLOSED_MAX_S: Final = 5.0 * PATIENCE
BIG_BODY: Final = bytes(500 * KiB)
DOORS: Final = ("tcp", "unix", "namesrv")


def frame_head(length: int, header_size: int, *, serialization: int = 0) -> bytes:
    """The first eight bytes of a frame."""
    head = (serialization << 24 | header_size).to_bytes(4, "big")
    return (length & 0xFFFFFFFF).to_bytes(4, "big") + head


def await_closed(sock: socket.socket) -> None:
    """Wait for the broker to close the connection; it says nothing before."""
    assert select.select([sock], [], [], CLOSED_MAX_S)[0], "not closed"
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("length", "header_size", "serialization"),
    [
        (FRAME_SIZE_MAX - 4 + 1, 100, 0),
        (0x7FFFFFFF, 100, 0),
        (-1, 100, 0),
        (-(1 << 31), 100, 0),
        (0, 0, 0),
        (3, 0, 0),
        (100, 97, 0),
        (100, 0xFFFFFF, 0),
        (100, 50, 2),
        (100, 50, 255),
    ],
)
def test_impossible_frames_close_at_once(
    broker: Broker, door: str, length: int, header_size: int, serialization: int
) -> None:
    """Nothing more is waited for than 104 bytes, and no memory is taken."""
    with contextlib.closing(connect(broker.address_of(door))) as sock:
        sock.sendall(frame_head(length, header_size, serialization=serialization) + bytes(96))
        await_closed(sock)


def test_largest_frame_is_read(broker: Broker, witness: Load) -> None:
    """At the limit; it is refused for its size by an answer, and the connection goes on."""
    with Peer(broker.tcp) as peer:
        fields = send_fields("large", 0)
        room = FRAME_SIZE_MAX - len(request_frame(RequestCode.SEND_MESSAGE_V2, fields, opaque=1))
        answer = peer.ask(RequestCode.SEND_MESSAGE_V2, fields, bytes(room))
        assert answer.header.code == ResponseCode.MESSAGE_ILLEGAL, answer.header
        assert answer.header.remark
        assert peer.max_offset("TBW102", 0) == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_byte_at_a_time(broker: Broker, witness: Load, door: str) -> None:
    """Many at once; each gets its answer in the end, nobody waits for them."""
    code = RequestCode.GET_ROUTEINFO_BY_TOPIC if door == "namesrv" else RequestCode.GET_MAX_OFFSET
    peers = [Peer(broker.address_of(door)) for _ in range(20)]
    frame = request_frame(code, {"topic": "TBW102", "queueId": 0}, opaque=77)
    for at in range(len(frame)):
        for peer in peers:
            peer.sock.sendall(frame[at : at + 1])
    for peer in peers:
        answer = peer.receive()
        assert answer is not None
        assert answer.header.opaque == 77
        peer.close()


@pytest.mark.parametrize("door", DOORS)
def test_half_closed_and_reset(broker: Broker, witness: Load, door: str) -> None:
    frame = request_frame(RequestCode.SEND_MESSAGE_V2, send_fields("half", 0), b"x", opaque=1)
    for size in (0, 1, 4, 8, len(frame) - 1, len(frame)):
        with contextlib.closing(connect(broker.address_of(door))) as sock:
            sock.sendall(frame[:size])
            sock.shutdown(socket.SHUT_WR)
            assert select.select([sock], [], [], CLOSED_MAX_S)[0], "not closed"
        sock = connect(broker.address_of(door))
        if sock.family == socket.AF_INET:  # Its end is then a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(frame[:size])
        sock.close()


@pytest.mark.parametrize("door", ["tcp", "namesrv"])
def test_unfinished_frames_are_forgotten_with_their_connections(
    broker: Broker, witness: Load, door: str
) -> None:
    """The allocator may keep what it once had, but does not take more with each attack."""
    before = socket_counts(broker)
    kept = []
    for _ in range(4):
        socks = [connect(broker.address_of(door)) for _ in range(12)]
        for sock in socks:
            sock.sendall(frame_head(FRAME_SIZE_MAX - 4, 100) + bytes(4 * MiB))
        for sock in socks:
            sock.close()
        await_closed_all(broker, before)
        kept.append(own_memory(broker) // MiB)
    assert max(kept) < kept[0] + 64, kept


def socket_counts(broker: Broker) -> dict[str, int]:
    """Open sockets of each role; its files come and go with what the witness stores and reads."""
    return {role: sockets_of(pid) for role, pid in broker.roles().items()}


def sockets_of(pid: int) -> int:
    """Open sockets of a process."""
    count = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(fd.readlink()).startswith("socket:")
    return count


def await_closed_all(broker: Broker, before: dict[str, int]) -> None:
    """Wait until no role has more sockets than before."""
    eventually(
        "closed sockets",
        lambda: all(count <= before[role] for role, count in socket_counts(broker).items()),
        timeout_s=30,
    )


def pull_flood(broker: Broker, peer: Peer, topic: str, count: int) -> None:
    """Ask for half a MiB many times over, without reading an answer."""
    frame = request_frame(RequestCode.PULL_MESSAGE, pull_fields(topic, 0, 0, group="flood"))
    peer.sock.setblocking(False)
    for _ in range(count):
        with contextlib.suppress(BlockingIOError):
            peer.sock.send(frame)
    peer.sock.setblocking(True)


def test_who_does_not_read_its_answers_is_not_read_from(broker: Broker, witness: Load) -> None:
    with broker.peer() as peer:
        peer.create_topic("unread", 1)
        for _ in range(4):
            peer.ask_ok(RequestCode.SEND_MESSAGE_V2, send_fields("unread", 0), BIG_BODY)
    before = own_memory(broker)
    peers = [broker.peer() for _ in range(5)]
    for peer in peers:
        pull_flood(broker, peer, "unread", 400)
    with broker.peer() as other:
        assert other.max_offset("unread", 0) == 4
    # Answers that were not read stay where they are; what was needed to make them does not.
    eventually(
        "memory of what they did not read",
        lambda: own_memory(broker) < before + 64 * MiB,
        timeout_s=10,
    )
    for peer in peers:
        peer.close()


def test_name_server_does_not_read_from_who_does_not_read(broker: Broker, witness: Load) -> None:
    before = own_memory(broker)
    request = request_frame(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)
    with Peer(broker.namesrv) as peer:
        peer.sock.setblocking(False)
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                peer.sock.send(request * 1000)
        with Peer(broker.namesrv) as other:
            other.ask_ok(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)
        assert own_memory(broker) < before + 64 * MiB


def test_who_lets_too_many_answers_pile_up_is_closed(new_broker: NewBroker) -> None:
    broker = new_broker(connectionBufferMax=2 * MiB)
    broker.start()
    load = Load(broker, "other", pace_per_s=300)
    with broker.peer() as peer:
        peer.create_topic("unread", 1)
        for _ in range(4):
            peer.ask_ok(RequestCode.SEND_MESSAGE_V2, send_fields("unread", 0), BIG_BODY)
        pull_flood(broker, peer, "unread", 400)
        eventually(
            "a closed connection", lambda: bool(broker.events("connection.closed")), timeout_s=10
        )
    assert broker.events("connection.closed")[0]["reason"] == "it does not read its answers"
    load.finish()
    load.check()
    assert [client.connected_count for client in load.clients] == [1, 1, 1]
    assert broker.stop() == 0
    broker.check_nothing_left()


def test_waiting_pulls_of_one_connection_are_bounded(broker: Broker, witness: Load) -> None:
    """The limit is 10,000; more are refused, and a closed connection takes all of its own along."""
    with broker.peer() as peer:
        peer.create_topic("held", 1)
        fields = pull_fields("held", 0, 0, group="held", hold_ms=60_000)
        frame = request_frame(RequestCode.PULL_MESSAGE, fields, opaque=5)
        peer.ask(RequestCode.PULL_MESSAGE, pull_fields("held", 0, 0, group="held"))
        for _ in range(101):
            peer.sock.sendall(frame * 100)
        answer = peer.receive()
        assert answer is not None
        assert answer.header.code == ResponseCode.SYSTEM_BUSY
        assert answer.header.remark is not None
        assert answer.header.remark.startswith("too many pulls wait for a message")
    with broker.peer() as peer:
        peer.ask_ok(RequestCode.SEND_MESSAGE_V2, send_fields("held", 0), b"x")


def test_two_thousand_connections(broker: Broker, witness: Load) -> None:
    before = socket_counts(broker)
    for _ in range(4):
        socks = [connect(broker.address_of(("tcp", "unix")[at % 2])) for at in range(500)]
        socks[-1].sendall(
            request_frame(RequestCode.GET_MAX_OFFSET, {"topic": "TBW102", "queueId": 0})
        )
        assert select.select([socks[-1]], [], [], CLOSED_MAX_S)[0], "the last one is not served"
        for sock in socks:
            sock.close()
    await_closed_all(broker, before)


@pytest.mark.parametrize("oneway", [True, False])
def test_requests_that_wait_for_the_coordinator_are_bounded(
    broker: Broker, witness: Load, *, oneway: bool
) -> None:
    """It is slow, here stopped: what clients say meanwhile must not fill the memory."""
    before = own_memory(broker)
    stopped = broker.kill_role("coordinator", how=signal.SIGSTOP)
    try:
        with broker.peer() as peer:
            for _ in range(60):
                peer.send(RequestCode.HEART_BEAT, {}, bytes(4 * MiB), oneway=oneway)
            for _ in range(60):
                peer.send(
                    RequestCode.SEND_MESSAGE_V2,
                    send_fields("not-there-yet", 0),
                    bytes(500 * KiB),
                    oneway=oneway,
                )
            fields = {"topic": "TBW102", "queueId": 0}
            while peer.ask(RequestCode.GET_MAX_OFFSET, fields).header.code:
                pass
            assert own_memory(broker) - before < 150 * MiB
    finally:
        os.kill(stopped, signal.SIGCONT)
    beat = b'{"clientID":"c"}'
    with broker.peer() as peer:
        eventually(
            "room for a heartbeat",
            lambda: peer.ask(RequestCode.HEART_BEAT, {}, beat).header.code == 0,
            timeout_s=10,
        )


def test_limit_of_connections(new_broker: NewBroker) -> None:
    broker = new_broker(connectionsMax=8, serveProcessNums=1)
    broker.start()
    load = Load(broker, "first", pace_per_s=300)
    peers = [broker.peer() for _ in range(5)]
    for peer in peers:
        assert peer.max_offset("TBW102", 0) == 0
    for _ in range(20):
        with contextlib.closing(connect(broker.tcp)) as sock:
            await_closed(sock)
    assert len(broker.events("connections.limit_reached")) == 1, "said once, not for each"
    peers.pop().close()

    def let_in() -> bool:
        with contextlib.suppress(ConnectionError), broker.peer() as peer:
            return peer.max_offset("TBW102", 0) == 0
        return False

    eventually("a free place", let_in, timeout_s=5)
    for peer in peers:
        peer.close()
    load.await_all_go_on(time.monotonic())
    load.finish()
    load.check()
    assert [client.connected_count for client in load.clients] == [1, 1, 1]
    assert broker.stop() == 0

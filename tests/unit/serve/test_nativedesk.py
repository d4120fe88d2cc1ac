"""The native door in a serve process: who gets a ring, what it may append to, and its end."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from shmq.layout.control import Word
from shmq.shm.nativering import NativeRing
from shmq.units import SECOND_MS
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.header import Header, encode_frame
from shmq.wire.native import (
    DESCRIPTORS,
    LAYOUT_VERSION,
    NATIVE_FILE,
    NATIVE_OPEN,
    NATIVE_TOPIC,
    NativeOpened,
    NativeTopic,
    from_ext,
)
from tests.unit.fds import open_fds
from tests.unit.serve.broker import GROUP, TOPIC, Broker, Client
from tests.unit.serve.conftest import MakeBroker
from tests.unit.serve.frames import codes, pull, send

VERSION = {"layoutVersion": str(LAYOUT_VERSION)}


class Answer(NamedTuple):
    """An answer and the descriptors that came with it."""

    frame: Frame
    fds: list[int]

    @property
    def code(self) -> int:
        """Response code."""
        return self.frame.header.code

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)


def ask(broker: Broker, client: Client, code: int, **ext: str) -> Answer:
    """Ask and take the answer with its descriptors."""
    client.send(encode_frame(Header(code, 1, ext=ext)))
    decoder, fds, frames = FrameDecoder(), list[int](), list[Frame]()

    def came() -> bool:
        with contextlib.suppress(BlockingIOError):
            data, more, _flags, _address = socket.recv_fds(client.sock, 65536, 16)
            fds.extend(more)
            decoder.feed(data)
        frame = decoder.next_frame()
        if frame is not None:
            frames.append(frame)
        return frame is not None

    broker.until(came)
    return Answer(frames[0], fds)


def opened(broker: Broker) -> Client:
    """A client with a ring."""
    client = broker.connect("unix")
    answer = ask(broker, client, NATIVE_OPEN, **VERSION)
    assert answer.code == 0, answer.frame
    answer.close()
    return client


def granted(broker: Broker, index: int = 0) -> list[int]:
    """Slots that a ring's client may append to."""
    grants = broker.arena.granted(index)
    return [slot for slot in range(8 * len(grants)) if grants[slot >> 3] >> (slot & 7) & 1]


@pytest.fixture
def native(make_broker: MakeBroker) -> Broker:
    """A broker whose native door is open."""
    return make_broker(native=True)


def test_a_ring_is_given_with_all_that_belongs_to_it(native: Broker) -> None:
    client = native.connect("unix")
    answer = ask(native, client, NATIVE_OPEN, **VERSION)
    facts = from_ext(answer.frame.header.ext, NativeOpened)
    assert answer.code == 0
    assert len(answer.fds) == len(DESCRIPTORS)
    assert (facts.broker_name, facts.cluster_name) == ("B", "C")
    assert bytes.fromhex(facts.store_host) == b"\x7f\0\0\1"
    assert facts.message_size_max == native.settings.max_message_size
    ring = NativeRing(answer.fds[:4], index=facts.ring_index, epoch=facts.ring_epoch)
    assert ring.ring.entry_count == native.settings.native_ring_entries
    for fd in answer.fds[4:]:
        for prot in ("r+b",):
            with (
                pytest.raises(OSError, match=r"not open for writing|Bad file|read"),
                os.fdopen(os.dup(fd), prot) as file,
            ):
                file.write(b"x")
        os.close(fd)
    ring.close()


@pytest.mark.parametrize("kind", ["main", "vip"])
def test_only_over_the_unix_socket(native: Broker, kind: str) -> None:
    client = native.connect(kind)
    for code in (NATIVE_OPEN, NATIVE_TOPIC, NATIVE_FILE):
        answer = ask(native, client, code, **VERSION)
        assert answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
        assert not answer.fds


@pytest.mark.parametrize("version", [{}, {"layoutVersion": "0"}, {"layoutVersion": "2"}])
def test_another_layout_is_refused(native: Broker, version: dict[str, str]) -> None:
    answer = ask(native, native.connect("unix"), NATIVE_OPEN, **version)
    assert answer.code == ResponseCode.VERSION_NOT_SUPPORTED
    assert not answer.fds


@pytest.mark.parametrize(
    ("uids", "gids", "allowed"),
    [
        ("", "", True),
        (f"{os.getuid()}", "", True),
        (f"77777, {os.getuid()}", "88888", True),
        ("", f"{os.getgid()}", True),
        ("77777", f"{os.getgid()}", True),
        ("77777", "", False),
        ("", "88888", False),
        ("77777", "88888", False),
    ],
)
def test_users_and_groups(
    make_broker: MakeBroker,
    uids: str,
    gids: str,
    allowed: bool,  # noqa: FBT001  a table's column
) -> None:
    broker = make_broker(native=True, native_allowed_uids=uids, native_allowed_gids=gids)
    answer = ask(broker, broker.connect("unix"), NATIVE_OPEN, **VERSION)
    assert answer.code == (0 if allowed else ResponseCode.NO_PERMISSION)
    assert bool(answer.fds) == allowed
    answer.close()


def test_a_closed_door(make_broker: MakeBroker) -> None:
    broker = make_broker(native=True, native_enable=False)
    answer = ask(broker, broker.connect("unix"), NATIVE_OPEN, **VERSION)
    assert answer.code == ResponseCode.NO_PERMISSION


def test_the_door_is_closed_for_newcomers_by_a_reload(native: Broker) -> None:
    client = opened(native)
    native.serve.reload(msgspec.structs.replace(native.settings, native_enable=False))
    late = native.connect("unix")
    assert ask(native, late, NATIVE_OPEN, **VERSION).code == ResponseCode.NO_PERMISSION
    assert ask(native, client, NATIVE_TOPIC, topic=TOPIC).code == 0
    native.serve.reload(native.settings)
    answer = ask(native, late, NATIVE_OPEN, **VERSION)
    assert answer.code == 0
    answer.close()


def test_a_broker_without_links_gives_none(broker: Broker) -> None:
    answer = ask(broker, broker.connect("unix"), NATIVE_OPEN, **VERSION)
    assert answer.code == ResponseCode.SYSTEM_BUSY


def test_no_ring_is_free(make_broker: MakeBroker) -> None:
    broker = make_broker(native=True, native_clients_max=4)  # two for each of two processes
    clients = [opened(broker) for _ in range(2)]
    late = broker.connect("unix")
    answer = ask(broker, late, NATIVE_OPEN, **VERSION)
    assert answer.code == ResponseCode.SYSTEM_BUSY
    assert "nativeClientsMax" in (answer.frame.header.remark or "")
    clients[0].sock.close()
    broker.until(lambda: len(broker.serve.natives._rings) == 1)
    answer = ask(broker, late, NATIVE_OPEN, **VERSION)
    assert answer.code == 0
    answer.close()


def test_one_ring_a_connection(native: Broker) -> None:
    client = opened(native)
    assert ask(native, client, NATIVE_OPEN, **VERSION).code == ResponseCode.SYSTEM_ERROR
    assert len(native.serve.natives._rings) == 1


def test_a_topic_that_exists_is_granted(native: Broker) -> None:
    client = opened(native)
    assert granted(native) == []
    answer = ask(native, client, NATIVE_TOPIC, topic=TOPIC)
    found = from_ext(answer.frame.header.ext, NativeTopic)
    assert found.slots == [native.arena.queues.slot(TOPIC, number) for number in range(4)]
    assert (found.write_queue_nums, found.read_queue_nums) == (4, 4)
    assert granted(native) == sorted(found.slots)


def test_a_topic_is_made(native: Broker) -> None:
    answer = ask(native, opened(native), NATIVE_TOPIC, topic="New", queueCount="2")
    assert answer.code == 0
    assert from_ext(answer.frame.header.ext, NativeTopic).write_queue_nums == 2
    assert len(granted(native)) == 2


def test_topics_are_not_made_where_that_is_forbidden(make_broker: MakeBroker) -> None:
    broker = make_broker(native=True)
    client = opened(broker)
    answer = ask(broker, client, NATIVE_TOPIC, topic="New", defaultTopic="nothing")
    assert answer.code == ResponseCode.TOPIC_NOT_EXIST
    assert granted(broker) == []


@pytest.mark.parametrize(
    "topic",
    ["", "a b", "../x", "x" * 256, "RMQ_SYS_TRANS_HALF_TOPIC", "SCHEDULE_TOPIC_XXXX",
     "%RETRY%G", "%DLQ%G"],
)  # fmt: skip
def test_topics_that_nobody_may_append_to(native: Broker, topic: str) -> None:
    client = opened(native)
    assert ask(native, client, NATIVE_TOPIC, topic=topic).code != 0
    assert granted(native) == []


def test_no_leave_without_a_ring(native: Broker) -> None:
    client = native.connect("unix")
    assert ask(native, client, NATIVE_TOPIC, topic=TOPIC).code == ResponseCode.SYSTEM_ERROR
    assert ask(native, client, NATIVE_FILE, kind="commitlog", start="0").code != 0


def change_topic(broker: Broker, code: int, **ext: str) -> None:
    """Ask as an administrator."""
    (answer,) = broker.ask(broker.connect(), encode_frame(Header(code, 1, ext=ext)))
    assert answer.header.code == 0, answer.header


def updated(broker: Broker, *, write: int, perm: int) -> None:
    change_topic(
        broker,
        RequestCode.UPDATE_AND_CREATE_TOPIC,
        topic=TOPIC,
        defaultTopic="TBW102",
        readQueueNums="4",
        writeQueueNums=str(write),
        perm=str(perm),
        topicFilterType="SINGLE_TAG",
        topicSysFlag="0",
        order="false",
    )


def test_rights_end_with_the_topic(native: Broker) -> None:
    client = opened(native)
    ask(native, client, NATIVE_TOPIC, topic=TOPIC)
    change_topic(native, RequestCode.DELETE_TOPIC_IN_BROKER, topic=TOPIC)
    assert granted(native) == []


def test_rights_follow_the_topic(native: Broker) -> None:
    client = opened(native)
    ask(native, client, NATIVE_TOPIC, topic=TOPIC)
    updated(native, write=2, perm=6)
    assert granted(native) == [native.arena.queues.slot(TOPIC, number) for number in range(2)]
    updated(native, write=4, perm=4)
    assert granted(native) == []
    assert ask(native, client, NATIVE_TOPIC, topic=TOPIC).code == ResponseCode.NO_PERMISSION
    updated(native, write=4, perm=6)
    assert ask(native, client, NATIVE_TOPIC, topic=TOPIC).code == 0
    assert len(granted(native)) == 4


def test_rights_end_while_the_store_takes_nothing(native: Broker) -> None:
    client = opened(native)
    ask(native, client, NATIVE_TOPIC, topic=TOPIC)
    used = native.arena.writer(Word.DISK_USED, role="housekeeping")
    used.publish(9_900)
    native.clock.now_ms += SECOND_MS
    native.until(lambda: granted(native) == [])
    answer = ask(native, client, NATIVE_TOPIC, topic=TOPIC)
    assert answer.code == ResponseCode.SERVICE_NOT_AVAILABLE
    used.publish(0)
    native.clock.now_ms += SECOND_MS
    native.settle()
    assert ask(native, client, NATIVE_TOPIC, topic=TOPIC).code == 0
    assert len(granted(native)) == 4


def test_the_end_of_a_client(native: Broker) -> None:
    before = open_fds()
    client = opened(native)
    ask(native, client, NATIVE_TOPIC, topic=TOPIC)
    native.settle()
    assert open_fds() > before
    client.sock.close()
    native.until(lambda: not native.serve.natives._rings)
    native.settle()
    assert granted(native) == []
    assert not native.serve.natives._of
    assert set(native.serve.natives._free) == set(range(0, native.settings.native_clients_max, 2))
    assert open_fds() <= before


def test_a_ring_is_never_given_twice(native: Broker) -> None:
    epochs = set()
    for _ in range(5):
        client = native.connect("unix")
        answer = ask(native, client, NATIVE_OPEN, **VERSION)
        epochs.add(from_ext(answer.frame.header.ext, NativeOpened).ring_epoch)
        answer.close()
        client.sock.close()
        native.until(lambda: not native.serve.natives._rings)
    assert len(epochs) == 5


def test_a_silent_client_with_a_ring_is_not_idle(native: Broker) -> None:
    client, other = opened(native), native.connect("unix")
    native.clock.now_ms += 10 * native.settings.server_channel_max_idle_time_seconds * SECOND_MS
    native.until(lambda: other.look() == [] and other.closed)
    client.look()
    assert not client.closed


def test_files_of_the_store(native: Broker) -> None:
    for number in range(40):
        native.put(b"%d" % number * 100)
    native.settle()
    native.clock.now_ms += 10 * SECOND_MS
    native.settle()
    client = opened(native)
    log = ask(native, client, NATIVE_FILE, kind="commitlog", start="0")
    queue = ask(
        native, client, NATIVE_FILE, kind="consumequeue", topic=TOPIC, queueId="0", start="0"
    )
    assert [len(one.fds) for one in (log, queue)] == [1, 1]
    assert os.pread(log.fds[0], 4, 4) == b"\xda\xa3\x20\xa7"
    for answer in (log, queue):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(answer.fds[0], b"x", 0)
        answer.close()


@pytest.mark.parametrize(
    "ext",
    [
        {"kind": "commitlog", "start": "-1"},
        {"kind": "commitlog", "start": "4096"},
        {"kind": "commitlog", "start": "../../etc/passwd"},
        {"kind": "commitlog", "start": str(2**63)},
        {"kind": "commitlog"},
        {"start": "0"},
        {"kind": "/etc/passwd", "start": "1"},
        {"kind": "consumequeue", "start": "0", "queueId": "0"},
        {"kind": "consumequeue", "start": "0", "queueId": "0", "topic": "../T"},
        {"kind": "consumequeue", "start": "0", "queueId": "0", "topic": ".."},
        {"kind": "consumequeue", "start": "0", "queueId": "0", "topic": "unknown"},
        {"kind": "consumequeue", "start": "0", "queueId": "4", "topic": TOPIC},
        {"kind": "consumequeue", "start": "0", "queueId": "-1", "topic": TOPIC},
        {"kind": "consumequeue", "start": "7", "queueId": "0", "topic": TOPIC},
    ],
)
def test_files_that_nobody_gets(native: Broker, ext: dict[str, str]) -> None:
    answer = ask(native, opened(native), NATIVE_FILE, **ext)
    assert answer.code != 0
    assert not answer.fds


def test_other_clients_do_not_notice(native: Broker) -> None:
    opened(native)
    plain = native.connect("unix")
    assert codes(native.ask(plain, send())) == [0]
    assert codes(native.ask(plain, pull(group=GROUP))) == [0]


def test_a_successor_of_the_serve_process_begins_with_nothing(native: Broker) -> None:
    client = opened(native)
    ask(native, client, NATIVE_TOPIC, topic=TOPIC)
    assert granted(native)
    native.settle()
    rings: Callable[[], Any] = lambda: native.writer._lanes.all  # noqa: E731
    assert len(rings()) == 3
    old = native.serves[0]
    old.uplink.close()
    old.close()
    native.serves[0] = native.serve = native.new_serve()
    assert granted(native) == []
    native.until(lambda: len(rings()) == 2)

"""The tie between serve and coordinator: an uplink alone, and both roles over their real socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from shmq.errors import RequestRefused
from shmq.units import MiB
from shmq.wire import internal, jsonish
from shmq.wire.codes import ResponseCode
from shmq.wire.internal import (
    NO_TOKEN,
    Ask,
    Closed,
    Commit,
    CreateGroup,
    CreateTopic,
    Disconnect,
    GroupUpdate,
    Hello,
    Message,
    MessageDecoder,
    Push,
    Reply,
    TopicUpdate,
)
from shmq.workers.heartbeats import REMEMBERED_SIZE_MAX, remembered, without_groups
from shmq.workers.uplink import (
    ASK_MAX_MS,
    COMMIT_INTERVAL_MS,
    CONNECT_AGAIN_MS,
    Uplink,
)
from tests.unit.serve.broker import DEADLINE_S, START_MS, listening

HELLO = Hello(serve_index=3, pid=42)


class Pair:
    """An uplink, and whoever listens on its path as the coordinator."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.listener: socket.socket | None = None
        self.peer: socket.socket | None = None
        self._decoder = MessageDecoder()
        self.heard: list[Message] = []
        self.replays: list[Ask] = []
        self.watched: dict[int, bool] = {}
        self.uplink = Uplink(
            path=self.path,
            hello=HELLO,
            replays=lambda: self.replays,
            hear=self.heard.append,
            watch=self.watched.__setitem__,
            unwatch=self.watched.__delitem__,
        )
        self.now_ms = START_MS

    def listen(self) -> None:
        """Begin to listen, as the supervisor does once."""
        self.listener = listening(socket.AF_UNIX, str(self.path))

    def step(self) -> None:
        """One turn of serve."""
        self.uplink.on_ready()
        self.uplink.tick(self.now_ms)

    def accept(self) -> list[Message]:
        """A coordinator begins; what it is told at first."""
        assert self.listener is not None
        self.step()
        self.peer, _ = self.listener.accept()
        self.peer.setblocking(False)
        self._decoder = MessageDecoder()
        self.step()
        return self.told()

    def told(self) -> list[Message]:
        """What the coordinator has heard since the last call."""
        assert self.peer is not None
        self.step()
        found: list[Message] = []
        while True:
            try:
                data = self.peer.recv(MiB)
            except BlockingIOError:
                return found
            assert data
            self._decoder.feed(data)
            while (message := self._decoder.next_message()) is not None:
                found.append(message)
            self.step()

    def say(self, message: Message) -> None:
        """The coordinator says something."""
        assert self.peer is not None
        self.peer.sendall(internal.encode(message))
        self.step()

    def die(self) -> None:
        """The coordinator's process ends."""
        assert self.peer is not None
        self.peer.close()
        self.peer = None

    def close(self) -> None:
        """Close all."""
        self.uplink.close()
        for sock in (self.peer, self.listener):
            if sock is not None:
                sock.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    made.listen()
    yield made
    made.close()


def ask(number: int = 1, **more: object) -> Ask:
    return Ask(0, number, "1.2.3.4:5", 999, **more)  # type: ignore[arg-type]


# Requests


def test_hello_comes_first(pair: Pair) -> None:
    assert pair.accept() == [HELLO]
    assert list(pair.watched.values()) == [False]


def test_replies_find_who_asked(pair: Pair) -> None:
    pair.accept()
    answers: dict[str, Reply] = {}
    for name in "abc":
        pair.uplink.ask(ask(), partial(answers.__setitem__, name), now_ms=pair.now_ms)
    tokens = [message.token for message in pair.told() if isinstance(message, Ask)]
    assert len(set(tokens)) == 3
    assert NO_TOKEN not in tokens
    pair.say(Reply(tokens[1], 0, "b"))
    pair.say(Reply(tokens[0], 0, "a"))
    pair.say(Reply(tokens[0], 0, "twice"))
    assert {name: reply.remark for name, reply in answers.items()} == {"a": "a", "b": "b"}
    assert pair.uplink.waiting_count == 1


def test_what_is_said_unasked_is_heard(pair: Pair) -> None:
    pair.accept()
    said: list[Message] = [
        TopicUpdate([], complete=True),
        GroupUpdate([], complete=True),
        Push(1, 40, {"consumerGroup": "G"}),
        Disconnect(9),
    ]
    for message in said:
        pair.say(message)
    assert pair.heard == said


def test_one_way_requests_wait_for_nothing(pair: Pair) -> None:
    pair.accept()
    pair.uplink.ask(ask(oneway=True), lambda _reply: pytest.fail("no answer"), now_ms=1)
    assert pair.uplink.waiting_count == 0
    (told,) = pair.told()
    assert isinstance(told, Ask)
    assert (told.token, told.oneway) == (NO_TOKEN, True)


def test_connections_that_end(pair: Pair) -> None:
    pair.uplink.closed(1)  # Nobody knows of it yet.
    pair.accept()
    pair.uplink.closed(2)
    assert pair.told() == [Closed(2)]


# Commits


def test_commits_are_collected(pair: Pair) -> None:
    pair.accept()
    for offset in (1, 2, 3):
        pair.uplink.commit("G", "T", 0, offset, now_ms=pair.now_ms)
    pair.uplink.commit("G", "T", 1, 9, now_ms=pair.now_ms)
    pair.now_ms += COMMIT_INTERVAL_MS - 1
    assert pair.told() == []
    pair.now_ms += 1
    assert pair.told() == [Commit([("G", "T", 0, 3), ("G", "T", 1, 9)])]
    pair.now_ms += COMMIT_INTERVAL_MS
    assert pair.told() == []


def test_commits_come_before_the_next_request(pair: Pair) -> None:
    """So that a client which asks for its offset gets the one that it has just committed."""
    pair.accept()
    pair.uplink.commit("G", "T", 0, 5, now_ms=pair.now_ms)
    pair.uplink.ask(ask(), lambda _reply: None, now_ms=pair.now_ms)
    commit, asked = pair.told()
    assert commit == Commit([("G", "T", 0, 5)])
    assert isinstance(asked, Ask)


def test_commits_wait_for_a_coordinator(pair: Pair) -> None:
    pair.uplink.commit("G", "T", 0, 5, now_ms=pair.now_ms)
    pair.uplink.ask(ask(), lambda _reply: None, now_ms=pair.now_ms)
    pair.replays = [ask(7)]
    hello, replay, commit, asked = pair.accept()
    assert (hello, replay) == (HELLO, ask(7))
    assert commit == Commit([("G", "T", 0, 5)])
    assert isinstance(asked, Ask)


# A coordinator that is replaced


def test_all_that_waits_is_asked_again(pair: Pair) -> None:
    got: list[Reply] = []
    pair.accept()
    pair.uplink.ask(ask(1), got.append, now_ms=pair.now_ms)
    pair.uplink.create_topic(CreateTopic(0, "T", "TBW102", 4), got.append, now_ms=pair.now_ms)
    pair.uplink.create_group(CreateGroup(0, "G"), got.append, now_ms=pair.now_ms)
    first = pair.told()
    assert len(first) == 3
    pair.say(Reply(1, 0, "answered by the first"))
    pair.die()
    pair.replays = [ask(8), ask(9)]
    assert pair.accept() == [HELLO, ask(8), ask(9), *first[1:]]
    pair.say(Reply(2, 0, "by the second"))
    pair.say(Reply(3, 0, "by the second"))
    assert [reply.token for reply in got] == [1, 2, 3]
    assert pair.uplink.waiting_count == 0


def test_half_a_message_of_the_dead_is_forgotten(pair: Pair) -> None:
    pair.accept()
    assert pair.peer is not None
    pair.peer.sendall(internal.encode(Disconnect(1))[:3])
    pair.step()
    pair.die()
    pair.accept()
    pair.say(Disconnect(2))
    assert pair.heard == [Disconnect(2)]


def test_output_for_the_dead_is_forgotten(pair: Pair) -> None:
    """More than the kernel takes was on its way; the successor gets whole messages only."""
    pair.accept()
    body = b"x" * MiB
    for number in range(4):
        pair.uplink.ask(ask(number, body=body), lambda _reply: None, now_ms=pair.now_ms)
    pair.step()
    assert list(pair.watched.values()) == [True]
    pair.die()
    found = pair.accept()
    found += pair.told()
    assert found[0] == HELLO
    assert [one.connection for one in found[1:] if isinstance(one, Ask)] == [0, 1, 2, 3]
    assert list(pair.watched.values()) == [False]


def test_nonsense_ends_the_tie(pair: Pair) -> None:
    pair.accept()
    assert pair.peer is not None
    pair.peer.sendall(b"\xff" * 8)
    pair.step()
    pair.die()
    assert pair.accept() == [HELLO]


def test_nobody_listens_yet(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    try:
        pair.step()
        pair.listen()
        pair.now_ms += CONNECT_AGAIN_MS - 1
        pair.step()
        assert pair.watched == {}
        pair.now_ms += 1
        assert pair.accept() == [HELLO]
    finally:
        pair.close()


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "control.sock").mkdir()
    pair = Pair(tmp_path)
    pair.step()  # Refused, as a socket that nobody listens on.
    assert pair.watched == {}


# Time


@pytest.mark.parametrize(("waited_ms", "given_up"), [(ASK_MAX_MS, False), (ASK_MAX_MS + 1, True)])
def test_requests_are_given_up(pair: Pair, waited_ms: int, *, given_up: bool) -> None:
    got: list[Reply] = []
    pair.accept()
    pair.uplink.ask(ask(1), got.append, now_ms=pair.now_ms)
    pair.uplink.ask(ask(2), got.append, now_ms=pair.now_ms + 1)
    pair.now_ms += waited_ms
    pair.step()
    assert [reply.code for reply in got] == [ResponseCode.SYSTEM_BUSY] * given_up
    assert all(f"{ASK_MAX_MS} ms" in (reply.remark or "") for reply in got)
    assert pair.uplink.waiting_count == 2 - given_up
    if given_up:
        pair.say(Reply(1, 0, "too late"))
        assert len(got) == 1


def test_requests_are_given_up_while_there_is_no_coordinator(pair: Pair) -> None:
    got: list[Reply] = []
    pair.uplink.ask(ask(1), got.append, now_ms=pair.now_ms)
    pair.accept()
    pair.die()
    assert pair.listener is not None
    pair.listener.close()
    pair.listener = None
    pair.path.unlink()
    pair.now_ms += ASK_MAX_MS + 1
    pair.step()
    assert [reply.code for reply in got] == [ResponseCode.SYSTEM_BUSY]


def test_limit_of_what_waits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmq.workers.uplink.WAITING_MAX", 2)
    for number in range(2):
        assert pair.uplink.is_full is False
        pair.uplink.ask(ask(number), lambda _reply: None, now_ms=pair.now_ms)
    assert bool(pair.uplink.is_full)


def test_limit_of_bytes_that_wait(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies count until they are answered or given up."""
    monkeypatch.setattr("shmq.workers.uplink.WAITING_SIZE_MAX", 3000)
    pair.uplink.ask(ask(1, body=b"x" * 2999), lambda _reply: None, now_ms=pair.now_ms)
    pair.uplink.need_room()
    pair.uplink.create_topic(
        CreateTopic(0, "T", "TBW102", 4, "peer"), lambda _reply: None, now_ms=pair.now_ms, size=1
    )
    with pytest.raises(RequestRefused, match=r"too many requests.*waiting=2 waiting_size=3000"):
        pair.uplink.need_room()
    pair.now_ms += ASK_MAX_MS + 1
    pair.step()
    pair.uplink.need_room()
    assert pair.uplink.waiting_count == 0


def test_much_is_said_at_once(pair: Pair) -> None:
    """Both ways, more than the sockets hold."""
    pair.accept()
    assert pair.peer is not None
    count, body = 6, b"y" * MiB
    for number in range(count):
        pair.uplink.ask(ask(number, body=body), lambda _reply: None, now_ms=pair.now_ms)
    assert len(pair.told()) == count
    left = b"".join(internal.encode(Push(number, 40, {}, body)) for number in range(count))
    end = time.monotonic() + DEADLINE_S
    while len(pair.heard) < count:
        assert time.monotonic() < end
        if left:
            left = left[pair.peer.send(left[: 64 * 1024]) :]
        pair.step()
    assert pair.heard == [Push(number, 40, {}, body) for number in range(count)]


# Heartbeats that are kept


def heartbeat(*, producers: list[str], consumers: list[str], without: bool = False) -> Ask:
    body = {
        "clientID": "c",
        "producerDataSet": [{"groupName": name} for name in producers],
        "consumerDataSet": [{"groupName": name} for name in consumers],
        "withoutSub": without,
    }
    return ask(5, body=jsonish.dumps(body))


def groups_of(kept: Ask | None) -> tuple[list[str], list[str]]:
    assert kept is not None
    body = jsonish.loads(kept.body)
    return (
        [one["groupName"] for one in body["producerDataSet"]],
        [one["groupName"] for one in body["consumerDataSet"]],
    )


def test_the_last_whole_heartbeat_is_kept() -> None:
    whole = heartbeat(producers=["P"], consumers=["C"])
    kept = remembered(whole, before=None)
    assert groups_of(kept) == (["P"], ["C"])
    short = heartbeat(producers=["P"], consumers=["C"], without=True)
    assert remembered(short, before=kept) is kept
    assert remembered(short, before=None) is None
    again = remembered(heartbeat(producers=[], consumers=["D"]), before=kept)
    assert groups_of(again) == ([], ["D"])
    assert again is not None
    assert (again.token, again.oneway) == (NO_TOKEN, False)


@pytest.mark.parametrize(
    ("ext", "left"),
    [
        ({"producerGroup": "P1"}, (["P2"], ["C1", "C2"])),
        ({"consumerGroup": "C2"}, (["P1", "P2"], ["C1"])),
        ({"producerGroup": "P2", "consumerGroup": "C1"}, (["P1"], ["C2"])),
        ({"producerGroup": "C1"}, (["P1", "P2"], ["C1", "C2"])),
        ({}, (["P1", "P2"], ["C1", "C2"])),
    ],
)
def test_unregister_takes_groups_out(
    ext: dict[str, str], left: tuple[list[str], list[str]]
) -> None:
    kept = heartbeat(producers=["P1", "P2"], consumers=["C1", "C2"])
    assert groups_of(without_groups(kept, ext)) == left


def test_nothing_is_left() -> None:
    kept = heartbeat(producers=["P"], consumers=[])
    assert without_groups(kept, {"producerGroup": "P"}) is None
    assert without_groups(None, {"producerGroup": "P"}) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff"])
def test_heartbeats_that_cannot_be_read_are_not_kept(body: bytes) -> None:
    assert without_groups(ask(body=body), {"producerGroup": "P"}) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"producerDataSet":[7],"consumerDataSet":[{"groupName":"C"}]}',
        b'{"producerDataSet":{"a":1},"consumerDataSet":[{"groupName":"C"}]}',
        b'{"producerDataSet":"text","consumerDataSet":[{"groupName":"C"}]}',
        b'{"producerDataSet":7}',
    ],
)
def test_heartbeats_of_a_wrong_form(body: bytes) -> None:
    """A client can send anything. The coordinator refuses them, too."""
    assert without_groups(ask(body=body), {"producerGroup": "P"}) is None


@pytest.mark.parametrize("more", [0, 1])
def test_a_huge_heartbeat_is_not_kept(more: int) -> None:
    """There may be thousands of connections."""
    beat = ask(1, body=b"{}".ljust(REMEMBERED_SIZE_MAX + more))
    assert (remembered(beat, before=beat) is None) == bool(more)

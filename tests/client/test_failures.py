"""What goes wrong around a client: addresses, restarts, killed processes, forks, signals."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import shmq
from shmq.client import Client
from shmq.errors import ClientError, Closed, ConfigError, NotConnected, Timeout
from tests.client.live import (
    PATIENCE_S,
    LiveBroker,
    connect,
    in_child,
    new_name,
    new_topic,
    take,
)
from tests.compat.processes import eventually, free_port

pytestmark = pytest.mark.timeout(180)


# Addresses


def test_no_address_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHMQ_ADDRESS", raising=False)
    monkeypatch.setenv("SHMQ_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotConnected) as caught:
        shmq.connect()
    said = str(caught.value)
    assert "$SHMQ_ADDRESS (not set)" in said
    assert f"{tmp_path}/run/shmq.sock (No such file or directory)" in said
    assert f"{tmp_path}/store/run/shmq.sock" in said
    assert "shmq standalone" in said


def test_the_address_by_convention(live: LiveBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQ_ADDRESS", live.namesrv)
    with shmq.connect() as mq:
        assert live.namesrv in repr(mq)
    monkeypatch.delenv("SHMQ_ADDRESS")
    monkeypatch.setenv("SHMQ_RUN_DIR", str(live.socket.parent))
    with shmq.connect(timeout=PATIENCE_S) as mq:
        assert mq.send(new_name(), b"found").queue_offset == 0


@pytest.mark.parametrize(
    "text", ["", ";", "host", "host:", "host:0", "host:99999", "unix:", "::1:9"]
)
def test_an_address_of_no_form(text: str) -> None:
    with pytest.raises(ConfigError):
        shmq.connect(text)


@pytest.mark.parametrize("form", ["broker:127.0.0.1:{}", "127.0.0.1:{}", "unix:{}", "two"])
def test_an_address_where_nobody_listens(form: str, tmp_path: Path) -> None:
    """Told at once, with every address that was tried."""
    port, other = free_port(), free_port()
    path = tmp_path / "nobody.sock"
    text = {
        "unix:{}": f"unix:{path}",
        "two": f"127.0.0.1:{port};127.0.0.1:{other}",
    }.get(form, form.format(port))
    with shmq.connect(text) as mq:
        begin = time.monotonic()
        calls: list[Callable[[], object]] = [
            lambda: mq.send("T", b"x"),
            lambda: mq.send_many("T", [b"x"]),
            lambda: mq.send_async("T", b"x").result(PATIENCE_S),
            lambda: mq.send_oneway("T", b"x"),
            mq.topics,
            lambda: mq.queues("T"),
            lambda: mq.subscribe("T", group="G"),
        ]
        for call in calls:
            with pytest.raises(NotConnected) as caught:
                call()
            said = str(caught.value)
            assert str(path if form.startswith("unix") else port) in said
            assert form != "two" or str(other) in said
            assert "refused" in said or "No such file" in said
        assert time.monotonic() - begin < PATIENCE_S / 2


def test_a_server_that_does_not_answer() -> None:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"broker:127.0.0.1:{server.getsockname()[1]}"
        with shmq.connect(address, timeout=0.3, retries=0) as mq:
            with pytest.raises(Timeout) as caught:
                mq.send("T", b"x", timeout=0.3)
            assert address.removeprefix("broker:") in str(caught.value)


def test_a_server_that_speaks_otherwise() -> None:
    def serve(server: socket.socket) -> None:
        peer, _ = server.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            peer.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        mq = shmq.connect(f"broker:127.0.0.1:{server.getsockname()[1]}")
        with mq, pytest.raises(NotConnected, match="frame length"):
            mq.topics()
        thread.join(PATIENCE_S)


# Restarts


def test_a_restart_is_a_pause(own_live: LiveBroker) -> None:
    """Producer and consumer go on; what was confirmed comes, in order of each queue."""
    with connect(own_live.addresses()["unix"], patience=60.0) as mq:
        topic = new_topic(mq)
        consumer = mq.subscribe(topic, group=new_name("G"))
        got: list[int] = []
        reader = threading.Thread(
            target=lambda: got.extend(int(message.body) for message in consumer), daemon=True
        )
        reader.start()
        confirmed: list[int] = []
        stop = threading.Event()
        failures: list[Exception] = []

        def produce() -> None:
            number = 0
            while not stop.is_set():
                try:
                    mq.send(topic, b"%d" % number)
                except ClientError as error:
                    failures.append(error)
                    return
                confirmed.append(number)
                number += 1

        writer = threading.Thread(target=produce, daemon=True)
        writer.start()
        for end in (own_live.stop, own_live.kill):
            before = len(confirmed)
            eventually("more sends", lambda before=before: len(confirmed) > before + 20)  # type: ignore[misc]
            end()
            own_live.start()
            before = len(confirmed)
            eventually(
                "sends after the restart",
                lambda before=before: len(confirmed) > before + 20,  # type: ignore[misc]
                timeout_s=PATIENCE_S,
            )
        stop.set()
        writer.join(PATIENCE_S)
        assert not failures, failures
        eventually(
            "all that was confirmed comes",
            lambda: set(confirmed) <= set(got),
            timeout_s=PATIENCE_S,
        )
        consumer.close()
        reader.join(PATIENCE_S)


def test_a_killed_serve_process(own_live: LiveBroker) -> None:
    """Connections break; nobody notices more than a pause."""
    with connect(own_live.addresses()["unix"]) as mq:
        topic = new_topic(mq)
        with mq.subscribe(topic, group=new_name("G")) as consumer:
            with mq.producer(topic) as producer:
                sent = 0
                for _ in range(3):
                    for _ in range(100):
                        producer.post(b"%d" % sent)
                        sent += 1
                    for process in own_live.processes("serve"):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()
                producer.flush(PATIENCE_S)
            wanted = set(range(sent))
            got: set[int] = set()
            for message in consumer.messages(PATIENCE_S):
                got.add(int(message.body))
                if got >= wanted:
                    break
            assert got == wanted


def test_patience_ends(own_live: LiveBroker) -> None:
    with connect(own_live.addresses()["unix"], patience=0.5, timeout=0.5) as mq:
        topic = new_topic(mq)
        mq.send(topic, b"x", timeout=PATIENCE_S)
        own_live.stop()
        begin = time.monotonic()
        with pytest.raises(NotConnected, match=str(own_live.socket)):
            mq.send(topic, b"x")
        assert time.monotonic() - begin >= 0.4


def test_a_stopped_broker_times_out(own_live: LiveBroker) -> None:
    """SIGSTOP: connections stand, answers do not come."""
    with connect(own_live.addresses()["unix"]) as mq:
        topic = new_topic(mq)
        mq.send(topic, b"x")
        stopped = own_live.processes("serve")
        assert stopped
        for process in stopped:
            process.suspend()
        try:
            with pytest.raises(Timeout):
                mq.send(topic, b"x", timeout=0.3)
        finally:
            for process in stopped:
                process.resume()
        assert mq.send(topic, b"x").topic == topic


# Forks


def test_a_client_is_used_in_a_child(live: LiveBroker) -> None:
    """One that was not used before, and one that was: a connection of its own in each process."""
    for used in (False, True):
        with connect(live.addresses()["unix"]) as mq:
            topic = new_name()
            if used:
                mq.create_topic(topic, queues=1)
                mq.send(topic, b"parent")

            def work(mq: Client = mq, topic: str = topic) -> None:
                for _ in range(10):
                    mq.send(topic, b"child")
                mq.close()

            assert in_child(work) == 0
            results = [mq.send(topic, b"parent") for _ in range(10)]
            assert len({result.message_id for result in results}) == 10
            count = sum(mq.offsets(queue)[1] for queue in mq.queues(topic))
            eventually("all are in the queues", lambda: total(mq, topic) >= 20 + used)  # noqa: B023
            assert count <= 20 + used


def total(mq: Client, topic: str) -> int:
    """Messages in a topic."""
    return sum(mq.offsets(queue)[1] for queue in mq.queues(topic))


def test_a_busy_client_survives_forks(live: LiveBroker) -> None:
    """Children made while threads of the parent send, whose locks they hold."""
    with connect(live.addresses()["unix"]) as mq:
        topic = new_topic(mq)
        stop = threading.Event()
        counts = [0] * 3

        def send(index: int) -> None:
            while not stop.is_set():
                mq.send(topic, b"parent")
                counts[index] += 1

        def work() -> None:
            for _ in range(5):
                mq.send(topic, b"child")

        threads = [threading.Thread(target=send, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(8):
            assert in_child(work) == 0
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        wanted = sum(counts) + 40
        eventually("all are in the queues", lambda: total(mq, topic) == wanted)


def test_consumers_and_tickets_stay_with_the_parent(live: LiveBroker) -> None:
    with connect(live.addresses()["unix"]) as mq:
        topic = new_topic(mq)
        producer = mq.producer(topic)
        with mq.subscribe(topic, group=new_name("G")) as consumer:

            def work() -> None:
                with pytest.raises(Closed, match="before the fork"):
                    consumer.poll(1.0)
                with pytest.raises(Closed, match="before the fork"):
                    consumer.commit()
                consumer.close()
                assert producer.post(b"child").result(PATIENCE_S).topic == topic

            assert in_child(work) == 0
            assert producer.post(b"parent").result(PATIENCE_S).topic == topic
            assert {message.body for message in take(consumer, 2)} == {b"child", b"parent"}


# Signals


@contextlib.contextmanager
def interrupted(after: float = 0.3) -> Iterator[None]:
    """Ctrl-C comes a little later, and ends what is in the block."""
    # A shell's background jobs ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < PATIENCE_S / 2


def test_every_wait_can_be_interrupted(live: LiveBroker) -> None:
    with connect(live.addresses()["unix"]) as mq:
        topic = new_topic(mq)
        with mq.subscribe(topic, group=new_name("G")) as consumer:
            with interrupted():
                next(iter(consumer))
            with interrupted():
                consumer.poll(None)
            with interrupted():
                next(consumer.batches())
            assert mq.send(topic, b"still there").topic == topic
            assert take(consumer, 1)[0].body == b"still there"


def test_sends_can_be_interrupted(own_live: LiveBroker) -> None:
    with connect(own_live.addresses()["unix"]) as mq:
        topic = new_topic(mq)
        mq.send(topic, b"x")
        producer = mq.producer(topic, window=1)
        stopped = own_live.processes("serve")
        for process in stopped:
            process.suspend()
        with interrupted():
            mq.send(topic, b"x")
        with interrupted():
            mq.send_many(topic, [b"x"])
        ticket = producer.post(b"1")
        with interrupted():
            producer.post(b"2")
        with interrupted():
            producer.flush()
        with interrupted():
            ticket.result()
        with interrupted():
            mq.topics()
        for process in stopped:
            process.resume()
        producer.flush(PATIENCE_S)
        assert producer.in_flight == 0
        assert mq.send(topic, b"x").topic == topic


def client_threads() -> list[str]:
    """Names of the threads that clients have."""
    return [one.name for one in threading.enumerate() if one.name.startswith("shmq-")]


# A handler that raises inside a weak reference's callback is only reported by Python.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["unix", "native"])
def test_a_storm_of_signals(live: LiveBroker, way: str) -> None:
    """Handlers that raise at any moment leave the client usable."""

    class Rang(Exception):
        pass

    armed = False

    def ring(_number: int, _frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Rang

    def disturb() -> None:
        while not over.wait((next(pauses) % 6 + 1) / 2000):
            signal.pthread_kill(main, signal.SIGUSR1)

    pauses = itertools.count()
    main = threading.get_ident()
    over = threading.Event()
    before = signal.signal(signal.SIGUSR1, ring)
    logging.getLogger("shmq.client").setLevel(logging.CRITICAL)
    try:
        with connect(live.addresses()[way], timeout=2.0) as mq:
            topic = new_topic(mq)
            sent = rang = 0
            thread = threading.Thread(target=disturb)
            thread.start()
            end = time.monotonic() + 3
            while time.monotonic() < end:
                try:
                    armed = True
                    for _ in range(20):
                        mq.send(topic, b"x")
                        sent += 1
                    with mq.producer(topic) as producer:
                        for _ in range(20):
                            producer.post(b"y")
                        sent += 20
                except (Rang, NotConnected):
                    rang += 1
                armed = False
            over.set()
            thread.join()
            assert rang > 10
            assert mq.send(topic, b"x", timeout=PATIENCE_S).topic == topic
            eventually("all are in the queues", lambda: total(mq, topic) >= sent)
        eventually("no thread is left", lambda: not client_threads())
    finally:
        over.set()
        signal.signal(signal.SIGUSR1, before)
        logging.getLogger("shmq.client").setLevel(logging.NOTSET)


def test_closing_ends_what_waits(own_live: LiveBroker) -> None:
    """Sends that wait for a broker that is away get an error when their client is closed."""
    mq = connect(own_live.addresses()["unix"], patience=PATIENCE_S * 4)
    topic = new_topic(mq)
    mq.send(topic, b"x")
    own_live.stop()
    futures = [mq.send_async(topic, b"x") for _ in range(5)]
    futures.append(mq.send_async(new_name(), b"x"))
    ticket = mq.producer(topic).post(b"x")
    mq.close()
    for future in futures:
        with pytest.raises((Closed, NotConnected)):
            future.result(PATIENCE_S)
    assert isinstance(ticket.exception(PATIENCE_S), (Closed, NotConnected))


@pytest.mark.parametrize("group", ["", "a*b", "a b", "x" * 256, "\u6807"])
def test_groups_that_no_broker_takes(group: str) -> None:
    with shmq.connect("broker:127.0.0.1:1") as mq:
        with pytest.raises(ConfigError, match="group name"):
            mq.subscribe("T", group=group)
        if group:
            with pytest.raises(ConfigError, match="group name"):
                mq.producer("T", group=group)

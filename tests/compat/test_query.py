"""Messages by their keys and ids: Apache's clients ask, and each broker reads the other's index."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compat.ask import NOT_FOUND, SUCCESS, ask
from tests.compat.conftest import create_topic
from tests.compat.drivers import LONG_MAX, Client, Driver, DriverError, Message, Received, Sent
from tests.compat.messages import some_messages
from tests.compat.peers import BROKER_NAME, ApacheBroker, ApacheNamesrv, Broker, ShmqBroker
from tests.compat.processes import eventually

QUERY_MESSAGE = 12
Mqadmin = Callable[..., str]


def await_query(client: Client, topic: str, key: str, count: int) -> list[Received]:
    """The messages with a key, as soon as the index has so many of them."""
    got: list[Received] = []

    def complete() -> bool:
        with contextlib.suppress(DriverError):  # "no message"
            got[:] = client.query(topic, key)
        return len(got) >= count

    eventually(f"{count} messages with the key {key}", complete)
    assert len(got) == count
    return got


def send_with_keys(client: Client, topic: str) -> list[Sent]:
    """Thirty messages: all have the key `all`, the n-th has `nth-n` too."""
    return client.send(
        [
            Message(topic=topic, body=b"%d" % number, keys=f"all nth-{number}", tags="tag")
            for number in range(30)
        ]
    )


def test_by_key(java: Driver, broker: Broker, topic: str) -> None:
    """All with a key in the order of the log; one; none; within a time."""
    producer = java.producer(broker.namesrv)
    send_with_keys(producer, topic)
    got = await_query(producer, topic, "all", 30)
    assert sorted(int(one.text) for one in got) == list(range(30))
    places = [one.physical_offset for one in got]
    assert places == sorted(places)
    (seventh,) = producer.query(topic, "nth-7")
    assert (seventh.text, seventh.topic, seventh.tags) == ("7", topic, "tag")
    newest = producer.query(topic, "all", count=4)
    assert [one.physical_offset for one in newest] == places[-4:]
    middle = got[11].store_timestamp
    until = producer.query(topic, "all", end=middle)
    assert until == [one for one in got if one.store_timestamp <= middle]
    since = producer.query(topic, "all", begin=middle)
    assert since == [one for one in got if one.store_timestamp >= middle]
    for key, times in (("no such key", {}), ("all", {"end": 1}), ("al", {})):
        with pytest.raises(DriverError, match="no message"):
            producer.query(topic, key, **times)


def test_by_id(java: Driver, broker: Broker, topic: str) -> None:
    """By the unique key that the client gave, and by the place that the broker gave."""
    producer = java.producer(broker.namesrv)
    sent = send_with_keys(producer, topic)
    await_query(producer, topic, "nth-29", 1)
    for number in (0, 13, 29):
        for message_id in (sent[number].msg_id, sent[number].offset_msg_id):
            assert message_id is not None
            found = producer.view(topic, message_id)
            assert (found.text, found.queue_offset) == (str(number), sent[number].queue_offset)


def listed_in(printed: str) -> list[tuple[str, str, str]]:
    """Message id, queue id and queue offset of the messages in what queryMsgByKey printed."""
    return re.findall(r"(?m)^([0-9A-F]{32,}) +(\d+) +(\d+) ", printed)


def test_mqadmin(mqadmin: Mqadmin, broker: Broker, admin: Client, topic: str) -> None:
    """The four ways in which it asks."""
    sent = send_with_keys(admin, topic)
    await_query(admin, topic, "all", 30)
    printed = mqadmin("queryMsgByKey", "-t", topic, "-k", "nth-5", namesrv=broker.namesrv)
    found = (str(sent[5].msg_id), str(sent[5].queue_id), str(sent[5].queue_offset))
    assert listed_in(printed) == [found]
    printed = mqadmin("queryMsgByKey", "-t", topic, "-k", "all", namesrv=broker.namesrv)
    listed = [message_id for message_id, _, _ in listed_in(printed)]
    assert sorted(listed) == sorted(str(one.msg_id) for one in sent)
    expected = {
        "Topic": topic,
        "Tags": "[tag]",
        "Keys": "[all nth-5]",
        "Queue ID": str(sent[5].queue_id),
        "Queue Offset": str(sent[5].queue_offset),
        "Reconsume Times": "0",
    }
    for command in (
        ("queryMsgByUniqueKey", "-t", topic, "-i", str(sent[5].msg_id)),
        ("queryMsgById", "-t", topic, "-i", str(sent[5].offset_msg_id)),
        (
            "queryMsgByOffset",
            *("-t", topic),
            *("-b", BROKER_NAME),
            *("-i", str(sent[5].queue_id)),
            *("-o", str(sent[5].queue_offset)),
        ),
    ):
        printed = mqadmin(*command, namesrv=broker.namesrv)
        shown = dict(re.findall(r"(?m)^([A-Z][A-Za-z ]+):\s+(.*?)\s*$", printed))
        assert expected.items() <= shown.items(), printed


def test_header_of_the_answer(broker: Broker, admin: Client, topic: str) -> None:
    """It says how far the index goes; nothing found has a code of its own."""
    send_with_keys(admin, topic)
    newest = max(await_query(admin, topic, "all", 30), key=lambda one: one.physical_offset)
    fields: dict[str, object] = {
        "topic": topic,
        "key": "all",
        "maxNum": 64,
        "beginTimestamp": 0,
        "endTimestamp": LONG_MAX,
    }
    answer = ask(broker.address, QUERY_MESSAGE, fields)
    assert answer.code == SUCCESS
    assert int(answer.fields["indexLastUpdatePhyoffset"]) >= newest.physical_offset
    assert int(answer.fields["indexLastUpdateTimestamp"]) >= newest.store_timestamp
    assert ask(broker.address, QUERY_MESSAGE, {**fields, "key": "other"}).code == NOT_FOUND
    assert ask(broker.address, QUERY_MESSAGE, {**fields, "maxNum": 0}).code == NOT_FOUND


def test_after_a_kill_all_keys_are_found(
    own_broker: Callable[..., Broker], drivers: Callable[[str], Driver], topic: str
) -> None:
    """The next start completes the index from the log."""
    broker = own_broker()
    producer = drivers("java-5.5.0").producer(broker.namesrv)
    create_topic(producer, topic, queues=4)
    sent = send_with_keys(producer, topic)
    broker.kill()
    broker.start()
    eventually("a route", lambda: len(queues_of(producer, topic)) == 4)
    got = await_query(producer, topic, "all", 30)
    assert sorted(one.msg_id for one in got) == sorted(str(one.msg_id) for one in sent)


def queues_of(client: Client, topic: str) -> list[object]:
    with contextlib.suppress(DriverError):
        return list(client.queues(topic))
    return []


def test_each_other_reads_what_one_wrote(
    apache_namesrv: ApacheNamesrv,
    drivers: Callable[[str], Driver],
    tmp_path: Path,
    new_name: Callable[[], str],
) -> None:
    """Ours, then Apache's, then ours again, on one store: keys of all times are found each time."""
    topic, namesrv = new_name(), apache_namesrv.address
    kinds: tuple[type[ShmqBroker | ApacheBroker], ...] = (ShmqBroker, ApacheBroker, ShmqBroker)
    sent: list[Sent] = []
    for turn, kind in enumerate(kinds):
        folder = tmp_path / str(turn)
        folder.mkdir()
        broker = kind(folder, namesrv=namesrv, store=tmp_path / "store")
        broker.start()
        producer = drivers("java-5.5.0").producer(namesrv)  # It knows no other broker's port.
        try:
            create_topic(producer, topic, queues=4)
            messages = some_messages(topic, 20, prefix=str(turn))
            sent += producer.send(messages)
            await_query(producer, topic, f"key-{turn}-19", 1)
            for earlier in range(turn + 1):
                (one,) = producer.query(topic, f"key-{earlier}-7")
                assert one.text == f"{earlier}-7-héllo"
            for one_sent in (sent[0], sent[-1]):
                assert producer.view(topic, str(one_sent.msg_id)).msg_id == one_sent.msg_id
        finally:
            broker.stop()
    assert len(list((tmp_path / "store" / "index").iterdir())) == 1

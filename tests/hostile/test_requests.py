"""Whole requests with hostile content: names, JSON, codes, one-way, floods of groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import BINARY, INT16_MAX, JSON, Header
from tests.crash.group import Load
from tests.crash.live import Broker
from tests.crash.peer import Peer, pull_fields, send_fields
from tests.hostile.attack import REQUESTS, attack

pytestmark = pytest.mark.crash

NAMES: Final = (
    "../../x",
    "..",
    ".",
    "a/b",
    "/etc/x",
    "a\\b",
    "a\0b",
    "a\nb",
    "",
    " ",
    "x" * 256,
    "x" * 30_000,
    "%RETRY%../../x",
    "%DLQ%a/b",
    "%RETRY%" + "x" * 300,
    "~",
    "a:b",
    "a;b",
    "\u202e",
    "\U0001f600",
    "-rf",
    "*",
)
SAFE_NAMES: Final = frozenset({"-rf"})
"""Odd, but allowed to RocketMQ's clients too, and a plain name for a folder."""


def files_of(folder: Path) -> set[str]:
    """Every path in a folder, but not what its store holds in the folders of topics."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "consumequeue" not in path.relative_to(folder).parts[:-1]
        and path.parent.name != "commitlog"
        and not path.name.endswith(".new")
    }


def config_body(**values: Any) -> bytes:
    """A JSON body."""
    return json.dumps(values).encode()


def requests_with(name: str) -> list[tuple[int, dict[str, object], bytes]]:
    """Requests in which a name could become a path."""
    topic = {
        "topic": name,
        "defaultTopic": "TBW102",
        "readQueueNums": 1,
        "writeQueueNums": 1,
        "perm": 6,
        "topicFilterType": "SINGLE_TAG",
        "topicSysFlag": 0,
        "order": False,
    }
    offset = {"consumerGroup": name, "topic": "TBW102", "queueId": 0, "commitOffset": 1}
    return [
        (RequestCode.SEND_MESSAGE_V2, send_fields(name, 0), b"x"),
        (RequestCode.UPDATE_AND_CREATE_TOPIC, topic, b""),
        (RequestCode.PULL_MESSAGE, pull_fields(name, 0, 0, group="g"), b""),
        (RequestCode.PULL_MESSAGE, pull_fields("TBW102", 0, 0, group=name), b""),
        (RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, config_body(groupName=name)),
        (RequestCode.UPDATE_CONSUMER_OFFSET, offset, b""),
        (RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": name}, b""),
        (RequestCode.GET_MAX_OFFSET, {"topic": name, "queueId": 0}, b""),
    ]


@pytest.mark.parametrize("serialization", [JSON, BINARY])
def test_names_cannot_leave_the_store(broker: Broker, witness: Load, serialization: int) -> None:
    before = files_of(broker.folder)
    stored = []
    with broker.peer() as peer:
        for name in NAMES:
            for code, ext, body in requests_with(name):
                answer = peer.ask(code, ext, body, serialization=serialization).header
                if answer.code == ResponseCode.SUCCESS:
                    stored.append((RequestCode(code).name, name[:20]))
                else:
                    assert answer.remark, (code, name, answer)
        body = heartbeat("c", [*NAMES])
        assert peer.ask(RequestCode.HEART_BEAT, {}, body).header.code == ResponseCode.SUCCESS
    creating = {"SEND_MESSAGE_V2", "UPDATE_AND_CREATE_TOPIC"}
    assert {name for code, name in stored if code in creating} <= SAFE_NAMES, stored
    new = files_of(broker.folder) - before
    assert all(path.startswith("store/") for path in new), new
    queues = {path.parent.name for path in (broker.store / "consumequeue").glob("*/*")}
    assert not queues & (set(NAMES) - SAFE_NAMES)
    groups = json.loads((broker.store / "config" / "subscriptionGroup.json").read_bytes())
    assert not set(groups["subscriptionGroupTable"]) & {"../../x", "a/b", "a\0b", "..", ""}


def heartbeat(client_id: str, groups: list[str]) -> bytes:
    """Body of a heartbeat of a consumer in many groups."""
    subscription = {"topic": "TBW102", "subString": "*", "subVersion": 1, "expressionType": "TAG"}
    consumers = [
        {
            "groupName": group,
            "consumeType": "CONSUME_PASSIVELY",
            "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "subscriptionDataSet": [subscription],
            "unitMode": False,
        }
        for group in groups
    ]
    producers = [{"groupName": group} for group in groups]
    return config_body(
        clientID=client_id,
        consumerDataSet=consumers,
        producerDataSet=producers,
        heartbeatFingerprint=0,
        withoutSub=False,
    )


def test_flood_of_heartbeats_with_random_groups(broker: Broker, witness: Load) -> None:
    """Each is answered; what the connection said is forgotten when it closes."""
    with broker.peer() as peer:
        for number in range(60):
            groups = [f"flood-{number}-{place}" for place in range(3)]
            answer = peer.ask(RequestCode.HEART_BEAT, {}, heartbeat(f"c{number}", groups))
            assert answer.header.code == ResponseCode.SUCCESS, answer.header
        ext = {"consumerGroup": "flood-1-1"}
        assert peer.ask_ok(RequestCode.GET_CONSUMER_LIST_BY_GROUP, ext).body
        many = heartbeat("c", [f"g{number}" for number in range(5000)])
        answer = peer.ask(RequestCode.HEART_BEAT, {}, many)
        assert answer.header.code != ResponseCode.SUCCESS
        assert answer.header.remark is not None
        assert "too many groups in a heartbeat" in answer.header.remark
    with broker.peer() as peer:
        gone = peer.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, ext)
        assert not json.loads(gone.body or b"{}").get("consumerIdList"), gone


@pytest.mark.parametrize("door", ["tcp", "namesrv"])
def test_unknown_codes_are_not_supported(broker: Broker, witness: Load, door: str) -> None:
    known = {code.value for code in RequestCode}
    codes = [code for code in range(-5, 4000) if code not in known]
    codes += [-(1 << 31), (1 << 31) - 1, 65_536]
    with Peer(broker.address_of(door)) as peer:
        for code in codes:
            peer.send(code, {"topic": "x"})
        found = 0
        while found < len(codes):
            frame = peer.receive()
            assert frame is not None, f"{found} of {len(codes)} were answered"
            assert frame.header.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED, frame.header
            assert frame.header.remark
            found += 1


@pytest.mark.parametrize("door", ["tcp", "unix", "namesrv"])
@pytest.mark.parametrize("serialization", [JSON, BINARY])
def test_oneway_is_never_answered(
    broker: Broker, witness: Load, door: str, serialization: int
) -> None:
    """Not even when it is refused, cannot be understood, or names no code that there is."""
    requests: list[tuple[Header, bytes]] = list(REQUESTS)
    codes = [9999, *(code.value for code in RequestCode)]
    requests += [
        (Header(code), b"") for code in codes if serialization == JSON or code <= INT16_MAX
    ]
    with Peer(broker.address_of(door)) as peer:
        for header, body in requests:
            peer.send(header.code, header.ext, body, oneway=True, serialization=serialization)
        code = (
            RequestCode.GET_ROUTEINFO_BY_TOPIC
            if door == "namesrv"
            else RequestCode.GET_ALL_TOPIC_CONFIG
        )
        last = peer.send(code, {"topic": "TBW102"})
        frame = peer.receive()
        assert frame is not None
        assert (frame.header.is_response, frame.header.opaque) == (True, last), frame
        assert peer.receive(timeout_s=0.3) is None


DEEP: Final = 100_000
HOSTILE_JSON: Final[tuple[bytes, ...]] = (
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"code":34,"extFields":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    b'{"code":34,"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"code":1e400,"opaque":1}',
    b'{"code":' + b"9" * 5000 + b"}",
    b'{"code":34,"opaque":' + b"9" * 100_000 + b"}",
    b'{"code":1.5}',
    b'{"code":NaN}',
    b'{"code":34,"code":10,"code":"x"}',
    b'{"code":34,"opaque":5,"opaque":6,"extFields":{"a":"1","a":"2"}}',
    b'{"code":34,"remark":"\xff\xfe"}',
    b'{"code":34,"remark":"\xed\xa0\x80"}',
    b'{"code":34,"remark":"\\ud800"}',
    b'{"code":34,"extFields":{"\\u0000":"\\u0000"}}',
    b'{"code":34,"extFields":{"a":["b",{"c":null}]}}',
    b'{"code":34,"extFields":[1,2,3]}',
    b'{"code":null}',
    b'{"code":"34"}',
    b"{{{}:{}}:{}}",
    b'{"code":34,"extFields":{' + b",".join(b'"k%d":"v"' % at for at in range(20_000)) + b"}}",
    b'{\'code\':34,"$ref":"$"}',
    b"",
    b"null",
    b"\0" * 100,
    b"\xef\xbb\xbf{}",
    b'{"code":34' + b" " * 100_000 + b"}",
)


@pytest.mark.parametrize("door", ["tcp", "namesrv"])
def test_hostile_json_in_headers(broker: Broker, witness: Load, door: str) -> None:
    def frames() -> list[bytes]:
        return [
            (4 + len(text)).to_bytes(4, "big") + len(text).to_bytes(4, "big") + text
            for text in HOSTILE_JSON
        ]

    attacker = attack(broker.address_of(door), frames())
    assert attacker.closed_count + attacker.answered_count == len(HOSTILE_JSON)


@pytest.mark.parametrize(
    ("door", "codes"),
    [
        (
            "tcp",
            [
                RequestCode.HEART_BEAT,
                RequestCode.LOCK_BATCH_MQ,
                RequestCode.UNLOCK_BATCH_MQ,
                RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
                RequestCode.UPDATE_AND_CREATE_TOPIC_LIST,
                RequestCode.UPDATE_BROKER_CONFIG,
                RequestCode.CHECK_CLIENT_CONFIG,
            ],
        ),
        ("namesrv", [RequestCode.REGISTER_BROKER, RequestCode.UPDATE_NAMESRV_CONFIG]),
    ],
)
def test_hostile_json_in_bodies(
    broker: Broker, witness: Load, door: str, codes: list[RequestCode]
) -> None:
    """Each is answered, and the answer says what is wrong when something is."""
    ext = {
        "brokerName": "b",
        "brokerAddr": "1.2.3.4:5",
        "clusterName": "c",
        "haServerAddr": "",
        "brokerId": 0,
    }
    with Peer(broker.address_of(door)) as peer:
        for code in codes:
            for body in HOSTILE_JSON:
                answer = peer.ask(code, ext, body).header
                assert answer.code == ResponseCode.SUCCESS or answer.remark, (code, body[:80])


def test_many_frames_in_one_write(broker: Broker, witness: Load) -> None:
    """Thousands of small requests at once are all answered, and others do not wait for them."""
    with broker.peer() as peer:
        opaques = {
            peer.send(RequestCode.GET_MAX_OFFSET, {"topic": "TBW102", "queueId": 0})
            for _ in range(5000)
        }
        for _ in range(5000):
            frame = peer.receive()
            assert frame is not None
            opaques.remove(frame.header.opaque)
    assert not opaques


def test_hostile_queries_by_key(broker: Broker, witness: Load) -> None:
    """Numbers, texts and sizes that no client asks for: each is answered, in time, in bounds."""
    whole: dict[str, object] = {
        "topic": "T",
        "key": "k",
        "maxNum": 64,
        "beginTimestamp": 0,
        "endTimestamp": (1 << 63) - 1,
    }
    changes: list[dict[str, object]] = [
        {"maxNum": value} for value in (-1, 0, (1 << 31) - 1, 1 << 31, "x", "")
    ]
    changes += [{"beginTimestamp": 1 << 63}, {"endTimestamp": -(1 << 63)}, {"endTimestamp": "-"}]
    changes += [
        {field: text}
        for field in ("topic", "key")
        for text in ("", "\0", "#", "../..", "x" * 70_000, "é" * 32_767)
    ]
    changes += [{"indexType": "T"}, {"indexType": "\u4e3b"}, {"_UNIQUE_KEY_QUERY": "?"}]
    changes += [{"key": f"{number:032768d}"[1:]} for number in range(300)]
    with broker.peer() as peer:
        for change in changes:
            ext = {name: str(value) for name, value in {**whole, **change}.items()}
            answer = peer.ask(RequestCode.QUERY_MESSAGE, ext)
            assert answer.header.code in {ResponseCode.QUERY_NOT_FOUND, ResponseCode.SYSTEM_ERROR}
            assert answer.header.remark
        for name in whole:
            ext = {other: str(value) for other, value in whole.items() if other != name}
            answer = peer.ask(RequestCode.QUERY_MESSAGE, ext)
            assert answer.header.code == ResponseCode.SYSTEM_ERROR
            assert name in str(answer.header.remark)

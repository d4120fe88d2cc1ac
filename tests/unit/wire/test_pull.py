"""Headers of pulls and tag subscriptions."""

from __future__ import annotations

import pytest

from shmq.errors import RequestRefused
from shmq.layout.javahash import hash_code
from shmq.wire.codes import PullFlag, ResponseCode
from shmq.wire.pull import (
    SUBSCRIBE_ALL,
    TAGS_MAX,
    decode_pull,
    encode_pull_answer,
    parse_subscription,
    parse_tags,
)

EXT = {
    "consumerGroup": "G",
    "topic": "T",
    "queueId": "1",
    "queueOffset": "-1",
    "maxMsgNums": "32",
    "sysFlag": "7",
    "commitOffset": "9",
    "suspendTimeoutMillis": "15000",
    "subVersion": "0",
}


def test_what_a_pull_says() -> None:
    header = decode_pull(EXT)
    assert (header.consumer_group, header.topic, header.queue_id) == ("G", "T", 1)
    assert (header.queue_offset, header.count_max, header.commit_offset) == (-1, 32, 9)
    assert (header.commits, header.suspends, header.subscribes) == (True, True, True)
    assert (header.subscription, header.expression_type, header.size_max) == ("", "TAG", None)
    more = decode_pull(EXT | {"expressionType": "", "maxMsgBytes": "5", "sysFlag": "0"})
    assert (more.expression_type, more.size_max, more.commits) == ("TAG", 5, False)


@pytest.mark.parametrize("flag", list(PullFlag))
def test_flags_one_by_one(flag: PullFlag) -> None:
    header = decode_pull(EXT | {"sysFlag": str(int(flag))})
    assert header.commits == (flag == PullFlag.COMMIT_OFFSET)
    assert header.suspends == (flag == PullFlag.SUSPEND)
    assert header.subscribes == (flag == PullFlag.SUBSCRIPTION)


@pytest.mark.parametrize("key", list(EXT))
def test_every_field_is_required(key: str) -> None:
    with pytest.raises(RequestRefused, match=f"{key} is missing"):
        decode_pull({name: value for name, value in EXT.items() if name != key})


@pytest.mark.parametrize("text", [None, "", "*"])
def test_everything(text: str | None) -> None:
    assert parse_tags(text) is SUBSCRIBE_ALL
    assert SUBSCRIBE_ALL.is_all
    assert SUBSCRIBE_ALL.matches(0)
    assert SUBSCRIBE_ALL.matches(-5)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("a", ("a",)),
        ("a||b", ("a", "b")),
        (" a || b ", ("a", "b")),
        ("a||||b||a", ("a", "b")),
        ("名 || *", ("名", "*")),
        ("a|b", ("a|b",)),
    ],
)
def test_tags(text: str, tags: tuple[str, ...]) -> None:
    found = parse_tags(text)
    assert found.tags == tags
    assert not found.is_all
    assert all(found.matches(hash_code(tag)) for tag in tags)
    assert not found.matches(hash_code("other"))
    assert not found.matches(0)


def test_tags_that_are_refused() -> None:
    for text in ("||", "||||", "||".join(map(str, range(TAGS_MAX + 1)))):
        with pytest.raises(RequestRefused) as raised:
            parse_tags(text)
        assert raised.value.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    assert len(parse_tags("||".join(map(str, range(TAGS_MAX)))).tags) == TAGS_MAX


def test_expression_types() -> None:
    assert parse_subscription(None, "a").tags == parse_subscription("TAG", "a").tags == ("a",)
    with pytest.raises(RequestRefused, match="SQL92") as raised:
        parse_subscription("SQL92", "a > 1")
    assert raised.value.code == ResponseCode.SYSTEM_ERROR
    with pytest.raises(RequestRefused, match="unknown expression type"):
        parse_subscription("XPATH", "a")


def test_answers_have_what_java_needs() -> None:
    ext = encode_pull_answer(next_begin_offset=3, min_offset=1, max_offset=5)
    assert {"suggestWhichBrokerId", "nextBeginOffset", "minOffset", "maxOffset"} <= set(ext)
    more = encode_pull_answer(
        next_begin_offset=3, min_offset=1, max_offset=5, forbidden_type=2, offset_delta=4
    )
    assert (more["forbiddenType"], more["offsetDelta"]) == ("2", "4")

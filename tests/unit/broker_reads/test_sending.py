from __future__ import annotations

from typing import Any

import pytest

from shmq.broker.sending import FORBIDDEN_TOPICS, RECORDS_IN_BATCH_MAX, TopicUnknown
from shmq.errors import RequestRefused
from shmq.layout import record
from shmq.layout.javahash import hash_code
from shmq.units import KiB
from shmq.wire.codes import Perm, ResponseCode
from shmq.wire.messageid import offset_message_id
from shmq.wire.properties import PROPERTIES_SIZE_MAX, decode_properties
from shmq.wire.send import BatchMessage, join_batch
from tests.unit.broker_reads.sends import (
    BORN_HOST,
    BORN_PORT,
    STORE_HOST,
    STORE_PORT,
    V6_HOST,
    only_record,
    prepare,
    service,
    view,
)
from tests.unit.serve.frames import properties, send_header

ILLEGAL = ResponseCode.MESSAGE_ILLEGAL
PARAMETER = ResponseCode.INVALID_PARAMETER
FORBIDDEN = ResponseCode.NO_PERMISSION
TOPIC_SIZE_MAX_OF_GROUPS = 255


# Single messages


def test_record_of_a_send() -> None:
    header = send_header(queue_id=2, flag=-3, reconsume_times=5, properties=properties(TAGS="A"))
    prepared = prepare(service(), header, b"body")
    made = only_record(prepared)
    assert (made.topic, made.queue_id, made.flag, made.reconsume_times) == ("T", 2, -3, 5)
    assert (made.born_host, made.born_port) == (BORN_HOST, BORN_PORT)
    assert (made.store_host, made.store_port) == (STORE_HOST, STORE_PORT)
    assert (made.queue_offset, made.physical_offset, made.store_timestamp) == (0, 0, 0)
    assert (made.magic, made.sys_flag, made.body) == (record.MAGIC_V1, 0, b"body")
    assert (prepared.slot, prepared.tags_code) == (2, hash_code("A"))


def test_properties_are_added_behind() -> None:
    text = properties(UNIQ_KEY="U", b="2", a="1", POP_CK="gone")
    made = only_record(prepare(service(), send_header(properties=text)))
    assert made.properties.decode() == properties(
        UNIQ_KEY="U", b="2", a="1", MSG_REGION="DefaultRegion", TRACE_ON="true", CLUSTER="C"
    )


def test_settings_of_what_is_added() -> None:
    made = service(region_id="R", trace_on=False)
    got = decode_properties(only_record(prepare(made, send_header())).properties)
    assert (got["MSG_REGION"], got["TRACE_ON"]) == ("R", "false")


def test_what_the_broker_sets_is_not_the_clients_to_say() -> None:
    """As with Apache's broker; a message that is sent on carries those of another cluster."""
    text = properties(CLUSTER="other", UNIQ_KEY="U", TRACE_ON="x", MSG_REGION="y")
    made = only_record(prepare(service(), send_header(properties=text)))
    assert made.properties.decode() == properties(
        CLUSTER="C", UNIQ_KEY="U", TRACE_ON="true", MSG_REGION="DefaultRegion"
    )


@pytest.mark.parametrize("text", ["", properties(a="1")])
def test_a_message_without_unique_key_is_given_one(text: str) -> None:
    made = service()
    prepared = [prepare(made, send_header(properties=text)) for _ in range(2)]
    keys = [decode_properties(only_record(one).properties)["UNIQ_KEY"] for one in prepared]
    assert keys[0] != keys[1]
    assert [len(key) for key in keys] == [32, 32]
    answer = made.answer(prepared[0], physical_offset=0, queue_offset=0)
    assert answer["transactionId"] == prepared[0].unique_id == keys[0]


@pytest.mark.parametrize("born_v6", [False, True])
@pytest.mark.parametrize("store_v6", [False, True])
def test_ipv6(*, born_v6: bool, store_v6: bool) -> None:
    store_host = V6_HOST if store_v6 else STORE_HOST
    made = service(store_host=store_host)
    prepared = made.prepare(
        send_header(sys_flag=1 | record.BORN_HOST_V6 | record.STORE_HOST_V6),  # A client may lie.
        b"body",
        born_host=V6_HOST if born_v6 else BORN_HOST,
        born_port=1,
    )
    got = only_record(prepared)
    expected = 1 | (record.BORN_HOST_V6 * born_v6) | (record.STORE_HOST_V6 * store_v6)
    assert got.sys_flag == expected
    assert got.born_host == (V6_HOST if born_v6 else BORN_HOST)
    assert got.store_host == store_host
    answer = made.answer(prepared, physical_offset=77, queue_offset=3)
    assert answer["msgId"] == offset_message_id(store_host, STORE_PORT, 77)
    assert len(answer["msgId"]) == (56 if store_v6 else 32)


@pytest.mark.parametrize(
    ("length", "magic"),
    [
        (126, record.MAGIC_V1),
        (127, record.MAGIC_V1),
        (128, record.MAGIC_V2),
        (255, record.MAGIC_V2),
    ],
)
def test_long_topics_of_groups(length: int, magic: int) -> None:
    topic = "%RETRY%".ljust(length, "g")
    made = only_record(prepare(service(view(topic, 1)), send_header(topic=topic)))
    assert (made.topic, made.magic) == (topic, magic)


def test_negative_queue_is_one_of_the_write_queues() -> None:
    made = service(view("T", write_queue_nums=2))
    found = {prepare(made, send_header(queue_id=-1)).queue_id for _ in range(60)}
    assert found == {0, 1}


@pytest.mark.parametrize("queue_id", [-1, 0])
def test_topic_without_write_queues(queue_id: int) -> None:
    """A queue that may only be read is still written to when it is named, as Apache does it."""
    made = service(view("T", write_queue_nums=0))
    if queue_id < 0:
        assert refusal(made, queue_id=queue_id).code == PARAMETER
    else:
        assert prepare(made, send_header(queue_id=queue_id)).queue_id == 0


# Refusals


def refusal(made: Any, body: bytes = b"body", **fields: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        prepare(made, send_header(**fields), body)
    return caught.value


@pytest.mark.parametrize(("queue_id", "fits"), [(3, True), (4, False), (2**31 - 1, False)])
def test_queue_id_limit(queue_id: int, *, fits: bool) -> None:
    if fits:
        assert prepare(service(), send_header(queue_id=queue_id)).slot == queue_id
    else:
        assert refusal(service(), queue_id=queue_id).code == PARAMETER


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025])
def test_body_limit(size: int) -> None:
    made = service(max_message_size=1024)
    if 1 <= size <= 1024:
        assert only_record(prepare(made, send_header(), bytes(size))).body == bytes(size)
    else:
        assert refusal(made, bytes(size)).code == ILLEGAL


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_properties_limit(over: int) -> None:
    """What the broker adds counts."""
    added = len(properties(MSG_REGION="DefaultRegion", TRACE_ON="true", CLUSTER="C"))
    room = PROPERTIES_SIZE_MAX - added - len(properties(UNIQ_KEY="U", a="")) + over
    text = properties(UNIQ_KEY="U", a="v" * room)
    if over > 0:
        error = refusal(service(), properties=text)
        assert error.code == ILLEGAL
        assert error.facts == {"size": PROPERTIES_SIZE_MAX + 1, "allowed_max": PROPERTIES_SIZE_MAX}
    else:
        made = only_record(prepare(service(), send_header(properties=text)))
        assert len(made.properties) == PROPERTIES_SIZE_MAX + over


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        ("t" * 127, True),
        ("t" * 128, False),
        ("%DLQ%".ljust(TOPIC_SIZE_MAX_OF_GROUPS, "g"), True),
        ("%DLQ%".ljust(TOPIC_SIZE_MAX_OF_GROUPS + 1, "g"), False),
        ("", False),
        ("..", False),
        ("a/b", False),
        ("a.b", False),
        ("a b", False),
        ("a\n", False),
        ("a\0", False),
        ("主题", False),
        ("%|aZ0_-", True),
    ],
)
def test_topic_names(topic: str, *, allowed: bool) -> None:
    """A name that could leave the store's folder is refused before it is looked for."""
    if allowed:
        with pytest.raises(TopicUnknown):
            prepare(service(), send_header(topic=topic))
    else:
        assert refusal(service(), topic=topic).code == PARAMETER


@pytest.mark.parametrize("topic", sorted(FORBIDDEN_TOPICS))
def test_topics_of_the_system(topic: str) -> None:
    assert refusal(service(view(topic)), topic=topic).code == FORBIDDEN


@pytest.mark.parametrize("sys_flag", [0x4, 0x8, 0xC, 0x40, 0x80, 0x1 | 0x4])
def test_kinds_that_are_not_stored(sys_flag: int) -> None:
    assert refusal(service(), sys_flag=sys_flag).code == ILLEGAL


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("TRAN_MSG", "true", FORBIDDEN),
        ("TRAN_MSG", "TRUE", FORBIDDEN),
        ("TRAN_MSG", "false", None),
        ("DELAY", "1", ILLEGAL),
        ("DELAY", "0", None),
        ("TIMER_DELAY_SEC", "5", ILLEGAL),
        ("TIMER_DELAY_MS", "5", ILLEGAL),
        ("TIMER_DELIVER_MS", "5", ILLEGAL),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_messages_that_must_not_be_visible_at_once(
    name: str, value: str, code: int | None, *, batch: bool
) -> None:
    text = properties(**{name: value})
    body = join_batch([BatchMessage(0, b"b", text.encode())]) if batch else b"b"
    fields = {"batch": True, "properties": ""} if batch else {"properties": text}
    if code is None:
        prepare(service(), send_header(**fields), body)
    else:
        assert refusal(service(), body, **fields).code == code


@pytest.mark.parametrize(
    ("order", "permission", "allowed"),
    [
        (False, 6, True),
        (True, 6, True),
        (False, 4, True),  # The route is what stops producers.
        (True, 4, False),
    ],
)
def test_ordered_topics_need_a_broker_that_is_written_to(
    *, order: bool, permission: int, allowed: bool
) -> None:
    made = service(view("T", order=order), broker_permission=permission)
    if allowed:
        prepare(made, send_header())
    else:
        error = refusal(made)
        assert error.code == FORBIDDEN
        assert not permission & Perm.WRITE


@pytest.mark.parametrize("text", ["a\x01b\x01c\x02", "a\x01\ud800\x02"])
def test_properties_that_are_none(text: str) -> None:
    """A name end within a value is the value's; half of a surrogate pair is no text."""
    if "\ud800" in text:
        assert refusal(service(), properties=text).code == ILLEGAL
    else:
        made = only_record(prepare(service(), send_header(properties=text)))
        assert decode_properties(made.properties)["a"] == "b\x01c"


def test_unknown_topic() -> None:
    with pytest.raises(TopicUnknown):
        prepare(service(), send_header(topic="Unknown"))


# Batches


def message(number: int, tag: str = "") -> BatchMessage:
    pairs = {"UNIQ_KEY": f"U{number}"} | ({"TAGS": tag} if tag else {})
    return BatchMessage(number, b"body %d" % number, properties(**pairs).encode())


def test_batch_of_several() -> None:
    """Records back to back behind their tags codes; properties as the client wrote them."""
    messages = [message(number, tag) for number, tag in enumerate(["A", "", "标签"])]
    made = service()
    header = send_header(batch=True, queue_id=1)
    prepared = prepare(made, header, join_batch(messages))
    codes_size = 8 * len(messages)
    codes = [
        int.from_bytes(prepared.data[at : at + 8], "little", signed=True)
        for at in range(0, codes_size, 8)
    ]
    assert codes == [hash_code("A"), 0, hash_code("标签")]
    at = codes_size
    for size, sent in zip(prepared.sizes, messages, strict=True):
        got = record.decode(prepared.data[at : at + size])
        assert (got.flag, got.body, got.properties) == sent
        assert (got.queue_id, got.topic) == (1, "T")
        at += size
    assert at == len(prepared.data)
    answer = made.answer(prepared, physical_offset=100, queue_offset=7)
    starts = [100, 100 + prepared.sizes[0], 100 + prepared.sizes[0] + prepared.sizes[1]]
    ids = [offset_message_id(STORE_HOST, STORE_PORT, start) for start in starts]
    assert answer["msgId"] == ",".join(ids)
    assert (answer["queueId"], answer["queueOffset"]) == ("1", "7")
    assert answer["transactionId"] == "ABC"


def test_batch_of_one() -> None:
    """It is a record like any other, without a table of codes."""
    sent = message(4, "A")
    prepared = prepare(service(), send_header(batch=True), join_batch([sent]))
    got = only_record(prepared)
    assert (got.flag, got.body, got.properties) == sent
    assert prepared.tags_code == hash_code("A")


@pytest.mark.parametrize(
    "body",
    [
        b"x" * 21,
        join_batch([message(1)])[:-1],
        join_batch([message(1)]) + b"\0",
        join_batch([message(1)]).replace(b"body", b"bod"),
        join_batch([BatchMessage(0, b"b", b"a\x01\xff\x02")]),
    ],
)
def test_batch_that_does_not_add_up(body: bytes) -> None:
    assert refusal(service(), body, batch=True).code == ILLEGAL


@pytest.mark.parametrize("topic", ["%RETRY%g", "%DLQ%g"])
def test_no_batch_to_a_retry_topic(topic: str) -> None:
    error = refusal(service(view(topic)), join_batch([message(1)]), topic=topic, batch=True)
    assert error.code == ILLEGAL


@pytest.mark.parametrize("over", [0, 1])
def test_batch_count_limit(over: int) -> None:
    made = service(max_message_size=4096 * KiB)
    body = join_batch([BatchMessage(0, b"", b"")]) * (RECORDS_IN_BATCH_MAX + over)
    if over:
        assert refusal(made, body, batch=True).code == ILLEGAL
    else:
        assert len(prepare(made, send_header(batch=True), body).sizes) == RECORDS_IN_BATCH_MAX

"""Headers of sends under both names, and batches cut at every byte."""

from __future__ import annotations

import pytest

from shmq.errors import RequestRefused
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.send import (
    BATCH_MESSAGE_SIZE_MIN,
    BatchMessage,
    SendHeader,
    decode_send,
    encode_send,
    encode_send_answer,
    join_batch,
    split_batch,
)

HEADER = SendHeader(
    producer_group="P",
    topic="T",
    default_topic="TBW102",
    default_topic_queue_count=4,
    queue_id=3,
    sys_flag=1,
    born_timestamp=1_700_000_000_000,
    flag=7,
    properties="a\x01b\x02",
    reconsume_times=2,
    unit_mode=True,
    max_reconsume_times=16,
    batch=True,
    broker_name="B",
)
CODES = [RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE]


@pytest.mark.parametrize("code", CODES)
def test_both_names_of_the_fields(code: int) -> None:
    ext = encode_send(HEADER, code)
    assert ("topic" in ext) == (code == RequestCode.SEND_MESSAGE)
    assert decode_send(code, ext) == HEADER


@pytest.mark.parametrize("code", CODES)
def test_every_required_field(code: int) -> None:
    """Absent ones are refused by their long name; the optional ones have defaults."""
    whole = encode_send(HEADER, code)
    optional = 0
    for key in whole:
        ext = {name: value for name, value in whole.items() if name != key}
        try:
            decode_send(code, ext)
            optional += 1
        except RequestRefused as error:
            assert error.code == ResponseCode.SYSTEM_ERROR  # noqa: PT017
            assert "is missing" in str(error)  # noqa: PT017
    assert optional == 6


@pytest.mark.parametrize("key", ["d", "e", "f", "g", "h", "j", "l"])
@pytest.mark.parametrize("value", ["x", "1.5", " 1", "0x1", "1" * 20, "9" * 19, "\u0661"])
def test_numbers_that_are_none(key: str, value: str) -> None:
    ext = encode_send(HEADER, RequestCode.SEND_MESSAGE_V2) | {key: value}
    if (key, value) == ("g", "9" * 19):
        value = "-" + value  # 19 nines do not fit 64 bits either.
    with pytest.raises(RequestRefused):
        decode_send(RequestCode.SEND_MESSAGE_V2, ext)


def test_numbers_at_their_limits() -> None:
    for key, limit in (("e", 2**31), ("g", 2**63)):
        ext = encode_send(HEADER, RequestCode.SEND_MESSAGE_V2)
        for fits in (limit - 1, -limit):
            decode_send(RequestCode.SEND_MESSAGE_V2, ext | {key: str(fits)})
        for outside in (limit, -limit - 1):
            with pytest.raises(RequestRefused, match="leaves"):
                decode_send(RequestCode.SEND_MESSAGE_V2, ext | {key: str(outside)})


@pytest.mark.parametrize(
    ("text", "wanted"), [("true", True), ("TRUE", True), ("1", False), ("", False)]
)
def test_booleans_as_java_reads_them(text: str, wanted: bool) -> None:  # noqa: FBT001
    ext = encode_send(HEADER, RequestCode.SEND_MESSAGE_V2) | {"m": text, "k": text}
    found = decode_send(RequestCode.SEND_MESSAGE_V2, ext)
    assert (found.batch, found.unit_mode) == (wanted, wanted)


BATCH = [
    BatchMessage(0, b"one", b"a\x01b\x02"),
    BatchMessage(-1, b"", b""),
    BatchMessage(5, b"x", b""),
]


def test_a_batch_is_joined_and_split() -> None:
    assert split_batch(join_batch(BATCH)) == BATCH


def test_a_batch_cut_at_every_byte() -> None:
    data = join_batch(BATCH)
    borders = {
        sum(BATCH_MESSAGE_SIZE_MIN + len(m.body) + len(m.properties) for m in BATCH[:n])
        for n in (1, 2)
    }
    for cut in range(len(data)):
        if cut in borders:
            assert len(split_batch(data[:cut])) < 3
            continue
        with pytest.raises(RequestRefused) as raised:
            split_batch(data[:cut])
        assert raised.value.code == ResponseCode.MESSAGE_ILLEGAL


def test_a_batch_with_every_size_bent() -> None:
    data = join_batch(BATCH)
    for at in (0, 1, 2, 3, 16, 17, 18, 19, 23, 24):
        for bits in (0x01, 0x80):
            bent = bytearray(data)
            bent[at] ^= bits
            with pytest.raises(RequestRefused):
                split_batch(bytes(bent))


def test_answers() -> None:
    ext = encode_send_answer(message_id="A", queue_id=1, queue_offset=2, trace_on=False)
    assert ext == {
        "queueId": "1",
        "msgId": "A",
        "TRACE_ON": "false",
        "MSG_REGION": "DefaultRegion",
        "queueOffset": "2",
    }
    more = encode_send_answer(
        message_id="A",
        queue_id=1,
        queue_offset=2,
        transaction_id="t",
        batch_unique_id="u",
        recall_handle="r",
    )
    assert (more["transactionId"], more["batchUniqId"], more["recallHandle"]) == ("t", "u", "r")

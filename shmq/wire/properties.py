"""The properties of a message: name and value pairs in one text.

    name 0x01 value 0x02  name 0x01 value 0x02 ...

UTF-8. The last 0x02 is written and may be missing in what is read. At most 32767 bytes, as the
record's length field is a signed 16-bit number. A reader drops a pair with an empty value.

Source: Apache RocketMQ common/message/MessageDecoder.string2messageProperties, MessageConst.
"""

from __future__ import annotations

from typing import Final

from shmq.errors import ProtocolError
from shmq.layout.javahash import hash_code

__all__ = ["decode_properties", "encode_properties", "hash_code"]

NAME_END: Final = "\x01"
PAIR_END: Final = "\x02"
PROPERTIES_SIZE_MAX: Final = 0x7FFF

KEYS: Final = "KEYS"
KEYS_SEPARATOR: Final = " "
TAGS: Final = "TAGS"
WAIT: Final = "WAIT"
DELAY: Final = "DELAY"
RETRY_TOPIC: Final = "RETRY_TOPIC"
REAL_TOPIC: Final = "REAL_TOPIC"
REAL_QUEUE_ID: Final = "REAL_QID"
TRANSACTION_PREPARED: Final = "TRAN_MSG"
PRODUCER_GROUP: Final = "PGROUP"
MIN_OFFSET: Final = "MIN_OFFSET"
MAX_OFFSET: Final = "MAX_OFFSET"
BUYER_ID: Final = "BUYER_ID"
ORIGIN_MESSAGE_ID: Final = "ORIGIN_MESSAGE_ID"
TRANSFER_FLAG: Final = "TRANSFER_FLAG"
CORRECTION_FLAG: Final = "CORRECTION_FLAG"
MQ2_FLAG: Final = "MQ2_FLAG"
RECONSUME_TIME: Final = "RECONSUME_TIME"
MAX_RECONSUME_TIMES: Final = "MAX_RECONSUME_TIMES"
MSG_REGION: Final = "MSG_REGION"
TRACE_ON: Final = "TRACE_ON"
UNIQ_KEY: Final = "UNIQ_KEY"
CLUSTER: Final = "CLUSTER"
INSTANCE_ID: Final = "INSTANCE_ID"
CONSUME_START_TIME: Final = "CONSUME_START_TIME"
TRANSACTION_CHECK_TIMES: Final = "TRANSACTION_CHECK_TIMES"
CHECK_IMMUNITY_TIME_SECONDS: Final = "CHECK_IMMUNITY_TIME_IN_SECONDS"
TRANSACTION_PREPARED_QUEUE_OFFSET: Final = "TRAN_PREPARED_QUEUE_OFFSET"
TRANSACTION_ID: Final = "__transactionId__"
POP_CK: Final = "POP_CK"
INNER_NUM: Final = "INNER_NUM"
INNER_BASE: Final = "INNER_BASE"
REPLY_TO_CLIENT: Final = "REPLY_TO_CLIENT"
CORRELATION_ID: Final = "CORRELATION_ID"
TIMER_DELAY_SECONDS: Final = "TIMER_DELAY_SEC"
TIMER_DELAY_MS: Final = "TIMER_DELAY_MS"
TIMER_DELIVER_MS: Final = "TIMER_DELIVER_MS"
TIMER_OUT_MS: Final = "TIMER_OUT_MS"
TIMER_ENQUEUE_MS: Final = "TIMER_ENQUEUE_MS"
TIMER_DEQUEUE_MS: Final = "TIMER_DEQUEUE_MS"
TIMER_ROLL_TIMES: Final = "TIMER_ROLL_TIMES"
TIMER_DELETE_UNIQUE_KEY: Final = "TIMER_DEL_UNIQKEY"
CRC32: Final = "__CRC32#"


def encode_properties(properties: dict[str, str]) -> bytes:
    """Properties text of `properties`, with the closing 0x02.

    Raises:
        ProtocolError: a name or value has a separator in it, or the text is above 32767 bytes.
    """
    for name, value in properties.items():
        if not name or NAME_END in name or PAIR_END in name or PAIR_END in value:
            raise ProtocolError("property with a separator in it", name=name, value=value)
    text = "".join([f"{name}\x01{value}\x02" for name, value in properties.items()])
    data = text.encode()
    if len(data) > PROPERTIES_SIZE_MAX:
        raise ProtocolError("properties too long", size=len(data), size_max=PROPERTIES_SIZE_MAX)
    return data


def decode_properties(data: bytes | bytearray | memoryview) -> dict[str, str]:
    """Properties from their text, in its order; a pair without value is dropped, as Java does.

    Raises:
        ProtocolError: `data` is not UTF-8.
    """
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("properties are not UTF-8", position=error.start) from None
    properties: dict[str, str] = {}
    for pair in text.split(PAIR_END):
        name, _, value = pair.partition(NAME_END)
        if value and name:
            properties[name] = value
    return properties

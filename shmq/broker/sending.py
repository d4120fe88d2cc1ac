"""Sends by the general path: from a header and a body to records that the writer can append.

The compiled parser (kernels/sends.py) takes the sends about which nothing is special; all others
come here and are decided by the same rules, slower: batches, unknown topics, a queue that the
broker is to choose, headers and properties of unusual form. What is refused here is never in the
ring.

What asks for more than storing is refused with its reason until the broker serves it: half
messages (TRAN_MSG), delays (DELAY, TIMER_*) and inner batches.

Source: RocketMQ processor/SendMessageProcessor, AbstractSendMessageProcessor.msgCheck,
store/MessageExtEncoder; spec request-codes.md section 2.
"""

from __future__ import annotations

import random
import secrets
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.broker import names
from shmq.errors import ProtocolError, RequestRefused
from shmq.layout import record
from shmq.layout.cqentry import tags_code
from shmq.layout.record import BORN_HOST_V6, IPV6_SIZE, PROPERTIES_SIZE_MAX, STORE_HOST_V6, Record
from shmq.wire import properties as names_of
from shmq.wire.codes import Perm, ResponseCode
from shmq.wire.messageid import offset_message_id
from shmq.wire.properties import NAME_END, PAIR_END, decode_properties, encode_properties
from shmq.wire.send import SendHeader, encode_send_answer, split_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shmq.broker.views import Views
    from shmq.config import Settings
    from shmq.wire.internal import TopicView

FORBIDDEN_TOPICS: Final = frozenset(
    {
        names.SCHEDULE_TOPIC,
        names.HALF_TOPIC,
        names.OP_HALF_TOPIC,
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
    }
)
TRANSACTION_MASK: Final = 0xC
INNER_BATCH_FLAGS: Final = 0xC0
TIMED: Final = (
    names_of.DELAY,
    names_of.TIMER_DELAY_SECONDS,
    names_of.TIMER_DELAY_MS,
    names_of.TIMER_DELIVER_MS,
)
RECORDS_IN_BATCH_MAX: Final = 65_536
UNIQUE_ID_BYTES: Final = 16
"""As many as clients use; a client that sends none is given an id, as Apache's broker does."""
_CODE: Final = struct.Struct("=q")


class TopicUnknown(Exception):
    """The topic is not known; it may be made."""


class Prepared(NamedTuple):
    """One entry for the submission ring, and what its answer needs."""

    data: bytes
    """The records, back to back; before them the tags codes when there are several."""
    sizes: Sequence[int]
    """Of each record, bytes."""
    slot: int
    queue_id: int
    tags_code: int
    """Of the only record."""
    unique_id: str | None
    waits_for_disk: bool = True
    """Whether the answer waits for the flush, where the broker flushes before it answers."""


class SendService:
    """Turns sends into records, as one process sees topics and settings."""

    def __init__(
        self,
        *,
        settings: Settings,
        views: Views,
        store_host: bytes,
        store_port: int,
    ) -> None:
        self._settings = settings
        self._views = views
        self._store_host = store_host
        self._store_port = store_port

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        self._settings = settings

    def prepare(
        self, header: SendHeader, body: bytes, *, born_host: bytes, born_port: int
    ) -> Prepared:
        """The entry to submit for a send.

        Raises:
            RequestRefused: with the code that the client knows how to take.
            TopicUnknown: the topic must be made first.
        """
        topic = self._check(header, body)
        queue_id = self._queue(header.queue_id, topic)
        plain = Record(
            topic=header.topic,
            body=body,
            queue_id=queue_id,
            flag=header.flag,
            sys_flag=self._sys_flag(header.sys_flag, born_host),
            born_timestamp=header.born_timestamp,
            born_host=born_host,
            born_port=born_port,
            store_host=self._store_host,
            store_port=self._store_port,
            reconsume_times=header.reconsume_times,
            magic=record.magic_for(header.topic),
        )
        own = decode_properties(_utf8(header.properties))
        if header.batch:
            return self._batch(plain, own, topic.slots[queue_id])
        return self._single(plain, own, topic.slots[queue_id])

    def _check(self, header: SendHeader, body: bytes) -> TopicView:
        settings = self._settings
        names.check_topic(header.topic)
        if header.topic in FORBIDDEN_TOPICS:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION, "nobody may send to this topic", topic=header.topic
            )
        if not body:
            raise RequestRefused(ResponseCode.MESSAGE_ILLEGAL, "the body is empty")
        if len(body) > settings.max_message_size:
            raise RequestRefused(
                ResponseCode.MESSAGE_ILLEGAL,
                "the body is too long",
                size=len(body),
                allowed_max=settings.max_message_size,
            )
        if header.sys_flag & TRANSACTION_MASK or header.sys_flag & INNER_BATCH_FLAGS:
            raise RequestRefused(
                ResponseCode.MESSAGE_ILLEGAL,
                "this broker stores no transactions or inner batches",
                sys_flag=header.sys_flag,
            )
        topic = self._views.topics.get(header.topic)
        if topic is None:
            raise TopicUnknown
        if topic.order and not settings.broker_permission & Perm.WRITE:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION,
                "the broker takes no messages of ordered topics",
                broker_permission=settings.broker_permission,
                topic=topic.name,
            )
        return topic

    def _queue(self, asked: int, topic: TopicView) -> int:
        """The queue to append to; a negative one leaves the choice to the broker."""
        count = topic.write_queue_nums
        if asked < 0 and count > 0:
            return random.randrange(count)  # noqa: S311  spreads load, hides nothing
        if not 0 <= asked < len(topic.slots):
            raise RequestRefused(
                ResponseCode.INVALID_PARAMETER,
                "queueId is out of range",
                found=asked,
                allowed=(0, len(topic.slots) - 1),
                topic=topic.name,
            )
        return asked

    def _sys_flag(self, asked: int, born_host: bytes) -> int:
        flag = asked & ~(BORN_HOST_V6 | STORE_HOST_V6)
        if len(born_host) == IPV6_SIZE:
            flag |= BORN_HOST_V6
        if len(self._store_host) == IPV6_SIZE:
            flag |= STORE_HOST_V6
        return flag

    def _single(self, plain: Record, own: dict[str, str], slot: int) -> Prepared:
        _refuse_unserved(own)
        own.pop(names_of.POP_CK, None)
        own.setdefault(names_of.UNIQ_KEY, secrets.token_hex(UNIQUE_ID_BYTES).upper())
        own[names_of.MSG_REGION] = self._settings.region_id
        own[names_of.TRACE_ON] = "true" if self._settings.trace_on else "false"
        own[names_of.CLUSTER] = self._settings.broker_cluster_name
        plain.properties = _encoded(own)
        data = record.encode(plain)
        return Prepared(
            data=data,
            sizes=(len(data),),
            slot=slot,
            queue_id=plain.queue_id,
            tags_code=tags_code(own.get(names_of.TAGS)),
            unique_id=own.get(names_of.UNIQ_KEY),
            waits_for_disk=_waits(own),
        )

    def _batch(self, plain: Record, own: dict[str, str], slot: int) -> Prepared:
        """Each message of a batch with properties of its own, as Apache's broker stores them."""
        if plain.topic.startswith((names.RETRY_PREFIX, names.DLQ_PREFIX)):
            raise RequestRefused(
                ResponseCode.MESSAGE_ILLEGAL, "no batch to a retry topic", topic=plain.topic
            )
        _refuse_unserved(own)
        messages = split_batch(plain.body)
        if len(messages) > RECORDS_IN_BATCH_MAX:
            raise RequestRefused(
                ResponseCode.MESSAGE_ILLEGAL,
                "too many messages in a batch",
                found=len(messages),
                allowed_max=RECORDS_IN_BATCH_MAX,
            )
        records: list[bytes] = []
        codes: list[int] = []
        for flag, body, text in messages:
            try:
                found = decode_properties(text)
            except ProtocolError as error:
                raise RequestRefused(
                    ResponseCode.MESSAGE_ILLEGAL,
                    "properties of a message in a batch",
                    reason=str(error),
                ) from error
            _refuse_unserved(found)
            plain.flag = flag
            plain.body = body
            plain.properties = text
            records.append(record.encode(plain))
            codes.append(tags_code(found.get(names_of.TAGS)))
        if len(records) == 1:
            data, code = records[0], codes[0]
        else:
            data, code = b"".join([*map(_CODE.pack, codes), *records]), 0
        return Prepared(
            data=data,
            sizes=tuple(map(len, records)),
            slot=slot,
            queue_id=plain.queue_id,
            tags_code=code,
            unique_id=own.get(names_of.UNIQ_KEY),
            waits_for_disk=_waits(own),
        )

    def answer(
        self, prepared: Prepared, *, physical_offset: int, queue_offset: int
    ) -> dict[str, str]:
        """Ext fields of the answer to a send whose first record lies at `physical_offset`."""
        ids: list[str] = []
        for size in prepared.sizes:
            ids.append(offset_message_id(self._store_host, self._store_port, physical_offset))
            physical_offset += size
        return encode_send_answer(
            message_id=",".join(ids),
            queue_id=prepared.queue_id,
            queue_offset=queue_offset,
            transaction_id=prepared.unique_id,
            region=self._settings.region_id,
            trace_on=self._settings.trace_on,
        )


def _waits(properties: dict[str, str]) -> bool:
    """What Java makes of the property WAIT: all but "true" means no, none means yes."""
    return properties.get(names_of.WAIT, "true").lower() == "true"


def _refuse_unserved(properties: dict[str, str]) -> None:
    """Refuse what must not become visible at once, as long as nothing here holds it back."""
    if properties.get(names_of.TRANSACTION_PREPARED, "").lower() == "true":
        raise RequestRefused(
            ResponseCode.NO_PERMISSION, "this broker serves no transaction messages yet"
        )
    for name in TIMED:
        if properties.get(name, "0") != "0":
            raise RequestRefused(
                ResponseCode.MESSAGE_ILLEGAL,
                "this broker serves no delayed messages yet",
                property=name,
                found=properties[name][:40],
            )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # Half of a pair, written as an escape in JSON.
        raise RequestRefused(
            ResponseCode.MESSAGE_ILLEGAL, "properties are not text", position=error.start
        ) from None


def _encoded(properties: dict[str, str]) -> bytes:
    text = "".join(
        [f"{name}{NAME_END}{value}{PAIR_END}" for name, value in properties.items()]
    ).encode()
    if len(text) > PROPERTIES_SIZE_MAX:
        raise RequestRefused(
            ResponseCode.MESSAGE_ILLEGAL,
            "the properties are too long",
            size=len(text),
            allowed_max=PROPERTIES_SIZE_MAX,
        )
    try:
        return encode_properties(properties)
    except ProtocolError as error:
        raise RequestRefused(ResponseCode.MESSAGE_ILLEGAL, error.what) from error

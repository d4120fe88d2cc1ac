"""A SendService and a SendParser that know the same topics, and what Apache does differently."""

from __future__ import annotations

from typing import Any

from shmq.broker.sending import Prepared, SendService
from shmq.broker.views import Views
from shmq.config import Settings
from shmq.layout import record
from shmq.layout.javahash import hash_code
from shmq.layout.record import Record
from shmq.wire.internal import TopicUpdate, TopicView
from shmq.wire.properties import decode_properties, encode_properties
from shmq.wire.send import SendHeader

BORN_HOST = bytes((192, 0, 2, 7))
BORN_PORT = 40_001
STORE_HOST = bytes((192, 0, 2, 1))
STORE_PORT = 10_911
V6_HOST = bytes.fromhex("20010db8000000000000000000000007")
JAVA_MAP_SIZE = 128
"""Buckets of the map into which Apache's broker reads properties before it writes them again."""


def view(name: str, queue_count: int = 4, *, first_slot: int = 0, **more: Any) -> TopicView:
    """What serve knows of a topic."""
    values: dict[str, Any] = {
        "perm": 6,
        "read_queue_nums": queue_count,
        "write_queue_nums": queue_count,
        "sys_flag": 0,
        "order": False,
        "attributes": {},
        "slots": list(range(first_slot, first_slot + queue_count)),
    }
    return TopicView(name=name, **(values | more))


def views_of(*topics: TopicView) -> Views:
    """Views that know these topics and nothing else."""
    views = Views(on_topic=lambda _view: None, on_topic_removed=lambda _name: None)
    views.take_topics(TopicUpdate(list(topics), complete=True))
    return views


def service(
    *topics: TopicView,
    store_host: bytes = STORE_HOST,
    store_port: int = STORE_PORT,
    **settings: Any,
) -> SendService:
    """A SendService of cluster C."""
    return SendService(
        settings=Settings(**({"broker_cluster_name": "C"} | settings)),
        views=views_of(*(topics or (view("T"),))),
        store_host=store_host,
        store_port=store_port,
    )


def prepare(made: SendService, header: SendHeader, body: bytes = b"body") -> Prepared:
    """Prepare a send of a client at BORN_HOST."""
    return made.prepare(header, body, born_host=BORN_HOST, born_port=BORN_PORT)


def only_record(prepared: Prepared) -> Record:
    """The record of a single send, checked."""
    assert prepared.sizes == (len(prepared.data),)
    return record.decode(prepared.data)


def in_java_order(properties: bytes) -> bytes:
    """The same properties as Apache's broker writes them: in the order of a java.util.HashMap."""

    def bucket(pair: tuple[str, str]) -> int:
        spread = hash_code(pair[0]) & 0xFFFFFFFF
        return (spread ^ spread >> 16) & (JAVA_MAP_SIZE - 1)

    return encode_properties(dict(sorted(decode_properties(properties).items(), key=bucket)))

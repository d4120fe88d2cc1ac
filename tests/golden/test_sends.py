"""Records that Apache's broker stored, made anew from what its clients had sent.

What differs is the order of the properties alone. Apache's broker reads them into a HashMap of 128
buckets and writes them in that order; ours keeps the client's text and adds its own behind it.
"""

from __future__ import annotations

from pathlib import Path

from shmq.layout import record
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.properties import decode_properties
from shmq.wire.send import BatchMessage, decode_send, join_batch
from tests.golden.conftest import GoldenStore
from tests.unit.broker_reads.sends import in_java_order, only_record, prepare, service, view
from tests.unit.serve.frames import properties, send_header

OURS = ("MSG_REGION", "TRACE_ON", "CLUSTER")


def frame(golden_dir: Path, name: str) -> Frame:
    decoder = FrameDecoder()
    decoder.feed((golden_dir / "frames" / f"{name}.bin").read_bytes())
    found = decoder.next_frame()
    assert found is not None
    return found


def test_golden_send(golden_dir: Path) -> None:
    """The record that Apache's broker gave to a consumer, from the frame that it was sent."""
    asked = frame(golden_dir, "json-310-SEND_MESSAGE_V2-req")
    stored = frame(golden_dir, "json-011-PULL_MESSAGE-resp").body
    theirs = record.decode(stored)
    made = service(
        view("FrameT"),
        store_host=theirs.store_host,
        store_port=theirs.store_port,
        broker_cluster_name="peer",
    )
    prepared = made.prepare(
        decode_send(asked.header.code, asked.header.ext),
        asked.body,
        born_host=theirs.born_host,
        born_port=theirs.born_port,
    )
    ours = only_record(prepared)
    assert ours.properties != theirs.properties
    ours.properties = in_java_order(ours.properties)
    ours.store_timestamp = theirs.store_timestamp
    assert record.encode(ours) == stored
    answer = frame(golden_dir, "json-310-SEND_MESSAGE_V2-resp").header.ext
    assert made.answer(prepared, physical_offset=0, queue_offset=0) == answer


def test_golden_batch(golden_dir: Path) -> None:
    """Apache's answer tells the size of its records: ids of the three messages of a batch."""
    asked = frame(golden_dir, "json-320-SEND_BATCH_MESSAGE-req")
    answer = frame(golden_dir, "json-320-SEND_BATCH_MESSAGE-resp").header.ext
    first = int(answer["msgId"][16:32], 16)
    made = service(view("FrameT"), store_host=bytes((127, 0, 0, 1)), store_port=20_911)
    prepared = prepare(made, decode_send(asked.header.code, asked.header.ext), asked.body)
    assert made.answer(prepared, physical_offset=first, queue_offset=0) == answer


def test_golden_store(golden_store: GoldenStore) -> None:
    """All records that Apache's broker stored for sends of its client, made anew."""
    count = 0
    for stored in golden_store.manifest["stored"]:
        if stored["topic"] not in {"GoldenA", "GoldenB"} or stored["preparedTransactionOffset"]:
            continue
        data = golden_store.record_bytes(stored)
        theirs = record.decode(data)
        own = decode_properties(theirs.properties)
        if "REAL_TOPIC" in own or "TIMER_OUT_MS" in own or "TRAN_MSG" in own:
            continue  # Delayed: not what the client sent.
        in_batch = "CLUSTER" not in own
        sent = {name: value for name, value in own.items() if name not in OURS}
        header = send_header(
            topic=theirs.topic,
            queue_id=theirs.queue_id,
            flag=theirs.flag,
            sys_flag=theirs.sys_flag,
            born_timestamp=theirs.born_timestamp,
            properties=properties(**sent) if not in_batch else "",
            batch=in_batch,
        )
        body = theirs.body
        if in_batch:
            body = join_batch([BatchMessage(theirs.flag, body, theirs.properties)])
        made = service(
            view("GoldenA"),
            view("GoldenB"),
            store_host=theirs.store_host,
            store_port=theirs.store_port,
            broker_cluster_name="golden",
        )
        prepared = made.prepare(
            header, body, born_host=theirs.born_host, born_port=theirs.born_port
        )
        ours = only_record(prepared)
        if not in_batch:
            ours.properties = in_java_order(ours.properties)
        ours.queue_offset = theirs.queue_offset
        ours.physical_offset = theirs.physical_offset
        ours.store_timestamp = theirs.store_timestamp
        assert record.encode(ours) == data, stored
        count += 1
    assert count >= 1290

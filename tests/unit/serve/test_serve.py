from __future__ import annotations

import gc

import pytest

from shmq.kernels.answers import AnswerBuilder
from shmq.kernels.sends import SendParser
from tests.unit.serve.broker import Broker
from tests.unit.serve.frames import codes, pull, send


def test_send_and_pull(broker: Broker) -> None:
    client = broker.connect()
    assert codes(broker.ask(client, send(b"one"))) == [0]
    (got,) = broker.ask(client, pull())
    assert got.header.code == 0
    assert b"one" in got.body


def test_a_ring_is_let_go_with_its_parser_in_a_cycle() -> None:
    """The collector may free parser and builder; the ring's memory must be free after that."""
    entries, completions = bytearray(64 * 8), bytearray(32 * 8)
    data = bytearray(4096)
    cycle: list[object] = [
        SendParser(
            entries=entries,
            data=data,
            entry_count=8,
            data_size=4096,
            store_host=bytes(4),
            store_port=1,
            cluster=b"C",
            trace_on=True,
            message_size_max=1000,
            frame_size_max=10_000,
        ),
        AnswerBuilder(
            entries=entries,
            completions=completions,
            data=data,
            entry_count=8,
            data_size=4096,
            store_host=bytes(4),
            store_port=1,
            trace_on=True,
        ),
    ]
    cycle.append(cycle)
    with pytest.raises(BufferError):
        data.clear()
    del cycle
    gc.collect()
    for part in (entries, completions, data):
        part.clear()  # BufferError if anybody still held it.

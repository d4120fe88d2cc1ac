"""The short way of pulls: the same answer as the long way, byte for byte, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.kernels.pulls import PullReader
from shmq.layout.control import Word
from shmq.units import KiB
from shmq.wire.header import BINARY, JSON, Header, answer, decode_header, encode_frame
from shmq.wire.internal import GroupUpdate, TopicUpdate
from shmq.wire.pull import decode_pull, encode_pull_answer
from tests.unit.broker_reads.conftest import MakeStore
from tests.unit.broker_reads.sends import view
from tests.unit.broker_reads.store import TOPIC, Store, group
from tests.unit.serve.frames import pull_ext

STORED = 300


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Messages of several sizes in two queues; the oldest lie in files alone."""
    store = Store(tmp_path_factory.mktemp("deep"), house={"pool_size": 320 * KiB})
    for number in range(STORED):
        store.put(b"%03d" % number * (400 + number % 100), queue_id=number % 2)
        store.put(b"x" * 40, queue_id=1)
    assert store.arena.queues.hot_starts[store.slot] > 0
    assert store.arena.reader(Word.HOT_START).load() > 0
    yield store
    store.close()


def long_way(store: Store, frame: bytes, serialization: int) -> bytes:
    """Frame of the general path's answer."""
    request = decode_header(frame[8 : 8 + int.from_bytes(frame[5:8], "big")], serialization)
    header = decode_pull(request.ext)
    slot, subscription = store.pulls.check(header)
    result = store.pulls.execute(header, slot, subscription)
    ext = encode_pull_answer(
        next_begin_offset=result.next_begin_offset,
        min_offset=result.min_offset,
        max_offset=result.max_offset,
        suggested_broker_id=result.suggested_broker_id,
    )
    said = answer(request, result.code, result.status, ext)
    return encode_frame(said, bytes(result.body), serialization)


def asked(frame: bytes) -> PullReader:
    """A plain pull as the kernel reads it."""
    reader = PullReader()
    assert reader.read(frame)
    return reader


def learnt(store: Store, reader: PullReader, **fields: Any) -> bool:
    """Go the long way's check once; whether the short way is known now."""
    header = decode_pull(pull_ext(**fields))
    _, subscription = store.pulls.check(header)
    store.pulls.learn(reader.key, header, subscription)
    return store.pulls.plan(reader.key) is not None


@given(
    offset=st.integers(-1, STORED + STORED // 2 + 1),
    queue_id=st.sampled_from([0, 1, 2]),
    count=st.sampled_from([-1, 0, 1, 3, 32, 100, 10_000]),
    size_max=st.sampled_from([None, 0, 1, 500, 5000, 2**31 - 1]),
    serialization=st.sampled_from([JSON, BINARY]),
)
def test_both_ways_answer_the_same(
    *,
    deep: Store,
    offset: int,
    queue_id: int,
    count: int,
    size_max: int | None,
    serialization: int,
) -> None:
    fields: dict[str, Any] = {"offset": offset, "count": count, "queueId": queue_id}
    if size_max is not None:
        fields["maxMsgBytes"] = size_max
    frame = encode_frame(Header(11, 77, ext=pull_ext(**fields)), b"", serialization)
    reader = asked(frame)
    assert learnt(deep, reader, **fields)
    plan = deep.pulls.plan(reader.key)
    assert plan is not None
    found = deep.pulls.find(plan, reader)
    expected = long_way(deep, frame, serialization)
    if found is None:
        assert b"FOUND" not in expected.replace(b"NOT_FOUND", b"").replace(b"FOUND_NULL", b"")
    else:
        assert bytes(found.frame) == expected


def pull_frame(**fields: Any) -> bytes:
    return encode_frame(Header(11, 1, ext=pull_ext(**fields)))


def test_every_change_of_the_views_is_asked_again(store: Store) -> None:
    reader = asked(pull_frame())
    changes: tuple[Callable[[], None], ...] = (
        lambda: store.views.take_groups(GroupUpdate([group(consume_enable=False)])),
        lambda: store.views.take_topics(TopicUpdate([view(TOPIC, slots=[3, 2, 1, 0])])),
        lambda: store.views.take_groups(GroupUpdate([], removed=["G"])),
        lambda: store.views.take_topics(TopicUpdate([], removed=[TOPIC])),
        lambda: store.pulls.reload(store.settings),
    )
    for change in changes:
        store.views.take_topics(TopicUpdate([view(TOPIC, slots=[0, 1, 2, 3])]))
        store.views.take_groups(GroupUpdate([group()]))
        assert learnt(store, reader)
        change()
        assert store.pulls.plan(reader.key) is None


def test_tags_go_the_long_way(store: Store) -> None:
    assert not learnt(store, asked(pull_frame(tags="A || B")), tags="A || B")
    assert not learnt(store, asked(pull_frame(tags=None)), tags=None)


def test_only_queues_that_may_be_read(store: Store) -> None:
    store.put(b"one", b"two")
    store.views.take_topics(TopicUpdate([view(TOPIC, slots=[0, 1, 2, 3], read_queue_nums=1)]))
    for queue_id, is_found in ((0, True), (1, False), (-1, False), (4, False)):
        reader = asked(pull_frame(queueId=queue_id))
        assert learnt(store, reader)
        plan = store.pulls.plan(reader.key)
        assert plan is not None
        assert (store.pulls.find(plan, reader) is not None) == is_found


def test_a_record_that_is_gone_is_left_to_the_long_way(make_store: MakeStore) -> None:
    store = make_store(house={"pool_size": 320 * KiB})
    for _ in range(100):
        store.put(b"x" * 8000)
    path, *_ = sorted(Path(store.house.store_dir, "commitlog").iterdir())
    path.unlink()
    reader = asked(pull_frame())
    assert learnt(store, reader)
    plan = store.pulls.plan(reader.key)
    assert plan is not None
    assert store.pulls.find(plan, reader) is None


def test_the_number_of_remembered_questions_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmq.broker.pull.PLANS_MAX", 3)
    readers = [asked(pull_frame(subVersion=version)) for version in range(4)]
    assert all(learnt(store, reader) for reader in readers)
    assert [store.pulls.plan(reader.key) is None for reader in readers] == [True] * 3 + [False]

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shmq.broker.pull import SCAN_MAX, SIZE_MIN, GroupUnknown
from shmq.errors import RequestRefused, StoreError
from shmq.layout.control import Word
from shmq.layout.cqentry import ENTRY, FILLER_SIZE
from shmq.layout.javahash import hash_code
from shmq.reading import LogReader
from shmq.store.commitlog import LogFiles
from shmq.units import KiB
from shmq.wire.codes import ResponseCode
from shmq.wire.internal import GroupUpdate, Sub, TopicUpdate
from shmq.wire.pull import SUBSCRIBE_ALL, Subscription, parse_tags
from tests.unit.broker_reads.conftest import MakeStore
from tests.unit.broker_reads.sends import view
from tests.unit.broker_reads.store import Store, bodies_in, group, pull_header, records_in

FOUND = ResponseCode.SUCCESS
RETRY = ResponseCode.PULL_RETRY_IMMEDIATELY
NOT_FOUND = ResponseCode.PULL_NOT_FOUND
MOVED = ResponseCode.PULL_OFFSET_MOVED
TAGS_A = parse_tags("A")
OUT_OF_MEMORY = 1000  # memory of a host on which everything is cold


def said(store: Store, offset: int, **fields: Any) -> tuple[int, str, int]:
    """Code, status and next offset of a pull."""
    result = store.pull(offset, **fields)
    assert (result.min_offset, result.max_offset) == (
        store.arena.queues.min_offset(store.slot),
        store.arena.queues.max_offset(store.slot),
    )
    return result.code, result.status, result.next_begin_offset


# The table


@pytest.mark.parametrize(
    ("offset", "code"), [(0, NOT_FOUND), (1, MOVED), (-1, MOVED), (2**62, MOVED)]
)
def test_no_message_in_queue(store: Store, offset: int, code: int) -> None:
    assert said(store, offset) == (code, "NO_MESSAGE_IN_QUEUE", 0)


def test_found(store: Store) -> None:
    store.put(b"a", b"b", b"c")
    assert said(store, 1) == (FOUND, "FOUND", 3)
    assert bodies_in(store.pull(1)) == [b"b", b"c"]


def test_no_matched_message(store: Store) -> None:
    store.put(b"a", b"b", tag="B")
    assert said(store, 0, subscription=TAGS_A) == (RETRY, "NO_MATCHED_MESSAGE", 2)


def test_fillers_of_a_repaired_queue_are_passed_over(store: Store) -> None:
    """Recovery may leave entries without a message inside a queue; a consumer gets past them."""
    store.put(b"a", b"lost", b"lost too", b"d")
    hot = np.frombuffer(store.arena.queues.hot, dtype=ENTRY)
    place = store.slot * store.arena.queues.hot_entries
    for number in (1, 2):
        hot[place + number] = (0, FILLER_SIZE, 0)
    assert bodies_in(store.pull(0)) == [b"a", b"d"]
    assert said(store, 0) == (FOUND, "FOUND", 4)
    assert bodies_in(store.pull(1)) == [b"d"]
    hot[place + 3] = (0, FILLER_SIZE, 0)
    assert said(store, 1) == (RETRY, "NO_MATCHED_MESSAGE", 4)


def test_offset_overflow(store: Store) -> None:
    store.put(b"a", b"b")
    assert said(store, 2) == (NOT_FOUND, "OFFSET_OVERFLOW_ONE", 2)
    assert said(store, 3) == (MOVED, "OFFSET_OVERFLOW_BADLY", 2)
    assert said(store, 2**62) == (MOVED, "OFFSET_OVERFLOW_BADLY", 2)


def test_offset_too_small(store: Store) -> None:
    store.put(b"a", b"b", b"c")
    store.arena.queues.min_offsets[store.slot] = 2
    assert said(store, 1) == (MOVED, "OFFSET_TOO_SMALL", 2)
    assert said(store, -1) == (MOVED, "OFFSET_TOO_SMALL", 2)
    assert said(store, 2) == (FOUND, "FOUND", 3)


def test_queue_of_which_nothing_is_kept(store: Store) -> None:
    store.put(b"a")
    store.arena.queues.min_offsets[store.slot] = 1
    assert said(store, 1) == (NOT_FOUND, "OFFSET_OVERFLOW_ONE", 1)


class RetentionAtWork(LogReader):
    """Reads when retention has just deleted the first messages."""

    def __init__(self, store: Store) -> None:
        folder = store.house.store_dir / "commitlog"
        self.files = LogFiles(folder, file_size=store.settings.mapped_file_size_commit_log)
        super().__init__(arena=store.arena, files=self.files)
        self._store = store

    def gather(
        self, offsets: NDArray[np.int64], sizes: NDArray[np.int64], out: bytearray, at: int
    ) -> int:
        """See LogReader."""
        self._store.arena.queues.min_offsets[self._store.slot] = 17
        return super().gather(offsets, sizes, out, at)


def test_message_was_removing(make_store: MakeStore) -> None:
    """Its file is deleted between the look at the queue and the reading of the log."""
    store = make_store(house={"pool_size": 320 * KiB})
    store.put(*[b"m" * 4000] * 100)
    assert store.house.word(Word.HOT_START) > 0
    (store.house.store_dir / "commitlog" / ("0" * 20)).unlink()
    with pytest.raises(StoreError, match="cannot be opened"):
        store.pull(0, count=1)
    store.pulls._log_reader = RetentionAtWork(store)
    assert said(store, 0, count=1) == (RETRY, "MESSAGE_WAS_REMOVING", 17)


# Tags


def test_tags_by_hash(store: Store) -> None:
    for tag in ("A", "", "B", "C", "A"):
        store.put(b"tag " + tag.encode(), tag=tag)
    result = store.pull(0, subscription=parse_tags("A || B"))
    assert bodies_in(result) == [b"tag A", b"tag B", b"tag A"]
    assert result.next_begin_offset == 5


def test_tags_of_one_hash_are_left_to_the_client(store: Store) -> None:
    assert hash_code("Aa") == hash_code("BB")
    store.put(b"another", tag="BB")
    assert bodies_in(store.pull(0, subscription=parse_tags("Aa"))) == [b"another"]


def test_next_offset_is_after_the_last_message_taken(store: Store) -> None:
    """What was looked at beyond it is not given away."""
    for tag in ("A", "B", "A", "A", "B"):
        store.put(b"m", tag=tag)
    result = store.pull(0, subscription=TAGS_A, count=2)
    assert (result.message_count, result.next_begin_offset) == (2, 3)
    result = store.pull(3, subscription=TAGS_A, count=1)
    assert (result.message_count, result.next_begin_offset) == (1, 5)


def test_a_pull_looks_at_so_many_entries(make_store: MakeStore) -> None:
    store = make_store(house={"hot_entries": 1024}, mapped_file_size_consume_queue=40_000)
    store.put(*[b"n"] * SCAN_MAX, tag="B")
    store.put(b"behind", tag="A")
    assert said(store, 0, subscription=TAGS_A) == (RETRY, "NO_MATCHED_MESSAGE", SCAN_MAX)
    assert bodies_in(store.pull(1, subscription=TAGS_A)) == [b"behind"]


# Limits


@pytest.mark.parametrize(
    ("count", "expected"), [(-1, 1), (0, 1), (1, 1), (4, 4), (5, 5), (6, 5), (9999, 5)]
)
def test_count_limits(make_store: MakeStore, count: int, expected: int) -> None:
    store = make_store(max_transfer_count_on_message_in_memory=5)
    store.put(*[b"m"] * 8)
    assert store.pull(0, count=count).message_count == expected


@pytest.mark.parametrize(("over", "expected"), [(-1, 2), (0, 3), (1, 3)])
def test_size_limit(make_store: MakeStore, over: int, expected: int) -> None:
    size = 91 + 1 + 100
    store = make_store(max_transfer_bytes_on_message_in_memory=3 * size + over)
    store.put(*[b"m" * 100] * 5)
    result = store.pull(0)
    assert (result.message_count, len(result.body)) == (expected, expected * size)
    assert result.next_begin_offset == expected


@pytest.mark.parametrize(
    ("asked", "expected"), [(0, 1), (SIZE_MIN, 1), (383, 1), (384, 2), (10**9, 4)]
)
def test_size_limit_of_the_client(make_store: MakeStore, asked: int, expected: int) -> None:
    store = make_store(max_transfer_bytes_on_message_in_memory=4 * 192)
    store.put(*[b"m" * 100] * 5)
    assert store.pull(0, maxMsgBytes=asked).message_count == expected


def test_a_message_above_the_limit_is_given_alone(make_store: MakeStore) -> None:
    store = make_store(max_transfer_bytes_on_message_in_memory=1000)
    store.put(b"m" * 5000, b"n")
    assert bodies_in(store.pull(0)) == [b"m" * 5000]


def test_far_behind_means_less_at_once(make_store: MakeStore) -> None:
    store = make_store(
        max_transfer_count_on_message_in_disk=2, max_transfer_bytes_on_message_in_disk=64 * KiB
    )
    store.put(*[b"m"] * 8)
    assert store.pull(0).message_count == 8
    store.set_word(Word.MEMORY_TOTAL, OUT_OF_MEMORY)
    assert store.pull(0).message_count == 2


# The 40 % rule


@pytest.mark.parametrize(("over", "expected"), [(-1, 0), (0, 0), (1, 1)])
def test_far_readers_are_sent_to_the_slave(make_store: MakeStore, over: int, expected: int) -> None:
    """Where the last message looked at lies more than 40 % of memory behind the end."""
    store = make_store(slave_read_enable=True)
    store.put(b"m" * 3908)  # a record of 4000 bytes
    store.put(*[b"m" * 3908] * 4)
    behind = 20_000
    assert store.house.word(Word.APPEND_OFFSET) == behind
    # 40 % of this much, rounded down, is `behind - over`.
    store.set_word(Word.MEMORY_TOTAL, -(-(behind - over) * 100 // 40))
    assert store.pull(0, count=1).suggested_broker_id == expected
    assert store.pull(4, count=1).suggested_broker_id == 0


def test_without_slave_reads_nobody_is_sent_away(store: Store) -> None:
    store.put(*[b"m" * 4000] * 5)
    store.set_word(Word.MEMORY_TOTAL, OUT_OF_MEMORY)
    assert store.pull(0).suggested_broker_id == 0


def test_ids_are_those_of_the_group(make_store: MakeStore) -> None:
    store = make_store(slave_read_enable=True)
    store.views.take_groups(GroupUpdate([group(broker_id=7, which_broker_when_consume_slowly=9)]))
    store.put(*[b"m" * 4000] * 5)
    assert store.pull(0).suggested_broker_id == 7
    store.set_word(Word.MEMORY_TOTAL, OUT_OF_MEMORY)
    assert store.pull(0).suggested_broker_id == 9
    del store.views.groups["G"]
    assert store.pull(0).suggested_broker_id == 0


# Who may


def refusal(store: Store, **fields: Any) -> int:
    with pytest.raises(RequestRefused) as caught:
        store.pulls.check(pull_header(**fields))
    return caught.value.code


def test_check_gives_slot_and_subscription(store: Store) -> None:
    assert store.pulls.check(pull_header(queueId=2)) == (
        store.arena.queues.slot("T", 2),
        SUBSCRIBE_ALL,
    )
    _slot, subscription = store.pulls.check(pull_header(tags="X||Y"))
    assert subscription.tags == ("X", "Y")


@pytest.mark.parametrize(("queue_id", "allowed"), [(-1, False), (0, True), (3, True), (4, False)])
def test_queue_id_limit(store: Store, queue_id: int, *, allowed: bool) -> None:
    if allowed:
        store.pulls.check(pull_header(queueId=queue_id))
    else:
        assert refusal(store, queueId=queue_id) == ResponseCode.INVALID_PARAMETER


def test_queues_that_are_only_written(store: Store) -> None:
    slots = store.views.topics["T"].slots
    store.views.take_topics(TopicUpdate([view("T", slots=slots, read_queue_nums=2)]))
    assert refusal(store, queueId=2) == ResponseCode.INVALID_PARAMETER


def test_order_of_refusals(make_store: MakeStore) -> None:
    """The first thing that is wrong is what is said."""
    store = make_store(broker_permission=2)
    assert refusal(store, group="new", topic="none") == ResponseCode.NO_PERMISSION
    store = make_store(auto_create_subscription_group=False)
    assert refusal(store, group="new") == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
    store = make_store()
    with pytest.raises(GroupUnknown):
        store.pulls.check(pull_header(group="new", topic="none"))
    store.views.take_groups(GroupUpdate([group("off", consume_enable=False)]))
    assert refusal(store, group="off", topic="none") == ResponseCode.NO_PERMISSION
    assert refusal(store, topic="none") == ResponseCode.TOPIC_NOT_EXIST
    store.views.take_topics(TopicUpdate([view("T", perm=2)]))
    assert refusal(store, queueId=99) == ResponseCode.NO_PERMISSION


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"online": False}, ResponseCode.SUBSCRIPTION_NOT_EXIST),
        (
            {"consume_broadcast_enable": False, "message_model": "BROADCASTING"},
            ResponseCode.NO_PERMISSION,
        ),
        ({"subscriptions": []}, ResponseCode.SUBSCRIPTION_NOT_EXIST),
        ({"subscriptions": [Sub("T", "TAG", "A", [65], 4)]}, ResponseCode.SUBSCRIPTION_NOT_LATEST),
        ({"subscriptions": [Sub("T", "SQL92", "a = 1", [], 5)]}, ResponseCode.SYSTEM_ERROR),
        (
            {"subscriptions": [Sub("T", "TAG", "||", [], 5)]},
            ResponseCode.SUBSCRIPTION_PARSE_FAILED,
        ),
    ],
)
def test_subscription_of_heartbeats(store: Store, change: dict[str, Any], code: int) -> None:
    asked: dict[str, Any] = {"tags": None, "subVersion": 5}
    _slot, subscription = store.pulls.check(pull_header(**asked))
    assert subscription == parse_tags("A || B")
    store.views.take_groups(GroupUpdate([group(**change)]))
    assert refusal(store, **asked) == code


def test_an_older_subscription_of_every_tag_is_served(store: Store) -> None:
    """A client may bump its version and leave out the heartbeat: it would stall for 30 s."""
    store.views.take_groups(GroupUpdate([group(subscriptions=[Sub("T", "TAG", "*", [], 4)])]))
    header = pull_header(sysFlag=0, subVersion=5)
    assert store.pulls.check(header) == (store.slot, SUBSCRIBE_ALL)


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        ("SQL92", "a = 1", ResponseCode.SYSTEM_ERROR),
        ("SQL92", "*", ResponseCode.SYSTEM_ERROR),
        ("XPATH", "A", ResponseCode.SUBSCRIPTION_PARSE_FAILED),
        ("TAG", "||", ResponseCode.SUBSCRIPTION_PARSE_FAILED),
    ],
)
def test_subscription_of_the_request(store: Store, kind: str, text: str, code: int) -> None:
    assert refusal(store, tags=text, expressionType=kind) == code


def test_parsed_subscriptions_are_kept_and_bounded(store: Store) -> None:
    for number in range(5000):
        store.pulls.check(pull_header(tags=f"t{number}"))
    assert len(store.pulls._parsed) < 4200
    first = store.pulls.check(pull_header(tags="same"))[1]
    assert store.pulls.check(pull_header(tags="same"))[1] is first


# For held pulls


@pytest.mark.parametrize(
    ("first", "subscription", "expected"),
    [
        (0, SUBSCRIBE_ALL, (True, 0)),
        (0, TAGS_A, (True, 3)),
        (2, TAGS_A, (False, 3)),
        (3, TAGS_A, (False, 3)),
        (3, SUBSCRIBE_ALL, (False, 3)),
    ],
)
def test_matches_any(
    store: Store, first: int, subscription: Subscription, expected: tuple[bool, int]
) -> None:
    for tag in ("B", "A", "B"):
        store.put(b"m", tag=tag)
    assert store.pulls.matches_any(store.slot, first, subscription) == expected


def test_whole_records_are_given(store: Store) -> None:
    store.put(b"one", b"two", tag="A")
    got = records_in(store.pull(0).body)
    assert [(one.queue_offset, one.body) for one in got] == [(0, b"one"), (1, b"two")]

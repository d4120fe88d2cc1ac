from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shmq.client.allocate import allocate
from shmq.client.model import Queue


def java(queues: list[Queue], members: list[str], me: str) -> list[Queue]:
    """AllocateMessageQueueAveragely.allocate, line by line."""
    if me not in members:
        return []
    index = members.index(me)
    mod = len(queues) % len(members)
    if len(queues) <= len(members):
        average = 1
    elif mod > 0 and index < mod:
        average = len(queues) // len(members) + 1
    else:
        average = len(queues) // len(members)
    start = index * average if mod > 0 and index < mod else index * average + mod
    count = min(average, len(queues) - start)
    return [queues[(start + number) % len(queues)] for number in range(count)]


names = st.lists(st.text("ab@#1", min_size=1, max_size=4), min_size=1, max_size=9, unique=True)


@given(st.integers(0, 20), st.integers(1, 3), names)
def test_as_java(queue_count: int, broker_count: int, members: list[str]) -> None:
    queues = [
        Queue("T", f"b{broker}", number)
        for broker in range(broker_count)
        for number in range(queue_count)
    ]
    held: list[Queue] = []
    for me in members:
        mine = allocate(list(reversed(queues)), list(reversed(members)), me)
        assert mine == java(sorted(queues), sorted(members), me)
        held += mine
    assert sorted(held) == sorted(queues)


def test_who_is_not_a_member_gets_nothing() -> None:
    queues = [Queue("T", "b", 0)]
    assert allocate(queues, ["a"], "b") == []
    assert allocate(queues, [], "b") == []
    assert allocate([], ["b"], "b") == []


def test_queues_are_sorted_by_number_not_by_text() -> None:
    queues = [Queue("T", "b", number) for number in (10, 9, 2, 1)]
    assert [queue.queue_id for queue in allocate(queues, ["x", "y"], "x")] == [1, 2]

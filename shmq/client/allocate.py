"""How the members of a group divide the queues of a topic: blocks, the first members one more.

Every member comes to the same result by itself, so this must be what Java and Go do.

Source: Apache RocketMQ client/consumer/rebalance/AllocateMessageQueueAveragely.
"""

from __future__ import annotations

from collections.abc import Sequence

from shmq.client.model import Queue


def allocate(queues: Sequence[Queue], members: Sequence[str], me: str) -> list[Queue]:
    """The queues that `me` reads; none if `me` is not among the members."""
    ordered = sorted(queues)
    ids = sorted(set(members), key=lambda name: name.encode("utf-16-be"))  # as Java compares
    if me not in ids:
        return []
    index, count = ids.index(me), len(ids)
    size, more = divmod(len(ordered), count)
    if index < more:
        begin = index * (size + 1)
        return ordered[begin : begin + size + 1]
    begin = index * size + more
    return ordered[begin : begin + size]

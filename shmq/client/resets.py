"""Resetting a group's offsets, by time or to an end of the queues; what `shmq reset-offset` does.

First a plan, which changes nothing; then each queue of it is set by a request of its own (222) to
the offset that the plan has. The broker takes care of running consumers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from shmq.client import admin
from shmq.client.flow import together
from shmq.client.model import Queue, When
from shmq.client.route import check
from shmq.errors import ConfigError
from shmq.wire.codes import RequestCode, ResponseCode

if TYPE_CHECKING:
    from shmq.client.core import Core

CALL_TIMEOUT: Final = 10.0
Target: TypeAlias = When | Literal["earliest", "latest"]


class QueueReset(NamedTuple):
    """What a reset does, or would do, to a group's offset of one queue."""

    queue: Queue
    first: int
    """Offset of the first message that the queue still has."""
    end: int
    """Offset that its next message will have."""
    before: int | None
    """The committed offset, None if there was none."""
    found: int
    """The offset that the target is at."""
    after: int
    """The committed offset from then on: `found`, or `before` where that would skip messages."""

    @property
    def is_left(self) -> bool:
        """Whether the queue stays as it is, because messages would be skipped."""
        return self.after != self.found


async def plan(
    core: Core, *, group: str, topic: str, target: Target, queue_id: int | None, force: bool
) -> list[QueueReset]:
    """What a reset would do to each queue; without `force` none moves forward.

    Raises:
        TopicNotFound: there is no such topic.
        ConfigError: it has no such queue.
        ClientError: a broker could not be asked.
    """
    queues = await admin.queues_of(core, topic)
    chosen = [queue for queue in queues if queue_id in (None, queue.queue_id)]
    if not chosen:
        raise ConfigError("no such queue", topic=topic, found=queue_id, queues=len(queues))
    outcomes = await together([_plan_one(core, group, queue, target, force) for queue in chosen])
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, QueueReset)]


async def _plan_one(
    core: Core,
    group: str,
    queue: Queue,
    target: Target,
    force: bool,  # noqa: FBT001  the caller names it
) -> QueueReset:
    first, end = await admin.offsets(core, queue)
    before = await admin.committed_offset(core, group, queue)
    if target == "earliest":
        found = first
    elif target == "latest":
        found = end
    else:
        found = await admin.search_offset(core, queue, target)
    after = found if force or before is None else min(found, before)
    return QueueReset(queue, first, end, before, found, after)


async def carry_out(core: Core, *, group: str, resets: list[QueueReset]) -> None:
    """Set the queues that are not left.

    Raises:
        ClientError: a broker would not, or could not be asked; other queues may have been set.
    """
    works = [_set_one(core, group, one) for one in resets if not one.is_left]
    for outcome in await together(works):
        if isinstance(outcome, Exception):
            raise outcome


async def _set_one(core: Core, group: str, one: QueueReset) -> None:
    queue = one.queue
    route = await core.routes.for_reading(queue.topic)
    frame = await core.pool.get(route.reader(queue.broker, 0)).ask(
        RequestCode.INVOKE_BROKER_TO_RESET_OFFSET,
        {
            "group": group,
            "topic": queue.topic,
            "queueId": str(queue.queue_id),
            "offset": str(one.after),
            "timestamp": "0",
            "isForce": "true",
        },
        timeout=CALL_TIMEOUT,
    )
    if frame.header.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST:
        check(frame, "no such group; was its name misspelt?", group=group, broker=queue.broker)
    check(frame, "offset not reset", queue=queue, group=group, offset=one.after)

"""Bodies and messages of an application become parcels: one message each, or batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast

from shmq.client import bodyrun
from shmq.client.bodyrun import bodies_of
from shmq.client.model import Body, Message, Queue
from shmq.client.prepare import Prepared, Preparer, pair
from shmq.client.publish import Parcel
from shmq.units import MiB
from shmq.wire.properties import TAGS

BATCH_COUNT_MAX: Final = 256
BATCH_SIZE_MAX: Final = 1 * MiB
"""Of the bodies of a batch; a body that is larger travels alone."""
RETRY_PREFIX: Final = "%RETRY%"

Bodies: TypeAlias = Iterable[Body | Message] | tuple[Body, Sequence[int], Sequence[int]] | Any
"""Bodies or messages; or one buffer with offsets and sizes; or a 2-D array of uint8, a row each."""


class Defaults(NamedTuple):
    """What holds for bodies, and for messages that do not say otherwise."""

    topic: str
    group: str
    tags: str | None
    queue: Queue | int | None
    key: str | None
    timeout: float
    patience: float


class _Place(NamedTuple):
    """Messages of one place may be in one batch."""

    topic: str
    queue: Queue | int | None
    key: str | None
    alone: bool


def parcels(
    bodies: Bodies, defaults: Defaults, preparer: Preparer, *, count_max: int = BATCH_COUNT_MAX
) -> Iterator[Parcel]:
    """Parcels with all the bodies in their order, made as they are asked for.

    Raises:
        InvalidMessage: one of them cannot be sent.
    """
    arrays = bodies_of(bodies, size_max=preparer.body_size_max)
    if arrays is None:
        return _one_by_one(cast("Iterable[Body | Message]", bodies), defaults, preparer, count_max)
    if defaults.tags:
        pair(TAGS, defaults.tags)  # Refused before anything is sent.
    return _of_arrays(arrays, defaults, preparer, count_max)


def _of_arrays(
    arrays: bodyrun.Bodies, defaults: Defaults, preparer: Preparer, count_max: int
) -> Iterator[Parcel]:
    place = _place_of(None, defaults)
    for first, end in arrays.pieces(count_max=count_max, size_max=BATCH_SIZE_MAX):
        yield _parcel(place, preparer.run(arrays, first, end, defaults.tags), defaults)


def _one_by_one(
    bodies: Iterable[Body | Message], defaults: Defaults, preparer: Preparer, count_max: int
) -> Iterator[Parcel]:
    place: _Place | None = None
    waiting: list[Prepared] = []
    size = 0
    for one in bodies:
        message = one if isinstance(one, Message) else None
        here = _place_of(message, defaults)
        if message is None:
            prepared = preparer.body(one, defaults.tags, compress=False)  # type: ignore[arg-type]
        else:
            prepared = preparer.message(message, compress=False)
        body_size = len(prepared.body)
        full = len(waiting) >= count_max or size + body_size > BATCH_SIZE_MAX
        if waiting and (full or here.alone or here != place):
            assert place is not None
            yield _parcel(place, waiting, defaults)
            waiting, size = [], 0
        place = here
        waiting.append(prepared)
        size += body_size
    if waiting:
        assert place is not None
        yield _parcel(place, waiting, defaults)


def _place_of(message: Message | None, defaults: Defaults) -> _Place:
    if message is None:
        return _Place(defaults.topic, defaults.queue, defaults.key, alone=False)
    topic = message.topic or defaults.topic
    alone = bool(
        message.delay_level or message.deliver_at is not None or topic.startswith(RETRY_PREFIX)
    )
    queue = defaults.queue if message.queue is None else message.queue
    return _Place(topic, queue, defaults.key if message.key is None else message.key, alone)


def _parcel(place: _Place, messages: Sequence[Prepared], defaults: Defaults) -> Parcel:
    return Parcel(
        place.topic,
        messages,
        group=defaults.group,
        queue=place.queue,
        key=place.key,
        is_batch=len(messages) > 1,
        timeout=defaults.timeout,
        patience=defaults.patience,
    )

"""Bodies and messages of an application become parcels: one message each, or batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast

from shmq.client.model import Body, Message, Queue
from shmq.client.prepare import Prepared, Preparer
from shmq.client.publish import Parcel
from shmq.errors import InvalidMessage
from shmq.units import MiB

BATCH_COUNT_MAX: Final = 256
BATCH_SIZE_MAX: Final = 1 * MiB
"""Of the bodies of a batch; a body that is larger travels alone."""
RETRY_PREFIX: Final = "%RETRY%"
PARTS: Final = 3
"""Of bodies as a buffer, offsets and sizes."""

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


def split_bodies(bodies: Bodies) -> Iterable[Body | Message]:
    """Bodies one by one, whatever they were given as; arrays are not copied if they lie densely."""
    if isinstance(bodies, tuple) and len(bodies) == PARTS and not _is_body(bodies[1]):
        buffer, offsets, sizes = cast("tuple[Body, Sequence[int], Sequence[int]]", bodies)
        return _cut(memoryview(buffer).cast("B"), offsets, sizes)
    if getattr(bodies, "ndim", None) == 2:  # noqa: PLR2004  rows and columns
        view = memoryview(cast("Body", bodies))
        if view.itemsize != 1:
            raise InvalidMessage("array of bodies", item_size=view.itemsize, allowed=1)
        rows, width = view.shape or (0, 0)
        if rows * width == 0:
            return [b""] * rows
        if not view.c_contiguous:
            view = memoryview(view.tobytes())
        flat = view.cast("B")
        return [flat[row * width : (row + 1) * width] for row in range(rows)]
    if isinstance(bodies, str) or _is_body(bodies):
        raise InvalidMessage("one body where several are due", found=type(bodies).__name__)
    return cast("Iterable[Body | Message]", bodies)


def _is_body(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview, Message))


def _cut(buffer: memoryview, offsets: Sequence[int], sizes: Sequence[int]) -> Iterator[memoryview]:
    if len(offsets) != len(sizes):
        raise InvalidMessage("offsets and sizes", offsets=len(offsets), sizes=len(sizes))
    for index in range(len(offsets)):
        begin, size = int(offsets[index]), int(sizes[index])
        if begin < 0 or size < 0 or begin + size > len(buffer):
            raise InvalidMessage(
                "body outside of its buffer",
                number=index,
                offset=begin,
                size=size,
                buffer_size=len(buffer),
            )
        yield buffer[begin : begin + size]


def parcels(
    bodies: Bodies, defaults: Defaults, preparer: Preparer, *, count_max: int = BATCH_COUNT_MAX
) -> Iterator[Parcel]:
    """Parcels with all the bodies in their order, made as they are asked for."""
    place: _Place | None = None
    waiting: list[Prepared] = []
    size = 0
    for one in split_bodies(bodies):
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


def _parcel(place: _Place, messages: list[Prepared], defaults: Defaults) -> Parcel:
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

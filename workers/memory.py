"""The broker's shared memory over its life: rescued, made, opened, removed.

    when                     what                                                  where
    -----------------------  ----------------------------------------------------  ----------
    segments are found       bytes that the files lack are written to them, then   a child
    at the start             all names of the instance are removed
    then                     segments and bells are made anew                      supervisor
    then                     the store is opened and the words are published       a child
    at the end, flush has    all names are removed                                 supervisor
    drained
    at the end, it has not   `control` and `pool` stay, with messages that were    supervisor
                             confirmed and are in no file: the next start rescues

Nobody else uses segments of this instance: its store is locked, and the lock lasts until the last
role of the last broker is dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psutil

from shmq import log as shmq_log
from shmq.errors import StoreError
from shmq.shm import segment
from shmq.shm.arena import Arena, ArenaSizes
from shmq.units import GiB, MiB

if TYPE_CHECKING:
    from shmq.config import Settings
    from shmq.workers.bootstep import Progress
    from shmq.workers.context import Context

WITH_DATA: Final = ("control", "pool")
POOL_SHARE_OF_MEMORY: Final = 32
POOL_SHARE_OF_ROOM: Final = 4
POOL_SIZE_MIN: Final = 64 * MiB
POOL_SIZE_MAX: Final = GiB


class BrokerMemory:
    """The shared memory of one broker, as the supervisor deals with it."""

    def has_remnants(self, context: Context) -> bool:
        """Whether a broker of this instance left segments behind."""
        return bool(segment.names_of(context.instance))

    def rescue(self, context: Context, progress: Progress) -> None:
        """Write what only the segments of a dead broker hold to the files, then remove them."""
        from shmq.workers.boot import rescue  # noqa: PLC0415  numpy and the store, in a child

        progress("rescuing hot pages of a broker that was killed", 0, 1)
        try:
            rescue(
                context.settings,
                context.instance,
                store_dir=context.store_dir,
                disk=context.disk,
            )
        except OSError as error:
            raise StoreError(
                "hot pages of a broker that was killed cannot be written to the commitlog",
                cause=error.strerror,
                hint="make room on the disk and start again; the pages stay in /dev/shm",
            ) from error

    def make(self, context: Context) -> Arena:
        """Make the segments and bells."""
        arena = Arena.create(context.instance, sizes(context.settings, context.serve_count))
        arena.open_native_door()
        return arena

    def boot(self, context: Context, progress: Progress) -> None:
        """Open the store: recover it and publish where it stands."""
        from shmq.workers.boot import open_store  # noqa: PLC0415  as in rescue()

        open_store(
            context.settings,
            context.arena,
            store_dir=context.store_dir,
            clean=context.last_exit_clean,
            progress=progress,
            disk=context.disk,
        )

    def remove(self, context: Context, *, data_kept: bool) -> None:
        """Remove the names of the segments, but not those with bytes that are in no file."""
        keep = set()
        if not data_kept:
            keep = {segment.segment_name(context.instance, what) for what in WITH_DATA}
            shmq_log.get_logger().warning(
                "hot_pages.kept",
                segments=sorted(keep),
                hint="they hold messages that are in no file; the next start rescues them",
            )
        for name in segment.names_of(context.instance):
            if name not in keep:
                segment.unlink(name)


def sizes(settings: Settings, serve_count: int) -> ArenaSizes:
    """Sizes of the segments; the pool's by the machine's memory unless it is set."""
    page_size = settings.hot_page_size
    pool_size = settings.hot_pool_size or pool_size_for(
        memory=psutil.virtual_memory().total, room=segment.room()
    )
    return ArenaSizes(
        serve_count=serve_count,
        pool_size=max(pool_size // page_size, 2) * page_size,
        queues_max=settings.queues_max,
        hot_entries=settings.consume_queue_hot_entries,
        ring_entries=settings.submission_ring_entries,
        ring_data_size=settings.submission_ring_size,
    )


def pool_size_for(*, memory: int, room: int) -> int:
    """Pool size that fits a machine with `memory` bytes and `room` bytes free in /dev/shm."""
    share = min(max(memory // POOL_SHARE_OF_MEMORY, POOL_SIZE_MIN), POOL_SIZE_MAX)
    return min(share, max(room // POOL_SHARE_OF_ROOM, 1))

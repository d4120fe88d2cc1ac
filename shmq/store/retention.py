"""Which commitlog files may go, when and why: decisions alone, nothing is read or deleted here.

The log loses whole files, the oldest first, and only a prefix: a file that stays keeps all after
it. These are asked of each file, in this order:

    question                                                            answer
    ------------------------------------------------------------------  ---------------------------
    does it lie before the log's start? (its deletion has begun)        goes
    is it the newest?                                                   stays
    has a role yet to sync it, or to file its entries?                  stays
    is the disk above diskSpaceCleanForciblyRatio? (forced, not by age) goes, until it is not
    does the store take more than storeQuotaBytes?                      goes, until it does not
    is it older than fileReservedTime, and the hour one of deleteWhen,
    or the disk above diskMaxUsedSpaceRatio, or an operator asked?      goes
    else                                                                stays, with the time it goes

The broker acts by decide(), and `shmq retention explain` shows what it says.

Source: RocketMQ store/DefaultMessageStore.CleanCommitLogService; the quota is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shmq.errors import StoreError
from shmq.layout.cqentry import FILLER_SIZE
from shmq.units import HOUR_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import tzinfo

    from numpy.typing import NDArray

    from shmq.config import Settings

HOURS_OF_A_DAY: Final = 24
PERCENT: Final = 100
NEVER_PERCENT: Final = 1000.0
SCAN_COUNT: Final = 4096
"""Entries that are looked at together where a queue has holes."""


class StoreFile(NamedTuple):
    """One file of the commitlog."""

    start: int
    """Physical offset of its first byte."""
    end: int
    """Physical offset after its last."""
    disk_size: int
    """Bytes that it takes on the disk; a sparse file takes fewer than it is long."""
    modified_ms: int
    """Its last change, ms since the epoch."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the settings say."""

    reserved_ms: int
    hours: frozenset[int]
    """Hours of the day, local time, at which old files go."""
    used_max_percent: float
    """Old files go at any hour when the disk is so full."""
    forced_percent: float
    """Files go whatever their age when the disk is so full."""
    quota_size: int
    """Bytes that the store may take; 0: no limit."""
    batch_max: int
    """Files of one round."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found on the disk and in the shared words."""

    now_ms: int
    files: Sequence[StoreFile]
    """The oldest first."""
    log_start: int
    needed_from: int
    """Physical offset: files that end after it are needed by `needed_by`."""
    needed_by: str
    used_percent: float
    """Used part of the disk, of all that this user may use."""
    usable_size: int
    """Bytes that this user may use, used ones too."""
    store_size: int
    """Bytes that commitlog and consumequeues take on the disk."""
    coming_size: int = 0
    """Bytes of deleted files that readers have open still: they will be free."""
    asked: bool = False
    """Whether an operator asked for the deletion of old files at once."""


class Cause(StrEnum):
    """Why a file goes or stays."""

    BEGUN = "begun"
    EXPIRED = "expired"
    DISK = "disk"
    QUOTA = "quota"
    BATCH = "batch"
    NEWEST = "newest"
    NEEDED = "needed"
    YOUNG = "young"
    HOUR = "hour"
    ORDER = "order"


GOING: Final = frozenset({Cause.BEGUN, Cause.EXPIRED, Cause.DISK, Cause.QUOTA})
UNKNOWN: Final = frozenset({Cause.NEWEST, Cause.NEEDED})
"""Nobody can say when they go."""
FORCED: Final = frozenset({Cause.DISK, Cause.QUOTA})
"""Messages go that are not old: perhaps nobody has read them."""


class Fate(NamedTuple):
    """What becomes of one file."""

    file: StoreFile
    cause: Cause
    due_ms: int | None
    """When it goes by age, as things stand, ms since the epoch; None: nobody can say yet."""

    @property
    def goes(self) -> bool:
        """Whether it goes now."""
        return self.cause in GOING


def rules_of(settings: Settings) -> Rules:
    """The rules that the settings make."""
    forced = float(settings.disk_space_clean_forcibly_ratio)
    return Rules(
        reserved_ms=settings.file_reserved_time * HOUR_MS,
        hours=frozenset(int(hour) for hour in settings.delete_when.split(";")),
        used_max_percent=float(settings.disk_max_used_space_ratio),
        forced_percent=forced if settings.clean_file_forcibly_enable else NEVER_PERCENT,
        quota_size=settings.store_quota_bytes,
        batch_max=settings.delete_file_batch_max,
    )


def decide(rules: Rules, look: Look, *, zone: tzinfo | None = None) -> list[Fate]:
    """What becomes of each file, in the order of `look.files`; `zone` None: the local one."""
    fates: list[Fate] = []
    over_disk = _excess_of_disk(rules, look)
    over_quota = look.store_size - rules.quota_size if rules.quota_size else 0
    age_counts = (
        look.asked
        or look.used_percent >= rules.used_max_percent
        or _hour(look.now_ms, zone) in rules.hours
    )
    freed = going_count = 0
    due_ms = look.now_ms
    for number, file in enumerate(look.files):
        expires_ms = file.modified_ms + rules.reserved_ms
        if file.end <= look.log_start:
            cause = Cause.BEGUN
        elif number == len(look.files) - 1:
            cause = Cause.NEWEST
        elif file.end > look.needed_from:
            cause = Cause.NEEDED
        elif fates and not fates[-1].goes:
            cause = Cause.ORDER
        elif freed < max(over_disk, over_quota):
            cause = Cause.DISK if freed < over_disk else Cause.QUOTA
        elif expires_ms > look.now_ms:
            cause = Cause.YOUNG
        else:
            cause = Cause.EXPIRED if age_counts else Cause.HOUR
        if cause in GOING and cause is not Cause.BEGUN:
            going_count += 1
            if going_count > rules.batch_max:
                cause = Cause.BATCH
        if cause in GOING:
            freed += file.disk_size
        elif cause is not Cause.BATCH:
            due_ms = max(due_ms, _next_right_hour(max(expires_ms, due_ms), rules.hours, zone))
        fates.append(Fate(file, cause, None if cause in UNKNOWN else due_ms))
    return fates


def _excess_of_disk(rules: Rules, look: Look) -> int:
    """Bytes to free until the disk is not forcibly cleaned any more; at least 1 if it is now."""
    if look.used_percent < rules.forced_percent:
        return 0
    excess = (look.used_percent - rules.forced_percent) / PERCENT * look.usable_size
    return max(0, int(excess) + 1 - look.coming_size)


def _hour(at_ms: int, zone: tzinfo | None) -> int:
    return datetime.fromtimestamp(at_ms / 1000, zone).hour


def _next_right_hour(at_ms: int, hours: frozenset[int], zone: tzinfo | None) -> int:
    """The first time from `at_ms` on whose hour is one of `hours`, ms since the epoch."""
    at = datetime.fromtimestamp(at_ms / 1000, zone)
    if at.hour in hours:
        return at_ms
    at = at.replace(minute=0, second=0, microsecond=0)
    for _ in range(HOURS_OF_A_DAY):
        at += timedelta(hours=1)
        if at.hour in hours:
            break
    return int(at.timestamp() * 1000)


def first_kept(
    entries: Callable[[int, int], NDArray[np.void]], *, low: int, high: int, log_start: int
) -> int:
    """Queue offset of the first entry in [low, high) whose record is kept; `high` without one.

    `entries(first, count)` gives entries (layout.cqentry.ENTRY), at least one, at most `count`.
    Places of records grow within a queue, so they are searched by halves; where an entry names no
    record (a filler, a hole that a power cut left) all are looked at.

    Raises:
        StoreError: an entry is not there.
    """
    if low >= high:
        return high
    place = _place(entries(high - 1, 1))
    if place is not None and place < log_start:
        return high
    first, end = low, high
    while first < end:
        middle = (first + end) // 2
        place = _place(entries(middle, 1))
        if place is None:
            return _first_by_looking(entries, low=first, high=high, log_start=log_start)
        if place < log_start:
            first = middle + 1
        else:
            end = middle
    return first


def _first_by_looking(
    entries: Callable[[int, int], NDArray[np.void]], *, low: int, high: int, log_start: int
) -> int:
    at = low
    while at < high:
        piece = entries(at, min(SCAN_COUNT, high - at))
        if not len(piece):
            raise StoreError("entry is not there", queue_offset=at)
        sound = (piece["size"] > 0) & (piece["size"] != FILLER_SIZE)
        hits = np.flatnonzero(sound & (piece["physical_offset"] >= log_start))
        if len(hits):
            return at + int(hits[0])
        at += len(piece)
    return high


def _place(piece: NDArray[np.void]) -> int | None:
    """Place of the record that the first entry names; None when it names none."""
    if not len(piece):
        raise StoreError("entry is not there")
    size = int(piece[0]["size"])
    if size <= 0 or size == FILLER_SIZE:
        return None
    return int(piece[0]["physical_offset"])

"""What `shmq retention explain` shows: which commitlog files go, when and why.

Says what the broker's own retention would do now, by the same function (store.retention.decide),
from the same words if the broker runs, else as a broker that starts now would.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from shmq.errors import StoreError, Unavailable
from shmq.layout.control import Word
from shmq.shm.arena import Arena
from shmq.store.commitlog import file_name
from shmq.store.removal import find_queue_files
from shmq.store.retention import Cause, Fate, Look, Rules, decide, rules_of
from shmq.units import HOUR_MS
from shmq.workers.base import epoch_ms
from shmq.workers.context import run_dir_of, store_dir_of
from shmq.workers.rescue import commitlog_dir
from shmq.workers.retention import look_at, needed_from
from shmq.workers.statefile import read_state
from shmq.workers.status import size, table

if TYPE_CHECKING:
    from pathlib import Path

    from shmq.config import Settings

NEEDED_BY_NOBODY: Final = (2**63 - 1, "nobody")


def collect(settings: Settings) -> dict[str, Any]:
    """All that retention knows and would do. Sizes are in bytes, times in ms since the epoch.

    Raises:
        StoreError: there is no store, or its disk cannot be looked at.
        LayoutError: a broker of another version runs there.
    """
    store_dir = store_dir_of(settings)
    folders = (commitlog_dir(settings, store_dir), store_dir / "consumequeue")
    if not folders[0].is_dir():
        raise StoreError("no store here", folder=folders[0], hint="see --store and -c")
    arena = _arena(settings)
    rules = rules_of(settings)
    look = look_at(
        settings,
        folders=folders,
        needed=NEEDED_BY_NOBODY if arena is None else needed_from(arena),
        log_start=0 if arena is None else arena.reader(Word.LOG_START).load(),
        now_ms=epoch_ms() + settings.clock_offset_millis,
    )
    return report(rules, look, store_dir=store_dir, running=arena is not None)


def _arena(settings: Settings) -> Arena | None:
    """Shared memory of the broker that runs on the store; None without one."""
    try:
        state = read_state(run_dir_of(settings))
    except (Unavailable, FileNotFoundError):
        return None
    return Arena.attach(state["instance"]) if state["kind"] == "broker" else None


def report(rules: Rules, look: Look, *, store_dir: Path, running: bool) -> dict[str, Any]:
    """The same from what was found."""
    fates = decide(rules, look)
    queues = [size for _, _, _, size in find_queue_files(store_dir / "consumequeue")]
    return {
        "store": str(store_dir),
        "running": running,
        "timestamp": look.now_ms,
        "disk": {"usedPercent": look.used_percent, "usableSize": look.usable_size},
        "rules": {
            "reservedHours": rules.reserved_ms // HOUR_MS,
            "hours": sorted(rules.hours),
            "usedMaxPercent": rules.used_max_percent,
            "forcedPercent": rules.forced_percent,
            "quotaSize": rules.quota_size,
            "batchMax": rules.batch_max,
        },
        "logStart": look.log_start,
        "consumequeues": {"queues": len(queues), "diskSize": sum(queues)},
        "files": [
            {
                "file": file_name(fate.file.start),
                "start": fate.file.start,
                "diskSize": fate.file.disk_size,
                "modifiedTimestamp": fate.file.modified_ms,
                "goes": fate.goes,
                "cause": str(fate.cause),
                "dueTimestamp": fate.due_ms,
                "why": sentence(fate, rules, look),
            }
            for fate in fates
        ],
    }


def sentence(fate: Fate, rules: Rules, look: Look) -> str:
    """Why a file goes or stays, for a person."""
    hours = ";".join(f"{hour:02d}" for hour in sorted(rules.hours))
    reserved = f"{rules.reserved_ms // HOUR_MS} h (fileReservedTime)"
    full = f"the disk is {look.used_percent:.1f} % full"
    if fate.cause is Cause.EXPIRED:
        above = look.used_percent >= rules.used_max_percent
        now = f"{full} (diskMaxUsedSpaceRatio {rules.used_max_percent:.0f})"
        return f"older than {reserved}, and " + (now if above else f"it is {hours} h (deleteWhen)")
    return {
        Cause.BEGUN: "lies before the log's start: its deletion has begun",
        Cause.DISK: f"{full}, {rules.forced_percent:.0f} is allowed (diskSpaceCleanForciblyRatio)",
        Cause.QUOTA: f"the store takes {size(look.store_size)}, {size(rules.quota_size)} is "
        "allowed (storeQuotaBytes)",
        Cause.BATCH: f"with the next round: {rules.batch_max} at a time (deleteFileBatchMax)",
        Cause.NEWEST: "the newest file, in which messages are stored",
        Cause.NEEDED: f"{look.needed_by} needs it: not all of it is on the disk and filed",
        Cause.YOUNG: f"not older than {reserved}",
        Cause.HOUR: f"older than {reserved}, but it is not {hours} h yet (deleteWhen)",
        Cause.ORDER: "a file before it stays",
    }[fate.cause]


def as_text(found: dict[str, Any]) -> str:
    """The same for a person; times are local."""
    files = found["files"]
    going = [file for file in files if file["goes"]]
    disk, rules = found["disk"], found["rules"]
    quota = size(rules["quotaSize"]) if rules["quotaSize"] else "none"
    commitlog_size = size(sum(file["diskSize"] for file in files))
    queue_count, queue_size = found["consumequeues"]["queues"], found["consumequeues"]["diskSize"]
    going_size = size(sum(file["diskSize"] for file in going))
    head = [
        f"store {found['store']}, {'a broker runs' if found['running'] else 'no broker runs'}",
        f"commitlog {len(files)} files, {commitlog_size}",
        f"consumequeues {queue_count}, {size(queue_size)}",
        f"disk {disk['usedPercent']:.1f} % used",
        f"kept for {rules['reservedHours']} h; quota {quota}",
        f"{len(going)} of {len(files)} files go now, {going_size}",
    ]
    rows = [("file", "on disk", "last change", "goes", "why")]
    rows += [
        (
            file["file"],
            size(file["diskSize"]),
            _moment(file["modifiedTimestamp"]),
            "now" if file["goes"] else _due(file["dueTimestamp"], found["timestamp"]),
            file["why"],
        )
        for file in files
    ]
    return "\n".join(head) + "\n\n" + table(rows, left=(0, 2, 3, 4))


def _due(due_ms: int | None, now_ms: int) -> str:
    if due_ms is None:
        return "not yet"
    return "soon" if due_ms <= now_ms else _moment(due_ms)


def _moment(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms // 1000).astimezone().strftime("%Y-%m-%d %H:%M")

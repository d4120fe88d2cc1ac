"""What `shmq status` shows: who runs on a store, where it listens, and how far its data has come.

Reads the state file, the shared memory (attached read-only) and /proc. Asks no process anything,
so it answers also while the broker is stuck. Numbers are taken one after the other while the broker
works, the smaller offset first: a backlog may be shown too large by what came meanwhile, never too
small.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shmq.config import key_of
from shmq.errors import Unavailable
from shmq.layout.control import BLOCKED_TEXT, HOLDING_LINE, LINE_SIZE, Word
from shmq.shm.arena import Arena
from shmq.shm.counters import totals
from shmq.shm.segment import SHM_FOLDER
from shmq.shm.words import Cell
from shmq.units import HOUR_MS, MINUTE_MS, SECOND_MS, KiB
from shmq.workers.base import epoch_ms, monotonic_ms
from shmq.workers.context import namesrv_run_dir_of, run_dir_of, store_dir_of
from shmq.workers.statefile import read_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shmq.config import Settings

# The smaller offset first; see above.
OFFSETS: Final = {
    "logStart": Word.LOG_START,
    "hotStart": Word.HOT_START,
    "acked": Word.ACKED_OFFSET,
    "confirm": Word.CONFIRM_OFFSET,
    "indexed": Word.INDEX_OFFSET,
    "reput": Word.REPUT_OFFSET,
    "flushed": Word.FLUSHED_OFFSET,
    "written": Word.WRITTEN_OFFSET,
    "append": Word.APPEND_OFFSET,
}
OFFSET_TEXT: Final = {
    "append": "whole records",
    "written": "in the commitlog files",
    "flushed": "on the disk",
    "reput": "in the consumequeues",
    "indexed": "in the index files, if they have keys",
    "hotStart": "no longer in the hot pages",
    "logStart": "deleted",
}
SLAVE_TEXT: Final = {"acked": "on the slave", "confirm": "free to be dispatched"}
GAUGES_TEXT: Final = {"connections": "connections now", "pullsHeld": "pullsHeld now"}
UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
DAY_MS: Final = 24 * HOUR_MS


def collect(settings: Settings) -> dict[str, Any]:
    """Everything that can be seen of the broker, or else the name server, on the store.

    Sizes are in bytes, offsets are physical offsets, times in ms since the epoch.

    Raises:
        Unavailable: none runs there, or it is just starting or ending.
        LayoutError: one of another version runs there.
    """
    run_dir, state = _read_state(settings)
    now_ms = epoch_ms()
    supervisor = {"role": "supervisor", "pid": state["pid"], "state": "ready", "restarts": 0}
    found = {
        **state,
        "runDir": str(run_dir),
        "upMillis": max(0, now_ms - state["startTimestamp"]),
        "roles": [{**role, **_memory_of(role["pid"])} for role in (supervisor, *state["roles"])],
    }
    if state["kind"] == "broker":
        arena = Arena.attach(state["instance"])
        found |= _collect_shared(arena, now_ms)
        found["atRisk"] = _at_risk(arena, state["flush"], found["bytes"]["atRisk"])
    return found


def _read_state(settings: Settings) -> tuple[Path, dict[str, Any]]:
    """Run directory and state of the broker, or else of the name server."""
    for run_dir in (run_dir_of(settings), namesrv_run_dir_of(settings)):
        try:
            return run_dir, read_state(run_dir)
        except Unavailable:
            continue
        except FileNotFoundError:
            raise Unavailable(
                "a broker is just starting or ending here; try again", run_dir=run_dir
            ) from None
    raise Unavailable(
        "neither a broker nor a name server runs here",
        store=store_dir_of(settings),
        run_dir=run_dir_of(settings),
    )


def _collect_shared(arena: Arena, now_ms: int) -> dict[str, Any]:
    """What the shared memory of a broker says."""
    offsets = {name: arena.reader(word).load() for name, word in OFFSETS.items()}
    append = offsets["append"]
    blocked_since = arena.reader(Word.BLOCKED_SINCE).load()
    blocked_on = arena.reader(Word.BLOCKED_ON).load()
    flush_error = arena.reader(Word.FLUSH_ERROR).load()
    no_room_since = arena.reader(Word.NO_ROOM_SINCE).load()
    holding = [
        Cell(arena.control, (HOLDING_LINE + serve) * LINE_SIZE).load()
        for serve in range(arena.serve_count)
    ]
    queues = arena.queues
    return {
        "storeOpen": bool(arena.reader(Word.STORE_STATE).load()),
        "offsets": offsets,
        "bytes": {
            "kept": append - offsets["logStart"],
            "atRisk": append - offsets["flushed"],
            "unwritten": append - offsets["written"],
            "undispatched": append - offsets["reput"],
            "hot": append - offsets["hotStart"],
            "hotMax": arena.pool_size,
        },
        "flushedTimestamp": arena.reader(Word.FLUSHED_TIMESTAMP).load(),
        "syncs": arena.reader(Word.SYNC_COUNT).load(),
        "filedTimestamp": arena.reader(Word.FILED_TIMESTAMP).load(),
        "blocked": {
            "on": BLOCKED_TEXT.get(blocked_on, f"reason {blocked_on}"),
            "sinceTimestamp": blocked_since,
            "forMillis": max(0, now_ms - blocked_since),
        }
        if blocked_since
        else None,
        "flushError": {"errno": flush_error, "text": os.strerror(flush_error)}
        if flush_error
        else None,
        "noRoom": {
            "sinceTimestamp": no_room_since,
            "forMillis": max(0, now_ms - no_room_since),
        }
        if no_room_since
        else None,
        "memory": {
            "total": arena.reader(Word.MEMORY_TOTAL).load(),
            "available": arena.reader(Word.MEMORY_AVAILABLE).load(),
        },
        "disk": {"usedPercent": arena.reader(Word.DISK_USED).load() / 100},
        "queues": {
            "topics": len(queues.topics()),
            "count": len(queues),
            "countMax": queues.slots_max,
            "entries": sum(queues.max_offsets[slot] for slot in range(len(queues))),
        },
        "pulls": {"holding": sum(holding), "byServe": holding},
        "counters": {
            key_of(counter.name.lower()): value for counter, value in totals(arena.counters).items()
        },
        "rings": [_ring(arena, index) for index in range(arena.serve_count)],
        "segments": [
            {"name": one.name, "size": one.size, "touched": _touched(one.name)}
            for one in arena.segments.values()
        ],
    }


def _at_risk(arena: Arena, flush: dict[str, Any], size_now: int) -> dict[str, Any]:
    """What a power cut would take now of what is stored, and may take at most of it.

    With SYNC_FLUSH nothing of it is confirmed or shown to consumers.
    """
    since_ms = arena.reader(Word.AT_RISK_SINCE).load()
    sync = flush["type"] == "SYNC_FLUSH"
    return {
        "flushType": flush["type"],
        "bytes": size_now,
        "bytesMax": 0 if sync else flush["bytesMax"] or arena.pool_size,
        "millis": max(0, monotonic_ms() - since_ms) if size_now else 0,
        "millisMax": 0 if sync else flush["millisMax"],
    }


def _ring(arena: Arena, index: int) -> dict[str, int]:
    ring = arena.rings[index]
    completed = ring.completed.load()
    submitted = ring.submitted.load()
    return {
        "ring": index,
        "submitted": submitted,
        "waiting": submitted - completed,
        "waitingMax": ring.entry_count,
        "dataSize": ring.data_size,
    }


def _touched(name: str) -> int:
    """Bytes of memory that a segment takes now; 0 when it is gone."""
    try:
        return (SHM_FOLDER / name.removeprefix("/")).stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _memory_of(pid: int) -> dict[str, int]:
    """Memory of a process by its part in it; nothing when it ended or is another user's."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    sizes = {
        key: int(rest.split()[0]) * KiB
        for key, colon, rest in (line.partition(":") for line in text.splitlines()[1:])
        if colon
    }
    shared = sizes.get("Pss_Shmem", 0)
    return {"ownMemory": sizes.get("Pss", 0) - shared, "sharedMemory": shared}


# As text


def as_text(found: dict[str, Any]) -> str:
    """What collect() gave, for a person."""
    parts = [_head(found), _roles(found["roles"])]
    if found["kind"] == "broker":
        parts += [_troubles(found), _log(found), _numbers(found), _rings(found["rings"])]
        parts += [_counters(found["counters"]), _segments(found["segments"])]
    return "\n\n".join(part for part in parts if part)


def _head(found: dict[str, Any]) -> str:
    up = f"up {duration(found['upMillis'])} since {moment(found['startTimestamp'])}"
    lines = [
        f"shmq {found['kind']} {found['version']}, pid {found['pid']}, {up}",
        f"  store     {found['storePath']}",
        f"  run dir   {found['runDir']}",
        f"  instance  {found['instance']}",
    ]
    lines += [f"  {kind:9} {address}" for kind, address in found["addresses"].items()]
    return "\n".join(lines)


def _roles(roles: list[dict[str, Any]]) -> str:
    rows = [("role", "pid", "state", "restarts", "memory", "shared")]
    for role in roles:
        own, shared = role.get("ownMemory"), role.get("sharedMemory")
        rows.append(
            (
                role["role"],
                str(role["pid"] or "-"),
                role["state"],
                str(role["restarts"]),
                "-" if own is None else size(own),
                "-" if shared is None else size(shared),
            )
        )
    own_all = size(sum(role.get("ownMemory", 0) for role in roles))
    shared_all = size(sum(role.get("sharedMemory", 0) for role in roles))
    rows.append(("all", "", "", "", own_all, shared_all))
    return table(rows, left=(0, 2))


def _troubles(found: dict[str, Any]) -> str:
    lines = []
    if not found["storeOpen"]:
        lines.append("THE STORE IS CLOSED: no message is taken")
    if blocked := found["blocked"]:
        lines.append(f"SENDS WAIT for {duration(blocked['forMillis'])} on {blocked['on']}")
    if found["noRoom"]:
        since = duration(found["noRoom"]["forMillis"])
        lines.append(f"THE DISK HAS NO ROOM for the commitlog since {since}: sends are refused")
    if error := found["flushError"]:
        lines.append(f"THE DISK REFUSED (errno {error['errno']}, {error['text']}): no flush since")
    return "\n".join(lines)


def _log(found: dict[str, Any]) -> str:
    offsets, counts = found["offsets"], found["bytes"]
    append = offsets["append"]
    rows = [("commitlog", "offset", "behind", "all bytes before it are")]
    for name, text in OFFSET_TEXT.items():
        behind = "" if name == "append" else size(append - offsets[name])
        rows.append((name, str(offsets[name]), behind, text))
    rows += [
        (name, str(offsets[name]), size(append - offsets[name]), text)
        for name, text in SLAVE_TEXT.items()
        if offsets[name]
    ]
    risk = found["atRisk"]
    at_risk = f"at risk (a power cut loses it): {size(risk['bytes'])}"
    if risk["millisMax"]:
        at_risk += f" of at most {size(risk['bytesMax'])}"
        at_risk += f", {duration(risk['millis'])} of at most {duration(risk['millisMax'])}"
    else:
        at_risk += ", none of it confirmed (SYNC_FLUSH)"
    hot = f"hot pages: {size(counts['hot'])} of {size(counts['hotMax'])}"
    return f"{table(rows, left=(0, 3))}\n{at_risk}; {hot}"


def _numbers(found: dict[str, Any]) -> str:
    queues, pulls, memory = found["queues"], found["pulls"], found["memory"]
    used = found["disk"]["usedPercent"]
    room = f"{queues['count']} of at most {queues['countMax']}"
    return "\n".join(
        (
            f"queues  {room}, {queues['topics']} topics, {queues['entries']} entries",
            f"pulls   {pulls['holding']} wait for a message",
            f"memory  {size(memory['available'])} of {size(memory['total'])} available",
            f"disk    {used:.2f} % used",
        )
    )


def _rings(rings: list[dict[str, int]]) -> str:
    rows = [("ring", "submitted", "waiting", "at most")]
    rows += [
        (f"serve{one['ring']}", str(one["submitted"]), str(one["waiting"]), str(one["waitingMax"]))
        for one in rings
    ]
    return table(rows, left=(0,))


def _counters(counters: dict[str, int]) -> str:
    rows = [("all serve processes", "since the start")]
    rows += [(GAUGES_TEXT.get(name, name), str(value)) for name, value in counters.items()]
    return table(rows, left=(0,))


def _segments(segments: list[dict[str, Any]]) -> str:
    rows = [("segment", "size", "touched")]
    rows += [(one["name"], size(one["size"]), size(one["touched"])) for one in segments]
    return table(rows, left=(0,))


def table(rows: Sequence[tuple[str, ...]], *, left: tuple[int, ...]) -> str:
    """Rows under each other; columns not in `left` are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def size(count: int) -> str:
    """Bytes for a person: 17 B, 1.5 MiB."""
    if abs(count) < KiB:
        return f"{count} B"
    value = float(count)
    for unit in UNITS:
        value /= KiB
        if abs(value) < KiB or unit == UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def duration(millis: int) -> str:
    """A time span for a person, in its two largest units: 42 ms, 3 min 5 s, 2 d 7 h."""
    if millis < SECOND_MS:
        return f"{millis} ms"
    parts: list[str] = []
    left = millis
    for unit, unit_ms in (("d", DAY_MS), ("h", HOUR_MS), ("min", MINUTE_MS), ("s", SECOND_MS)):
        count, left = divmod(left, unit_ms)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def moment(timestamp_ms: int) -> str:
    """A point in time for a person, UTC."""
    return datetime.fromtimestamp(timestamp_ms // SECOND_MS, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

"""`shmq reset-offset`: have a group consume again, or skip, from a moment on."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import shmq
from shmq.client import resets
from shmq.client.flow import run
from shmq.errors import ConfigError
from shmq.workers.context import run_dir_of
from shmq.workers.statefile import read_state

if TYPE_CHECKING:
    from shmq.client.resets import QueueReset, Target
    from shmq.config import Settings

WORDS: Final[dict[str, Target]] = {"earliest": "earliest", "latest": "latest", "-1": "latest"}
ALLOWED: Final = (
    "a time as 2026-01-31T08:15:00.250 (local, or with a zone), ms since the epoch, "
    "earliest, or latest (also -1)"
)
HEADINGS: Final = ("QUEUE", "FIRST", "END", "BEFORE", "AFTER", "")
TIMEOUT_S: Final = 60.0


def read_time(text: str) -> Target:
    """The moment that the text of `--time` names.

    Raises:
        ConfigError: it names none.
    """
    word = WORDS.get(text.strip().lower())
    if word is not None:
        return word
    try:
        if text.strip().isdecimal():
            return int(text)
        moment = datetime.fromisoformat(text.strip())
        return moment if moment.timestamp() >= 0 else 0
    except (ValueError, OverflowError, OSError):
        raise ConfigError("not a time", found=repr(text[:40]), allowed=ALLOWED) from None


def local_address(settings: Settings) -> str:
    """Address of the broker that runs on a store: its Unix socket.

    Raises:
        Unavailable: none runs there.
    """
    state = read_state(run_dir_of(settings))
    return f"unix:{state['addresses']['unix']}?copy=1"


def carry_out(
    address: str,
    *,
    group: str,
    topic: str,
    target: Target,
    queue_id: int | None,
    force: bool,
    dry_run: bool,
) -> list[QueueReset]:
    """Reset a group's offsets, or only look what that would do.

    Raises:
        ShmqError: it was not possible; says why.
    """
    with shmq.connect(address) as client:
        core = client.core
        planned = run(
            resets.plan(
                core, group=group, topic=topic, target=target, queue_id=queue_id, force=force
            ),
            TIMEOUT_S,
            "looking for the offsets",
        )
        if not dry_run:
            work = resets.carry_out(core, group=group, resets=planned)
            run(work, TIMEOUT_S, "resetting the offsets")
    return planned


def as_json(found: list[QueueReset]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "topic": one.queue.topic,
            "broker": one.queue.broker,
            "queueId": one.queue.queue_id,
            "minOffset": one.first,
            "maxOffset": one.end,
            "before": one.before,
            "after": one.after,
            "wouldSkip": one.found - one.after,
        }
        for one in found
    ]


def as_text(found: list[QueueReset], *, dry_run: bool) -> str:
    """A table, a line for each queue, and what came of it."""
    rows = [HEADINGS]
    for one in sorted(found):
        skipped = f"left: --force would skip {one.found - one.after}" if one.is_left else ""
        before = "-" if one.before is None else str(one.before)
        name = f"{one.queue.broker}:{one.queue.queue_id}"
        rows.append((name, str(one.first), str(one.end), before, str(one.after), skipped))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in {0, 5} else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    count = sum(not one.is_left for one in found)
    done = "would be reset" if dry_run else "reset"
    return "\n".join([*lines, f"{count} of {len(found)} queues {done}"])

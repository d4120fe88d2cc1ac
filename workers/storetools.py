"""`shmq verify` and `shmq export`: the files of a store, looked at by who owns none of them."""

from __future__ import annotations

import itertools
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec
import orjson

from shmq import verify as verifying
from shmq.errors import ConfigError, InvalidMessage, LayoutError, StoreError
from shmq.export import Export, Selection, moment_of
from shmq.export.message import FORMATS
from shmq.layout.control import Word
from shmq.shm.arena import Arena
from shmq.shm.segment import Segment, segment_name
from shmq.shm.words import WordReader, check_control
from shmq.verify.findings import Severity
from shmq.verify.text import Progress, findings_text, size_text, summary_text
from shmq.workers.base import epoch_ms
from shmq.workers.context import instance_of, store_dir_of
from shmq.workers.rescue import commitlog_dir
from shmq.workers.storelock import holder_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shmq.config import Settings
    from shmq.verify.store import Store

SEVERITIES = (Severity.INFO, Severity.WARNING, Severity.DAMAGE)
"""In the order of printing: what matters most stands next to the verdict."""


def verify(settings: Settings, *, jobs: int | None, as_json: bool) -> bool:
    """Examine the store of `settings` and print what was found; whether it is sound.

    Raises:
        ConfigError: there is no store, or a broker uses it whose progress cannot be seen.
        StoreError: one of the processes was killed.
    """
    root = store_dir_of(settings)
    commitlog = commitlog_dir(settings, root)
    started = time.monotonic()
    store = _found(settings, root, commitlog, limit=flushed_offset(root, commitlog))
    if store.limit is None:
        _note_remnants(store, root, commitlog)
    progress = Progress()
    try:
        result = verifying.verify(store, jobs=jobs or len(os.sched_getaffinity(0)), watch=progress)
    finally:
        progress.clear()
    seconds = time.monotonic() - started
    with _reader_may_leave():
        _print(result, seconds, limit=store.limit, as_json=as_json)
    return result.is_sound


def _print(result: verifying.Result, seconds: float, *, limit: int | None, as_json: bool) -> None:
    ordered = sorted(result.findings, key=lambda one: SEVERITIES.index(one.severity))
    if as_json:
        for finding in ordered:
            click.echo(_line("finding", finding))
        facts = msgspec.structs.asdict(result) | {"sound": result.is_sound, "seconds": seconds}
        facts |= {str(severity): result.count(severity) for severity in SEVERITIES}
        del facts["findings"]
        click.echo(_line("summary", facts))
    else:
        for line in findings_text(ordered):
            click.echo(line)
        if limit is not None:
            click.echo(f"a broker runs: only what it had on the disk, up to {limit}")
        click.echo(summary_text(result, seconds))


def _found(settings: Settings, root: Path, commitlog: Path, *, limit: int | None) -> Store:
    """The store; what the system does not let us read is an error of ours."""
    try:
        return verifying.find_store(settings, root, commitlog, limit=limit)
    except OSError as error:
        raise StoreError(
            "cannot read the store", file=error.filename, cause=error.strerror
        ) from error


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Let whoever reads standard output go away (`| head`): nothing is an error then."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go, also when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def export(
    settings: Settings,
    *,
    topic: str,
    queue_id: int | None,
    key: str | None,
    since: str | None,
    until: str | None,
    form: str,
    limit: int | None,
) -> bool:
    """Write the messages that are meant to standard output; whether none was damaged.

    Ends quietly when nobody reads on.

    Raises:
        ConfigError: there is no store, no such topic or queue, or a time is none.
    """
    root = store_dir_of(settings)
    commitlog = commitlog_dir(settings, root)
    now_ms = epoch_ms()
    selection = Selection(
        topic=topic,
        queue_id=queue_id,
        key=key,
        since_ms=None if since is None else moment_of(since, now_ms=now_ms),
        until_ms=None if until is None else moment_of(until, now_ms=now_ms),
    )
    control = _control_of(root, commitlog)
    written = None if control is None else WordReader(control, Word.WRITTEN_OFFSET).load()
    store = _found(settings, root, commitlog, limit=written)
    exporting = Export(store, selection, queue_ends=_queue_ends(root, topic, control))
    count = 1
    try:
        with _reader_may_leave():
            count = _write(exporting, form, limit)
    finally:
        exporting.close()
    if not count and not exporting.is_known and not exporting.damaged:
        raise ConfigError("no such topic in this store", topic=topic, store=root)
    for what in exporting.damaged:
        click.echo(f"shmq: left out, {what}", err=True)
    if exporting.damaged_count:
        click.echo(
            f"shmq: {exporting.damaged_count} damaged; `shmq verify` says what and where", err=True
        )
    return not exporting.damaged_count


def _write(exporting: Export, form: str, limit: int | None) -> int:
    """Write messages to standard output; how many."""
    write, before, between, after = FORMATS[form]
    count = 0
    out = sys.stdout.buffer
    out.write(before)
    for found, stored in itertools.islice(exporting.records(), limit):
        try:
            data = write(found, stored)
        except InvalidMessage as error:
            exporting.note(found.physical_offset, str(error))
            continue
        out.write(between if count else b"")
        out.write(data)
        count += 1
    out.write(after if count or before else b"")
    out.flush()
    return count


def _queue_ends(root: Path, topic: str, control: memoryview | None) -> dict[int, int] | None:
    """Where the queues of a topic end for a running broker; None when none of ours runs."""
    if control is None or holder_of(root) is None:
        return None
    queues = Arena.attach(instance_of(root)).queues
    return {
        queue_id: queues.max_offset(slot)
        for queue_id, slot in queues.topics().get(topic, {}).items()
    }


def _line(kind: str, facts: object) -> str:
    plain: dict[str, Any] = msgspec.to_builtins(facts)
    return orjson.dumps({"kind": kind, **plain}).decode()


def flushed_offset(root: Path, commitlog: Path) -> int | None:
    """Physical offset up to which a running broker has all on the disk; None when none runs.

    Raises:
        ConfigError: another kind of broker uses the store, or ours is just starting.
    """
    holder = holder_of(root)
    if holder is None:
        return None
    control = _control_of(root, commitlog)
    if control is None or not WordReader(control, Word.STORE_STATE).load():
        raise ConfigError(
            "the store is in use by a broker whose progress cannot be seen from here",
            holder_pid=holder,
            store=root,
            hint="stop it first (Apache's), or try again (ours, while it starts)",
        )
    return WordReader(control, Word.FLUSHED_OFFSET).load()


def _control_of(root: Path, commitlog: Path) -> memoryview | None:
    """The words of the broker of this store, dead or alive; None without such."""
    try:
        view = Segment.attach(segment_name(instance_of(root), "control")).view
        check_control(view)
        is_ours = WordReader(view, Word.STORE_ID).load() == commitlog.stat().st_ino
    except (LayoutError, OSError, ValueError):
        return None
    return view if is_ours else None


def _note_remnants(store: Store, root: Path, commitlog: Path) -> None:
    """Say that a killed broker's last messages are in no file yet."""
    control = _control_of(root, commitlog)
    if control is None or not WordReader(control, Word.STORE_STATE).load():
        return
    written = WordReader(control, Word.WRITTEN_OFFSET).load()
    size = WordReader(control, Word.APPEND_OFFSET).load() - written
    if size > 0:
        store.in_memory = written
        store.findings.add(
            Severity.WARNING,
            "commitlog",
            "a killed broker's last messages are only in shared memory",
            found=f"{size_text(size)} from physical offset {written} on",
            hint="start the broker: it writes them into the files first",
        )

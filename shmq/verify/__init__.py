"""A whole store examined: log, consumequeues, index, tables. Only reads.

    store.py     what a store consists of: rows of files, names, sizes, gaps
    log.py       every record, and whether its entry names it
    queues.py    every entry
    index.py     index files
    tables.py    checkpoint, tables, offsets journal, abort, lock
    jobs.py      in several processes
    findings.py  what is found
    text.py      as text, and progress

Any bytes are legal input: whatever they are, verification ends, and says what it found. Its memory
does not grow with the store but by a few hundred bytes for each queue.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from shmq.verify.findings import Finding, Findings, Severity
from shmq.verify.index import IndexReport, IndexTask, check_index
from shmq.verify.jobs import run
from shmq.verify.log import LogReport, QueueCount, check_log_file
from shmq.verify.queues import Bounds, QueueReport, QueueTask, check_queue
from shmq.verify.store import Store, find_store
from shmq.verify.tables import check_checkpoint, check_state, check_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Finding", "Result", "Severity", "find_store", "verify"]

Report = TypeVar("Report", LogReport, QueueReport, IndexReport)

INDEX_SIZE: Final = "file has another size than an index file"


class Result(msgspec.Struct, kw_only=True):
    """What verification saw and found."""

    findings: list[Finding]
    log_files: int = 0
    log_start: int = 0
    log_end: int = 0
    records: int = 0
    queues: int = 0
    entries: int = 0
    index_files: int = 0
    index_entries: int = 0
    tables: int = 0
    size: int = 0
    """Bytes of log, consumequeues and index."""

    def count(self, severity: Severity) -> int:
        """Findings of this severity."""
        return sum(1 + one.more for one in self.findings if one.severity == severity)

    @property
    def is_sound(self) -> bool:
        """Whether no damage was found."""
        return not self.count(Severity.DAMAGE)


def verify(
    store: Store, *, jobs: int = 1, watch: Callable[[int, int], None] = lambda _done, _all: None
) -> Result:
    """Examine a store that find_store() gave.

    Args:
        store: stopped, or of a running broker with `limit` set: then only what was on the disk at
            that moment is looked at.
        jobs: processes.
        watch: told (bytes done, bytes in all).

    Raises:
        StoreError: one of the processes was killed.
    """
    return _Verification(store, jobs, watch).run()


class _Verification:
    """One run of verify()."""

    def __init__(self, store: Store, jobs: int, watch: Callable[[int, int], None]) -> None:
        self.store = store
        self.jobs = jobs
        self.findings = Findings()
        self.findings.extend(store.findings.all())
        self.done = 0
        index_size = sum(store.index_files.values())
        queue_size = sum(sum(row.sizes.values()) for row in store.queues.values())
        self.size = sum(store.log.sizes.values()) + queue_size + index_size
        self._watch = watch

    def run(self) -> Result:
        check_state(self.store, self.findings)
        logs = self.share(check_log_file, list(self.store.log.sizes))
        bounds = self.bounds(logs)
        counts = _added(logs)
        names = sorted(self.store.queues)
        queues = self.share(
            check_queue,
            [QueueTask(*name, counts.get(name, QueueCount()), bounds) for name in names],
        )
        reports = dict(zip(names, queues, strict=True))
        self.note_unentered(counts, reports)
        indexes = self.share(check_index, self.index_tasks(bounds))
        ends = {name: report.end for name, report in reports.items()}
        for name, count in counts.items():
            ends[name] = max(ends.get(name, 0), count.end)
        tables = check_tables(self.store, self.findings, ends)
        last_timestamp = max((log.last_timestamp for log in logs), default=0)
        check_checkpoint(
            self.store, self.findings, log_end=bounds.end, last_timestamp=last_timestamp
        )
        return Result(
            findings=self.findings.all(),
            log_files=len(logs),
            log_start=bounds.start,
            log_end=bounds.end,
            records=sum(log.records for log in logs),
            queues=len(queues),
            entries=sum(report.entries for report in queues),
            index_files=len(indexes),
            index_entries=sum(report.entries for report in indexes),
            tables=tables,
            size=self.size,
        )

    def share(self, work: Callable[..., Report], items: Sequence[object]) -> list[Report]:
        """Reports of all items, their findings noted."""
        before = self.done

        def watch(done: int) -> None:
            self.done = before + done
            self._watch(min(self.done, self.size), self.size)

        reports = run(functools.partial(work, self.store), items, jobs=self.jobs, watch=watch)
        for report in reports:
            self.findings.extend(report.findings)
        return reports

    def bounds(self, logs: list[LogReport]) -> Bounds:
        """Where the log begins and ends."""
        if not logs:
            return Bounds(0, 0, has_rest=False)
        end = max((log.end for log in logs if log.records), default=logs[0].start)
        has_rest = any(log.ended_by == "bytes" and log.end >= end for log in logs)
        return Bounds(logs[0].start, end, has_rest=has_rest)

    def index_tasks(self, bounds: Bounds) -> list[IndexTask]:
        """Index files that have the size of one."""
        names = []
        for name, size in self.store.index_files.items():
            if size == self.store.index_size:
                names.append(name)
            else:
                self.findings.damage(
                    f"index/{name}",
                    INDEX_SIZE,
                    found=size,
                    allowed=self.store.index_size,
                    hint="if the store was made so, set maxHashSlotNum and maxIndexNum; "
                    "else remove the file: no message is lost",
                )
        if names and self.store.limit is not None:
            self.findings.add(
                Severity.INFO, f"index/{names.pop()}", "not checked: the running broker writes it"
            )
        return [IndexTask(name, bounds, is_last=name == names[-1]) for name in names]

    def note_unentered(
        self,
        counts: dict[tuple[str, int], QueueCount],
        reports: dict[tuple[str, int], QueueReport],
    ) -> None:
        """Report records that no entry names, by what may have become of their entries."""
        for (topic, queue_id), count in counts.items():
            if not count.others:
                continue
            report = reports.get((topic, queue_id))
            file = f"consumequeue/{topic}/{queue_id}"
            found = f"{count.others} records, the first at physical offset {count.others_first}"
            if report is None and topic not in (self.store.topics or (topic,)):
                self.findings.add(
                    Severity.INFO, file, "records of a topic that is deleted", found=found
                )
            elif count.others_last < (-1 if report is None else report.last_place):
                self.note_older(file, found, has_findings=bool(report and report.findings))
            elif self.store.limit is not None:
                self.findings.add(
                    Severity.INFO,
                    file,
                    "records whose entries are still in shared memory",
                    found=found,
                )
            elif not self.store.clean:
                self.findings.add(
                    Severity.INFO,
                    file,
                    "records that have no entry yet",
                    found=found,
                    hint="the next start enters them",
                )
            else:
                self.findings.damage(
                    file,
                    "records have no entry",
                    found=found,
                    allowed="an entry for each record, as the store was closed cleanly",
                    hint="consumers do not get these messages; remove the file checkpoint and "
                    "put a file named abort into the store: the next start enters them",
                )

    def note_older(self, file: str, found: str, *, has_findings: bool) -> None:
        self.findings.add(
            Severity.DAMAGE if has_findings else Severity.WARNING,
            file,
            "records have no entry, but later ones have",
            found=found,
            allowed="an entry for each record",
            hint="their entries are damaged, see above"
            if has_findings
            else "the topic was deleted and made anew, or their place in the queue has changed",
        )


def _added(logs: list[LogReport]) -> dict[tuple[str, int], QueueCount]:
    """Counts of all files, by queue."""
    total: dict[tuple[str, int], QueueCount] = {}
    for log in logs:
        for name, one in log.queues.items():
            into = total.setdefault(name, QueueCount())
            into.matched += one.matched
            if one.others:
                into.others_first = into.others_first if into.others else one.others_first
                into.others_last = one.others_last
                into.others += one.others
            into.end = max(into.end, one.end)
    return total

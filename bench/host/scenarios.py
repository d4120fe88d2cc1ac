"""The scenarios: what is run against each system, in turn, and what is asked of the figures."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.barewrites import write_and_sync
from bench.host.brokers import Apache, Places, Shmq, System, wait_until
from bench.host.clients import Load, fill, run_consumer, run_load, run_producer
from bench.host.measure import cpu_between, cpu_seconds, medians, pss_mib
from bench.host.wire import OK, PeerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "load"  # a broker takes its cluster name, bench, for a system topic
QUEUES = 8
SIZES = (128, 1024, 4096)
WINDOWS = (1, 16, 64)
SYNC_WINDOWS = (*WINDOWS, 256, 1024)
"""Apache's broker refuses some of so many with SYNC_FLUSH: TIMEOUT_CLEAN_QUEUE."""
SHARED_KEYS = {"flushDiskType"}
"""Keys that are set for both, if they are."""
FIRST_MESSAGE_TIMEOUT_S = 90.0
SETTLE_S = 5.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How long and how often."""

    rounds: int = 3
    warmup_s: float = 10.0
    seconds: float = 20.0
    cell_seconds: float = 5.0
    cell_warmup_s: float = 1.0
    open_rate: float = 5000.0
    messages: int = 1_000_000
    topics: int = 1000
    connections: int = 200
    load_connections: int = 4
    serialization: str = "json"
    systems: tuple[str, ...] = ("apache", "shmq")
    apache_heap: str = "2g"
    store_root: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    overrides: dict[str, str] = field(default_factory=dict)


QUICK = {
    "rounds": 1,
    "warmup_s": 1.0,
    "seconds": 2.0,
    "cell_seconds": 0.5,
    "cell_warmup_s": 0.2,
    "open_rate": 200.0,
    "messages": 20_000,
    "topics": 20,
    "connections": 10,
}


@dataclass(frozen=True)
class Target:
    """One figure that must hold, and whether it does; `met` is None when a system was left out."""

    what: str
    value: float
    wanted: str
    met: bool | None


@dataclass
class Outcome:
    """The medians, every single run behind them, and the targets."""

    table: list[Row]
    runs: list[Row]
    targets: list[Target] = field(default_factory=list)


def at_least(what: str, value: float, limit: float) -> Target:
    """A lower limit."""
    return Target(what, round(value, 3), f">= {limit}", value >= limit)


def at_most(what: str, value: float, limit: float) -> Target:
    """An upper limit."""
    return Target(what, round(value, 3), f"<= {limit}", value <= limit)


# ---- runs, one system alone at a time ----


@contextlib.contextmanager
def _places(options: Options) -> Iterator[Places]:
    """A fresh folder, removed and synced away before the next run begins."""
    root = Path(tempfile.mkdtemp(prefix="shmq-bench-", dir=options.store_root))
    try:
        yield Places(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.sync()


def make(name: str, places: Places, options: Options) -> System:
    """One of the two systems, not started."""
    if name == "apache":
        shared = {key: options.overrides[key] for key in SHARED_KEYS & options.overrides.keys()}
        return Apache(places, options.apache_heap, shared)
    return Shmq(places, options.overrides)


@contextlib.contextmanager
def running(name: str, options: Options) -> Iterator[System]:
    """A started system with the topic of the loads."""
    with _places(options) as places, make(name, places, options) as system:
        system.prepare_topic(TOPIC, QUEUES)
        yield system


def interleaved(options: Options, run: Callable[[str], list[Row]]) -> list[Row]:
    """A, B, A, B, ...: what drifts on the machine meets both."""
    rows = []
    for number in range(1, options.rounds + 1):
        for name in options.systems:
            for row in run(name):
                rows.append({"system": name, "round": number} | row)
                print(
                    "  ", {key: value for key, value in rows[-1].items() if value != ""}, flush=True
                )
    return rows


def summarise(rows: list[Row], by: tuple[str, ...], figures: tuple[str, ...]) -> list[Row]:
    """One row of medians for each different value of the `by` columns, in order of appearance."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in by), []).append(row)
    return [
        dict(zip(by, cell, strict=True)) | medians(group, figures) for cell, group in cells.items()
    ]


def _by_system(table: list[Row]) -> dict[str, Row]:
    return {row["system"]: row for row in table}


def _both(table: list[Row]) -> tuple[Row, Row] | None:
    found = _by_system(table)
    return (found["shmq"], found["apache"]) if {"shmq", "apache"} <= found.keys() else None


# ---- the scenarios ----


def producer(options: Options) -> Outcome:
    """Apache's Producer, 64 threads, 1 KiB, synchronous sends."""

    def run(name: str) -> list[Row]:
        with running(name, options) as system:
            return [
                run_producer(
                    system,
                    TOPIC,
                    threads=64,
                    size=1024,
                    warmup_s=options.warmup_s,
                    seconds=options.seconds,
                )
            ]

    rows = interleaved(options, run)
    figures = ("messages_per_s", "broker_cpu_us", "client_cpu_us", "printed_tps", "failed")
    table = summarise(rows, ("system",), figures)
    targets = []
    if both := _both(table):
        ours, theirs = both
        speed = ours["messages_per_s"] / theirs["messages_per_s"]
        cpu = ours["broker_cpu_us"] / theirs["broker_cpu_us"]
        targets.append(at_least("messages/s, shmq : apache", speed, 1.5))
        targets.append(at_most("broker CPU per message, shmq : apache", cpu, 0.334))
    return Outcome(table, rows, targets)


LOAD_FIGURES = (
    "messages_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "max_us",
    "broker_cpu_us",
    "client_cpu_us",
    "pss_mib",
)


def _cells(options: Options, system: System) -> Iterator[Load]:
    transports = ("tcp", "unix") if system.socket_path else ("tcp",)
    for transport in transports:
        for size in SIZES:
            for window in WINDOWS:
                yield Load(
                    TOPIC,
                    transport=transport,
                    serialization=options.serialization,
                    connections=min(options.load_connections, window),
                    outstanding=window,
                    size=size,
                    seconds=options.cell_seconds,
                    warmup=options.cell_warmup_s,
                )
        yield Load(
            TOPIC,
            transport=transport,
            serialization=options.serialization,
            connections=options.load_connections,
            outstanding=64,
            rate=options.open_rate,
            seconds=options.cell_seconds,
            warmup=options.cell_warmup_s,
        )


def _warm(system: System, options: Options) -> None:
    """Let a JVM compile what it will run; shmq gets the same."""
    load = Load(TOPIC, connections=4, outstanding=64, seconds=max(options.warmup_s, 0.1))
    run_load(system, load)


def _pss(system: System) -> dict[str, float]:
    return pss_mib(system.tree(), system.places.folder("store"))


def loadgen(options: Options) -> Outcome:
    """The light generator: sizes x windows in a closed loop, then one open loop at a fixed rate."""

    def run(name: str) -> list[Row]:
        rows = []
        with running(name, options) as system:
            _warm(system, options)
            for load in _cells(options, system):
                row = run_load(system, load)
                rows.append(row | {"pss_mib": _pss(system)["total"]})
        return rows

    rows = interleaved(options, run)
    by = ("transport", "mode", "size", "outstanding", "system")
    table = sorted(summarise(rows, by, LOAD_FIGURES), key=lambda row: [row[key] for key in by])
    targets = []
    for size in SIZES:
        wanted = {"transport": "tcp", "mode": "closed", "size": size, "outstanding": 64}
        if both := _both([row for row in table if wanted.items() <= row.items()]):
            ratio = both[0]["messages_per_s"] / both[1]["messages_per_s"]
            targets.append(at_least(f"{size} B, 64 outstanding, shmq : apache", ratio, 5))
    return Outcome(table, rows, targets)


BARE_FIGURES = ("group", "bare_messages_per_s", "of_bare")


def _beside_bare_writes(system: Shmq, load: Load, options: Options) -> Row:
    """One cell, and what a bare loop of writes of the same size and syncs reaches after it."""
    before = system.status()
    row = run_load(system, load)
    after = system.status()
    syncs = max(after["syncs"] - before["syncs"], 1)
    size = after["offsets"]["flushed"] - before["offsets"]["flushed"]
    group = (after["queues"]["entries"] - before["queues"]["entries"]) / syncs
    folder = system.places.folder("store")
    bare = group * write_and_sync(folder, size // syncs, seconds=options.cell_seconds / 2)
    return row | {
        "group": round(group, 2),
        "bare_messages_per_s": round(bare),
        "of_bare": round(row["messages_per_s"] / bare, 3),
    }


def sync(options: Options) -> Outcome:
    """Both with SYNC_FLUSH, 1 KiB, the light generator; shmq beside a bare loop of its syncs."""
    options = replace(options, overrides=options.overrides | {"flushDiskType": "SYNC_FLUSH"})

    def run(name: str) -> list[Row]:
        rows = []
        with running(name, options) as system:
            _warm(system, options)
            for outstanding in SYNC_WINDOWS if name == "shmq" else WINDOWS:
                load = Load(
                    TOPIC,
                    connections=min(options.load_connections, outstanding),
                    outstanding=outstanding,
                    size=1024,
                    serialization=options.serialization,
                    seconds=options.cell_seconds,
                )
                row = (
                    _beside_bare_writes(system, load, options)
                    if isinstance(system, Shmq)
                    else run_load(system, load)
                )
                rows.append({"outstanding": outstanding} | row)
        return rows

    rows = interleaved(options, run)
    by = ("outstanding", "system")
    table = summarise(rows, by, LOAD_FIGURES[:-1])
    beside = summarise([row for row in rows if row["system"] == "shmq"], by, BARE_FIGURES)
    for one in beside:
        next(row for row in table if all(row[key] == one[key] for key in by)).update(one)
    targets = []
    wanted = [row for row in table if row["outstanding"] == 64]
    if both := _both(wanted):
        ratio = both[0]["messages_per_s"] / both[1]["messages_per_s"]
        targets.append(at_least("64 outstanding, shmq : apache", ratio, 2))
    if mine := _by_system(wanted).get("shmq"):
        targets.append(at_least("64 outstanding, shmq : bare loop", mine["of_bare"], 0.8))
    return Outcome(table, rows, targets)


def rtt(options: Options) -> Outcome:
    """One thread, one connection, one message at a time: the round trip of a synchronous send."""

    def run(name: str) -> list[Row]:
        rows = []
        with running(name, options) as system:
            _warm(system, options)
            for transport in ("tcp", "unix") if system.socket_path else ("tcp",):
                load = Load(
                    TOPIC,
                    mode="sync",
                    transport=transport,
                    serialization=options.serialization,
                    seconds=options.seconds / 2,
                    warmup=options.cell_warmup_s,
                )
                rows.append(run_load(system, load))
        return rows

    rows = interleaved(options, run)
    table = summarise(rows, ("transport", "system"), LOAD_FIGURES[:-1])
    targets = []
    if both := _both([row for row in table if row["transport"] == "tcp"]):
        ratio = both[0]["p50_us"] / both[1]["p50_us"]
        targets.append(at_most("p50 of a round trip, shmq : apache", ratio, 1.0))
    return Outcome(table, rows, targets)


def catchup(options: Options) -> Outcome:
    """Stored messages of 1 KiB, read by Apache's Consumer, then by the light generator's pulls."""

    def run(name: str) -> list[Row]:
        with running(name, options) as system:
            fill(system, TOPIC, options.messages, 1024)
            java_row = {"client": "apache consumer"} | run_consumer(system, TOPIC, options.messages)
            pull = run_load(system, Load(TOPIC, mode="pull", connections=4))
            if pull["messages"] != options.messages:
                msg = f"pulled {pull['messages']} messages of {options.messages}"
                raise PeerError(msg)
            return [java_row, {"client": "loadgen pull"} | pull]

    rows = interleaved(options, run)
    figures = ("messages_per_s", "broker_cpu_us", "client_cpu_us")
    table = summarise(rows, ("client", "system"), figures)
    targets = []
    if both := _both([row for row in table if row["client"] == "apache consumer"]):
        ratio = both[0]["messages_per_s"] / both[1]["messages_per_s"]
        targets.append(at_least("catch-up messages/s, shmq : apache", ratio, 1.3))
    return Outcome(table, rows, targets)


def _spread(system: System, options: Options) -> None:
    """Create topics of 8 queues and store one message in each queue."""
    with system.broker() as broker:
        for number in range(options.topics):
            topic = f"spread_{number}"
            broker.create_topic(topic, QUEUES)
            for queue_id in range(QUEUES):
                answer = broker.send(topic, b"x" * 128, queue_id)
                if answer.code != OK:
                    msg = f"{topic} queue {queue_id}: {answer.code} {answer.remark}"
                    raise PeerError(msg)
            wait_until(topic, lambda name=topic: broker.max_offset(name, QUEUES) == QUEUES, 30.0)  # type: ignore[misc]


def memory(options: Options) -> Outcome:
    """PSS of all processes: idle, then with many topics and connections that sent heartbeats."""

    def run(name: str) -> list[Row]:
        with running(name, options) as system:
            time.sleep(SETTLE_S)
            idle_row = {"state": "idle"} | _pss(system)
            _spread(system, options)
            with contextlib.ExitStack() as stack:
                for number in range(options.connections):
                    peer = stack.enter_context(system.broker())
                    topic = f"spread_{number % options.topics}"
                    peer.heartbeat(f"127.0.0.1@{number}", f"group_{number % 20}_{topic}", topic)
                time.sleep(SETTLE_S)
                state = f"{options.topics} topics, {options.connections} connections"
                return [idle_row, {"state": state} | _pss(system)]

    rows = interleaved(options, run)
    figures = ("total", "private", "segments", "store_files", "hot_pool")
    table = summarise(rows, ("state", "system"), figures)
    ours = [row for row in table if row["system"] == "shmq"]
    limits = (250, 600)
    targets = [
        at_most(f"shmq PSS MiB, {row['state']}", row["total"], limit)
        for row, limit in zip(ours, limits, strict=False)
    ]
    return Outcome(table, rows, targets)


def idle(options: Options) -> Outcome:
    """CPU of all processes when nobody asks anything, in percent of one core."""

    def run(name: str) -> list[Row]:
        with running(name, options) as system:
            time.sleep(SETTLE_S)
            began, before = time.monotonic(), cpu_seconds(system.tree())
            time.sleep(options.seconds)
            used_s = cpu_between(before, cpu_seconds(system.tree()))
            percent = 100 * used_s / (time.monotonic() - began)
            return [{"core_percent": round(percent, 3), "processes": len(system.tree())}]

    rows = interleaved(options, run)
    table = summarise(rows, ("system",), ("core_percent", "processes"))
    ours = _by_system(table).get("shmq")
    targets = [at_most("idle shmq, % of a core", ours["core_percent"], 2.0)] if ours else []
    return Outcome(table, rows, targets)


def _first_message_s(system: System) -> float:
    """Seconds from the start of the first process to the first message that is accepted."""
    began = time.monotonic()
    system.spawn()

    def accepted() -> bool:
        system.check()
        try:
            with system.broker() as broker:
                return broker.send("TBW102_first", b"x").code == OK
        except (OSError, PeerError):
            return False

    wait_until("first accepted message", accepted, FIRST_MESSAGE_TIMEOUT_S)
    return round(time.monotonic() - began, 3)


def start(options: Options) -> Outcome:
    """From the start of the processes to the first accepted message: empty store, then again."""

    def run(name: str) -> list[Row]:
        rows = []
        with _places(options) as places:
            for store in ("empty", "again"):
                system = make(name, places, options)
                try:
                    rows.append({"store": store, "start_s": _first_message_s(system)})
                    system.await_ready()
                finally:
                    system.stop()
        return rows

    rows = interleaved(options, run)
    table = summarise(rows, ("store", "system"), ("start_s",))
    targets = [
        at_most(f"shmq start s, {row['store']} store", row["start_s"], 2.0)
        for row in table
        if row["system"] == "shmq"
    ]
    return Outcome(table, rows, targets)


SCENARIOS: dict[str, Callable[[Options], Outcome]] = {
    "start": start,
    "idle": idle,
    "memory": memory,
    "rtt": rtt,
    "loadgen": loadgen,
    "sync": sync,
    "catchup": catchup,
    "producer": producer,
}

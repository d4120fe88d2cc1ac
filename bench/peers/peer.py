"""A peer: what an adapter says about it, and how its cells are measured.

An adapter sets the facts and gives `missing`, `start`, `command` and `stop`; producing, consuming,
both at once and the latency are measured here, the same for all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.peers.child import Agent, Child, PeerError
from bench.peers.load import Cell, Timing, flood_sum, paced_sum
from bench.peers.stats import latency_figures

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALLED = HERE / ".installed"
AGENT_START_S = 30.0
AGENT_EXIT_S = 15.0

Row = dict[str, Any]

MEMORY = "memory"
PAGE_CACHE = "page cache"
DISK = "disk"


class Peer:
    """One peer in one setting. start() and stop() are called once a round."""

    name = ""
    title = ""
    version = ""
    client = ""  # language and library of the agents
    durable = MEMORY  # where an accepted message is: MEMORY, PAGE_CACHE or DISK
    durability = ""  # the same in a sentence
    settings: dict[str, str] = {}  # noqa: RUF012 - each adapter has its own
    has_backlog = True  # messages wait for a consumer that is not there yet
    can_spin = False  # a consumer may burn instead of sleeping

    def __init__(self) -> None:
        self.folder = Path()
        self.children: list[Child] = []

    # ---- given by the adapters ----

    def missing(self) -> str | None:
        """Why it cannot be run here; None when it can."""
        raise NotImplementedError

    def start(self) -> None:
        """Start its servers, below self.folder; those without any have nothing to do."""

    def command(self, role: str, stream: str, spin: bool) -> list[str]:  # noqa: FBT001 - one call
        """The program of an agent, and the arguments that are the peer's own."""
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        """The environment of agents, beside what is inherited."""
        return {}

    def prepare(self, stream: str, cell: Cell) -> None:
        """Create a stream, where it does not come about by itself."""

    def forget(self, stream: str) -> None:
        """Take away a stream and what it stored."""
        shutil.rmtree(self.folder / stream, ignore_errors=True)

    def stop(self) -> None:
        """End the servers."""
        for child in reversed(self.children):
            child.stop()
        self.children.clear()

    # ---- the cells ----

    def serve(self, name: str, command: list[str], orphan_signal: str = "KILL") -> Child:
        """Start a server."""
        child = Child(name, command, folder=self.folder, orphan_signal=orphan_signal)
        self.children.append(child)
        return child

    def tree(self) -> list[psutil.Process]:
        """All processes of the servers."""
        return [process for child in self.children for process in child.tree()]

    def flood(self, size: int, timing: Timing, loads: set[str]) -> Iterator[Row]:
        """The throughput cells of one size: produce, then consume what it left; then both."""
        if loads & {"produce", "consume"}:
            if self.has_backlog:
                yield from self._apart(size, timing, loads)
            else:
                if "produce" in loads:
                    yield self._together(Cell("produce", size), timing, drain=True)
                if "consume" in loads:
                    yield {"load": "consume", "size": size, "note": "has no backlog"}
        if "both" in loads:
            yield self._together(Cell("both", size), timing)

    def latency(self, cell: Cell, timing: Timing) -> Row:
        """A paced cell; latencies are from the intended send time to the consumer's hands."""
        count = max(20, int(cell.rate * timing.latency_s))
        with self._stream(cell) as stream:
            out = self.folder / f"{stream}.latencies"
            paced = {"mode": "latency", "rate": cell.rate, "count": count, "out": out}
            with self._pair(stream, cell, timing, paced) as (sender, receiver):
                meter = self._meter(sender, receiver)
                receiver.say("go")
                sender.say("go")
                sent = sender.wait(f"end of {cell.rate}/s", timing.deadline_s, "done")
                received = receiver.wait(f"end of {cell.rate}/s", timing.deadline_s, "done")
                row = meter.row(count)
            latencies = np.fromfile(out, dtype="<i8")
            out.unlink()
        _check(count, paced_sum(cell.size, count), received)
        if len(latencies) != count:
            raise PeerError(f"{len(latencies)} latencies of {count} messages")
        lasted_s = (sent["end_ns"] - sent["start_ns"]) / 1e9
        row |= latency_figures(latencies) | {"messages": count}
        row["sustained"] = lasted_s < 1.1 * count / cell.rate + 0.1
        return row

    def _apart(self, size: int, timing: Timing, loads: set[str]) -> Iterator[Row]:
        cell = Cell("produce", size)
        with self._stream(cell) as stream:
            with self._agent("produce", stream, cell, timing, {}) as sender:
                ready = sender.wait("ready", timing.deadline_s)
                meter = self._meter(sender)
                sender.say("go")
                sent = sender.wait("done", timing.deadline_s)
                row = {"load": "produce", "size": size} | meter.row(sent["count"])
            if "produce" in loads:
                yield row | _rate(sent["count"], size, sent["start_ns"], sent["end_ns"])
            if "consume" in loads:
                total = ready["count"] + sent["count"]
                yield self._backlog(stream, size, timing, total, ready["count"] + 1)

    def _backlog(self, stream: str, size: int, timing: Timing, total: int, warm: int) -> Row:
        """Consume what a producer left: `total` bodies and two markers."""
        cell = Cell("consume", size)
        extra = {"expect": total + 2, "warm": warm}
        with self._agent("consume", stream, cell, timing, extra) as receiver:
            receiver.wait("ready", timing.deadline_s)
            meter = self._meter(receiver)
            receiver.say("go")
            received = receiver.wait("done", timing.deadline_s)
            count = received["count"] - received["warm"]
            if count <= 0:
                raise PeerError("the whole backlog was consumed as warm-up: it was too small")
            row = {"load": "consume", "size": size} | meter.row(count)
        _check(total + 2, flood_sum(size, total), received)
        return row | _rate(count, size, received["start_ns"], received["end_ns"])

    def _together(self, cell: Cell, timing: Timing, *, drain: bool = False) -> Row:
        """Producer and consumer at once; with `drain` the consumer lets the bodies be."""
        extra = {"drain": int(drain)}
        with (
            self._stream(cell) as stream,
            self._pair(stream, cell, timing, extra) as (sender, receiver),
        ):
            warm = sender.wait("ready", timing.deadline_s)
            meter = self._meter(sender, receiver)
            receiver.say("go")
            sender.say("go")
            sent = sender.wait("done", timing.deadline_s)
            received = receiver.wait("done", timing.deadline_s)
            row = {"load": cell.load, "size": cell.size} | meter.row(sent["count"])
        total = warm["count"] + sent["count"]
        _check(total + 2, 0 if drain else flood_sum(cell.size, total), received)
        end_ns = sent["end_ns"] if drain else max(sent["end_ns"], received["end_ns"])
        return row | _rate(sent["count"], cell.size, sent["start_ns"], end_ns)

    # ---- agents ----

    @contextlib.contextmanager
    def _stream(self, cell: Cell) -> Iterator[str]:
        """A stream of its own for a cell; what it stored is taken away and the disk left idle."""
        stream = f"s{uuid.uuid4().hex[:10]}"
        self.prepare(stream, cell)
        try:
            yield stream
        finally:
            self.forget(stream)
            os.sync()

    @contextlib.contextmanager
    def _pair(
        self, stream: str, cell: Cell, timing: Timing, extra: Row
    ) -> Iterator[tuple[Agent, Agent]]:
        """A consumer that is attached and a producer; both are warm when this is entered."""
        with self.agents(stream, cell, timing, extra) as (sender, receiver):
            sender.wait("ready", timing.deadline_s)
            receiver.wait("ready", timing.deadline_s)
            yield sender, receiver

    @contextlib.contextmanager
    def agents(
        self, stream: str, cell: Cell, timing: Timing, extra: Row
    ) -> Iterator[tuple[Agent, Agent]]:
        """A consumer and a producer: two processes. Without a backlog the consumer comes first."""
        with contextlib.ExitStack() as stack:
            receiver = stack.enter_context(self._agent("consume", stream, cell, timing, extra))
            if not self.has_backlog:
                receiver.wait("attached", AGENT_START_S)
            sender = stack.enter_context(self._agent("produce", stream, cell, timing, extra))
            yield sender, receiver

    def arguments(
        self, role: str, stream: str, cell: Cell, timing: Timing, extra: Row
    ) -> list[str]:
        """The arguments that every agent takes."""
        facts: Row = {"role": role, "mode": "flood", "stream": stream, "size": cell.size}
        facts |= {"spin": int(cell.spin), "warmup_s": timing.warmup_s, "seconds": timing.seconds}
        facts |= {"bytes_max": timing.bytes_max, **extra}
        return [f"{key}={value}" for key, value in facts.items()]

    @contextlib.contextmanager
    def _agent(
        self, role: str, stream: str, cell: Cell, timing: Timing, extra: Row
    ) -> Iterator[Agent]:
        command = self.command(role, stream, cell.spin)
        command += self.arguments(role, stream, cell, timing, extra)
        child = Child(f"{self.name} {role}r", command, folder=self.folder, env=self.env())
        agent = Agent(child)
        try:
            yield agent
            agent.say("exit")
            status = child.finish(AGENT_EXIT_S)
            if status != 0:
                raise PeerError(f"{child.name}: ended with {status}: {child.tail()}")
        finally:
            child.stop(1.0)

    def _meter(self, *agents: Agent) -> _Meter:
        processes = {process.pid: process for process in self.tree()}
        for agent in agents:
            processes |= {process.pid: process for process in agent.child.tree()}
        return _Meter(list(processes.values()))


class _Meter:
    """CPU and memory of all processes of a peer, from its making to row()."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._ticks_s = _tick_seconds(processes)
        self._tasks = _task_seconds(processes)
        self._began = time.monotonic()

    def row(self, count: int) -> Row:
        """CPU per message, PSS when all is done."""
        used_s = self._used_s()
        lasted_s = time.monotonic() - self._began
        return {
            "cpu_us": round(used_s * 1e6 / count, 3),
            "cores": round(used_s / lasted_s, 2),
            "pss_mib": round(sum(map(_pss, self._processes)) / 2**20, 1),
        }

    def _used_s(self) -> float:
        """By the scheduler's nanoseconds; by ticks of 10 ms when a thread has ended meanwhile."""
        now = _task_seconds(self._processes)
        if self._tasks.keys() - now.keys():
            return _tick_seconds(self._processes) - self._ticks_s
        return sum(seconds - self._tasks.get(task, 0.0) for task, seconds in now.items())


def _tick_seconds(processes: list[psutil.Process]) -> float:
    """Seconds on a CPU of all processes; who has ended and was waited for is in its parent's."""
    seconds = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(process.cpu_times()[:4])
    return seconds


def _task_seconds(processes: list[psutil.Process]) -> dict[str, float]:
    """Seconds on a CPU of each thread."""
    seconds = {}
    for process in processes:
        for place in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # it ended while we looked
                seconds[place.parent.name] = int(place.read_text().split()[0]) / 1e9
    return seconds


def not_installed(step: str, *needed: Path) -> str | None:
    """Why a peer that `step` of setup.sh installs cannot be run: its words, or what is missing."""
    failed = INSTALLED / "stamps" / f"{step}.failed"
    if failed.exists():
        return f"cannot be installed: {failed.read_text().strip()[-300:]}"
    gone = [str(place.relative_to(ROOT)) for place in needed if not place.exists()]
    return f"not installed: {', '.join(gone)}" if gone else None


def _pss(process: psutil.Process) -> int:
    """Proportional set size of one process, in bytes; of one that has ended, none."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _rate(count: int, size: int, start_ns: int, end_ns: int) -> Row:
    seconds = (end_ns - start_ns) / 1e9
    return {
        "messages": count,
        "seconds": round(seconds, 4),
        "messages_per_s": round(count / seconds, 1),
        "mib_per_s": round(count * size / seconds / 2**20, 1),
    }


def _check(count: int, checksum: int, received: Row) -> None:
    """An error unless all messages came once and whole."""
    if received["count"] != count:
        raise PeerError(f"{received['count']} messages were received where {count} were sent")
    if int(received["sum"]) != checksum:
        raise PeerError(f"the checksum of {count} bodies is {received['sum']}, not {checksum}")

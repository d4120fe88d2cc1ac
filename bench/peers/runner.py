"""Interleaved rounds: each round runs every peer once, alone, and the machine's limits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.peers.child import PeerError
from bench.peers.load import Cell, Timing, cells
from bench.peers.peer import INSTALLED, Peer
from bench.peers.registry import PEERS

Row = dict[str, Any]
FAILURES = (PeerError, OSError, subprocess.SubprocessError, psutil.Error, ValueError)
APART = {"produce", "consume"}


@dataclass(frozen=True)
class Plan:
    """What is run."""

    peers: tuple[str, ...]
    loads: tuple[str, ...]
    sizes: tuple[int, ...]
    rates: tuple[int, ...]
    spinning: bool
    rounds: int
    timing: Timing
    store_root: Path
    run_s_max: float = 25 * 60.0
    peer_s_max: float = 150.0

    def cells(self) -> list[Cell]:
        """The cells of every peer."""
        return cells(loads=self.loads, sizes=self.sizes, rates=self.rates, spinning=self.spinning)


@dataclass
class Run:
    """What came out: every single row, the limits of each round, and peers that cannot be run."""

    rows: list[Row]
    limits: list[Row]
    unavailable: dict[str, str]


def run(plan: Plan, report: Callable[[Row], None]) -> Run:
    """All rounds that fit into the time; `report` is told each row as it comes."""
    result = Run([], [], {})
    began = time.monotonic()
    for number in range(1, plan.rounds + 1):
        if not another_fits(time.monotonic() - began, number - 1, plan.run_s_max):
            report({"peer": "", "note": f"{number - 1} of {plan.rounds} rounds: time is up"})
            break
        result.limits.append(limits(plan.store_root))
        for name in plan.peers:
            peer = PEERS[name]()
            reason = peer.missing()
            if reason is not None:
                if name not in result.unavailable:
                    report({"peer": name, "note": f"cannot be run: {reason}"})
                result.unavailable[name] = reason
                continue
            for row in _peer_rows(peer, plan):
                full = {"peer": name, "round": number} | row
                result.rows.append(full)
                report(full)
    return result


def another_fits(gone_s: float, rounds: int, run_s_max: float) -> bool:
    """Whether one more round ends in time if it lasts as the others did; the first always."""
    return rounds == 0 or gone_s + gone_s / rounds <= run_s_max


def limits(store_root: Path) -> Row:
    """Copying into warm pages, sequential write with fdatasync."""
    program = INSTALLED / "bin" / "limits"
    if not program.exists():
        return {}
    place = Path(tempfile.mkdtemp(prefix="shmq-peers-", dir=store_root))
    try:
        command = [str(program), str(place / "written")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        found: Row = json.loads(done.stdout)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return found


def _peer_rows(peer: Peer, plan: Plan) -> Iterator[Row]:
    """One round of one peer; a cell that fails is a row with the reason."""
    peer.folder = Path(tempfile.mkdtemp(prefix=f"shmq-peers-{peer.name}-", dir=plan.store_root))
    wanted = plan.cells()
    end = time.monotonic() + plan.peer_s_max
    try:
        try:
            peer.start()
        except FAILURES as error:
            yield from _failed(wanted, f"start: {error}")
            return
        for group in _groups(wanted):
            if time.monotonic() > end:
                yield from _failed(group, f"left out: {plan.peer_s_max:.0f} s were used up")
                continue
            yield from _group_rows(peer, group, plan)
    finally:
        peer.stop()
        shutil.rmtree(peer.folder, ignore_errors=True)
        os.sync()


def _groups(wanted: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells that are measured in one go: consume reads what produce of its size has left."""
    for cell in wanted:
        if cell.load not in APART:
            yield [cell]
        elif cell.load == "produce":
            partner = Cell("consume", cell.size)
            yield [cell, partner] if partner in wanted else [cell]
        elif Cell("produce", cell.size) not in wanted:
            yield [cell]


def _group_rows(peer: Peer, group: Sequence[Cell], plan: Plan) -> Iterator[Row]:
    done = []
    first = group[0]
    try:
        if first.load == "latency":
            if first.spin and not peer.can_spin:
                yield _place(first) | {"note": "has no spinning"}
            else:
                yield _place(first) | peer.latency(first, plan.timing)
            return
        for row in peer.flood(first.size, plan.timing, {cell.load for cell in group}):
            done.append(row["load"])
            yield row
    except FAILURES as error:
        text = str(error) or type(error).__name__
        yield from _failed([cell for cell in group if cell.load not in done], text)


def _place(cell: Cell) -> Row:
    return {"load": cell.load, "size": cell.size, "rate": cell.rate, "spin": cell.spin}


def _failed(group: Sequence[Cell], reason: str) -> Iterator[Row]:
    for cell in group:
        yield _place(cell) | {"error": reason}

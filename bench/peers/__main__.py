"""Run the comparison: `python -m bench.peers`, or `make bench-peers ARGS="--quick"`.

Writes bench/results/DATE-COMMIT-peers.json and .html; see bench/peers/README.md.
"""

from __future__ import annotations

import datetime as dt
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.host.measure import RESULTS_DIR, commit, machine
from bench.peers.child import TIMER_SLACK_NS, sleep_exactly
from bench.peers.load import LOADS, RATES, SIZES, Timing, size_text
from bench.peers.registry import PEERS, chosen
from bench.peers.report import html, picture
from bench.peers.runner import Plan, Run, run
from bench.peers.stats import summarise
from bench.peers.text import line, tables

QUICK = Timing(warmup_s=0.1, seconds=0.15, latency_s=0.1, bytes_max=64 << 20, deadline_s=30.0)


def _list(given: str | None, kind: type, default: tuple[Any, ...]) -> tuple[Any, ...]:
    """A comma-separated option."""
    return default if given is None else tuple(kind(part) for part in given.split(","))


def _facts(plan: Plan) -> dict[str, Any]:
    """What stands beside the figures."""
    peers = {}
    for name in plan.peers:
        kind = PEERS[name]
        facts = ("title", "version", "client", "durable", "durability", "settings", "has_backlog")
        peers[name] = {fact: getattr(kind, fact) for fact in facts}
    return {
        "scenario": "peers",
        "at": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": " ".join(["python -m bench.peers", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(plan.store_root) | {"timer_slack_ns": TIMER_SLACK_NS},
        "plan": asdict(plan) | {"store_root": "(a temporary folder)", "peers": list(plan.peers)},
        "peers": peers,
    }


def write(facts: dict[str, Any], outcome: Run, took_s: float, folder: Path, name: str) -> Path:
    """The JSON file, the report and a picture beside it; returns the report."""
    content = facts | {
        "took_s": round(took_s, 1),
        "rounds": len(outcome.limits),
        "unavailable": outcome.unavailable,
        "limits": outcome.limits,
        "table": summarise(outcome.rows),
        "runs": outcome.rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    report = folder / f"{name}.html"
    report.write_text(html(content))
    (folder / f"{name}.svg").write_text(picture(content))
    print(tables(content))
    return report


@click.command()
@click.option("--quick", is_flag=True, help="Tiny: shows that all works; the figures mean nothing.")
@click.option("--rounds", type=click.IntRange(min=1), help="Interleaved rounds (default 2).")
@click.option("--peers", help=f"Comma-separated names or patterns (redis*): {', '.join(PEERS)}.")
@click.option("--only", help="The same as --peers, for one.")
@click.option("--loads", help=f"Comma-separated: {', '.join(LOADS)}.")
@click.option("--sizes", help="Comma-separated bytes (default 128,1024,65536).")
@click.option("--rates", help="Comma-separated messages/s of the latency (default 1000,10000).")
@click.option("--spin/--no-spin", default=True, help="Latency with spinning too, for 1 KiB.")
@click.option("--seconds", type=float, help="Producing of a throughput cell (default 0.8).")
@click.option("--warmup-s", type=float, help="Before each measurement (default 0.4).")
@click.option("--latency-s", type=float, help="Length of a latency cell (default 1).")
@click.option("--bytes-max", type=int, help="Stored by one cell at most (default 1 GiB).")
@click.option("--minutes", type=float, default=25.0, help="No round that would end later begins.")
@click.option("--store-root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS_DIR)
def main(
    *,
    quick: bool,
    rounds: int | None,
    peers: str | None,
    only: str | None,
    loads: str | None,
    sizes: str | None,
    rates: str | None,
    spin: bool,
    minutes: float,
    store_root: Path | None,
    out: Path,
    **given: float | None,
) -> None:
    """Measure every peer under the same loads, in interleaved rounds on this machine."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sleep_exactly()
    timing = asdict(QUICK if quick else Timing())
    timing |= {name: value for name, value in given.items() if value is not None}
    try:
        names = chosen(_list(only or peers, str, ()))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    plan = Plan(
        peers=tuple(names),
        loads=_list(loads, str, LOADS),
        sizes=_list(sizes, int, SIZES),
        rates=_list(rates, int, RATES),
        spinning=spin,
        rounds=rounds or (1 if quick else 2),
        timing=Timing(**timing),
        run_s_max=60 * minutes,
        store_root=store_root or Path("/var/tmp"),  # noqa: S108 - never a memory file system
    )
    wrong = [load for load in plan.loads if load not in LOADS]
    if wrong:
        raise click.BadParameter(f"no load is named {wrong[0]!r}; there are {', '.join(LOADS)}")
    facts = _facts(plan)
    cells = len(plan.cells())
    sizes_text = ", ".join(map(size_text, plan.sizes))
    print(
        f"{len(names)} peers, {cells} cells each ({sizes_text}), {plan.rounds} rounds", flush=True
    )
    began = time.monotonic()
    outcome = run(plan, lambda row: print(line(row), flush=True))
    name = f"{facts['at'][:10]}-{facts['commit']['commit']}-peers{'-quick' if quick else ''}"
    report = write(facts, outcome, time.monotonic() - began, out, name)
    print(f"written: {report} and .json")


if __name__ == "__main__":
    main()

"""Drive shmq and Apache's broker in interleaved runs: `python -m bench.host.remoting SCENARIO`.

One system runs at a time, alone; figures are medians over the rounds. Results, with the machine and
the commit, go to bench/results/. See bench/README.md.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from bench.host.brokers import Places, jar_dir
from bench.host.clients import CLIENT_JVM, CONSUME_THREADS, build_loadgen
from bench.host.measure import commit, machine, table, write_result
from bench.host.scenarios import QUICK, SCENARIOS, Options, Outcome, make
from bench.host.wire import PeerError

SYSTEMS = ("apache", "shmq")


def _facts(options: Options) -> dict[str, Any]:
    """What stands beside the figures in a result file."""
    unstarted = Places(options.store_root, 0, 0)
    settings = asdict(options) | {"store_root": "(a temporary folder)"}
    return {
        "command": " ".join(["python -m bench.host.remoting", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(options.store_root),
        "settings": settings,
        "systems": {name: make(name, unstarted, options).settings() for name in options.systems},
        "apache_client": {"jvm": " ".join(CLIENT_JVM), "consume_threads": CONSUME_THREADS},
    }


def _show(outcome: Outcome) -> bool:
    """Print medians and targets; whether every target is met."""
    print("\n" + table(outcome.table) + "\n")
    for target in outcome.targets:
        verdict = "met" if target.met else "MISSED"
        print(f"{verdict:>7}  {target.what}: {target.value} (wanted {target.wanted})")
    return all(target.met for target in outcome.targets)


def _run(name: str, options: Options) -> bool:
    """One scenario from start to result file."""
    scenario = SCENARIOS[name]
    print(f"== {name}: {(scenario.__doc__ or '').strip()}", flush=True)
    facts = _facts(options)
    outcome = scenario(options)
    met = _show(outcome)
    place = write_result(name, facts, asdict(outcome))
    print(f"written: bench/results/{place.name}\n", flush=True)
    return met


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE options as a mapping."""
    pairs = [value.partition("=") for value in values]
    wrong = [key for key, equals, _value in pairs if not equals or not key]
    if wrong:
        msg = f"{wrong[0]!r}: give KEY=VALUE, a key of broker.conf"
        raise click.BadParameter(msg)
    return {key: value for key, _equals, value in pairs}


@click.command()
@click.argument("scenario", type=click.Choice([*SCENARIOS, "all"]))
@click.option(
    "--quick", is_flag=True, help="Tiny counts: shows that all works; figures mean nothing."
)
@click.option("--rounds", type=click.IntRange(min=1), help="Interleaved rounds (default 3).")
@click.option("--warmup-s", type=float, help="Before each measurement (default 10).")
@click.option("--seconds", type=float, help="Length of a measurement (default 20).")
@click.option("--cell-seconds", type=float, help="Length of one cell of `loadgen` (default 5).")
@click.option("--cell-warmup-s", type=float, help="Before one cell of `loadgen` (default 1).")
@click.option("--open-rate", type=float, help="Messages/s of the open loop (default 5000).")
@click.option("--messages", type=int, help="Stored messages of `catchup` (default 1,000,000).")
@click.option("--topics", type=int, help="Topics of `memory` (default 1000).")
@click.option("--connections", type=int, help="Connections of `memory` (default 200).")
@click.option(
    "--load-connections", type=int, help="Connections of the light generator (default 4)."
)
@click.option("--serialization", type=click.Choice(["json", "binary"]), help="Of the generator.")
@click.option("--apache-heap", help="-Xms and -Xmx of Apache's broker (default 2g).")
@click.option("--store-root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", type=click.Choice(SYSTEMS), help="One system instead of both.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A key of shmq's conf.")
@click.option("--strict", is_flag=True, help="Exit status 1 when a target is missed.")
def main(
    scenario: str,
    *,
    quick: bool,
    only: str | None,
    pairs: tuple[str, ...],
    strict: bool,
    **given: Any,
) -> None:
    """Measure SCENARIO on both systems."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    changes: dict[str, Any] = dict(QUICK) if quick else {}
    changes |= {key: value for key, value in given.items() if value is not None}
    options = replace(Options(), overrides=_pairs(pairs), **changes)
    if only is not None:
        options = replace(options, systems=(only,))
    build_loadgen()
    if "apache" in options.systems or scenario in {"producer", "catchup", "all"}:
        jar_dir()
    names = list(SCENARIOS) if scenario == "all" else [scenario]
    failed, met = [], True
    for name in names:
        try:
            met = _run(name, options) and met
        except PeerError as error:
            failed.append(name)
            print(f"FAILED {name}: {error}\n", file=sys.stderr, flush=True)
    if failed or (strict and not met):
        sys.exit(1)


if __name__ == "__main__":
    main()

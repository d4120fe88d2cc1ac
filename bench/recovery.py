"""How long a store takes to open after a crash: `python -m bench.recovery [--gib N]`.

A private broker on a real disk takes so many GiB of messages, and all of its processes are killed
at once. Then the start is timed, from the start of the program to its ready line, for:

    killed             kill -9; the page cache is warm, as it is when only the broker has died
    killed, cold       the same, with the store's files dropped from the page cache
    rebuild            kill -9, and all consumequeues deleted: every record is read and its CRC
                       checked, every entry written
    rebuild, cold      the same, with the store's files dropped from the page cache

After each the end of every queue is compared with what was sent. `empty` is the start on a new
folder: what a start takes anyway. `disk` reads the same files past the page cache. Medians over the
rounds; results go to bench/results/. See bench/README.md.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.host.measure import commit, machine, table, write_result
from bench.host.wire import Peer
from shmq.testing import PrivateBroker
from shmq.units import GiB, MiB

TOPICS = 4
QUEUES = 4
BATCH = 256
FLUSH_S = 120.0
PIECE = 8 * MiB
SIZES = (1024, 128)
SETTINGS = {
    "hotPoolSize": 752 * MiB,
    "mappedFileSizeCommitLog": 1024 * MiB,
    "mappedFileSizeConsumeQueue": 6_000_000,
}


def fill(broker: PrivateBroker, *, body_size: int, log_size: int) -> int:
    """Post until the commitlog has `log_size` bytes, to all topics in turn; messages of each."""
    bodies = np.random.default_rng(1).integers(0, 256, (BATCH, body_size), dtype=np.uint8)
    with broker.connect(timeout=FLUSH_S) as mq:
        producers = []
        for number in range(TOPICS):
            mq.create_topic(f"recovery{number}", queues=QUEUES)
            producers.append(mq.producer(f"recovery{number}", window=4096))
        sent = 0
        while end_of(broker) < log_size:
            for _ in range(64):
                for producer in producers:
                    producer.post_many(bodies, tags="TagA")
                sent += BATCH
        for producer in producers:
            producer.close()
    return sent


def end_of(broker: PrivateBroker) -> int:
    """Bytes of the commitlog: the files that are full, and the data of the last one."""
    files = sorted((broker.store / "commitlog").iterdir())
    if not files:
        return 0
    return int(files[-1].name) + files[-1].stat().st_blocks * 512


def check(broker: PrivateBroker, sent: int) -> None:
    """Every message that was sent is in a queue."""
    with Peer(broker.port) as peer:
        for number in range(TOPICS):
            found = peer.max_offset(f"recovery{number}", QUEUES)
            if found != sent:
                msg = f"recovery{number} has {found} messages of {sent}"
                raise RuntimeError(msg)


def drop_from_cache(store: Path) -> None:
    """Have the next read of these files come from the disk."""
    for path in store.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def disk_rate(store: Path, log_size: int) -> float:
    """MB/s of reading the commitlog past the page cache."""
    began = time.perf_counter()
    done = 0
    buffer = mmap.mmap(-1, PIECE)
    for path in sorted((store / "commitlog").iterdir()):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            while done < log_size and (size := os.preadv(fd, [buffer], done - int(path.name))):
                done += size
        finally:
            os.close(fd)
    return done / (time.perf_counter() - began) / 1e6


def timed_start(broker: PrivateBroker, *, rebuild: bool, cold: bool) -> float:
    """Seconds from the start of the program to its ready line."""
    if rebuild:
        shutil.rmtree(broker.store / "consumequeue")
    if cold:
        drop_from_cache(broker.store)
    began = time.perf_counter()
    broker.start()
    return time.perf_counter() - began


def measure(folder: Path, *, body_size: int, log_size: int, rounds: int) -> list[dict[str, Any]]:
    """One body size: the rows of its table."""
    broker = PrivateBroker(folder, **SETTINGS)
    times: dict[str, list[float]] = {"empty": [], "killed": [], "rebuild": []}
    times |= {"killed, cold": [], "rebuild, cold": []}
    try:
        times["empty"].append(timed_start(broker, rebuild=False, cold=False))
        sent = fill(broker, body_size=body_size, log_size=log_size)
        end = end_of(broker)
        for _ in range(rounds):
            for what in ("killed", "rebuild", "killed, cold", "rebuild, cold"):
                broker.crash()
                times[what].append(
                    timed_start(broker, rebuild="rebuild" in what, cold="cold" in what)
                )
                check(broker, sent)
        broker.stop()
        rate = disk_rate(broker.store, end)
    finally:
        broker.close()
    idle_s = times["empty"][0]
    rows = []
    for what, seconds in times.items():
        row = {
            "what": what,
            "body": body_size,
            "log_mb": round(end / 1e6),
            "messages": sent * TOPICS,
        }
        row |= {"seconds": round(statistics.median(seconds), 3), "runs": seconds}
        if "rebuild" in what:
            row["mb_per_s"] = round(end / 1e6 / (statistics.median(seconds) - idle_s))
        rows.append(row)
    rows.append({"what": "disk", "body": body_size, "mb_per_s": round(rate)})
    return rows


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=4.0, help="size of the commitlog")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--root", type=Path, default=Path("/var/tmp"))  # noqa: S108  a real disk
    parser.add_argument("--body", type=int, action="append", help="bytes; may be repeated")
    chosen = parser.parse_args()
    facts = {
        "command": " ".join(["python -m bench.recovery", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(chosen.root),
        "settings": SETTINGS | {"topics": TOPICS, "queues": QUEUES, "tags": "TagA"},
    }
    rows = []
    for body_size in chosen.body or SIZES:
        with tempfile.TemporaryDirectory(dir=chosen.root) as folder:
            rows += measure(
                Path(folder),
                body_size=body_size,
                log_size=int(chosen.gib * GiB),
                rounds=chosen.rounds,
            )
            print(table(rows), flush=True)
    print("written:", write_result("recovery", facts, {"table": rows}).name)


if __name__ == "__main__":
    main()

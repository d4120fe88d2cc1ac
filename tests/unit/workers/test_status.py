from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from shmq import config
from shmq.errors import LayoutError, Unavailable
from shmq.layout.control import BLOCKED_BY_FLUSH, Word
from shmq.layout.counters import Counter
from shmq.shm.arena import Arena, ArenaSizes
from shmq.shm.counters import CounterRow
from shmq.shm.queuetable import QueueWords
from shmq.shm.segment import names_of
from shmq.units import HOUR_MS, KiB, MiB
from shmq.workers import status
from shmq.workers.base import epoch_ms, monotonic_ms
from shmq.workers.context import instance_of
from shmq.workers.statefile import RunDirLock, write_state

POOL_SIZE = 1 * MiB


def settings_of(store: Path, **more: str) -> config.Settings:
    return config.load(None, {}, {"storePathRootDir": str(store), **more})[0]


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """A run directory that looks taken, as by a running broker."""
    folder = tmp_path / "store" / "run"
    folder.mkdir(parents=True)
    lock = RunDirLock(folder)
    lock.take()
    yield folder
    lock.release()


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """The shared memory of a broker on that store."""
    made = Arena.create(
        instance_of(tmp_path / "store"),
        ArenaSizes(
            serve_count=2,
            pool_size=POOL_SIZE,
            queues_max=64,
            hot_entries=16,
            ring_entries=8,
            ring_data_size=64 * KiB,
        ),
    )
    yield made
    made.unlink()
    for bell in made.bells.values():
        bell.close()
    assert names_of(made.instance) == []


def publish(arena: Arena, **words: int) -> None:
    for name, value in words.items():
        arena.writer(Word[name], role="boot").publish(value)


def write_broker_state(run_dir: Path, instance: str, **more: object) -> None:
    write_state(
        run_dir,
        {
            "kind": "broker",
            "pid": os.getpid(),
            "instance": instance,
            "version": "1.2.3",
            "startTimestamp": epoch_ms() - 90_000,
            "storePath": str(run_dir.parent),
            "addresses": {"main": "127.0.0.1:10911", "vip": "127.0.0.1:10909"},
            "flush": {"type": "ASYNC_FLUSH", "bytesMax": 1 * MiB, "millisMax": 10_000},
            "roles": [
                {"role": "writer", "pid": os.getpid(), "state": "ready", "restarts": 2},
                {"role": "flush", "pid": 0, "state": "down", "restarts": 7},
            ],
            **more,
        },
    )


@pytest.fixture
def running(run_dir: Path, arena: Arena) -> dict[str, Any]:
    """What is seen of a broker with a backlog in every place."""
    write_broker_state(run_dir, arena.instance)
    publish(
        arena,
        APPEND_OFFSET=900_000,
        WRITTEN_OFFSET=800_000,
        FLUSHED_OFFSET=700_000,
        REPUT_OFFSET=600_000,
        INDEX_OFFSET=550_000,
        HOT_START=500_000,
        LOG_START=100_000,
        STORE_STATE=1,
        MEMORY_TOTAL=8 * 1024 * MiB,
        MEMORY_AVAILABLE=2 * 1024 * MiB,
        DISK_USED=4217,
    )
    words = QueueWords(arena.queues)
    for queue_id in range(3):
        slot = arena.queues.allocate("Orders", queue_id)
        words.start_at(slot, min_offset=0, max_offset=10)
    arena.rings[1].submitted.publish(5)
    arena.rings[1].completed.publish(3)
    for row, sends in ((0, 7), (1, 4)):
        CounterRow(arena.counters, row).add(Counter.SENDS, sends)
    arena.holding(0).publish(4)
    arena.holding(1).publish(1)
    return status.collect(settings_of(run_dir.parent))


def test_offsets_and_what_a_power_cut_would_lose(running: dict[str, Any]) -> None:
    assert running["offsets"] == {
        "logStart": 100_000,
        "hotStart": 500_000,
        "acked": 0,
        "confirm": 0,
        "indexed": 550_000,
        "reput": 600_000,
        "flushed": 700_000,
        "written": 800_000,
        "append": 900_000,
    }
    assert running["bytes"] == {
        "kept": 800_000,
        "atRisk": 200_000,
        "unwritten": 100_000,
        "undispatched": 300_000,
        "hot": 400_000,
        "hotMax": POOL_SIZE,
    }


def test_queues_pulls_rings_machine(running: dict[str, Any]) -> None:
    assert running["queues"] == {"topics": 1, "count": 3, "countMax": 64, "entries": 30}
    assert running["pulls"] == {"holding": 5, "byServe": [4, 1]}
    assert [one["waiting"] for one in running["rings"]] == [0, 2]
    assert running["memory"] == {"total": 8 * 1024 * MiB, "available": 2 * 1024 * MiB}
    assert running["disk"] == {"usedPercent": 42.17}
    assert running["counters"]["sends"] == 11
    assert running["counters"]["pulledMessages"] == 0
    assert running["storeOpen"] is True
    assert running["blocked"] is None
    assert running["flushError"] is None


def test_roles_with_their_memory(running: dict[str, Any]) -> None:
    supervisor, writer, flush = running["roles"]
    assert (supervisor["role"], supervisor["pid"]) == ("supervisor", os.getpid())
    assert writer["ownMemory"] > MiB
    assert "ownMemory" not in flush
    assert 90_000 <= running["upMillis"] < 90_000 + 60_000


def test_segments_are_named_and_only_looked_at(running: dict[str, Any], arena: Arena) -> None:
    named = {one["name"]: one["size"] for one in running["segments"]}
    assert set(named) == set(names_of(arena.instance))
    assert named[f"/shmq.{arena.instance}.pool"] == POOL_SIZE
    pool = next(one for one in running["segments"] if one["name"].endswith(".pool"))
    assert pool["touched"] == 0, "to look must not take memory"


def test_text_says_all_of_it(running: dict[str, Any]) -> None:
    text = status.as_text(running)
    for part in (
        f"shmq broker 1.2.3, pid {os.getpid()}, up 1 min 30 s",
        "main      127.0.0.1:10911",
        "at risk (a power cut loses it): 195.3 KiB of at most 1.0 MiB, ",
        " of at most 10 s",
        "hot pages: 390.6 KiB of 1.0 MiB",
        "queues  3 of at most 64, 1 topics, 30 entries",
        "pulls   5 wait for a message",
        "memory  2.0 GiB of 8.0 GiB available",
        "disk    42.17 % used",
    ):
        assert part in text
    lines = text.splitlines()
    assert any(line.split()[:4] == ["append", "900000", "whole", "records"] for line in lines)
    assert any(line.split() == ["flush", "-", "down", "7", "-", "-"] for line in lines)
    assert "SENDS WAIT" not in text
    assert "acked" not in text, "no slave, no word of it"


def test_troubles_come_first(run_dir: Path, arena: Arena) -> None:
    write_broker_state(run_dir, arena.instance)
    publish(
        arena,
        BLOCKED_SINCE=epoch_ms() - 5000,
        BLOCKED_ON=BLOCKED_BY_FLUSH,
        FLUSH_ERROR=28,
        ACKED_OFFSET=0,
    )
    found = status.collect(settings_of(run_dir.parent))
    assert found["storeOpen"] is False
    assert found["flushError"] == {"errno": 28, "text": "No space left on device"}
    assert 5000 <= found["blocked"]["forMillis"] < 65_000
    text = status.as_text(found)
    assert "THE STORE IS CLOSED" in text
    assert "on the disk: hot pages wait to be written" in text
    assert "THE DISK REFUSED (errno 28, No space left on device)" in text
    assert text.index("THE STORE IS CLOSED") < text.index("commitlog")


def test_is_json(running: dict[str, Any]) -> None:
    assert orjson.loads(orjson.dumps(running)) == running


def test_none_runs(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="neither a broker nor a name server runs here"):
        status.collect(settings_of(tmp_path / "nothing"))


def test_left_state_file_is_no_broker(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "run"
    folder.mkdir(parents=True)
    write_broker_state(folder, "0123456789")
    with pytest.raises(Unavailable):
        status.collect(settings_of(tmp_path / "store"))


def test_just_starting(run_dir: Path) -> None:
    with pytest.raises(Unavailable, match="just starting or ending"):
        status.collect(settings_of(run_dir.parent))


def test_shared_memory_is_gone(run_dir: Path) -> None:
    write_broker_state(run_dir, "0123456789")
    with pytest.raises(LayoutError, match="no running broker"):
        status.collect(settings_of(run_dir.parent))


def test_run_dir_elsewhere(run_dir: Path, arena: Arena, tmp_path: Path) -> None:
    write_broker_state(run_dir, arena.instance)
    found = status.collect(settings_of(tmp_path / "unused", runDir=str(run_dir)))
    assert found["runDir"] == str(run_dir)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (-2048, "-2.0 KiB"),
        (5 * MiB + 512 * KiB, "5.5 MiB"),
        (3 * 1024 * 1024 * MiB, "3.0 TiB"),
        (3 * 1024**3 * MiB, "3072.0 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert status.size(count) == text


@pytest.mark.parametrize(
    ("millis", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (61_000, "1 min 1 s"),
        (HOUR_MS, "1 h 0 min"),
        ((2 * 24 + 7) * HOUR_MS + 1, "2 d 7 h"),
    ],
)
def test_duration(millis: int, text: str) -> None:
    assert status.duration(millis) == text


@contextlib.contextmanager
def running_namesrv(store: Path) -> Iterator[dict[str, Any]]:
    """A real `shmq namesrv`; gives its ready line."""
    command = [sys.executable, "-m", "shmq.workers.cli", "namesrv", "--json", "-p", "0"]
    process = subprocess.Popen(
        [*command, "--set", "bindAddress=127.0.0.1", "--store", store],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield orjson.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors.decode()


def test_of_a_real_name_server(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "store", namesrvListenPort="0")
    with running_namesrv(tmp_path / "store") as ready:
        found = status.collect(settings)
        assert found["pid"] == ready["pid"]
        assert found["addresses"] == ready["addresses"]
        assert [role["role"] for role in found["roles"]] == ["supervisor", "namesrv"]
        assert all(role["ownMemory"] > 0 for role in found["roles"])
        assert "offsets" not in found
        text = status.as_text(found)
        assert text.startswith("shmq namesrv ")
        assert ready["addresses"]["namesrv"] in text
    with pytest.raises(Unavailable):
        status.collect(settings)


def test_what_is_at_risk(run_dir: Path, arena: Arena) -> None:
    write_broker_state(run_dir, arena.instance)
    publish(arena, APPEND_OFFSET=900, FLUSHED_OFFSET=700, AT_RISK_SINCE=monotonic_ms() - 3000)
    found = status.collect(settings_of(run_dir.parent))["atRisk"]
    assert 3000 <= found.pop("millis") < 60_000
    assert found == {
        "flushType": "ASYNC_FLUSH",
        "bytes": 200,
        "bytesMax": 1 * MiB,
        "millisMax": 10_000,
    }
    publish(arena, FLUSHED_OFFSET=900)
    assert status.collect(settings_of(run_dir.parent))["atRisk"]["millis"] == 0
    write_broker_state(
        run_dir, arena.instance, flush={"type": "SYNC_FLUSH", "bytesMax": 0, "millisMax": 10_000}
    )
    text = status.as_text(status.collect(settings_of(run_dir.parent)))
    assert "at risk (a power cut loses it): 0 B, none of it confirmed (SYNC_FLUSH)" in text

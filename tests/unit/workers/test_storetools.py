"""`shmq verify` and `shmq export`: exit codes, output, pipes that nobody reads."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
from click.testing import CliRunner

from shmq.layout import record
from shmq.workers.cli import cli
from tests.unit.verify.smallstore import STAMP, SmallStore, filled, put

TIMEOUT_S = 30


class Ended(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def shmq(*arguments: str) -> Ended:
    """`shmq` in this process, which is quicker than one of its own."""
    found = CliRunner().invoke(cli, list(arguments), env={"SHMQ_CONF": None})
    return Ended(found.exit_code, found.stdout, found.stderr)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A sound store; not to be changed."""
    return filled(tmp_path_factory.mktemp("sound") / "store", 1500)


def sizes(store: SmallStore) -> list[str]:
    settings = store.settings
    return [
        f"--store={store.root}",
        "--set",
        f"mappedFileSizeCommitLog={settings.mapped_file_size_commit_log}",
        "--set",
        f"mappedFileSizeConsumeQueue={settings.mapped_file_size_consume_queue}",
    ]


def test_sound(store: SmallStore) -> None:
    found = shmq("verify", *sizes(store))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-1] == "sound: damage 0, warnings 0, notes 0"


def test_damaged(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    one = store.records[7]
    put(store.log_path(0), one.physical_offset + record.BODY_AT, b"X")
    found = shmq("verify", *sizes(store))
    assert found.returncode == 1
    lines = found.stdout.splitlines()
    at = one.physical_offset
    assert lines[0] == f"damage   commitlog/{0:020d} at byte {at}: body CRC differs"
    assert lines[-1] == "DAMAGED: damage 1, warnings 0, notes 0"


def test_as_json(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    put(store.log_path(0), store.records[7].physical_offset + record.BODY_AT, b"X")
    found = shmq("verify", *sizes(store), "--json", "--jobs", "2")
    finding, summary = map(orjson.loads, found.stdout.splitlines())
    assert (finding["kind"], finding["severity"]) == ("finding", "damage")
    assert (summary["kind"], summary["sound"], summary["damage"]) == ("summary", False, 1)
    assert summary["records"] == 30


@pytest.mark.parametrize("command", [["verify"], ["export", "-t", "T"]])
def test_no_store(tmp_path: Path, command: list[str]) -> None:
    found = shmq(*command, "--store", str(tmp_path))
    assert found.returncode == 2
    assert found.stderr.startswith("shmq: no store")


def test_a_foreign_broker_uses_the_store(tmp_path: Path) -> None:
    """Apache's takes the same lock; how far it is cannot be seen."""
    store = filled(tmp_path / "store")
    holder = (
        "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX,1,0);"
        "print('held',flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(store.root / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        found = shmq("verify", *sizes(store))
        assert found.returncode == 2
        assert f"holder_pid={process.pid}" in found.stderr
        assert shmq("export", "-t", "T", *sizes(store)).returncode == 0
        assert process.stdin is not None
        process.stdin.close()
        process.wait(TIMEOUT_S)


def test_progress_on_a_terminal_only(store: SmallStore) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "shmq.workers.cli", "verify", *sizes(store), "--jobs=1"]
    found = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=TIMEOUT_S
    )
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert found.returncode == 0
    assert b" left" in shown
    assert shown.endswith(b"\r\x1b[K"), "the line is taken away again"
    assert b"\x1b" not in found.stdout


# Export


def test_lines(store: SmallStore) -> None:
    found = shmq("export", *sizes(store), "-t", "T")
    assert (found.returncode, found.stderr) == (0, "")
    messages = [orjson.loads(line) for line in found.stdout.splitlines()]
    wanted = [one for one in store.records if one.topic == "T"]
    assert [one["body"] for one in messages] == [one.body.decode() for one in wanted]
    assert messages[0]["storeTime"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--limit", "2"], [0, 1]),
        (["--queue", "1", "--limit", "2"], [1, 4]),
        (["--key", "k4"], [4]),
        (["--until", str(STAMP + 4000)], [0, 1, 3, 4]),
        (["--since", str(STAMP + 3000), "--until", "2023-11-14T22:13:24"], [3, 4]),
        (["--since", "2023-11-14T23:13:23+01:00", "--until", str(STAMP + 4000)], [3, 4]),
        (["--since", "1h"], []),
    ],
)
def test_selected(store: SmallStore, arguments: list[str], numbers: list[int]) -> None:
    found = shmq("export", *sizes(store), "-t", "T", *arguments)
    assert found.returncode == 0
    bodies = [orjson.loads(line)["body"] for line in found.stdout.splitlines()]
    assert bodies == [f"body {number}" for number in numbers]


def test_formats(store: SmallStore) -> None:
    how = (*sizes(store), "-t", "Other", "--limit", "3")
    bodies = [one.body.decode() for one in store.records if one.topic == "Other"][:3]
    assert shmq("export", *how, "--format=bodies").stdout == "\n".join(bodies) + "\n"
    array = orjson.loads(shmq("export", *how, "--format=json").stdout)
    assert [one["body"] for one in array] == bodies
    raw = CliRunner().invoke(cli, ["export", *how, "--format=raw"]).stdout_bytes
    assert record.decode(raw).body.decode() == bodies[0]
    nothing = shmq("export", *sizes(store), "-t", "T", "--key=none", "--format=json").stdout
    assert orjson.loads(nothing) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-t", "none"], "no such topic"),
        (["-t", "T", "--queue", "7"], "the topic has no such queue"),
        (["-t", "T", "--since", "yesterday"], "no point in time"),
        ([], "Missing option '-t'"),
    ],
)
def test_wrong_usage(store: SmallStore, arguments: list[str], says: str) -> None:
    found = shmq("export", *sizes(store), *arguments)
    assert found.returncode == 2
    assert says in found.stderr


def test_nobody_reads_a_verdict(store: SmallStore) -> None:
    """The exit code still says it."""
    command = [sys.executable, "-m", "shmq.workers.cli", "verify", *sizes(store)]
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=TIMEOUT_S
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (0, b"")


def test_nobody_reads_on(store: SmallStore) -> None:
    """`| head` ends it, without a word and without an error."""
    command = [sys.executable, "-m", "shmq.workers.cli", "export", *sizes(store), "-t", "T"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"msgId"')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("queues", [True, False])
def test_damaged_messages_are_left_out(tmp_path: Path, *, queues: bool) -> None:
    store = filled(tmp_path / "store")
    for number in (3, 6):
        place = store.records[number].physical_offset
        put(store.log_path(0), place + (record.BODY_AT if number == 3 else 0), b"X")
    if not queues:
        (store.root / "consumequeue").rename(tmp_path / "elsewhere")
    found = shmq("export", *sizes(store), "-t", "T")
    assert found.returncode == 1
    assert len(found.stdout.splitlines()) == 18
    assert found.stderr.splitlines()[-1].startswith("shmq: 2 damaged")


def test_messages_that_have_no_entry_yet(tmp_path: Path) -> None:
    """After a crash the newest are in the log alone."""
    store = SmallStore(tmp_path / "store")
    for number in range(6):
        store.append(queue_id=number % 2, enter=number < 3)
    store.append("Other", enter=False)
    store.finish()
    (store.root / "abort").write_text("1")
    found = shmq("export", *sizes(store), "-t", "T")
    bodies = [orjson.loads(line)["body"] for line in found.stdout.splitlines()]
    assert bodies == [f"body {number}" for number in range(6)]
    assert len(shmq("export", *sizes(store), "-t", "Other").stdout.splitlines()) == 1

"""`shmq verify` and `shmq export` beside a broker that works, and after one that was killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from shmq.testing import PrivateBroker
from shmq.workers.cli import cli
from tests.compat.processes import eventually

pytestmark = pytest.mark.crash
TIMEOUT_S = 60


def shmq(broker: PrivateBroker, command: str, *arguments: str) -> list[dict[str, Any]]:
    """What a command prints, after it ended with exit code 0. It runs in this process."""
    place = [f"--store={broker.store}", "-c", str(broker.folder / "broker.conf")]
    found = CliRunner().invoke(cli, [command, *place, *arguments])
    assert (found.exit_code, found.stderr) == (0, ""), found.stdout[-3000:]
    return [orjson.loads(line) for line in found.stdout.splitlines()]


def verify(broker: PrivateBroker) -> list[dict[str, Any]]:
    """Findings and summary. Without processes: this one has threads."""
    return shmq(broker, "verify", "--json", "--jobs=1")


@contextmanager
def load(broker: PrivateBroker, sent: list[bytes]) -> Iterator[None]:
    """Messages are sent, and noted when they are confirmed."""
    stopping = threading.Event()

    def send() -> None:
        with broker.connect() as mq:
            while not stopping.is_set():
                body = b"message %07d " % len(sent) + b"x" * 4000
                mq.send("orders", body)
                sent.append(body)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def has(sent: list[bytes], count: int) -> bool:
    """Whether so many messages are confirmed."""
    return len(sent) >= count


def test_beside_a_working_broker(tmp_path: Path) -> None:
    sent: list[bytes] = []
    with PrivateBroker(tmp_path, mappedFileSizeCommitLog=2**20) as broker:
        with load(broker, sent):
            for goal in (100, 400):  # Files end and begin meanwhile.
                eventually("messages are sent", partial(has, sent, goal))
                *findings, summary = verify(broker)
                assert {one["severity"] for one in findings} <= {"info"}
                assert summary["sound"]
        written = {one["body"] for one in shmq(broker, "export", "-t", "orders")}
        eventually(
            "all is in the files",
            lambda: len(shmq(broker, "export", "-t", "orders")) == len(sent),
        )
    assert written <= {body.decode() for body in sent}
    *findings, summary = verify(broker)
    assert (findings, summary["records"], summary["entries"]) == ([], len(sent), len(sent))


def test_after_a_kill(tmp_path: Path) -> None:
    """What is only in shared memory is said; the next start brings it into the files."""
    sent: list[bytes] = []
    with PrivateBroker(tmp_path) as broker:
        with load(broker, sent):
            eventually("messages are sent", lambda: len(sent) >= 300)
        broker.crash()
        *findings, summary = verify(broker)
        assert summary["sound"]
        assert "the last broker did not end cleanly" in {one["what"] for one in findings}
        broker.start()
        broker.stop()
        *findings, summary = verify(broker)
        assert (findings, summary["records"]) == ([], len(sent))
        bodies = [one["body"] for one in shmq(broker, "export", "-t", "orders")]
        assert bodies == [body.decode() for body in sent]

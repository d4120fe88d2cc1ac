"""The first messages of README.md: each snippet as it stands there, against a broker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.drivers import HERE
from tests.compat.peers import ROOT, Broker

TIMEOUT_S = 120
NAMESRV = "127.0.0.1:9876"
ADDRESS = "127.0.0.1:10911"


def snippet(language: str, broker: Broker) -> str:
    text = (ROOT / "README.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    code: str = found[0]
    assert NAMESRV in code or ADDRESS in code
    return code.replace(NAMESRV, broker.namesrv).replace(ADDRESS, broker.address)


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(3 * TIMEOUT_S)
def test_first_messages(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "Hello.java").write_text(snippet("java", broker))
    jars = HERE / "java" / "lib" / "5.5.0" / "*"
    said = run("java", "-cp", jars, "Hello.java", cwd=tmp_path)
    assert "SEND_OK" in said

    for name in ("go.mod", "go.sum"):
        shutil.copy(HERE / "go" / name, tmp_path)
    (tmp_path / "main.go").write_text(snippet("go", broker))
    said = run("go", "run", "-mod=mod", ".", cwd=tmp_path, CGO_ENABLED="0")
    assert "SendResult [sendStatus=0" in said

    # One of the topic's queues has the first message; the snippet reads queue 0.
    code = snippet("python", broker)
    said = ""
    for queue_id in range(8):
        one = code.replace('"queueId": "0"', f'"queueId": "{queue_id}"')
        said += run(sys.executable, "-c", one, cwd=ROOT)
    assert "b'hello from Java'" in said
    assert "b'hello from Go'" in said

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


def snippet(language: str, broker: Broker) -> str:
    text = (ROOT / "README.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    code: str = found[0]
    assert NAMESRV in code
    return code.replace(NAMESRV, broker.namesrv)


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

    said = run(sys.executable, "-c", snippet("python", broker), cwd=ROOT)
    for language in ("Java", "Go", "Python"):
        assert f"b'hello from {language}'" in said

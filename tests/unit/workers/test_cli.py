from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from shmq import __version__
from shmq.config.describe import FIELDS
from shmq.config.ignored import IGNORED
from shmq.layout import checkpoint
from shmq.workers.cli import cli

COMMANDS = (
    "standalone",
    "broker",
    "namesrv",
    "status",
    "retention",
    "dump",
    "reset-offset",
    "verify",
    "export",
    "config",
)
TIMEOUT_S = 30


def run(*arguments: str, environ: Mapping[str, str | None] | None = None) -> Result:
    """`shmq` in this process, in an environment without settings."""
    clean: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith("SHMQ_") or name == "NAMESRV_ADDR"
    }
    return CliRunner().invoke(cli, list(arguments), env={**clean, **(environ or {})})


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`shmq` as a process."""
    command = [sys.executable, "-m", "shmq.workers.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, stdin=None
    )


def test_help_names_every_command() -> None:
    found = run("--help")
    assert found.exit_code == 0
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", found.stdout, re.MULTILINE)
    assert tuple(listed) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_helps_with_examples(command: str, option: str) -> None:
    found = run(command, option)
    assert found.exit_code == 0
    assert f"    shmq {command}" in found.stdout.partition("Examples:")[2]


def test_version() -> None:
    assert run("--version").stdout == f"shmq, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["standalone", "--nonsense"], "--nonsense"),
        (["standalone", "surplus"], "unexpected extra argument (surplus)"),
        (["standalone", "--listen", "10911"], "'10911' is not HOST:PORT, for example"),
        (["standalone", "--listen", "::1:10911"], "'::1:10911' is not HOST:PORT"),
        (["standalone", "--set", "listenPort"], "'listenPort' is not KEY=VALUE"),
        (["standalone", "--set", "=1"], "'=1' is not KEY=VALUE"),
        (["namesrv", "-p", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["namesrv", "-p", "1", "--listen", ":2"], "--port and --listen both name a port"),
        (["config", "--check", "--keys"], "exclude each other"),
        (["dump"], "Missing argument 'TARGET'"),
        (["dump", "x", "--limit", "0"], "0 is not in the range x>=1"),
        (["dump", "x", "--from", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert found.stdout == ""
    last = found.stderr.rstrip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert says in last


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("lisenPort=1", "unknown key 'lisenPort' in command line; did you mean listenPort?"),
        ("useTLS=true", "unknown key 'useTLS' in command line; `shmq config --keys` lists all"),
        ("listenPort=99999", "listenPort in command line: found='99999' allowed=3 to 65535"),
        ("listenPort=ten", "listenPort in command line: found='ten' allowed=3 to 65535"),
        ("flushDiskType=MAYBE", "allowed=ASYNC_FLUSH | SYNC_FLUSH"),
        ("autoCreateTopicEnable=maybe", "allowed=true or false"),
        ("haListenPort=10911", "haListenPort and listenPort are the same port: found=10911"),
        ("aclEnable=true", "access control is not built yet"),
    ],
)
@pytest.mark.parametrize("command", ["standalone", "broker", "namesrv", "status", "config"])
def test_wrong_settings_are_one_line(command: str, pair: str, says: str) -> None:
    found = run(command, "--set", pair)
    assert found.exit_code == 2
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert line.startswith("shmq: ")
    assert says in line


def test_standalone_refuses_a_name_server_on_the_brokers_port() -> None:
    found = run("standalone", "--namesrv-listen", "127.0.0.1:10911")
    assert found.exit_code == 2
    assert found.stderr == "shmq: namesrvListenPort and listenPort are the same port: found=10911\n"


# config


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "broker.conf"


def listen_port(*arguments: str, environ: Mapping[str, str | None] | None = None) -> int:
    found = run("config", "--json", *arguments, environ=environ)
    assert found.exit_code == 0, found.stderr
    port: int = orjson.loads(found.stdout)["settings"]["listenPort"]
    return port


def test_what_counts_more(conf: Path) -> None:
    conf.write_text("listenPort=2000\n")
    variable = {"SHMQ_LISTEN_PORT": "3000"}
    assert listen_port() == 10911
    assert listen_port("-c", str(conf)) == 2000
    assert listen_port("-c", str(conf), environ=variable) == 3000
    assert listen_port("-c", str(conf), "--set", "listenPort=4000", environ=variable) == 4000
    assert listen_port("--set", "listenPort=1", "--set", "listenPort=5000") == 5000


def test_check_of_a_right_file(conf: Path) -> None:
    conf.write_text("brokerName = a\nflushDiskType : SYNC_FLUSH\n")
    found = run("config", "-c", str(conf), "--check")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout == f"right: {conf}\n"


@pytest.mark.parametrize("key", ["sendMessageThreadPoolNums", "rocketmqHome"])
def test_keys_without_effect_are_warned_of(conf: Path, key: str) -> None:
    conf.write_text(f"listenPort=2000\n{key}=1\n")
    found = run("config", "-c", str(conf), "--check")
    assert found.exit_code == 0
    assert found.stderr == (f"shmq: warning: {conf} line 2: {key} has no effect: {IGNORED[key]}\n")


def test_check_of_a_wrong_file_names_the_line(conf: Path) -> None:
    conf.write_text("# ports\nlistenPort=2000\n\nbrokerNmae=a\n")
    found = run("config", "-c", str(conf), "--check")
    assert found.exit_code == 2
    assert found.stderr == (
        f"shmq: unknown key 'brokerNmae' in {conf} line 4; did you mean brokerName?;"
        " `shmq config --keys` lists all\n"
    )


def test_no_such_file(tmp_path: Path) -> None:
    found = run("config", "-c", str(tmp_path / "none"), "--check")
    assert found.exit_code == 2
    assert "cannot read the settings" in found.stderr
    assert "No such file" in found.stderr


def test_variable_that_is_no_setting() -> None:
    found = run("config", "--check", environ={"SHMQ_LISEN_PORT": "1"})
    assert found.exit_code == 0
    assert "SHMQ_LISEN_PORT is no setting; did you mean SHMQ_LISTEN_PORT?" in found.stderr


def test_what_holds_can_be_read_back(conf: Path, tmp_path: Path) -> None:
    conf.write_text("brokerName=a.b\nstorePathRootDir=/tmp/x\\\\y\n")
    shown = run("config", "-c", str(conf))
    again = tmp_path / "again.conf"
    again.write_text(shown.stdout)
    assert run("config", "-c", str(again)).stdout == shown.stdout
    assert "storePathRootDir=/tmp/x\\\\y\n" in shown.stdout


def test_changed_only(conf: Path) -> None:
    conf.write_text("flushDiskType=SYNC_FLUSH\nmaxMessageSize=4194304\n")
    lines = run("config", "-c", str(conf), "--changed").stdout.splitlines()
    assert "flushDiskType=SYNC_FLUSH" in lines
    assert not any(line.startswith("maxMessageSize=") for line in lines)


def test_keys() -> None:
    text = run("config", "--keys").stdout
    listed = orjson.loads(run("config", "--keys", "--json").stdout)
    assert [key["key"] for key in listed] == list(FIELDS)
    assert all(f"  {key} " in text for key in FIELDS)


def test_explain() -> None:
    found = run("config", "--explain", "flushDiskType")
    assert "allowed   ASYNC_FLUSH | SYNC_FLUSH" in found.stdout
    assert orjson.loads(run("config", "--explain", "flushDiskType", "--json").stdout)["default"]
    assert "without effect" in run("config", "--explain", "rocketmqHome").stdout
    wrong = run("config", "--explain", "flushdisktype")
    assert wrong.exit_code == 2
    assert "did you mean flushDiskType?" in wrong.stderr


# status and dump


def test_status_when_none_runs(tmp_path: Path) -> None:
    found = run_process("status", "--store", str(tmp_path))
    assert (found.returncode, found.stdout) == (1, "")
    (line,) = found.stderr.splitlines()
    assert line.startswith("shmq: neither a broker nor a name server runs here: ")
    assert str(tmp_path) in line


def test_dump_as_text_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint.encode(checkpoint.Checkpoint(confirm_offset=17)))
    found = run("dump", str(path))
    assert found.exit_code == 0
    assert found.stdout.startswith("checkpoint ")
    assert found.stdout.endswith(" confirmOffset=17 vouchedOffset=0\n")
    assert orjson.loads(run("dump", str(path), "--json").stdout)["confirmOffset"] == 17


def test_dump_with_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a":1,"b":2,"c":3,"d":4}')
    lines = run("dump", str(path), "--from", "1", "--limit", "2").stdout.splitlines()
    assert lines == ["field name=b value=2", "field name=c value=3"]


def test_dump_of_nothing() -> None:
    found = run_process("dump", "/nothing/here")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "shmq: no such file, folder or segment: target=/nothing/here\n"


def test_process_with_wrong_arguments() -> None:
    found = run_process("standalone", "--listen", "nowhere")
    assert (found.returncode, found.stdout) == (2, "")
    assert "is not HOST:PORT" in found.stderr
    assert "Traceback" not in found.stderr


def test_help_is_quick_to_import() -> None:
    code = "import sys, shmq.workers.cli; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    assert not {"numpy", "orjson", "structlog", "posix_ipc"} & set(found.stdout.split())


def test_retention_explains_a_stopped_store(tmp_path: Path) -> None:
    folder = tmp_path / "commitlog"
    folder.mkdir()
    size = 65_536
    for number, age_h in enumerate((100, 1, 0)):
        path = folder / f"{number * size:020d}"
        path.write_bytes(bytes(size))
        stamp = path.stat().st_mtime - age_h * 3600
        os.utime(path, (stamp, stamp))
    every_hour = ";".join(f"{hour:02d}" for hour in range(24))
    arguments = (
        *("retention", "explain", "--store", str(tmp_path)),
        *("--set", f"mappedFileSizeCommitLog={size}", "--set", f"deleteWhen={every_hour}"),
    )
    text = run(*arguments)
    assert text.exit_code == 0, text.stderr
    assert "no broker runs" in text.stdout
    assert "1 of 3 files go now" in text.stdout
    lines = text.stdout.splitlines()[-3:]
    assert re.search(r"^0{20} .* now .* older than 72 h \(fileReservedTime\), and it is", lines[0])
    assert re.search(r"65536 .* \d{4}-\d\d-\d\d \d\d:\d\d .* not older than 72 h", lines[1])
    assert "not yet" in lines[2]
    found = orjson.loads(run(*arguments, "--json", "--set", "storeQuotaBytes=1").stdout)
    assert [one["cause"] for one in found["files"]] == ["quota", "quota", "newest"]
    assert found["files"][0]["why"].endswith("1 B is allowed (storeQuotaBytes)")
    assert len(list(folder.iterdir())) == 3, "nothing is deleted"


def test_retention_without_a_store(tmp_path: Path) -> None:
    found = run("retention", "explain", "--store", str(tmp_path))
    assert (found.exit_code, found.stdout) == (1, "")
    assert "no store here" in found.stderr

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 30
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("shmq/*/README.md"))
    if path.is_file()
)


@pytest.fixture
def make(tmp_path: Path) -> ModuleType:
    """docs/make.py, at work on a copy of the folder."""
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.FOLDER = shutil.copytree(ROOT / "docs", tmp_path / "docs")  # type: ignore[attr-defined]
    return module


def test_stale_document_is_named_and_made_anew(
    make: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make.main(["--check"]) == 0
    document = make.FOLDER / "settings.md"
    right = document.read_text()
    document.write_text(right.replace("10911", "10912"))
    assert make.main(["--check"]) == 1
    assert "docs/settings.md is stale" in capsys.readouterr().err
    assert make.main([]) == 0
    assert document.read_text() == right
    (make.FOLDER / "commands.md").unlink()
    assert make.main(["--check"]) == 1


def test_wrong_arguments(make: ModuleType) -> None:
    assert make.main(["--nonsense"]) == 2


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    listed = set(re.findall(r"^make ([a-z-]+)", done.stdout, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert listed == set(phony[1].split())


def test_set_up_refuses_what_it_does_not_know() -> None:
    done = subprocess.run(
        [ROOT / "tools" / "setup.sh", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stdout) == (1, "")
    levels = "run, check, test and powercut"
    assert done.stderr == f"setup: no such set-up: nonsense; there are {levels}\n"

"""The built wheel in an empty environment: it works, and it brings nothing but shmq."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from shmq import __version__

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "setup.cfg", "setup.py", "shmq", "workers")
OTHERS = ("bench", "tests", "docs")
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.c", "*.egg-info")
TIMEOUT_S = 900

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S)]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that nothing built before is in it."""
    folder = tmp_path_factory.mktemp("sources")
    for name in (*SOURCES, *OTHERS):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=BUILT)
        else:
            shutil.copy(source, folder / name)
    built = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", built, folder)
    (found,) = built.iterdir()
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel and what it depends on."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(place, with_pip=True)
    before = names_in(place)
    run(place / "bin" / "python", "-m", "pip", "install", "-q", wheel)
    (place / "before").write_text("\n".join(sorted(before)))
    return place


def names_in(environment: Path) -> set[str]:
    (packages,) = environment.glob("lib/python*/site-packages")
    return {path.name for path in packages.iterdir()}


def test_files_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"shmq", f"shmq-{__version__}.dist-info"}
    for needed in ("shmq/py.typed", "shmq/kernels/append.pyi", "shmq/workers/cli.py"):
        assert needed in names
    kernels = [name for name in names if name.endswith(".so")]
    assert any(name.startswith("shmq/kernels/append.") for name in kernels)
    twins = {path.stem for path in (ROOT / "shmq" / "kernels").glob("*.pyi")}
    compiled = {name.removeprefix("shmq/kernels/").partition(".")[0] for name in kernels}
    assert twins <= compiled


def test_only_shmq_comes_into_the_environment(environment: Path) -> None:
    before = set((environment / "before").read_text().split("\n"))
    added = names_in(environment) - before
    assert {"shmq", f"shmq-{__version__}.dist-info"} <= added
    assert not added & {"workers", "bench", "tests", "docs", "tools", "setup.py"}
    script = "import importlib.metadata as m; print(*m.files('shmq'), sep='\\n')"
    files = run(environment / "bin" / "python", "-c", script).splitlines()
    tops = {file.partition("/")[0] for file in files if not file.startswith("../../../bin/")}
    assert tops == {"shmq", f"shmq-{__version__}.dist-info"}


def test_it_works_from_anywhere(environment: Path, tmp_path: Path) -> None:
    for name in ("workers", "bench", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of the user')")
    shmq = environment / "bin" / "shmq"
    assert "standalone" in run(shmq, "--help", cwd=tmp_path)
    assert run(shmq, "--version", cwd=tmp_path) == f"shmq, version {__version__}\n"
    assert run(shmq, "config", "--check", cwd=tmp_path).startswith("right: ")


def test_kernels_are_the_compiled_ones(environment: Path, tmp_path: Path) -> None:
    kernels = sorted(path.stem for path in (ROOT / "shmq" / "kernels").glob("*.pyi"))
    script = "\n".join(
        (
            "import importlib",
            f"for name in {kernels!r}:",
            "    print(importlib.import_module('shmq.kernels.' + name).__file__)",
        )
    )
    places = run(environment / "bin" / "python", "-c", script, cwd=tmp_path).splitlines()
    assert len(places) == len(kernels) > 3
    for place in places:
        assert place.endswith(".so")
        assert place.startswith(str(environment))

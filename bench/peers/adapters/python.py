"""What the peers that Python drives share."""

from __future__ import annotations

from typing import Final

from bench.peers.peer import INSTALLED, ROOT

PYTHON: Final = INSTALLED / "venv" / "bin" / "python"
# Agents find this project's modules, and write no compiled files.
ENV: Final = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def agent(module: str, python: str = str(PYTHON)) -> list[str]:
    """A module of bench.peers.python."""
    return [python, "-m", f"bench.peers.python.{module}"]

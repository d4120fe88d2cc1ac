"""What several kinds of tests share: golden data of a real RocketMQ, one hypothesis profile."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, settings

# No deadlines, since other processes share the machine.
settings.register_profile(
    "shmq", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("shmq")

GOLDEN_DIR = Path(os.environ.get("SHMQ_GOLDEN") or Path(__file__).parent / "golden" / "data")
STORE_MANIFESTS = {"clean": "manifest", "crashed": "manifest-crashed"}

UnpackStore: TypeAlias = Callable[[str, Path], Path]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder with the golden data; its README.md says what is in it."""
    assert GOLDEN_DIR.is_dir(), GOLDEN_DIR
    return GOLDEN_DIR


@pytest.fixture(scope="session")
def golden_manifests(golden_dir: Path) -> dict[str, dict[str, Any]]:
    """Manifests of the two stores, by "clean" and "crashed"."""
    manifests = {}
    for store, name in STORE_MANIFESTS.items():
        plain = golden_dir / f"{name}.json"
        data = plain.read_bytes() if plain.exists() else None
        if data is None:
            data = gzip.decompress((golden_dir / f"{name}.json.gz").read_bytes())
        manifests[store] = json.loads(data)
    return manifests


@pytest.fixture(scope="session")
def unpack_golden_store(golden_dir: Path) -> UnpackStore:
    """Function that unpacks the store "clean" or "crashed" into a folder, without the timer files.

    Gives that folder: a store root that a test may change.
    """

    def unpack(store: str, target: Path) -> Path:
        with tarfile.open(golden_dir / f"rocketmq-store-{store}.tar.gz") as tar:
            members = [member for member in tar if not member.name.startswith("./timer")]
            tar.extractall(target, members, filter="data")
        return target

    return unpack

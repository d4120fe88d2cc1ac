"""The two golden stores, unpacked once for tests that only read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class GoldenStore(NamedTuple):
    """A store folder and what Apache's own reader saw in it."""

    root: Path
    manifest: dict[str, Any]
    commitlog: dict[int, bytes]  # by first offset

    def record_bytes(self, stored: dict[str, Any]) -> bytes:
        """Bytes of a record of the manifest."""
        offset = stored["commitlogOffset"]
        first = max(start for start in self.commitlog if start <= offset)
        return self.commitlog[first][offset - first : offset - first + stored["size"]]


@pytest.fixture(scope="session", params=["clean", "crashed"])
def golden_store(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    golden_manifests: dict[str, dict[str, Any]],
    unpack_golden_store: Callable[[str, Path], Path],
) -> GoldenStore:
    """Each of the two stores; not to be changed."""
    root = unpack_golden_store(request.param, tmp_path_factory.mktemp(request.param))
    commitlog = {int(file.name): file.read_bytes() for file in (root / "commitlog").iterdir()}
    return GoldenStore(root, golden_manifests[request.param], commitlog)

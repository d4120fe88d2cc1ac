"""Tables that are replaced as a whole: whatever dies when, one whole version is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shmq.errors import StoreError
from shmq.store import tables
from shmq.store.tables import TableFile, set_aside


def text(data: bytes) -> str:
    if not data.startswith(b"table "):
        raise ValueError("no table")
    return data.decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "topics.json"


def test_replaced_and_loaded(path: Path) -> None:
    table = TableFile(path)
    assert table.load(text) is None
    for number in range(3):
        table.replace(b"table %d" % number)
        assert TableFile(path).load(text) == f"table {number}"
    assert path.with_name("topics.json.bak").read_bytes() == b"table 1"
    assert sorted(file.name for file in path.parent.iterdir()) == ["topics.json", "topics.json.bak"]


class Died(BaseException):
    """The process was killed here."""


def die_at(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Die before or after the n-th of: sync, rename, rename, sync of the folder."""
    left = [place]

    def seam(call: Callable[..., object]) -> Callable[..., object]:
        def dying(*args: object, **more: object) -> object:
            for moment in range(2):
                if left[0] == 0:
                    raise Died
                left[0] -= 1
                if moment == 0:
                    result = call(*args, **more)
            return result

        return dying

    monkeypatch.setattr(os, "fsync", seam(os.fsync))
    monkeypatch.setattr(Path, "replace", seam(Path.replace))


@pytest.mark.parametrize("place", range(9))
def test_killed_at_any_place(path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    table = TableFile(path)
    table.replace(b"table 1")
    table.replace(b"table 2")
    with monkeypatch.context() as patch:
        die_at(patch, place)
        if place < 8:
            with pytest.raises(Died):
                table.replace(b"table 3")
        else:
            table.replace(b"table 3")
    found = TableFile(path).load(text)
    assert found == ("table 3" if place >= 5 else "table 2")
    again = TableFile(path)
    again.replace(b"table 4")
    assert TableFile(path).load(text) == "table 4"


@pytest.mark.parametrize("cut", range(8))
def test_a_damaged_table_is_kept_and_the_one_before_taken(path: Path, cut: int) -> None:
    table = TableFile(path)
    table.replace(b"table 1")
    table.replace(b"table 22")
    path.write_bytes(b"table 22"[:cut] if cut < 6 else b"?" * cut)
    again = TableFile(path)
    assert again.load(text) == "table 1"
    assert [file.name for file in again.damaged] == ["topics.json.damaged-1"]
    assert again.damaged[0].exists()
    again.replace(b"table 3")
    assert TableFile(path).load(text) == "table 3"


def test_two_damaged_tables_stop_the_start(path: Path) -> None:
    table = TableFile(path)
    table.replace(b"table 1")
    table.replace(b"table 2")
    path.write_bytes(b"x")
    path.with_name("topics.json.bak").write_bytes(b"")
    with pytest.raises(StoreError, match="neither the file nor its previous version") as raised:
        TableFile(path).load(text)
    assert len(raised.value.facts["kept_as"]) == 2  # type: ignore[arg-type]
    assert TableFile(path).load(text) is None, "an operator who removes them begins anew"


def test_a_table_too_large_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TableFile(path).replace(b"table 1")
    monkeypatch.setattr(tables, "TABLE_SIZE_MAX", 6)
    with pytest.raises(StoreError, match="too large"):
        TableFile(path).load(text)


def test_a_refused_write_leaves_the_table(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = TableFile(path)
    table.replace(b"table 1")
    with monkeypatch.context() as patch:

        def refused(_fd: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", refused)
        with pytest.raises(OSError, match="No space left"):
            table.replace(b"table 2")
    assert TableFile(path).load(text) == "table 1"


def test_damaged_files_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    monkeypatch.setattr(tables, "DAMAGED_COUNT_MAX", 3)
    for number in (1, 2):
        path.write_text("x")
        assert set_aside(path).name == f"x.damaged-{number}"
    path.write_text("x")
    with pytest.raises(StoreError, match="too many damaged files"):
        set_aside(path)

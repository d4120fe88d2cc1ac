from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from shmq.config.describe import FIELDS, Field, as_markdown, explain
from shmq.config.ignored import IGNORED
from shmq.config.table import Settings

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "shmq" / "config"
READ_AS = {
    "namesrv_addr": "namesrv_addresses",
    "socket_mode": "socket_mode_bits",
    "message_delay_level": "delay_level_millis",
    "native_allowed_uids": "native_uids",
    "native_allowed_gids": "native_gids",
}
"""Fields that are read through a property of Settings."""


@cache
def code_that_reads() -> str:
    """Everything but the settings package itself."""
    places = [*ROOT.glob("shmq/*/*.py"), *ROOT.glob("workers/*.py")]
    return "\n".join(path.read_text() for path in places if path.parent != CONFIG)


@pytest.mark.parametrize("field", FIELDS.values(), ids=list(FIELDS))
def test_what_nobody_reads_is_said_to_be_planned(field: Field) -> None:
    name = READ_AS.get(field.name, field.name)
    read = re.search(rf"\b{name}\b", code_that_reads()) is not None
    assert read or field.later, f"{field.key} sets nothing: mark it later=True"


@pytest.mark.parametrize("field", FIELDS.values(), ids=list(FIELDS))
def test_what_is_read_is_not_said_to_be_planned(field: Field) -> None:
    read = re.search(rf"\bsettings\.{field.name}\b", code_that_reads()) is not None
    assert not (read and field.later), f"{field.key} is read: take its later=True away"


@pytest.mark.parametrize("field", FIELDS.values(), ids=list(FIELDS))
def test_every_key_is_described(field: Field) -> None:
    assert field.description.endswith((".", ".`"))
    assert field.section
    assert field.variable == "SHMQ_" + field.name.upper()
    assert getattr(Settings(), field.name) == field.default
    text = explain(field.key)
    assert field.description in text
    assert f"variable  {field.variable}" in text


def test_document_has_every_key() -> None:
    text = as_markdown()
    for key in FIELDS:
        assert text.count(f"| `{key}` |") == 1
    for key in IGNORED:
        assert f"`{key}`" in text
    assert explain("rocketmqHome").startswith("rocketmqHome\n  Accepted, without effect: ")
    assert explain("nonsense") == ""

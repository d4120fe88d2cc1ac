"""What `shmq config` prints, as objects for JSON and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmq.config.describe import FIELDS, Field, as_conf, explain, java_text
from shmq.config.ignored import IGNORED
from shmq.config.sources import unknown_key

if TYPE_CHECKING:
    from shmq.config import Settings


def keys() -> list[dict[str, Any]]:
    """The whole table."""
    return [_facts(field) for field in FIELDS.values()]


def keys_text() -> str:
    """The whole table as text, by section."""
    width = max(map(len, FIELDS))
    lines: list[str] = []
    section = ""
    for field in FIELDS.values():
        if field.section != section:
            section = field.section
            lines.append(f"\n{section}" if lines else section)
        default = java_text(field.default) or "(empty)"
        unit = f" {field.unit}" if field.unit else ""
        lines.append(f"  {field.key:{width}}  {default}{unit}\n  {'':{width}}  {field.description}")
    return "\n".join(lines)


def key(name: str) -> dict[str, Any]:
    """One key of the table.

    Raises:
        ConfigError: there is no such key; names the nearest.
    """
    if name in IGNORED:
        return {"key": name, "ignored": True, "reason": IGNORED[name]}
    if name not in FIELDS:
        raise unknown_key(name, "--explain")
    return _facts(FIELDS[name])


def key_text(name: str) -> str:
    """One key of the table as text; see key()."""
    key(name)
    return explain(name).rstrip()


def holding(settings: Settings, warnings: list[str], *, changed: bool) -> dict[str, Any]:
    """The settings that hold, with the warnings of their reading."""
    values = {
        field.key: getattr(settings, field.name)
        for field in FIELDS.values()
        if not changed or getattr(settings, field.name) != field.default
    }
    return {"settings": values, "warnings": warnings}


def holding_text(settings: Settings, *, changed: bool) -> str:
    """The settings that hold, as broker.conf."""
    return as_conf(settings, all_keys=not changed)


def _facts(field: Field) -> dict[str, Any]:
    return {
        "key": field.key,
        "variable": field.variable,
        "default": field.default,
        "allowed": field.allowed,
        "unit": field.unit,
        "section": field.section,
        "description": field.description,
        "reload": field.reload,
        "built": not field.later,
        "ours": field.ours,
    }

"""The settings table as text: what a key means, what it may be, where it may be set."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from shmq.config import javatext
from shmq.config.ignored import IGNORED
from shmq.config.table import Settings

BOOL_WORDS: Final = "true or false"
MARKDOWN_HEAD: Final = """\
# Settings

Made from the settings table (`shmq/config/table.py`) by `make docs`; do not edit.

Every key can stand in `broker.conf` (`key=value`, Java properties syntax), in the environment as
`SHMQ_<KEY_IN_UPPER_SNAKE>`, and on the command line as `--set key=value`. What comes later in this
list counts more. `NAMESRV_ADDR` in the environment is a default for `namesrvAddr`, as with Apache's
broker.

Keys marked **H** change with SIGHUP, without a restart. Keys marked **S** are shmq's own; all
other keys are RocketMQ's. Keys marked **L** are read and kept, but what they set is not built yet.
A key that is in none of these tables is an error.
"""


class Field(NamedTuple):
    """One key of the table."""

    name: str
    """In Settings, snake_case."""
    key: str
    """In broker.conf."""
    variable: str
    """In the environment."""
    type: Any
    default: str | int | bool
    allowed: str
    unit: str
    section: str
    description: str
    reload: bool
    later: bool
    ours: bool


def _fields() -> dict[str, Field]:
    hints = get_type_hints(Settings, include_extras=True)
    fields = {}
    for one in msgspec.structs.fields(Settings):
        annotation = hints[one.name]
        kind, meta = get_args(annotation)
        assert get_origin(annotation) is Annotated
        assert isinstance(meta, msgspec.Meta)
        extra = meta.extra or {}
        fields[one.encode_name] = Field(
            name=one.name,
            key=one.encode_name,
            variable=f"SHMQ_{one.name.upper()}",
            type=annotation,
            default=one.default,
            allowed=_allowed(kind, meta),
            unit=extra["unit"],
            section=extra["section"],
            description=meta.description or "",
            reload=extra["reload"],
            later=extra["later"],
            ours=extra["ours"],
        )
    return fields


def _allowed(kind: Any, meta: msgspec.Meta) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(str(value) for value in get_args(kind))
    if kind is bool:
        return BOOL_WORDS
    if kind is int:
        return f"{meta.ge} to {meta.le}"
    if meta.pattern:
        return f"text like {meta.pattern}"
    return "text" if not meta.min_length else "text, not empty"


FIELDS: Final = _fields()
"""Key to its field, in the order of the table."""


def java_text(value: object) -> str:
    """A value as it stands in broker.conf."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_conf(settings: Settings, *, all_keys: bool) -> str:
    """`settings` as broker.conf that gives them again.

    Without `all_keys` only what differs from the table's defaults.
    """
    lines = []
    for field in FIELDS.values():
        value = getattr(settings, field.name)
        if all_keys or value != field.default:
            lines.append(f"{field.key}={javatext.quote(java_text(value))}\n")
    return "".join(lines)


def explain(key: str) -> str:
    """Everything that is known of one key; empty when nothing is."""
    if key in IGNORED:
        return f"{key}\n  Accepted, without effect: {IGNORED[key]}.\n"
    field = FIELDS.get(key)
    if field is None:
        return ""
    unit = f" {field.unit}" if field.unit else ""
    lines = [
        field.key,
        f"  {field.description}",
        f"  default   {java_text(field.default) or '(empty)'}{unit if field.default != '' else ''}",
        f"  allowed   {field.allowed}{unit}",
        f"  variable  {field.variable}",
        f"  change    {'SIGHUP' if field.reload else 'restart'}",
    ]
    if field.later:
        lines.append("  state     read and kept; what it sets is not built yet")
    if field.ours:
        lines.append("  origin    shmq's own key; Apache's broker does not know it")
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """docs/settings.md."""
    parts = [MARKDOWN_HEAD]
    for section in dict.fromkeys(field.section for field in FIELDS.values()):
        parts.append(f"\n## {section}\n")
        parts.append("| key | default | allowed | | meaning |\n|---|---|---|---|---|")
        parts.extend(_markdown_row(field) for field in FIELDS.values() if field.section == section)
    parts.append("\n## Accepted without effect\n")
    parts.append("These keys of Apache's broker are accepted with a warning.\n")
    for reason in dict.fromkeys(IGNORED.values()):
        keys = ", ".join(f"`{key}`" for key, why in IGNORED.items() if why == reason)
        parts.append(f"- {reason[0].upper()}{reason[1:]}: {keys}.")
    return "\n".join(parts) + "\n"


def _markdown_row(field: Field) -> str:
    default = f"`{java_text(field.default)}`" if field.default != "" else ""
    unit = f" {field.unit}" if field.unit else ""
    marks = "".join(
        letter for letter, on in (("H", field.reload), ("S", field.ours), ("L", field.later)) if on
    )
    allowed = field.allowed.replace("|", "\\|")
    if allowed.startswith("text like"):
        allowed = "see meaning"
    return f"| `{field.key}` | {default}{unit} | {allowed} | {marks} | {field.description} |"

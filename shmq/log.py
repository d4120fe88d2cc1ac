"""Logs: one line an event, for people or as JSON, on standard error.

    log = get_logger()
    log.error("worker.exited", exited_role="writer", exited_pid=4711, signal="SIGKILL")

An event is `noun.verb_in_past`; everything else is fields. `role` and `pid` are bound once in every
process by configure(), after the fork. A line leaves in one write, so that the processes of a
broker can share one standard error.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from shmq.errors import ShmqError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
STDERR: Final = 2

_least = logging.INFO


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """The logger of this process; what configure() sets later counts for it too."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def configure(level: str, fmt: str, role: str, pid: int) -> None:
    """Set up the logs of this process.

    Args:
        level: a key of LEVELS; set_level() changes it later.
        fmt: `json`, `console`, or `auto`: console on a terminal.
        role: name of the process, bound to every line.
        pid: its process id, bound to every line.
    """
    set_level(level)
    if fmt == "auto":
        fmt = "console" if sys.stderr.isatty() else "json"
    processors: list[structlog.typing.Processor] = [
        _drop_below_level,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _spread_error,
    ]
    if fmt == "json":
        processors += [structlog.processors.format_exc_info, _to_json]
    else:
        colors = sys.stderr.isatty()
        console = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
        )
        processors += [console, _to_bytes]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.BytesLoggerFactory(file=_stderr()),
        cache_logger_on_first_use=False,  # A child configures again.
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(role=role, pid=pid)


def set_level(level: str) -> None:
    """Change the least level that is logged."""
    global _least  # noqa: PLW0603  one level a process, changed by SIGHUP
    _least = LEVELS[level]


def _stderr() -> io.FileIO:
    # Unbuffered: a line is one write(), also when several processes write.
    return io.FileIO(STDERR, "wb", closefd=False)


def _drop_below_level(
    _logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if LEVELS.get(method, logging.ERROR) < _least:
        raise structlog.DropEvent
    return event


def _spread_error(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Turn error=ShmqError(...) into its text, with its facts as fields of their own."""
    error = event.get("error")
    if isinstance(error, ShmqError):
        event["error"] = error.what
        for name, value in error.facts.items():
            event.setdefault(name, value)
    elif isinstance(error, BaseException):
        event["error"] = f"{type(error).__name__}: {error}"
    return event


def _to_json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(event, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return str(value)


def _to_bytes(_logger: object, _method: str, line: Any) -> bytes:
    return str(line).encode("utf-8", "backslashreplace")

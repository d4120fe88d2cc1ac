"""`shmq` whose supervisor has little patience with a silent role: SILENCE_MAX_MS of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from shmq.workers import cli, roles
from shmq.workers.roles import RoleSpec

SILENCE_MAX_MS: Final = 1500
_broker_roles = roles.broker_roles


def broker_roles(**settings: Any) -> list[RoleSpec]:
    """The table of roles, with less time between two beats."""
    return [replace(role, silence_max_ms=SILENCE_MAX_MS) for role in _broker_roles(**settings)]


if __name__ == "__main__":
    roles.broker_roles = broker_roles
    cli.main()

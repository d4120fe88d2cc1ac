"""The table of roles: who there is, in what order they start and drain, how long they may take.

    role          start  drain  wakes on   needs                      drained when
    ------------  -----  -----  ---------  -------------------------  ----------------------------
    flush             0      5  semaphore  writer's words             all is on disk; it has then
                                                                      written the checkpoint
    writer            0      2  semaphore  the rings                  the rings are empty
    dispatch          0      3  semaphore  writer's words             REPUT has reached APPEND
    index             0      4  semaphore  nothing: it looks itself   INDEX has reached REPUT, or it
                                                                      took too long: the next start
                                                                      goes on
    coordinator       0      6  eventfd    queue table                tables are written
    housekeeping      0      7  semaphore  the words                  at once
    namesrv           1      7  eventfd    its own port               at once
    serve<i>          1      1  eventfd    writer, coordinator        every send taken is answered
    register          2      0  eventfd    namesrv, serve's ports     the name servers forgot us

Roles of one start rank start together, and the next rank starts when all of them are ready. Roles
of one drain rank drain together. A restarted role needs nobody's restart: it goes on from the
published words, and the others find it by its doorbell, its ring or its socket.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from shmq.units import SECOND_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.workers.base import Role
    from shmq.workers.context import Context


@dataclass(frozen=True, kw_only=True)
class RoleSpec:
    """One line of the table."""

    name: str
    module: str
    """Has `make(context, index) -> Role`."""
    make_name: str = "make"
    count: int = 1
    numbered: bool = False
    """Whether the processes are called name0, name1, ... even when there is one."""
    start_rank: int = 0
    drain_rank: int = 0
    ready_max_ms: int = 60 * SECOND_MS
    """Longest time from the fork to ready."""
    silence_max_ms: int = 15 * SECOND_MS
    """Longest time between two beats; then the process counts as stuck and is replaced."""
    drain_max_ms: int = 10 * SECOND_MS
    listeners: tuple[str, ...] = ()
    """Kinds of listening sockets that the role accepts on."""
    drains_through: tuple[str, ...] = ()
    """Roles without which this one cannot finish its work: if one is given up, it waits no more."""
    keeps_data: bool = False
    """Whether the hot pages may go only when this role has drained."""

    def __post_init__(self) -> None:
        assert self.count == 1 or self.numbered, "several processes need numbers"

    def process_names(self) -> list[str]:
        """Names of the role's processes; a process's doorbell has the same name."""
        if not self.numbered:
            return [self.name]
        return [f"{self.name}{index}" for index in range(self.count)]

    def load(self) -> Callable[[Context, int], Role]:
        """The role's `make`. The supervisor loads it before it forks, so that it is shared."""
        module = importlib.import_module(self.module)
        return cast("Callable[[Context, int], Role]", getattr(module, self.make_name))


FLUSH: Final = RoleSpec(
    name="flush",
    module="shmq.workers.flush",
    start_rank=0,
    drain_rank=5,
    silence_max_ms=120 * SECOND_MS,  # One fdatasync on a bad disk may take that long.
    keeps_data=True,
)
WRITER: Final = RoleSpec(
    name="writer",
    module="shmq.workers.writer",
    start_rank=0,
    drain_rank=2,
    drains_through=("flush", "dispatch"),  # They empty the pool that it appends to.
)
DISPATCH: Final = RoleSpec(
    name="dispatch",
    module="shmq.workers.dispatch",
    start_rank=0,
    drain_rank=3,
    silence_max_ms=60 * SECOND_MS,  # It writes consumequeue files.
    drains_through=("flush",),  # With SYNC_FLUSH it enters only what is on the disk.
)
INDEX: Final = RoleSpec(
    name="index",
    module="shmq.workers.index",
    start_rank=0,
    drain_rank=4,
    silence_max_ms=120 * SECOND_MS,  # It syncs files of 400 MB, and lets all others go first.
    drains_through=("dispatch",),  # It goes as far as that has come.
)
COORDINATOR: Final = RoleSpec(
    name="coordinator",
    module="shmq.workers.coordinator",
    start_rank=0,
    drain_rank=6,
    silence_max_ms=30 * SECOND_MS,  # It writes tables to disk.
    listeners=("control",),
)
HOUSEKEEPING: Final = RoleSpec(
    name="housekeeping",
    module="shmq.workers.housekeeping",
    start_rank=0,
    drain_rank=7,
    silence_max_ms=60 * SECOND_MS,  # It deletes files.
)
NAMESRV: Final = RoleSpec(
    name="namesrv",
    module="shmq.workers.namesrv",
    start_rank=1,
    drain_rank=7,
    listeners=("namesrv",),
)
REGISTER: Final = RoleSpec(
    name="register",
    module="shmq.workers.register",
    start_rank=2,
    drain_rank=0,
    silence_max_ms=60 * SECOND_MS,  # It resolves names and waits for other hosts.
)


def serve(count: int) -> RoleSpec:
    """The serve role with `count` processes."""
    return RoleSpec(
        name="serve",
        module="shmq.workers.serve",
        count=count,
        numbered=True,
        start_rank=1,
        drain_rank=1,
        listeners=("main", "vip", "unix"),
        drains_through=("writer", "flush", "dispatch"),
    )


def broker_roles(
    *, serve_count: int, embedded_namesrv: bool, drain_max_ms: int, index: bool = True
) -> list[RoleSpec]:
    """Roles of a broker; `index` says whether it keeps index files."""
    roles = [FLUSH, WRITER, DISPATCH, COORDINATOR, HOUSEKEEPING, serve(serve_count), REGISTER]
    if index:
        roles.append(INDEX)
    if embedded_namesrv:
        roles.append(NAMESRV)
    return [replace(role, drain_max_ms=drain_max_ms) for role in roles]


def namesrv_roles(*, drain_max_ms: int) -> list[RoleSpec]:
    """Roles of a name server without a broker."""
    return [replace(NAMESRV, drain_max_ms=drain_max_ms)]

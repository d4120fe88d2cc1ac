"""Queue locks of orderly consumers: one client of a group owns a queue at a time.

In memory only, as in Apache's broker. A lock lives LOCK_MS from its last renewal (clients renew
every 20 s and distrust their own lock after 30 s).

Source: RocketMQ broker/client/rebalance/RebalanceLockManager; spec features.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from shmq.units import SECOND_MS

LOCK_MS: Final = 60 * SECOND_MS


class LockedQueue(NamedTuple):
    """A queue as clients name it."""

    broker_name: str
    topic: str
    queue_id: int


class Lock(NamedTuple):
    """Who owns a queue, and since when without renewal."""

    client_id: str
    renewed_ms: int


class Locks:
    """Queue locks by group."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[LockedQueue, Lock]] = {}

    def lock(
        self, group: str, client_id: str, queues: Iterable[LockedQueue], *, now_ms: int
    ) -> list[LockedQueue]:
        """Take or renew locks; returns the queues that `client_id` owns now."""
        locks = self._groups.setdefault(group, {})
        owned: list[LockedQueue] = []
        for queue in queues:
            held = locks.get(queue)
            if held is None or held.client_id == client_id or _expired(held, now_ms):
                locks[queue] = Lock(client_id, now_ms)
                owned.append(queue)
        if not locks:
            del self._groups[group]
        return owned

    def unlock(self, group: str, client_id: str, queues: Iterable[LockedQueue]) -> None:
        """Give back those of `queues` that `client_id` owns."""
        locks = self._groups.get(group, {})
        for queue in queues:
            held = locks.get(queue)
            if held is not None and held.client_id == client_id:
                del locks[queue]
        if group in self._groups and not locks:
            del self._groups[group]

    def holds(self, group: str, *, now_ms: int) -> bool:
        """Whether the group has a lock that has not expired."""
        return any(not _expired(lock, now_ms) for lock in self._groups.get(group, {}).values())

    def expire(self, *, now_ms: int) -> list[str]:
        """Forget locks that have expired; returns the groups that have none any more."""
        freed: list[str] = []
        for group, locks in list(self._groups.items()):
            alive = {queue: lock for queue, lock in locks.items() if not _expired(lock, now_ms)}
            if alive:
                self._groups[group] = alive
            else:
                del self._groups[group]
                freed.append(group)
        return freed


def _expired(lock: Lock, now_ms: int) -> bool:
    return now_ms - lock.renewed_ms > LOCK_MS

"""Queue locks: one owner at a time, renewed or lost."""

from __future__ import annotations

from shmq.broker.locks import LOCK_MS, LockedQueue, Locks
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode
from shmq.wire.internal import GroupUpdate
from tests.unit.broker.controlroom import ControlRoom

ONE = LockedQueue("B", "T", 0)
TWO = LockedQueue("B", "T", 1)


def test_a_lock_is_held_until_it_expires() -> None:
    locks = Locks()
    assert locks.lock("G", "a", [ONE], now_ms=0) == [ONE]
    assert locks.lock("G", "b", [ONE, TWO], now_ms=LOCK_MS) == [TWO]
    assert locks.lock("H", "b", [ONE], now_ms=0) == [ONE], "another group"
    assert locks.lock("G", "b", [ONE, TWO], now_ms=LOCK_MS + 1) == [ONE, TWO]
    assert locks.lock("G", "a", [ONE], now_ms=LOCK_MS + 2) == []


def test_renewing_keeps_a_lock() -> None:
    locks = Locks()
    for now_ms in range(0, 4 * LOCK_MS, LOCK_MS):
        assert locks.lock("G", "a", [ONE], now_ms=now_ms) == [ONE]
    assert locks.lock("G", "b", [ONE], now_ms=4 * LOCK_MS) == []


def test_only_the_owner_gives_back() -> None:
    locks = Locks()
    locks.lock("G", "a", [ONE], now_ms=0)
    locks.unlock("G", "b", [ONE])
    assert locks.holds("G", now_ms=0)
    locks.unlock("G", "a", [ONE, TWO])
    assert not locks.holds("G", now_ms=0)
    locks.unlock("X", "a", [ONE])
    assert locks.lock("G", "b", [ONE], now_ms=0) == [ONE]


def test_expired_locks_are_forgotten() -> None:
    locks = Locks()
    locks.lock("G", "a", [ONE], now_ms=0)
    locks.lock("H", "a", [ONE], now_ms=1)
    assert locks.expire(now_ms=LOCK_MS) == []
    assert locks.expire(now_ms=LOCK_MS + 1) == ["G"]
    assert locks.holds("H", now_ms=LOCK_MS + 1)
    assert not locks.holds("H", now_ms=LOCK_MS + 2)


def lock(room: ControlRoom, client: str, *queue_ids: int, code: int = 41) -> list[int]:
    queues = [{"brokerName": "B", "topic": "T", "queueId": queue_id} for queue_id in queue_ids]
    body = {"consumerGroup": "G", "clientId": client, "mqSet": queues}
    reply = room.reply(code, {}, body)
    assert reply.code == 0
    if code == RequestCode.UNLOCK_BATCH_MQ:
        return []
    return sorted(queue["queueId"] for queue in jsonish.loads(reply.body)["lockOKMQSet"])


def holds(room: ControlRoom) -> bool:
    (view,) = [
        view
        for view in room.plane.complete_group_update(now_ms=room.now_ms).groups
        if view.name == "G"
    ]
    return view.holds_locks


def test_locks_on_request(room: ControlRoom) -> None:
    room.create_topic("T", queues=2)
    room.heartbeat("a", "G")
    room.settle()
    assert lock(room, "a", 0, 1) == [0, 1]
    assert lock(room, "b", 0, 1) == []
    assert holds(room)
    lock(room, "a", 0, code=RequestCode.UNLOCK_BATCH_MQ)
    assert lock(room, "b", 0, 1) == [0]
    assert lock(room, "a", 7) == [], "no such queue"
    room.pass_time(LOCK_MS + 1)
    assert not holds(room)
    assert lock(room, "c", 0, 1) == [0, 1]


def test_serve_hears_when_a_group_begins_and_ends_to_lock(room: ControlRoom) -> None:
    room.create_topic("T")
    room.heartbeat("a", "G")
    room.settle()
    body = {"consumerGroup": "G", "clientId": "a", "mqSet": [{"topic": "T", "queueId": 0}]}
    room.ask(RequestCode.LOCK_BATCH_MQ, {}, body)
    first, *_ = room.settle()
    assert isinstance(first.message, GroupUpdate)
    assert first.message.groups[0].holds_locks
    updates = room.pass_time(LOCK_MS + 1)
    assert isinstance(updates[0].message, GroupUpdate)
    assert not updates[0].message.groups[0].holds_locks


def test_locks_that_make_no_sense(room: ControlRoom) -> None:
    for body in (
        None,
        {},
        {"consumerGroup": "G"},
        {"consumerGroup": "G", "clientId": "a", "mqSet": 5},
    ):
        for code in (RequestCode.LOCK_BATCH_MQ, RequestCode.UNLOCK_BATCH_MQ):
            reply = room.reply(code, {}, body)
            assert reply.code != 0
            assert reply.remark

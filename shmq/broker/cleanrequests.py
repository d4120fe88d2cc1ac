"""Requests of operators that old data be deleted now; housekeeping does it, soon after the answer.

    306 CLEAN_EXPIRED_CONSUMEQUEUE  consumequeue files whose messages are all deleted go
    316 CLEAN_UNUSED_TOPIC          the same: queues of deleted topics lose what is not reachable
    329 DELETE_EXPIRED_COMMITLOG    old commitlog files go, whatever the hour

A queue keeps its newest file with any of them, so its offsets go on where they were; with Apache's
broker 306 makes them begin again at 0, and groups then miss messages.

Source: RocketMQ broker/processor/AdminBrokerProcessor; spec request-codes.md section 5.
"""

from __future__ import annotations

from typing import Final

from shmq.broker.plane import OK, Answer, Handler, Plane, Request
from shmq.wire.codes import RequestCode


def clean(plane: Plane, request: Request) -> Answer:
    """306, 316, 329: have it done."""
    plane.ask_cleaning(request.code)
    plane.event("info", "cleaning.asked", code=request.code, peer=request.peer)
    return OK


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE: clean,
    RequestCode.CLEAN_UNUSED_TOPIC: clean,
    RequestCode.DELETE_EXPIRED_COMMITLOG: clean,
}

"""A client's last whole heartbeat, kept by its serve process for a coordinator started anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from shmq.broker.fields import json_object, objects_of
from shmq.errors import RequestRefused
from shmq.units import KiB
from shmq.wire import jsonish
from shmq.wire.internal import NO_TOKEN, Ask

if TYPE_CHECKING:
    from collections.abc import Mapping

REMEMBERED_SIZE_MAX: Final = 256 * KiB


def remembered(ask: Ask, *, before: Ask | None) -> Ask | None:
    """The heartbeat to repeat from now on: this one, unless it leaves its subscriptions out.

    None when it is too large to be kept for each of many connections; then a coordinator started
    anew hears of the client with its next heartbeat.
    """
    if len(ask.body) > REMEMBERED_SIZE_MAX:
        return None
    if b'"withoutSub":true' in ask.body:
        return before
    return msgspec.structs.replace(ask, token=NO_TOKEN, oneway=False)


def without_groups(heartbeat: Ask | None, ext: Mapping[str, str]) -> Ask | None:
    """The heartbeat without the groups that an UNREGISTER_CLIENT names; None when none is left."""
    if heartbeat is None:
        return None
    left: dict[str, list[dict[str, Any]]] = {}
    try:
        body = json_object(heartbeat.body)
        for key, gone in (
            ("producerDataSet", ext.get("producerGroup")),
            ("consumerDataSet", ext.get("consumerGroup")),
        ):
            left[key] = [
                data for data in objects_of(body.get(key)) if data.get("groupName") != gone
            ]
    except RequestRefused:  # The coordinator refused it, too.
        return None
    if not any(left.values()):
        return None
    return msgspec.structs.replace(heartbeat, body=jsonish.dumps(body | left))

"""A client's last whole heartbeat, kept by its serve process for a coordinator started anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from shmq.errors import ProtocolError
from shmq.wire import jsonish
from shmq.wire.internal import NO_TOKEN, Ask

if TYPE_CHECKING:
    from collections.abc import Mapping


def remembered(ask: Ask, *, before: Ask | None) -> Ask | None:
    """The heartbeat to repeat from now on: this one, unless it leaves its subscriptions out."""
    if b'"withoutSub":true' in ask.body:
        return before
    return msgspec.structs.replace(ask, token=NO_TOKEN, oneway=False)


def without_groups(heartbeat: Ask | None, ext: Mapping[str, str]) -> Ask | None:
    """The heartbeat without the groups that an UNREGISTER_CLIENT names; None when none is left."""
    if heartbeat is None:
        return None
    try:
        body: Any = jsonish.loads(heartbeat.body)
    except (ProtocolError, ValueError):
        return None
    if not isinstance(body, dict):
        return None
    for key, gone in (
        ("producerDataSet", ext.get("producerGroup")),
        ("consumerDataSet", ext.get("consumerGroup")),
    ):
        body[key] = [data for data in body.get(key) or [] if data.get("groupName") != gone]
    if not body["producerDataSet"] and not body["consumerDataSet"]:
        return None
    return msgspec.structs.replace(heartbeat, body=jsonish.dumps(body))

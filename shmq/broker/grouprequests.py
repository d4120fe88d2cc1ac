"""Requests that show or change the settings of consume groups.

Source: RocketMQ broker/processor/AdminBrokerProcessor; spec request-codes.md section 5.
"""

from __future__ import annotations

from typing import Any, Final

from shmq.broker import names, tablebodies
from shmq.broker.fields import flag, json_object, need_text, objects_of, refused
from shmq.broker.plane import OK, Answer, Handler, Plane, Request
from shmq.broker.tablebodies import GroupConfig
from shmq.errors import StoreError
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode


def update_group(plane: Plane, request: Request) -> Answer:
    """200: create or change one group."""
    plane.groups.put(_group_config(json_object(request.body)))
    return OK


def update_groups(plane: Plane, request: Request) -> Answer:
    """225: create or change several groups; all are read before the first is changed."""
    configs = [
        _group_config(data) for data in objects_of(json_object(request.body).get("groupConfigList"))
    ]
    for config in configs:
        plane.groups.put(config)
    return OK


def delete_group(plane: Plane, request: Request) -> Answer:
    """207: remove a group's settings, and its offsets if asked to."""
    group = need_text(request.ext, "groupName")
    plane.groups.delete(group)
    if flag(request.ext, "cleanOffset"):
        plane.offsets.remove_group(group)
    plane.resets.remove_group(group)
    return OK


def all_groups(plane: Plane, request: Request) -> Answer:
    """201: the group table, all at once."""
    del request
    body = {
        "dataVersion": tablebodies.plain_form(plane.groups.version),
        "forbiddenTable": plane.groups.forbidden,
        "subscriptionGroupTable": {
            name: tablebodies.plain_form(config) for name, config in plane.groups.configs.items()
        },
    }
    return Answer(body=jsonish.dumps(body))


def one_group(plane: Plane, request: Request) -> Answer:
    """352: one group."""
    config = plane.groups.need(need_text(request.ext, "group"))
    return Answer(body=tablebodies.encode(config))


def _group_config(data: dict[str, Any]) -> GroupConfig:
    try:
        config = tablebodies.convert(data, GroupConfig)
    except StoreError as error:
        raise refused(error.what, **error.facts) from error
    names.check_group(config.group_name)
    return config


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: update_group,
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST: update_groups,
    RequestCode.DELETE_SUBSCRIPTIONGROUP: delete_group,
    RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG: all_groups,
    RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG: one_group,
}

"""The consume groups' settings: which groups there are and what they may do.

One owner, the coordinator; the table is subscriptionGroup.json. Who is online in a group is in
clients.py, how far it has consumed in offsets.py.

Source: RocketMQ broker/subscription/SubscriptionGroupManager; spec request-codes.md section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shmq.broker import names, tablebodies
from shmq.broker.tablebodies import GroupConfig, GroupsBody
from shmq.errors import RequestRefused
from shmq.store.tables import TableFile
from shmq.wire.codes import ResponseCode
from shmq.wire.route import DataVersion


class Groups:
    """Group table with its version, and which groups changed since others were told."""

    def __init__(self, *, file: TableFile, wall_ms: Callable[[], int], auto_create: bool) -> None:
        self._file = file
        self._wall_ms = wall_ms
        self.auto_create = auto_create
        self.unsaved = False
        self.changed: set[str] = set()
        """Names of groups that were created, changed, deleted, or whose members did."""
        self.version = DataVersion()
        self.configs: dict[str, GroupConfig] = {}
        self.forbidden: dict[str, Any] = {}

    def load(self) -> None:
        """Take the table from disk and add the system's groups that it lacks.

        Raises:
            StoreError: the file cannot be read.
        """
        body = self._file.load(lambda data: tablebodies.decode(data, GroupsBody)) or GroupsBody()
        self.version = body.data_version
        self.forbidden = body.forbidden_table
        for name, config in body.subscription_group_table.items():
            config.group_name = name
            self.configs[name] = config
        for name in names.SYSTEM_GROUPS:
            if name not in self.configs:
                self.configs[name] = GroupConfig(group_name=name)
                self._note(name)

    def save(self) -> None:
        """Make the table durable.

        Raises:
            OSError: it is not; the table on disk is the one before.
        """
        body = GroupsBody(
            data_version=self.version,
            forbidden_table=self.forbidden,
            subscription_group_table=self.configs,
        )
        self._file.replace(tablebodies.encode(body))
        self.unsaved = False

    def get(self, name: str) -> GroupConfig | None:
        """The group's settings, or None when it is not known."""
        return self.configs.get(name)

    def need(self, name: str) -> GroupConfig:
        """The group's settings.

        Raises:
            RequestRefused: SUBSCRIPTION_GROUP_NOT_EXIST.
        """
        config = self.configs.get(name)
        if config is None:
            raise RequestRefused(
                ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
                "the subscription group does not exist",
                group=repr(name[: names.GROUP_TOPIC_LENGTH_MAX]),
                hint="create it with updateSubGroup, or start a consumer of it with "
                "autoCreateSubscriptionGroup",
            )
        return config

    def need_or_create(self, name: str) -> GroupConfig:
        """The group's settings; they are created when the broker may do so.

        Raises:
            RequestRefused: the name is not allowed, or groups must be created by hand.
        """
        if name not in self.configs:
            names.check_group(name)
            if self.auto_create:
                self.put(GroupConfig(group_name=name))
        return self.need(name)

    def put(self, config: GroupConfig) -> None:
        """Create or change a group; the same again changes nothing.

        Raises:
            RequestRefused: the name is not allowed.
        """
        names.check_group(config.group_name)
        if self.configs.get(config.group_name) != config:
            self.configs[config.group_name] = config
            self._note(config.group_name)

    def delete(self, name: str) -> bool:
        """Remove a group's settings; False when there were none."""
        if self.configs.pop(name, None) is None:
            return False
        self.forbidden.pop(name, None)
        self._note(name)
        return True

    def _note(self, name: str) -> None:
        self.changed.add(name)
        self.unsaved = True
        self.version = tablebodies.next_version(self.version, self._wall_ms())

"""From broker.conf, the environment and the command line to one checked Settings. No IO.

What is said later in this list counts more:

    the table's default
    this machine: host name, address
    NAMESRV_ADDR in the environment, as Apache's broker has it
    broker.conf
    SHMQ_<KEY_IN_UPPER_SNAKE> in the environment
    the command line
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shmq.config import javatext
from shmq.config.addresses import LOOPBACK, is_any_address
from shmq.config.describe import FIELDS, Field
from shmq.config.ignored import IGNORED
from shmq.config.table import PORT_MAX, Settings, key_of
from shmq.errors import ConfigError
from shmq.units import KiB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENVIRONMENT_PREFIX: Final = "SHMQ_"
VIP_DISTANCE: Final = 2
ENTRY_SIZE: Final = 20
"""Bytes of a consumequeue entry; here only to round the size of a file."""
RECORD_OVERHEAD_MAX: Final = 64 * KiB
"""What a record may hold beside its body."""
PAGE_SIZE: Final = 4 * KiB
BROKER_NAME_WITHOUT_HOST: Final = "DEFAULT_BROKER"

NOT_BUILT: Final = {
    "acl_enable": "access control is not built yet, and an open broker is not what was asked for",
    "authentication_enabled": "authentication is not built yet",
    "authorization_enabled": "authorization is not built yet",
    "enable_controller_mode": "controller mode is not built yet",
    "enable_d_leger_commit_log": "DLedger is not built yet",
    "enable_slave_acting_master": "acting masters are not built yet",
    "broker_role": "replication is not built yet, so only a master that waits for nobody can run",
    "store_type": "a RocksDB store cannot be read",
}
"""Fields whose value must stay the default, because another one would promise what is not kept."""


class Machine(NamedTuple):
    """What is known of this machine; the caller reads it."""

    host_name: str = ""
    address: str = LOOPBACK


class Given(NamedTuple):
    """A value as somebody gave it, and where."""

    value: str
    where: str


def load(
    text: str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, str],
    *,
    source: str = "broker.conf",
    machine: Machine | None = None,
) -> tuple[Settings, list[str]]:
    """Checked settings, and warnings for whoever wrote them.

    Args:
        text: content of broker.conf, or None when there is no file.
        environ: the environment.
        overrides: key to value, from the command line.
        source: name of the file, for messages.
        machine: facts of this machine; without them a name and address that always work.

    Raises:
        ConfigError: an unknown key, a value out of its limits, or values that contradict.
    """
    warnings: list[str] = []
    given: dict[str, Given] = {}
    if environ.get("NAMESRV_ADDR"):
        given["namesrvAddr"] = Given(environ["NAMESRV_ADDR"], "environment NAMESRV_ADDR")
    given.update(_from_file(text or "", source))
    given.update(_from_environment(environ, warnings))
    given.update({key: Given(value, "command line") for key, value in overrides.items()})
    values: dict[str, object] = {}
    for key, one in given.items():
        if key in IGNORED:
            warnings.append(f"{one.where}: {key} has no effect: {IGNORED[key]}")
            continue
        field = FIELDS.get(key)
        if field is None:
            raise unknown_key(key, one.where)
        values[field.name] = _convert(field, one)
    settings = Settings(**values)  # type: ignore[arg-type]  # checked one by one above
    _refuse_not_built(settings)
    settings = _fill_in(settings, environ, machine or Machine(), warnings)
    check(settings)
    warnings += _doubts(settings, values)
    return settings, warnings


def apply_reload(current: Settings, wanted: Settings) -> tuple[Settings, list[str]]:
    """`current` with those values of `wanted` that may change in a running broker.

    Returns:
        The new settings, and the keys whose change needs a restart.
    """
    changed = {
        field.name: getattr(wanted, field.name)
        for field in FIELDS.values()
        if getattr(wanted, field.name) != getattr(current, field.name)
    }
    allowed = {field.name for field in FIELDS.values() if field.reload}
    new = {name: value for name, value in changed.items() if name in allowed}
    refused = sorted(key_of(name) for name in changed.keys() - allowed)
    return msgspec.structs.replace(current, **new), refused


def check_embedded_namesrv(settings: Settings) -> None:
    """Check the name server's port against the broker's, where both run together."""
    _distinct_ports(settings, {"namesrvListenPort": settings.namesrv_listen_port})


def check(settings: Settings) -> None:
    """Check values against each other.

    Raises:
        ConfigError: carries the keys and values that contradict.
    """
    _distinct_ports(settings, {})
    _check_role(settings)
    _check_sizes(settings)
    if settings.disk_space_clean_forcibly_ratio > settings.disk_space_warning_level_ratio:
        raise ConfigError(
            "diskSpaceCleanForciblyRatio must not be above diskSpaceWarningLevelRatio",
            diskSpaceCleanForciblyRatio=settings.disk_space_clean_forcibly_ratio,
            diskSpaceWarningLevelRatio=settings.disk_space_warning_level_ratio,
        )
    for field in ("submission_ring_entries", "consume_queue_hot_entries"):
        value = getattr(settings, field)
        if value & (value - 1):
            below = 1 << (value.bit_length() - 1)
            raise ConfigError(
                f"{key_of(field)} must be a power of two",
                found=value,
                allowed=f"{below} or {below * 2}",
            )
    for address in settings.namesrv_addresses:
        _check_host_port("namesrvAddr", address)
    if settings.ha_master_address:
        _check_host_port("haMasterAddress", settings.ha_master_address)
    for key, address in (("brokerIP1", settings.broker_ip1), ("brokerIP2", settings.broker_ip2)):
        if is_any_address(address):
            raise ConfigError(
                f"{key} is what others connect to and must be one address", found=address
            )
    if any(mark in settings.store_path_commit_log for mark in ",:"):
        raise ConfigError(
            "storePathCommitLog must be one folder", found=settings.store_path_commit_log
        )


def _from_file(text: str, source: str) -> Iterator[tuple[str, Given]]:
    try:
        properties = javatext.parse(text)
    except ConfigError as error:
        raise ConfigError(error.what, file=source, **error.facts) from None
    for one in properties:
        yield one.key, Given(one.value.strip(), f"{source} line {one.line}")


def _from_environment(
    environ: Mapping[str, str], warnings: list[str]
) -> Iterator[tuple[str, Given]]:
    keys = {field.variable: field.key for field in FIELDS.values()}
    for name, value in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        if name in keys:
            yield keys[name], Given(value.strip(), f"environment {name}")
        else:
            # No error: schedulers set such variables for a service that is named shmq.
            warnings.append(f"environment: {name} is no setting{_hint(name, list(keys))}")


def unknown_key(key: str, where: str) -> ConfigError:
    """The error about a key that nobody knows; names the nearest one."""
    hint = _hint(key, [*FIELDS, *IGNORED])
    return ConfigError(f"unknown key {key!r} in {where}{hint}; `shmq config --keys` lists all")


def _hint(found: str, known: list[str]) -> str:
    folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(found.lower(), list(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]}?" if close else ""


def _convert(field: Field, given: Given) -> object:
    try:
        return msgspec.convert(given.value, field.type, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{field.key} in {given.where}", found=repr(given.value), allowed=field.allowed
        ) from None


def _refuse_not_built(settings: Settings) -> None:
    defaults = Settings()
    for name, reason in NOT_BUILT.items():
        found, default = getattr(settings, name), getattr(defaults, name)
        if found != default:
            raise ConfigError(
                f"{key_of(name)}: {reason}",
                found=_java(found),
                allowed=_java(default),
            )


def _fill_in(
    settings: Settings, environ: Mapping[str, str], machine: Machine, warnings: list[str]
) -> Settings:
    """Settings with every worked-out value in place."""
    root = settings.store_path_root_dir
    if not root:
        home = environ.get("HOME", "")
        if not home:
            raise ConfigError("storePathRootDir is not set, and HOME is not either")
        root = f"{home.rstrip('/')}/store"
    address = settings.broker_ip1
    if not address:
        bound = settings.bind_address
        address = machine.address if is_any_address(bound) else bound
    broker_id = settings.broker_id
    if settings.broker_role != "SLAVE" and broker_id != 0:
        warnings.append(f"brokerId={broker_id} of a {settings.broker_role} is taken as 0")
        broker_id = 0
    queue_file = settings.mapped_file_size_consume_queue
    return msgspec.structs.replace(
        settings,
        broker_id=broker_id,
        broker_name=settings.broker_name or _name_of_host(machine.host_name),
        broker_ip1=address,
        broker_ip2=settings.broker_ip2 or address,
        store_path_root_dir=root,
        store_path_commit_log=settings.store_path_commit_log or f"{root.rstrip('/')}/commitlog",
        kv_config_path=settings.kv_config_path or f"{root.rstrip('/')}/config/kvConfig.json",
        ha_listen_port=settings.ha_listen_port or settings.listen_port + 1,
        namesrv_bind_address=settings.namesrv_bind_address or settings.bind_address,
        mapped_file_size_consume_queue=-(-queue_file // ENTRY_SIZE) * ENTRY_SIZE,
    )


def _name_of_host(host_name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", host_name) or BROKER_NAME_WITHOUT_HOST


def _distinct_ports(settings: Settings, more: Mapping[str, int]) -> None:
    ports = {
        "listenPort": settings.listen_port,
        "the VIP port (listenPort - 2)": settings.listen_port - VIP_DISTANCE,
        "haListenPort": settings.ha_listen_port,
        **more,
    }
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port == 0:
            continue  # Any free port: the kernel keeps it apart.
        if not 1 <= port <= PORT_MAX:
            raise ConfigError(f"{name} is no port", found=port, allowed=f"1 to {PORT_MAX}")
        if port in seen:
            raise ConfigError(f"{name} and {seen[port]} are the same port", found=port)
        seen[port] = name


def _check_role(settings: Settings) -> None:
    if settings.broker_role == "SLAVE" and settings.broker_id == 0:
        raise ConfigError("brokerId of a SLAVE must be above 0", found=0)
    counts = (
        settings.min_in_sync_replicas,
        settings.in_sync_replicas,
        max(settings.total_replicas, settings.in_sync_replicas),
    )
    if counts != tuple(sorted(counts)):
        raise ConfigError(
            "minInSyncReplicas must not be above inSyncReplicas",
            minInSyncReplicas=settings.min_in_sync_replicas,
            inSyncReplicas=settings.in_sync_replicas,
        )


def _check_sizes(settings: Settings) -> None:
    record_max = settings.max_message_size + RECORD_OVERHEAD_MAX
    for field in ("frame_size_max", "submission_ring_size", "connection_buffer_max"):
        if getattr(settings, field) < record_max:
            raise ConfigError(
                f"{key_of(field)} must hold a message of maxMessageSize and 64 KiB more",
                found=getattr(settings, field),
                allowed=f"at least {record_max}",
            )
    if 0 < settings.async_flush_bytes_max < 2 * record_max:
        raise ConfigError(
            "asyncFlushBytesMax must hold two messages of maxMessageSize and 64 KiB more each",
            found=settings.async_flush_bytes_max,
            allowed=f"0, or at least {2 * record_max}",
        )
    if settings.hot_page_size % PAGE_SIZE:
        raise ConfigError(
            "hotPageSize must be a multiple of 4096",
            found=settings.hot_page_size,
            allowed=f"{settings.hot_page_size // PAGE_SIZE * PAGE_SIZE + PAGE_SIZE}, for example",
        )
    if settings.hot_pool_size and settings.hot_pool_size < 2 * settings.hot_page_size:
        raise ConfigError(
            "hotPoolSize must hold two pages of hotPageSize",
            found=settings.hot_pool_size,
            allowed=f"0, or at least {2 * settings.hot_page_size}",
        )


def _check_host_port(key: str, address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 1 <= int(port) <= PORT_MAX):
        raise ConfigError(f"{key} must be host:port", found=repr(address))


def _doubts(settings: Settings, given: Mapping[str, object]) -> list[str]:
    defaults = Settings()
    doubts = [
        f"{key_of(name)} is read, but what it sets is not built yet"
        for name, value in given.items()
        if FIELDS[key_of(name)].later and value != getattr(defaults, name)
    ]
    if settings.max_message_size + RECORD_OVERHEAD_MAX > settings.mapped_file_size_commit_log:
        doubts.append(
            f"a message of maxMessageSize={settings.max_message_size} does not fit in a commitlog "
            f"file of mappedFileSizeCommitLog={settings.mapped_file_size_commit_log}"
        )
    return doubts


def _java(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

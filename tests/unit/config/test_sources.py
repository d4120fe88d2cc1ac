from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.config import Settings, apply_reload, check_embedded_namesrv, load
from shmq.config.describe import FIELDS, as_conf
from shmq.config.ignored import IGNORED
from shmq.config.sources import Machine
from shmq.errors import ConfigError

HOME = {"HOME": "/home/b"}


def settings_of(text: str | None = None, **overrides: str) -> Settings:
    return load(text, HOME, overrides)[0]


def warnings_of(text: str, environ: dict[str, str] | None = None) -> list[str]:
    return load(text, HOME | (environ or {}), {})[1]


def test_no_key_is_in_both_tables() -> None:
    assert not FIELDS.keys() & IGNORED.keys()


def test_defaults_need_no_machine() -> None:
    settings = settings_of()
    assert settings.broker_name == "DEFAULT_BROKER"
    assert settings.broker_ip1 == settings.broker_ip2 == "127.0.0.1"
    assert settings.store_path_root_dir == "/home/b/store"
    assert settings.store_path_commit_log == "/home/b/store/commitlog"
    assert settings.ha_listen_port == settings.listen_port + 1
    assert settings.namesrv_bind_address == settings.bind_address


def test_worked_out_from_the_machine() -> None:
    machine = Machine(host_name="büro 1.example", address="10.1.2.3")
    settings, _ = load(None, HOME, {}, machine=machine)
    assert settings.broker_name == "b-ro-1.example"
    assert settings.broker_ip1 == "10.1.2.3"
    settings, _ = load(None, HOME, {"bindAddress": "127.0.0.2"}, machine=machine)
    assert settings.broker_ip1 == "127.0.0.2", "one address to listen on is the one to tell"


def test_no_home_no_store() -> None:
    with pytest.raises(ConfigError, match="storePathRootDir is not set, and HOME is not either"):
        load(None, {}, {})


def test_order_of_sources() -> None:
    text = "namesrvAddr=file:1\nbrokerName=file\nregionId=file\n"
    environ = HOME | {
        "NAMESRV_ADDR": "variable:1",
        "SHMQ_BROKER_NAME": "variable",
        "SHMQ_REGION_ID": "variable",
    }
    settings, _ = load(text, environ, {"regionId": "line"})
    assert settings.namesrv_addr == "file:1"
    assert settings.broker_name == "variable"
    assert settings.region_id == "line"
    assert load(None, environ, {})[0].namesrv_addr == "variable:1"


def test_last_of_two_in_a_file() -> None:
    assert settings_of("listenPort=1000\nlistenPort=2000").listen_port == 2000


@pytest.mark.parametrize(
    ("key", "below", "lowest", "highest", "above"),
    [
        ("listenPort", 2, 3, 65535, 65536),
        ("namesrvListenPort", -1, 0, 65535, 65536),
        ("serverChannelMaxIdleTimeSeconds", 0, 1, 86400, 86401),
    ],
)
def test_limits(key: str, below: int, lowest: int, highest: int, above: int) -> None:
    for wrong in (below, above):
        with pytest.raises(ConfigError) as caught:
            settings_of(f"{key}={wrong}", haListenPort="9")
        assert caught.value.facts == {
            "found": repr(str(wrong)),
            "allowed": f"{lowest} to {highest}",
        }
    for right in (lowest, highest):
        found = settings_of(f"{key}={right}", haListenPort="9")
        assert getattr(found, FIELDS[key].name) == right


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        ({"listenPort": "2000", "haListenPort": "1998"}, "haListenPort and the VIP port"),
        ({"brokerRole": "SLAVE"}, "brokerRole: replication is not built yet"),
        ({"brokerRole": "SYNC_MASTER"}, "brokerRole: replication is not built yet"),
        ({"minInSyncReplicas": "3"}, "minInSyncReplicas must not be above inSyncReplicas"),
        ({"submissionRingEntries": "5000"}, "submissionRingEntries must be a power of two"),
        ({"hotPageSize": "5000001"}, "hotPageSize must be a multiple of 4096"),
        ({"hotPoolSize": "8388608", "hotPageSize": "8388608"}, "hotPoolSize must hold two pages"),
        ({"namesrvAddr": "10.0.0.1"}, "namesrvAddr must be host:port"),
        ({"namesrvAddr": "10.0.0.1:0"}, "namesrvAddr must be host:port"),
        ({"brokerIP1": "0.0.0.0"}, "brokerIP1 is what others connect to"),  # noqa: S104
        ({"storePathCommitLog": "/a,/b"}, "storePathCommitLog must be one folder"),
        ({"storeType": "defaultRocksDB"}, "storeType: a RocksDB store cannot be read"),
        ({"frameSizeMax": "65536"}, "frameSizeMax must hold a message of maxMessageSize"),
    ],
)
def test_values_that_contradict(pairs: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(**pairs)
    assert str(caught.value).startswith(what)


@pytest.mark.parametrize(("port", "allowed"), [("0", True), ("9876", True), ("10909", False)])
def test_embedded_name_server_has_a_port_of_its_own(port: str, *, allowed: bool) -> None:
    settings = settings_of(namesrvListenPort=port)
    if allowed:
        check_embedded_namesrv(settings)
    else:
        with pytest.raises(ConfigError, match="are the same port"):
            check_embedded_namesrv(settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("brokerId=3", "brokerId=3 of a ASYNC_MASTER is taken as 0"),
        ("enableCalcFilterBitMap=true", "enableCalcFilterBitMap is read, but"),
        ("mappedFileSizeCommitLog=1048576", "does not fit in a commitlog file"),
        ("highSpeedMode=true", "highSpeedMode has no effect"),
    ],
)
def test_doubts(text: str, says: str) -> None:
    (warning,) = warnings_of(text)
    assert says in warning


def test_reload_takes_what_may_change_and_names_the_rest() -> None:
    now = settings_of("listenPort=1000\nautoCreateTopicEnable=true")
    wanted = settings_of("listenPort=2000\nautoCreateTopicEnable=false")
    settings, refused = apply_reload(now, wanted)
    assert settings.auto_create_topic_enable is False
    assert settings.listen_port == 1000
    assert refused == ["haListenPort", "listenPort"]
    assert apply_reload(settings, settings) == (settings, [])


def test_conf_gives_the_same_settings_again() -> None:
    settings = settings_of("brokerName=a.b\nflushDiskType=SYNC_FLUSH\nnamesrvAddr=a:1;b:2\n")
    for all_keys in (True, False):
        assert settings_of(as_conf(settings, all_keys=all_keys)) == settings


values = st.fixed_dictionaries(
    {},
    optional={
        "store_path_root_dir": st.text(min_size=1).filter(lambda text: text == text.strip()),
        "region_id": st.text().filter(lambda text: text == text.strip()),
        "auto_create_topic_enable": st.booleans(),
        "listen_port": st.integers(10, 60_000),
    },
)


@given(values)
def test_any_text_survives_broker_conf(changes: dict[str, Any]) -> None:
    settings = msgspec.structs.replace(settings_of(), **changes)
    text = as_conf(settings, all_keys=True)
    again = settings_of(text)
    assert {name: getattr(again, name) for name in changes} == changes

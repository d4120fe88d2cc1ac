"""The settings table: every key of broker.conf that means something here, once.

One field a key. A field's name is the key in snake_case (`flush_interval_commit_log` is
`flushIntervalCommitLog` in broker.conf and SHMQ_FLUSH_INTERVAL_COMMIT_LOG in the environment). The
file reader, the command line, `shmq config` and docs/settings.md all come from here.

    part of a field      meaning
    type, ge, le         what is allowed
    default              what holds when nobody says anything; "" or 0 may mean "worked out", then
                         the description says from what (shmq.config.sources does it)
    unit                 of the number
    reload               True: SIGHUP brings a changed value in; else the broker must be restarted
    later                True: the key is read and kept, the feature behind it is not built yet

Names and defaults are RocketMQ's, so that an existing broker.conf works; those in the last sections
(marked ours) are shmq's own.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec

from shmq.units import HOUR_MS, GiB, KiB, MiB

OWN_SPELLING: Final = {"broker_ip1": "brokerIP1", "broker_ip2": "brokerIP2"}

PORT_MAX: Final = 65535
INT_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1
CLOCK_OFFSET_MAX_MS: Final = 10 * 366 * 24 * HOUR_MS
DELAY_LEVELS: Final = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
NAME: Final = r"^[%|a-zA-Z0-9_.-]*$"


def key_of(field: str) -> str:
    """The key that a user writes for a field of the table."""
    if field in OWN_SPELLING:
        return OWN_SPELLING[field]
    head, *rest = field.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _key(
    section: str,
    description: str,
    *,
    unit: str = "",
    reload: bool = False,
    later: bool = False,
    ours: bool = False,
    **limits: Any,
) -> msgspec.Meta:
    extra = {"section": section, "unit": unit, "reload": reload, "later": later, "ours": ours}
    return msgspec.Meta(description=description, extra=extra, **limits)


_name = partial(_key, "Name and place")
_net = partial(_key, "Network")
_namesrv = partial(_key, "Name servers")
_topic = partial(_key, "Topics and groups")
_store = partial(_key, "Store")
_flush = partial(_key, "Flushing")
_keep = partial(_key, "Retention")
_read = partial(_key, "Reading")
_busy = partial(_key, "Flow control")
_ha = partial(_key, "Replication")
_later = partial(_key, "Planned", later=True)
_process = partial(_key, "Processes", ours=True)
_memory = partial(_key, "Shared memory", ours=True)
_native = partial(_key, "Native door", ours=True)
_log = partial(_key, "Logs", ours=True)


def _numbers(text: str) -> frozenset[int]:
    """Numbers of a list with commas."""
    return frozenset(int(part) for part in text.split(",") if part.strip())


def _millis(ge: int = 0) -> dict[str, Any]:
    """Unit and limits of a duration."""
    return {"unit": "ms", "ge": ge, "le": INT_MAX}


class Settings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename=key_of,
    forbid_unknown_fields=True,
):
    """All settings of one broker, checked and with every worked-out value filled in."""

    # Name and place
    broker_cluster_name: Annotated[
        str, _name("Cluster that this broker belongs to.", pattern=NAME, min_length=1)
    ] = "DefaultCluster"
    broker_name: Annotated[
        str,
        _name(
            "Name of the broker group: one master and its slaves. Empty: the host name.",
            pattern=NAME,
        ),
    ] = ""
    broker_id: Annotated[int, _name("0 for a master, more for a slave.", ge=0, le=LONG_MAX)] = 0
    broker_role: Annotated[
        Literal["ASYNC_MASTER", "SYNC_MASTER", "SLAVE"],
        _name("SYNC_MASTER waits for inSyncReplicas before it confirms a message."),
    ] = "ASYNC_MASTER"
    broker_ip1: Annotated[
        str,
        _name(
            "Address that clients are told to connect to. Empty: bindAddress if it is one address,"
            " else the address of the interface with the default route."
        ),
    ] = ""
    broker_ip2: Annotated[
        str, _name("Address that slaves are told to connect to. Empty: brokerIP1.")
    ] = ""
    region_id: Annotated[str, _name("Told to clients in replies (MSG_REGION).")] = "DefaultRegion"
    store_path_root_dir: Annotated[
        str, _name("Folder of the store. Empty: store in the home folder.")
    ] = ""
    store_path_commit_log: Annotated[
        str, _name("Folder of the commitlog. Empty: commitlog in storePathRootDir.")
    ] = ""
    run_dir: Annotated[
        str,
        _name(
            "Folder of the sockets and of the state that `shmq status` reads."
            " Empty: run in storePathRootDir.",
            ours=True,
        ),
    ] = ""

    # Network
    bind_address: Annotated[str, _net("Address to listen on.", min_length=1)] = "0.0.0.0"  # noqa: S104
    listen_port: Annotated[
        int,
        _net("Port for clients; the VIP port, two below it, is opened too.", ge=3, le=PORT_MAX),
    ] = 10911
    ha_listen_port: Annotated[
        int, _net("Port for slaves. 0: one above listenPort.", ge=0, le=PORT_MAX)
    ] = 0
    server_socket_backlog: Annotated[
        int, _net("Connections that the kernel keeps until they are accepted.", ge=1, le=65535)
    ] = 1024
    server_socket_snd_buf_size: Annotated[
        int,
        _net("Send buffer of a connection. 0: the kernel's choice.", unit="bytes", ge=0, le=GiB),
    ] = 0
    server_socket_rcv_buf_size: Annotated[
        int,
        _net("Receive buffer of a connection. 0: the kernel's choice.", unit="bytes", ge=0, le=GiB),
    ] = 0
    server_channel_max_idle_time_seconds: Annotated[
        int,
        _net(
            "A connection without any byte for so long is closed.",
            unit="s",
            ge=1,
            le=86400,
            reload=True,
        ),
    ] = 120
    connections_max: Annotated[
        int,
        _net("Connections of one serve process; more are refused.", ge=1, le=1_000_000, ours=True),
    ] = 10_000
    frame_size_max: Annotated[
        int,
        _net(
            "Largest frame that is read; a longer one closes the connection.",
            unit="bytes",
            ge=64 * KiB,
            le=GiB,
            ours=True,
        ),
    ] = 16 * MiB
    connection_buffer_max: Annotated[
        int,
        _net(
            "Bytes that may wait for one slow reader; at more the connection is closed.",
            unit="bytes",
            ge=64 * KiB,
            le=4 * GiB,
            ours=True,
        ),
    ] = 64 * MiB
    socket_path: Annotated[
        str,
        _net("Unix socket for clients on this host. Empty: shmq.sock in runDir.", ours=True),
    ] = ""
    socket_mode: Annotated[
        str,
        _net("Permissions of the Unix socket, octal.", pattern="^0?[0-7]{3}$", ours=True),
    ] = "0660"

    # Name servers
    namesrv_addr: Annotated[
        str,
        _namesrv(
            "Name servers to register with, host:port, separated by `;`."
            " Also from the variable NAMESRV_ADDR.",
            reload=True,
        ),
    ] = ""
    namesrv_listen_port: Annotated[
        int,
        _namesrv(
            "Port of the name server in `shmq standalone` and `shmq namesrv`. 0: any free port.",
            ge=0,
            le=PORT_MAX,
            ours=True,
        ),
    ] = 9876
    namesrv_bind_address: Annotated[
        str,
        _namesrv("Address that this name server listens on. Empty: bindAddress.", ours=True),
    ] = ""
    register_name_server_period: Annotated[
        int,
        _namesrv("Pause between two registrations.", unit="ms", ge=10_000, le=60_000, reload=True),
    ] = 30_000
    register_broker_timeout_mills: Annotated[
        int, _namesrv("Time that one registration may take.", **_millis(ge=1), reload=True)
    ] = 24_000
    send_heartbeat_timeout_millis: Annotated[
        int, _namesrv("Time that one heartbeat may take.", **_millis(ge=1), reload=True, later=True)
    ] = 1000
    force_register: Annotated[
        bool,
        _namesrv("Register at every period, also when nothing changed.", reload=True, later=True),
    ] = True
    compressed_register: Annotated[
        bool, _namesrv("Compress the topic table of a registration.", reload=True)
    ] = False
    scan_not_active_broker_interval: Annotated[
        int, _namesrv("The name server looks for silent brokers so often.", **_millis(ge=1))
    ] = 5000
    order_message_enable: Annotated[
        bool, _namesrv("The name server adds the order configuration to a route.")
    ] = False
    cluster_test: Annotated[
        bool, _namesrv("The name server answers as a test cluster's one would.", later=True)
    ] = False
    product_env_name: Annotated[str, _namesrv("Environment name of clusterTest.", later=True)] = (
        "center"
    )
    kv_config_path: Annotated[
        str, _namesrv("File of the name server's key-value table. Empty: kvConfig.json in config.")
    ] = ""
    support_acting_master: Annotated[
        bool, _namesrv("The name server shows a slave as acting master.")
    ] = False
    enable_all_topic_list: Annotated[
        bool, _namesrv("The name server answers requests for the list of all topics.")
    ] = True
    notify_min_broker_id_changed: Annotated[
        bool,
        _namesrv("The name server tells brokers when the smallest broker id changed."),
    ] = False

    # Topics and groups
    auto_create_topic_enable: Annotated[
        bool, _topic("Create a topic at the first message to it.", reload=True)
    ] = True
    auto_create_subscription_group: Annotated[
        bool, _topic("Create a group at its first heartbeat or pull.", reload=True)
    ] = True
    default_topic_queue_nums: Annotated[
        int,
        _topic(
            "Queues of a topic that is created by a message.",
            ge=1,
            le=1024,
            reload=True,
            later=True,
        ),
    ] = 8
    cluster_topic_enable: Annotated[
        bool, _topic("Keep a topic with the cluster's name.", later=True)
    ] = True
    broker_topic_enable: Annotated[
        bool, _topic("Keep a topic with the broker's name.", later=True)
    ] = True
    broker_permission: Annotated[
        int,
        _topic("What clients may do: 4 read, 2 write, 6 both, 0 nothing.", ge=0, le=7, reload=True),
    ] = 6
    max_topic_length: Annotated[
        int, _topic("Longest topic name.", unit="bytes", ge=1, le=255, later=True)
    ] = 127
    queues_max: Annotated[
        int, _topic("Queues of all topics together.", ge=16, le=1_048_576, ours=True)
    ] = 16_384
    message_delay_level: Annotated[
        str,
        _topic(
            "Delay of each level; a number with s, m, h or d.",
            pattern=r"^\s*\d+[smhd](\s+\d+[smhd])*\s*$",
        ),
    ] = DELAY_LEVELS
    flush_delay_offset_interval: Annotated[
        int,
        _topic("delayOffset.json is saved so often.", **_millis(ge=100), reload=True, later=True),
    ] = 10_000
    flush_consumer_offset_interval: Annotated[
        int, _topic("consumerOffset.json is saved so often.", **_millis(ge=100), reload=True)
    ] = 5000
    channel_expired_timeout: Annotated[
        int,
        _topic(
            "A client without a heartbeat for so long leaves its groups.",
            **_millis(ge=1000),
            reload=True,
            later=True,
        ),
    ] = 120_000
    subscription_expired_timeout: Annotated[
        int,
        _topic(
            "A subscription that no heartbeat repeats for so long is dropped.",
            **_millis(ge=1000),
            reload=True,
            later=True,
        ),
    ] = 600_000
    notify_consumer_ids_changed_enable: Annotated[
        bool, _topic("Tell a group's clients when its members change.", reload=True)
    ] = True
    real_time_notify_consumer_change: Annotated[
        bool, _topic("Tell them at once, not collected over 15 s.", reload=True, later=True)
    ] = True
    use_server_side_reset_offset: Annotated[
        bool,
        _topic(
            "Keep a reset of a group's offsets in the broker until its consumers have adopted it; "
            "else only tell the consumers that are online.",
            reload=True,
        ),
    ] = True
    reject_transaction_message: Annotated[
        bool, _topic("Refuse half messages.", reload=True, later=True)
    ] = False
    reject_pull_consumer_enable: Annotated[
        bool,
        _topic(
            "Refuse pulls of clients that do not belong to a consume group.",
            reload=True,
            later=True,
        ),
    ] = False
    lite_pull_message_enable: Annotated[bool, _topic("Answer LITE_PULL_MESSAGE.", reload=True)] = (
        True
    )
    trace_on: Annotated[bool, _topic("Tell clients that tracing is wanted (TRACE_ON).")] = True
    trace_topic_enable: Annotated[bool, _topic("Create the topic of client traces.")] = False
    msg_trace_topic_name: Annotated[
        str, _topic("Name of the topic of client traces.", pattern=NAME, min_length=1, later=True)
    ] = "RMQ_SYS_TRACE_TOPIC"
    store_reply_message_enable: Annotated[
        bool, _topic("Store reply messages too, not only hand them over.", reload=True, later=True)
    ] = True
    validate_system_topic_when_update_topic: Annotated[
        bool, _topic("Refuse changes of system topics.", reload=True, later=True)
    ] = True
    split_metadata_size: Annotated[
        int,
        _topic(
            "Topics or groups in one page of a metadata reply.",
            ge=1,
            le=1_000_000,
            reload=True,
            later=True,
        ),
    ] = 2000
    config_black_list: Annotated[
        str, _topic("Keys that no request may read or change, separated by `;`.", later=True)
    ] = "configBlackList;brokerConfigPath"

    # Store
    direct_write_enable: Annotated[
        bool,
        _store(
            "Large pieces of the commitlog go to the disk past the page cache: less work, but who "
            "reads further back than the hot pages reads from the disk."
        ),
    ] = True
    mapped_file_size_commit_log: Annotated[
        int, _store("Size of a commitlog file.", unit="bytes", ge=64 * KiB, le=INT_MAX)
    ] = GiB
    mapped_file_size_consume_queue: Annotated[
        int,
        _store(
            "Size of a consumequeue file; rounded up to whole entries of 20.",
            unit="bytes",
            ge=20,
            le=INT_MAX,
        ),
    ] = 6_000_000
    store_type: Annotated[
        Literal["default", "defaultRocksDB"],
        _store("Kind of store; only `default` is supported.", later=True),
    ] = "default"
    max_message_size: Annotated[
        int, _store("Largest body of a message.", unit="bytes", ge=1, le=512 * MiB)
    ] = 4 * MiB
    message_index_enable: Annotated[bool, _store("Keep index files for queries by key.")] = True
    message_index_safe: Annotated[
        bool,
        _store(
            "After a crash believe full index files alone, and build the rest anew from the log."
        ),
    ] = False
    max_hash_slot_num: Annotated[
        int,
        _store(
            "Hash slots of an index file. Files of other sizes are not read.",
            ge=1,
            le=500_000_000,
        ),
    ] = 5_000_000
    max_index_num: Annotated[
        int,
        _store(
            "Entries of an index file. Files of other sizes are not read.",
            ge=2,
            le=2_000_000_000,
        ),
    ] = 20_000_000
    max_msgs_num_batch: Annotated[
        int,
        _store("Most messages that a query by key finds.", ge=1, le=10_000, reload=True),
    ] = 64
    default_query_max_num: Annotated[
        int,
        _store(
            "Most messages that a query by unique key finds.",
            ge=1,
            le=10_000,
            reload=True,
        ),
    ] = 32
    check_crc_on_recover: Annotated[
        bool, _store("Check body CRCs while recovering.", later=True)
    ] = True
    auto_message_version_on_topic_len: Annotated[
        bool, _store("Write long topic names (more than 127) in records of version 2.", later=True)
    ] = True
    read_un_committed: Annotated[
        bool,
        _store("Show messages to consumers before they are flushed or replicated.", later=True),
    ] = False
    enabled_append_prop_crc: Annotated[
        bool, _store("Append a CRC over the whole record to the properties.", later=True)
    ] = False
    force_verify_prop_crc: Annotated[
        bool, _store("Check that CRC in place of the body's.", later=True)
    ] = False
    enable_consume_queue_ext: Annotated[
        bool, _store("Keep consumequeue extension files.", later=True)
    ] = False
    mapped_file_size_consume_queue_ext: Annotated[
        int, _store("Size of such a file.", unit="bytes", ge=64 * KiB, le=INT_MAX, later=True)
    ] = 48 * MiB

    # Flushing
    flush_disk_type: Annotated[
        Literal["ASYNC_FLUSH", "SYNC_FLUSH"],
        _flush("SYNC_FLUSH confirms a message when it is on disk, ASYNC_FLUSH before."),
    ] = "ASYNC_FLUSH"
    sync_flush_timeout: Annotated[
        int,
        _flush(
            "SYNC_FLUSH answers FLUSH_DISK_TIMEOUT after so long.", **_millis(ge=1), reload=True
        ),
    ] = 5000
    flush_interval_commit_log: Annotated[
        int, _flush("ASYNC_FLUSH writes to disk so often.", **_millis(ge=1), reload=True)
    ] = 500
    flush_commit_log_timed: Annotated[
        bool,
        _flush(
            "ASYNC_FLUSH waits the whole interval; false: new messages wake it.",
            reload=True,
            later=True,
        ),
    ] = True
    flush_commit_log_least_pages: Annotated[
        int,
        _flush(
            "ASYNC_FLUSH waits for so many dirty pages of 4 KiB.", ge=0, le=INT_MAX, reload=True
        ),
    ] = 4
    flush_commit_log_thorough_interval: Annotated[
        int, _flush("After so long it flushes whatever there is.", **_millis(ge=1), reload=True)
    ] = 10_000
    async_flush_bytes_max: Annotated[
        int,
        _flush(
            "ASYNC_FLUSH: a power cut loses no more than so much; sends wait before. "
            "0: as much as the hot pages hold.",
            unit="bytes",
            ge=0,
            le=LONG_MAX,
            ours=True,
        ),
    ] = 0
    async_flush_millis_max: Annotated[
        int,
        _flush(
            "ASYNC_FLUSH: a power cut loses nothing that is older; sends wait before.",
            **_millis(ge=100),
            ours=True,
        ),
    ] = 10_000
    flush_interval_consume_queue: Annotated[
        int, _flush("Consumequeues are flushed so often.", **_millis(ge=1), reload=True, later=True)
    ] = 1000
    flush_consume_queue_least_pages: Annotated[
        int,
        _flush(
            "A consumequeue waits for so many dirty pages of 4 KiB.",
            ge=0,
            le=INT_MAX,
            reload=True,
            later=True,
        ),
    ] = 2
    flush_consume_queue_thorough_interval: Annotated[
        int,
        _flush(
            "After so long all consumequeues are flushed.", **_millis(ge=1), reload=True, later=True
        ),
    ] = 60_000

    # Retention
    delete_when: Annotated[
        str,
        _keep(
            "Hours at which old files go, 00 to 23, separated by `;`.",
            pattern="^([01][0-9]|2[0-3])(;([01][0-9]|2[0-3]))*$",
            reload=True,
        ),
    ] = "04"
    file_reserved_time: Annotated[
        int,
        _keep(
            "A commitlog file is kept so long after its last change.",
            unit="h",
            ge=1,
            le=876_000,
            reload=True,
        ),
    ] = 72
    disk_max_used_space_ratio: Annotated[
        int,
        _keep(
            "Old files go at any hour when the disk is so full.",
            unit="%",
            ge=10,
            le=95,
            reload=True,
        ),
    ] = 75
    disk_space_clean_forcibly_ratio: Annotated[
        int,
        _keep(
            "Oldest files go even if not old when the disk is so full.",
            unit="%",
            ge=30,
            le=95,
            reload=True,
        ),
    ] = 85
    disk_space_warning_level_ratio: Annotated[
        int,
        _keep("Sends are refused when the disk is so full.", unit="%", ge=35, le=99, reload=True),
    ] = 90
    clean_file_forcibly_enable: Annotated[
        bool, _keep("Allow the deletion of files that are not old.", reload=True)
    ] = True
    clean_resource_interval: Annotated[
        int, _keep("Retention looks so often.", **_millis(ge=100), reload=True)
    ] = 10_000
    delete_file_batch_max: Annotated[
        int, _keep("Files deleted in one round.", ge=1, le=10_000, reload=True)
    ] = 10
    delete_commit_log_files_interval: Annotated[
        int,
        _keep("Pause between two deleted commitlog files.", **_millis(), reload=True),
    ] = 100
    delete_consume_queue_files_interval: Annotated[
        int,
        _keep("Pause between two deleted consumequeue files.", **_millis(), reload=True),
    ] = 100
    destroy_maped_file_interval_forcibly: Annotated[
        int,
        _keep(
            "A deleted file that somebody reads still is emptied after so long.",
            **_millis(),
            reload=True,
        ),
    ] = 120_000
    redelete_hanged_file_interval: Annotated[
        int,
        _keep(
            "A file that could not be deleted is tried again after so long.",
            **_millis(ge=100),
            reload=True,
        ),
    ] = 120_000
    store_quota_bytes: Annotated[
        int,
        _keep(
            "Oldest commitlog files go, even if not old, when commitlog and consumequeues take "
            "more. The newest file always stays. 0: no limit.",
            unit="bytes",
            ge=0,
            le=LONG_MAX,
            reload=True,
            ours=True,
        ),
    ] = 0
    metadata_reserve_size: Annotated[
        int,
        _keep(
            "So much of the disk is set aside for topics, groups and offsets, which are written "
            "when it is full otherwise. 0: nothing.",
            unit="bytes",
            ge=0,
            le=INT_MAX,
            ours=True,
        ),
    ] = 8 * MiB

    # Reading
    long_polling_enable: Annotated[
        bool, _read("Keep a pull that finds nothing until a message comes.", reload=True)
    ] = True
    short_polling_time_mills: Annotated[
        int, _read("Without long polling a pull waits so long.", **_millis(ge=1), reload=True)
    ] = 1000
    max_transfer_bytes_on_message_in_memory: Annotated[
        int,
        _read("Most bytes of one pull from memory.", unit="bytes", ge=100, le=INT_MAX, reload=True),
    ] = 256 * KiB
    max_transfer_count_on_message_in_memory: Annotated[
        int, _read("Most messages of one pull from memory.", ge=1, le=INT_MAX, reload=True)
    ] = 32
    max_transfer_bytes_on_message_in_disk: Annotated[
        int,
        _read("Most bytes of one pull from disk.", unit="bytes", ge=100, le=INT_MAX, reload=True),
    ] = 64 * KiB
    max_transfer_count_on_message_in_disk: Annotated[
        int, _read("Most messages of one pull from disk.", ge=1, le=INT_MAX, reload=True)
    ] = 8
    max_filter_message_size: Annotated[
        int,
        _read(
            "Bytes of consumequeue that one pull looks through.",
            unit="bytes",
            ge=20,
            le=INT_MAX,
            reload=True,
            later=True,
        ),
    ] = 16_000
    travel_cq_file_num_when_get_message: Annotated[
        int,
        _read(
            "Consumequeue files that one pull looks through.",
            ge=1,
            le=1000,
            reload=True,
            later=True,
        ),
    ] = 1
    access_message_in_memory_max_ratio: Annotated[
        int,
        _read(
            "Share of memory that unread messages may fill before reads go to the slave.",
            unit="%",
            ge=1,
            le=100,
            reload=True,
        ),
    ] = 40
    slave_read_enable: Annotated[
        bool, _read("Send readers that are far behind to the slave.", reload=True)
    ] = False
    offset_check_in_slave: Annotated[
        bool,
        _read("A slave corrects offsets out of range as a master does.", reload=True, later=True),
    ] = False
    disable_consume_if_consumer_read_slowly: Annotated[
        bool, _read("Stop groups that are too far behind.", reload=True, later=True)
    ] = False
    consumer_fallbehind_threshold: Annotated[
        int,
        _read(
            "Too far behind is so much.", unit="bytes", ge=1, le=LONG_MAX, reload=True, later=True
        ),
    ] = 16 * GiB

    # Flow control
    broker_fast_failure_enable: Annotated[
        bool, _busy("Answer SYSTEM_BUSY to requests that waited too long.", reload=True)
    ] = True
    wait_time_mills_in_send_queue: Annotated[
        int,
        _busy("A send that waits longer for the writer is refused.", **_millis(ge=1), reload=True),
    ] = 200
    wait_time_mills_in_pull_queue: Annotated[
        int, _busy("The same for a pull.", **_millis(ge=1), reload=True, later=True)
    ] = 5000
    wait_time_mills_in_heartbeat_queue: Annotated[
        int, _busy("The same for a heartbeat.", **_millis(ge=1), reload=True, later=True)
    ] = 31_000
    wait_time_mills_in_transaction_queue: Annotated[
        int,
        _busy("The same for the end of a transaction.", **_millis(ge=1), reload=True, later=True),
    ] = 3000
    wait_time_mills_in_admin_broker_queue: Annotated[
        int,
        _busy("The same for an administration request.", **_millis(ge=1), reload=True, later=True),
    ] = 5000
    os_page_cache_busy_time_out_mills: Annotated[
        int,
        _busy(
            "The store counts as busy when an append takes longer.",
            **_millis(ge=1),
            reload=True,
            later=True,
        ),
    ] = 1000
    start_accept_send_request_time_stamp: Annotated[
        int,
        _busy(
            "Sends before this time are refused; ms since the epoch.",
            unit="ms",
            ge=0,
            le=LONG_MAX,
            reload=True,
        ),
    ] = 0

    # Replication
    ha_master_address: Annotated[
        str,
        _ha("Master's replication address, host:port. Empty: told by the name server.", later=True),
    ] = ""
    ha_send_heartbeat_interval: Annotated[
        int,
        _ha(
            "An idle replication connection says so often that it lives.",
            **_millis(ge=1),
            later=True,
        ),
    ] = 5000
    ha_housekeeping_interval: Annotated[
        int,
        _ha("A replication connection silent for so long is closed.", **_millis(ge=1), later=True),
    ] = 20_000
    ha_transfer_batch_size: Annotated[
        int, _ha("Most bytes in one transfer.", unit="bytes", ge=1, le=4 * MiB - 12, later=True)
    ] = 32_768
    ha_max_gap_not_in_sync: Annotated[
        int,
        _ha(
            "A slave that is more behind is not in sync.",
            unit="bytes",
            ge=0,
            le=LONG_MAX,
            later=True,
        ),
    ] = 256 * MiB
    ha_max_time_slave_not_catchup: Annotated[
        int, _ha("A slave that is behind for longer is not in sync.", **_millis(ge=1), later=True)
    ] = 15_000
    ha_flow_control_enable: Annotated[
        bool, _ha("Limit the bytes that slaves are sent.", later=True)
    ] = False
    max_ha_transfer_byte_in_second: Annotated[
        int, _ha("That limit.", unit="bytes/s", ge=1, le=LONG_MAX, later=True)
    ] = 100 * MiB
    slave_timeout: Annotated[
        int,
        _ha("SYNC_MASTER answers FLUSH_SLAVE_TIMEOUT after so long.", **_millis(ge=1), later=True),
    ] = 3000
    total_replicas: Annotated[int, _ha("Brokers in the group.", ge=1, le=100, later=True)] = 1
    in_sync_replicas: Annotated[
        int,
        _ha("Brokers that must have a message, the master among them.", ge=1, le=100, later=True),
    ] = 1
    min_in_sync_replicas: Annotated[
        int, _ha("Least such brokers with enableAutoInSyncReplicas.", ge=1, le=100, later=True)
    ] = 1
    enable_auto_in_sync_replicas: Annotated[
        bool, _ha("Ask for fewer brokers when fewer are alive.", later=True)
    ] = False
    all_ack_in_sync_state_set: Annotated[
        bool, _ha("Every broker in sync must have a message (controller mode).", later=True)
    ] = False
    sync_from_last_file: Annotated[
        bool, _ha("A new slave starts with the last commitlog file.", later=True)
    ] = False
    async_learner: Annotated[bool, _ha("This slave never counts as in sync.", later=True)] = False
    enable_slave_acting_master: Annotated[
        bool, _ha("The smallest living slave does the master's timed work.", later=True)
    ] = False
    enable_remote_escape: Annotated[
        bool, _ha("It hands its messages to another broker group.", later=True)
    ] = False
    skip_pre_online: Annotated[
        bool, _ha("Do not wait for the group's other brokers at start.", later=True)
    ] = False
    compatible_with_old_name_srv: Annotated[
        bool, _ha("Use requests that name servers before 5.0 know.", later=True)
    ] = True
    lock_in_strict_mode: Annotated[
        bool, _ha("Lock a queue at most of the group's brokers.", later=True)
    ] = False
    broker_heartbeat_interval: Annotated[
        int, _ha("Heartbeat to name servers and controllers.", **_millis(ge=1), later=True)
    ] = 1000
    broker_not_active_timeout_millis: Annotated[
        int, _ha("A broker without a heartbeat for so long is gone.", **_millis(ge=1), later=True)
    ] = 10_000
    sync_broker_member_group_period: Annotated[
        int, _ha("The group's members are asked for so often.", **_millis(ge=1), later=True)
    ] = 1000
    enable_controller_mode: Annotated[bool, _ha("A controller elects the master.", later=True)] = (
        False
    )
    controller_addr: Annotated[
        str, _ha("Controllers, host:port, separated by `;`.", later=True)
    ] = ""
    sync_broker_metadata_period: Annotated[
        int, _ha("The controller is asked for the master so often.", **_millis(ge=1), later=True)
    ] = 5000
    check_sync_state_set_period: Annotated[
        int, _ha("The set of brokers in sync is checked so often.", **_millis(ge=1), later=True)
    ] = 5000
    sync_controller_metadata_period: Annotated[
        int,
        _ha("The controllers are asked for their leader so often.", **_millis(ge=1), later=True),
    ] = 10_000
    controller_heart_beat_timeout_mills: Annotated[
        int,
        _ha(
            "The controller takes this broker for dead after so long.", **_millis(ge=1), later=True
        ),
    ] = 10_000
    broker_election_priority: Annotated[
        int, _ha("The lower, the sooner this broker is elected.", ge=0, le=INT_MAX, later=True)
    ] = INT_MAX
    store_path_epoch_file: Annotated[
        str,
        _ha("File of master epochs. Empty: epochFileCheckpoint in storePathRootDir.", later=True),
    ] = ""
    store_path_broker_identity: Annotated[
        str,
        _ha(
            "File of the id that the controller gave. Empty: brokerIdentity in storePathRootDir.",
            later=True,
        ),
    ] = ""
    enable_d_leger_commit_log: Annotated[
        bool, _ha("Keep the commitlog by DLedger.", later=True)
    ] = False
    d_leger_group: Annotated[str, _ha("DLedger group, as brokerName.", later=True)] = ""
    d_leger_peers: Annotated[
        str, _ha("DLedger members, n0-host:port;n1-host:port.", later=True)
    ] = ""
    d_leger_self_id: Annotated[str, _ha("This broker's DLedger name, n0.", later=True)] = ""
    preferred_leader_id: Annotated[str, _ha("DLedger member that should lead.", later=True)] = ""
    enable_batch_push: Annotated[bool, _ha("DLedger pushes entries in batches.", later=True)] = (
        False
    )

    # Planned: read now, so that an existing broker.conf need not be changed twice.
    transaction_time_out: Annotated[
        int, _later("A half message is checked after so long.", **_millis(ge=1), reload=True)
    ] = 6000
    transaction_check_max: Annotated[
        int, _later("A half message is checked so many times.", ge=1, le=INT_MAX, reload=True)
    ] = 15
    transaction_check_interval: Annotated[
        int, _later("Half messages are looked at so often.", **_millis(ge=1), reload=True)
    ] = 30_000
    transaction_op_msg_max_size: Annotated[
        int, _later("Most bytes in one op message.", unit="bytes", ge=64, le=4 * MiB)
    ] = 4096
    transaction_op_batch_interval: Annotated[
        int, _later("Op messages are collected for so long.", **_millis(ge=1))
    ] = 3000
    timer_wheel_enable: Annotated[bool, _later("Deliver messages at any time of theirs.")] = True
    timer_max_delay_sec: Annotated[
        int, _later("Longest delay of such a message.", unit="s", ge=1, le=INT_MAX)
    ] = 259_200
    timer_precision_ms: Annotated[
        Literal[100, 200, 500, 1000], _later("Step of the timer wheel.", unit="ms")
    ] = 1000
    timer_roll_window_slot: Annotated[
        int, _later("A later message is put again after so many steps.", ge=2, le=1_209_600)
    ] = 172_800
    timer_flush_interval_ms: Annotated[
        int, _later("The timer's checkpoint is saved so often.", **_millis(ge=100))
    ] = 1000
    mapped_file_size_timer_log: Annotated[
        int, _later("Size of a timer log file.", unit="bytes", ge=64 * KiB, le=INT_MAX)
    ] = 100 * MiB
    timer_congest_num_each_slot: Annotated[
        int, _later("Most messages of one step.", ge=1, le=INT_MAX)
    ] = INT_MAX
    recall_message_enable: Annotated[
        bool, _later("Let clients recall a message of later delivery.")
    ] = False
    revive_queue_num: Annotated[int, _later("Queues of the revive topic (POP).", ge=1, le=1024)] = 8
    pop_polling_size: Annotated[
        int, _later("Waiting POP requests of one queue.", ge=1, le=INT_MAX)
    ] = 1024
    max_pop_polling_size: Annotated[
        int, _later("Waiting POP requests of all queues.", ge=1, le=INT_MAX)
    ] = 100_000
    pop_from_retry_probability: Annotated[
        int, _later("A POP looks into the retry topic first so often.", unit="%", ge=0, le=100)
    ] = 20
    enable_retry_topic_v2: Annotated[
        bool, _later("Retry topics of POP carry `+` in their names.")
    ] = False
    enable_property_filter: Annotated[bool, _later("Allow SQL92 subscriptions.", reload=True)] = (
        False
    )
    enable_calc_filter_bit_map: Annotated[bool, _later("Work filters out while dispatching.")] = (
        False
    )
    filter_support_retry: Annotated[bool, _later("Filter retry messages too.", reload=True)] = False
    expect_consumer_num_use_filter: Annotated[
        int, _later("Groups of a topic with a filter.", ge=1, le=100_000)
    ] = 32
    max_error_rate_of_bloom_filter: Annotated[
        int, _later("Share of wrong hits of a filter's bit map.", unit="%", ge=1, le=99)
    ] = 20
    acl_enable: Annotated[bool, _later("Check access by plain_acl.yml.")] = False
    authentication_enabled: Annotated[bool, _later("Check who a client is.")] = False
    authorization_enabled: Annotated[bool, _later("Check what a client may do.")] = False
    init_authentication_user: Annotated[str, _later("First user, as JSON.")] = ""
    inner_client_authentication_credentials: Annotated[
        str, _later("Credentials of this broker at others, as JSON.")
    ] = ""
    authentication_whitelist: Annotated[str, _later("Request codes without authentication.")] = ""
    authorization_whitelist: Annotated[str, _later("Request codes without authorization.")] = ""
    metrics_exporter_type: Annotated[
        Literal["DISABLE", "OTLP_GRPC", "PROM", "LOG"], _later("Where metrics go.")
    ] = "DISABLE"
    metrics_prom_exporter_port: Annotated[
        int, _later("Port for Prometheus.", ge=1, le=PORT_MAX)
    ] = 5557
    metrics_prom_exporter_host: Annotated[str, _later("Address for Prometheus. Empty: all.")] = ""
    metrics_label: Annotated[
        str, _later("Labels of every metric, name:value, separated by `,`.")
    ] = ""
    metrics_in_delta: Annotated[bool, _later("Export differences, not sums.")] = False
    enable_lmq: Annotated[bool, _later("Keep light queues.")] = False
    enable_multi_dispatch: Annotated[bool, _later("Put one message into several light queues.")] = (
        False
    )
    max_lmq_consume_queue_num: Annotated[int, _later("Most light queues.", ge=1, le=INT_MAX)] = (
        20_000
    )
    enable_compaction: Annotated[bool, _later("Keep compaction topics.")] = True
    cold_data_flow_control_enable: Annotated[
        bool, _later("Slow readers of old messages down.", reload=True)
    ] = False
    cg_cold_read_threshold: Annotated[
        int, _later("Bytes of old messages of one group in 5 s.", unit="bytes", ge=1, le=LONG_MAX)
    ] = 3 * MiB
    global_cold_read_threshold: Annotated[
        int, _later("Bytes of old messages of all groups in 5 s.", unit="bytes", ge=1, le=LONG_MAX)
    ] = 100 * MiB

    # Processes, keys of our own
    serve_process_nums: Annotated[
        int, _process("Processes that own connections. 0: by the number of cores.", ge=0, le=256)
    ] = 0
    spin_micros: Annotated[
        int,
        _process(
            "Writer and dispatch look so long for work before they sleep; for hosts with cores to "
            "spare.",
            unit="µs",
            ge=0,
            le=10_000,
        ),
    ] = 0
    clock_offset_millis: Annotated[
        int,
        _process(
            "For tests: the broker's time of day is so much ahead of the host's.",
            unit="ms",
            ge=-CLOCK_OFFSET_MAX_MS,
            le=CLOCK_OFFSET_MAX_MS,
            reload=True,
        ),
    ] = 0
    restarts_max: Annotated[
        int, _process("The broker halts when one process dies more often than this.", ge=0, le=1000)
    ] = 5
    restarts_window: Annotated[int, _process("... within so long.", **_millis(ge=1000))] = 60_000
    shutdown_timeout: Annotated[
        int,
        _process(
            "Time for each process to finish its work when the broker stops.", **_millis(ge=100)
        ),
    ] = 10_000

    # Shared memory, keys of our own
    hot_pool_size: Annotated[
        int,
        _memory(
            "Commitlog pages kept in shared memory. 0: a share of the memory of the machine.",
            unit="bytes",
            ge=0,
            le=LONG_MAX,
        ),
    ] = 0
    hot_page_size: Annotated[
        int, _memory("Size of one such page.", unit="bytes", ge=64 * KiB, le=GiB)
    ] = 4 * MiB
    submission_ring_size: Annotated[
        int,
        _memory(
            "Record bytes between one serve process and the writer.",
            unit="bytes",
            ge=64 * KiB,
            le=GiB,
        ),
    ] = 16 * MiB
    submission_ring_entries: Annotated[
        int, _memory("Entries of that ring; a power of two.", ge=16, le=1_048_576)
    ] = 8192
    consume_queue_hot_entries: Annotated[
        int,
        _memory(
            "Newest entries of each queue kept in shared memory; a power of two.",
            ge=16,
            le=1_048_576,
        ),
    ] = 1024

    # Native door, keys of our own
    native_enable: Annotated[
        bool,
        _native(
            "Give shared memory to clients on the Unix socket that ask; who has it keeps it.",
            reload=True,
        ),
    ] = True
    native_clients_max: Annotated[
        int, _native("Clients that may have shared memory at a time.", ge=1, le=128)
    ] = 64
    native_ring_entries: Annotated[
        int, _native("Entries of a client's ring; a power of two.", ge=16, le=1_048_576)
    ] = 4096
    native_ring_size: Annotated[
        int,
        _native("Record bytes of a client's ring.", unit="bytes", ge=64 * KiB, le=GiB),
    ] = 8 * MiB
    native_allowed_uids: Annotated[
        str,
        _native(
            "User ids that may have shared memory, with commas; with those of the next key empty: "
            "all who may connect.",
            pattern=r"^\s*(\d+\s*(,\s*\d+\s*)*)?$",
        ),
    ] = ""
    native_allowed_gids: Annotated[
        str,
        _native(
            "Group ids that may have shared memory, with commas.",
            pattern=r"^\s*(\d+\s*(,\s*\d+\s*)*)?$",
        ),
    ] = ""

    # Logs, keys of our own
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _log("Least level that is logged.", reload=True),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        _log("For people or one JSON object a line; auto: for people on a terminal."),
    ] = "auto"

    @property
    def namesrv_addresses(self) -> list[str]:
        """Name servers, host:port each."""
        return split_list(self.namesrv_addr)

    @property
    def native_uids(self) -> frozenset[int]:
        """User ids that may have shared memory."""
        return _numbers(self.native_allowed_uids)

    @property
    def native_gids(self) -> frozenset[int]:
        """Group ids that may have shared memory."""
        return _numbers(self.native_allowed_gids)

    @property
    def socket_mode_bits(self) -> int:
        """Permission bits of the Unix socket."""
        return int(self.socket_mode, 8)

    @property
    def delay_level_millis(self) -> list[int]:
        """Delay of level n + 1 in place n."""
        units = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
        return [int(level[:-1]) * units[level[-1]] for level in self.message_delay_level.split()]


def split_list(text: str) -> list[str]:
    """Parts of a list separated by `;` or `,`, without empty ones."""
    return [part.strip() for part in text.replace(",", ";").split(";") if part.strip()]

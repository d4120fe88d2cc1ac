"""Who this broker is: its names, and the addresses that clients and slaves are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shmq.wire.messageid import host_bytes

if TYPE_CHECKING:
    from shmq.workers.context import Context


class Identity(NamedTuple):
    """What this broker calls itself."""

    cluster: str
    name: str
    broker_id: int
    address: str
    """"host:port" as clients reach it."""
    ha_address: str
    host: str
    """The same address in its parts: ids of messages name it."""
    port: int

    def member_ext(self) -> dict[str, str]:
        """The fields that name this broker in a request."""
        return {
            "brokerName": self.name,
            "brokerAddr": self.address,
            "clusterName": self.cluster,
            "brokerId": str(self.broker_id),
        }


def identity_of(context: Context) -> Identity:
    """How this broker is called, and where clients and slaves are told to find it."""
    settings = context.settings
    _host, port = context.bound.get("main", ("", settings.listen_port))
    return Identity(
        cluster=settings.broker_cluster_name,
        name=settings.broker_name,
        broker_id=settings.broker_id,
        address=host_port(settings.broker_ip1, port),
        ha_address=host_port(settings.broker_ip2, settings.ha_listen_port or port + 1),
        host=settings.broker_ip1,
        port=port,
    )


def store_place_of(identity: Identity) -> bytes:
    """Host and port as records hold them; empty while no address was chosen."""
    if not identity.host:
        return b""
    return host_bytes(identity.host) + identity.port.to_bytes(4, "big")


def host_port(host: str, port: int) -> str:
    """An address as clients take it, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

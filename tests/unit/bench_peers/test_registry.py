"""Choosing peers, and what each must say about itself."""

from __future__ import annotations

import pytest

from bench.peers.load import Cell
from bench.peers.peer import DISK, MEMORY, PAGE_CACHE
from bench.peers.registry import PEERS, chosen
from bench.peers.runner import _groups


def test_no_name_means_all() -> None:
    assert chosen([]) == list(PEERS)


def test_names_and_patterns_choose_each_peer_once() -> None:
    assert chosen(["nats"]) == ["nats"]
    assert chosen(["nats*", "nats", "chronicle"]) == ["nats", "nats-sync", "chronicle"]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'kafka'; there are shmq, "):
        chosen(["kafka"])


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_says_what_it_is_and_what_was_durable(name: str) -> None:
    peer = PEERS[name]
    assert peer.name == name
    assert peer.title
    assert peer.version
    assert peer.client
    assert peer.durable in {DISK, MEMORY, PAGE_CACHE}
    assert peer.durability
    assert peer.settings.keys() >= {"waiting"}
    assert peer.has_backlog or peer.durable == MEMORY


def test_consume_is_measured_with_the_produce_that_it_reads() -> None:
    produce, consume, both = Cell("produce", 128), Cell("consume", 128), Cell("both", 128)
    latency = Cell("latency", 128, 1000)
    wanted = [produce, consume, both, latency]
    assert list(_groups(wanted)) == [[produce, consume], [both], [latency]]
    assert list(_groups([consume])) == [[consume]]
    assert list(_groups([produce])) == [[produce]]

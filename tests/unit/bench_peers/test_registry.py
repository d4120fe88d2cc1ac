"""Choosing peers, and what each must say about itself."""

from __future__ import annotations

import pytest

from bench.peers.load import Cell
from bench.peers.peer import DISK, MEMORY, PAGE_CACHE
from bench.peers.registry import PEERS, chosen
from bench.peers.runner import _groups, another_fits


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


@pytest.mark.parametrize(
    ("gone_s", "rounds", "fits"),
    [(0.0, 0, True), (400.0, 1, True), (500.0, 1, True), (501.0, 1, False), (800.0, 4, True)],
)
def test_another_round_must_end_in_time(gone_s: float, rounds: int, fits: bool) -> None:  # noqa: FBT001
    assert another_fits(gone_s, rounds, run_s_max=1000.0) is fits


def test_the_first_round_is_made_even_without_time() -> None:
    assert another_fits(0.0, 0, run_s_max=0.0)


def test_consume_is_measured_with_the_produce_that_it_reads() -> None:
    produce, consume, both = Cell("produce", 128), Cell("consume", 128), Cell("both", 128)
    latency = Cell("latency", 128, 1000)
    wanted = [produce, consume, both, latency]
    assert list(_groups(wanted)) == [[produce, consume], [both], [latency]]
    assert list(_groups([consume])) == [[consume]]
    assert list(_groups([produce])) == [[produce]]

from __future__ import annotations

from shmq.broker.views import Views
from shmq.wire.internal import GroupUpdate, Sub, TopicUpdate
from tests.unit.broker_reads.sends import view
from tests.unit.broker_reads.store import group


class Heard:
    """Views and what they told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.views = Views(
            on_topic=lambda one: self.told.append(f"+{one.name}"),
            on_topic_removed=lambda one: self.told.append(f"-{one.name}"),
        )

    def take(self) -> list[str]:
        """What was told since the last call."""
        told, self.told = self.told, []
        return told


def test_topics() -> None:
    heard = Heard()
    views = heard.views
    views.take_topics(TopicUpdate([view("A")]))
    assert views.complete is False
    assert heard.take() == ["+A"]
    views.take_topics(TopicUpdate([view("B"), view("C")], complete=True))
    assert bool(views.complete)
    assert heard.take() == ["-A", "+B", "+C"]
    views.take_topics(TopicUpdate([view("B", perm=2)], removed=["C", "never known"]))
    assert heard.take() == ["-C", "+B"]
    assert {name: one.perm for name, one in views.topics.items()} == {"B": 2}


def test_complete_again() -> None:
    """What a new coordinator sends: what stays is told again, what is gone is removed."""
    heard = Heard()
    heard.views.take_topics(TopicUpdate([view("A"), view("B")], complete=True))
    heard.take()
    heard.views.take_topics(TopicUpdate([view("B")], complete=True))
    assert heard.take() == ["-A", "+B"]


def test_slots() -> None:
    views = Heard().views
    views.take_topics(TopicUpdate([view("A", slots=[7, 8])]))
    assert [views.slot("A", queue_id) for queue_id in (-1, 0, 1, 2)] == [None, 7, 8, None]
    assert views.slot("B", 0) is None


def test_groups() -> None:
    views = Heard().views
    sub = Sub("T", "TAG", "*", [], 1)
    views.take_groups(GroupUpdate([group("A", subscriptions=[sub]), group("B")]))
    assert views.subscription("A", "T") == sub
    assert views.subscription("A", "other") is None
    assert views.subscription("none", "T") is None
    views.take_groups(GroupUpdate([group("A", subscriptions=[])], removed=["B", "never known"]))
    assert set(views.groups) == {"A"}
    assert views.subscription("A", "T") is None
    assert views.subscription("B", "T") is None
    views.take_groups(GroupUpdate([group("C")], complete=True))
    assert set(views.groups) == {"C"}
    assert views.subscription("C", "T") is not None

"""pytest: fixtures with a private broker. Installed with shmq; nothing starts before it is used.

    def test_order_is_billed(shmq_broker):
        with shmq_broker.connect() as mq:
            mq.send("orders", b"42")

`shmq_broker` is new for each test; `shmq_shared_broker` lives as long as the session, for tests
that keep apart by the names of their topics. Settings of the broker: override `shmq_settings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shmq.testing import PrivateBroker


@pytest.fixture
def shmq_settings() -> dict[str, Any]:
    """Keys of broker.conf for `shmq_broker`; override it where they are to be others."""
    return {}


@pytest.fixture
def shmq_broker(
    tmp_path_factory: pytest.TempPathFactory, shmq_settings: dict[str, Any]
) -> Iterator[PrivateBroker]:
    """A private broker that serves; stopped after the test, also if the test has killed it."""
    from shmq.testing import PrivateBroker  # noqa: PLC0415  only who uses it pays for it

    with PrivateBroker(tmp_path_factory.mktemp("shmq"), **shmq_settings) as broker:
        yield broker


@pytest.fixture(scope="session")
def shmq_shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """One for all tests of a session."""
    from shmq.testing import PrivateBroker  # noqa: PLC0415

    with PrivateBroker(tmp_path_factory.mktemp("shmq")) as broker:
        yield broker

"""The examples do what they say, against a private broker of the pytest plugin."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from examples import asyncio_service, batch_analytics, fan_out, order_pipeline
from shmq.testing import PrivateBroker

FOLDER = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "__init__.py")


def test_orders_of_a_customer_stay_in_order(shmq_broker: PrivateBroker) -> None:
    billed = order_pipeline.main(shmq_broker.address)
    good = [number for number in range(order_pipeline.ORDERS) if number % 7]
    assert billed == {
        customer: [number for number in good if number % order_pipeline.CUSTOMERS == customer]
        for customer in range(order_pipeline.CUSTOMERS)
    }


def test_every_request_is_answered(shmq_broker: PrivateBroker) -> None:
    answers = asyncio.run(asyncio_service.main(shmq_broker.address))
    assert answers == [b"done %d" % number for number in range(asyncio_service.REQUESTS)]


def test_arrays_in_and_out(shmq_broker: PrivateBroker) -> None:
    sent, count, found, means = batch_analytics.main(shmq_broker.address)
    assert count == batch_analytics.READINGS
    assert found == pytest.approx(sent)
    assert len(means) == 16


def test_every_worker_answers(shmq_broker: PrivateBroker) -> None:
    assert fan_out.main(shmq_broker.address) == [b"worker %d: %d" % (n, 9 * n) for n in range(3)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_as_a_program(script: str, shmq_broker: PrivateBroker) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), shmq_broker.address],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout

"""Orders go through two stages; orders of one customer stay in their order all the way."""

from __future__ import annotations

import json
import sys
import threading

import shmq

CUSTOMERS = 5
ORDERS = 200


def check_stage(address: str | None, left: int) -> None:
    """Takes orders, refuses the empty ones, passes the others on."""
    with (
        shmq.connect(address) as mq,
        mq.producer("orders-checked") as checked,
        mq.subscribe("orders", group="check") as orders,
    ):
        for message in orders.messages(timeout=10):
            order = json.loads(message.body)
            if order["amount"] > 0:
                checked.post(message.body, key=str(order["customer"]))
            left -= 1
            if not left:
                return


def bill_stage(address: str | None, left: int) -> dict[int, list[int]]:
    """Adds up what each customer ordered; gives the order numbers as they came."""
    seen: dict[int, list[int]] = {}
    with shmq.connect(address) as mq, mq.subscribe("orders-checked", group="bill") as orders:
        for message in orders.messages(timeout=10):
            order = json.loads(message.body)
            seen.setdefault(order["customer"], []).append(order["number"])
            left -= 1
            if not left:
                break
    return seen


def main(address: str | None = None) -> dict[int, list[int]]:
    """Run all of it; gives the numbers of the billed orders by customer."""
    with shmq.connect(address) as mq:
        for topic in ("orders", "orders-checked"):
            mq.create_topic(topic, queues=4)
        stage = threading.Thread(target=check_stage, args=(address, ORDERS))
        stage.start()
        with mq.producer("orders") as orders:
            for number in range(ORDERS):
                customer = number % CUSTOMERS
                order = {"number": number, "customer": customer, "amount": number % 7}
                orders.post(json.dumps(order).encode(), key=str(customer))
    good = sum(1 for number in range(ORDERS) if number % 7)
    billed = bill_stage(address, good)
    stage.join()
    return billed


if __name__ == "__main__":
    for customer, numbers in sorted(main(*sys.argv[1:2]).items()):
        print(f"customer {customer}: {len(numbers)} orders, first {numbers[:5]}")

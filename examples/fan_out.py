"""One question to many workers: each answers with its part, found again by a correlation id."""

from __future__ import annotations

import sys
import threading
import uuid

import shmq

WORKERS = 3


def work(address: str | None, number: int, ready: threading.Barrier) -> None:
    """Answers one question with this worker's part of the answer."""
    with (
        shmq.connect(address) as mq,
        # Broadcasting: every worker gets every question.
        mq.subscribe("questions", group="workers", model="broadcasting", start="last") as questions,
    ):
        ready.wait(10)
        for message in questions.messages(timeout=10):
            mq.send(
                message.properties["reply-to"],
                b"worker %d: %d" % (number, len(message.body) * number),
                properties={"correlation": message.properties["correlation"]},
            )
            return


def main(address: str | None = None) -> list[bytes]:
    """Ask once; gives the answers of all workers."""
    correlation = uuid.uuid4().hex
    with shmq.connect(address) as mq:
        for topic in ("questions", "replies"):
            mq.create_topic(topic, queues=1)
        ready = threading.Barrier(WORKERS + 1)
        workers = [
            threading.Thread(target=work, args=(address, number, ready))
            for number in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        ready.wait(10)
        fields = {"correlation": correlation, "reply-to": "replies"}
        mq.send("questions", b"how much?", properties=fields)
        answers: list[bytes] = []
        with mq.subscribe("replies", group=f"asker-{correlation}") as replies:
            for message in replies.messages(timeout=10):
                if message.properties.get("correlation") == correlation:
                    answers.append(message.body)
                if len(answers) == WORKERS:
                    break
        for worker in workers:
            worker.join()
    return sorted(answers)


if __name__ == "__main__":
    for answer in main(*sys.argv[1:2]):
        print(answer.decode())

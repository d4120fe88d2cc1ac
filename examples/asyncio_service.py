"""A service in one event loop: many requests under way, answers on a topic of their own."""

from __future__ import annotations

import asyncio
import sys

from shmq import aio

REQUESTS = 100


async def serve(address: str | None, count: int) -> None:
    """Takes requests, works on each for a moment, answers."""
    async with (
        aio.connect(address) as mq,
        mq.subscribe("requests", group="service") as requests,
        mq.producer("answers") as answers,
    ):
        async for message in requests.messages(timeout=10):
            await asyncio.sleep(0)  # where a real service would ask a database
            await answers.post(b"done " + message.body)
            count -= 1
            if not count:
                return


async def ask(address: str | None, count: int) -> list[bytes]:
    """Sends requests, and collects the answers."""
    got: list[bytes] = []
    async with (
        aio.connect(address) as mq,
        mq.subscribe("answers", group="askers") as answers,
        mq.producer("requests") as requests,
    ):
        for number in range(count):
            await requests.post(b"%d" % number)
        async for message in answers.messages(timeout=10):
            got.append(message.body)
            if len(got) == count:
                break
    return got


async def main(address: str | None = None) -> list[bytes]:
    """Run both sides; gives the answers."""
    async with aio.connect(address) as mq:
        for topic in ("requests", "answers"):
            await mq.create_topic(topic, queues=1)
    service = asyncio.create_task(serve(address, REQUESTS))
    answers = await ask(address, REQUESTS)
    await service
    return answers


if __name__ == "__main__":
    print(len(asyncio.run(main(*sys.argv[1:2]))), "requests answered")

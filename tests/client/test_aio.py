"""The asyncio form: the same calls, many at once, cancelled at any time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import shmq
from shmq.client.aio import AsyncClient
from shmq.errors import Closed, InvalidMessage, NotConnected, SendFailed, TopicNotFound
from shmq.units import MiB
from tests.client.live import PATIENCE_S, LiveBroker, new_name
from tests.compat.processes import eventually

Test = Callable[[AsyncClient], Coroutine[Any, Any, None]]


def connect(address: str, **options: Any) -> AsyncClient:
    """A client with timeouts for a busy machine."""
    return shmq.aio.connect(address, **{"timeout": PATIENCE_S, **options})


def run(address: str, test: Test, **options: Any) -> None:
    """Run a coroutine with a client; nothing of it may be left afterwards."""

    async def main() -> None:
        async with connect(address, **options) as mq:
            await asyncio.wait_for(test(mq), PATIENCE_S)

    asyncio.run(main(), debug=True)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("shmq-")]
    assert not left, left


async def new_topic(mq: AsyncClient, *, queues: int = 4) -> str:
    """A topic of so many queues."""
    topic = new_name()
    await mq.create_topic(topic, queues=queues)
    return topic


async def take(consumer: Any, count: int) -> list[bytes]:
    """Bodies of so many messages."""
    got: list[bytes] = []
    async for message in consumer.messages(PATIENCE_S):
        got.append(message.body)
        if len(got) == count:
            break
    return got


def test_send_and_read(address: str) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq)
        one = await mq.send(topic, b"one", tags="a", keys=["k"], properties={"x": "y"})
        many = await mq.send_many(topic, [b"%d" % number for number in range(600)])
        await mq.send_oneway(topic, b"oneway")
        assert len({result.message_id for result in [one, *many]}) == 601
        got: list[bytes] = []
        async with mq.subscribe(topic, group=new_name("G")) as consumer:
            assert len(consumer.assignment()) == 4
            async for message in consumer:
                got.append(message.body)
                if message.body == b"one":
                    assert (message.tags, message.keys) == ("a", ["k"])
                if len(got) == 602:
                    break
            assert await consumer.poll(0.2) is None
        assert sorted(got) == sorted([b"one", b"oneway", *(b"%d" % n for n in range(600))])

    run(address, test)


def test_many_at_once(live: LiveBroker) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq, queues=1)
        results = await asyncio.gather(*[mq.send(topic, b"%d" % n) for n in range(500)])
        assert sorted(result.queue_offset for result in results) == list(range(500))

    run(live.addresses()["unix"], test)


def test_producer(live: LiveBroker) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq, queues=1)
        async with mq.producer(topic, window=16) as producer:
            futures = []
            for number in range(300):
                futures.append(await producer.post(b"%d" % number))
                assert producer.in_flight <= 16
            many = await producer.post_many(b"%d" % number for number in range(300, 400))
            assert (await producer.send(b"400")).topic == topic
            await producer.flush()
            assert producer.in_flight == 0
        results = [future.result() for future in futures]
        assert [result.queue_offset for result in results] == list(range(300))
        assert [result.queue_offset for result in many.result()] == list(range(300, 400))
        with pytest.raises(Closed):
            await producer.post(b"late")
        async with mq.assign(await mq.queues(topic), group=new_name("G")) as consumer:
            assert await take(consumer, 401) == [b"%d" % number for number in range(401)]

    run(live.addresses()["unix"], test)


def test_failures(live: LiveBroker) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq)
        with pytest.raises(InvalidMessage):
            await mq.send(topic, b"")
        with pytest.raises(SendFailed):
            await mq.send(topic, b"x" * (5 * MiB))
        with pytest.raises(TopicNotFound):
            await mq.queues(new_name())
        producer = mq.producer(topic)
        await producer.post(b"good")
        bad = await producer.post(b"x" * (5 * MiB))
        with pytest.raises(SendFailed, match="failed_count=1"):
            await producer.flush(PATIENCE_S)
        with pytest.raises(SendFailed):
            await bad
        await producer.flush(PATIENCE_S)
        await producer.close()

    run(live.addresses()["unix"], test, body_size_max=8 * MiB)

    async def nobody(mq: AsyncClient) -> None:
        with pytest.raises(NotConnected, match=r"nobody\.sock"):
            await mq.send("T", b"x")
        with pytest.raises(NotConnected):
            async with mq.subscribe("T", group="G"):
                pass

    run("unix:/tmp/nobody.sock", nobody)


def test_a_waiting_consumer_is_woken(address: str) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq)
        consumer = mq.subscribe(topic, group=new_name("G"))
        waiting = asyncio.ensure_future(take(consumer, 1))
        await asyncio.sleep(0.2)
        await mq.send(topic, b"x")
        assert await waiting == [b"x"]
        await consumer.close()
        with pytest.raises(Closed):
            await consumer.poll()

    run(address, test)


def test_cancelled_waits(live: LiveBroker) -> None:
    """Nothing is lost by a wait that is cancelled, and nothing is left behind."""

    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq)
        async with mq.subscribe(topic, group=new_name("G")) as consumer:
            for _ in range(20):
                waiting = asyncio.ensure_future(consumer.poll(PATIENCE_S))
                await asyncio.sleep(0.005)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            sent = [b"%d" % number for number in range(200)]
            sends = [asyncio.ensure_future(mq.send(topic, body)) for body in sent]
            await asyncio.sleep(0)
            for send in sends[::2]:
                send.cancel()
            outcomes = await asyncio.gather(*sends, return_exceptions=True)
            kept = {
                body
                for body, outcome in zip(sent, outcomes, strict=True)
                if not isinstance(outcome, BaseException)
            }
            assert kept >= set(sent[1::2])
            got: set[bytes] = set()
            while not kept <= got:
                batch = await consumer.poll(PATIENCE_S)
                assert batch is not None
                got.update(message.body for message in batch)
            assert got <= set(sent)

    run(live.addresses()["unix"], test)


def test_leaving_an_iteration_loses_nothing(live: LiveBroker) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq, queues=1)
        await mq.send_many(topic, [b"%d" % number for number in range(30)])
        async with mq.subscribe(topic, group=new_name("G")) as consumer:
            got = [*await take(consumer, 3), *await take(consumer, 1), *await take(consumer, 7)]
            batch = await consumer.poll(PATIENCE_S)
            assert batch is not None
            got += [message.body for message in batch]
            assert got == [b"%d" % number for number in range(len(got))]

    run(live.addresses()["unix"], test)


def test_places(live: LiveBroker) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq, queues=1)
        assert topic in await mq.topics()
        (queue,) = await mq.queues(topic)
        await mq.send_many(topic, [b"%d" % number for number in range(10)])
        group = new_name("G")
        async with mq.subscribe(topic, group=group) as consumer:
            assert len(await take(consumer, 10)) == 10
            await consumer.seek(queue, 4)
            assert consumer.position(queue) == 4
            assert await take(consumer, 2) == [b"4", b"5"]
            assert await consumer.seek_to_time(queue, 0) == 0
            async for batch in consumer.batches(PATIENCE_S):
                assert batch[0].body == b"0"
                batch.ack()
                break
            await consumer.commit()
        assert await mq.offsets(queue) == (0, 10)
        assert await mq.search_offset(queue, 0) == 0
        async with mq.subscribe(topic, group=group) as consumer:
            assert await consumer.poll(0.2) is None
        await mq.delete_topic(topic)

    run(live.addresses()["unix"], test)


def test_members_of_a_group_in_one_loop(live: LiveBroker) -> None:
    async def test(mq: AsyncClient) -> None:
        topic = await new_topic(mq)
        group = new_name("G")
        async with (
            mq.subscribe(topic, group=group) as one,
            mq.subscribe(topic, group=group) as two,
        ):
            await asyncio.to_thread(
                eventually,
                "two queues each",
                lambda: len(one.assignment()) == len(two.assignment()) == 2,
            )
            for queue in range(4):
                await mq.send_many(topic, [b"%d" % queue] * 10, queue=queue)
            got = await asyncio.gather(take(one, 20), take(two, 20))
            wanted = [b"0"] * 10 + [b"1"] * 10 + [b"2"] * 10 + [b"3"] * 10
            assert sorted(got[0] + got[1]) == wanted

    run(live.addresses()["unix"], test)

"""What stands for rank 0 may answer with anything, slowly, hugely or never: bounded, and no other run waits for it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.progress import MAX_BYTES, ProgressPoller
from finetune_operator.backends.kubernetes.store import RunKey
from support import kube_objects as objects
from support.runs import START, progress

KEY = RunKey("team", "huanhuan")
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def rank0(answer: Answer, interval_seconds: float = 10) -> AsyncIterator[tuple[ProgressPoller, Object]]:
    """A poller, and a pod whose port is answered so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    poller = ProgressPoller(server.sockets[0].getsockname()[1], interval_seconds, clock=lambda: START)
    try:
        yield poller, objects.pod(phase="Running", container={"running": {}}, status={"podIP": "127.0.0.1"})
    finally:
        await poller.close()
        server.close()


def saying(body: bytes, status: str = "200 OK", headers: str = "") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()

    return answer


async def endless(writer: asyncio.StreamWriter) -> None:
    """Bytes without an end, as fast as they are taken."""
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b"{" * 65_536)
        await writer.drain()


async def never(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """A byte now and then, so that no pause is long."""
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.2)


GOOD = progress(1, 10, at=START).model_dump_json().encode()
USELESS: dict[str, Answer] = {
    "garbage": saying(b"\x00\xff not json"),
    "other json": saying(b"[1, 2]"),
    "another version": saying(GOOD.replace(b'"version":1', b'"version":2')),
    "another attempt": saying(progress(7, 10, at=START).model_dump_json().encode()),
    "an error": saying(GOOD, status="500 Internal Server Error"),
    "a way elsewhere": saying(b"", status="302 Found", headers="Location: http://169.254.169.254/\r\n"),
    "more than a Progress": saying(b"{" * (MAX_BYTES + 1)),
    "no end": endless,
    "never": never,
    "a drip": dripping,
}


def test_a_good_answer_is_taken() -> None:
    async def story() -> None:
        async with rank0(saying(GOOD)) as (poller, pod):
            seen = await poller.look(KEY, (pod,))
            assert seen[1].progress.step == 10

    asyncio.run(story())


def test_an_answer_may_come_in_pieces() -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD[:20])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(GOOD[20:])
        await writer.drain()

    async def story() -> None:
        async with rank0(in_pieces) as (poller, pod):
            assert (await poller.look(KEY, (pod,)))[1].progress.step == 10

    asyncio.run(story())


@pytest.mark.parametrize("answer", USELESS.values(), ids=USELESS.keys())
def test_a_useless_answer_is_none_and_takes_seconds_at_most(answer: Answer) -> None:
    async def story() -> None:
        async with rank0(answer) as (poller, pod):
            began = time.monotonic()
            assert await poller.look(KEY, (pod,)) == {}
            assert time.monotonic() - began < 5

    asyncio.run(story())


def test_a_useless_answer_leaves_the_last_good_one_with_its_time() -> None:
    answers = iter([saying(GOOD), saying(b"garbage")])

    async def next_answer(writer: asyncio.StreamWriter) -> None:
        await next(answers)(writer)

    async def story() -> None:
        async with rank0(next_answer, interval_seconds=0) as (poller, pod):
            poller._interval_seconds = 0
            first = await poller.look(KEY, (pod,))
            assert await poller.look(KEY, (pod,)) == first
            assert next(answers, None) is None, "it was asked again"

    asyncio.run(story())


def test_one_that_never_answers_keeps_no_other_waiting() -> None:
    async def story() -> None:
        async with rank0(never) as (stuck, pod), rank0(saying(GOOD)) as (poller, other):
            waiting = asyncio.create_task(stuck.look(KEY, (pod,)))
            seen = await asyncio.wait_for(poller.look(KEY, (other,)), 1)
            assert seen[1].progress.step == 10
            assert not waiting.done()
            assert await waiting == {}

    asyncio.run(story())

"""Shutdown: ready falls, new work is refused, running work may end until its time is over."""

import asyncio
import contextlib
import gc
import socket

import pytest

from helium_jax.testing import FakeGenerator


def gated():
    gate = asyncio.Event()

    async def wait(request, num_sent):
        if num_sent >= 1:
            await gate.wait()

    return FakeGenerator(before_event=wait, max_answer_tokens=50), gate


async def until_running(generator, count=1):
    async with asyncio.timeout(30):
        while len(generator.running) < count:
            await asyncio.sleep(0.005)


async def test_a_drain_lets_running_work_end_and_refuses_new(serve):
    generator, gate = gated()
    async with serve(generator) as served:
        running = asyncio.create_task(served.chat(min_tokens=3))
        await until_running(generator)
        draining = asyncio.create_task(served.server.drain(10))
        await asyncio.sleep(0)
        refused = await served.chat()
        assert (refused.status, refused.error["code"]) == (503, "shutting_down")
        assert refused.headers["Retry-After"]
        ready = await served.get("/health/ready")
        assert (ready.status, ready.json()["reason"]) == (503, "shutting_down")
        assert (await served.get("/health/live")).status == 200
        gate.set()
        assert (await running).status == 200
        assert await draining is True


async def test_an_idle_server_drains_at_once(serve):
    async with serve() as served:
        assert await served.server.drain(0.0) is True


async def test_work_that_outlives_its_time_gets_an_error(serve):
    generator, _ = gated()
    async with serve(generator) as served:
        whole = asyncio.create_task(served.chat(min_tokens=3))
        stream = asyncio.create_task(served.chat(min_tokens=3, stream=True))
        await until_running(generator, 2)
        assert await served.server.drain(0.05) is False
        await served.server.close()
        answer = await whole
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        *_, last = (await stream).events()
        assert last["error"]["code"] == "shutting_down"
        assert len(generator.cancelled) == 2


@pytest.mark.parametrize("num_rounds", range(5))
async def test_a_connection_that_comes_while_the_port_closes_is_closed_too(serve, num_rounds):
    """The loop is stopped between any two steps of accepting it; an unclosed one would warn."""
    loop = asyncio.get_running_loop()
    async with serve() as served:
        client = socket.create_connection(("127.0.0.1", served.server.port))
        client.setblocking(False)
        for _ in range(num_rounds):
            await asyncio.sleep(0)
        await served.server.close()
        gc.collect()
        with client, contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(30):
                assert await loop.sock_recv(client, 1) == b""

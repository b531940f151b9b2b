"""Many streams at once on the real engine: each is whole, right, and leaves nothing behind."""

import asyncio
import json

import aiohttp
import pytest

from helium_jax.config import EngineConfig
from helium_jax.runtime import open_runtime
from tests.server.conftest import serve_runtime
from tests.server.plans import until

# The shapes of the other tests of the real engine, whose programs are there already.
ENGINE = EngineConfig(
    page_size=16,
    num_pages=64,
    max_num_seqs=4,
    max_num_batched_tokens=16,
    deterministic=True,
)
LINES = ("The cat", "A dog that is longer than one page of tokens", "x")


def body_of(number, model, max_tokens):
    return {
        "model": model,
        "prompt": f"{LINES[number % len(LINES)]} {number % 7}",
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def read_stream(session, body):
    """(text, usage) of a stream that ended as it should."""
    async with session.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(one.removeprefix("data: ")) for one in events[:-2] if one[0] != ":"]
    assert all("error" not in chunk for chunk in chunks)
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]
    return text, chunks[-1]["usage"]


async def stream_many(served, model, count, max_tokens):
    """Asks for `count` streams at once, each on a connection of its own, after each prompt was
    asked for alone; all must agree."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(served.url, connector=connector) as session:
        bodies = [body_of(number, model, max_tokens) for number in range(count)]
        alone = {}
        for body in bodies[:21]:
            alone[body["prompt"]], _ = await read_stream(session, body)
        answers = await asyncio.gather(*(read_stream(session, body) for body in bodies))
    for body, (text, usage) in zip(bodies, answers, strict=True):
        assert text == alone[body["prompt"]]
        assert usage["completion_tokens"] == max_tokens
    await until(lambda: served.server.num_connections == 0)
    (statistics,) = served.generator.statistics()
    assert statistics.num_running == statistics.num_waiting == statistics.cache.num_used == 0


async def test_sixty_four_streams_at_once_are_each_what_they_are_alone(model_folder, caplog):
    async with (
        open_runtime(str(model_folder), ENGINE) as runtime,
        serve_runtime(runtime) as served,
    ):
        await stream_many(served, "fake", 64, 4)
    assert not [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]


@pytest.mark.slow
async def test_256_streams_of_the_built_in_model_end_without_an_error(caplog):
    async with (
        open_runtime("helium-tiny", EngineConfig(deterministic=True)) as runtime,
        serve_runtime(runtime) as served,
    ):
        await stream_many(served, "helium-tiny", 256, 32)
    assert not [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]

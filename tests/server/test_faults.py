"""Faults below the server: each hits as little as it can, is told, and leaves nothing behind.

The engine is the real one on a tiny random model; its device is made to fail from outside.
"""

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio

from helium_jax.config import EngineConfig
from helium_jax.engine import AsyncEngine
from helium_jax.runtime import loop_factory
from helium_jax.server.watchdog import find_failure, watch_engine
from helium_jax.text import load_text
from tests.server.conftest import StubRuntime, serve_runtime
from tests.server.plans import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The shapes of the real engine's other tests, whose programs are there already.
ENGINE = EngineConfig(
    page_size=16,
    num_pages=64,
    max_num_seqs=4,
    max_num_batched_tokens=16,
    deterministic=True,
    max_waiting_requests=4,
)
GOOD = {"prompt": "a prompt of more than two pages of sixteen tokens each", "max_tokens": 6}
ENDLESS = {"max_tokens": 190, "ignore_eos": True}


@dataclass(slots=True)
class Device:
    """How the engine's device behaves.

    Attributes:
        goes: steps are only read while it is set,
        num_free: but for so many.
        is_held: a step has come to where it waits for that.
        failures: what reading the next steps raises, in turn.
        num_damaged: of the next step, so many first rows have logits that are no numbers.
    """

    goes: threading.Event = field(default_factory=threading.Event)
    num_free: int = 0
    is_held: bool = False
    failures: list[BaseException] = field(default_factory=list)
    num_damaged: int = 0

    def attach(self, loop):
        """Stands between the loop and its runner."""
        collect = loop._runner.collect

        def collect_as_told(ticket):
            result = collect(ticket)
            if not self.goes.is_set() and self.num_free:
                self.num_free -= 1
                return result
            self.is_held = not self.goes.is_set()
            self.goes.wait(20)
            if self.failures:
                raise self.failures.pop(0)
            if self.num_damaged and len(result.is_ok):
                is_ok = result.is_ok.copy()
                is_ok[: self.num_damaged] = False
                self.num_damaged = 0
                result = replace(result, is_ok=is_ok)
            return result

        loop._runner.collect = collect_as_told
        return loop


@pytest.fixture(scope="module")
def first_loop(model_folder):
    return loop_factory(str(model_folder), ENGINE, "fake", None, num_workers=1)(0)


@pytest.fixture
def device():
    device = Device()
    device.goes.set()
    yield device
    device.goes.set()


@pytest_asyncio.fixture(loop_scope="module")
async def served(first_loop, model_folder, device):
    """A server whose good answer is the same at the test's end, if its engine lives."""
    engine = AsyncEngine(lambda: device.attach(first_loop.replica()))
    async with engine:
        runtime = StubRuntime(generator=engine, text=load_text(model_folder))
        async with serve_runtime(runtime, max_step_age_s=0.5) as running:
            before = await running.complete(**GOOD)
            yield running
            device.goes.set()
            if engine.closed is None:
                await until(lambda: now(running).num_running == now(running).num_waiting == 0)
                after = await running.complete(**GOOD)
                assert after.json()["choices"] == before.json()["choices"]
                cache = now(running).cache
                assert cache.num_used == 0
                assert cache.num_free + cache.num_cached == cache.num_pages


def now(served):
    (statistics,) = served.generator.statistics()
    return statistics


@contextlib.asynccontextmanager
async def asking(served, **fields):
    """A request whose client leaves at the end of the context."""
    task = asyncio.create_task(served.complete(**{**ENDLESS, **fields}))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_client_that_leaves_the_queue_takes_its_place_in_it_along(served, device):
    device.goes.clear()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(4):
            await stack.enter_async_context(asking(served, prompt=f"{number} runs"))
        device.goes.set()
        await until(lambda: now(served).num_running == 4)
        async with asking(served, prompt="waits"):
            await until(lambda: now(served).num_waiting == 1)
        await until(lambda: now(served).num_waiting == 0)
        assert now(served).num_running == 4


async def test_a_client_that_leaves_in_prefill_frees_its_pages(served, device):
    before = now(served).num_decode_tokens
    device.goes.clear()
    async with asking(served, prompt="y" * 64):
        await until(lambda: device.is_held)
    device.goes.set()
    await until(lambda: now(served).cache.num_used == 0)
    assert now(served).num_decode_tokens == before


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_in_decode_frees_its_pages(served, stream):
    before = now(served).num_decode_tokens
    async with asking(served, prompt="z", stream=stream):
        await until(lambda: now(served).num_decode_tokens > before + 3)
        assert now(served).cache.num_used > 0
    await until(lambda: now(served).cache.num_used == 0)


async def test_of_a_step_with_a_damaged_row_only_that_request_fails(served, device):
    one = asyncio.create_task(served.complete(prompt="one", **ENDLESS))
    other = asyncio.create_task(served.complete(prompt="other", stream=True, **ENDLESS))
    await until(lambda: now(served).num_running == 2)
    device.num_damaged = 1
    whole, stream = await one, await other
    ends = [whole.status == 200, stream.events()[-1] == "[DONE]"]
    assert sorted(ends) == [False, True]
    if whole.status != 200:
        assert (whole.status, whole.error["code"]) == (500, "internal_error")
    else:
        assert stream.events()[-1]["error"]["code"] == "internal_error"


async def test_a_failed_step_fails_what_ran_and_what_waits_is_answered(served, device, caplog):
    device.goes.clear()
    running = asyncio.create_task(served.complete(prompt="x", **ENDLESS))
    await until(lambda: device.is_held)
    device.failures.append(RuntimeError("device lost"))
    device.goes.set()
    answer = await running
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert (await served.get("/health/ready")).status == 200


async def test_when_the_engine_dies_everybody_is_told_at_once(served, device, caplog):
    device.goes.clear()
    running = [
        asyncio.create_task(served.complete(prompt=f"{number} x", stream=stream, **ENDLESS))
        for number in range(2)
        for stream in (False, True)
    ]
    await until(lambda: device.is_held)
    watching = asyncio.create_task(watch_engine(served.generator, max_stall_s=60.0))
    device.failures.append(SystemExit("out of memory"))
    device.goes.set()
    async with asyncio.timeout(2):
        for answer in await asyncio.gather(*running):
            assert (answer.status, answer.error["code"]) == (503, "engine_dead")
        ready = await served.get("/health/ready")
        assert (ready.status, ready.json()["reason"]) == (503, "engine_dead")
        assert (await watching).hangs is False
    late = await served.complete(**GOOD)
    assert (late.status, late.error["code"]) == (503, "engine_dead")
    assert (await served.get("/health/live")).status == 200
    assert (await served.get("/metrics")).status == 200


@pytest.mark.parametrize(
    ("failure", "code"),
    [(SystemExit("out of memory"), "engine_dead"), (RuntimeError("lost"), "internal_error")],
    ids=["engine", "step"],
)
async def test_a_stream_under_way_is_told_what_failed(served, device, caplog, failure, code):
    device.num_free = 5
    device.goes.clear()
    body = {"model": "fake", "prompt": "x", "stream": True, **ENDLESS}
    async with served.session.post(f"{served.url}/v1/completions", json=body) as response:
        came = await response.content.readuntil(b"\n\n")
        assert b'"error"' not in came
        await until(lambda: device.is_held)
        device.failures.append(failure)
        device.goes.set()
        *_, last, end = (came + await response.content.read()).split(b"\n\n")
    assert end == b""
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == code


async def test_a_step_that_hangs_lets_ready_fall_until_it_ends(served, device):
    device.goes.clear()
    running = asyncio.create_task(served.complete(**GOOD))
    async with asyncio.timeout(5):
        while (ready := await served.get("/health/ready")).status == 200:
            await asyncio.sleep(0.02)
    assert ready.json()["reason"] == "engine_stalled"
    failure = find_failure(served.generator, max_stall_s=0.5)
    assert failure is not None
    assert failure.hangs
    assert find_failure(served.generator, max_stall_s=60.0) is None
    device.goes.set()
    assert (await running).status == 200
    await until(lambda: find_failure(served.generator, max_stall_s=0.5) is None)


async def test_a_full_queue_is_told_and_empties(served):
    asked = [asyncio.create_task(served.complete(prompt=f"{n}", **ENDLESS)) for n in range(12)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for refused in done:
        answer = refused.result()
        assert (answer.status, answer.error["type"]) == (429, "rate_limit_error")
        assert int(answer.headers["Retry-After"]) >= 1
    statuses = [answer.status for answer in await asyncio.gather(*asked)]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4


async def test_a_pool_that_is_full_serves_one_after_the_other(served):
    warmed = await served.post("/v1/cache/warm", {"text": "p" * 250, "pin": True})
    assert warmed.json()["prefixes"][0]["resident"] == 240
    asked = [served.complete(prompt=f"{n}" * 60, **ENDLESS) for n in range(4)]
    answers = await asyncio.gather(*asked)
    assert [answer.status for answer in answers] == [200] * 4
    assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {190}
    for pin in (await served.get("/v1/cache/pins")).json()["data"]:
        await served.ask("DELETE", f"/v1/cache/pins/{pin['id']}")

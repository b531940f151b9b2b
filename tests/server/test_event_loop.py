"""What is large is done off the event loop, which tells how long it was blocked."""

import asyncio
import json

from helium_jax.server.loop_watch import LoopWatch
from tests.server.plans import DEBATE


class Turns:
    """Counts how often the loop went round while a context lasted."""

    async def __aenter__(self):
        self.count = 0
        self._task = asyncio.create_task(self._run())
        return self

    async def _run(self):
        while True:
            self.count += 1
            await asyncio.sleep(0)

    async def __aexit__(self, *exc_info):
        self._task.cancel()
        await asyncio.wait({self._task})


async def test_a_block_is_noticed_and_told(serve):
    watch = LoopWatch()
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(0.05)
    watch.forget()
    deadline = asyncio.get_running_loop().time() + 0.1
    while asyncio.get_running_loop().time() < deadline:
        pass
    await asyncio.sleep(0.05)
    watching.cancel()
    assert watch.max_block_s > 0.08
    assert watch.max_busy_s <= watch.max_block_s
    async with serve() as served:
        lines = (await served.get("/metrics")).body.decode().splitlines()
        told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("helium:event_loop_"))
        assert float(told["helium:event_loop_max_block_seconds"]) >= 0
        assert float(told["helium:event_loop_max_busy_seconds"]) >= 0
        assert float(told["helium:event_loop_tasks"]) >= 2


async def test_the_loop_turns_while_large_things_are_read_planned_and_explained(serve):
    """How often, not how long: a loop that is blocked goes round only between requests."""
    rows = [{"question": f"Is {number} a good number?"} for number in range(300)]
    prompt = "word " * 100_000
    async with serve() as served:
        await served.post("/v1/runs", {"plan": DEBATE, "inputs": rows[:2]})  # a cache to look into
        for path, body in (
            ("/v1/completions", {"model": "fake", "prompt": prompt}),
            ("/tokenize", {"prompt": prompt}),
            ("/v1/plans/explain", {"plan": DEBATE, "inputs": rows}),
        ):
            data = json.dumps(body).encode()
            async with Turns() as idle:
                await served.get("/version")
            async with Turns() as turns:
                await served.post(path, data)
            assert turns.count > 5 * idle.count, path

"""The line about the load: what it says, and that an idle server says nothing."""

import asyncio
from dataclasses import replace

from helium_jax.cli.load_lines import describe_load, tell_load
from helium_jax.testing import FakeGenerator
from helium_jax.types import GenerateRequest


def test_the_line_has_the_load_now_and_the_rates_since_the_last():
    (idle,) = FakeGenerator().statistics()
    cache = replace(idle.cache, num_pages=64, num_used=16, queried_tokens=400, hit_tokens=100)
    busy = replace(
        idle,
        num_running=3,
        num_waiting=2,
        num_prefill_tokens=500,
        num_decode_tokens=25,
        num_compiles_after_warmup=1,
        cache=cache,
    )
    assert describe_load((idle,), (busy, idle), 10.0) == (
        "3 running, 2 waiting, prefill 50.0 tok/s, decode 2.5 tok/s, cached 25%, "
        f"KV {16 / (64 + idle.cache.num_pages):.0%}, compiles 1"
    )
    assert "cached -" in describe_load((busy,), (busy,), 10.0)


async def test_it_speaks_while_there_is_work_and_once_after_it():
    generator, said = FakeGenerator(), []
    telling = asyncio.create_task(tell_load(generator, said.append, interval_s=0.01))
    await asyncio.sleep(0.05)
    assert said == []
    answer = generator.generate(GenerateRequest(request_id="a", token_ids=(1, 2)))
    await anext(answer)
    while len(said) < 2:
        await asyncio.sleep(0.005)
    await answer.aclose()
    await asyncio.sleep(0.1)
    assert said[0].startswith("1 running")
    assert said[-1].startswith("0 running")
    num_lines = len(said)
    await asyncio.sleep(0.05)
    assert len(said) == num_lines
    telling.cancel()

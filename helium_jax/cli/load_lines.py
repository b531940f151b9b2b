"""The line about the server's load that `helium-jax serve` prints while it works."""

import asyncio
from collections.abc import Callable, Sequence

from helium_jax.errors import HeliumError
from helium_jax.types import EngineStatistics, Generator

INTERVAL_S = 10.0


async def tell_load(
    generator: Generator, say: Callable[[str], None], *, interval_s: float = INTERVAL_S
) -> None:
    """Says every `interval_s` what the engine did meanwhile, if it did anything; never returns.

    The line that follows work says once that the engine is idle, so that the last one is no riddle.
    """
    loop = asyncio.get_running_loop()
    before, at, was_busy = _read(generator), loop.time(), False
    while True:
        await asyncio.sleep(interval_s)
        after, now = _read(generator), loop.time()
        is_busy = is_working(before, after)
        if is_busy or was_busy:
            say(describe_load(before, after, now - at))
        before, at, was_busy = after, now, is_busy


def is_working(before: Sequence[EngineStatistics], after: Sequence[EngineStatistics]) -> bool:
    """Whether anything ran between two readings, or runs now."""
    return any(one.num_running or one.num_waiting for one in after) or (
        _sum(after, "num_steps") != _sum(before, "num_steps")
    )


def describe_load(
    before: Sequence[EngineStatistics], after: Sequence[EngineStatistics], seconds: float
) -> str:
    """One line: load now, rates since `before`, over all workers.

    Cached is the share of looked-up prompt tokens that were found; KV the share of pages that
    somebody reads; compiles are those that a request had to wait for since the start.
    """
    prefill = (_sum(after, "num_prefill_tokens") - _sum(before, "num_prefill_tokens")) / seconds
    decode = (_sum(after, "num_decode_tokens") - _sum(before, "num_decode_tokens")) / seconds
    queried, found, used, pages = (
        sum(getattr(one.cache, name) for one in after)
        for name in ("queried_tokens", "hit_tokens", "num_used", "num_pages")
    )
    queried -= sum(one.cache.queried_tokens for one in before)
    found -= sum(one.cache.hit_tokens for one in before)
    cached = f"{found / queried:.0%}" if queried else "-"
    return (
        f"{_sum(after, 'num_running')} running, {_sum(after, 'num_waiting')} waiting, "
        f"prefill {prefill:.1f} tok/s, decode {decode:.1f} tok/s, cached {cached}, "
        f"KV {used / pages if pages else 0.0:.0%}, "
        f"compiles {_sum(after, 'num_compiles_after_warmup')}"
    )


def _sum(statistics: Sequence[EngineStatistics], name: str) -> int:
    return sum(getattr(one, name) for one in statistics)


def _read(generator: Generator) -> tuple[EngineStatistics, ...]:
    try:
        return generator.statistics()
    except HeliumError:  # a dead engine is told of elsewhere
        return ()

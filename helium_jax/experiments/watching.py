"""Generators around a generator: one that watches its prompts, one that hides the plan from it."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from helium_jax.types import (
    CacheMap,
    EngineStatistics,
    GenerateRequest,
    Generator,
    ModelInfo,
    PlannedUse,
    TokenEvent,
    WarmPrefix,
    WarmReceipt,
)


class Watcher:
    """Passes everything on and notes what was asked and answered, for `least_computed`.

    With `forgetful`, the store hears nothing of the plan, so that eviction is by last use.
    """

    def __init__(self, inner: Generator, *, forgetful: bool = False) -> None:
        self._inner = inner
        self._forgetful = forgetful
        self._calls: list[tuple[str, tuple[int, ...], int]] = []  # salt, prompt + answer, prompt's

    @property
    def info(self) -> ModelInfo:
        return self._inner.info

    def clear(self) -> None:
        """Forgets the calls so far."""
        self._calls.clear()

    def least_computed(self, page_size: int) -> int:
        """Prompt tokens that a store without a limit has computed for the calls that finished.

        Pages of an answer count as computed when it ended, and a prompt's last token is computed
        whatever is stored. Calls are taken in the order of their ends.
        """
        stored: set[int] = set()
        total = 0
        for salt, ids, num_prompt in self._calls:
            digest = hash(salt)
            num_found, is_prefix = 0, True
            for start in range(0, len(ids) - page_size + 1, page_size):
                digest = hash((digest, ids[start : start + page_size]))
                is_prefix = is_prefix and digest in stored
                if is_prefix and start + page_size < num_prompt:
                    num_found += page_size
                stored.add(digest)
            total += num_prompt - num_found
        return total

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """See `types.Generator.generate`."""
        if self._forgetful:
            request = replace(request, planned_next_use=None)
        answer: list[int] = []
        events: Any = self._inner.generate(request)
        async with aclosing(events):
            async for event in events:
                answer += event.token_ids
                if event.finish_reason is not None:
                    whole = (*request.token_ids, *answer)
                    self._calls.append((request.cache_salt, whole, len(request.token_ids)))
                yield event

    async def foresee(self, uses: Sequence[PlannedUse], *, worker: int | None = None) -> None:
        """Passes the news on, unless forgetful."""
        if not self._forgetful:
            await self._inner.foresee(uses, worker=worker)

    async def warm(self, prefix: WarmPrefix) -> WarmReceipt:
        """Passes it on."""
        return await self._inner.warm(prefix)

    async def unpin(self, pin_id: int) -> None:
        """Passes it on."""
        await self._inner.unpin(pin_id)

    async def reset_cache(self, *, worker: int | None = None) -> int:
        """Passes it on."""
        return await self._inner.reset_cache(worker=worker)

    async def cache_map(self, *, salts: Collection[str] | None) -> tuple[CacheMap, ...]:
        """Of the generator inside."""
        return await self._inner.cache_map(salts=salts)

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """Of the generator inside."""
        return self._inner.statistics()

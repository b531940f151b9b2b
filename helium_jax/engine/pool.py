"""Several engines behind one `types.Generator`: placement, a dead worker, statistics per worker."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing

from helium_jax.engine.async_engine import AsyncEngine
from helium_jax.engine.validation import validate_worker
from helium_jax.errors import HeliumError, InternalError, RequestError
from helium_jax.types import (
    CacheMap,
    EngineStatistics,
    GenerateRequest,
    ModelInfo,
    PlannedUse,
    TokenEvent,
    WarmPrefix,
    WarmReceipt,
)


class EnginePool:
    """Sends each request to the worker it names, or to the living one with the fewest requests.

    Workers share nothing here: each has its own KV store, queue and thread. When one dies its
    requests fail with code "worker_failed", to be tried elsewhere by whoever can tell whether the
    tokens already handed out matter; the others go on.

    Use as an async context manager, or call `start` and `close`; belongs to one event loop.

    Args:
        engines: alike, not started; at least one. Worker i is the i-th.
    """

    def __init__(self, engines: Sequence[AsyncEngine]) -> None:
        self._engines = tuple(engines)
        self._running: list[set[str]] = [set() for _ in self._engines]

    async def start(self) -> None:
        """Starts the first worker, then the others together: they find its work done.

        Raises:
            RequestError: the configuration does not fit the model or the device.
        """
        first, *others = self._engines
        try:
            await first.start()
            await asyncio.gather(*(engine.start() for engine in others))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends every worker; who still waits gets a CapacityError."""
        await asyncio.gather(*(engine.close() for engine in self._engines))

    async def __aenter__(self) -> "EnginePool":
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def info(self) -> ModelInfo:
        return dataclasses.replace(self._engines[0].info, num_workers=len(self._engines))

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """Streams a request's events; see `types.Generator.generate`."""
        if any(request.request_id in running for running in self._running):
            raise RequestError(f"{request.request_id=} is in use by an unfinished request")
        worker = self._place(request.worker)
        events = self._engines[worker].generate(dataclasses.replace(request, worker=None))
        self._running[worker].add(request.request_id)
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except HeliumError as error:
            raise self._explain(worker, error) from error
        finally:
            self._running[worker].remove(request.request_id)

    async def warm(self, prefix: WarmPrefix) -> WarmReceipt:
        """Computes a prefix's full pages on one worker; its receipt says which."""
        worker = self._place(prefix.worker)
        try:
            receipt = await self._engines[worker].warm(dataclasses.replace(prefix, worker=None))
        except HeliumError as error:
            raise self._explain(worker, error) from error
        pin_id = receipt.pin_id
        if pin_id is not None:
            pin_id = pin_id * len(self._engines) + worker
        return dataclasses.replace(receipt, pin_id=pin_id, worker=worker)

    @property
    def embedding_size(self) -> int:
        """Numbers of a vector; see `types.Embeds`."""
        return self._engines[0].embedding_size

    async def embed(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """The vector of a text, from the least loaded worker; see `types.Embeds.embed`."""
        worker = self._place(None)
        try:
            return await self._engines[worker].embed(token_ids)
        except HeliumError as error:
            raise self._explain(worker, error) from error

    async def unpin(self, pin_id: int) -> None:
        """Gives a pin back; an unknown id raises RequestError. Those of a dead worker are gone."""
        own_id, worker = divmod(pin_id, len(self._engines))
        if self._engines[worker].closed is None:
            await self._engines[worker].unpin(own_id)

    async def foresee(self, uses: Sequence[PlannedUse], *, worker: int | None = None) -> None:
        """Replaces what is known of the next use of resident pages, on one worker or all."""
        for engine in self._chosen(worker):
            await engine.foresee(uses)

    async def reset_cache(self, *, worker: int | None = None) -> int:
        """Forgets what nobody reads or pins, on one worker or all; returns the pages freed."""
        return sum([await engine.reset_cache() for engine in self._chosen(worker)])

    async def cache_map(self, *, salts: Collection[str] | None) -> tuple[CacheMap, ...]:
        """What the pages of every living worker hold; see `types.Generator`."""
        living = self._living()
        maps = await asyncio.gather(*(self._engines[i].cache_map(salts=salts) for i in living))
        return tuple(
            dataclasses.replace(each, worker=worker)
            for worker, found in zip(living, maps, strict=True)
            for each in found
        )

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """One entry per worker, dead ones included."""
        return tuple(each for engine in self._engines for each in engine.statistics())

    def _place(self, wanted: int | None) -> int:
        """The wanted worker, or the living one with the fewest requests, the first of equals.

        Raises:
            RequestError: there is no such worker.
            InternalError: it is dead.
            HeliumError: why the last of them ended, when none lives.
        """
        validate_worker(wanted, self.info)
        living = self._living()
        if not living:
            ends = [engine.closed for engine in self._engines]
            raise next(end for end in ends if end is not None)
        if wanted is None:
            return min(living, key=lambda i: len(self._running[i]))
        if wanted not in living:
            raise InternalError(f"worker {wanted} failed earlier", code="worker_failed")
        return wanted

    def _living(self) -> list[int]:
        return [i for i, engine in enumerate(self._engines) if engine.closed is None]

    def _chosen(self, worker: int | None) -> Sequence[AsyncEngine]:
        """The living ones among all, or the one that is named."""
        if worker is None:
            return [self._engines[i] for i in self._living()]
        return [self._engines[self._place(worker)]]

    def _explain(self, worker: int, error: HeliumError) -> HeliumError:
        """A dead worker is no dead engine as long as others live."""
        others_live = any(i != worker for i in self._living())
        if error.code != "engine_dead" or not others_live:
            return error
        return InternalError(f"worker {worker} failed: {error.message}", code="worker_failed")

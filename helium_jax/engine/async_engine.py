"""`AsyncEngine`: one engine thread as a `types.Generator` of one asyncio event loop."""

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import Future

from helium_jax.engine.active import Outcome, event_of
from helium_jax.engine.loop import Loop
from helium_jax.engine.service import Service
from helium_jax.engine.validation import (
    validate_request,
    validate_token_ids,
    validate_worker,
)
from helium_jax.errors import CapacityError, HeliumError, InternalError, RequestError
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

log = logging.getLogger(__name__)

MAX_EMBEDDING = 4096  # texts that wait for their vectors


class AsyncEngine:
    """Submits to one `Service` and streams what comes back.

    Use as an async context manager, or call `start` and `close`. All methods belong to the event
    loop it was started on and never block it.

    Args:
        make_loop: builds the engine loop, on the engine thread.
        name: of the thread.
        give_up: called when the engine shall end, perhaps before it is built; see `Service`.
    """

    def __init__(
        self,
        make_loop: Callable[[], Loop],
        *,
        name: str = "helium-engine",
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._service = Service(make_loop, self._deliver_from_thread, name=name, give_up=give_up)
        self._events: asyncio.AbstractEventLoop | None = None
        self._outboxes: dict[str, asyncio.Queue[Outcome]] = {}
        self._info: ModelInfo | None = None
        self._pool_tokens = self._embedding_size = 0
        self._embedding = asyncio.Lock()
        self._num_embedding = 0

    async def start(self) -> None:
        """Builds and compiles the engine; returns when it is ready to serve.

        A caller that is cancelled waits until the thread has ended, as soon as it gives up.

        Raises:
            RequestError: the configuration does not fit the model or the device.
        """
        self._events = asyncio.get_running_loop()
        try:
            await asyncio.wrap_future(self._service.start())
            self._info, self._pool_tokens, self._embedding_size = await asyncio.wrap_future(
                self._service.call(lambda loop: (loop.info, loop.pool_tokens, loop.embedder.size))
            )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the thread and frees device memory; who still waits gets a CapacityError."""
        # Without a thread of a pool: when the interpreter ends there are none any more.
        await asyncio.wrap_future(self._service.begin_stop())
        self._service.stop()  # waits for the thread's last instructions only

    async def __aenter__(self) -> "AsyncEngine":
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def closed(self) -> HeliumError | None:
        """Why it takes no more requests; None while it lives."""
        return self._service.closed

    @property
    def info(self) -> ModelInfo:
        if self._info is None:
            raise RequestError("the engine is not started; use `async with` or await start()")
        return self._info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenEvent, None]:
        """Streams a request's events; see `types.Generator.generate`."""
        validate_request(request, self.info, pool_tokens=self._pool_tokens)
        request_id = request.request_id
        if request_id in self._outboxes:
            raise RequestError(f"{request_id=} is in use by an unfinished request")
        outbox: asyncio.Queue[Outcome] = asyncio.Queue()
        self._outboxes[request_id] = outbox
        finished = False
        try:
            self._service.submit(request)
            while not finished:
                event = event_of(await outbox.get())
                finished = event.finish_reason is not None
                yield event
        finally:
            del self._outboxes[request_id]
            if not finished:
                self._service.cancel(request_id)

    async def warm(self, prefix: WarmPrefix) -> WarmReceipt:
        """Computes a prefix's full pages unless they are resident, and pins them if asked."""
        request_id = f"warm-{uuid.uuid4().hex}"
        request = GenerateRequest(
            request_id=request_id, token_ids=prefix.token_ids, worker=prefix.worker
        )
        validate_request(request, self.info, pool_tokens=self._pool_tokens)
        begun = self._service.call(lambda loop: loop.warm(prefix, request_id))
        try:
            return await asyncio.wrap_future(await asyncio.wrap_future(begun))
        except asyncio.CancelledError:
            self._service.cancel(request_id)
            begun.add_done_callback(self._give_pin_back)
            raise

    def _give_pin_back(self, begun: Future[Future[WarmReceipt]]) -> None:
        """Gives back what was pinned for somebody who left before the receipt arrived."""

        def unpin(warmed: Future[WarmReceipt]) -> None:
            if warmed.exception() is None and (pin_id := warmed.result().pin_id) is not None:
                self._service.call(lambda loop: loop.unpin(pin_id))

        if not begun.cancelled() and begun.exception() is None:
            begun.result().add_done_callback(unpin)

    async def unpin(self, pin_id: int) -> None:
        """Gives a pin back; an unknown id raises RequestError."""
        await asyncio.wrap_future(self._service.call(lambda loop: loop.unpin(pin_id)))

    async def foresee(self, uses: Sequence[PlannedUse], *, worker: int | None = None) -> None:
        """Replaces what is known of the next use of resident pages; see `types.Generator`.

        Does not wait for the step that runs: it happens between it and the next one.
        """
        validate_worker(worker, self.info)
        self._service.call(lambda loop: loop.foresee(uses)).add_done_callback(_log_failure)

    async def reset_cache(self, *, worker: int | None = None) -> int:
        """Forgets every reusable block that nobody reads or pins; returns the pages freed."""
        validate_worker(worker, self.info)
        return await asyncio.wrap_future(self._service.call(lambda loop: loop.reset_cache()))

    async def cache_map(self, *, salts: Collection[str] | None) -> tuple[CacheMap, ...]:
        """What every page holds, taken between two steps; see `types.Generator`."""
        drawn = self._service.call(lambda loop: loop.cache_map(salts))
        return (await asyncio.wrap_future(drawn),)

    @property
    def embedding_size(self) -> int:
        """Numbers of a vector; see `types.Embeds`."""
        return self._embedding_size

    async def embed(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """The vector of a text; see `types.Embeds.embed`."""
        validate_token_ids(token_ids, vocab_size=self.info.vocab_size)
        if len(token_ids) > self.info.max_model_len:
            raise RequestError(
                f"a text of {len(token_ids)} tokens exceeds the context of "
                f"{self.info.max_model_len}; shorten it",
                code="context_length_exceeded",
                param="input",
            )
        if self._num_embedding >= MAX_EMBEDDING:
            raise CapacityError(f"{MAX_EMBEDDING} texts wait for their vectors; try again later")
        self._num_embedding += 1
        try:
            # One at a time: between two of them the loop makes a step.
            async with self._embedding:
                embedder = await asyncio.wrap_future(self._service.call(lambda loop: loop.embedder))
                await asyncio.to_thread(embedder.prepare, len(token_ids))
                vector = await asyncio.wrap_future(
                    self._service.call(lambda loop: loop.embedder.embed(token_ids))
                )
        except HeliumError:
            raise
        except Exception as error:
            log.exception("a vector failed")
            raise InternalError(f"the device failed: {error}") from error
        finally:
            self._num_embedding -= 1
        return tuple(vector.tolist())

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """As of the last step, with the age of the loop's heartbeat as of now."""
        statistics = self._service.statistics()
        if statistics is None:
            return ()
        age = self._service.heartbeat_age_s
        is_alive = self.closed is None
        return (dataclasses.replace(statistics, last_step_age_seconds=age, is_alive=is_alive),)

    def _deliver_from_thread(self, outcomes: Sequence[tuple[str, Outcome]]) -> None:
        events = self._events
        if events is None or events.is_closed():
            return
        try:
            events.call_soon_threadsafe(self._deliver, outcomes)
        except RuntimeError:  # closed between the check and the call: nobody waits any more
            return

    def _deliver(self, outcomes: Sequence[tuple[str, Outcome]]) -> None:
        for request_id, outcome in outcomes:
            # A cancelled request's late tokens have no outbox any more.
            if (outbox := self._outboxes.get(request_id)) is not None:
                outbox.put_nowait(outcome)


def _log_failure(future: Future[None]) -> None:
    if (error := future.exception()) is not None:
        log.warning("what was foreseen is not known to the engine: %s", error)

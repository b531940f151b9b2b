"""`Engine`: one engine thread for programs without an event loop."""

import queue
from collections.abc import Callable, Iterator, Sequence

from helium_jax.engine.active import Outcome, event_of
from helium_jax.engine.loop import Loop
from helium_jax.engine.service import Service
from helium_jax.engine.validation import validate_request
from helium_jax.errors import RequestError
from helium_jax.types import EngineStatistics, GenerateRequest, ModelInfo, TokenEvent


class Engine:
    """Submits to one `Service` and iterates over what comes back; a context manager.

    Methods may be called from several threads.

    Args:
        make_loop: builds the engine loop, on the engine thread.
        name: of the thread.

    Raises (from the constructor):
        RequestError: the configuration does not fit the model or the device.
    """

    def __init__(self, make_loop: Callable[[], Loop], *, name: str = "helium-engine") -> None:
        self._outboxes: dict[str, queue.SimpleQueue[Outcome]] = {}
        self._service = Service(make_loop, self._deliver, name=name)
        self._service.start().result()
        self.info: ModelInfo
        self.info, self._pool_tokens = self._service.call(
            lambda loop: (loop.info, loop.pool_tokens)
        ).result()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def submit(self, request: GenerateRequest) -> None:
        """Queues a request at once; `stream` reads it, `cancel` ends it.

        Raises:
            RequestError: the request is wrong, or its id is in use.
        """
        validate_request(request, self.info, pool_tokens=self._pool_tokens)
        if request.request_id in self._outboxes:
            raise RequestError(f"request_id={request.request_id!r} is in use; choose another")
        self._outboxes[request.request_id] = queue.SimpleQueue()
        self._service.submit(request)

    def stream(self, request_id: str) -> Iterator[TokenEvent]:
        """Yields a submitted request's events as they come; closing it early cancels the request.

        Raises:
            RequestError: nothing of that id was submitted, or it was streamed already.
            CapacityError: the queue is full or the engine is shutting down.
            InternalError: the engine failed.
        """
        if (outbox := self._outboxes.get(request_id)) is None:
            raise RequestError(f"{request_id=} is not a submitted request")
        finished = False
        try:
            while not finished:
                event = event_of(outbox.get())
                finished = event.finish_reason is not None
                yield event
        finally:
            self._outboxes.pop(request_id, None)
            if not finished:
                self._service.cancel(request_id)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[tuple[int, ...]]:
        """Runs requests together; returns the generated token ids of each, in order."""
        for request in requests:
            self.submit(request)
        return [
            tuple(token for event in self.stream(request.request_id) for token in event.token_ids)
            for request in requests
        ]

    def cancel(self, request_id: str) -> None:
        """Ends a request; a stream of it ends with FinishReason.CANCELLED. Unknown ids: no-op."""
        self._service.cancel(request_id)

    def statistics(self) -> EngineStatistics:
        """As of the last step."""
        statistics = self._service.statistics()
        assert statistics is not None  # the constructor waited for the loop
        return statistics

    def close(self) -> None:
        """Ends the thread and frees device memory; streams still open get a CapacityError."""
        self._service.stop()

    def _deliver(self, outcomes: Sequence[tuple[str, Outcome]]) -> None:
        for request_id, outcome in outcomes:
            if (outbox := self._outboxes.get(request_id)) is not None:
                outbox.put(outcome)

"""The engine thread: runs the loop, takes commands from an inbox, hands out each step's outcomes.

Only this file crosses between threads. The loop, the store and the runner are touched by the
engine thread alone; the rest of the world puts callables into the inbox, which run between two
steps, and receives the outcomes of a step in one call of `deliver`, so a step costs one hop
however many sequences it served.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from helium_jax.engine.active import Outcome
from helium_jax.engine.loop import Loop
from helium_jax.errors import CapacityError, HeliumError, InternalError
from helium_jax.types import EngineStatistics, GenerateRequest

log = logging.getLogger(__name__)

T = TypeVar("T")
Deliver = Callable[[Sequence[tuple[str, Outcome]]], None]

# An idle thread wakes this often to show that it lives; see `EngineStatistics`.
HEARTBEAT_S = 0.25


class Service:
    """One thread that owns one `Loop`.

    Args:
        make_loop: builds the loop; called on the engine thread, where it also compiles.
        deliver: called on the engine thread with (request id, outcome) pairs; must not block and
            must not raise.
        name: of the thread, for logs and stack dumps.
        give_up: called by `stop`, from any thread: `make_loop` shall raise as soon as it can.
    """

    def __init__(
        self,
        make_loop: Callable[[], Loop],
        deliver: Deliver,
        *,
        name: str,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_loop = make_loop
        self._deliver = deliver
        self._give_up = give_up
        self._inbox: queue.SimpleQueue[Callable[[Loop], None]] = queue.SimpleQueue()
        self._started: Future[None] = Future()
        self._stop = threading.Event()
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        # Guards `_closed`: a command is either run by the thread or refused, never lost between.
        self._gate = threading.Lock()
        self._closed: HeliumError | None = None
        self._statistics: EngineStatistics | None = None
        self._heartbeat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Future[None]:
        """Starts the thread; the future is done when the loop is built, or holds its failure."""
        self._started.set_running_or_notify_cancel()  # who waits no more is no news to the thread
        self._thread.start()
        return self._started

    @property
    def closed(self) -> HeliumError | None:
        """Why the engine takes no more work; None while it lives."""
        return self._closed

    def submit(self, request: GenerateRequest) -> None:
        """Queues a request; whatever happens to it is delivered."""

        def command(loop: Loop) -> None:
            try:
                loop.submit(request)
            except HeliumError as error:
                self._deliver([(request.request_id, error)])
            except BaseException as error:
                failure = InternalError(f"the engine failed: {error}", code="engine_dead")
                self._deliver([(request.request_id, failure)])
                raise

        if (closed := self._put(command)) is not None:
            self._deliver([(request.request_id, closed)])

    def cancel(self, request_id: str) -> None:
        """Ends a request; its pages are free within one step. Unknown ids are ignored."""
        self._put(lambda loop: loop.cancel(request_id))

    def call(self, function: Callable[[Loop], T]) -> Future[T]:
        """Runs a function of the loop on the engine thread, between two steps."""
        future: Future[T] = Future()

        def command(loop: Loop) -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = function(loop)
                except Exception as error:
                    future.set_exception(error)
                else:
                    self._publish(loop)  # who waits for this sees what it changed
                    future.set_result(result)

        if (closed := self._put(command)) is not None:
            future.set_exception(closed)
        return future

    def statistics(self) -> EngineStatistics | None:
        """As of the last step; None before the loop is built."""
        return self._statistics

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the loop last went round."""
        return time.monotonic() - self._heartbeat

    def stop(self) -> None:
        """Ends the thread after the step in flight; unfinished requests get a CapacityError."""
        self.begin_stop().result()
        if self._thread.is_alive():
            self._thread.join()

    def begin_stop(self) -> Future[None]:
        """Begins to `stop`; the future is done when the thread has nothing left to do."""
        self._stop.set()
        self._give_up()
        self._put(lambda loop: None)  # wakes an idle thread
        if self._thread.ident is None and not self._ended.done():  # never started
            self._ended.set_result(None)
        return self._ended

    def _put(self, command: Callable[[Loop], None]) -> HeliumError | None:
        """Queues a command, or says why nobody will run it."""
        with self._gate:
            if self._closed is None:
                self._inbox.put(command)
            return self._closed

    def _run(self) -> None:
        loop = None
        try:
            loop = self._make_loop()
            self._statistics = loop.statistics()
            self._started.set_result(None)
            while not self._stop.is_set():
                self._heartbeat = time.monotonic()
                self._take_commands(loop)
                if loop.has_work:
                    loop.step()
                self._publish(loop)
            self._end(loop, CapacityError("the engine is shutting down", code="shutting_down"))
        except BaseException as error:
            if self._started.done() or not isinstance(error, HeliumError):
                log.exception("engine thread %s failed", self._thread.name)
            self._end(loop, InternalError(f"the engine failed: {error}", code="engine_dead"))
            if not self._started.done():
                self._started.set_exception(error)
        finally:
            self._ended.set_result(None)

    def _take_commands(self, loop: Loop) -> None:
        """Runs what is in the inbox; waits for something only when there is no work."""
        try:
            if not loop.has_work:
                self._inbox.get(timeout=HEARTBEAT_S)(loop)
            while True:
                self._inbox.get_nowait()(loop)
        except queue.Empty:
            return

    def _publish(self, loop: Loop) -> None:
        self._statistics = loop.statistics()
        if outcomes := loop.take_outcomes():
            self._deliver(outcomes)

    def _end(self, loop: Loop | None, error: HeliumError) -> None:
        """Answers everyone who still waits, then lets go of the device memory."""
        with self._gate:
            self._closed = error
        if loop is None:
            return
        while True:
            try:
                self._inbox.get_nowait()(loop)
            except queue.Empty:
                break
        loop.close(error)
        self._publish(loop)

"""One run's shell: carries out what `RunState` decides, and tells it what happened."""

import asyncio
import dataclasses
import functools
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from helium_jax.errors import CapacityError, HeliumError, RequestError
from helium_jax.executor.ahead import has_free_pages
from helium_jax.executor.encoding import encode_call, encode_known
from helium_jax.executor.events import (
    Call,
    CallEncoded,
    CallFailed,
    CallFinished,
    CallFunction,
    CallProgressed,
    CallServed,
    CallTimedOut,
    CancelCall,
    CancelFunction,
    CancelRequested,
    DeadlinePassed,
    EncodeCall,
    Event,
    Foresee,
    Instruction,
    OpCompleted,
    PrefillAhead,
    Progress,
    Report,
    RunStarted,
    StartTimer,
    StopTimer,
    SubmitCall,
)
from helium_jax.executor.functions import FunctionThreads
from helium_jax.executor.head_room import Need, Seat
from helium_jax.executor.hints import Hints
from helium_jax.executor.options import RunOptions
from helium_jax.executor.output_cache import CachedOutput
from helium_jax.executor.precompute import Warmer
from helium_jax.executor.resources import Resources
from helium_jax.executor.result import RunStatistics, summarize
from helium_jax.executor.spans import SpanBook
from helium_jax.executor.state import RunState
from helium_jax.executor.watch import RunWatch
from helium_jax.schedule.output_lengths import OutputLengths
from helium_jax.text.answer import stream_answer
from helium_jax.types import GenerateRequest, TokenGrammar, WarmPrefix

log = logging.getLogger(__name__)

MAX_AT_ONCE = 8  # events that are handled before others on the loop have their turn
MAX_ATTEMPTS = 10  # at an engine whose queue is full
DEFAULT_OUTPUT = 256.0  # tokens of an answer about which nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """A progress value with its place in the run.

    Attributes:
        run_id: of the run.
        sequence_number: counts the run's events from 0.
        t_ms: milliseconds since the run's start.
        progress: what there is to tell.
    """

    run_id: str
    sequence_number: int
    t_ms: float
    progress: Progress


@dataclass(slots=True, kw_only=True)
class Driver:
    """One run's tasks and the queue through which they report."""

    run_id: str
    state: RunState
    resources: Resources
    options: RunOptions
    on_event: Callable[[RunEvent], None] | None
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]]
    started: float
    hints: Hints
    lengths: OutputLengths
    warmer: Warmer | None = None
    watch: RunWatch | None = None
    precompute_seconds: float = 0.0
    spans: SpanBook = field(default_factory=SpanBook)
    num_events: int = 0
    num_requests: int = 0
    num_ahead: int = 0
    computed_ahead: int = 0  # prompt tokens
    inbox: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    tasks: dict[tuple[str, int], asyncio.Task[None]] = field(default_factory=dict)
    all_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    keys: dict[int, bytes] = field(default_factory=dict)  # of calls whose answers may be shared
    functions: FunctionThreads = field(default_factory=FunctionThreads)

    async def drive(self, *, timeout_s: float | None, cancel: asyncio.Event | None) -> None:
        """Feeds events to the state and carries out what it says, until the run is over."""
        if timeout_s is not None:
            self._start("deadline", 0, self._tell(timeout_s, DeadlinePassed()))
        if cancel is not None:
            self._start("cancel", 0, self._tell_when_set(cancel))
        if self.watch is not None:
            self.watch.attach(lambda: self.spans.so_far(self.now))
        try:
            self.inbox.put_nowait(RunStarted())
            if self.warmer is not None:
                # Begun first, so that it is in the engine's queue before any call.
                self._start("warm", 0, self._warm(self.warmer))
            for number in itertools.count(1):
                event = await self.inbox.get()
                self._note(event)
                self._carry_out(self.state.handle(event))
                if self.state.status is not None:
                    break
                if number % MAX_AT_ONCE == 0:  # a full inbox never waits: others go on, too
                    await asyncio.sleep(0)
        finally:
            if self.state.status is None:
                self._withdraw()
            await _stop(self.all_tasks)
            if self.warmer is not None:
                await self.warmer.close()
            self.functions.close()
            await self.hints.flush()
            if self.watch is not None:
                self.watch.detach()

    def statistics(self, seconds: float) -> RunStatistics:
        """What the run cost, once it is over after `seconds`."""
        warmed = 0 if self.warmer is None else self.warmer.computed
        return summarize(
            self.state.statistics(),
            seconds,
            spans=self.spans.ended(seconds),
            precomputed=warmed + self.computed_ahead,
            precompute_seconds=self.precompute_seconds,
        )

    @property
    def now(self) -> float:
        """Seconds since the run's start."""
        return self.clock() - self.started

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case EncodeCall(call=call):
                    self.spans.ready(call, self.now)
                    self._start("call", call.call_id, self._prepare(call))
                case SubmitCall(call=call, release=release, attempt=attempt):
                    self.spans.submitted(call.call_id, release.worker, attempt, self.now)
                    self._start("call", call.call_id, self._perform(instruction))
                case CancelCall(call_id=call_id):
                    self._cancel("call", call_id)
                    self.spans.given_up(call_id)
                case StartTimer(call_id=call_id, attempt=attempt, seconds=seconds):
                    event = CallTimedOut(call_id=call_id, attempt=attempt)
                    self._start("timer", call_id, self._tell(seconds, event))
                case StopTimer(call_id=call_id):
                    self._cancel("timer", call_id)
                case CallFunction(invocation_id=invocation_id):
                    self._start("function", invocation_id, self._invoke(instruction))
                case CancelFunction(invocation_id=invocation_id):
                    self._cancel("function", invocation_id)
                case Foresee() if not self.options.share_kv:
                    pass  # nobody will look for these pages
                case Foresee(uses=uses):
                    if ("hints", 0) not in self.tasks:
                        self._start("hints", 0, self.hints.run())
                    self.hints.tell(uses)
                case PrefillAhead():
                    self.num_ahead += 1
                    self._start("ahead", self.num_ahead, self._prefill(instruction))
                case Report(progress=progress):
                    self._report(progress)

    def _withdraw(self) -> None:
        """Whoever wanted the run is gone: only the KV stores need to hear that it needs nothing."""
        for instruction in self.state.handle(CancelRequested()):
            if isinstance(instruction, Foresee) and self.options.share_kv:
                self.hints.tell(instruction.uses)

    def _note(self, event: Event) -> None:
        match event:
            case CallEncoded(call_id=call_id, token_ids=token_ids):
                self.spans.encoded(call_id, len(token_ids), self.now)
            case CallProgressed(call_id=call_id, attempt=attempt):
                self.spans.progressed(call_id, attempt, self.now)
            case CallServed(call_id=call_id, attempt=attempt, prompt_ids=prompt_ids):
                self.spans.served(call_id, attempt, len(prompt_ids), self.now)
            case CallFinished(call_id=call_id, attempt=attempt, usage=usage):
                self.spans.finished(call_id, attempt, usage, self.now)
            case _:
                pass

    def _report(self, progress: Progress) -> None:
        if self.warmer is not None and isinstance(progress, OpCompleted):
            name = progress.statistics.operator
            self._start(f"unpin-{name}", 0, self.warmer.complete(name))
        if self.on_event is not None:
            event = RunEvent(
                run_id=self.run_id,
                sequence_number=self.num_events,
                t_ms=self.now * 1000,
                progress=progress,
            )
            self.on_event(event)
        self.num_events += 1

    # --- tasks -----------------------------------------------------------------------------

    def _start(self, kind: str, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"{self.run_id}-{kind}-{number}")
        self.tasks[kind, number] = task
        self.all_tasks.add(task)
        task.add_done_callback(functools.partial(self._forget, (kind, number)))

    def _forget(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        self.all_tasks.discard(task)
        if self.tasks.get(key) is task:
            del self.tasks[key]

    def _cancel(self, kind: str, number: int) -> None:
        task = self.tasks.pop((kind, number), None)
        if task is not None:
            task.cancel()

    async def _tell(self, seconds: float, event: Event) -> None:
        await self.sleep(seconds)
        self.inbox.put_nowait(event)

    async def _tell_when_set(self, cancel: asyncio.Event) -> None:
        await cancel.wait()
        self.inbox.put_nowait(CancelRequested())

    async def _warm(self, warmer: Warmer) -> None:
        """Computes static prefixes. Calls do not wait for it: those that come into a step with a
        prefix that is being computed share it there."""
        await warmer.warm()
        self.precompute_seconds = self.now

    async def _prefill(self, instruction: PrefillAhead) -> None:
        """Computes what is known of a prompt; what goes wrong will be seen when it is complete."""
        try:
            token_ids = await encode_known(self.resources.codec, instruction.turns)
            if not has_free_pages(self.resources.generator, len(token_ids), instruction.worker):
                return  # what it would evict is worth as much
            receipt = await self.resources.generator.warm(
                WarmPrefix(
                    token_ids=token_ids,
                    cache_salt=self.options.cache_salt,
                    planned_next_use=instruction.planned_next_use,
                    worker=instruction.worker,
                )
            )
            self.computed_ahead += receipt.computed
        except Exception as error:
            log.info("%s: the beginning of a prompt was not computed: %r", self.run_id, error)

    # --- calls -----------------------------------------------------------------------------

    async def _prepare(self, call: Call) -> None:
        """Encodes a call and looks for its answer; always ends with an event for the state."""
        event: Event
        try:
            token_ids = await encode_call(self.resources.codec, call)
            event = CallEncoded(call_id=call.call_id, token_ids=token_ids)
            if self.watch is not None:
                self.watch.prompted(call, token_ids)
            key = self.resources.key(call.settings, token_ids, self.options)
            if key is not None:
                self.keys[call.call_id] = key
                output = self.resources.cached(key, self.options)
                if output is not None:
                    event = _served(call, token_ids, output)
        except HeliumError as error:
            event = _failed(call, error)
        except Exception:
            event = self._bug(call)
        self.inbox.put_nowait(event)

    async def _perform(self, submit: SubmitCall) -> None:
        """Gets a call's answer; always ends with an event for the state."""
        call = submit.call
        event: CallFinished | CallServed | CallFailed
        try:
            event = await self._answer(submit)
        except HeliumError as error:
            event = _failed(call, error)
        except Exception:
            event = self._bug(call)
        self.inbox.put_nowait(dataclasses.replace(event, attempt=submit.attempt))

    async def _answer(self, submit: SubmitCall) -> CallFinished | CallServed:
        """Generates, unless an equal call of another run is doing so: then its answer serves."""
        key = self.keys.get(submit.call.call_id)
        if key is None or not self.options.single_flight:
            return await self._generate(submit)
        async with self.resources.claim(key) as claim:
            # Another one may have put it into the cache since this call was prepared.
            output = claim.output or self.resources.put_meanwhile(key, self.options)
            if output is not None:
                claim.output = output
                return _served(submit.call, submit.token_ids, output)
            event = await self._generate(submit)
            claim.output = CachedOutput(
                text=event.text,
                token_ids=event.token_ids,
                prompt_tokens=event.usage.prompt_tokens,
                completion_tokens=event.usage.completion_tokens,
                finish_reason=event.finish_reason,
            )
            if self.options.output_cache:
                self.resources.keep(key, claim.output)
            return event

    async def _generate(self, submit: SubmitCall) -> CallFinished:
        request = self._request(submit, await self._grammar(submit.call))
        cost = len(request.token_ids) + (request.sampling.max_tokens or 0)
        need = self._need(submit)
        for attempt in range(MAX_ATTEMPTS):
            try:
                turn = self.resources.gate.turn(
                    self.run_id, need=need, cost=cost, weight=self.options.weight
                )
                async with turn as seat:
                    if self.resources.generator.info.num_workers > 1:
                        request = dataclasses.replace(request, worker=seat.worker)
                    answer = await self._stream(submit, request, seat)
                self.lengths.observe(submit.call.operator, answer.usage.completion_tokens)
                return answer
            except CapacityError as error:
                if error.code != "server_overloaded" or attempt + 1 == MAX_ATTEMPTS:
                    raise
                await self.sleep(error.retry_after_s)
        raise AssertionError("the last attempt returns or raises")

    def _need(self, submit: SubmitCall) -> Need:
        expected = self.lengths.expected(submit.call.operator)
        most = submit.call.settings.sampling.max_tokens
        if expected is None:
            expected = DEFAULT_OUTPUT if most is None else most
        return Need(
            token_ids=submit.token_ids,
            output_tokens=expected if most is None else min(expected, most),
            worker=submit.release.worker,
        )

    async def _stream(
        self, submit: SubmitCall, request: GenerateRequest, seat: Seat
    ) -> CallFinished:
        call = submit.call
        self.spans.admitted(call.call_id, request.worker, self.now)
        texts: list[str] = []
        token_ids: list[int] = []
        usage, finish_reason = None, None
        detokenizer = self.resources.codec.detokenizer(call.settings.stop)
        pieces = stream_answer(self.resources.generator, request, detokenizer)
        async with aclosing(pieces):
            async for piece in pieces:
                texts.append(piece.text)
                token_ids += piece.token_ids
                usage, finish_reason = piece.usage, piece.finish_reason
                if piece.token_ids:
                    self.resources.gate.grew(seat, len(piece.token_ids))
                    progress = CallProgressed(
                        call_id=call.call_id,
                        num_tokens=len(piece.token_ids),
                        text=piece.text,
                        attempt=submit.attempt,
                    )
                    self.inbox.put_nowait(progress)
        assert usage is not None, "an answer has at least its last piece"
        assert finish_reason is not None, "the last piece says why it is the last"
        return CallFinished(
            call_id=call.call_id,
            text="".join(texts),
            usage=usage,
            token_ids=tuple(token_ids),
            finish_reason=finish_reason,
        )

    async def _grammar(self, call: Call) -> TokenGrammar | None:
        """Compiled before the run began; found again at once, or made once more."""
        spec = call.settings.response_format
        return None if spec is None else await self.resources.codec.compile_grammar(spec)

    def _request(self, submit: SubmitCall, grammar: TokenGrammar | None) -> GenerateRequest:
        call, release = submit.call, submit.release
        # An attempt that was cancelled may still be known to the engine under its id.
        request_id = f"{self.run_id}-{call.call_id}"
        self.num_requests += 1
        salt = self.options.cache_salt
        if not (self.options.share_kv and call.settings.cache.kv):
            # A salt of its own keeps a call from finding and from leaving reusable pages.
            salt = f"{salt}/{request_id}"
        return GenerateRequest(
            request_id=f"{request_id}-{self.num_requests}",
            token_ids=submit.token_ids,
            sampling=call.settings.sampling,
            priority=self.options.priority + release.priority,
            cache_salt=salt,
            worker=release.worker,
            planned_next_use=release.planned_next_use,
            prefer_cached=release.prefer_cached,
            grammar=grammar,
        )

    def _bug(self, call: Call) -> CallFailed:
        # One call's bug must not take the other rows with it.
        log.exception("%s-%s: operator %s failed", self.run_id, call.call_id, call.operator)
        message = "an internal error; the log of this process has its cause"
        return CallFailed(
            call_id=call.call_id, code="internal_error", message=message, may_retry=False
        )

    # --- functions -------------------------------------------------------------------------

    async def _invoke(self, instruction: CallFunction) -> None:
        """Calls a function in a thread; always ends with an event for the state."""
        self.inbox.put_nowait(await self.functions.call(instruction))


def _served(call: Call, token_ids: tuple[int, ...], output: CachedOutput) -> CallServed:
    return CallServed(
        call_id=call.call_id,
        text=output.text,
        prompt_ids=token_ids,
        token_ids=output.token_ids,
        finish_reason=output.finish_reason,
    )


def _failed(call: Call, error: HeliumError) -> CallFailed:
    return CallFailed(
        call_id=call.call_id,
        code=error.code,
        message=error.message,
        # A request that is wrong stays wrong.
        may_retry=not isinstance(error, RequestError),
        worker_failed=error.code == "worker_failed",
    )


async def _stop(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels tasks and waits until each has ended, even if we are cancelled meanwhile."""
    interruption: asyncio.CancelledError | None = None
    waiting = [*tasks]
    for task in waiting:
        task.cancel()
    while pending := [task for task in waiting if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        raise interruption

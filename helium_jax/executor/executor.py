"""Runs a plan: the asyncio shell around `RunState`, which decides everything."""

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from helium_jax.errors import CapacityError, HeliumError
from helium_jax.executor.codec import TextCodec
from helium_jax.executor.events import (
    Call,
    CallEncoded,
    CallFailed,
    CallFinished,
    CallProgressed,
    CancelCall,
    CancelRequested,
    DeadlinePassed,
    EncodeCall,
    Event,
    Instruction,
    Progress,
    Report,
    RunStarted,
    SubmitCall,
)
from helium_jax.executor.options import RunOptions
from helium_jax.executor.result import RunResult, summarize
from helium_jax.executor.rows import bind_rows
from helium_jax.executor.state import RunState
from helium_jax.physical import PhysicalPlan, lower
from helium_jax.plan import Plan, Value, check_size
from helium_jax.text.answer import stream_answer
from helium_jax.types import GenerateRequest, Generator

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 10  # at an engine whose queue is full
INLINE_CHARS = 4_000  # longer prompts are encoded in a thread, so that the loop stays responsive
NO_PARAMS: Mapping[str, Value] = {}
DEFAULT_OPTIONS = RunOptions()


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


async def run_plan(
    plan: Plan,
    rows: Sequence[Mapping[str, object]],
    *,
    generator: Generator,
    codec: TextCodec,
    params: Mapping[str, Value] = NO_PARAMS,
    options: RunOptions = DEFAULT_OPTIONS,
    run_id: str | None = None,
    on_event: Callable[[RunEvent], None] | None = None,
    cancel: asyncio.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> RunResult:
    """Runs `plan` over `rows`; a row that fails is an error in the result, not an exception.

    When the calling task is cancelled, so are all calls; no task is left behind.

    Args:
        plan: what to compute.
        rows: one mapping of input values per row.
        generator: the token side.
        codec: text to token ids and back, of the generator's model.
        params: values of the plan's parameters.
        options: how the engine may be used; `NAIVE` is one call at a time without any reuse.
        run_id: a name for the run; drawn when absent.
        on_event: called with every event, on the event loop; must not block.
        cancel: once set, the run ends with what it has.
        clock: seconds, for statistics.
        sleep: waits for seconds, for the run's timeout and a full engine.

    Raises:
        PlanError: the plan or a parameter is not valid, or the batch is too large for it.
        RequestError: a row is not what the plan's inputs say.
    """
    physical, num_rows, columns = prepare(plan, rows, params)
    info = generator.info
    state = RunState(
        physical,
        num_rows,
        columns,
        # Twice what fits in a step: the engine always finds the next sequence in its queue.
        max_in_flight=options.max_in_flight or 2 * info.max_num_seqs * info.num_workers,
        single_flight=options.single_flight,
    )
    run = _Run(
        run_id=run_id or f"run_{secrets.token_hex(8)}",
        state=state,
        generator=generator,
        codec=codec,
        options=options,
        on_event=on_event,
        clock=clock,
        sleep=sleep,
        started=clock(),
    )
    await run.drive(timeout_s=physical.limits.timeout_s, cancel=cancel)
    assert state.status is not None
    return RunResult(
        run_id=run.run_id,
        plan_id=plan.plan_id,
        status=state.status,
        rows=tuple(state.results()),
        statistics=summarize(state.statistics(), clock() - run.started),
    )


def prepare(
    plan: Plan, rows: Sequence[Mapping[str, object]], params: Mapping[str, Value] = NO_PARAMS
) -> tuple[PhysicalPlan, int, dict[str, tuple[str, ...]]]:
    """What a run starts from: its steps, its number of rows and their columns; does no work.

    Raises:
        PlanError: the plan or a parameter is not valid, or the batch is too large for it.
        RequestError: a row is not what the plan's inputs say.
    """
    physical = lower(plan, params)
    check_size(plan, len(rows))
    num_rows, columns = bind_rows(plan, physical, rows)
    return physical, num_rows, columns


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run's tasks and the queue through which they report."""

    run_id: str
    state: RunState
    generator: Generator
    codec: TextCodec
    options: RunOptions
    on_event: Callable[[RunEvent], None] | None
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]]
    started: float
    num_events: int = 0
    inbox: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    cancelled: set[asyncio.Task[None]] = field(default_factory=set)
    gates: dict[int, asyncio.Event] = field(default_factory=dict)

    async def drive(self, *, timeout_s: float | None, cancel: asyncio.Event | None) -> None:
        """Feeds events to the state and carries out what it says, until the run is over."""
        watchers: list[asyncio.Task[None]] = []
        if timeout_s is not None:
            alarm = functools.partial(self.sleep, timeout_s)
            watchers.append(asyncio.create_task(self._tell(alarm, DeadlinePassed())))
        if cancel is not None:
            watchers.append(asyncio.create_task(self._tell(cancel.wait, CancelRequested())))
        try:
            self._carry_out(self.state.handle(RunStarted()))
            while self.state.status is None:
                self._carry_out(self.state.handle(await self.inbox.get()))
        finally:
            await _stop([*watchers, *self.tasks.values(), *self.cancelled])

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case EncodeCall(call=call):
                    self.gates[call.call_id] = asyncio.Event()
                    task = asyncio.create_task(self._perform(call), name=self._request_id(call))
                    self.tasks[call.call_id] = task
                    task.add_done_callback(functools.partial(self._forget, call.call_id))
                case SubmitCall(call_id=call_id):
                    self.gates[call_id].set()
                case CancelCall(call_id=call_id):
                    task = self.tasks.pop(call_id, None)
                    if task is not None:
                        self.cancelled.add(task)
                        task.cancel()
                case Report(progress=progress):
                    self._report(progress)

    def _report(self, progress: Progress) -> None:
        if self.on_event is not None:
            t_ms = (self.clock() - self.started) * 1000
            self.on_event(
                RunEvent(
                    run_id=self.run_id,
                    sequence_number=self.num_events,
                    t_ms=t_ms,
                    progress=progress,
                )
            )
        self.num_events += 1

    async def _tell(self, wait: Callable[[], Awaitable[object]], event: Event) -> None:
        await wait()
        self.inbox.put_nowait(event)

    def _forget(self, call_id: int, task: asyncio.Task[None]) -> None:
        self.tasks.pop(call_id, None)
        self.gates.pop(call_id, None)
        self.cancelled.discard(task)

    async def _perform(self, call: Call) -> None:
        """Encodes, waits to be let in, generates; always ends with an event for the state."""
        try:
            token_ids = await self._encode(call)
            self.inbox.put_nowait(CallEncoded(call_id=call.call_id, num_tokens=len(token_ids)))
            await self.gates[call.call_id].wait()
            event = await self._generate(call, token_ids)
        except HeliumError as error:
            event = CallFailed(call_id=call.call_id, code=error.code, message=error.message)
        except Exception:
            # One call's bug must not take the other rows with it.
            log.exception("%s: operator %s failed", self._request_id(call), call.operator)
            message = "an internal error; the log of this process has its cause"
            event = CallFailed(call_id=call.call_id, code="internal_error", message=message)
        self.inbox.put_nowait(event)

    async def _encode(self, call: Call) -> tuple[int, ...]:
        first_role, first_text = call.turns[0]
        if first_role is None:
            encode = functools.partial(self.codec.encode, first_text)
        else:
            messages = [{"role": role or "", "content": text} for role, text in call.turns]
            encode = functools.partial(self.codec.encode_chat, messages)
        if sum(len(text) for _, text in call.turns) <= INLINE_CHARS:
            return tuple(encode())
        return tuple(await asyncio.to_thread(encode))

    async def _generate(self, call: Call, token_ids: tuple[int, ...]) -> Event:
        request = self._request(call, token_ids)
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await self._stream(call, request)
            except CapacityError as error:
                if error.code != "server_overloaded" or attempt + 1 == MAX_ATTEMPTS:
                    raise
                await self.sleep(error.retry_after_s)
        raise AssertionError("the last attempt returns or raises")

    async def _stream(self, call: Call, request: GenerateRequest) -> Event:
        texts: list[str] = []
        usage = None
        pieces = stream_answer(self.generator, request, self.codec.detokenizer(call.settings.stop))
        async with aclosing(pieces):
            async for piece in pieces:
                texts.append(piece.text)
                usage = piece.usage
                if piece.token_ids:
                    progress = CallProgressed(call_id=call.call_id, num_tokens=len(piece.token_ids))
                    self.inbox.put_nowait(progress)
        assert usage is not None, "an answer has at least its last piece"
        return CallFinished(call_id=call.call_id, text="".join(texts), usage=usage)

    def _request(self, call: Call, token_ids: tuple[int, ...]) -> GenerateRequest:
        request_id = self._request_id(call)
        salt = self.options.cache_salt
        if not (self.options.share_kv and call.settings.cache.kv):
            # A salt of its own keeps a call from finding and from leaving reusable pages.
            salt = f"{salt}/{request_id}"
        return GenerateRequest(
            request_id=request_id,
            token_ids=token_ids,
            sampling=call.settings.sampling,
            priority=self.options.priority + call.settings.priority,
            cache_salt=salt,
        )

    def _request_id(self, call: Call) -> str:
        return f"{self.run_id}-{call.call_id}"


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels tasks and waits until each has ended, even if we are cancelled meanwhile."""
    interruption: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        raise interruption

"""The Python face: `load` a model, then generate, chat, stream, or run a plan."""

import asyncio
import contextlib
import dataclasses
import functools
import threading
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from helium_jax.builtin import TINY_NAME
from helium_jax.config import EngineConfig
from helium_jax.errors import RequestError
from helium_jax.executor import RunEvent, RunOptions, RunResult, Session, Submission
from helium_jax.explain import Report, analyze_plan, explain_plan
from helium_jax.plan import Plan, PlanBuilder, Value, load_plan
from helium_jax.plan.response_format import response_format_of
from helium_jax.runtime import Runtime, open_runtime, open_session
from helium_jax.text.answer import stream_answer
from helium_jax.types import (
    EngineStatistics,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    SamplingParams,
    TokenLogprobs,
    Usage,
)

P = ParamSpec("P")
T = TypeVar("T")
Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]
Rows = Sequence[Mapping[str, object]]
Submitted = (
    tuple[Plan | str | Path, Rows] | tuple[Plan | str | Path, Rows, Mapping[str, Value] | None]
)
_DEFAULT_RUN = RunOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished generation.

    Attributes:
        text: without the stop string that ended it.
        token_ids: all generated ids, a closing end-of-sequence id included.
        logprobs: one per id, if asked for.
        finish_reason: why it ended.
        usage: what it cost.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: FinishReason
    usage: Usage


class AsyncLM:
    """A model for programs with an event loop; made by `open_lm`.

    Sampling arguments are the fields of `types.SamplingParams`; what is left out is greedy.
    """

    def __init__(self, runtime: Runtime, session: Session) -> None:
        self._runtime = runtime
        self._session = session

    @property
    def info(self) -> ModelInfo:
        """Name, vocabulary, context length."""
        return self._runtime.generator.info

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """Load and counters, one entry per worker."""
        return self._runtime.generator.statistics()

    async def generate(
        self,
        prompt: Prompt,
        *,
        stop: Sequence[str] = (),
        response_format: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Answer:
        """Continues a text or token ids.

        Args:
            prompt: the text or its ids.
            stop: texts that end the answer and are no part of it.
            response_format: what the answer must look like, as in plan files, such as
                `{"type": "json_schema", "schema": {...}}`; see `plan.response_format`.

        Raises:
            RequestError: the prompt or a parameter is wrong, or the prompt is too long.
        """
        request = await self._request(self._encode(prompt), response_format, sampling)
        return await self._answer(request, stop)

    async def chat(
        self,
        messages: Messages,
        *,
        stop: Sequence[str] = (),
        response_format: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Answer:
        """Answers a conversation: mappings with a role and a content."""
        request = await self._request(self._encode_chat(messages), response_format, sampling)
        return await self._answer(request, stop)

    async def stream(
        self,
        prompt: Prompt,
        *,
        stop: Sequence[str] = (),
        response_format: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> AsyncIterator[str]:
        """Like `generate`, giving the text as it comes; closing it early ends the generation."""
        request = await self._request(self._encode(prompt), response_format, sampling)
        async for text in self._pieces(request, stop):
            yield text

    async def stream_chat(
        self,
        messages: Messages,
        *,
        stop: Sequence[str] = (),
        response_format: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> AsyncIterator[str]:
        """Like `chat`, giving the text as it comes."""
        request = await self._request(self._encode_chat(messages), response_format, sampling)
        async for text in self._pieces(request, stop):
            yield text

    async def run(
        self,
        plan: Plan | str | Path,
        rows: Sequence[Mapping[str, object]],
        *,
        params: Mapping[str, Value] | None = None,
        options: RunOptions = _DEFAULT_RUN,
        on_event: Callable[[RunEvent], None] | None = None,
    ) -> RunResult:
        """Runs a plan, or a plan file, over rows of inputs.

        Raises:
            PlanError: the plan is not valid; names every fault.
            RequestError: a row is not what the plan's inputs say.
        """
        return await self._session.run(
            _plan_of(plan), rows, params=params or {}, options=options, on_event=on_event
        )

    async def run_together(
        self, submissions: Sequence[Submitted], *, options: RunOptions = _DEFAULT_RUN
    ) -> list[RunResult]:
        """Runs several plans, each over rows of its own, planned and scheduled as one.

        Equal calls of any of them are made once, and calls that begin alike follow each other;
        every plan has the outputs that it has by itself. Plans over equally many rows and without
        limits of their own become one run, the others run beside it.

        Args:
            submissions: (plan, rows) or (plan, rows, params) of each.
            options: of all of them.

        Returns:
            One result per plan, in their order, when the last one is over.

        Raises:
            PlanError: some plan is not valid; names every fault of all of them.
            RequestError: a row is not what its plan's inputs say.
        """
        return await self._session.run_together(
            [_submission(one) for one in submissions], options=options
        )

    async def explain(
        self,
        plan: Plan | str | Path,
        rows: Sequence[Mapping[str, object]],
        *,
        params: Mapping[str, Value] | None = None,
        options: RunOptions = _DEFAULT_RUN,
    ) -> Report:
        """How `run` would run the plan; calls no model. `helium_jax.explain` shows reports.

        Raises:
            PlanError: the plan is not valid; names every fault.
            RequestError: a row is not what the plan's inputs say.
        """
        return await explain_plan(
            self._session, _plan_of(plan), rows, params=params or {}, options=options
        )

    async def analyze(
        self,
        plan: Plan | str | Path,
        rows: Sequence[Mapping[str, object]],
        *,
        params: Mapping[str, Value] | None = None,
        options: RunOptions = _DEFAULT_RUN,
    ) -> Report:
        """Runs the plan and puts what happened beside what `explain` expected.

        Raises:
            PlanError: the plan is not valid; names every fault.
            RequestError: a row is not what the plan's inputs say.
        """
        return await analyze_plan(
            self._session, _plan_of(plan), rows, params=params or {}, options=options
        )

    async def _answer(self, request: GenerateRequest, stop: Sequence[str]) -> Answer:
        pieces = [
            piece
            async for piece in stream_answer(
                self._runtime.generator, request, self._runtime.text.detokenizer(tuple(stop))
            )
        ]
        reason = pieces[-1].finish_reason
        assert reason is not None, "stream_answer ends with a reason"
        return Answer(
            text="".join(piece.text for piece in pieces),
            token_ids=tuple(token for piece in pieces for token in piece.token_ids),
            logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
            finish_reason=reason,
            usage=pieces[-1].usage,
        )

    async def _pieces(self, request: GenerateRequest, stop: Sequence[str]) -> AsyncIterator[str]:
        pieces = stream_answer(
            self._runtime.generator,
            request,
            self._runtime.text.detokenizer(tuple(stop)),
        )
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(self._runtime.text.encode(prompt) if isinstance(prompt, str) else prompt)

    def _encode_chat(self, messages: Messages) -> tuple[int, ...]:
        return tuple(self._runtime.text.encode_chat(messages))

    async def _request(
        self,
        token_ids: tuple[int, ...],
        response_format: Mapping[str, Any] | None,
        sampling: Mapping[str, Any],
    ) -> GenerateRequest:
        grammar = None
        if response_format is not None:
            spec = response_format_of(response_format)
            grammar = await self._runtime.text.compile_grammar(spec)
        return GenerateRequest(
            request_id=f"lm-{uuid.uuid4().hex}",
            token_ids=token_ids,
            sampling=_sampling(sampling),
            grammar=grammar,
        )


def _sampling(arguments: Mapping[str, Any]) -> SamplingParams:
    names = [field.name for field in dataclasses.fields(SamplingParams)]
    for name in arguments:
        if name not in names:
            raise RequestError(
                f"{name}={arguments[name]!r} is no sampling argument; known: {names}"
            )
    return SamplingParams(**arguments)


@contextlib.asynccontextmanager
async def open_lm(
    model: str | Path = TINY_NAME,
    *,
    config: EngineConfig | None = None,
    num_workers: int = 1,
    state_dir: str | Path | None = None,
) -> AsyncIterator[AsyncLM]:
    """Loads a model and starts its engine; both end with the context.

    Args:
        model: "helium-tiny", a Hugging Face folder, or "random:<shape>".
        config: of the engine; None leaves every choice to the machine.
        num_workers: engines that share the weights.
        state_dir: a folder where finished outputs and profiles of plans outlive the process.

    Raises:
        RequestError: the model or the configuration is wrong; names the file or the field.
    """
    folder = Path(state_dir) if state_dir is not None else None
    async with (
        open_runtime(str(model), config, num_workers=num_workers) as runtime,
        open_session(runtime, folder) as session,
    ):
        yield AsyncLM(runtime, session)


def _waiting(
    method: Callable[Concatenate[AsyncLM, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["LM", P], T]:
    """The method of an LM that waits for what an AsyncLM's gives; with its signature and text."""

    @functools.wraps(method)
    def wait(self: "LM", *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._lm, *args, **kwargs))

    return wait


def _iterating(
    method: Callable[Concatenate[AsyncLM, P], AsyncIterator[str]],
) -> Callable[Concatenate["LM", P], Iterator[str]]:
    """The same for one that gives texts as they come."""

    @functools.wraps(method)
    def iterate(self: "LM", *args: P.args, **kwargs: P.kwargs) -> Iterator[str]:
        return self._iterate(method(self._lm, *args, **kwargs))

    return iterate


class LM:
    """A model for programs without an event loop; made by `load`; a context manager.

    Its methods are those of `AsyncLM`, and may be called from several threads: calls made
    together are batched together.
    """

    def __init__(
        self,
        model: str,
        config: EngineConfig | None,
        num_workers: int,
        state_dir: str | Path | None,
    ) -> None:
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._events.run_forever, name="helium-lm", daemon=True
        )
        self._thread.start()
        self._opened = open_lm(model, config=config, num_workers=num_workers, state_dir=state_dir)
        try:
            self._lm = self._wait(self._opened.__aenter__())
        except BaseException:
            _stop_events(self._events, self._thread)
            raise
        # Also when nobody closes it: once it is not referred to, or when the interpreter ends.
        self._end = weakref.finalize(self, _end, self._opened, self._events, self._thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def info(self) -> ModelInfo:
        """Name, vocabulary, context length."""
        return self._lm.info

    def statistics(self) -> tuple[EngineStatistics, ...]:
        """See `AsyncLM.statistics`."""
        return self._lm.statistics()

    generate = _waiting(AsyncLM.generate)
    chat = _waiting(AsyncLM.chat)
    stream = _iterating(AsyncLM.stream)
    stream_chat = _iterating(AsyncLM.stream_chat)
    run = _waiting(AsyncLM.run)
    run_together = _waiting(AsyncLM.run_together)
    explain = _waiting(AsyncLM.explain)
    analyze = _waiting(AsyncLM.analyze)

    def generate_batch(
        self, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), **sampling: Any
    ) -> list[Answer]:
        """Continues several prompts together, which is much faster than one by one."""

        async def gather() -> list[Answer]:
            calls = [self._lm.generate(prompt, stop=stop, **sampling) for prompt in prompts]
            return list(await asyncio.gather(*calls))

        return self._wait(gather())

    def close(self) -> None:
        """Ends the engine and its threads; calling it again does nothing."""
        self._end()

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._events.is_closed():
            coroutine.close()
            raise RequestError("this model is closed; load it again")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._events)
        try:
            return future.result()
        except BaseException:  # Ctrl-C, say: the call must not go on without its caller
            future.cancel()
            raise

    def _iterate(self, texts: AsyncIterator[str]) -> Iterator[str]:
        generator: Any = texts

        async def next_text() -> str | None:
            return await anext(generator, None)

        try:
            while (text := self._wait(next_text())) is not None:
                yield text
        finally:
            self._wait(generator.aclose())


def _end(
    opened: contextlib.AbstractAsyncContextManager[AsyncLM],
    events: asyncio.AbstractEventLoop,
    thread: threading.Thread,
) -> None:
    """Closes what an LM has opened, and the loop and the thread that it had for it."""
    if threading.current_thread() is thread:  # the collector's choice; here nothing may wait
        threading.Thread(target=_end, args=(opened, events, thread), daemon=True).start()
        return
    try:
        asyncio.run_coroutine_threadsafe(_leave(opened), events).result()
    finally:
        _stop_events(events, thread)


async def _leave(opened: contextlib.AbstractAsyncContextManager[AsyncLM]) -> None:
    await opened.__aexit__(None, None, None)


def _stop_events(events: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    # Files are read and written in threads of the loop's own pool, which outlives it otherwise.
    # When the interpreter ends, the pools have ended before, and no thread can be begun.
    with contextlib.suppress(RuntimeError):
        ending = events.shutdown_default_executor()
        asyncio.run_coroutine_threadsafe(ending, events).result()
    events.call_soon_threadsafe(events.stop)
    thread.join()
    events.close()


def load(
    model: str | Path = TINY_NAME,
    *,
    config: EngineConfig | None = None,
    num_workers: int = 1,
    state_dir: str | Path | None = None,
) -> LM:
    """Loads a model and starts its engine.

    Args:
        model: "helium-tiny", a Hugging Face folder, or "random:<shape>".
        config: of the engine; None leaves every choice to the machine.
        num_workers: engines that share the weights.
        state_dir: a folder where finished outputs and profiles of plans outlive the process.

    Raises:
        RequestError: the model or the configuration is wrong; names the file or the field.
    """
    return LM(str(model), config, num_workers, state_dir)


def _submission(given: Submitted) -> Submission:
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        raise RequestError(f"a {type(given).__name__} is no (plan, rows) or (plan, rows, params)")
    params = given[2] if len(given) == 3 else None
    return Submission(plan=_plan_of(given[0]), rows=given[1], params=params or {})


def _plan_of(plan: Plan | str | Path) -> Plan:
    if isinstance(plan, Plan):
        return plan
    if not isinstance(plan, str | Path):
        hint = "call build() first" if isinstance(plan, PlanBuilder) else "give a Plan or a file"
        raise RequestError(f"a {type(plan).__name__} is no plan; {hint}")
    return load_plan(Path(plan))[0]

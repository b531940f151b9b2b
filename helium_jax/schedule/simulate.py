"""Runs a policy on simulated engines: a quick comparison, and a prediction in seconds.

A call's prompt is made of synthetic token ids that are equal exactly where the graph says so, and
its answer of the ids that stand in the prompts of those that use it.
"""

import heapq
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from helium_jax.schedule.call_graph import CallGraph, CallNode
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting, MakePolicy, ReadyCall
from helium_jax.schedule.simulated_engine import Running, SimulatedEngine, StepResult
from helium_jax.schedule.simulated_store import Eviction
from helium_jax.schedule.step_work import StepCost, StepWork, add_work

MAX_QUEUED = 4096  # calls of a run in the engines at once


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpan:
    """When and where a call ran; seconds since the run's start.

    Attributes:
        operator: who called.
        row: for which row.
        worker: which engine.
        start_s: when it was admitted; its last admission is not told.
        end_s: when its last token was there.
        prompt_tokens: length of the prompt.
        cached_tokens: of those, found in the KV store.
        output_tokens: generated.
    """

    operator: str
    row: int
    worker: int
    start_s: float
    end_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What became of a run.

    Attributes:
        makespan_s: the last end, warming included.
        spans: of every call, in the order in which they were admitted.
        work: of all workers' steps together.
        warmed_tokens: computed ahead, in `work` too.
        num_preemptions: calls sent back for lack of pages.
        num_evicted: pages that gave way.
    """

    makespan_s: float
    spans: tuple[CallSpan, ...]
    work: StepWork
    warmed_tokens: int
    num_preemptions: int
    num_evicted: int

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens that were found in the KV store."""
        total = sum(span.prompt_tokens for span in self.spans)
        return sum(span.cached_tokens for span in self.spans) / total if total else 0.0

    @property
    def mean_batch(self) -> float:
        """Sequences decoded per step."""
        return self.work.decode_tokens / self.work.num_steps if self.work.num_steps else 0.0


def simulate(
    graph: CallGraph,
    make_policy: MakePolicy,
    setting: DispatchSetting,
    cost: StepCost,
    *,
    output_tokens: Callable[[CallNode, int], int] | None = None,
    eviction: Eviction = "plan",
    watermark: float = 0.01,
) -> SimulatedRun:
    """Runs `graph` under a policy to its end.

    Args:
        graph: what to call; operators of loops and maps are called `repeats` times, rounded, one
            after another.
        make_policy: one of POLICIES.
        setting: the engines.
        cost: seconds of a step.
        output_tokens: true length of each answer; by default what the graph expects.
        eviction: "lru" ignores planned uses.
        watermark: fraction of pages kept free when admitting.

    Raises:
        ValueError: a call needs more pages than a worker has.
    """
    engines = [
        SimulatedEngine(setting, cost, eviction=eviction, watermark=watermark)
        for _ in range(setting.num_workers)
    ]
    dispatcher = make_policy(graph, setting)
    run = _Run(graph, dispatcher, engines, output_tokens or _expected_tokens)
    return run.drive()


class _Run:
    """The run's state and its shell in one, on a clock of its own."""

    def __init__(
        self,
        graph: CallGraph,
        dispatcher: Dispatcher,
        engines: list[SimulatedEngine],
        output_tokens: Callable[[CallNode, int], int],
    ) -> None:
        self._graph = graph
        self._dispatcher = dispatcher
        self._engines = engines
        self._output_tokens = output_tokens
        self._calls: dict[int, ReadyCall] = {}
        self._missing = {
            (node.name, row): len(node.needs)
            for node in graph.nodes
            for row in range(graph.num_rows)
        }
        self._events: list[tuple[float, int, StepResult]] = []  # a worker's step is over
        self._is_stepping = [False] * len(engines)
        self._spans: list[tuple[tuple[float, int, int], CallSpan]] = []  # by admission

    def drive(self) -> SimulatedRun:
        warmed = self._warm() if self._dispatcher.warms else 0
        for row in range(self._graph.num_rows):
            for node in self._graph.nodes:
                if not node.needs:
                    self._call(node, row, 0)
        self._dispatch(0.0)
        while self._events:
            now_s, worker, result = heapq.heappop(self._events)
            self._is_stepping[worker] = False
            for sequence in result.started:
                self._dispatcher.started(sequence.call.call_id)
            self._foresee()
            for sequence in result.done:
                self._finish(sequence, worker, now_s)
            self._dispatch(now_s)
        if len(self._spans) != len(self._calls):
            raise ValueError("the policy never released some calls, or a prompt never fits")
        work = StepWork(
            num_steps=0, prefill_tokens=0.0, decode_tokens=0.0, kv_tokens=0.0, pair_tokens=0.0
        )
        for engine in self._engines:
            work = add_work(work, engine.work)
        return SimulatedRun(
            makespan_s=max(engine.now_s for engine in self._engines),
            spans=tuple(span for _, span in sorted(self._spans, key=lambda entry: entry[0])),
            work=work,
            warmed_tokens=warmed,
            num_preemptions=sum(engine.num_preemptions for engine in self._engines),
            num_evicted=sum(engine.store.num_evicted for engine in self._engines),
        )

    def _warm(self) -> int:
        """Static prefixes with more than one use, on every worker."""
        uses: dict[tuple[int, ...], int] = {}
        for node in self._graph.nodes:
            prefix = static_prefix(self._graph, node)
            uses[prefix] = uses.get(prefix, 0) + self._graph.num_rows
        return sum(
            engine.warm(prefix)
            for engine in self._engines
            for prefix, count in uses.items()
            if count > 1
        )

    def _call(self, node: CallNode, row: int, turn: int) -> None:
        call = ReadyCall(
            call_id=len(self._calls),
            operator=node.name,
            row=row,
            token_ids=synthetic_prompt(self._graph, node, row, turn),
            max_tokens=self._output_tokens(node, row),
            frame=(turn,) if node.repeats != 1.0 else (),
        )
        self._calls[call.call_id] = call
        self._dispatcher.coming(call.call_id, row)
        self._dispatcher.ready(call)

    def _dispatch(self, now_s: float) -> None:
        room = MAX_QUEUED - sum(engine.num_calls for engine in self._engines)
        for release in self._dispatcher.release(room):
            call = self._calls[release.call_id]
            node = self._graph.by_name[call.operator]
            worker = release.worker
            if worker is None:
                worker = min(
                    range(len(self._engines)), key=lambda w: (self._engines[w].num_calls, w)
                )
            answer = synthetic_answer(node, call.row, self._output_tokens(node, call.row))
            self._engines[worker].submit(call, release, answer)
        self._foresee()
        for worker, engine in enumerate(self._engines):
            if engine.num_calls and not self._is_stepping[worker]:
                engine.now_s = max(engine.now_s, now_s)
                result = engine.step()
                heapq.heappush(self._events, (engine.now_s, worker, result))
                self._is_stepping[worker] = True

    def _foresee(self) -> None:
        for use in self._dispatcher.uses_changed():
            for engine in self._engines if use.worker is None else [self._engines[use.worker]]:
                engine.foresee(use.token_ids, use.next_use)

    def _finish(self, sequence: Running, worker: int, now_s: float) -> None:
        call = sequence.call
        node = self._graph.by_name[call.operator]
        span = CallSpan(
            operator=call.operator,
            row=call.row,
            worker=worker,
            start_s=sequence.admitted_s,
            end_s=now_s,
            prompt_tokens=len(call.token_ids),
            cached_tokens=sequence.num_cached or 0,
            output_tokens=sequence.num_output,
        )
        self._spans.append(((sequence.admitted_s, worker, sequence.admission), span))
        self._dispatcher.finished(call.call_id, sequence.num_output)
        turn = call.frame[0] if call.frame else 0
        if turn + 1 < round(node.repeats):
            self._call(node, call.row, turn + 1)
            return
        self._dispatcher.closed(call.operator, call.row)
        for user in self._graph.users[call.operator]:
            self._missing[user, call.row] -= 1
            if not self._missing[user, call.row]:
                self._call(self._graph.by_name[user], call.row, 0)


def synthetic_prompt(graph: CallGraph, node: CallNode, row: int, turn: int = 0) -> tuple[int, ...]:
    """Token ids of a call's prompt: equal to another's exactly where the graph says so."""
    ids: list[int] = []
    for place, segment in enumerate(node.segments):
        if not segment.key:
            start = _first_id((node.name, place, row, turn))
        else:
            start = _first_id(graph.identity(segment, row))
        ids += range(start, start + round(segment.num_tokens))
    return tuple(ids)


def synthetic_answer(node: CallNode, row: int, num_tokens: int) -> tuple[int, ...]:
    """Token ids of a call's answer, as they stand in the prompts that have it as a slot."""
    start = _first_id((node.name, row))
    return tuple(range(start, start + num_tokens))


def static_prefix(graph: CallGraph, node: CallNode) -> tuple[int, ...]:
    """The leading tokens of the operator's prompts that are the same for every row."""
    count = 0.0
    for segment in node.segments:
        if not segment.is_static:
            break
        count += segment.num_tokens
    return synthetic_prompt(graph, node, 0)[: round(count)]


def _first_id(identity: object) -> int:
    return zlib.crc32(repr(identity).encode())


def _expected_tokens(node: CallNode, row: int) -> int:
    return max(round(node.output_tokens), 1)

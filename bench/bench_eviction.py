"""Regret of eviction under a plan: tokens computed again because their pages were taken.

A debate of several agents over many rows runs on the real store and batcher, without a model: the
pool holds a part of what the next round needs again. Each run's trace is replayed under Belady's
rule, the least regret that any eviction could have had with that order of work.

    python -m bench.bench_eviction
"""

import argparse
import random
from dataclasses import dataclass
from itertools import islice

from bench.harness import Recorder
from helium_jax.config import (
    DeviceInfo,
    EngineConfig,
    ModelShape,
    ResolvedEngineConfig,
    resolve,
)
from helium_jax.engine import transitions
from helium_jax.engine.batcher import decide
from helium_jax.engine.sequence import make_queues, new_sequence
from helium_jax.kvstore.belady import least_regret
from helium_jax.kvstore.eviction import HeapPolicy, least_recently_used_order, plan_aware_order
from helium_jax.kvstore.store import Store
from helium_jax.kvstore.trace import Recorder as TraceRecorder
from helium_jax.types import GenerateRequest, PlannedUse, SamplingParams

# What is told of the plan: each prefix's next use when a call ends; only that of each call's whole
# conversation, with its request; nothing.
KNOWLEDGE = ("prefixes", "requests", "nothing")
MAX_EVENTS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A debate.

    Attributes:
        num_agents: each with a static prefix of its own.
        num_rows: each with a context that all agents read.
        num_rounds: in which every agent goes on with its own conversation about every row.
        page_size: tokens.
        pool_fraction: pages of the pool over pages of all that any later call reads again.
        max_num_seqs: calls at a time.
    """

    num_agents: int = 4
    num_rows: int = 24
    num_rounds: int = 3
    page_size: int = 16
    pool_fraction: float = 0.5
    max_num_seqs: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call whose whole life is known.

    Attributes:
        prompt: token ids.
        answer: token ids.
        after: index of the call that must be finished first, or None.
        prefixes: lengths in tokens of what later calls may read again, of prompt + answer.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    after: int | None
    prefixes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """Tokens computed again.

    Attributes:
        tokens: under the order that ran.
        belady_tokens: the least possible for its trace.
        computed_tokens: of all prompts.
    """

    tokens: int
    belady_tokens: int
    computed_tokens: int


def make_debate(shape: Shape, seed: int) -> list[PlannedCall]:
    """The calls in planned order: round by round, agent by agent, row by row."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1, 30_000) for _ in range(rng.randint(low, high)))

    statics = [ids(150, 600) for _ in range(shape.num_agents)]
    contexts = [ids(100, 500) for _ in range(shape.num_rows)]
    said: dict[tuple[int, int], tuple[tuple[int, ...], int]] = {}
    calls: list[PlannedCall] = []
    for _ in range(shape.num_rounds):
        for agent, static in enumerate(statics):
            for row, context in enumerate(contexts):
                before, after = said.get((agent, row), (static + context, None))
                prompt, answer = before + ids(10, 60), ids(10, 50)
                lengths = (len(static), len(static + context), len(prompt + answer))
                said[agent, row] = (prompt + answer, len(calls))
                calls.append(
                    PlannedCall(prompt=prompt, answer=answer, after=after, prefixes=lengths)
                )
    return calls


def pool_pages(calls: list[PlannedCall], shape: Shape) -> int:
    """Pages of the pool: a fraction of the last conversations, which contain all before them."""
    last = {call.after: None for call in calls}
    longest = [len(call.prompt + call.answer) for i, call in enumerate(calls) if i not in last]
    pages = int(sum(longest) / shape.page_size * shape.pool_fraction)
    return max(pages, 2 * shape.max_num_seqs * max(longest) // shape.page_size)


def run_debate(calls: list[PlannedCall], shape: Shape, knowledge: str) -> Regret:
    """Runs the calls, each result read at once, with one of KNOWLEDGE told as it changes."""
    num_pages = pool_pages(calls, shape)
    config = _config(shape, num_pages)
    recorder = TraceRecorder(max_events=MAX_EVENTS)
    store = Store(
        page_size=shape.page_size,
        num_pages=num_pages,
        secret=bytes(32),
        policy=HeapPolicy(
            least_recently_used_order if knowledge == "nothing" else plan_aware_order
        ),
        num_remembered=MAX_EVENTS,
        recorder=recorder,
    )
    queues = make_queues(config)
    uses = _Uses(calls)
    waiting = list(range(len(calls)))
    computed = 0
    while waiting or queues.waiting or queues.running:
        for index in _ready(waiting, uses, 2 * shape.max_num_seqs - len(queues.waiting)):
            waiting.remove(index)
            request = GenerateRequest(
                request_id=str(index),
                token_ids=calls[index].prompt,
                sampling=SamplingParams(max_tokens=len(calls[index].answer)),
                prefer_cached=True,
                planned_next_use=uses.next_turn(index) if knowledge == "requests" else None,
            )
            sequence = new_sequence(request, arrival=index, store=store, config=config)
            transitions.submit(sequence, queues)
        plan = decide(queues, store, config)
        transitions.apply(plan, queues, store)
        computed += sum(max(row.sequence.num_prompt - row.start, 0) for row in plan.rows)
        for sequence in [row.sequence for row in plan.rows if row.samples]:
            index = int(sequence.request.request_id)
            token_id = calls[index].answer[sequence.num_generated]
            transitions.accept(sequence, token_id, store)
            if sequence.is_at_limit:
                transitions.retire(sequence, queues, store)
                foreseen = uses.finish(index)
                if knowledge == "prefixes":
                    store.foresee(foreseen)
    assert not recorder.is_full
    regret = store.snapshot().evicted_then_needed_tokens
    least = least_regret(recorder.events, num_pages=num_pages) * shape.page_size
    return Regret(tokens=regret, belady_tokens=least, computed_tokens=computed)


class _Uses:
    """Which call needs each prefix next."""

    def __init__(self, calls: list[PlannedCall]) -> None:
        self.calls = calls
        self.finished: set[int] = set()
        self._users: dict[tuple[int, ...], list[int]] = {}
        for index, call in enumerate(calls):
            for length in call.prefixes:
                self._users.setdefault((call.prompt + call.answer)[:length], []).append(index)
            if call.after is not None:
                before = calls[call.after]
                self._users[before.prompt + before.answer].append(index)

    def finish(self, index: int) -> list[PlannedUse]:
        """A call is done: what is known now of the prefixes it read."""
        self.finished.add(index)
        call = self.calls[index]
        whole = call.prompt + call.answer
        return [
            PlannedUse(token_ids=whole[:length], next_use=self._next_user(whole[:length]))
            for length in call.prefixes
        ]

    def next_turn(self, index: int) -> int | None:
        """The call that goes on with the conversation of this one."""
        whole = self.calls[index].prompt + self.calls[index].answer
        return next((user for user in self._users[whole] if user != index), None)

    def _next_user(self, prefix: tuple[int, ...]) -> int | None:
        return min(
            (user for user in self._users[prefix] if user not in self.finished), default=None
        )


def _ready(waiting: list[int], uses: _Uses, room: int) -> list[int]:
    """The next calls in planned order whose dependency is finished."""
    calls, finished = uses.calls, uses.finished
    ready = (i for i in waiting if calls[i].after is None or calls[i].after in finished)
    return list(islice(ready, max(room, 0)))


def _config(shape: Shape, num_pages: int) -> ResolvedEngineConfig:
    """Of an engine for some small model on a CPU."""
    return resolve(
        EngineConfig(
            page_size=shape.page_size, num_pages=num_pages, max_num_seqs=shape.max_num_seqs
        ),
        DeviceInfo(platform="cpu", memory_bytes=1 << 30),
        ModelShape(max_position=65_536, kv_elements_per_token=1, num_params=1),
    )


def main() -> None:
    """Runs each order over several debates and writes one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    recorder = Recorder("eviction")
    for fraction in (0.15, 0.25, 0.35):
        shape = Shape(pool_fraction=fraction)
        for knowledge in KNOWLEDGE:
            debates = [make_debate(shape, seed) for seed in range(options.seeds)]
            runs = [run_debate(debate, shape, knowledge) for debate in debates]
            tokens = sum(run.tokens for run in runs)
            belady = sum(run.belady_tokens for run in runs)
            recorder.record(
                case=f"debate, pool of {fraction:g}",
                implementation=f"plan tells {knowledge}",
                regret_tokens=tokens,
                belady_tokens=belady,
                over_belady=round(tokens / max(belady, 1), 3),
                computed_tokens=sum(run.computed_tokens for run in runs),
            )


if __name__ == "__main__":
    main()

"""What an order of calls costs in seconds: the roofline in closed form between two events.

The simulated engine goes step by step; here time jumps from one call's begin or end to the next.
In between, the sequences that decode stay the same, so that their steps are one formula: weights
read once per step for all of them, contexts that grow by a token a step. Prompts are computed in
steps of limited size beside these decodes. One evaluation takes a few microseconds per call.

What a worker holds is told by reuse distance: a stretch of a prompt is found again unless more has
been written since it was last read than the worker can hold.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import chain
from math import ceil, inf

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.order_cost import MakeCost
from helium_jax.schedule.roofline import Roofline
from helium_jax.schedule.shared_paths import SharedPath, shared_paths
from helium_jax.schedule.token_step import Timeline

HELD_SHARE = 0.5  # of an answer is held on average while it is generated
_TINY = 1e-9


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class RooflineOrders:
    """The cost model for the calls of one graph on given engines.

    Attributes:
        graph: the calls; one that is expected `repeats` times a row decodes that many times.
        setting: the engines.
        roofline: seconds of their steps.
        done: calls that are over; they are in no order, and nobody waits for them.
        weight: rows of the batch that each row of the graph stands for.
        strict: every call waits for those before it on its worker; else the first that is ready
            goes, as workers do.
    """

    graph: CallGraph
    setting: DispatchSetting
    roofline: Roofline
    done: frozenset[int] = frozenset()
    weight: float = 1.0
    strict: bool = False

    @cached_property
    def calls(self) -> tuple[int, ...]:
        """The calls that are not done."""
        return tuple(call for call in range(self.num_calls) if call not in self.done)

    @property
    def effort(self) -> int:
        """Measured: as long as eight calls in token steps."""
        return 8

    @property
    def num_calls(self) -> int:
        """How many calls there are: one per operator and row."""
        return len(self.graph.nodes) * self.graph.num_rows

    @cached_property
    def users(self) -> dict[int, tuple[int, ...]]:
        """The calls that wait for each call that is not done.

        A call that is done may follow one that is not: its answer came from a cache.
        """
        rows, place = self.graph.num_rows, self.graph.place
        users: dict[int, tuple[int, ...]] = {}
        for call in self.calls:
            operator, row = divmod(call, rows)
            names = self.graph.users[self.graph.nodes[operator].name]
            waiting = (place[name] * rows + row for name in names)
            users[call] = tuple(one for one in waiting if one not in self.done)
        return users

    @cached_property
    def num_missing(self) -> list[int]:
        """For how many others every call waits."""
        missing = [0] * self.num_calls
        for users in self.users.values():
            for user in users:
                missing[user] += 1
        return missing

    @cached_property
    def shapes(self) -> "dict[int, _Shape]":
        """Per call, what of it does not depend on the order."""
        paths = shared_paths(self.graph, self.calls)
        return {call: self._shape(call, paths[call]) for call in self.calls}

    def _shape(self, call: int, path: SharedPath) -> "_Shape":
        node, setting = self.graph.nodes[call // self.graph.num_rows], self.setting
        prompt, output = max(node.prompt_tokens, 1.0), max(node.output_tokens, 1.0)
        size = prompt + HELD_SHARE * output
        most = min(setting.max_num_seqs, max(setting.kv_tokens / size, 1.0))
        places = min(self.weight, most)
        rounds = self.weight / places
        spread = min(self.weight, float(setting.max_num_seqs))
        stretches, last, static_end = [], 0.0, 0.0
        for number, end, is_static in path.stretches:
            held = (end - last) * (1.0 if is_static else spread)
            stretches.append((number, end, held))
            static_end = end if is_static else static_end
            last = end
        private = ceil(size / setting.page_size) * setting.page_size - last
        return _Shape(
            prompt=prompt,
            output=output,
            repeats=node.repeats,
            stretches=tuple(stretches),
            shared=sum(held for _, _, held in stretches),
            static_end=static_end,
            answer=path.answer,
            places=places,
            steps=max((output - 1.0) * rounds * node.repeats, 0.0),
            growth=places / rounds,
            context=places * (prompt + output * node.repeats),
            private=max(private, 0.0) * places,
            written=output * self.weight * node.repeats,
        )

    def evaluate(self, orders: Sequence[Sequence[int]]) -> Timeline:
        """Times of all calls when every worker goes by its order.

        Args:
            orders: for each worker its calls; together every call once that is not done.

        Raises:
            ValueError: a call is missing or there twice, or the orders wait for each other.
        """
        if tuple(sorted(chain.from_iterable(orders))) != self.calls:
            raise ValueError(
                f"the orders hold {orders!r}, not each of {len(self.calls)} calls once"
            )
        return _Evaluation(self, orders).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """A call, and the rows it stands for.

    Attributes:
        prompt: tokens.
        output: tokens.
        repeats: how often it is made.
        stretches: of the prompt that others have, too: the number of each, its end, and the tokens
            of the store that it holds while it is being read.
        shared: tokens of them.
        static_end: where the last of them ends that is the same for all rows.
        answer: the stretch that its answer will be; -1 for none.
        places: of the engine that it takes.
        steps: from its first token to its last.
        growth: of the contexts by a step.
        context: at its end, over all its places.
        private: tokens that it holds alone.
        written: tokens of its answers.
    """

    prompt: float
    output: float
    repeats: float
    stretches: tuple[tuple[int, float, float], ...]
    shared: float
    static_end: float
    answer: int
    places: float
    steps: float
    growth: float
    context: float
    private: float
    written: float


def roofline_cost(setting: DispatchSetting) -> MakeCost | None:
    """What chooses among orders on engines that were measured; None for engines that were not."""
    roofline = setting.roofline
    if roofline is None:
        return None

    def make(graph: CallGraph, done: frozenset[int], weight: float) -> RooflineOrders:
        return RooflineOrders(
            graph=graph,
            setting=setting,
            roofline=roofline,
            done=done,
            weight=weight,
            strict=setting.strict,
        )

    return make


class _Evaluation:
    """All workers on one clock."""

    def __init__(self, model: RooflineOrders, orders: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._workers = [_Worker(model, order) for order in orders]
        self._owner = {
            call: (worker, place)
            for worker in self._workers
            for place, call in enumerate(worker.order)
        }

    def run(self) -> Timeline:
        model, workers, owner = self._model, self._workers, self._owner
        starts, ends = [0.0] * model.num_calls, [-1.0] * model.num_calls
        missing, users = model.num_missing.copy(), model.users
        for worker in workers:
            worker.ready = [p for p, call in enumerate(worker.order) if not missing[call]]
            worker.begin(starts)
        while (worker := min(workers, key=_next_event_s)).next_event_s != inf:
            now_s = worker.next_event_s
            worker.advance(now_s)
            touched = [worker]
            for call in worker.finish():
                ends[call] = now_s
                for user in users[call]:
                    missing[user] -= 1
                    if not missing[user]:
                        other, place = owner[user]
                        heappush(other.ready, place)
                        if other not in touched:
                            other.advance(now_s)
                            touched.append(other)
            for other in touched:
                other.begin(starts)
        waiting = [worker.order[worker.num_begun] for worker in workers if worker.has_more]
        if waiting:
            raise ValueError(f"the orders never come to the calls that {waiting} wait for")
        return Timeline(
            starts=tuple(starts),
            ends=tuple(ends),
            makespan=max(0.0, *ends) if ends else 0.0,
            prefill_tokens=sum(worker.prefilled for worker in workers),
        )


def _next_event_s(worker: "_Worker") -> float:
    return worker.next_event_s


class _Worker:
    """One engine: who is in it, what it holds, and its clock."""

    __slots__ = (
        "_budget",
        "_capacity",
        "_chunk",
        "_context",
        "_decodes",
        "_growth",
        "_held",
        "_left",
        "_max_seqs",
        "_model",
        "_now_s",
        "_num_calls",
        "_num_decodes",
        "_page_size",
        "_pairs",
        "_prefills",
        "_read_at",
        "_readers",
        "_shapes",
        "_step_s",
        "_steps",
        "_written",
        "next_event_s",
        "num_begun",
        "order",
        "prefilled",
        "ready",
    )

    def __init__(self, model: RooflineOrders, order: Sequence[int]) -> None:
        setting = model.setting
        self.order = order
        self.ready: list[int] = []  # places in the order, a heap
        self.next_event_s = inf
        self.num_begun = 0
        self.prefilled = 0.0
        self._model = model
        self._shapes = model.shapes
        self._budget = float(setting.max_num_batched_tokens)
        self._max_seqs = float(setting.max_num_seqs)
        self._capacity = float(setting.kv_tokens // setting.page_size * setting.page_size)
        self._page_size = setting.page_size
        self._now_s = 0.0
        self._steps = 0.0  # since the beginning
        self._step_s = 0.0  # a step until the next event
        self._chunk = 0.0  # prompt tokens of each of them
        self._prefills: deque[tuple[float, int]] = deque()  # tokens, call: first come, first served
        self._left = 0.0  # tokens of all of them that are still to compute
        self._pairs = 0.0  # context that these attend to
        self._decodes: list[tuple[float, int]] = []  # the step of the last token, the call; a heap
        self._num_calls = 0.0  # that have a place
        self._num_decodes = 0.0
        self._growth = 0.0  # tokens by which the contexts of the decodes grow per step
        self._context = 0.0  # their tokens now
        self._held = 0.0  # tokens that cannot be evicted
        self._written = 0.0  # tokens since the beginning
        self._read_at: dict[int, float] = {}  # per stretch, what had been written at its last use
        self._readers: dict[int, int] = {}

    @property
    def has_more(self) -> bool:
        """Whether calls are left that did not begin."""
        return self.num_begun < len(self.order)

    def advance(self, now_s: float) -> None:
        """Goes on with what is running, at most until the next event."""
        if now_s <= self._now_s:
            return
        if self._step_s:
            steps = (now_s - self._now_s) / self._step_s
            self._steps += steps
            self._context += self._growth * steps
            if self._prefills:
                self._compute(self._chunk * steps)
        self._now_s = now_s

    def _compute(self, tokens: float) -> None:
        """Some tokens of the prompts; the step that computes a prompt's end gives its first one."""
        before, self._left = self._left, max(self._left - tokens, 0.0)
        self._pairs *= self._left / before
        tokens += _TINY
        while self._prefills:
            left, call = self._prefills[0]
            if left > tokens:
                self._prefills[0] = left - tokens, call
                self._left = max(self._left, left - tokens)  # whatever rounding made of it
                return
            tokens -= left
            self._prefills.popleft()
            shape = self._shapes[call]
            heappush(self._decodes, (self._steps + shape.steps, call))
            self._num_decodes += shape.places
            self._growth += shape.growth
            self._context += shape.places * shape.prompt + shape.growth
        self._left = self._pairs = 0.0

    def finish(self) -> list[int]:
        """Ends the calls that have their last token, and returns them."""
        over: list[int] = []
        decodes, now = self._decodes, self._steps + _TINY
        while decodes and decodes[0][0] <= now:
            call = heappop(decodes)[1]
            over.append(call)
            shape = self._shapes[call]
            self._num_calls -= shape.places
            self._num_decodes -= shape.places
            self._growth -= shape.growth
            self._context -= shape.context
            self._held -= shape.private
            read_at = self._written - self._held
            for number, _, held in shape.stretches:
                self._read_at[number] = read_at
                readers = self._readers[number] = self._readers[number] - 1
                if not readers:
                    self._held -= held
            if shape.answer >= 0:
                self._read_at[shape.answer] = read_at
        return over

    def begin(self, starts: list[float]) -> None:
        """Lets in calls while there are places, pages and tokens of the next step for them."""
        ready, is_strict = self.ready, self._model.strict
        room = self._budget - self._num_decodes
        while ready and self._left < room:
            if is_strict and ready[0] != self.num_begun:
                break
            call = self.order[ready[0]]
            shape = self._shapes[call]
            if self._num_calls and not self._fits(shape):
                break
            heappop(ready)
            self.num_begun += 1
            starts[call] = self._now_s
            self._enter(call, shape)
        self._look_ahead()

    def _fits(self, shape: "_Shape") -> bool:
        if self._num_calls + shape.places > self._max_seqs:
            return False
        held = self._held + shape.private
        if held + shape.shared <= self._capacity:
            return True
        readers = self._readers
        held += sum(held for number, _, held in shape.stretches if not readers.get(number))
        return held <= self._capacity

    def _enter(self, call: int, shape: "_Shape") -> None:
        """Gives a call its place, and finds out how much of its prompt is to compute."""
        found, is_there = 0.0, True
        readers, read_at, written = self._readers, self._read_at, self._written
        oldest = written - self._capacity
        for number, end, held in shape.stretches:
            others = readers.get(number, 0)
            if is_there and (others or read_at.get(number, -inf) >= oldest):
                found = end
            else:
                is_there = False
            if not others:
                self._held += held
            readers[number] = others + 1
        found = min(found, shape.prompt - 1.0) // self._page_size * self._page_size
        own = shape.prompt - max(found, shape.static_end)  # in each of the rows; the rest once
        once = max(shape.static_end - found, 0.0)
        tokens = (once + own * self._model.weight) * shape.repeats
        self._num_calls += shape.places
        self._held += shape.private
        self._written = written + tokens + shape.written
        self.prefilled += once + own
        self._left += tokens
        self._pairs += tokens * (found + shape.prompt + 1.0) / 2.0
        self._prefills.append((tokens, call))

    def _look_ahead(self) -> None:
        """Until when the steps stay as they are, and how long each takes."""
        steps, tokens, pairs = inf, self._num_decodes, 0.0
        if self._prefills:
            num_steps = ceil(self._left / max(self._budget - tokens, 1.0))
            self._chunk = chunk = self._left / num_steps
            pairs = self._pairs / num_steps
            steps = float(ceil(self._prefills[0][0] / chunk - _TINY))
            tokens += chunk
        if self._decodes:
            until = self._decodes[0][0] - self._steps
            steps = until if until < steps else steps
        if steps == inf:
            self._step_s, self.next_event_s = 0.0, inf
            return
        steps = max(steps, 0.0)
        context = self._context + self._growth * steps / 2.0
        self._step_s = self._model.roofline.step_seconds(tokens, context, pairs)
        self.next_event_s = self._now_s + steps * self._step_s

"""Helium: the planned order among ready calls, placed by prefix and load, told to the KV store."""

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass, field
from math import ceil

from helium_jax.schedule.book import Book
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import (
    Dispatcher,
    DispatchSetting,
    PrefixUse,
    ReadyCall,
    Release,
)
from helium_jax.schedule.output_lengths import OutputLengths
from helium_jax.schedule.plan_order import PlanOrder, choose_window
from helium_jax.schedule.planned_uses import PlannedUses
from helium_jax.schedule.resident import Resident, page_hashes
from helium_jax.schedule.roofline_orders import roofline_cost
from helium_jax.schedule.soft_schedule import SoftSchedule, plan_schedule, reschedule

QUEUE_SHARE = 0.25  # calls beyond a worker's places, so that it finds its next one at once
OUTPUT_WEIGHT = 2.0  # an output token's time beside that of a prompt token, in a full batch
HELD_SHARE = 0.2  # of an answer counts as held: when a call begins, others are about to end
KEPT_SHARE = 0.25  # of idle pages that calls before this one will read: recomputing costs less
DEFAULT_OUTPUT = 256.0  # tokens of an answer about which nothing is known
FIRST_REVIEW = 16  # the plan is looked at again after this fraction of the calls, then twice it
MIN_REVIEW = 32  # calls; below that a plan is over before another one is made
LOOKAHEAD = 32  # calls looked at beyond the first that has to wait for its worker
SMALL_LOSS = 0.1  # of a call's work: so much may be computed again to keep workers equally busy

_Key = tuple[int, int, tuple[int, ...], int]  # priority, place in the plan, iteration, call


def helium(graph: CallGraph, setting: DispatchSetting) -> Dispatcher:
    """Best effort (paper section 6): engines are kept full with ready calls in planned order.

    A worker holds as many calls as it has places and pages for, beside idle pages that calls before
    them in the plan will read; what is beyond waits here, where it can still be overtaken. A call
    goes to the worker that has most of its prompt, the least loaded of those. Where that one is
    full and another is not, the other takes the calls that lose least by it; the first of a prefix
    group makes the next ones lose nothing, so groups move whole.

    Strict (`setting.strict`): no call overtakes one that comes before it in the plan.
    """
    return _Helium(graph, setting)


@dataclass(slots=True, eq=False)
class _Worker:
    """Load of one engine as far as this run makes it.

    Attributes:
        index: which engine.
        resident: what its store probably holds.
        num_calls: that it has.
        readers: of every prompt page that these read: a page that several read is there once.
        num_private: pages that each of them has for itself, its answer's among them.
        kept: calls that will read idle pages of their row here: the call's rank, and how many.
        work: tokens to compute, answers weighted.
    """

    index: int
    resident: Resident
    num_calls: int = 0
    readers: Counter[int] = field(default_factory=Counter)
    num_private: int = 0
    kept: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    work: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Flight:
    """Where a call is and what it takes there."""

    worker: _Worker
    pages: tuple[int, ...]
    num_private: int
    work: float


class _Helium:
    def __init__(self, graph: CallGraph, setting: DispatchSetting) -> None:
        self._graph = graph
        self._setting = setting
        self._capacities = [float(setting.kv_tokens)] * setting.num_workers
        self._cost = roofline_cost(setting)
        self._order = self._ordered(plan_schedule(graph, self._capacities, roofline=self._cost))
        self._book = Book(setting.num_workers)
        self._workers = [
            _Worker(index, Resident(setting.page_size, setting.kv_tokens))
            for index in range(setting.num_workers)
        ]
        self._most = setting.max_num_seqs + max(int(QUEUE_SHARE * setting.max_num_seqs), 2)
        span = setting.num_workers * self._most * (len(graph.nodes) + 1)
        self._uses = PlannedUses(graph, self._order.rank, patience=span)
        self._lengths = OutputLengths(graph)
        self._pages: dict[int, tuple[int, ...]] = {}
        self._queue: list[_Key] = []  # of what is ready, in order
        self._flights: dict[int, _Flight] = {}
        self._news: list[PrefixUse] = []
        self._closing: set[str] = set()
        self._turns = _Turns(graph, self._order) if setting.strict else None
        self._over: list[tuple[str, int]] = []
        self._num_finished = 0
        num_calls = len(graph.nodes) * graph.num_rows
        self._next_review = max(num_calls // FIRST_REVIEW, MIN_REVIEW)
        self._has_changed = False

    @property
    def warms(self) -> bool:
        return True

    def coming(self, call_id: int, row: int) -> None:
        self._book.expect(call_id, row)

    def ready(self, call: ReadyCall) -> None:
        self._book.add(call)
        self._pages[call.call_id] = page_hashes(call.token_ids, self._setting.page_size)
        insort(self._queue, self._key(call))
        self._has_changed = True

    def started(self, call_id: int) -> None:
        call = self._book.in_flight.get(call_id)
        if call is not None:
            self._news += self._uses.started(call)

    def finished(self, call_id: int, output_tokens: int) -> None:
        if call_id in self._book.ready:
            self._leave_queue(self._book.ready[call_id])
        call = self._book.end(call_id)
        self._pages.pop(call_id, None)
        self._has_changed = True
        if call is None:
            return
        flight = self._flights.pop(call_id)
        flight.worker.num_calls -= 1
        flight.worker.num_private -= flight.num_private
        flight.worker.readers.subtract(flight.pages)
        for page in flight.pages:
            if not flight.worker.readers[page]:
                del flight.worker.readers[page]
        flight.worker.work -= flight.work
        self._news += self._uses.finished(call)
        self._keep(call, flight.worker, output_tokens)
        self._num_finished += 1
        self._lengths.observe(call.operator, output_tokens)
        if self._num_finished >= self._next_review:
            self._review()

    def closed(self, operator: str, row: int) -> None:
        for worker in self._workers:
            worker.kept.pop((operator, row), None)
        self._uses.close(operator, row)
        self._closing.add(operator)
        self._over.append((operator, row))
        if self._turns is not None:
            self._turns.skip(operator, row)
        self._has_changed = True

    def computed_early(self, operator: str, row: int) -> int | None:
        return self._uses.expect_early(operator, row)

    def lost(self, worker: int) -> None:
        if worker in self._book.workers:
            self._book.workers.remove(worker)

    def uses_changed(self) -> list[PrefixUse]:
        news, self._news = self._news, []
        if self._closing:
            news += self._uses.expired(sorted(self._closing))
            self._closing.clear()
        return news

    def release(self, room: int) -> list[Release]:
        if room <= 0 or not self._has_changed or not self._book.ready:
            return []
        if self._turns is not None:
            calls = [self._book.ready[call_id] for *_, call_id in self._queue]
            calls = self._turns.choose(calls, is_idle=self._book.is_idle)
        else:
            seats = sum(max(self._most - worker.num_calls, 0) for worker in self._workers)
            looked_at = self._queue[: min(seats, room) + LOOKAHEAD]
            calls = [self._book.ready[call_id] for *_, call_id in looked_at]
        releases = self._place(calls, room)
        self._has_changed = len(releases) == room  # there may be more
        return releases

    def _key(self, call: ReadyCall) -> _Key:
        rank = self._order.rank(call.operator, call.row)
        return (call.priority, rank, call.frame, call.call_id)

    def _leave_queue(self, call: ReadyCall) -> None:
        del self._queue[bisect_left(self._queue, self._key(call))]

    def _ordered(self, schedule: SoftSchedule) -> PlanOrder:
        return PlanOrder(schedule=schedule, window=choose_window(schedule, self._setting))

    def _review(self) -> None:
        """Plans the rest again if answers are not as long as was thought; a few times in a run.

        What the KV store was told stays comparable: uses keep the first plan's numbers.
        """
        self._next_review *= 2
        observed = self._lengths.corrections()
        if observed:
            done = [place for place in self._over if place[0] in self._graph.place]
            self._order = self._ordered(
                reschedule(
                    self._graph,
                    self._capacities,
                    done=done,
                    observed=observed,
                    roofline=self._cost,
                )
            )
            self._queue = sorted(map(self._key, self._book.ready.values()))

    # --- places --------------------------------------------------------------------------------

    def _place(self, calls: list[ReadyCall], room: int) -> list[Release]:
        """Gives calls to workers until none has room for its next one."""
        alive = [self._workers[index] for index in self._book.workers] or self._workers[:1]
        is_open = {worker: worker.num_calls < self._most for worker in alive}
        releases: list[Release] = []
        passed: list[ReadyCall] = []
        for call in calls:
            if len(releases) == room or len(passed) == LOOKAHEAD or not any(is_open.values()):
                break
            worker = self._favourite(call, alive)
            if is_open[worker] and self._fits(call, worker):
                releases.append(self._send(call, worker))
            else:
                is_open[worker] = False  # nothing smaller overtakes it
                passed.append(call)
        takers = [worker for worker, is_free in is_open.items() if is_free]
        while passed and len(releases) < room:
            stolen = self._steal(passed, takers, alive)
            if stolen is None:
                break
            passed.remove(stolen[0])
            releases.append(self._send(*stolen))
        return releases

    def _favourite(self, call: ReadyCall, alive: list[_Worker]) -> _Worker:
        """The least loaded of the workers on which little of the prompt must be computed that
        another one has."""
        if len(alive) == 1:
            return alive[0]
        pages = self._pages[call.call_id]
        matched = [worker.resident.match(pages) for worker in alive]
        work = len(pages) + OUTPUT_WEIGHT * self._output_tokens(call) / self._setting.page_size
        least = max(matched) - SMALL_LOSS * work
        near = [worker for worker, found in zip(alive, matched, strict=True) if found >= least]
        return min(near, key=lambda worker: (worker.num_calls >= self._most, worker.work))

    def _steal(
        self, passed: list[ReadyCall], takers: list[_Worker], alive: list[_Worker]
    ) -> tuple[ReadyCall, _Worker] | None:
        """The call that loses least when a worker with places to fill takes it, and that worker."""
        best: tuple[int, ReadyCall, _Worker] | None = None
        for worker in takers:
            if worker.num_calls >= self._setting.max_num_seqs:
                continue  # it has enough to do without
            for call in passed:
                pages = self._pages[call.call_id]
                most = max(other.resident.match(pages) for other in alive)
                loss = most - worker.resident.match(pages)
                if (best is None or loss < best[0]) and self._fits(call, worker):
                    best = (loss, call, worker)
        return best[1:] if best is not None else None

    def _fits(self, call: ReadyCall, worker: _Worker) -> bool:
        if worker.num_calls == 0:
            return True
        if worker.num_calls >= self._most:
            return False
        more = sum(page not in worker.readers for page in self._pages[call.call_id])
        rank = self._order.rank(call.operator, call.row)
        kept = sum(pages for sooner, pages in worker.kept.values() if sooner < rank)
        needed = len(worker.readers) + worker.num_private + more + self._private_pages(call)
        needed += int(KEPT_SHARE * kept)
        return needed <= self._setting.kv_tokens // self._setting.page_size

    def _send(self, call: ReadyCall, worker: _Worker) -> Release:
        pages = self._pages[call.call_id]
        cached = worker.resident.match(pages) * self._setting.page_size
        work = len(call.token_ids) - cached + OUTPUT_WEIGHT * self._output_tokens(call)
        num_private = self._private_pages(call)
        for other in self._workers:
            other.kept.pop((call.operator, call.row), None)
        worker.num_calls += 1
        worker.readers.update(pages)
        worker.num_private += num_private
        worker.work += work
        worker.resident.use(pages)
        self._leave_queue(call)
        self._book.start(call.call_id)
        self._uses.consume(call)
        next_use = self._uses.at_release(call)
        self._flights[call.call_id] = _Flight(
            worker=worker, pages=pages, num_private=num_private, work=work
        )
        if self._turns is not None:
            self._turns.skip(call.operator, call.row)
        has_choice = len(self._book.workers) > 1
        return Release(
            call_id=call.call_id,
            worker=worker.index if has_choice else None,
            priority=call.priority,
            planned_next_use=next_use,
        )

    def _keep(self, call: ReadyCall, worker: _Worker, output_tokens: int) -> None:
        """Notes what the row's next call will find on the worker."""
        found = self._uses.next_reader(call)
        if found is not None:
            reader, num_tokens, has_answer = found
            num_pages = (num_tokens + has_answer * output_tokens) // self._setting.page_size
            rank = self._order.rank(reader, call.row)
            _, most = worker.kept.get((reader, call.row), (rank, 0))
            worker.kept[reader, call.row] = rank, max(most, num_pages)

    def _private_pages(self, call: ReadyCall) -> int:
        """Pages beyond the full ones of its prompt that a call will have at its end."""
        num_tokens = len(call.token_ids) + HELD_SHARE * self._output_tokens(call)
        return ceil(num_tokens / self._setting.page_size) - len(self._pages[call.call_id])

    def _output_tokens(self, call: ReadyCall) -> float:
        expected = self._lengths.expected(call.operator)
        if expected is None:
            expected = DEFAULT_OUTPUT
        return expected if call.max_tokens is None else min(expected, call.max_tokens)


class _Turns:
    """Strict order: a call waits for every planned one before it."""

    def __init__(self, graph: CallGraph, order: PlanOrder) -> None:
        planned = [
            (node.name, row)
            for node in graph.nodes
            if node.repeats == 1.0  # nobody knows how often the others come
            for row in range(graph.num_rows)
        ]
        self._planned = sorted(planned, key=lambda place: order.rank(*place))
        self._known = set(planned)
        self._gone: set[tuple[str, int]] = set()
        self._next = 0

    def skip(self, operator: str, row: int) -> None:
        """A call is on its way, or will never come."""
        self._gone.add((operator, row))

    def choose(self, calls: list[ReadyCall], *, is_idle: bool) -> list[ReadyCall]:
        """The calls whose turn it is, and those that have none; of all of them the first, when
        nothing else is on its way."""
        by_place: dict[tuple[str, int], ReadyCall] = {}
        chosen = []
        for call in calls:
            place = (call.operator, call.row)
            if place in self._known and place not in self._gone and place not in by_place:
                by_place[place] = call
            else:
                chosen.append(call)
        while self._next < len(self._planned) and self._planned[self._next] in self._gone:
            self._next += 1
        for place in self._planned[self._next :]:
            if place in self._gone:
                continue
            if place not in by_place:
                break
            chosen.append(by_place[place])
        return chosen if chosen or not is_idle else calls[:1]

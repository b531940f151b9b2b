"""The loop: decide a step, run it, commit what came back. Plain calls on one thread, no asyncio.

Results are read `steps_in_flight` steps late: with 1 a step is dispatched and waited for, with 2
the host decides and packs the next step while the device computes the last one.
"""

import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine import transitions
from helium_jax.engine.active import Active, Outcome
from helium_jax.engine.batcher import decide
from helium_jax.engine.constraint import start_constraint
from helium_jax.engine.counters import Counters
from helium_jax.engine.embedding import Embedder
from helium_jax.engine.memory import MemoryUse
from helium_jax.engine.packing import FROM_DEVICE, PackedSequence
from helium_jax.engine.runner import Runner, StepResult, Ticket
from helium_jax.engine.sequence import Sequence, SequenceStatus, make_queues, new_sequence
from helium_jax.engine.step_plan import Row, StepPlan
from helium_jax.engine.validation import check_room
from helium_jax.errors import HeliumError, InternalError, RequestError
from helium_jax.kvstore.store import Store, make_store
from helium_jax.types import (
    CacheMap,
    EngineStatistics,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    PlannedUse,
    TokenLogprobs,
    WarmPrefix,
    WarmReceipt,
)

log = logging.getLogger(__name__)

# A device that fails this many steps in a row will not recover by trying again.
MAX_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class _InFlight:
    ticket: Ticket
    sampling: tuple[Sequence, ...] = field(default=())


class Loop:
    """All sequences of one engine, and the steps that advance them.

    Belongs to one thread. `submit`, `cancel`, `warm`, `pin`... may be called between steps only.

    Args:
        runner: warmed up.
        info: what the engine says about itself.
        config: resolved.
        clock: seconds, monotonic; for accounting only.
    """

    def __init__(
        self,
        runner: Runner,
        info: ModelInfo,
        config: ResolvedEngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.info = info
        self._runner = runner
        self._config = config
        self._clock = clock
        self._store = self._make_store()
        self._queues = make_queues(config)
        self._active: dict[str, Active] = {}
        self._in_flight: deque[_InFlight] = deque()
        self._outcomes: list[tuple[str, Outcome]] = []
        # Not given at once: who gets them shall find them in the statistics.
        self._answers: list[Callable[[], None]] = []
        self._num_arrivals = 0
        self._num_failures_in_a_row = 0
        self._counters = Counters()
        self._random = random.Random(
            config.seed if config.seed is not None else secrets.randbits(64)
        )

    def replica(self) -> "Loop":
        """A loop with pages and queues of its own that shares weights and programs with this one,
        for another thread."""
        return Loop(self._runner.replica(), self.info, self._config, clock=self._clock)

    @property
    def has_work(self) -> bool:
        """Some sequence is unfinished, or a step in flight is not read yet."""
        return bool(self._active or self._in_flight)

    @property
    def pool_tokens(self) -> int:
        """Tokens that the whole pool holds."""
        return self._config.num_pages * self._config.page_size

    @property
    def memory(self) -> MemoryUse:
        """What the engine takes."""
        return self._runner.memory

    @property
    def embedder(self) -> Embedder:
        """Makes vectors of texts, between two steps."""
        return self._runner.embedder

    def submit(self, request: GenerateRequest) -> None:
        """Queues a request that `validate_request` has accepted.

        Raises:
            CapacityError: the queue is full.
            RequestError: its parameters do not go together, or its grammar leads nowhere.
            InternalError: the request id is in use.
        """
        active = self._enqueue(request, is_warm=False)
        # Packed here too, so that what cannot be packed is refused now and not inside a step.
        try:
            active.pack_row(slot=0, eos_token_ids=self.info.eos_token_ids)
        except RequestError:
            self._leave(active)
            raise
        if active.constraint is not None and active.constraint.is_finished:
            self._finish(active, FinishReason.STOP)

    def warm(self, prefix: WarmPrefix, request_id: str) -> Future[WarmReceipt]:
        """Computes a prefix's full blocks unless they are resident, and pins them if asked.

        Raises:
            CapacityError: the queue is full.
        """
        request = GenerateRequest(
            request_id=request_id,
            token_ids=prefix.token_ids,
            cache_salt=prefix.cache_salt,
            planned_next_use=prefix.planned_next_use,
        )
        active = self._enqueue(request, is_warm=True)
        active.warmed = Future()
        active.warmed.set_running_or_notify_cancel()  # only `cancel` ends it early
        active.pin = prefix.pin
        active.pin_value = prefix.value
        if active.sequence.is_warmed:  # shorter than a block: nothing to do
            self._finish(active, FinishReason.LENGTH)
        return active.warmed

    def cancel(self, request_id: str) -> None:
        """Ends a request; its pages are free at once. Does nothing for unknown ids."""
        if (active := self._active.get(request_id)) is not None:
            self._finish(active, FinishReason.CANCELLED)

    def unpin(self, pin_id: int) -> None:
        """Gives a pin back; an unknown id raises RequestError."""
        self._store.unpin(pin_id)

    def foresee(self, uses: Iterable[PlannedUse]) -> None:
        """Replaces what is known of the next use of resident blocks; see `types.Generator`."""
        self._store.foresee(uses)

    def reset_cache(self) -> int:
        """Forgets every reusable block that nobody reads or pins; returns the pages freed."""
        return self._store.reset()

    def cache_map(self, salts: Collection[str] | None) -> CacheMap:
        """What every page holds; see `types.Generator`."""
        return self._store.map(salts)

    def step(self) -> None:
        """Decides and dispatches one step, then reads the oldest one if it is due.

        Raises:
            InternalError: the device failed several times in a row.
        """
        started = self._clock()
        waited = 0.0
        try:
            dispatched = self._dispatch()
            if self._in_flight and (
                not dispatched or len(self._in_flight) >= self._config.steps_in_flight
            ):
                waited = self._collect()
            self._num_failures_in_a_row = 0
        except HeliumError:
            raise
        except Exception as error:
            self._fail_step(error)
        self._counters.waited(device_seconds=waited, all_seconds=self._clock() - started)

    def take_outcomes(self) -> list[tuple[str, Outcome]]:
        """What happened to requests since the last call, oldest first; answers warmings."""
        answers, self._answers = self._answers, []
        for answer in answers:
            answer()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def statistics(self) -> EngineStatistics:
        """Load and counters now."""
        return self._counters.statistics(
            num_waiting=len(self._queues.waiting),
            num_running=len(self._queues.running),
            num_compiles_after_warmup=self._runner.num_compiles_after_warmup,
            cache=self._store.snapshot(),
        )

    def verify(self) -> None:
        """Checks the store's invariants; O(pages).

        Raises:
            InternalError: naming what is wrong.
        """
        self._store.verify()

    def close(self, error: HeliumError) -> None:
        """Answers everything unfinished with `error` and lets go of the device memory."""
        self._in_flight.clear()
        for active in list(self._active.values()):
            self._fail(active, error)
        self._runner.close()

    def _enqueue(self, request: GenerateRequest, *, is_warm: bool) -> Active:
        if request.request_id in self._active:
            raise InternalError(f"request id {request.request_id!r} is in use")
        check_room(request, self._queues, self._config)
        constraint = start_constraint(
            request, vocab_size=self.info.vocab_size, eos_token_ids=self.info.eos_token_ids
        )
        sequence = new_sequence(
            request,
            arrival=self._num_arrivals,
            store=self._store,
            config=self._config,
            is_warm=is_warm,
        )
        self._num_arrivals += 1
        seed = request.sampling.seed
        active = Active(sequence, self._random.getrandbits(63) if seed is None else seed)
        active.constraint = constraint
        self._active[request.request_id] = active
        transitions.submit(sequence, self._queues)
        return active

    def _dispatch(self) -> bool:
        """Plans the next step and hands it to the device; False when there is nothing to run."""
        plan = decide(self._queues, self._store, self._config)
        transitions.apply(plan, self._queues, self._store)
        self._counters.planned(plan)
        self._note_moves(plan)
        if plan.rows:
            self._run(plan)
        # Some only now: what computes a prefix needs its slot until its step is on the way.
        for sequence in [
            *(row.sequence for row in plan.rows),
            *(admission.sequence for admission in plan.admissions),
        ]:
            if sequence.is_warmed and sequence.status is SequenceStatus.RUNNING:
                self._finish(self._active[sequence.request.request_id], FinishReason.LENGTH)
        return bool(plan.rows)

    def _run(self, plan: StepPlan) -> None:
        packed = [self._pack(row) for row in plan.rows]
        sampling = tuple(row.sequence for row in plan.rows if row.samples)
        wants_logprobs = any(
            sequence.request.sampling.logprobs is not None for sequence in sampling
        )
        ticket = self._runner.run(packed, wants_logprobs=wants_logprobs)
        self._in_flight.append(_InFlight(ticket, sampling))
        self._counters.dispatched(plan, num_padded=ticket.num_padded)

    def _note_moves(self, plan: StepPlan) -> None:
        """Gives admitted sequences their sampling row; takes it from preempted ones."""
        for sequence in (*plan.preemptions, *plan.displacements):
            active = self._active[sequence.request.request_id]
            active.row = None
            log.info("request %s preempted", sequence.request.request_id)
        for sequence, *_ in plan.admissions:
            active = self._active[sequence.request.request_id]
            assert sequence.slot is not None, "an admitted sequence has a slot"
            active.row = active.pack_row(slot=sequence.slot, eos_token_ids=self.info.eos_token_ids)
            self._runner.fill_slot(sequence.slot, sequence.request.sampling, sequence.token_ids)

    def _pack(self, row: Row) -> PackedSequence:
        sequence, start, num_tokens, samples = row
        end = start + num_tokens
        token_ids = sequence.token_ids[start:end]
        token_ids += [FROM_DEVICE] * (num_tokens - len(token_ids))
        assert sequence.slot is not None, "a running sequence has a slot"
        active = self._active[sequence.request.request_id]
        constraint = active.constraint if samples else None
        return PackedSequence(
            slot=sequence.slot,
            token_ids=token_ids,
            kv_len=end,
            pages=sequence.pages,
            sampling_row=active.row if samples else None,
            mask=None if constraint is None else constraint.mask,
        )

    def _collect(self) -> float:
        """Reads the oldest step in flight and commits it; returns the seconds waited."""
        in_flight = self._in_flight.popleft()
        started = self._clock()
        result = self._runner.collect(in_flight.ticket)
        waited = self._clock() - started
        for index, sequence in enumerate(in_flight.sampling):
            self._commit(sequence, result, index)
        return waited

    def _commit(self, sequence: Sequence, result: StepResult, index: int) -> None:
        """Takes in one sampled token: hands it out, and ends the sequence where it must end."""
        token_id = int(result.token_ids[index])
        if sequence.status is SequenceStatus.FINISHED:
            transitions.accept(sequence, token_id, self._store)  # late: only the count goes down
            return
        active = self._active[sequence.request.request_id]
        if not result.is_ok[index]:
            sequence.num_in_flight -= 1
            self._fail(
                active,
                InternalError(
                    f"request {sequence.request.request_id!r}: the logits of token "
                    f"{len(sequence.token_ids)} are not numbers; the weights or the KV are damaged"
                ),
                is_damaged=True,
            )
            return
        transitions.accept(sequence, token_id, self._store)
        self._counters.num_decode_tokens += 1
        logprobs = result.logprobs_of(index, sequence.request.sampling.logprobs)
        try:
            reason = active.take(token_id, self.info.eos_token_ids)
        except HeliumError as error:
            self._fail(active, error)
            return
        if reason is None:
            self._outcomes.append((active.request_id, active.token_event(token_id, logprobs)))
        else:
            self._finish(active, reason, (token_id,), logprobs)

    def _finish(
        self,
        active: Active,
        reason: FinishReason,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
    ) -> None:
        """Ends a request: frees its pages, says so to whoever waits for it."""
        self._leave(active)
        if active.warmed is not None:
            active.pin &= reason is not FinishReason.CANCELLED  # nobody would give it back
            receipt = active.receipt(self._store)
            self._answers.append(partial(active.warmed.set_result, receipt))
        else:
            event = active.last_event(reason, token_ids, logprobs)
            self._outcomes.append((active.request_id, event))

    def _fail(self, active: Active, error: HeliumError, *, is_damaged: bool = False) -> None:
        """Ends a request with an error; nobody reads its KV again if that may be damaged."""
        self._leave(active, is_damaged=is_damaged)
        if active.warmed is not None:
            self._answers.append(partial(active.warmed.set_exception, error))
        else:
            self._outcomes.append((active.request_id, error))

    def _leave(self, active: Active, *, is_damaged: bool = False) -> None:
        sequence = active.sequence
        transitions.retire(sequence, self._queues, self._store, is_damaged=is_damaged)
        del self._active[active.request_id]

    def _fail_step(self, error: Exception) -> None:
        """A step failed: its inputs are gone with it, so everything that had pages fails."""
        self._num_failures_in_a_row += 1
        log.exception("a step failed; %d sequences with it", len(self._queues.running))
        self._in_flight.clear()
        failure = InternalError(f"the engine could not run a step: {error}")
        for active in list(self._active.values()):
            sequence = active.sequence
            # One that was preempted waits for a token that will never be read.
            if sequence.status is SequenceStatus.RUNNING or sequence.num_in_flight:
                self._fail(active, failure)
        if self._num_failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise InternalError(
                f"{MAX_FAILURES_IN_A_ROW} steps failed in a row: {error}"
            ) from error
        # What waits holds no pages, but its keys were made with the old store's secret.
        self._runner.reset()
        self._store = self._make_store(first_pin_id=self._store.next_pin_id)
        for active in list(self._active.values()):
            self._requeue(active)

    def _requeue(self, active: Active) -> None:
        """Gives a waiting sequence a table of the new store."""
        sequence = active.sequence
        request = sequence.request
        table = self._store.open_table(salt=request.cache_salt, next_use=request.planned_next_use)
        self._store.extend_keys(table, sequence.token_ids)
        sequence.table = table

    def _make_store(self, *, first_pin_id: int = 1) -> Store:
        return make_store(
            self._config,
            model_version=self.info.version,
            secret=secrets.token_bytes(32),
            first_pin_id=first_pin_id,
        )

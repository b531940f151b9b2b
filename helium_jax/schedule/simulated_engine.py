"""One worker of a simulation: continuous batching in steps, over a simulated KV store."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from helium_jax.schedule.dispatch import DispatchSetting, ReadyCall, Release
from helium_jax.schedule.resident import page_hashes
from helium_jax.schedule.simulated_store import Eviction, Lease, SimulatedStore
from helium_jax.schedule.step_work import StepCost, StepWork, add_work


@dataclass(slots=True, eq=False)
class Running:
    """A call inside the engine."""

    call: ReadyCall
    release: Release
    keys: tuple[int, ...]  # of the full pages of prompt and answer
    num_output: int
    arrival: int
    lease: Lease = field(default_factory=Lease)
    num_computed: int = 0
    num_generated: int = 0
    num_cached: int | None = None
    admitted_s: float = 0.0
    admission: int = 0  # counts the worker's admissions
    preemptions: int = 0

    @property
    def num_known(self) -> int:
        return len(self.call.token_ids) + self.num_generated


class StepResult(NamedTuple):
    """What a step brought: calls that have their first token, and calls that are over."""

    started: list[Running]
    done: list[Running]


class SimulatedEngine:
    """Admission, chunked prefill, decode, preemption, eviction: what the real engine does, without
    buckets and look-ahead.

    Steps in which nothing can change but lengths are taken together.
    """

    def __init__(
        self, setting: DispatchSetting, cost: StepCost, *, eviction: Eviction, watermark: float
    ) -> None:
        self.store = SimulatedStore(
            max(setting.kv_tokens // setting.page_size, 1), eviction=eviction
        )
        self.waiting: list[Running] = []
        self.running: list[Running] = []
        self.work = StepWork(
            num_steps=0, prefill_tokens=0.0, decode_tokens=0.0, kv_tokens=0.0, pair_tokens=0.0
        )
        self.num_preemptions = 0
        self.now_s = 0.0
        self._setting = setting
        self._cost = cost
        self._watermark = int(watermark * self.store.num_pages)
        self._num_arrivals = 0
        self._num_admissions = 0

    @property
    def num_calls(self) -> int:
        """Calls that are not over."""
        return len(self.waiting) + len(self.running)

    def submit(self, call: ReadyCall, release: Release, answer: Sequence[int]) -> None:
        """Queues a call that will generate `answer`."""
        page_size = self._setting.page_size
        needed = -(-(len(call.token_ids) + len(answer)) // page_size)
        if needed > self.store.num_pages:
            raise ValueError(
                f"{call.operator!r} needs {needed} pages in row {call.row} but a worker has "
                f"{self.store.num_pages}; raise kv_tokens={self._setting.kv_tokens}"
            )
        # The last token of an answer is never computed, so its page is never full.
        keys = page_hashes((*call.token_ids, *answer[:-1]), page_size)
        self.waiting.append(Running(call, release, keys, len(answer), self._num_arrivals))
        self._num_arrivals += 1

    def foresee(self, token_ids: Sequence[int], next_use: int | None) -> None:
        """Notes when a prefix is needed again."""
        self.store.foresee(page_hashes(token_ids, self._setting.page_size), next_use)

    def step(self) -> StepResult:
        """Advances to the next moment at which something is over; returns what that is."""
        self._grow()
        decoding = [s for s in self.running if s.num_computed == s.num_known - 1]
        prefilling = [s for s in self.running if s.num_computed < s.num_known - 1]
        budget = self._setting.max_num_batched_tokens - len(decoding)
        chunks: list[tuple[Running, int]] = []
        for sequence in prefilling:
            budget = self._take(sequence, budget, chunks)
        while budget > 0 and (admitted := self._admit()) is not None:
            budget = self._take(admitted, budget, chunks)
        assert chunks or decoding, "a step of an engine that has nothing to do"
        num_steps = 1 if chunks else self._still_steps(decoding)
        self._account(chunks, decoding, num_steps)
        started = []
        for sequence in decoding:
            if sequence.num_generated == 0:
                started.append(sequence)
            sequence.num_computed += num_steps
            sequence.num_generated += num_steps
        for sequence, _ in chunks:  # the step that computes a prompt's end gives a token
            if sequence.num_computed == sequence.num_known:
                if sequence.num_generated == 0:
                    started.append(sequence)
                sequence.num_generated += 1
        for sequence in decoding:
            self._publish(sequence)
        done = [s for s in self.running if s.num_generated == s.num_output]
        for sequence in done:
            self.running.remove(sequence)
            self.store.close(sequence.lease, sequence.release.planned_next_use)
        return StepResult(started, done)

    def warm(self, token_ids: Sequence[int]) -> int:
        """Computes a prefix ahead of its use; returns the tokens computed."""
        keys = page_hashes(token_ids, self._setting.page_size)
        matched = self.store.match(keys)
        missing = len(keys) - matched
        if not missing or missing + self._watermark > self.store.num_available:
            return 0
        lease = self.store.open(keys, matched, missing)
        self.store.publish(lease, keys)
        self.store.close(lease, None)
        num_tokens = missing * self._setting.page_size
        start = matched * self._setting.page_size
        size = self._setting.max_num_batched_tokens
        for offset in range(0, num_tokens, size):
            chunk = min(size, num_tokens - offset)
            pairs = chunk * (start + offset + (chunk + 1) / 2)
            self._spend(
                StepWork(
                    num_steps=1,
                    prefill_tokens=chunk,
                    decode_tokens=0,
                    kv_tokens=0,
                    pair_tokens=pairs,
                )
            )
        return num_tokens

    # --- pages ---------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Gives every decoding sequence room for its next token; the last to come make room."""
        page_size = self._setting.page_size
        for sequence in sorted(self.running, key=_rank):
            if sequence not in self.running:
                continue
            while sequence.num_known > sequence.lease.num_pages * page_size:
                if self.store.num_available:
                    self.store.grow(sequence.lease, 1)
                    continue
                victim = max(self.running, key=_rank)
                self._preempt(victim)
                if victim is sequence:
                    break

    def _preempt(self, sequence: Running) -> None:
        self.running.remove(sequence)
        self.store.close(sequence.lease, sequence.release.planned_next_use)
        sequence.num_computed = 0
        sequence.preemptions += 1
        self.num_preemptions += 1
        self.waiting.append(sequence)

    def _admit(self) -> Running | None:
        """Starts the next waiting sequence, if it has a place and pages."""
        if not self.waiting or len(self.running) >= self._setting.max_num_seqs:
            return None
        sequence = min(self.waiting, key=_rank)
        page_size = self._setting.page_size
        if sequence.release.prefer_cached:
            peers = [
                s
                for s in self.waiting
                if s.release.prefer_cached and s.release.priority == sequence.release.priority
            ]
            sequence = min(peers, key=lambda s: (-self.store.match(s.keys), s.arrival))
        most = (sequence.num_known - 1) // page_size  # the last token is always computed
        matched = self.store.match(sequence.keys[:most])
        private = -(-sequence.num_known // page_size) - matched
        idle = self.store.count_idle(sequence.keys[:matched])
        spare = self._watermark if self.running else 0
        if private + idle + spare > self.store.num_available:
            return None
        self.waiting.remove(sequence)
        sequence.lease = self.store.open(sequence.keys, matched, private)
        sequence.num_computed = matched * page_size
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
            sequence.admitted_s = self.now_s
            sequence.admission = self._num_admissions
            self._num_admissions += 1
        self.running.append(sequence)
        return sequence

    def _publish(self, sequence: Running) -> None:
        full = sequence.num_computed // self._setting.page_size
        if full > len(sequence.lease.shared):
            self.store.publish(sequence.lease, sequence.keys[:full])

    # --- steps ---------------------------------------------------------------------------------

    def _take(self, sequence: Running, budget: int, chunks: list[tuple[Running, int]]) -> int:
        """Computes as much of a prompt as the step has room for; what it will have computed can be
        shared by those behind it in the same step."""
        size = min(sequence.num_known - sequence.num_computed, budget)
        if size <= 0:
            return budget
        sequence.num_computed += size
        chunks.append((sequence, size))
        self._publish(sequence)
        return budget - size

    def _still_steps(self, decoding: list[Running]) -> int:
        """Steps until a sequence ends, or needs a page, or one that waits can be let in."""
        page_size = self._setting.page_size
        steps = min(s.num_output - s.num_generated for s in decoding)
        room = min(s.lease.num_pages * page_size - s.num_known for s in decoding)
        return max(min(steps, room + 1), 1)

    def _account(
        self, chunks: list[tuple[Running, int]], decoding: list[Running], num_steps: int
    ) -> None:
        context = sum(s.num_known for s in decoding)
        count = len(decoding)
        self._spend(
            StepWork(
                num_steps=num_steps,
                prefill_tokens=sum(size for _, size in chunks),
                decode_tokens=count * num_steps,
                kv_tokens=context * num_steps + count * num_steps * (num_steps - 1) / 2,
                pair_tokens=sum(size * (s.num_computed - (size - 1) / 2) for s, size in chunks),
            )
        )

    def _spend(self, work: StepWork) -> None:
        self.now_s += self._cost(work)
        self.work = add_work(self.work, work)


def _rank(sequence: Running) -> tuple[int, int]:
    return (sequence.release.priority, sequence.arrival)

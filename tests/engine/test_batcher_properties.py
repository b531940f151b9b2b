"""Stateful properties of batcher and store, against a simulated device.

The device keeps, for every place of every page, which tokens (all up to that position) its KV was
computed from. Steps are executed in order, writes before reads, and their results are read late.
"""

import dataclasses
import zlib
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from helium_jax.config import ResolvedEngineConfig, token_buckets
from helium_jax.engine import transitions
from helium_jax.engine.admission_order import order_of_admission
from helium_jax.engine.batcher import decide
from helium_jax.engine.sequence import (
    Sequence,
    SequenceStatus,
    can_ever_run,
    make_queues,
    new_sequence,
    rank_of,
)
from helium_jax.kvstore.store import make_store
from helium_jax.types import GenerateRequest, PlannedUse, SamplingParams

PAGE_SIZE = 4
ALPHABET = 2


def make_config(**choices) -> ResolvedEngineConfig:
    """A config that chooses only what store and batcher read; the rest is None."""
    choices = {
        "page_size": PAGE_SIZE,
        "prefix_caching": True,
        "token_buckets": token_buckets(choices["max_num_batched_tokens"]),
        **choices,
    }
    names = [field.name for field in dataclasses.fields(ResolvedEngineConfig)]
    return ResolvedEngineConfig(**{name: choices.get(name) for name in names})


def next_token(tokens: tuple[int, ...]) -> int:
    """The model: any fixed function of the whole prefix. 0 ends a sequence."""
    number = zlib.crc32(bytes(tokens)) % 24
    return 0 if number == 0 else 1 + number % ALPHABET


def generate_alone(prompt: tuple[int, ...], limit: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < limit:
        tokens.append(next_token(tuple(tokens)))
        if tokens[-1] == 0:
            break
    return tokens


class Device:
    """Pages and the token buffer."""

    def __init__(self) -> None:
        self.pages: dict[tuple[int, int], tuple[int, ...]] = {}
        self.buffer: dict[tuple[int, int], int] = {}

    def run(self, packed) -> list[tuple[Sequence, int]]:
        """Executes rows of (sequence, slot, pages, host ids, start, end, samples)."""
        written = set()
        tokens_of = {}
        for sequence, slot, pages, ids, start, end, _ in packed:
            for position in range(end):
                if position < len(ids):
                    self.buffer[slot, position] = ids[position]
            tokens = tuple(self.buffer[slot, position] for position in range(end))
            tokens_of[sequence] = tokens
            for position in range(start, end):
                place = (pages[position // PAGE_SIZE], position % PAGE_SIZE)
                assert place not in written, "two rows write one place"
                written.add(place)
                self.pages[place] = tokens[: position + 1]
        results = []
        for sequence, slot, pages, _, _, end, samples in packed:
            tokens = tokens_of[sequence]
            for position in range(end):
                place = (pages[position // PAGE_SIZE], position % PAGE_SIZE)
                assert self.pages[place] == tokens[: position + 1], "read another sequence's KV"
            if samples:
                token = next_token(tokens)
                self.buffer[slot, end] = token
                results.append((sequence, token))
        return results


class BatcherMachine(RuleBasedStateMachine):
    @initialize(
        longest_in_pages=st.integers(2, 7),
        extra_pages=st.sampled_from([0, 0, 1, 2, 4]),
        max_num_seqs=st.integers(1, 6),
        extra_tokens=st.sampled_from([0, 1, 5, 20]),
        steps_in_flight=st.sampled_from([1, 2, 3]),  # the batcher sets no limit
        pin_budget=st.sampled_from([0.0, 0.5, 1.0]),
        watermark=st.sampled_from([0.0, 0.01, 0.2]),
    )
    def start(
        self,
        longest_in_pages,
        extra_pages,
        max_num_seqs,
        extra_tokens,
        steps_in_flight,
        pin_budget,
        watermark,
    ):
        self.config = make_config(
            num_pages=longest_in_pages + extra_pages,
            max_model_len=longest_in_pages * PAGE_SIZE,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max(max_num_seqs + extra_tokens, 2),
            steps_in_flight=steps_in_flight,
            pin_budget=pin_budget,
            watermark=watermark,
        )
        self.store = make_store(self.config, model_version="v", secret=b"s" * 32)
        self.queues = make_queues(self.config)
        self.device = Device()
        self.in_flight: deque = deque()
        self.sequences: list[Sequence] = []
        self.cancelled: set[Sequence] = set()
        self.pins: list[int] = []
        self.num_steps = 0
        self.num_steps_allowed = 0

    @property
    def unfinished(self) -> list[Sequence]:
        return [*self.queues.waiting, *self.queues.running]

    @rule(
        prompt=st.lists(st.integers(1, ALPHABET), min_size=1, max_size=11),
        repeat=st.integers(0, 5),
        max_tokens=st.sampled_from([None, None, None, 1, 5, 12]),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        salt=st.sampled_from(["", "", "", "other"]),
        next_use=st.one_of(st.none(), st.integers(0, 9)),
        is_warm=st.sampled_from([False] * 6 + [True]),
        prefer_cached=st.booleans(),
        follows=st.booleans(),
        diverge=st.booleans(),
    )
    def submit(
        self,
        prompt,
        repeat,
        max_tokens,
        priority,
        salt,
        next_use,
        is_warm,
        prefer_cached,
        follows,
        diverge,
    ):
        if follows and self.sequences:
            # A conversation goes on: the prompt begins with another's prompt and output.
            prompt = self.sequences[-1].token_ids + prompt
        prompt = tuple(prompt[: self.config.max_model_len - 1])
        assert can_ever_run(len(prompt), self.config)
        for i in range(repeat + 1):
            if diverge:
                prompt = (*prompt[:-1], 1 + i % ALPHABET)
            sequence = new_sequence(
                GenerateRequest(
                    request_id=str(len(self.sequences)),
                    token_ids=prompt,
                    sampling=SamplingParams(max_tokens=max_tokens),
                    priority=priority,
                    cache_salt=salt,
                    planned_next_use=next_use,
                    prefer_cached=prefer_cached,
                ),
                arrival=len(self.sequences),
                store=self.store,
                config=self.config,
                is_warm=is_warm,
            )
            if sequence.is_warmed:
                return
            self.sequences.append(sequence)
            # Alone it takes a step per token; a queue takes no more than one after the other,
            # each preempted at worst once per follower.
            self.num_steps_allowed += 4 * len(self.unfinished) + 3 * self.config.max_model_len
            transitions.submit(sequence, self.queues)

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def cancel(self, data):
        sequence = data.draw(st.sampled_from(self.unfinished))
        self.cancelled.add(sequence)
        transitions.retire(sequence, self.queues, self.store)

    @rule()
    def reset(self):
        snapshot = self.store.snapshot()
        freed = self.store.reset()
        assert self.store.snapshot().num_free == snapshot.num_free + freed
        assert self.store.snapshot().num_cached <= snapshot.num_pinned

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def pin(self, data):
        table = data.draw(st.sampled_from(self.sequences)).table
        pinned = self.store.pin(table, value=data.draw(st.integers(0, 2)))
        if pinned.pin_id is not None:
            self.pins.append(pinned.pin_id)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data):
        pin_id = data.draw(st.sampled_from(self.pins))
        self.pins.remove(pin_id)
        self.store.unpin(pin_id)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def foresee(self, data):
        sequence = data.draw(st.sampled_from(self.sequences))
        use = PlannedUse(
            token_ids=tuple(sequence.token_ids),
            cache_salt=sequence.request.cache_salt,
            next_use=data.draw(st.one_of(st.none(), st.integers(0, 9))),
        )
        self.store.foresee([use])

    @rule(count=st.integers(1, 6))
    def step(self, count):
        for _ in range(count):
            self.run_step()

    @rule(count=st.integers(6, 15))
    def step_far(self, count):
        self.step(count)

    def run_step(self):
        plan = self.decide_checked()
        transitions.apply(plan, self.queues, self.store)
        self.store.verify()
        if plan.rows:
            self.num_steps += 1
            self.in_flight.append(self.device.run(self.pack(plan)))
        for sequence, _, _ in plan.admissions:
            self.retire_if_warmed(sequence)
        for row in plan.rows:
            self.retire_if_warmed(row.sequence)
        if self.in_flight and (not plan.rows or len(self.in_flight) == self.config.steps_in_flight):
            self.read_results()

    def decide_checked(self):
        before = (self.store.snapshot(), [*self.queues.waiting], [*self.queues.running])
        plan = decide(self.queues, self.store, self.config)
        assert plan == decide(self.queues, self.store, self.config)
        assert before == (self.store.snapshot(), self.queues.waiting, self.queues.running)
        if self.unfinished and not self.in_flight:
            assert plan.rows or plan.admissions or plan.preemptions, "nothing moves"
        assert plan.num_tokens == sum(row.num_tokens for row in plan.rows)
        assert plan.num_tokens <= self.config.max_num_batched_tokens
        assert len({row.sequence for row in plan.rows}) == len(plan.rows)
        self.check_order(plan)
        for sequence, start, num_tokens, samples in plan.rows:
            assert num_tokens >= 1
            assert start + num_tokens <= sequence.num_known
            assert samples == (start + num_tokens == sequence.num_known and not sequence.is_warm)
            assert sequence.num_known < sequence.limit
        served = {row.sequence for row in plan.rows}
        for sequence in self.queues.running:
            decodes = sequence.num_computed + 1 == sequence.num_known < sequence.limit
            gone = (*plan.preemptions, *plan.displacements)
            if decodes and not sequence.is_warm and sequence not in gone:
                assert sequence in served, "a running sequence stalls"
        return plan

    def check_order(self, plan):
        waiting = self.queues.waiting
        admitted = {admission.sequence: None for admission in plan.admissions}
        order = [place.sequence for place in order_of_admission(waiting, self.store)]
        assert [*admitted] == order[: len(admitted)]
        assert sorted(order, key=rank_of) == waiting
        for before, after in zip(waiting, order, strict=True):
            assert before.request.priority == after.request.priority
            assert before.request.prefer_cached or before is after, "somebody was overtaken"
        ranks = sorted(map(rank_of, self.queues.running), reverse=True)
        assert [*map(rank_of, plan.preemptions)] == ranks[: len(plan.preemptions)]
        assert not (plan.preemptions and (plan.admissions or plan.displacements))
        if plan.displacements:
            (newcomer,) = admitted
            assert plan.admissions[0].num_pages + plan.admissions[0].num_matched > 0
            for victim in plan.displacements:
                assert victim.request.priority > newcomer.request.priority
                assert len(victim.token_ids) >= victim.displaceable_from

    def pack(self, plan):
        page_of = {block.page: block for block in self.store._index.blocks()}
        writers = set()
        packed = []
        for sequence, start, num_tokens, samples in plan.rows:
            end = start + num_tokens
            pages = sequence.pages
            for i in range(start // PAGE_SIZE, -(-end // PAGE_SIZE)):
                assert pages[i] not in writers, "two rows write one page"
                writers.add(pages[i])
                block = page_of.get(pages[i])
                if block is not None:
                    assert block.key == sequence.table.keys[i]
                    assert (i + 1) * PAGE_SIZE <= end, "a shared page is written again"
                elif i >= len(sequence.table.blocks):
                    assert self.store._pool.references[pages[i]] == 1
            packed.append(
                (sequence, sequence.slot, [*pages], [*sequence.token_ids], start, end, samples)
            )
        slots = [sequence.slot for sequence in self.queues.running]
        assert len({*slots, *self.queues.free_slots}) == self.config.max_num_seqs
        assert len(slots) + len(self.queues.free_slots) == self.config.max_num_seqs
        return packed

    def retire_if_warmed(self, sequence):
        if sequence.is_warmed and sequence.status is SequenceStatus.RUNNING:
            num_blocks = len(sequence.token_ids) // PAGE_SIZE
            assert len(self.store.match(sequence.table, num_blocks)) == num_blocks
            transitions.retire(sequence, self.queues, self.store)

    def read_results(self):
        for sequence, token in self.in_flight.popleft():
            if transitions.accept(sequence, token, self.store) and (
                token == 0 or sequence.is_at_limit
            ):
                transitions.retire(sequence, self.queues, self.store)

    @invariant()
    def store_is_consistent(self):
        if not hasattr(self, "store"):
            return
        self.store.verify()
        snapshot = self.store.snapshot()
        total = snapshot.num_free + snapshot.num_cached + snapshot.num_used
        assert total == self.config.num_pages
        held = {page for sequence in self.queues.running for page in sequence.pages}
        held |= {block.page for sequence in self.queues.running for block in sequence.table.blocks}
        assert snapshot.num_used == len(held), "pages leak"

    def teardown(self):
        if not hasattr(self, "store"):
            return
        for _ in range(self.num_steps_allowed + self.num_steps):
            if not self.unfinished and not self.in_flight:
                break
            self.run_step()
        assert not self.unfinished, "a sequence starves"
        snapshot = self.store.snapshot()
        assert snapshot.num_used == 0
        assert self.queues.running == []
        for sequence in self.sequences:
            usage = sequence.usage()
            prompt = tuple(sequence.token_ids[: sequence.num_prompt])
            assert sequence.num_in_flight == 0
            assert 0 <= usage.kv_cached <= sequence.num_prompt - (not sequence.is_warm)
            if not sequence.is_warm:
                expected = generate_alone(prompt, sequence.limit)
                if sequence in self.cancelled:
                    expected = expected[: len(sequence.token_ids)]
                assert sequence.token_ids == expected
        for pin_id in self.pins:
            self.store.unpin(pin_id)
        self.store.reset()
        self.store.verify()
        assert self.store.snapshot().num_free == self.config.num_pages


def test_every_sequence_finishes_and_reads_only_its_own_tokens():
    run_state_machine_as_test(
        BatcherMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.slow
def test_every_sequence_finishes_and_reads_only_its_own_tokens_at_length():
    run_state_machine_as_test(
        BatcherMachine,
        settings=settings(
            max_examples=2000,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )

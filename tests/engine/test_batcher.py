"""The decision of a step, by example."""

import dataclasses
from itertools import pairwise

import pytest

from helium_jax.config import ResolvedEngineConfig, token_buckets
from helium_jax.engine import transitions
from helium_jax.engine.admission_order import MAX_OVERTAKEN
from helium_jax.engine.batcher import decide
from helium_jax.engine.prefill import trim_to_bucket
from helium_jax.engine.sequence import SequenceStatus, make_queues, new_sequence
from helium_jax.kvstore.store import make_store
from helium_jax.types import GenerateRequest, SamplingParams

PAGE_SIZE = 4


class Bench:
    """Queues and a store, with every sampled token read at once unless told otherwise."""

    def __init__(self, **choices):
        choices = {
            "page_size": PAGE_SIZE,
            "num_pages": 100,
            "max_model_len": 64,
            "max_num_seqs": 4,
            "max_num_batched_tokens": 16,
            "watermark": 0.0,
            "pin_budget": 0.5,
            "prefix_caching": True,
            **choices,
        }
        choices.setdefault("token_buckets", (choices["max_num_batched_tokens"],))
        names = [field.name for field in dataclasses.fields(ResolvedEngineConfig)]
        # Fields that neither store nor batcher reads are None.
        self.config = ResolvedEngineConfig(**{name: choices.get(name) for name in names})
        self.store = make_store(self.config, model_version="", secret=bytes(32))
        self.queues = make_queues(self.config)
        self.num_submitted = 0

    def submit(
        self,
        prompt,
        *,
        max_tokens=None,
        priority=0,
        is_warm=False,
        prefer_cached=False,
        next_use=None,
    ):
        sequence = new_sequence(
            GenerateRequest(
                request_id=f"r{self.num_submitted}",
                token_ids=tuple(prompt),
                sampling=SamplingParams(max_tokens=max_tokens),
                priority=priority,
                prefer_cached=prefer_cached,
                planned_next_use=next_use,
            ),
            arrival=self.num_submitted,
            store=self.store,
            config=self.config,
            is_warm=is_warm,
        )
        self.num_submitted += 1
        transitions.submit(sequence, self.queues)
        return sequence

    def plan(self):
        plan = decide(self.queues, self.store, self.config)
        transitions.apply(plan, self.queues, self.store)
        self.store.verify()
        return plan

    def read(self, plan, token=1):
        for row in plan.rows:
            if (
                row.samples
                and transitions.accept(row.sequence, token, self.store)
                and row.sequence.is_at_limit
            ):
                self.retire(row.sequence)

    def retire(self, sequence):
        transitions.retire(sequence, self.queues, self.store)
        self.store.verify()

    def plan_and_read(self):
        plan = self.plan()
        self.read(plan)
        return plan

    def step(self, token=1):
        plan = self.plan()
        self.read(plan, token)
        return work(plan)


def work(plan):
    """{request id: (start, num_tokens)} of a plan."""
    return {row.sequence.request.request_id: (row.start, row.num_tokens) for row in plan.rows}


def test_a_long_prompt_is_cut_and_decodes_go_first():
    bench = Bench()
    bench.submit([9, 9])
    assert bench.step() == {"r0": (0, 2)}
    bench.submit(range(40))
    assert bench.step() == {"r0": (2, 1), "r1": (0, 15)}
    assert bench.step() == {"r0": (3, 1), "r1": (15, 15)}
    plan = bench.plan()
    assert work(plan) == {"r0": (4, 1), "r1": (30, 10)}
    assert [row.samples for row in plan.rows] == [True, True]
    bench.read(plan)
    assert bench.step() == {"r0": (5, 1), "r1": (40, 1)}


def test_a_prefix_many_wait_for_is_computed_once_in_the_same_step():
    bench = Bench(max_num_batched_tokens=64)
    sequences = [bench.submit([*range(8), 50 + i]) for i in range(4)]
    assert bench.step() == {"r0": (0, 9), "r1": (8, 1), "r2": (8, 1), "r3": (8, 1)}
    assert len({tuple(sequence.pages[:2]) for sequence in sequences}) == 1
    assert [sequence.kv_cached for sequence in sequences] == [0, 8, 8, 8]
    assert bench.store.snapshot().hit_tokens == 24


def test_followers_wait_for_a_prefix_that_takes_several_steps():
    bench = Bench()
    for i in range(3):
        bench.submit([*range(32), 50 + i])
    assert bench.step() == {"r0": (0, 16)}
    assert bench.step() == {"r0": (16, 16)}
    assert bench.step() == {"r0": (32, 1), "r1": (32, 1), "r2": (32, 1)}


def test_followers_go_on_when_the_one_they_wait_for_is_cancelled():
    bench = Bench()
    leader = bench.submit([*range(32), 50])
    bench.submit([*range(32), 51])
    bench.step()
    bench.retire(leader)
    assert bench.step() == {"r1": (16, 16)}  # what was scheduled is not lost


def test_a_prompt_that_higher_ranks_need_is_served_first():
    bench = Bench()
    bench.submit([*range(20), 1], priority=5)
    assert bench.step() == {"r0": (0, 16)}
    bench.submit([*range(20), 2], priority=0)
    assert bench.step() == {"r0": (16, 5), "r1": (20, 1)}


def test_a_higher_priority_does_not_wait_for_the_rest_of_a_long_prompt():
    bench = Bench(max_model_len=200)
    bench.submit(range(100), priority=1)
    bench.step()
    bench.submit(range(200, 210), priority=0)
    plan = bench.plan()
    assert work(plan) == {"r0": (16, 6), "r1": (0, 10)}


def test_the_last_token_is_always_computed():
    bench = Bench()
    first = bench.submit(range(8), max_tokens=1)
    bench.step()
    assert first.status is SequenceStatus.FINISHED
    bench.submit(range(8), max_tokens=1)
    assert bench.step() == {"r1": (4, 4)}


def test_a_conversation_extends_its_own_kv():
    bench = Bench()
    first = bench.submit(range(6), max_tokens=7)
    while bench.queues.running or bench.queues.waiting:
        bench.step(token=3)
    bench.submit([*range(6), *[3] * 7, 8, 8])
    assert bench.step() == {"r1": (12, 3)}  # 12 of 13 were computed, in three full blocks
    assert first.usage().completion_tokens == 7


def test_nothing_is_scheduled_beyond_max_tokens_though_results_are_late():
    bench = Bench()
    sequence = bench.submit([1, 2, 3], max_tokens=2)
    first, second, third = bench.plan(), bench.plan(), bench.plan()
    assert [work(plan) for plan in (first, second, third)] == [{"r0": (0, 3)}, {"r0": (3, 1)}, {}]
    bench.read(first)
    bench.read(second)
    assert sequence.status is SequenceStatus.FINISHED
    assert sequence.num_generated == 2


def test_nothing_is_scheduled_beyond_the_context():
    bench = Bench(max_model_len=8)
    sequence = bench.submit(range(6))
    while bench.queues.running or bench.queues.waiting:
        bench.step()
    assert len(sequence.token_ids) == 8
    assert sequence.num_computed == 7


def test_results_of_a_cancelled_sequence_are_dropped_and_its_pages_free_at_once():
    bench = Bench()
    sequence = bench.submit(range(6))
    plan = bench.plan()
    bench.retire(sequence)
    bench.retire(sequence)  # twice does no harm
    assert bench.store.snapshot().num_used == 0
    bench.read(plan)
    assert sequence.token_ids == [*range(6)]
    assert sequence.num_in_flight == 0
    assert len(bench.queues.free_slots) == 4


def test_nobody_overtakes_a_prompt_that_lacks_pages():
    bench = Bench(num_pages=8, max_model_len=32)
    bench.submit(range(20))  # 5 pages
    bench.step()
    bench.step()
    bench.submit(range(100, 116))  # 4 pages, 3 are left
    bench.submit([7])
    assert [*bench.step()] == ["r0"]
    # A higher priority may.
    bench.submit([8], priority=-1)
    assert [*bench.step()] == ["r0", "r3"]


def test_the_watermark_keeps_room_for_those_running():
    bench = Bench(num_pages=16, max_model_len=60, watermark=0.125)
    bench.submit(range(4))
    bench.step()
    bench.submit(range(100, 149))  # 13 of the 14 left; 2 must stay
    assert [*bench.step()] == ["r0"]
    bench = Bench(num_pages=16, max_model_len=60, watermark=0.125)
    bench.submit(range(4))
    bench.step()
    bench.submit(range(100, 148))
    assert [*bench.step()] == ["r0", "r1"]


def exhausted():
    """Three sequences of one page each in a pool of three, about to need a second page."""
    bench = Bench(num_pages=3, max_model_len=12)
    sequences = [bench.submit([10 * i, 1, 2], priority=p) for i, p in enumerate((0, 1, 0))]
    bench.step()
    bench.step()
    assert [len(sequence.pages) for sequence in sequences] == [1, 1, 1]
    return bench, sequences


def test_the_lowest_priority_then_the_latest_is_preempted():
    bench, (first, low, late) = exhausted()
    plan = bench.plan()
    assert plan.preemptions == (low, late)
    assert work(plan) == {"r0": (4, 1)}
    assert (low.preemptions, late.preemptions) == (1, 1)
    assert bench.queues.waiting == [late, low]
    assert len(first.pages) == 2


def test_a_preempted_sequence_resumes_from_its_cached_blocks():
    bench, (first, low, late) = exhausted()
    bench.read(bench.plan())
    bench.retire(first)
    # Its first block survived in the index; the token after it was not computed yet.
    assert bench.step() == {"r2": (4, 1)}
    assert late.usage().recomputed == 0
    bench.retire(late)
    bench.step()
    # Its page was the one taken: four tokens were computed, and are again.
    assert low.usage().recomputed == 4
    assert low.kv_cached == 0  # of its first admission


def test_a_preempted_sequence_waits_for_its_token_in_flight():
    bench = Bench(num_pages=3, max_model_len=12)
    first, second = bench.submit([1, 2, 3, 4]), bench.submit([5, 6, 7, 8])
    unread = bench.plan()
    assert bench.plan().preemptions == (second,)  # one page was left for two
    bench.retire(first)
    assert work(bench.plan()) == {}
    bench.read(unread, token=9)
    assert bench.step() == {"r1": (4, 1)}
    assert second.token_ids[:5] == [5, 6, 7, 8, 9]


def test_recomputed_counts_tokens_computed_twice():
    bench = Bench(num_pages=3, max_model_len=12, prefix_caching=False)
    first, second = bench.submit([1, 2, 3]), bench.submit([5, 6, 7])
    for _ in range(6):
        bench.step()
    assert second.preemptions == 1
    num_computed = second.most_computed
    bench.retire(first)
    bench.step()
    assert second.usage().recomputed == num_computed
    assert second.usage().computed == 3


def test_a_returning_sequence_leaves_everybody_a_page_to_grow():
    bench = Bench(num_pages=6, max_model_len=20)
    first, second = bench.submit(range(11)), bench.submit(range(50, 61))
    bench.step()
    while not second.preemptions:
        bench.step()
    # 4 of 6 pages are the first one's; the second needs 3 or 4 of them and one to spare.
    for _ in range(3):
        assert [*bench.step()] == ["r0"]
    bench.retire(first)
    assert "r1" in bench.step()


def test_warm_prefixes_are_computed_without_sampling():
    bench = Bench()
    warm = bench.submit(range(10), is_warm=True)
    plan = bench.plan()
    assert work(plan) == {"r0": (0, 8)}
    assert not plan.rows[0].samples
    assert warm.is_warmed
    bench.retire(warm)
    again = bench.submit(range(10), is_warm=True)
    plan = bench.plan()
    assert work(plan) == {}
    assert again.is_warmed
    assert again.kv_cached == 8


def test_common_prefixes_are_neighbours_in_the_rows():
    bench = Bench(max_num_seqs=6, max_num_batched_tokens=64)
    for i in range(6):
        bench.submit([i % 2] * 8 + [i])
    bench.step()
    names = [*bench.step()]
    assert sorted([names[:3], names[3:]]) == [["r0", "r2", "r4"], ["r1", "r3", "r5"]]


@pytest.mark.parametrize(
    ("num_tokens", "last_chunk", "put_off"),
    [(64, 10, 0), (66, 60, 2), (73, 60, 0), (66, 2, 0), (2, 2, 0), (9, 9, 1), (129, 129, 1)],
)
def test_a_step_that_barely_exceeds_a_bucket_is_cut(num_tokens, last_chunk, put_off):
    assert trim_to_bucket(num_tokens, last_chunk, token_buckets(256)) == put_off


def test_what_is_cut_comes_in_the_next_step():
    bench = Bench(max_num_batched_tokens=64, token_buckets=token_buckets(64))
    bench.submit(range(34))
    plan = bench.plan()
    assert work(plan) == {"r0": (0, 32)}
    assert not plan.rows[0].samples
    assert bench.step() == {"r0": (32, 2)}


def test_the_chunk_others_count_on_is_not_cut():
    bench = Bench(max_num_batched_tokens=64, token_buckets=token_buckets(64))
    bench.submit([*range(32), 99])
    bench.submit(range(32), is_warm=True)
    plan = bench.plan()
    assert work(plan) == {"r0": (0, 33)}  # 32 would be a bucket
    assert [admission.num_matched for admission in plan.admissions] == [0, 8]


def test_matched_blocks_are_not_evicted_by_the_same_step():
    bench = Bench(num_pages=5, max_model_len=16)
    for token in (7, 8, 9):  # one cached block each, the first is the oldest
        bench.submit([token] * 4, max_tokens=1)
        bench.step()
    bench.submit(range(8))
    bench.step()
    bench.submit([7, 7, 7, 7, 1])
    plan = bench.plan()  # the running one needs a page, and only cached ones are left
    assert work(plan) == {"r3": (8, 1), "r4": (4, 1)}
    assert bench.store.snapshot().evicted_pages == 2


def make_resident(bench, *prompts):
    """Computes prompts whose blocks stay cached."""
    for prompt in prompts:
        bench.submit(prompt, max_tokens=1)
        bench.step()


def test_the_longest_cached_prefix_goes_first_among_those_that_wish_it():
    bench = Bench(max_num_seqs=1, max_num_batched_tokens=64)
    make_resident(bench, [1] * 8, [2] * 16)
    bench.submit([1] * 8 + [5], max_tokens=1, prefer_cached=True)
    bench.submit([3] * 9, max_tokens=1)
    bench.submit([2] * 16 + [5], max_tokens=1, prefer_cached=True)
    bench.submit([2] * 8 + [5], max_tokens=1, prefer_cached=True)
    order = [next(iter(bench.step())) for _ in range(4)]
    assert order == ["r4", "r2", "r3", "r5"]  # r3 keeps its place; first come among equals


def test_what_is_cached_is_looked_up_each_step():
    bench = Bench(max_num_seqs=1, max_num_batched_tokens=64)
    bench.submit([7] * 12, max_tokens=1)
    bench.submit([1] * 9, max_tokens=1, prefer_cached=True)
    bench.submit([7] * 13, max_tokens=1, prefer_cached=True)
    assert [next(iter(bench.step())) for _ in range(3)] == ["r0", "r2", "r1"]


def test_a_wish_is_no_priority():
    bench = Bench(max_num_seqs=1, max_num_batched_tokens=64)
    make_resident(bench, [1] * 8)
    bench.submit([1] * 9, max_tokens=1, priority=1, prefer_cached=True)
    bench.submit([2] * 9, max_tokens=1, priority=0, prefer_cached=True)
    assert [next(iter(bench.step())) for _ in range(2)] == ["r2", "r1"]


def test_calls_of_one_prefix_group_enter_the_same_step():
    bench = Bench(max_num_seqs=3, max_num_batched_tokens=64)
    make_resident(bench, [1] * 8, [2] * 8)
    for i in range(6):
        bench.submit([1 + i % 2] * 8 + [10 + i], max_tokens=1, prefer_cached=True)
    assert [sorted(bench.step()) for _ in range(2)] == [["r2", "r4", "r6"], ["r3", "r5", "r7"]]


def test_a_group_whose_prefix_nobody_computed_yet_enters_together():
    bench = Bench(max_num_seqs=3, max_num_batched_tokens=64)
    for i in range(6):
        bench.submit([1 + i % 2] * 8 + [10 + i], max_tokens=1, prefer_cached=True)
    assert bench.step() == {"r0": (0, 9), "r2": (8, 1), "r4": (8, 1)}
    assert bench.step() == {"r1": (0, 9), "r3": (8, 1), "r5": (8, 1)}


def test_who_was_overtaken_often_goes_first():
    bench = Bench(max_num_seqs=1, max_num_batched_tokens=64)
    make_resident(bench, [1] * 8)
    patient = bench.submit([2] * 8, max_tokens=1, prefer_cached=True)
    num_steps = 0
    while patient.status is SequenceStatus.WAITING:
        bench.submit([1] * 9, max_tokens=1, prefer_cached=True)
        bench.step()
        num_steps += 1
    assert num_steps == MAX_OVERTAKEN + 1


def test_a_higher_priority_takes_the_slot_of_a_lower_one():
    bench = Bench(max_num_seqs=2)
    same, low = bench.submit([1, 1]), bench.submit([2, 2], priority=2)
    bench.step()
    bench.submit([3, 3], priority=0)
    plan = bench.plan()
    assert (plan.displacements, work(plan)) == ((low,), {"r0": (2, 1), "r2": (0, 2)})
    assert (low.preemptions, low.status) == (1, SequenceStatus.WAITING)
    bench.read(plan)
    bench.submit([4, 4], priority=0)
    assert bench.plan().displacements == ()  # nobody who runs has a lower priority
    assert same.status is SequenceStatus.RUNNING


def test_a_higher_priority_takes_pages_only_where_they_are_enough():
    bench = Bench(num_pages=8, max_model_len=32, max_num_batched_tokens=64)
    bench.submit(range(12), priority=0)
    low = bench.submit(range(50, 62), priority=5)
    bench.step()
    bench.submit(range(100, 124), priority=1)  # 6 pages; 8 less 4 of the first are too few
    assert bench.plan().displacements == ()
    bench.retire(bench.queues.waiting[0])
    bench.submit(range(200, 206), priority=1)
    plan = bench.plan()
    assert plan.displacements == (low,)
    assert "r3" in work(plan)


def test_who_was_displaced_is_left_alone_until_it_has_made_progress():
    bench = Bench(max_num_seqs=1)
    low = bench.submit([1, 1], priority=1)
    bench.step()
    displaced_at = []
    for i in range(200):
        if low.status is SequenceStatus.RUNNING and not bench.queues.waiting:
            bench.submit([2, i], max_tokens=1)
        plan = bench.plan()
        if plan.displacements:
            displaced_at.append(len(low.token_ids))
        bench.read(plan)
        if low.status is SequenceStatus.FINISHED:
            break
    assert low.status is SequenceStatus.FINISHED
    assert len(displaced_at) > 3
    assert all(b - a >= PAGE_SIZE for a, b in pairwise(displaced_at))


def test_5_10_a_running_request_is_not_preempted_for_a_pin():
    bench = Bench(num_pages=4, max_model_len=16, pin_budget=1.0)
    make_resident(bench, [1] * 8, [2] * 4)
    pinned = [bench.store.open_table(), bench.store.open_table()]
    for table, prompt, value in zip(pinned, ([1] * 8, [2] * 4), (5.0, 9.0), strict=True):
        bench.store.extend_keys(table, prompt)
        bench.store.pin(table, value=value)
    running = bench.submit([3] * 3, max_tokens=13)
    while running.status is not SequenceStatus.FINISHED:
        assert bench.plan_and_read().preemptions == ()
    snapshot = bench.store.snapshot()
    assert snapshot.surrendered_pins == 2
    assert snapshot.num_used == 0


def test_5_10_with_every_page_pinned_a_request_still_runs_and_others_wait_for_it():
    bench = Bench(num_pages=4, max_model_len=16, pin_budget=1.0)
    for token in range(4):
        make_resident(bench, [token] * 4)
        table = bench.store.open_table()
        bench.store.extend_keys(table, [token] * 4)
        assert bench.store.pin(table, value=token).num_blocks == 1
    assert bench.store.num_available == 0
    first, second = bench.submit([8] * 3, max_tokens=2), bench.submit([9] * 3, max_tokens=2)
    assert [*bench.step()] == [first.request.request_id]
    assert bench.store.snapshot().surrendered_pins == 1  # the second only waits for its turn
    while second.status is not SequenceStatus.FINISHED:
        bench.step()
    assert bench.store.snapshot().surrendered_pins == 1

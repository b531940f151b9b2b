"""Simulated runs keep the plan's dependencies, the engine's limits and honest books."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.schedule import CallGraph, CallNode, Segment
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.policies import POLICIES
from helium_jax.schedule.simulate import (
    CallSpan,
    SimulatedRun,
    simulate,
    synthetic_answer,
    synthetic_prompt,
)
from helium_jax.schedule.simulated_store import SimulatedStore
from helium_jax.schedule.step_work import StepWork
from tests.schedule.scripted import call_graphs

ROOMY = DispatchSetting(
    page_size=8, kv_tokens=1_000_000, max_num_seqs=8, max_num_batched_tokens=100_000
)
TIGHT = DispatchSetting(page_size=8, kv_tokens=320, max_num_seqs=8, max_num_batched_tokens=48)
PLANNED = [name for name in POLICIES if name not in ("kvflow", "helium")]  # these two warm


def seconds(work: StepWork) -> float:
    return work.num_steps + 0.01 * (work.prefill_tokens + work.decode_tokens)


def debate(rows: int) -> CallGraph:
    """Two agents answer; each then sees its own answer again, and the other's."""
    question = Segment(key="question", num_tokens=40, is_static=False)
    nodes = []
    for name in ("a", "b"):
        system = Segment(key=f"system {name}", num_tokens=24, is_static=True)
        nodes.append(CallNode(name=name, segments=(system, question), output_tokens=20, role=name))
    for name, other in (("a", "b"), ("b", "a")):
        system = Segment(key=f"system {name}", num_tokens=24, is_static=True)
        answers = [Segment(key=key, num_tokens=20, is_static=False) for key in (name, other)]
        nodes.append(
            CallNode(
                name=f"{name}2",
                segments=(system, question, *answers),
                needs=("a", "b"),
                output_tokens=20,
                role=name,
            )
        )
    return CallGraph(nodes=tuple(nodes), num_rows=rows)


def recount(graph: CallGraph, run: SimulatedRun, page_size: int) -> list[int]:
    """Cached tokens of every span, from the order of the calls alone, in a store without end."""
    known: set[tuple[int, ...]] = set()
    ended: list[CallSpan] = []
    counts = []
    for span in run.spans:
        for other in [o for o in run.spans if o.end_s <= span.start_s and o not in ended]:
            ended.append(other)
            node = graph.by_name[other.operator]
            prompt = synthetic_prompt(graph, node, other.row)
            answer = synthetic_answer(node, other.row, other.output_tokens)
            _add_pages(known, (*prompt, *answer[:-1]), page_size)
        prompt = synthetic_prompt(graph, graph.by_name[span.operator], span.row)
        count = 0
        for end in range(page_size, len(prompt), page_size):  # the last token is computed anyway
            if prompt[:end] not in known:
                break
            count = end
        counts.append(count)
        _add_pages(known, prompt, page_size)
    return counts


def _add_pages(known: set[tuple[int, ...]], tokens: tuple[int, ...], page_size: int) -> None:
    known.update(tokens[:end] for end in range(page_size, len(tokens) + 1, page_size))


@pytest.mark.parametrize("name", PLANNED)
@settings(max_examples=10, deadline=None)
@given(graph=call_graphs())
def test_5_11_hit_rates_equal_a_recount_from_the_recorded_order(name, graph):
    run = simulate(graph, POLICIES[name], ROOMY, seconds)
    counts = recount(graph, run, ROOMY.page_size)
    assert [span.cached_tokens for span in run.spans] == counts
    assert run.hit_rate == sum(counts) / sum(span.prompt_tokens for span in run.spans)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=10, deadline=None)
@given(
    graph=call_graphs(),
    setting=st.sampled_from([ROOMY, TIGHT]),
    num_workers=st.integers(1, 3),
    eviction=st.sampled_from(["plan", "lru"]),
)
def test_runs_keep_dependencies_and_compute_everything_once(
    name, graph, setting, num_workers, eviction
):
    setting = DispatchSetting(
        num_workers=num_workers,
        page_size=setting.page_size,
        kv_tokens=setting.kv_tokens,
        max_num_seqs=setting.max_num_seqs,
        max_num_batched_tokens=setting.max_num_batched_tokens,
    )
    run = simulate(graph, POLICIES[name], setting, seconds, eviction=eviction)
    by_call = {(span.operator, span.row): span for span in run.spans}
    assert len(by_call) == len(run.spans) == len(graph.nodes) * graph.num_rows
    for (operator, row), span in by_call.items():
        assert 0 <= span.worker < num_workers
        for need in graph.by_name[operator].needs:
            assert by_call[need, row].end_s <= span.start_s
    outputs = sum(span.output_tokens for span in run.spans)
    computed = sum(span.prompt_tokens - span.cached_tokens for span in run.spans)
    decoded_in_prefill = len(run.spans)  # a prompt's last chunk gives the first token
    assert run.work.decode_tokens >= outputs - decoded_in_prefill - run.num_preemptions
    if run.num_preemptions == 0:
        total = run.work.prefill_tokens + run.work.decode_tokens
        assert total == computed + run.warmed_tokens + outputs - decoded_in_prefill
    assert run.makespan_s >= max(span.end_s for span in run.spans)


def test_a_full_store_preempts_and_comes_to_an_end():
    graph = debate(8)
    setting = DispatchSetting(
        page_size=8, kv_tokens=256, max_num_seqs=8, max_num_batched_tokens=256
    )
    run = simulate(graph, POLICIES["random"], setting, seconds, watermark=0.0)
    assert run.num_preemptions > 0
    assert len(run.spans) == 32


def test_a_call_that_never_fits_is_named():
    setting = DispatchSetting(page_size=8, kv_tokens=64)
    with pytest.raises(ValueError, match=r"needs 11 pages in row 0 but a worker has 8"):
        simulate(debate(1), POLICIES["random"], setting, seconds)


def test_planned_uses_keep_what_least_recent_use_would_drop():
    graph = debate(12)
    setting = DispatchSetting(
        page_size=8, kv_tokens=720, max_num_seqs=4, max_num_batched_tokens=256
    )
    runs = {
        eviction: simulate(graph, POLICIES["helium"], setting, seconds, eviction=eviction)
        for eviction in ("plan", "lru")
    }
    assert runs["plan"].hit_rate >= runs["lru"].hit_rate
    assert runs["plan"].hit_rate > 0.4


@pytest.mark.parametrize("num_workers", [1, 2])
def test_under_pressure_helium_computes_less_than_every_baseline(num_workers):
    graph = debate(24 * num_workers)
    setting = DispatchSetting(
        num_workers=num_workers,
        page_size=8,
        kv_tokens=960,
        max_num_seqs=8,
        max_num_batched_tokens=256,
    )
    runs = {name: simulate(graph, make, setting, seconds) for name, make in POLICIES.items()}
    prefills = {name: run.work.prefill_tokens for name, run in runs.items()}
    rivals = set(POLICIES) - {"naive", "query_wise", "helium"}  # those two leave the store idle
    assert all(prefills["helium"] < prefills[name] for name in rivals), prefills
    makespans = {name: run.makespan_s for name, run in runs.items()}
    assert min(makespans, key=makespans.__getitem__) == "helium", makespans


def test_batches_share_steps():
    one = simulate(debate(1), POLICIES["naive"], ROOMY, seconds)
    many = simulate(debate(8), POLICIES["random"], ROOMY, seconds)
    assert many.makespan_s < 3 * one.makespan_s
    assert many.mean_batch > 4 * one.mean_batch


def test_calls_in_loops_repeat_one_after_another():
    node = CallNode(
        name="step",
        segments=(Segment(key="", num_tokens=10, is_static=False),),
        output_tokens=5,
        role="",
        repeats=3.0,
    )
    run = simulate(CallGraph(nodes=(node,), num_rows=2), POLICIES["helium"], ROOMY, seconds)
    for row in range(2):
        spans = [span for span in run.spans if span.row == row]
        assert len(spans) == 3
        assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(spans))


# --- the store ------------------------------------------------------------------------------


def test_unplanned_pages_go_first_then_the_latest_planned_use():
    store = SimulatedStore(6)
    for start, next_use in ((10, 5), (20, None), (30, 9)):
        lease = store.open((), 0, 2)
        store.publish(lease, (start, start + 1))
        store.close(lease, next_use)
    gone = []
    for _ in range(3):
        before = {key for key in (10, 11, 20, 21, 30, 31) if store.match((key,))}
        lease = store.open((), 0, 2 * (len(gone) // 2 + 1))
        gone += sorted(key for key in before if not store.match((key,)))
        store.close(lease, None)
    assert gone[:2] == [20, 21]
    assert gone[2:4] == [30, 31]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), eviction=st.sampled_from(["plan", "lru"]))
def test_pages_are_never_more_than_there_are(seed, eviction):
    draws = random.Random(seed)
    store = SimulatedStore(12, eviction=eviction)
    leases = []
    for _ in range(60):
        if leases and draws.random() < 0.5:
            lease = leases.pop(draws.randrange(len(leases)))
            store.close(lease, draws.choice([None, draws.randrange(9)]))
        else:
            branch = draws.randrange(3)
            keys = tuple(100 * branch + i for i in range(draws.randrange(1, 5)))
            matched = store.match(keys)
            private = len(keys) - matched
            if private + store.count_idle(keys[:matched]) > store.num_available:
                continue
            lease = store.open(keys, matched, private)
            store.publish(lease, keys)
            leases.append(lease)
            store.foresee(keys, draws.choice([None, 3]))
            assert store.match(keys) == len(keys)
        assert 0 <= store.num_available <= 12
    for lease in leases:
        store.close(lease, None)
    assert store.num_available == 12

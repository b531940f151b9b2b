"""Each policy keeps its invariant on random graphs, with branches, loops, failures, late calls."""

import dataclasses
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.schedule import CallGraph, CallNode, Segment
from helium_jax.schedule.dispatch import DispatchSetting, PrefixUse
from helium_jax.schedule.policies import POLICIES
from helium_jax.schedule.policies.agentscope import MAX_PER_ROLE
from tests.schedule.scripted import Script, call_graphs, prompt_of

SMALL = DispatchSetting(page_size=8, kv_tokens=2048, max_num_seqs=4, max_num_batched_tokens=64)
TWO = DispatchSetting(num_workers=2, page_size=8, kv_tokens=2048, max_num_seqs=2)
chances = st.sampled_from([0.0, 0.3])


def chain(num_ops: int, num_rows: int) -> CallGraph:
    """op0 -> op1 -> ..., each with a static prefix of its own and the row's question."""
    nodes = tuple(
        CallNode(
            name=f"op{i}",
            segments=(
                Segment(key=f"system{i}", num_tokens=32, is_static=True),
                Segment(key="question", num_tokens=16, is_static=False),
            ),
            needs=(f"op{i - 1}",) if i else (),
            output_tokens=10,
            role=f"role{i}",
        )
        for i in range(num_ops)
    )
    return CallGraph(nodes=nodes, num_rows=num_rows)


def fan(num_ops: int, num_rows: int, role: str = "") -> CallGraph:
    """Independent operators."""
    nodes = tuple(
        CallNode(
            name=f"op{i}",
            segments=(
                Segment(key=role or f"system{i}", num_tokens=32, is_static=True),
                Segment(key="question", num_tokens=16, is_static=False),
            ),
            output_tokens=10,
            role=role or f"role{i}",
        )
        for i in range(num_ops)
    )
    return CallGraph(nodes=nodes, num_rows=num_rows)


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=15, deadline=None)
@given(
    graph=call_graphs(),
    seed=st.integers(0, 99),
    branches=chances,
    loops=chances,
    failures=chances,
    room=st.sampled_from([1, 3, 10_000]),
    num_workers=st.integers(1, 3),
    strict=st.booleans(),
)
def test_every_call_is_released_exactly_once_and_nothing_deadlocks(
    name, graph, seed, branches, loops, failures, room, num_workers, strict
):
    setting = DispatchSetting(
        num_workers=num_workers, page_size=8, kv_tokens=512, max_num_seqs=2, strict=strict
    )
    script = Script(
        graph,
        POLICIES[name](graph, setting),
        seed=seed,
        branches=branches,
        loops=loops,
        failures=failures,
        room=room,
    )
    trace = script.run()
    assert Counter(c.call_id for c in trace.released) == Counter([*script.calls])
    assert {r.worker for r in trace.releases} <= {None, *range(num_workers)}


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=5, deadline=None)
@given(graph=call_graphs(), seed=st.integers(0, 99))
def test_equal_events_give_equal_releases(name, graph, seed):
    runs = [Script(graph, POLICIES[name](graph, TWO), seed=seed, branches=0.2).run() for _ in "ab"]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", POLICIES)
def test_calls_of_operators_rows_and_frames_beyond_the_graph_are_released(name):
    graph, other = fan(1, 1), fan(3, 5)
    script = Script(other, POLICIES[name](graph, SMALL), loops=0.5)
    assert len(script.run().released) == len(script.calls) > 15


@pytest.mark.parametrize("name", POLICIES)
def test_a_call_that_came_back_is_released_again(name):
    for setting in (TWO, dataclasses.replace(TWO, strict=True)):
        graph = fan(1, 1)
        dispatcher = POLICIES[name](graph, setting)
        script = Script(graph, dispatcher)
        script.arrive_all()
        (first,) = dispatcher.release(10)
        if first.worker is not None:
            dispatcher.lost(first.worker)
        dispatcher.finished(first.call_id, 3)
        dispatcher.ready(script.calls[first.call_id])
        (second,) = dispatcher.release(10)
        assert second.call_id == first.call_id
        assert first.worker is None or second.worker != first.worker


@settings(max_examples=15, deadline=None)
@given(graph=call_graphs(), seed=st.integers(0, 99), loops=chances)
def test_5_12_naive_never_has_over_one_in_flight(graph, seed, loops):
    trace = Script(graph, POLICIES["naive"](graph, SMALL), seed=seed, loops=loops).run()
    assert max(map(len, trace.in_flight)) == 1
    rows = [call.row for call in trace.released]
    assert rows == sorted(rows)


@settings(max_examples=15, deadline=None)
@given(graph=call_graphs(), seed=st.integers(0, 99), loops=chances)
def test_5_12_query_wise_has_one_row_in_flight(graph, seed, loops):
    trace = Script(graph, POLICIES["query_wise"](graph, SMALL), seed=seed, loops=loops).run()
    assert all(len({call.row for call in calls}) == 1 for calls in trace.in_flight)


def test_5_12_query_wise_releases_a_rows_ready_operators_together():
    graph = fan(3, 2)
    trace = Script(graph, POLICIES["query_wise"](graph, SMALL)).run()
    assert max(map(len, trace.in_flight)) == 3


@settings(max_examples=15, deadline=None)
@given(graph=call_graphs(), seed=st.integers(0, 99), branches=chances, loops=chances)
def test_5_12_barriers_let_no_two_operators_overlap(graph, seed, branches, loops):
    script = Script(
        graph, POLICIES["op_wise"](graph, SMALL), seed=seed, branches=branches, loops=loops
    )
    trace = script.run()
    assert all(len({(c.operator, c.frame) for c in calls}) == 1 for calls in trace.in_flight)
    if not loops:  # one wave per operator, in topological order
        waves = [name for name, _ in itertools.groupby(call.operator for call in trace.released)]
        assert waves == [n.name for n in graph.nodes if n.name in waves]


@settings(max_examples=15, deadline=None)
@given(graph=call_graphs(), seed=st.integers(0, 99), loops=chances)
def test_5_12_serial_rows_have_one_operator_each_in_flight(graph, seed, loops):
    trace = Script(graph, POLICIES["op_wise_serial"](graph, SMALL), seed=seed, loops=loops).run()
    for calls in trace.in_flight:
        assert max(Counter(call.row for call in calls).values()) == 1
    for row in range(graph.num_rows if not loops else 0):
        walked = [call.operator for call in trace.released if call.row == row]
        assert walked == [node.name for node in graph.nodes]


def test_5_12_serial_rows_run_all_at_once():
    graph = fan(2, 6)
    dispatcher = POLICIES["op_wise_serial"](graph, SMALL)
    script = Script(graph, dispatcher)
    script.arrive_all()
    first = [script.calls[release.call_id] for release in dispatcher.release(100)]
    assert sorted((c.operator, c.row) for c in first) == [("op0", row) for row in range(6)]


@settings(max_examples=15, deadline=None)
@given(graph=call_graphs(), seed=st.integers(0, 99), room=st.sampled_from([1, 2, 100]))
def test_5_12_langgraph_rows_go_in_supersteps(graph, seed, room):
    script = Script(graph, POLICIES["langgraph"](graph, SMALL), seed=seed, room=room)
    trace = script.run()
    step_of: dict[str, int] = {}
    for node in graph.nodes:
        step_of[node.name] = 1 + max((step_of[need] for need in node.needs), default=-1)
    for calls in trace.in_flight:
        for row in {call.row for call in calls}:
            assert len({step_of[call.operator] for call in calls if call.row == row}) == 1


def test_5_12_random_releases_whatever_is_ready_at_once_in_any_order():
    graph = fan(4, 8)
    orders = set()
    for other in range(3):
        dispatcher = POLICIES["random"](graph, DispatchSetting(seed=other))
        script = Script(graph, dispatcher)
        script.arrive_all()
        orders.add(tuple(release.call_id for release in dispatcher.release(100)))
    assert len(orders) == 3
    assert {len(order) for order in orders} == {32}


def test_5_12_agentscope_keeps_its_cap_per_role():
    for graph, cap in ((fan(3, 20, role="analyst"), 32), (fan(3, 40), 3 * 32)):
        dispatcher = POLICIES["agentscope"](graph, SMALL)
        script = Script(graph, dispatcher)
        script.arrive_all()
        released = [release.call_id for release in dispatcher.release(1000)]
        assert len(released) == cap
        assert dispatcher.release(1000) == []
        dispatcher.finished(released[0], 5)
        assert len(dispatcher.release(1000)) == 1


@settings(max_examples=15, deadline=None)
@given(graph=call_graphs(max_rows=12), seed=st.integers(0, 99), loops=chances)
def test_5_12_agentscope_never_has_more_of_a_role_in_flight(graph, seed, loops):
    trace = Script(graph, POLICIES["agentscope"](graph, SMALL), seed=seed, loops=loops).run()
    roles = {node.name: node.role for node in graph.nodes}
    for calls in trace.in_flight:
        assert max(Counter(roles[call.operator] for call in calls).values()) <= MAX_PER_ROLE


def test_5_12_parrot_follows_the_longest_cached_prefix_whatever_the_load():
    graph = fan(2, 12)
    trace = Script(graph, POLICIES["parrot"](graph, TWO)).run()
    workers = {
        name: {
            r.worker
            for r, c in zip(trace.releases, trace.released, strict=True)
            if c.operator == name
        }
        for name in ("op0", "op1")
    }
    assert all(len(found) == 1 for found in workers.values())


def test_5_12_kvflow_goes_round_and_counts_steps_to_execution():
    graph = chain(3, 2)
    script = Script(graph, POLICIES["kvflow"](graph, TWO))
    trace = script.run()
    assert script.dispatcher.warms
    assert [release.worker for release in trace.releases] == [0, 1, 0, 1, 0, 1]
    prefixes = [prompt_of(graph, node, 0)[:32] for node in graph.nodes]
    last = {use.token_ids: use.next_use for use in trace.uses}
    assert set(last) == set(prefixes)
    assert all(next_use is None for next_use in last.values()), "a run that is over needs nothing"
    assert {u.next_use for u in trace.uses if u.token_ids == prefixes[0]} >= {0, None}


def test_5_12_lspf_asks_the_engine_for_the_longest_cached_prefix():
    graph = fan(2, 3)
    trace = Script(graph, POLICIES["lspf"](graph, SMALL)).run()
    assert all(release.prefer_cached and release.worker is None for release in trace.releases)


def test_policies_without_a_plan_say_nothing_to_the_kv_store():
    graph = chain(3, 2)
    for name in set(POLICIES) - {"kvflow", "helium"}:
        trace = Script(graph, POLICIES[name](graph, SMALL)).run()
        assert trace.uses == []
        assert all(release.planned_next_use is None for release in trace.releases)


# --- helium ---------------------------------------------------------------------------------


def test_helium_releases_the_calls_of_a_prefix_group_together():
    graph = fan(3, 2)
    dispatcher = POLICIES["helium"](graph, DispatchSetting())
    script = Script(graph, dispatcher, seed=3)
    script.arrive_all()
    order = [script.calls[release.call_id] for release in dispatcher.release(100)]
    assert [(c.operator, c.row) for c in order] == [
        (f"op{op}", row) for op in range(3) for row in range(2)
    ]


def test_helium_goes_row_by_row_inside_a_prefix_group():
    graph = fan(2, 3, role="analyst")
    dispatcher = POLICIES["helium"](graph, DispatchSetting())
    script = Script(graph, dispatcher, seed=3)
    script.arrive_all()
    order = [script.calls[release.call_id] for release in dispatcher.release(100)]
    assert [(c.row, c.operator) for c in order] == [
        (row, f"op{op}") for row in range(3) for op in range(2)
    ]


def test_5_8_best_effort_passes_a_stalled_row_and_strict_order_waits_for_it():
    graph = chain(2, 4)
    stalled = frozenset({("op0", 1)})
    finished = {}
    for strict in (False, True):
        setting = DispatchSetting(strict=strict)
        script = Script(graph, POLICIES["helium"](graph, setting), stalled=stalled)
        order = [(c.operator, c.row) for c in script.run().finished]
        finished[strict] = set(order[: order.index(("op0", 1))])
    assert {("op1", 0), ("op1", 2), ("op1", 3)} == {c for c in finished[False] if c[0] == "op1"}
    assert {("op1", 2), ("op1", 3)}.isdisjoint(finished[True])


@pytest.mark.parametrize("name", ["helium", "langgraph", "op_wise_serial", "random", "lspf"])
def test_5_9_a_row_enters_its_third_operator_before_the_last_row_leaves_its_first(name):
    graph = chain(3, 24)
    setting = DispatchSetting(page_size=8, max_num_seqs=4)
    trace = Script(graph, POLICIES[name](graph, setting), seed=1, room=4).run()
    third = next(i for i, c in enumerate(trace.released) if c.operator == "op2")
    last_first = max(i for i, c in enumerate(trace.released) if c.operator == "op0")
    assert third < last_first


def test_planned_uses_end_when_the_last_consumer_is_done():
    question = Segment(key="question", num_tokens=40, is_static=False)
    system = Segment(key="system", num_tokens=32, is_static=True)
    graph = CallGraph(
        nodes=(
            CallNode(name="draft", segments=(system, question), output_tokens=8, role="r"),
            CallNode(
                name="review",
                segments=(system, question, Segment(key="draft", num_tokens=8, is_static=False)),
                needs=("draft",),
                output_tokens=8,
                role="r",
            ),
        ),
        num_rows=2,
    )
    trace = Script(graph, POLICIES["helium"](graph, SMALL), seed=5).run()
    told = {
        c.operator: r.planned_next_use for r, c in zip(trace.releases, trace.released, strict=True)
    }
    assert told["draft"] is not None
    assert told["review"] is None
    system_ids = prompt_of(graph, graph.nodes[0], 0)[:32]
    assert [use for use in trace.uses if use.token_ids == system_ids][-1] == PrefixUse(
        token_ids=system_ids, next_use=None
    )


def test_rows_that_need_their_pages_sooner_have_the_smaller_next_use():
    question = Segment(key="question", num_tokens=40, is_static=False)
    graph = CallGraph(
        nodes=(
            CallNode(name="a", segments=(question,), output_tokens=8, role=""),
            CallNode(name="b", segments=(question,), needs=("a",), output_tokens=8, role=""),
        ),
        num_rows=4,
    )
    dispatcher = POLICIES["helium"](graph, SMALL)
    script = Script(graph, dispatcher)
    script.arrive_all()
    uses = [release.planned_next_use for release in dispatcher.release(100)]
    assert None not in uses
    assert uses == sorted(uses)


def test_an_idle_worker_takes_calls_of_a_busy_ones_prefix_group():
    graph = fan(1, 12)
    trace = Script(graph, POLICIES["helium"](graph, TWO)).run()
    assert {release.worker for release in trace.releases} == {0, 1}


def test_groups_stay_whole_while_all_workers_are_busy():
    graph = fan(2, 8)
    setting = DispatchSetting(num_workers=2, page_size=8, kv_tokens=2048, max_num_seqs=8)
    dispatcher = POLICIES["helium"](graph, setting)
    script = Script(graph, dispatcher)
    script.arrive_all()
    workers = {"op0": set(), "op1": set()}
    for release in dispatcher.release(100):
        workers[script.calls[release.call_id].operator].add(release.worker)
    assert sorted(map(sorted, workers.values())) == [[0], [1]]


def test_nothing_is_placed_on_a_lost_worker():
    graph = fan(2, 8)
    for name in ("parrot", "kvflow", "helium"):
        dispatcher = POLICIES[name](graph, TWO)
        script = Script(graph, dispatcher)
        dispatcher.lost(0)
        trace = script.run()
        assert {release.worker for release in trace.releases} <= {None, 1}


def test_helium_holds_back_what_a_worker_has_no_pages_for():
    graph = fan(1, 20)
    setting = DispatchSetting(page_size=8, kv_tokens=200, max_num_seqs=20)
    trace = Script(graph, POLICIES["helium"](graph, setting)).run()
    assert 2 <= max(map(len, trace.in_flight)) < 10


def test_5_13_wrong_estimates_are_corrected_while_the_run_goes_on():
    graph = fan(1, 120)  # answers of 10 tokens, it says
    setting = DispatchSetting(page_size=8, kv_tokens=1500, max_num_seqs=100)
    dispatcher = POLICIES["helium"](graph, setting)
    script = Script(graph, dispatcher)
    script.arrive_all()
    flying = [release.call_id for release in dispatcher.release(1000)]
    assert len(flying) > 40  # 16 tokens of its own and an answer each
    for _ in range(60):
        dispatcher.finished(flying.pop(0), 200)
        flying += [release.call_id for release in dispatcher.release(1000)]
    assert len(flying) < 30  # 216 each at the end, not all at once


def test_calls_that_read_the_same_pages_hold_them_once():
    nodes = tuple(
        CallNode(
            name=f"op{i}",
            segments=(
                Segment(key="system", num_tokens=160, is_static=True),
                Segment(key="question", num_tokens=16, is_static=False),
            ),
            output_tokens=8,
            role=f"op{i}",
        )
        for i in range(4)
    )
    graph = CallGraph(nodes=nodes, num_rows=10)
    setting = DispatchSetting(page_size=8, kv_tokens=480, max_num_seqs=40)
    trace = Script(graph, POLICIES["helium"](graph, setting)).run()
    assert 8 <= max(map(len, trace.in_flight)) <= 30  # 160 tokens once, and at most 24 each


def test_later_rows_leave_pages_to_calls_that_will_read_them():
    system = Segment(key="system", num_tokens=8, is_static=True)
    context = Segment(key="context", num_tokens=160, is_static=False)
    said = Segment(key="first", num_tokens=8, is_static=False)
    nodes = (
        CallNode(name="first", segments=(system, context), output_tokens=8, role="a"),
        CallNode(
            name="second",
            segments=(system, context, said),
            needs=("first",),
            output_tokens=8,
            role="a",
        ),
    )
    graph = CallGraph(nodes=nodes, num_rows=12)
    setting = DispatchSetting(page_size=8, kv_tokens=800, max_num_seqs=12)
    dispatcher = POLICIES["helium"](graph, setting)
    script = Script(graph, dispatcher)
    script.arrive_all()
    flying = [release.call_id for release in dispatcher.release(100)]
    before = len(flying)
    for call_id in flying:  # their second calls are on their way
        dispatcher.finished(call_id, 8)
    assert 1 <= len(dispatcher.release(100)) < before

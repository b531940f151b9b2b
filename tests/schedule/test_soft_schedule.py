"""The soft schedule: complete, in the order of needs, stable, cheap, and close to the best."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.schedule import CallGraph
from helium_jax.schedule.soft_schedule import PlanningEffort, plan_schedule, reschedule
from helium_jax.schedule.token_step import TokenSteps
from tests.schedule.instances import call, figure_4, graphs, map_reduce, slot, static

NO_REFINING = PlanningEffort(refined_calls=0)


def orders_of(schedule, num_workers):
    return [list(schedule.order(worker)) for worker in range(num_workers)]


@settings(deadline=None, max_examples=40)
@given(graphs(), st.integers(1, 3), st.booleans())
def test_5_6_every_call_is_there_once_and_none_waits_for_a_later_one(graph, num_workers, refines):
    effort = PlanningEffort() if refines else NO_REFINING
    schedule = plan_schedule(graph, [1000.0] * num_workers, effort=effort)
    everything = {(node.name, row) for node in graph.nodes for row in range(graph.num_rows)}
    orders = orders_of(schedule, num_workers)
    calls = [call for order in orders for call in order]
    assert len(calls) == len(everything)
    assert set(calls) == everything
    ranks = {call: schedule.rank(*call) for call in calls}
    assert sorted(ranks.values()) == list(range(len(calls)))
    for name, row in calls:
        assert all(ranks[need, row] < ranks[name, row] for need in graph.by_name[name].needs)
    for worker, order in enumerate(orders):
        assert sorted(order, key=lambda call: ranks[call]) == order
        assert {schedule.worker(*call) for call in order} <= {worker}
        on_worker = {name for inner in schedule.sequences_on(worker) for name in inner}
        assert {name for name, _ in order} == on_worker
    # That the orders do not wait for each other, evaluate() finds out.
    steps = TokenSteps(graph=graph, capacities=(1000.0,) * num_workers)
    place, rows = graph.place, graph.num_rows
    numbers = [[place[name] * rows + row for name, row in order] for order in orders]
    assert steps.evaluate(numbers).makespan == pytest.approx(schedule.makespan)


@settings(deadline=None, max_examples=40)
@given(graphs(), st.integers(1, 3))
def test_5_6_equal_graphs_get_equal_schedules_whatever_the_names(graph, num_workers):
    capacities = [1000.0] * num_workers
    assert plan_schedule(graph, capacities) == plan_schedule(graph, capacities)
    renamed = CallGraph(
        nodes=tuple(
            call(
                hash_free(node.name),
                *node.segments,
                needs=[hash_free(need) for need in node.needs],
                output_tokens=node.output_tokens,
                role=node.role,
            )
            for node in graph.nodes
        ),
        num_rows=graph.num_rows,
        values=graph.values,
    )
    assert orders_of(plan_schedule(renamed, capacities), num_workers) == [
        [(hash_free(name), row) for name, row in order]
        for order in orders_of(plan_schedule(graph, capacities), num_workers)
    ]


def hash_free(name):
    """Another name that sorts the other way round."""
    return "".join(chr(ord("z") - ord(letter) % 26) for letter in name)


@pytest.mark.parametrize(("rows", "makespan"), [(1, 27.83), (2, 32.05), (3, 35.47)])
def test_5_6_figure_4_is_scheduled_in_the_best_way(rows, makespan):
    schedule = plan_schedule(figure_4(rows), [1000.0], effort=NO_REFINING)
    assert schedule.makespan == pytest.approx(makespan, abs=1e-9)


@pytest.mark.parametrize(("rows", "makespan"), [(1, 42.24), (2, 51.65), (4, 79.96), (8, 156.92)])
def test_a_map_reduce_keeps_the_experts_of_a_row_together(rows, makespan):
    schedule = plan_schedule(map_reduce(rows), [1000.0], effort=NO_REFINING)
    assert schedule.sequences == (("e0", "e1", "e2"), ("red",))
    assert schedule.makespan == pytest.approx(makespan, abs=1e-9)


def test_a_schedule_shows_its_sequences_or_its_calls():
    assert plan_schedule(map_reduce(8), [1000.0], effort=NO_REFINING).text() == (
        "predicted: 156.92 token steps\nworker 0, every line row by row:\n  e0, e1, e2\n  red"
    )
    assert plan_schedule(map_reduce(1), [1000.0], effort=NO_REFINING).refined is None
    # Of experts without a common beginning no nested sequences are as good as the best order.
    q = slot("q", 115)
    experts = [call(name, static(name, 50), q, output_tokens=290) for name in "abc"]
    last = call("last", static("d", 60), q, slot("all", 870), needs="abc", output_tokens=170)
    schedule = plan_schedule(CallGraph(nodes=(*experts, last), num_rows=4), [8192.0])
    _, head, calls = schedule.text().splitlines()
    assert head == "worker 0, call by call:"
    assert sorted(calls.split()) == sorted(
        f"{name}[{row}]" for name in [*"abc", "last"] for row in range(4)
    )


def test_an_inner_sequence_holds_an_operator_and_what_needs_it_where_that_is_better():
    nodes = (
        call("draft", static("R", 10), slot("q", 900), output_tokens=1),
        call("final", static("R", 10), slot("q", 900), needs=["draft"], output_tokens=1),
    )
    graph = CallGraph(nodes=nodes, num_rows=12)
    schedule = plan_schedule(graph, [10.0], effort=NO_REFINING)
    assert schedule.sequences == (("draft", "final"),)


def trading_size():
    """176 operators in stages, with shared roles and columns, over 100 rows."""
    nodes = []
    for index in range(176):
        stage, role = divmod(index, 16)
        before = (
            [f"op{(stage - 1) * 16 + i}" for i in range(16) if i % 4 == role % 4] if stage else []
        )
        segments = [static(f"role{role % 8}", 300), slot("stock", 500), static(f"task{index}", 40)]
        segments += [slot(name, 400) for name in before]
        nodes.append(call(f"op{index}", *segments, needs=before, output_tokens=400))
    return CallGraph(nodes=tuple(nodes), num_rows=100)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_5_6_planning_176_operators_is_bounded_in_steps_not_in_rows(num_workers):
    effort = PlanningEffort()
    schedule = plan_schedule(trading_size(), [65_536.0] * num_workers)
    assert len({call for worker in range(num_workers) for call in schedule.order(worker)}) == 17_600
    one_plan = 176 * effort.sampled_rows * num_workers
    assert schedule.num_evaluated <= effort.evaluated_calls + one_plan


def test_a_group_of_rows_with_equal_values_stays_together():
    nodes = (call("a", static("s", 5), slot("context", 500, "context"), slot("q", 10)),)
    values = {"context": (0, 1, 0, 1, 0, 1)}
    graph = CallGraph(nodes=nodes, num_rows=6, values=values)
    schedule = plan_schedule(graph, [1000.0], effort=NO_REFINING)
    assert [row for _, row in schedule.order(0)] == [0, 2, 4, 1, 3, 5]
    orders = orders_of(plan_schedule(graph, [1000.0] * 2, effort=NO_REFINING), 2)
    assert {frozenset(row for _, row in order) for order in orders} == {
        frozenset({0, 2, 4}),
        frozenset({1, 3, 5}),
    }


def test_prefix_groups_go_to_workers_of_their_own_where_that_is_better():
    nodes = tuple(
        call(f"{role}{i}", static(role, 5000), slot(f"q{i}", 5), output_tokens=5)
        for role in "ab"
        for i in range(2)
    )
    schedule = plan_schedule(CallGraph(nodes=nodes, num_rows=1), [1000.0] * 2)
    assert [{name[0] for name, _ in order} for order in orders_of(schedule, 2)] in (
        [{"a"}, {"b"}],
        [{"b"}, {"a"}],
    )


@settings(deadline=None, max_examples=40)
@given(graphs(), st.data())
def test_planning_again_leaves_out_what_is_done_and_takes_over_what_was_observed(graph, data):
    rows = graph.num_rows
    everything = [(node.name, row) for node in graph.nodes for row in range(rows)]
    first = plan_schedule(graph, [1000.0])
    num_done = data.draw(st.integers(0, len(everything)))
    done = list(first.order(0))[:num_done]
    observed = {graph.nodes[0].name: data.draw(st.floats(1.0, 200.0))}
    second = reschedule(graph, [1000.0], done=done, observed=observed)
    assert set(second.order(0)) - set(done) == set(everything) - set(done)
    left = [call for call in second.order(0) if call not in done]
    nodes = [replace(n, output_tokens=observed.get(n.name, n.output_tokens)) for n in graph.nodes]
    place = graph.place
    over = frozenset(place[name] * rows + row for name, row in done)
    steps = TokenSteps(graph=replace(graph, nodes=tuple(nodes)), capacities=(1000.0,), done=over)
    order = [place[name] * rows + row for name, row in left]
    assert steps.evaluate([order]).makespan == pytest.approx(second.makespan)
    if not done and observed[graph.nodes[0].name] == graph.nodes[0].output_tokens:
        assert second == first


def test_answers_that_turn_out_long_change_the_plan():
    nodes = (
        call("a", static("a", 10), output_tokens=50),
        call("b", static("b", 10), output_tokens=50),
        call("c", static("c", 10), slot("a", 50), needs=["a"], output_tokens=10),
        call("d", static("d", 10), slot("b", 50), needs=["b"], output_tokens=10),
    )
    graph = CallGraph(nodes=nodes, num_rows=1)
    for name in "ab":
        other = {"a": "b", "b": "a"}[name]
        schedule = reschedule(graph, [1000.0], done=(), observed={name: 400.0, other: 5.0})
        # The long one is begun first, so that the others run while its user waits.
        assert next(schedule.order(0)) == (name, 0)


def test_operators_that_the_graph_does_not_have_are_wanted_at_once():
    schedule = plan_schedule(figure_4(1), [1000.0])
    assert schedule.rank("unknown", 0) == -1
    assert schedule.worker("unknown", 0) is None


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_batch_without_rows_or_calls_has_an_empty_schedule(num_workers):
    for graph in (CallGraph(nodes=(), num_rows=3), replace(figure_4(1), num_rows=0)):
        schedule = plan_schedule(graph, [1000.0] * num_workers)
        assert orders_of(schedule, num_workers) == [[]] * num_workers
        assert schedule.makespan == 0.0

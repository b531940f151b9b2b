"""The paper's cost model against numbers worked out by hand and by brute force."""

import pytest
from hypothesis import given

from helium_jax.schedule import CallGraph
from helium_jax.schedule.token_step import TokenSteps
from tests.schedule.instances import call, figure_4, graphs, map_reduce, slot, static


def model(graph):
    return TokenSteps(graph=graph, capacities=(1000.0,))


def by_operator(graph, names):
    rows = graph.num_rows
    return [graph.place[name] * rows + row for name in names for row in range(rows)]


def by_row(graph, groups):
    """Every group row by row, one group after the other."""
    rows = graph.num_rows
    return [
        graph.place[name] * rows + row for group in groups for row in range(rows) for name in group
    ]


def makespan(graph, order):
    return model(graph).evaluate([order]).makespan


def test_5_6_usage_of_figure_4_counts_only_tokens_the_call_before_did_not_have():
    steps = model(figure_4(1))
    assert steps.usage(0, None, 0) == pytest.approx(3.21, abs=1e-9)
    assert steps.usage(0, None, 1) == pytest.approx(3.21, abs=1e-9)
    assert steps.usage(0, None, 2) == pytest.approx(4.21, abs=1e-9)
    assert steps.usage(0, 1, 2) == pytest.approx(1.41, abs=1e-9)
    assert steps.usage(0, 0, 2) == pytest.approx(4.21, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "op_wise", "two_first", "query_wise", "nested"),
    [
        (1, 27.83, 30.63, 27.83, 27.83),
        (2, 32.05, 34.05, 55.66, 51.66),
        (3, 35.47, 37.47, 83.49, 75.49),
    ],
)
def test_5_6_golden_numbers_of_figure_4(rows, op_wise, two_first, query_wise, nested):
    graph = figure_4(rows)
    assert makespan(graph, by_operator(graph, "123")) == pytest.approx(op_wise, abs=1e-9)
    assert makespan(graph, by_operator(graph, "213")) == pytest.approx(two_first, abs=1e-9)
    assert makespan(graph, by_row(graph, ["123"])) == pytest.approx(query_wise, abs=1e-9)
    assert makespan(graph, by_row(graph, ["1", "23"])) == pytest.approx(nested, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "query_wise", "op_wise", "nested"),
    [
        (1, 42.24, 42.24, 42.24),
        (2, 84.48, 84.87, 51.65),
        (4, 168.96, 143.96, 79.96),
        (8, 337.92, 284.92, 156.92),
    ],
)
def test_5_6_golden_numbers_of_a_map_reduce(rows, query_wise, op_wise, nested):
    graph = map_reduce(rows)
    names = ["e0", "e1", "e2", "red"]
    assert makespan(graph, by_row(graph, [names])) == pytest.approx(query_wise, abs=1e-9)
    assert makespan(graph, by_operator(graph, names)) == pytest.approx(op_wise, abs=1e-9)
    assert makespan(graph, by_row(graph, [names[:3], names[3:]])) == pytest.approx(nested, abs=1e-9)


@given(graphs())
def test_5_6_times_scale_with_the_papers_a_so_that_no_order_gains_on_another(graph):
    order = range(model(graph).num_calls)
    one = model(graph).evaluate([order])
    ten = TokenSteps(graph=graph, capacities=(1000.0,), scale=10.0).evaluate([order])
    assert ten.makespan == pytest.approx(10 * one.makespan)
    assert ten.prefill_tokens == one.prefill_tokens


def test_rows_with_the_same_value_share_its_segment():
    nodes = (call("a", static("s", 100), slot("c", 50, "c"), slot("q", 7)),)
    graph = CallGraph(nodes=nodes, num_rows=3, values={"c": (0, 0, 1)})
    steps = model(graph)
    assert (steps.shared(0, 1), steps.shared(1, 2)) == (150, 100)
    assert steps.evaluate([[0, 1, 2]]).prefill_tokens == 157 + 7 + 57


def test_segments_without_a_key_are_never_shared():
    nodes = (call("a", static("", 100), role="r"), call("b", static("", 100), role="r"))
    assert model(CallGraph(nodes=nodes, num_rows=1)).shared(0, 1) == 0


def test_every_worker_has_a_clock_and_a_capacity_of_its_own():
    graph = figure_4(1)
    steps = TokenSteps(graph=graph, capacities=(1000.0, 500.0))
    timeline = steps.evaluate([[0], [1, 2]])
    assert timeline.starts == pytest.approx((0.0, 0.0, 26.42))
    assert timeline.ends == pytest.approx((3.21, 6.42, 29.24))
    assert timeline.prefill_tokens == 150 + 150 + 60


def test_a_call_that_repeats_costs_and_delays_as_often():
    nodes = (
        call("a", static("s", 100), repeats=3.0),
        call("b", static("t", 100), needs=("a",)),
    )
    timeline = model(CallGraph(nodes=nodes, num_rows=1)).evaluate([[0, 1]])
    assert timeline.starts[1] == pytest.approx(3 * 2.21 + 60)


def test_orders_that_are_no_orders_are_refused():
    steps = TokenSteps(graph=figure_4(1), capacities=(1000.0, 1000.0))
    with pytest.raises(ValueError, match="not each of 3 calls once"):
        steps.evaluate([[0], [1]])
    with pytest.raises(ValueError, match=r"calls that \[2\] wait for"):
        steps.evaluate([[0, 2, 1], []])

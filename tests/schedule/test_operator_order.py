"""The walk over the prefix tree, nested sequences, their neighbours, and placements."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.schedule import CallGraph
from helium_jax.schedule.neighbours import neighbours
from helium_jax.schedule.operator_order import nest, order_operators
from helium_jax.schedule.placement import group_rows, placements, workers_of
from helium_jax.schedule.token_step import TokenSteps
from tests.schedule.instances import call, figure_4, graphs, slot, static


def model(graph, num_workers=1, capacity=1000.0):
    return TokenSteps(graph=graph, capacities=(capacity,) * num_workers)


def walk(graph):
    return order_operators(model(graph), [(0,)] * len(graph.nodes))


def is_possible(graph, order):
    place = {name: index for index, name in enumerate(order)}
    assert len(order) == len(place) == len(graph.nodes)
    return all(place[need] < place[node.name] for node in graph.nodes for need in node.needs)


def test_figure_4_is_walked_in_the_papers_order():
    assert walk(figure_4(2)) == ["1", "2", "3"]


def test_the_subtree_with_the_longest_way_behind_it_comes_first():
    nodes = (
        call("short", static("A", 100), output_tokens=5),
        call("long", static("B", 100), output_tokens=5),
        call("sibling", static("B", 100), slot("q", 5), output_tokens=5),
        call("after", static("C", 100), needs=["long"], output_tokens=50),
    )
    # The sibling shares its text with the first and comes before what shares nothing.
    assert walk(CallGraph(nodes=nodes, num_rows=1))[:3] == ["long", "sibling", "short"]


def test_when_nothing_can_start_the_operator_that_can_start_first_is_forced():
    nodes = (
        call("a", static("A", 10), output_tokens=100),
        call("b", static("B", 10), output_tokens=10),
        call("after-a", static("C", 10), needs=["a"], output_tokens=1),
        call("after-b", static("D", 10), needs=["b"], output_tokens=1),
    )
    assert walk(CallGraph(nodes=nodes, num_rows=1)) == ["a", "b", "after-b", "after-a"]


@settings(deadline=None, max_examples=50)
@given(graphs(max_operators=6, max_calls=24), st.integers(1, 3))
def test_walks_and_nested_sequences_hold_every_operator_after_those_it_needs(graph, num_workers):
    steps = model(graph, num_workers)
    for placement in placements(steps):
        order = order_operators(steps, workers_of(placement))
        assert is_possible(graph, order)
        for with_dependents in (False, True):
            nested = nest(graph, order, with_dependents=with_dependents)
            assert [name for inner in nested for name in inner] == order
            for inner in nested:
                assert len({graph.by_name[name].segments[0].key for name in inner}) == 1
                needs = {need for name in inner for need in graph.by_name[name].needs}
                assert with_dependents or not needs & set(inner)
            for other in neighbours(nested, graph):
                assert all(other)
                assert is_possible(graph, [name for inner in other for name in inner])


def test_neighbours_join_split_exchange_and_move():
    graph = CallGraph(nodes=tuple(call(name) for name in "abc"), num_rows=1)
    found = set(neighbours((("a", "b"), ("c",)), graph))
    assert {
        (("a", "b", "c"),),
        (("a",), ("b",), ("c",)),
        (("c",), ("a", "b")),
        (("b", "a"), ("c",)),
        (("b",), ("c", "a")),
        (("b",), ("c",), ("a",)),
    } <= found


@settings(deadline=None, max_examples=50)
@given(graphs(max_operators=5, max_calls=20), st.integers(1, 3))
def test_every_call_has_a_worker(graph, num_workers):
    steps = model(graph, num_workers)
    for placement in placements(steps):
        assert len(placement) == len(graph.nodes)
        for workers in placement:
            assert len(workers) == graph.num_rows
            assert set(workers) <= set(range(num_workers))


def test_rows_are_split_by_value_and_in_proportion_to_capacities():
    nodes = (call("a", static("s", 5), slot("c", 500, "c")),)
    values = {"c": (0, 1, 0, 1, 0, 1, 1, 1)}
    graph = CallGraph(nodes=nodes, num_rows=8, values=values)
    assert group_rows(model(graph)) == [0, 2, 4, 1, 3, 5, 6, 7]
    by_rows = placements(TokenSteps(graph=graph, capacities=(300.0, 500.0)))[0]
    assert by_rows == ((0, 1, 0, 1, 0, 1, 1, 1),)


@pytest.mark.parametrize(("heavy", "shares"), [(1, [{0}, {1}]), (9, [{0, 1}, {0}])])
def test_light_prefix_groups_stay_whole_and_heavy_ones_are_on_all_workers(heavy, shares):
    nodes = (
        call("a", static("A", 500 * heavy), slot("q", 1)),
        call("b", static("B", 500), slot("q", 1)),
    )
    found = [
        [set(workers) for workers in placement]
        for placement in placements(model(CallGraph(nodes=nodes, num_rows=4), 2))
    ]
    assert [{0, 1}, {0, 1}] in found
    assert [{0}, {1}] in found
    assert shares in found

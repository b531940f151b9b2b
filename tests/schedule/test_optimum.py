"""Two searches for the best order, against all orders and against each other."""

import itertools

import pytest
from hypothesis import given, settings

from helium_jax.schedule import CallGraph
from helium_jax.schedule.optimum import find_optimum
from helium_jax.schedule.optimum_milp import find_optimum_milp
from helium_jax.schedule.token_step import TokenSteps
from tests.schedule.instances import figure_4, graphs


def model(graph):
    return TokenSteps(graph=graph, capacities=(1000.0,))


def brute_force(steps):
    best = float("inf")
    for order in itertools.permutations(steps.calls):
        place = {call: index for index, call in enumerate(order)}
        if all(place[need] < place[call] for call in order for need in steps.needs[call]):
            best = min(best, steps.evaluate([order]).makespan)
    return best


@pytest.mark.parametrize(("rows", "makespan"), [(1, 27.83), (2, 32.05), (3, 35.47)])
def test_5_6_the_optimum_of_figure_4(rows, makespan):
    steps = model(figure_4(rows))
    found = find_optimum(steps)
    assert found.makespan == pytest.approx(makespan, abs=1e-9)
    assert steps.evaluate([found.order]).makespan == pytest.approx(makespan, abs=1e-9)
    assert found.is_proved


@settings(max_examples=40, deadline=None)
@given(graphs(max_calls=6))
def test_the_search_finds_what_trying_all_orders_finds(graph):
    steps = model(graph)
    found = find_optimum(steps)
    assert found.is_proved
    assert found.makespan == pytest.approx(brute_force(steps), abs=1e-9)
    assert steps.evaluate([found.order]).makespan == pytest.approx(found.makespan, abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(graphs(max_calls=7))
def test_the_program_finds_what_the_search_finds(graph):
    steps = model(graph)
    found = find_optimum_milp(steps, known=list(steps.calls))
    assert found.is_proved
    assert found.makespan == pytest.approx(find_optimum(steps).makespan, rel=1e-6)


def test_calls_that_are_done_are_in_no_order_and_keep_nobody_waiting():
    steps = TokenSteps(graph=figure_4(2), capacities=(1000.0,), done=frozenset({0, 2}))
    found = find_optimum(steps)
    assert set(found.order) == {1, 3, 4, 5}
    assert found.makespan == pytest.approx(brute_force(steps), abs=1e-9)


def test_a_search_that_was_cut_short_says_so():
    steps = model(figure_4(3))
    known = list(range(9))
    found = find_optimum(steps, known=known, max_prefixes=1)
    assert found.makespan <= steps.evaluate([known]).makespan
    assert found.bound <= found.makespan


def test_several_workers_are_refused():
    steps = TokenSteps(graph=CallGraph(nodes=(), num_rows=1), capacities=(1.0, 1.0))
    with pytest.raises(ValueError, match="one worker, not for 2"):
        find_optimum(steps)
    with pytest.raises(ValueError, match="one worker, not for 2"):
        find_optimum_milp(steps, known=[])

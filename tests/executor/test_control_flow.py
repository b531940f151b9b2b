"""Branches, loops, maps, races, functions and histories against the oracle, in every order."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helium_jax.executor import NAIVE, RunOptions
from helium_jax.plan import Body, Chat, Input, Loop, Message, Output, Plan, Slot
from tests.executor.nested_plans import nested_plans
from tests.executor.oracle import expected_outputs
from tests.executor.test_executor import Engine, run

ALPHABET = tuple(b"abc \n")
OPTIONS = st.one_of(
    st.just(NAIVE),
    st.just(RunOptions()),
    st.builds(
        RunOptions,
        policy=st.sampled_from(["as_ready", "helium", "op_wise", "langgraph"]),
        max_in_flight=st.integers(1, 5),
        encode_ahead=st.integers(1, 5),
        single_flight=st.booleans(),
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    nested_plans(),
    st.lists(st.sampled_from(["a", "b c", "a b\nc", ""]), max_size=3),
    OPTIONS,
    st.integers(0, 99),
    st.sampled_from([0, 60]),
)
def test_5_14_nested_plans_give_the_outputs_of_the_oracle_in_every_order(
    plan, column, options, seed, refused
):
    engine = Engine(seed=seed, refused=refused, alphabet=ALPHABET)
    rows = [{"q": text} for text in column]
    result = asyncio.run(run(plan, rows, engine, options=options))
    assert [row.outputs for row in result.rows] == expected_outputs(plan, rows, engine)
    assert result.status == "completed"


def test_5_14_a_loop_that_hands_nothing_on_ends():
    """All iterations but the last one want nothing."""
    call = Chat(name="c", messages=(Message(role="user", content=(Slot(name="q"),)),))
    body = Body(ops=(call,), result="c")
    plan = Plan(
        inputs=(Input(name="q"),),
        ops=(Loop(name="l", carried=(), body=body, count=3, max_iterations=3),),
        outputs=(Output(name="o", source="l"),),
    )
    engine = Engine()
    result = asyncio.run(asyncio.wait_for(run(plan, [{"q": "a"}], engine), 20))
    assert [row.outputs for row in result.rows] == expected_outputs(plan, [{"q": "a"}], engine)

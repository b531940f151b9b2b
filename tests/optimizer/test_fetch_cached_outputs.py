"""Which calls become columns of cached answers."""

import pytest

from helium_jax.optimizer import Facts, Note, optimize
from helium_jax.optimizer.rules import fetch_cached_outputs
from helium_jax.plan import CachePolicy, View
from tests.optimizer.plans import call, chat, const, loop, names, plan_of

CHAIN = plan_of(
    call("a", "{{q}}"), call("b", "then {{a}}"), call("c", "last {{b}}{{q}}"), outputs=("c",)
)


def known(*operators, rows=(0, 1), num_rows=2, **facts):
    answers = {(name, row): f"{name}{row}" for name in operators for row in rows}
    return Facts(num_rows=num_rows, known=answers, **facts)


def fetch(plan, facts):
    rewriting = fetch_cached_outputs(plan, facts)
    if rewriting.plan is plan:
        assert rewriting.notes == ()
    return rewriting.plan


def test_a_call_known_for_every_row_becomes_the_column_of_its_answers():
    rewriting = fetch_cached_outputs(CHAIN, known("a"))
    assert rewriting.plan.ops == (const("a", ("a0", "a1")), *CHAIN.ops[1:])
    reason = "CacheFetch: 2 rows are in the output cache"
    assert rewriting.notes == (Note(operator="a", reason=reason),)


def test_5_3_a_full_hit_prunes_everything_upstream():
    optimized = optimize(CHAIN, known("a", "b", "c"))
    assert optimized.plan.ops == (const("c", ("c0", "c1")),)
    assert optimized.fetched == ("c",)
    assert optimized.spared == ("a", "b", "c")
    assert optimized.known_rows == {}
    assert [step.rule for step in optimized.trace] == ["fetch_cached_outputs", "prune_unused_nodes"]
    assert optimized.trace[0].num_calls == (3, 0)


def test_5_3_partial_hits_leave_the_call_and_say_how_many_rows_are_left():
    facts = known("a", "b", "c", rows=(0, 2, 3, 5, 7), num_rows=8)
    optimized = optimize(CHAIN, facts)
    assert optimized.plan is CHAIN
    assert optimized.fetched == ()
    assert optimized.known_rows == {name: frozenset({0, 2, 3, 5, 7}) for name in "abc"}


def test_5_3_hits_that_end_half_way_prune_what_lies_before_them():
    optimized = optimize(CHAIN, known("a", "b"))
    assert names(optimized.plan) == ["b", "c"]
    assert optimized.fetched == ("b",)
    assert optimized.spared == ("a", "b")


def test_what_others_stand_for_is_spared_with_them():
    plan = plan_of(
        call("a", "{{q}}"), call("b", "{{q}}"), call("unused", "{{q}}!"), outputs=("a", "b")
    )
    assert optimize(plan, known("a", "b", "unused")).spared == ("a", "b")
    # Without its messages a fetched call is not enough for who goes on with it.
    viewed = plan_of(
        chat("a", "{{q}}"), chat("b", "{{q}}"), chat("c", "go on", history="b"), outputs=("a", "c")
    )
    assert optimize(viewed, known("a", "b")).spared == ()


@pytest.mark.parametrize(
    "fields", [{"temperature": 0.7}, {"cache": CachePolicy(results=False)}], ids=["sampled", "off"]
)
def test_calls_that_must_be_made_anew_are_not_fetched(fields):
    plan = plan_of(call("a", "{{q}}", **fields), outputs=("a",))
    assert fetch(plan, known("a", deterministic=True)) is plan
    assert optimize(plan, known("a")).known_rows == {}


def test_seeded_calls_are_fetched_only_where_the_engine_is_deterministic():
    plan = plan_of(call("a", "{{q}}", temperature=0.7, seed=1), outputs=("a",))
    assert fetch(plan, known("a", deterministic=True)) is not plan
    assert fetch(plan, known("a")) is plan


def test_a_call_whose_messages_somebody_reads_stays_a_call():
    viewed = plan_of(
        chat("a", "{{q}}"), View(name="v", source="a", kind="history"), outputs=("a", "v")
    )
    assert fetch(viewed, known("a")) is viewed
    continued = plan_of(chat("a", "{{q}}"), chat("b", "go on", history="a"), outputs=("b",))
    assert fetch(continued, known("a")) is continued
    assert names(fetch(continued, known("a", "b"))) == ["a", "b"]
    assert optimize(continued, known("a", "b")).fetched == ("b",)
    carried = plan_of(
        chat("a", "{{q}}"),
        loop(
            "l",
            chat("x", "go on", history="s"),
            result="x",
            carried=(("s", "a", None),),
        ),
        outputs=("l",),
    )
    assert fetch(carried, known("a")) is carried


def test_calls_in_bodies_stay():
    plan = plan_of(loop("l", call("x", "{{s}}"), result="x"), outputs=("l",))
    assert fetch(plan, known("x")) is plan


def test_without_a_batch_nothing_is_fetched():
    assert fetch(CHAIN, Facts(known={("a", 0): "x"})) is CHAIN
    assert fetch(CHAIN, Facts(num_rows=0, known={})) is CHAIN

"""How often calls are expected."""

from helium_jax.optimizer import Facts, OperatorProfile, Profile, describe_column, optimize
from helium_jax.optimizer.repeats import estimate_repeats
from helium_jax.plan import Branch, Map, Race, parse_formula
from tests.optimizer.plans import body, call, loop, plan_of

PLAN = plan_of(
    call("a", "{{q}}"), call("b", "{{a}}{{r}}"), call("c", "{{b}}", temperature=1), outputs=("c",)
)


def repeats(plan, facts):
    return estimate_repeats(optimize(plan, facts), facts)


def test_a_call_is_expected_once_per_row():
    assert repeats(PLAN, Facts()) == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert repeats(PLAN, Facts(num_rows=4)) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_rows_that_are_alike_and_rows_that_are_cached_are_taken_off():
    columns = {
        "q": describe_column(["x", "y", "x", "y"]),
        "r": describe_column(["1", "2", "3", "4"]),
    }
    known = {("a", 0): "A", ("b", 0): "B", ("b", 3): "B", ("c", 0): "never served"}
    facts = Facts(num_rows=4, columns=columns, known=known)
    # Rows 0 and 2 are alike in q, but only row 0 is known, so row 2 still makes the call of both.
    assert repeats(PLAN, facts) == {"a": 0.5, "b": 0.5, "c": 1.0}


def test_bodies_run_as_often_as_their_holders_say():
    condition = parse_formula("contains(q, 'a')")
    plan = plan_of(
        loop("l", call("a", "{{s}}"), result="a", count=3),
        loop("w", call("b", "{{t}}"), result="b", carried=(("t", "q", None),), condition=condition),
        Map(
            name="m",
            over=parse_formula("lines(q)"),
            item="i",
            body=body(
                call("c", "{{i}}"),
                Branch(name="h", condition=condition, then=body(call("d", "{{c}}"), result="d")),
                result="h",
            ),
            max_items=3,
        ),
        Race(name="r2", arms=tuple(body(call(n, f"{n}{{{{q}}}}"), result=n) for n in "ef")),
        outputs=("l", "w", "m", "r2"),
    )
    assert repeats(plan, Facts(num_rows=2)) == {
        "a": 3.0, "b": 2.0, "c": 3.0, "d": 1.5, "e": 1.0, "f": 1.0,
    }  # fmt: skip


def test_what_earlier_runs_have_shown_of_a_body_counts_more():
    plan = plan_of(loop("l", call("a", "{{s}}"), result="a", count=3), outputs=("l",))
    seen = OperatorProfile(num_rows=4, num_calls=5, num_reused=1, output_tokens=50)
    assert repeats(plan, Facts(profile=Profile(operators={"a": seen}))) == {"a": 1.5}

"""Which subplans become one, and which stay apart."""

import dataclasses

import pytest

from helium_jax.optimizer import Facts, Note, optimize
from helium_jax.optimizer.rules import merge_equal_subplans
from helium_jax.plan import (
    Branch,
    CachePolicy,
    Function,
    Lambda,
    Map,
    Output,
    Race,
    View,
    encode_yaml,
    parse_formula,
    parse_template,
    validate,
)
from tests.optimizer.plans import (
    body,
    call,
    chat,
    const,
    count_calls,
    loop,
    map_reduce,
    names,
    plan_of,
    read,
    trading,
)

NOTHING = Facts()
DETERMINISTIC = Facts(deterministic=True)


def merge(plan, facts=NOTHING):
    rewriting = merge_equal_subplans(plan, facts)
    validate(rewriting.plan)
    if rewriting.plan is plan:
        assert rewriting.notes == ()
    return rewriting.plan


def stays(plan, facts=NOTHING):
    return merge(plan, facts) is plan


def test_equal_calls_become_one_and_every_reference_follows():
    before = read("""
ops:
  a: {type: llm.chat, system: S, user: "{{q}}"}
  b: {type: llm.chat, system: S, user: "{{q}}"}
  c: {type: llm.completion, prompt: "{{a}} or {{b}}"}
outputs: {a: a, b: b, c: c}
""")
    after = read("""
ops:
  a: {type: llm.chat, system: S, user: "{{q}}"}
  c: {type: llm.completion, prompt: "{{a}} or {{a}}"}
outputs: {a: a, b: a, c: c}
""")
    rewriting = merge_equal_subplans(before, NOTHING)
    assert encode_yaml(rewriting.plan) == encode_yaml(after)
    assert rewriting.notes == (Note(operator="b", reason="computes the same as a"),)


def test_5_2_a_duplicated_chain_of_four_becomes_one_in_one_pass():
    ops = []
    for side in ("x", "y"):
        ops.append(call(f"{side}0", "start {{q}}"))
        ops += [call(f"{side}{i}", f"step {i} {{{{{side}{i - 1}}}}}") for i in (1, 2, 3)]
    plan = plan_of(*ops, outputs=("x3", "y3"))
    assert names(merge(plan)) == ["x0", "x1", "x2", "x3"]


def test_5_2_trading_with_duplicated_traders_shrinks_from_88_to_56_calls():
    plan = trading()
    assert count_calls(plan) == 88
    assert count_calls(optimize(plan).plan) == 56
    assert count_calls(optimize(plan, disable={"merge_equal_subplans"}).plan) == 88
    assert count_calls(trading(num_characters=8)) == count_calls(
        optimize(trading(num_characters=8)).plan
    )


def test_5_2_map_reduce_with_duplicated_experts_shrinks_from_15_to_8_calls():
    assert count_calls(map_reduce()) == 15
    assert count_calls(optimize(map_reduce()).plan) == 8


def test_5_2_sampled_calls_stay_apart_and_so_does_what_reads_them():
    plan = plan_of(
        call("a", "{{q}}", temperature=0.7),
        call("b", "{{q}}", temperature=0.7),
        call("c", "on {{a}}"),
        call("d", "on {{b}}"),
        outputs=("c", "d"),
    )
    assert stays(plan)
    assert stays(plan, DETERMINISTIC)
    assert stays(trading(temperature=0.7))


def test_what_reads_one_sample_twice_is_merged():
    plan = plan_of(
        call("a", "{{q}}", temperature=0.7),
        call("c", "on {{a}}"),
        call("d", "on {{a}}"),
        outputs=("c", "d"),
    )
    assert names(merge(plan)) == ["a", "c"]


def test_seeded_calls_are_merged_only_where_the_engine_is_deterministic():
    plan = plan_of(
        call("a", "{{q}}", temperature=0.7, seed=1),
        call("b", "{{q}}", temperature=0.7, seed=1),
        call("c", "on {{a}}"),
        call("d", "on {{b}}"),
        outputs=("c", "d"),
    )
    assert names(merge(plan, DETERMINISTIC)) == ["a", "c"]
    assert stays(plan, NOTHING)
    other = dataclasses.replace(
        plan, ops=(plan.ops[0], call("b", "{{q}}", temperature=0.7, seed=2))
    )
    other = dataclasses.replace(
        other, outputs=(Output(name="a", source="a"), Output(name="b", source="b"))
    )
    assert stays(other, DETERMINISTIC)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 3},
        {"retries": 2},
        {"timeout_s": 3.0},
        {"on_error": "empty"},
        {"on_error": "default", "default": "none"},
        {"stop": ("x",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_calls_that_differ_in_what_may_change_a_value_stay_apart(change):
    assert stays(plan_of(call("a", "{{q}}"), call("b", "{{q}}", **change), outputs=("a", "b")))
    both = plan_of(call("a", "{{q}}", **change), call("b", "{{q}}", **change), outputs=("a", "b"))
    assert names(merge(both)) == ["a"]


@pytest.mark.parametrize("cache", [CachePolicy(results=False), CachePolicy(kv=False)])
def test_calls_with_a_cache_policy_of_their_own_stay_apart(cache):
    plan = plan_of(
        call("a", "{{q}}", cache=cache), call("b", "{{q}}", cache=cache), outputs=("a", "b")
    )
    assert stays(plan)
    assert stays(plan_of(call("a", "{{q}}"), plan.ops[1], outputs=("a", "b")))


def test_different_prompts_columns_and_kinds_of_calls_stay_apart():
    assert stays(plan_of(call("a", "{{q}}"), call("b", "{{r}}"), outputs=("a", "b")))
    assert stays(plan_of(call("a", "{{q}}"), call("b", "{{q}} "), outputs=("a", "b")))
    assert stays(plan_of(call("a", "{{q}}"), chat("b", "{{q}}"), outputs=("a", "b")))
    assert stays(plan_of(const("a", 1), const("b", 1.0), const("c", True), outputs=("a", "b", "c")))


def test_the_more_urgent_priority_stays():
    plan = plan_of(
        call("a", "{{q}}", priority=3), call("b", "{{q}}", priority=-1), outputs=("a", "b")
    )
    (kept,) = merge(plan).ops
    assert (kept.name, kept.settings.priority) == ("a", -1)


def test_pure_functions_are_merged_and_impure_ones_are_not():
    def plan(is_pure):
        function = Function(name="f", call=lambda text: text, is_pure=is_pure)
        return plan_of(
            *(Lambda(name=name, function=function, args=("q",)) for name in "ab"),
            outputs=("a", "b"),
        )

    assert names(merge(plan(is_pure=True))) == ["a"]
    assert stays(plan(is_pure=False))


def test_histories_and_views_follow_the_call_that_stays():
    plan = plan_of(
        chat("a", "{{q}}"),
        chat("b", "{{q}}"),
        chat("c", "go on", history="b"),
        View(name="v", source="b", kind="history"),
        outputs=("a", "c", "v"),
    )
    _, c, v = merge(plan).ops
    assert (c.history, v.source) == ("a", "a")
    apart = plan_of(
        chat("a", "{{q}}"),
        chat("c", "go on", history="a"),
        chat("d", "go on"),
        outputs=("c", "d"),
    )
    assert stays(apart)


# --- bodies -------------------------------------------------------------------------------------


def test_equal_calls_of_one_body_become_one():
    plan = plan_of(
        loop("l", call("a", "{{s}}"), call("b", "{{s}}"), call("c", "{{a}}{{b}}"), result="c"),
        outputs=("l",),
    )
    (merged,) = merge(plan).ops
    assert merged.body == body(call("a", "{{s}}"), call("c", "{{a}}{{a}}"), result="c")


def test_results_and_carried_names_follow_the_call_that_stays():
    plan = plan_of(
        loop(
            "l",
            call("a", "{{s}}"),
            call("b", "{{s}}"),
            result="b",
            carried=(("s", "q", "b"), ("t", "q", "a")),
        ),
        outputs=("l",),
    )
    (merged,) = merge(plan).ops
    assert merged.body.result == "a"
    assert [one.next for one in merged.carried] == ["a", "a"]


def test_equal_loops_become_one_whatever_their_names():
    def one(name, s, a):
        return loop(name, call(a, f"on {{{{{s}}}}}"), result=a, carried=((s, "q", None),))

    assert names(merge(plan_of(one("l", "s", "a"), one("m", "t", "b"), outputs=("l", "m")))) == [
        "l",
        "a",
    ]
    other = loop("m", call("b", "on {{t}}"), result="b", carried=(("t", "q", None),), count=3)
    assert stays(plan_of(one("l", "s", "a"), other, outputs=("l", "m")))


def test_loops_that_sample_stay_apart():
    def one(name, s, a):
        inner = call(a, f"{{{{{s}}}}}", temperature=0.5)
        return loop(name, inner, result=a, carried=((s, "q", None),))

    assert stays(plan_of(one("l", "s", "a"), one("m", "t", "b"), outputs=("l", "m")))


def twice(holder):
    """A call outside a region and an equal one inside it."""
    return plan_of(call("x", "once {{q}}"), holder, outputs=("x", holder.name))


def test_a_body_that_always_runs_reads_the_equal_call_outside():
    inner = (call("y", "once {{q}}"), call("z", "{{y}}{{s}}"))
    plan = twice(loop("l", *inner, result="z"))
    merged = merge(plan)
    assert names(merged) == ["x", "l", "z"]
    assert merged.ops[1].body == body(call("z", "{{x}}{{s}}"), result="z")


def test_a_body_that_may_not_run_keeps_its_call():
    """Otherwise a failing call outside would fail rows that do not need it."""
    inside = body(call("y", "once {{q}}"), result="y")
    condition = parse_formula("contains(q, 'a')")
    assert stays(twice(Branch(name="h", condition=condition, then=inside)))
    assert stays(twice(Race(name="h", arms=(inside, body(call("w", "{{q}}"), result="w")), k=2)))
    over = parse_formula("lines(q)")
    assert stays(twice(Map(name="h", over=over, item="i", body=inside, max_items=3)))
    assert stays(twice(loop("h", call("y", "once {{q}}"), result="y", condition=condition)))
    assert stays(twice(loop("h", call("y", "once {{q}}"), result="y", count=0)))


def test_a_body_whose_holder_waits_for_the_equal_call_anyway_reads_it():
    inside = body(call("y", "once {{q}}"), result="y")
    branch = Branch(name="h", condition=parse_formula("contains(x, 'a')"), then=inside)
    merged = merge(twice(branch))
    assert names(merged) == ["x", "h"]
    assert merged.ops[1].then.result == "x"


def test_a_body_does_not_read_what_waits_for_its_holder():
    """Dead code may hold a copy of the loop that it stands in."""
    copy = loop("m", call("b", "{{u}}"), result="b", carried=(("u", "q", None),))
    plan = plan_of(
        loop("l", call("a", "{{s}}"), copy, call("y", "then {{m}}"), result="a"),
        call("x", "then {{l}}"),
        outputs=("x",),
    )
    assert stays(plan)
    assert names(optimize(plan).plan) == ["l", "a", "x"]


def test_an_inner_body_reads_over_two_scopes_only_if_both_always_run():
    def plan(count):
        inner = loop(
            "m",
            call("y", "once {{q}}"),
            call("z", "{{y}}{{u}}"),
            result="z",
            carried=(("u", "s", None),),
        )
        return twice(loop("l", inner, result="m", count=count))

    assert names(merge(plan(2))) == ["x", "l", "m", "z"]
    assert stays(plan("n")) if False else names(merge(plan(2)))


def test_carried_values_do_not_equal_what_is_outside():
    plan = plan_of(
        call("x", "on {{q}}"), loop("l", call("y", "on {{s}}"), result="y"), outputs=("x", "l")
    )
    assert stays(plan)


def test_templates_and_constants_are_merged_too():
    plan = plan_of(
        const("c", "a"),
        const("d", "a"),
        call("a", "{{c}}{{q}}"),
        call("b", "{{d}}{{q}}"),
        outputs=("a", "b"),
    )
    assert names(merge(plan)) == ["c", "a"]
    assert parse_template("{{c}}{{q}}") == merge(plan).ops[1].prompt

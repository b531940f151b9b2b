"""What is left out, and what stays although nobody reads it."""

from helium_jax.optimizer import Facts, Note, optimize
from helium_jax.optimizer.rules import prune_unused_nodes
from helium_jax.plan import Branch, Map, encode_yaml, parse_formula
from tests.optimizer.plans import body, call, const, loop, names, plan_of, read


def prune(plan):
    rewriting = prune_unused_nodes(plan, Facts())
    if rewriting.plan is plan:
        assert rewriting.notes == ()
    return rewriting.plan


def test_5_2_an_operator_that_no_output_needs_is_left_out():
    before = read("""
ops:
  a: {type: llm.chat, user: "{{q}}"}
  b: {type: llm.chat, user: "{{a}}"}
  unused: {type: llm.chat, user: "{{a}} {{r}}"}
  sampled: {type: llm.chat, user: "{{unused}}", temperature: 0.7}
outputs: {b: b}
""")
    after = read("""
ops:
  a: {type: llm.chat, user: "{{q}}"}
  b: {type: llm.chat, user: "{{a}}"}
outputs: {b: b}
""")
    rewriting = prune_unused_nodes(before, Facts())
    assert encode_yaml(rewriting.plan) == encode_yaml(after)
    assert rewriting.notes == tuple(
        Note(operator=name, reason="no output needs it") for name in ("unused", "sampled")
    )


def test_inputs_stay_because_the_rows_have_them():
    plan = plan_of(call("a", "{{q}}"), outputs=("a",))
    assert prune(plan) is plan
    assert [node.name for node in plan.inputs] == ["q", "r"]


def test_a_body_keeps_what_its_result_needs():
    plan = plan_of(
        Branch(
            name="h",
            condition=parse_formula("contains(q, 'a')"),
            then=body(call("a", "{{q}}"), call("b", "{{a}}"), call("c", "{{a}}"), result="b"),
            otherwise=body(call("d", "{{q}}"), result="r"),
        ),
        outputs=("h",),
    )
    assert names(prune(plan)) == ["h", "a", "b"]


def test_what_only_dead_code_of_bodies_needs_goes_with_it():
    inner = loop(
        "m", call("b", "{{u}}"), call("deader", "{{y}}"), result="b", carried=(("u", "s", None),)
    )
    plan = plan_of(
        call("outside", "{{q}}"),
        loop("l", call("y", "{{outside}}"), inner, result="m"),
        outputs=("l",),
    )
    assert names(prune(plan)) == ["l", "m", "b"]
    assert names(optimize(plan).plan) == ["l", "m", "b"]


def test_a_loop_stops_carrying_what_nobody_reads():
    plan = plan_of(
        loop(
            "l",
            call("a", "{{s}}"),
            call("log", "{{t}} {{a}}"),
            result="a",
            carried=(("s", "q", "a"), ("t", "r", "log")),
        ),
        outputs=("l",),
    )
    rewriting = prune_unused_nodes(plan, Facts())
    assert names(rewriting.plan) == ["l", "a"]
    assert [one.name for one in rewriting.plan.ops[0].carried] == ["s"]
    assert Note(operator="l", reason="no iteration reads t") in rewriting.notes


def test_a_loop_carries_on_what_its_condition_or_another_carried_name_reads():
    def plan(condition, user):
        return plan_of(
            loop(
                "l",
                call("a", user),
                call("log", "{{t}}"),
                result="a",
                carried=(("s", "q", "a"), ("t", "r", "log"), ("u", "r", "t")),
                condition=condition,
            ),
            outputs=("l",),
        )

    assert names(prune(plan(parse_formula("contains(t, 'x')"), "{{s}}"))) == ["l", "a", "log"]
    through_another = plan(None, "{{s}}{{u}}")
    assert prune(through_another) is through_another


def test_a_loop_carries_on_what_is_its_value_without_iterations():
    plan = plan_of(
        loop("l", call("a", "{{r}}"), result="a", carried=(("s", "q", "a"),), count=0),
        outputs=("l",),
    )
    assert prune(plan) is plan


def test_a_map_keeps_its_list():
    plan = plan_of(
        call("items", "{{q}}"),
        Map(
            name="m",
            over=parse_formula("lines(items)"),
            item="i",
            body=body(call("a", "{{i}}"), const("c", 1), result="a"),
            max_items=3,
        ),
        outputs=("m",),
    )
    assert names(prune(plan)) == ["items", "m", "a"]

"""The Python form says what the file says, and nothing runs while it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.errors import PlanError
from helium_jax.plan import PlanBuilder, encode_yaml, parse_plan
from tests.plan.test_wire import EXAMPLE


def debate():
    builder = PlanBuilder("debate-qa")
    question = builder.input("question")
    builder.param("rounds", type="int", default=1, max=8)
    pro = builder.chat(name="pro", system="You argue FOR.", user=question, max_tokens=128)
    con = builder.chat(name="con", system="You argue AGAINST.", user=question, max_tokens=128)
    judge = builder.chat(
        name="judge",
        messages=[
            ("system", "You are a fair judge."),
            ("user", "Q: " + question + "\nFOR: " + pro + "\nAGAINST: " + con),
        ],
        temperature=0,
        cache={"results": "auto", "kv": "auto"},
    )
    builder.output("verdict", judge)
    builder.output("for", pro)
    builder.limit(max_llm_calls=3000, max_total_tokens=2000000, timeout="15m")
    return builder.build()


def test_the_builder_and_the_file_make_one_plan():
    plan, _ = parse_plan(EXAMPLE, is_json=False)
    assert debate() == plan
    assert debate().plan_id == plan.plan_id


@given(
    st.lists(st.text(alphabet="ab{}%\\\n", max_size=6), min_size=3, max_size=3),
    st.sampled_from(["chat", "completion", "template"]),
)
def test_python_strings_are_literals_whatever_they_hold(literals, kind):
    builder = PlanBuilder()
    q = builder.input("q")
    text = literals[0] + q + literals[1] + q + literals[2]
    if kind == "chat":
        value = builder.chat(system=literals[0], user=text, temperature=0.5, stop=["x"])
    elif kind == "completion":
        value = builder.completion(text, seed=4, logit_bias={"5": 1.0})
    else:
        value = builder.template(text)
    builder.output("o", value)
    plan = builder.build()
    assert parse_plan(encode_yaml(plan), is_json=False)[0] == plan
    node = plan.nodes[plan.outputs[0].source]
    parts = {"chat": "messages", "completion": "prompt", "template": "text"}[kind]
    got = getattr(node, parts)
    got = got[-1].content if kind == "chat" else got
    rendered = "".join(part if isinstance(part, str) else "<q>" for part in got)
    assert rendered == f"{literals[0]}<q>{literals[1]}<q>{literals[2]}"


def test_fill_names_its_slots():
    builder = PlanBuilder()
    a, b = builder.input("a"), builder.input("b")
    assert repr(builder.fill("{{x}}-{{y}}", x=a, y="<" + b)) == "Expression('{{a}}-<{{b}}')"
    with pytest.raises(TypeError, match=r"slots are \['x'\] but the values \['y'\]"):
        builder.fill("{{x}}", y=a)


def test_an_expression_in_an_f_string_is_an_error_not_a_wrong_prompt():
    q = PlanBuilder().input("q")
    with pytest.raises(TypeError, match="no text until the plan runs"):
        _ = f"Q: {q}"


def test_an_expression_in_an_if_is_an_error_not_always_true():
    q = PlanBuilder().input("q")
    with pytest.raises(TypeError, match=r"use branch\(...\)"):
        _ = "yes" if q else "no"


def test_expressions_of_two_builders_do_not_mix():
    q, other = PlanBuilder().input("q"), PlanBuilder()
    with pytest.raises(TypeError, match="belongs to another builder"):
        other.chat(user=q)
    with pytest.raises(TypeError, match="expected a string"):
        other.chat(user=3)  # type: ignore[arg-type]


def test_a_name_cannot_be_taken_twice():
    builder = PlanBuilder()
    builder.input("q")
    with pytest.raises(PlanError, match="'q' is already in inputs"):
        builder.const("x", name="q")
    builder.output("o", builder.const("x"))
    with pytest.raises(PlanError, match="'o' is already in outputs"):
        builder.output("o", builder.const("x"))


def test_names_that_are_made_do_not_collide():
    builder = PlanBuilder()
    builder.const("x", name="const_2")
    names = [repr(builder.const(i)) for i in range(3)]
    assert len(set(names)) == 3
    builder.output("o", builder.const(1) + " and more")
    assert builder.build().nodes["template_6"] is not None


def test_constants_may_be_columns():
    builder = PlanBuilder()
    builder.output("o", builder.const([1, "two", True], name="c"))
    assert builder.build().document["ops"]["c"] == {"type": "const", "values": [1, "two", True]}


def test_building_reports_every_fault():
    builder = PlanBuilder()
    builder.chat(user="x", name="a", temperature=-1, nonsense=1)  # type: ignore[call-arg]
    with pytest.raises(PlanError, match="the plan has 3 problems"):
        builder.build()

"""What notebooks show of a plan."""

import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.plan import Input, Output, Plan, PlanBuilder
from helium_jax.plan.table import MAX_LINES
from tests.executor.nested_plans import nested_plans


def cells(plan):
    table = ET.fromstring(plan._repr_html_())
    return [["".join(cell.itertext()) for cell in row] for row in table.find("tbody")]


def test_a_table_has_a_line_for_every_node_and_those_in_bodies_are_indented():
    builder = PlanBuilder("refine")
    first = builder.completion("Write about " + builder.input("topic"), name="first")
    better = builder.loop(
        count=2,
        carry={"draft": first},
        body=lambda b, draft: b.completion("Improve " + draft, name="improve"),
        name="better",
    )
    builder.output("text", better)
    plan = builder.build()
    assert [row[:3] for row in cells(plan)] == [
        ["topic", "input", ""],
        ["first", "llm.completion", "topic"],
        ["better", "loop", "first"],
        ["improve", "llm.completion", "draft"],
        ["text", "output", "better"],
    ]
    html = plan._repr_html_()
    assert html.index("padding-left:1em") < html.index("padding-left:2em") < html.index("improve")


@settings(max_examples=25)
@given(st.text(st.characters(blacklist_categories=("C",)), max_size=200))
def test_no_text_of_a_plan_becomes_markup(text):
    plan = Plan(name=text, inputs=(Input(name=text),), outputs=(Output(name=text, source=text),))
    html = plan._repr_html_()
    assert html.count("<") == Plan(
        name="x", inputs=(Input(name="x"),), outputs=(Output(name="x", source="x"),)
    )._repr_html_().count("<")
    shown = text if len(text) <= 120 else text[:117] + "..."
    assert ET.fromstring(html).find("caption").text == f"Plan {shown or '(unnamed)'}"


@settings(max_examples=25)
@given(nested_plans())
def test_every_plan_has_a_table(plan):
    lines = len(plan.inputs) + len(plan.params) + len(plan.all_ops) + len(plan.outputs)
    assert len(cells(plan)) == lines


def test_a_large_plan_has_a_small_table():
    names = [f"o{i}" for i in range(5 * MAX_LINES)]
    plan = Plan(outputs=tuple(Output(name=name, source="x") for name in names))
    assert cells(plan)[-1] == [f"and {4 * MAX_LINES} more"]
    assert len(cells(plan)) == MAX_LINES + 1

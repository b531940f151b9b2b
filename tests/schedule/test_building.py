"""Physical plans become call graphs whose segments say what prompts share."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.builtin import tiny_folder
from helium_jax.physical import Read, Turn, lower
from helium_jax.plan import PlanBuilder, Slot
from helium_jax.schedule import Segment, build_call_graph
from helium_jax.schedule.templates import TemplateMaker
from helium_jax.testing import FakeText
from helium_jax.text import TextModel, load_text
from tests.plan.strategies import plans

with tiny_folder() as _folder:
    TINY = load_text(_folder)
CODECS = [FakeText(), TINY]
words = st.text(st.sampled_from("ab \n0.,é{"), max_size=6)
values = st.one_of(words, st.text(max_size=5), st.sampled_from([" x", "th", "'s", "ing"]))
parts_of_texts = words | st.sampled_from([Slot(name="q"), Slot(name="r")])


def figure_4():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(system="Agent one.", user=q, name="op1", max_tokens=20)
    second = builder.chat(system="Agent two!", user=q + "\nAnswer.", name="op2", max_tokens=30)
    shown = builder.template("One said " + first + ", two said " + second, name="shown")
    third = builder.chat(system="Agent two!", user=q + "\nReview: " + shown, name="op3")
    builder.output("review", third)
    return lower(builder.build())


def build(physical, columns, estimates=None, codec=None):
    num_rows = len(next(iter(columns.values()), [""]))
    return build_call_graph(physical, codec or FakeText(), estimates or {}, num_rows, columns)


def test_5_5_figure_4_from_its_plan():
    calls = build(figure_4(), {"q": ["who?", "why??"]}, {"op3": 7.0})
    text = calls.tree.text(FakeText().decode)
    assert text == (
        "root\n"
        "  'Agent ' 7 tokens\n"
        "    'one.' 6 tokens\n"
        "      {{q}} ~4 tokens\n"
        "        '' 2 tokens\n"
        "          -> op1\n"
        "    'two!' 6 tokens\n"
        "      {{q}} ~4 tokens\n"
        "        '\\n' 1 tokens\n"
        "          'Answer.' 9 tokens\n"
        "            -> op2\n"
        "          'Review: One said ' 17 tokens\n"
        "            {{op1}} ~20 tokens\n"
        "              ', two said ' 11 tokens\n"
        "                {{op2}} ~30 tokens\n"
        "                  '' 2 tokens\n"
        "                    -> op3 (needs op1, op2)"
    )
    graph = calls.graph
    assert [node.output_tokens for node in graph.nodes] == [20, 30, 7]
    assert [node.needs for node in graph.nodes] == [(), (), ("op1", "op2")]
    one, two, three = graph.nodes
    assert two.role == three.role != one.role
    assert two.segments[:4] == three.segments[:4]


def test_columns_with_few_values_group_their_rows():
    builder = PlanBuilder()
    context, q = builder.input("context"), builder.input("q")
    builder.output("o", builder.chat(user=context + ": " + q, name="c"))
    columns = {"context": ["aa", "bbbb", "aa"], "q": ["1", "2", "3"]}
    graph = build(lower(builder.build()), columns).graph
    segments = [s for s in graph.nodes[0].segments if not s.is_static]
    assert segments == [
        Segment(key="context", num_tokens=pytest.approx(8 / 3), is_static=False, group="context"),
        Segment(key="q", num_tokens=1, is_static=False),
    ]
    assert graph.values == {"context": (0, 1, 0)}


def test_calls_in_regions_are_there_with_the_executions_to_expect():
    builder = PlanBuilder()
    q = builder.input("q")
    draft = builder.chat(user="Draft " + q, name="draft", max_tokens=10)

    def refine(b, text):
        better = b.chat(user="Refine " + text, name="better", max_tokens=20)
        return {"text": better}

    looped = builder.loop(body=refine, carry={"text": draft}, count=3, name="looped")
    parts = builder.map(
        "lines(looped)",
        lambda b, item: b.chat(user="Judge " + item, name="judge", max_tokens=2),
        max_items=10,
        name="parts",
    )
    chosen = builder.branch(
        'contains(parts, "yes")',
        then=lambda b: b.chat(user="Praise " + looped, name="praise"),
        name="chosen",
    )
    builder.output("o", builder.chat(user=chosen + parts, name="last"))
    graph = build(lower(builder.build()), {"q": ["x", "y"]}).graph
    assert {node.name: (node.needs, node.repeats) for node in graph.nodes} == {
        "draft": ((), 1),
        "better": (("draft",), 3),
        "judge": (("draft", "better"), 4),
        "praise": (("draft", "better", "judge"), 0.5),
        "last": (("draft", "better", "judge", "praise"), 1),
    }
    seen = {"draft": 9.0, "judge": 1.25}
    shown = build_call_graph(
        lower(builder.build()), FakeText(), {}, 2, {"q": ["x", "y"]}, seen
    ).graph
    assert {node.name: node.repeats for node in shown.nodes} == {
        "draft": 1, "better": 3, "judge": 1.25, "praise": 0.5, "last": 1,
    }  # fmt: skip
    refined = graph.by_name["better"].segments
    assert [(s.key, s.num_tokens) for s in refined if not s.is_static] == [("text", 20)]
    assert all(s.num_tokens > 0 for node in graph.nodes for s in node.segments)


def test_a_conversation_that_goes_on_begins_with_the_earlier_one():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(system="S", user=q, name="first", max_tokens=9)
    second = builder.chat(user="Go on.", history=first, name="second")
    builder.output("o", second)
    graph = build(lower(builder.build()), {"q": ["x", "y"]}).graph
    one, two = graph.nodes
    # The mark of the assistant's turn ends the first prompt and goes before its answer.
    pairs = zip(one.segments, two.segments, strict=False)
    shared = sum(s.num_tokens for s, t in pairs if s == t)
    assert shared == one.prompt_tokens
    assert [s.key for s in two.segments if not s.is_static] == ["q", "first"]
    assert two.needs == ("first",)


@settings(max_examples=30, deadline=None)
@given(plans(), st.integers(1, 4))
def test_calls_come_after_those_they_need_in_any_plan(plan, num_rows):
    physical = lower(plan)
    columns = {
        op.name: [f"{op.name} {row}" for row in range(num_rows)]
        for op in physical.operators
        if isinstance(op, Read)
    }
    graph = build_call_graph(physical, FakeText(), {}, num_rows, columns).graph
    assert [node.name for node in graph.nodes] == [call.name for call in physical.calls]
    seen = set()
    for node in graph.nodes:
        assert set(node.needs) <= seen
        seen.add(node.name)
        assert node.output_tokens > 0


def test_texts_that_would_grow_without_end_stay_slots():
    builder = PlanBuilder()
    text = builder.input("q")
    for level in range(30):
        text = builder.template(text + " " + text, name=f"t{level}")
    builder.output("o", builder.chat(user=text, name="c"))
    graph = build(lower(builder.build()), {"q": ["x"]}).graph
    assert len(graph.nodes[0].segments) < 10_000


def test_a_prompt_that_holds_the_mark_itself_keeps_its_leading_text_and_its_length():
    builder = PlanBuilder()
    q = builder.input("q")
    builder.output("o", builder.completion("ab" + q + "c\x01d", name="c"))
    (node,) = build(lower(builder.build()), {"q": ["xyz"]}).graph.nodes
    assert [(s.is_static, s.num_tokens) for s in node.segments] == [
        (True, 2),
        (False, 3),
        (True, 4),
    ]
    assert node.segments[-1].key == ""


def test_a_prompt_that_the_chat_template_refuses_is_still_in_the_graph():
    builder = PlanBuilder()
    builder.output("o", builder.chat(user="x" + builder.input("q"), name="c"))
    (node,) = build(
        lower(builder.build()), {"q": ["a b"]}, codec=TextModel(tokenizer=TINY.tokenizer)
    ).graph.nodes
    assert [s.key for s in node.segments] == ["q"]


@pytest.mark.parametrize("codec", CODECS, ids=["fake", "tiny"])
@settings(max_examples=60)
@given(
    parts=st.lists(
        words | st.just(Slot(name="q")) | st.just(Slot(name="r")), min_size=1, max_size=4
    ),
    rows=st.lists(st.tuples(values, values), min_size=1, max_size=6),
    system=words,
)
def test_5_5_the_static_prefix_is_never_longer_than_what_concrete_prompts_share(
    codec, parts, rows, system
):
    turns = (Turn(role="system", content=(system,)), Turn(role="user", content=tuple(parts)))
    length = TemplateMaker(codec).count_static_prefix(turns)
    prompts = []
    for q, r in rows:
        filled = "".join({"q": q, "r": r}[p.name] if isinstance(p, Slot) else p for p in parts)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": filled}]
        prompts.append(list(codec.encode_chat(messages)))
    assert all(prompt[:length] == prompts[0][:length] for prompt in prompts)


def test_5_5_the_static_prefix_is_as_long_as_what_many_random_prompts_share():
    codec = TINY
    rng = random.Random(0)
    for literal in ("Read this text:\n", "context ", "The question: ", "A"):
        turns = (Turn(role="user", content=(literal, Slot(name="q"))),)
        letters = "abcdefghij XYZ0.\n"
        texts = ["".join(rng.choices(letters, k=rng.randrange(9))) for _ in range(300)]
        prompts = [codec.encode_chat([{"role": "user", "content": literal + t}]) for t in texts]
        columns = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))
        assert TemplateMaker(codec).count_static_prefix(turns) == len(list(columns))

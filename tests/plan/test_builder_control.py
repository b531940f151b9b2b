"""Python functions as bodies say what the file says."""

from pathlib import Path

import pytest

from helium_jax.errors import PlanError
from helium_jax.plan import (
    Body,
    Chat,
    FormulaError,
    Function,
    Lambda,
    Loop,
    PlanBuilder,
    encode_json,
    load_plan,
    parse_plan,
)

EXAMPLES = Path(__file__).parent / "examples"


def example(name):
    return load_plan(EXAMPLES / f"{name}.yaml")[0]


def test_branches_are_those_of_the_file():
    builder = PlanBuilder("triage")
    message = builder.input("message")
    kind = builder.chat(
        name="kind",
        system="Say whether this is a complaint. Answer yes or no.",
        user=message,
        max_tokens=4,
    )

    def apologise(b):
        what = "What went wrong here? " + message
        cause = b.chat(name="cause", user=what, max_tokens=64)
        return b.chat(name="apology", user="Apologise for this: " + cause, max_tokens=128)

    reply = builder.branch(
        builder.formula("starts_with(lower(trim(k)), 'yes')", k=kind),
        then=apologise,
        otherwise=lambda b: b.const("Thank you for your message.", name="thanks"),
        name="reply",
    )
    builder.output("reply", reply)
    builder.output("kind", kind)
    assert builder.build() == example("branch")


def test_loops_with_a_condition_are_those_of_the_file():
    builder = PlanBuilder("until-good")
    task = builder.input("task")
    first = builder.chat(name="first", user=task, max_tokens=128)
    none = builder.const("score: 0", name="none")

    def improve(b, draft, verdict):
        prompt = task + "\n" + draft + "\nImprove on " + verdict
        better = b.chat(name="better", user=prompt, max_tokens=128)
        judge = b.chat(name="judge", user="Give this a score of 10: " + better, max_tokens=16)
        return {"draft": better, "verdict": judge}

    done = builder.loop(
        name="done",
        carry={"draft": first, "verdict": none},
        condition="not matches(verdict, '(?i)score: *([89]|10)')",
        max_iterations=5,
        body=improve,
    )
    builder.output("text", done)
    builder.limit(max_concurrency=64)
    plan, file = builder.build(), example("while")
    # The builder's result is the carried name, which means its last value.
    assert plan.nodes["done"].body.result == "draft"
    assert plan.nodes["done"].body.ops == file.nodes["done"].body.ops
    assert plan.nodes["done"].condition == file.nodes["done"].condition
    assert plan.limits == file.limits


def test_a_loop_may_count_by_a_parameter_and_keep_a_conversation():
    builder = PlanBuilder()
    rounds = builder.param("rounds", type="int", default=2, max=8)
    first = builder.chat(user=builder.input("q"), name="first")
    last = builder.loop(
        count=rounds,
        carry={"said": first},
        body=lambda b, said: b.chat(history=said, user="Go on.", name="says"),
    )
    builder.output("o", builder.view(first, "history"))
    builder.output("p", last)
    plan = builder.build()
    loop = next(op for op in plan.ops if isinstance(op, Loop))
    assert (loop.count, loop.max_iterations, loop.carried[0].next) == ("rounds", 8, "says")
    assert isinstance(loop.body.ops[0], Chat)
    assert loop.body.ops[0].history == "said"
    assert parse_plan(encode_json(plan), is_json=True)[0] == plan


def test_maps_are_those_of_the_file():
    builder = PlanBuilder("ideas")
    topic = builder.input("topic")
    ideas = builder.chat(
        name="list",
        system='Answer with JSON like {"ideas": ["..."]}.',
        user=topic,
        max_tokens=256,
        retries=2,
        on_error={"default": '{"ideas": []}'},
    )
    best = builder.map(
        builder.formula("json(list).ideas", list=ideas),
        lambda b, idea: b.chat(
            name="pitch", user="Pitch " + idea + " for " + topic + ".", max_tokens=128
        ),
        max_items=10,
        item="idea",
        reduce="best_of",
        score="len(value)",
        name="best",
    )
    builder.output("pitch", best)
    assert builder.build() == example("map")


def test_races_are_those_of_the_file():
    builder = PlanBuilder("first-two")
    question = builder.input("question")

    def arm(name, seed):
        return lambda b: b.chat(name=name, user=question, temperature=0.8, seed=seed, timeout="30s")

    answer = builder.race(
        [arm("a", 1), arm("b", 2), arm("c", 3)], k=2, reduce="vote", name="answer"
    )
    builder.output("answer", answer)
    assert builder.build() == example("race")


def test_subplans_are_those_of_the_file():
    inner = PlanBuilder()
    claim = inner.input("claim")
    words, tone = inner.param("words", type="int"), inner.param("tone")
    pro = inner.chat(name="pro", system="Argue FOR, " + tone + ".", user=claim, max_tokens=64)
    con = inner.chat(name="con", system="Argue AGAINST, " + tone + ".", user=claim, max_tokens=64)
    prompt = "In " + words + " words, who is right?\nFOR: " + pro + "\nAGAINST: " + con
    inner.output("verdict", inner.chat(name="judge", user=prompt, max_tokens=64))
    inner.output("for", pro)
    inner.limit(max_llm_calls=3)  # of the inner plan alone: it does not count here

    builder = PlanBuilder("debate-and-summary")
    question = builder.input("question")
    length = builder.param("length", type="int", default=50, min=1, max=500)
    debate = builder.subplan(
        inner.build(),
        inputs={"claim": question},
        params={"words": length, "tone": "polite"},
        name="debate",
    )
    short = builder.slice(debate["verdict"], stop=20, unit="words", name="short")
    builder.output("verdict", short)
    builder.output("for", debate["for"])
    assert builder.build() == example("subplan")


def test_functions_stay_in_python_also_in_subplans():
    def shout(text):
        return text.upper() + "!"

    inner = PlanBuilder()
    said = inner.input("said")
    inner.output(
        "loud",
        inner.branch(
            inner.formula("len(said) > 1", said=said),
            then=lambda b: b.apply(shout, said, is_pure=True, name="call"),
        ),
    )
    builder = PlanBuilder()
    q = builder.input("q")
    loud = builder.subplan(inner.build(), inputs={"said": q + "?"}, name="s")["loud"]
    builder.output("o", builder.apply(len, loud, function_name="count"))
    plan = builder.build()
    function = Function(name="shout", call=shout, is_pure=True)
    branch = next(op for op in plan.ops if op.name.startswith("s/branch"))
    assert branch.then == Body(
        ops=(Lambda(name="s/call", function=function, args=("template_1",)),), result="s/call"
    )
    assert plan.functions["count"].call is len
    bad = PlanBuilder()
    bad.output("o", bad.apply(lambda: "x"))
    with pytest.raises(PlanError, match="is no name; give it one with function_name="):
        bad.build()


def test_one_function_may_be_the_body_of_several_loops():
    def twice(b, draft):
        return b.template(draft + draft)

    builder = PlanBuilder()
    first = builder.loop(count=1, carry={"draft": builder.input("q")}, body=twice)
    builder.output("o", builder.loop(count=2, carry={"draft": first}, body=twice))
    plan = builder.build()
    assert [op.carried[0].name for op in plan.ops] == ["draft", "draft_2"]


def test_a_condition_may_be_a_function_and_a_carried_name_hides_an_outer_one():
    def loop_of(condition):
        builder = PlanBuilder()
        draft = builder.chat(user=builder.input("q"), name="draft")
        more = builder.loop(
            carry={"draft": draft},
            body=lambda b, draft: draft + "!",
            condition=lambda b, **carried: condition(b, draft, **carried),
            max_iterations=3,
        )
        builder.output("o", more)
        return next(op for op in builder.build().ops if isinstance(op, Loop))

    def both(b, outer, draft):
        return b.formula("len(now) < len(then)", now=draft, then=outer)

    assert loop_of(both).condition.source == "len(draft_2) < len(draft)"
    builder = PlanBuilder()
    draft = builder.template(builder.input("q"), name="draft")
    builder.loop(
        carry={"draft": draft},
        body=lambda b, draft: draft + "!",
        condition="len(draft) < 9",
        max_iterations=3,
        name="more",
    )
    builder.output("o", draft)
    assert builder.build().nodes["more"].condition.source == "len(draft_2) < 9"


def test_joined_texts_become_templates_where_they_stand():
    builder = PlanBuilder()
    q = builder.input("q")
    each = builder.map("lines(q)", lambda b, item: item + "!", max_items=3)
    builder.output("o", builder.concat([each, q + "?"], separator="\n"))
    plan = builder.build()
    assert [type(op).__name__ for op in plan.all_ops] == ["Map", "Template", "Template", "Concat"]
    assert parse_plan(encode_json(plan), is_json=True)[0] == plan


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda b, q: b.loop(count=1, carry={}, body=lambda b: {}), TypeError, "to carry"),
        (
            lambda b, q: b.loop(count=1, carry={"a": q, "c": q}, body=lambda b, **_: {"a": q}),
            TypeError,
            r"the body must give \['a', 'c'\], not \['a'\]",
        ),
        (
            lambda b, q: b.loop(count=1, carry={"a": q}, body=lambda b, a: a, result="c"),
            TypeError,
            "the result is a carried name",
        ),
        (
            lambda b, q: b.branch(f"contains({q}, 'x')", then=lambda b: q),
            TypeError,
            "no text until",
        ),
        (
            lambda b, q: b.formula("contains(q, 'x'", q=q),
            FormulaError,
            "should stand before the end",
        ),
        (lambda b, q: b.formula("len(q)", r=q), TypeError, r"the names are \['q'\], not \['r'\]"),
        (lambda b, q: b.map("q", lambda b, item: 3, max_items=1), TypeError, "expected a string"),
        (
            lambda b, q: b.map("q", lambda b, item: PlanBuilder().input("x"), max_items=1),
            TypeError,
            "another builder",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(write, error, message):
    builder = PlanBuilder()
    with pytest.raises(error, match=message):
        write(builder, builder.input("q"))


def test_an_expression_cannot_leave_its_body():
    leaked = []
    builder = PlanBuilder()
    q = builder.input("q")
    each = builder.map(
        "lines(q)", lambda b, item: leaked.append(b.chat(user=item, name="c")) or q, max_items=2
    )
    builder.output("o", each + leaked[0])
    with pytest.raises(PlanError, match=r"\{\{c\}\} is inside of 'map_2' and cannot be seen here"):
        builder.build()


def test_a_body_that_fails_to_be_written_leaves_the_builder_in_its_scope():
    builder = PlanBuilder()
    q = builder.input("q")

    def broken(b):
        raise RuntimeError("a bug in the caller's own body")

    with pytest.raises(RuntimeError, match="own body"):
        builder.branch("len(q) > 1", then=broken)
    builder.output("o", builder.template(q, name="t"))
    assert [op.name for op in builder.build().ops] == ["t"]

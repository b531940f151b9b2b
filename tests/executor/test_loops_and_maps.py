"""Control flow by example: what runs how often, and that it is what a person would write out."""

import pytest

from helium_jax.errors import PlanError
from helium_jax.executor import NAIVE, RunOptions, prepare
from helium_jax.executor.events import OpCompleted, OpRow
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeGenerator
from tests.executor.test_executor import Engine, rows_of, run, to_bytes


def looped(count):
    builder = PlanBuilder()
    q = builder.input("q")
    draft = builder.loop(
        count=count,
        carry={"draft": builder.completion("Draft " + q)},
        body=lambda b, draft: b.completion("Improve " + draft),
    )
    builder.output("o", draft)
    return builder.build()


def unrolled(count):
    builder = PlanBuilder()
    draft = builder.completion("Draft " + builder.input("q"))
    for _ in range(count):
        draft = builder.completion("Improve " + draft)
    builder.output("o", draft)
    return builder.build()


async def test_5_14_a_counted_loop_is_what_a_hand_writes_out():
    for count in (0, 1, 4):
        one, other = Engine(), Engine()
        loop = await run(looped(count), rows_of(5), one)
        hand = await run(unrolled(count), rows_of(5), other)
        assert [row.outputs for row in loop.rows] == [row.outputs for row in hand.rows]
        prompts = [sorted(to_bytes(r) for r in engine.requests) for engine in (one, other)]
        assert prompts[0] == prompts[1]


async def test_the_count_of_a_loop_may_be_a_parameter():
    builder = PlanBuilder()
    rounds = builder.param("rounds", type="int", default=1, max=8)
    text = builder.loop(
        count=rounds,
        carry={"text": builder.input("q")},
        body=lambda b, text: b.completion("> " + text),
    )
    builder.output("o", text)
    engine = Engine()
    await run(builder.build(), rows_of(2), engine, params={"rounds": 3})
    assert len(engine.requests) == 6


async def test_a_batch_is_measured_by_the_iterations_it_asks_for():
    builder = PlanBuilder()
    rounds = builder.param("rounds", type="int", default=1, max=1_000)
    text = builder.loop(
        count=rounds,
        carry={"text": builder.input("q")},
        body=lambda b, text: b.completion("> " + text, max_tokens=10_000),
    )
    builder.output("o", text)
    plan, rows = builder.build(), rows_of(2_000)
    prepare(plan, rows, {"rounds": 2})
    prepare(plan, rows)  # the default counts
    with pytest.raises(PlanError, match="split the rows"):
        prepare(plan, rows, {"rounds": 1_000})


def asked_until_yes(max_iterations=10):
    builder = PlanBuilder()
    answer = builder.loop(
        condition="not contains(answer, 'x')",
        max_iterations=max_iterations,
        carry={"answer": builder.input("q")},
        body=lambda b, answer: b.completion("Again: " + answer, name="ask"),
        name="until",
    )
    builder.output("o", answer)
    return builder.build()


def counting(limits):
    """A model that says x after as many questions as the row's number asks for."""

    def reply(request):
        text = to_bytes(request).decode().removeprefix("Again: ")
        row, _, count = text.partition(" ")
        count = len(count) + 1
        done = " x" if count == limits[int(row)] else ""
        return list(f"{row} {'i' * count}{done}".encode())

    return FakeGenerator(reply=reply)


async def test_5_14_each_row_leaves_a_while_loop_when_its_own_answer_says_so():
    engine = counting({0: 1, 1: 4, 2: 2})
    rows = [{"q": str(row)} for row in range(3)]
    events = []
    result = await run(
        asked_until_yes(), rows, engine, on_event=lambda e: events.append(e.progress)
    )
    assert [row.outputs["o"] for row in result.rows] == ["0 i x", "1 iiii x", "2 ii x"]
    iterations = {(e.row, e.index) for e in events if isinstance(e, OpRow)}
    assert iterations == {(row, (i,)) for row, n in enumerate((1, 4, 2)) for i in range(n)}
    (done,) = [e for e in events if isinstance(e, OpCompleted)]
    assert (done.statistics.operator, done.statistics.num_done) == ("ask", 7)


async def test_5_14_a_while_loop_that_goes_on_too_long_fails_its_row_alone():
    engine = counting({0: 1, 1: 9, 2: 3})
    rows = [{"q": str(row)} for row in range(3)]
    result = await run(asked_until_yes(3), rows, engine)
    assert [row.outputs["o"] for row in result.rows] == ["0 i x", None, "2 iii x"]
    assert [(e.row, e.operator, e.code) for e in result.errors] == [(1, "until", "max_iterations")]


async def test_5_14_rows_branch_and_meet_again():
    builder = PlanBuilder()
    q = builder.input("q")
    merged = builder.branch(
        "contains(q, '1')",
        then=lambda b: b.completion("long " + q, name="long"),
        otherwise=lambda b: b.template("short " + q),
    )
    builder.output("o", builder.completion("Then: " + merged, name="after"))
    engine = Engine()
    result = await run(builder.build(), rows_of(3), engine)
    prompts = {to_bytes(request) for request in engine.requests}
    assert {b"long question 1", b"Then: short question 0", b"Then: short question 2"} <= prompts
    assert len(prompts) == 4
    assert result.errors == ()


async def test_5_14_a_map_runs_over_the_list_that_a_call_produced():
    def reply(request):
        text = to_bytes(request).decode()
        return list(b"one\ntwo\none") if text.startswith("List") else list(text[::-1].encode())

    builder = PlanBuilder()
    plan = builder.completion("List " + builder.input("q"), name="plan")
    done = builder.map(
        "lines(plan)", lambda b, item: b.completion("do " + item), max_items=5, separator="; "
    )
    builder.output("o", done)
    engine = FakeGenerator(reply=reply)
    result = await run(builder.build(), rows_of(1), engine, options=RunOptions())
    assert result.rows[0].outputs["o"] == "eno od; owt od; eno od"
    assert len(engine.requests) == 3  # equal items are one call
    assert plan is not None


async def test_5_14_maps_vote_and_choose():
    builder = PlanBuilder()
    q = builder.input("q")
    for kind, score in (("vote", None), ("best_of", "len(value)")):
        value = builder.map(
            "words(q)",
            lambda b, item: b.template("<" + item + ">"),
            max_items=9,
            reduce=kind,
            score=score,
            item=f"word_{kind}",
        )
        builder.output(kind, value)
    assert q is not None
    result = await run(builder.build(), [{"q": "a bbb a cc"}, {"q": ""}], Engine())
    assert [row.outputs for row in result.rows] == [
        {"vote": "<a>", "best_of": "<bbb>"},
        {"vote": "", "best_of": ""},
    ]


async def test_a_conversation_goes_on_with_the_pages_of_what_was_generated():
    builder = PlanBuilder()
    first = builder.chat(user="Tell me of " + builder.input("q"), name="first", max_tokens=40)
    second = builder.chat(user="Go on.", history=first, name="second")
    builder.output("all", builder.view(second, "history"))
    engine = FakeGenerator(max_answer_tokens=40, page_size=4)
    result = await run(builder.build(), rows_of(2), engine)
    spans = {(span.operator, span.row): span for span in result.statistics.spans}
    for row in range(2):
        before = spans["first", row]
        known = before.prompt_tokens + before.completion_tokens - 1
        assert spans["second", row].kv_cached >= before.prompt_tokens // 4 * 4
        assert spans["second", row].prompt_tokens > known
        assert result.rows[row].outputs["all"].count("assistant") == 2
    prompts = [request.token_ids for request in engine.requests]
    for row in range(2):
        mine = [
            ids for ids in prompts if f"question {row}".encode() in bytes(i for i in ids if i < 256)
        ]
        short, long = sorted(mine, key=len)
        assert long[: len(short)] == short


async def test_5_1_control_flow_gives_the_same_under_the_naive_mode():
    for plan in (looped(3), unrolled(3)):
        fast = await run(plan, rows_of(4), Engine())
        naive = await run(plan, rows_of(4), Engine(), options=NAIVE)
        assert [row.outputs for row in fast.rows] == [row.outputs for row in naive.rows]

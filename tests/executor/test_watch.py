"""Answers told as they grow, and a look at a run that goes on."""

import asyncio

from helium_jax.errors import InternalError
from helium_jax.executor import RunOptions, Session
from helium_jax.executor.events import OpAnswer, OpDelta, OpRow, RowCompleted
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.watch import RunWatch
from helium_jax.plan import plan_from_document
from helium_jax.testing import FakeGenerator, FakeText
from helium_jax.types import FinishReason, Usage

PLAN = {
    "version": "helium/v1",
    "inputs": {"q": {"type": "text"}},
    "ops": {
        "draft": {"type": "llm.chat", "user": "{{q}}", "max_tokens": 6},
        "final": {"type": "llm.chat", "user": "Improve: {{draft}}", "max_tokens": 6},
    },
    "outputs": {"draft": "draft", "final": "final"},
}
ROWS = [{"q": "one"}, {"q": "two"}, {"q": "one"}]


def plan_of(document=PLAN):
    return plan_from_document(document)[0]


def spell(events):
    """What the deltas spell for each place, and that they come before the place's OpRow."""
    texts, over = {}, set()
    for event in events:
        match event.progress:
            case OpDelta(operator=operator, row=row, text=text, offset=offset):
                assert (operator, row) not in over
                before = texts.get((operator, row), "")
                assert offset in (0, len(before))
                texts[operator, row] = before[:offset] + text
            case OpRow(operator=operator, row=row):
                over.add((operator, row))
    return texts


def values(events):
    told = [event.progress for event in events]
    return {
        (name, progress.result.row): text
        for progress in told
        if isinstance(progress, RowCompleted)
        for name, text in progress.result.outputs.items()
    }


async def run(generator, plan=None, *, output_cache=None, **kwargs):
    events = []
    session = Session(generator, FakeText(), output_cache=output_cache)
    result = await session.run(
        plan or plan_of(), ROWS, on_event=events.append, tells_rows=True, **kwargs
    )
    return events, result


async def test_deltas_spell_every_rows_values_also_those_of_equal_calls():
    events, _ = await run(FakeGenerator(), tells_deltas=True)
    assert spell(events) == values(events)
    assert len(spell(events)) == 6
    # Row 2 asks what row 0 does: it is told what was said before it came, and the rest with it.
    assert spell(events)["draft", 2] == spell(events)["draft", 0]


async def test_deltas_are_told_only_to_those_who_ask():
    events, _ = await run(FakeGenerator())
    assert spell(events) == {}


async def test_answers_tell_why_they_ended_and_what_they_cost_whoever_computed_them():
    def reply(request):
        is_long = b"one" in bytes(i for i in request.token_ids if i < 256)
        return list(b"abcdefgh"[: 8 if is_long else 3])

    document = {**PLAN, "ops": {"draft": PLAN["ops"]["draft"]}, "outputs": {"draft": "draft"}}
    cache = OutputCache()
    told = []
    for _ in range(2):
        events, _ = await run(
            FakeGenerator(reply=reply),
            plan_of(document),
            output_cache=cache,
            tells_answers=True,
            options=RunOptions(disabled_rules=frozenset({"fetch_cached_outputs"})),
        )
        found = [event.progress for event in events if isinstance(event.progress, OpAnswer)]
        told.append({one.row: (one.source, one.finish_reason, one.usage) for one in found})
    usages = [Usage(prompt_tokens=6, completion_tokens=n, kv_cached=0) for n in (6, 4)]
    length, stop = FinishReason.LENGTH, FinishReason.STOP
    assert told[0] == {
        0: ("computed", length, usages[0]),
        1: ("computed", stop, usages[1]),
        2: ("result", length, usages[0]),
    }
    assert told[1] == {row: ("result", *rest) for row, (_, *rest) in told[0].items()}
    events, _ = await run(FakeGenerator(reply=reply), plan_of(document))
    assert not any(isinstance(event.progress, OpAnswer) for event in events)


async def test_another_attempt_begins_anew():
    attempts = []

    def fail(request, num_sent):
        if num_sent == 2 and not attempts:
            attempts.append(request.request_id)
            return InternalError("once")
        return None

    document = {**PLAN, "ops": {n: {**op, "retries": 1} for n, op in PLAN["ops"].items()}}
    generator = FakeGenerator(fail=fail, max_answer_tokens=40)
    events, result = await run(generator, plan_of(document), tells_deltas=True)
    assert attempts
    assert not result.is_partial
    assert spell(events) == values(events)


async def test_what_stands_in_for_a_failed_answer_is_spelled_too():
    document = {
        **PLAN,
        "ops": {
            **PLAN["ops"],
            "draft": {**PLAN["ops"]["draft"], "on_error": {"default": "nothing"}},
        },
    }

    def fail(request, num_sent):
        is_draft = b"Improve" not in bytes(i for i in request.token_ids if i < 256)
        return InternalError("never") if is_draft and num_sent == 1 else None

    generator = FakeGenerator(fail=fail, reply=lambda request: [*b"abcdef"])
    events, _ = await run(generator, plan_of(document), tells_deltas=True)
    assert spell(events) == values(events)
    assert spell(events)["draft", 0] == "nothing"


async def test_a_run_can_be_looked_at_while_it_goes_on():
    gate = asyncio.Event()

    async def wait(request, num_sent):
        if num_sent == 1:
            await gate.wait()

    watch = RunWatch(max_bytes=1 << 20)
    assert watch.spans() == ()
    generator = FakeGenerator(before_event=wait, max_answer_tokens=40)
    task = asyncio.create_task(run(generator, watch=watch))
    async with asyncio.timeout(5):
        while not [s for s in watch.spans() if s.first_token is not None]:
            await asyncio.sleep(0.001)
    spans = watch.spans()
    assert {span.source for span in spans} == {"running"}
    assert {(span.operator, span.row) for span in spans} == {("draft", 0), ("draft", 1)}
    gate.set()
    _, result = await task
    assert watch.spans() == ()
    for span in result.statistics.spans:
        moments = [span.ready, span.encoded, span.submitted, span.admitted, span.first_token]
        assert None not in moments
        assert [*moments, span.finished] == sorted([*moments, span.finished])


async def test_prompts_are_kept_as_the_model_saw_them_within_a_bound():
    watch = RunWatch(max_bytes=1 << 20)
    generator = FakeGenerator()
    await run(generator, watch=watch)
    kept = watch.prompt("draft", 1, ())
    assert kept is not None
    assert tuple(kept.token_ids) == generator.requests[1].token_ids
    assert watch.prompt("draft", 2, ()) is None, "its equal call was made for row 0"
    assert len(watch.prompts) == 4
    assert watch.is_whole
    small = RunWatch(max_bytes=watch.num_bytes - 1)
    await run(FakeGenerator(), watch=small)
    assert (len(small.prompts), small.is_whole) == (3, False)

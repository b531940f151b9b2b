"""The Python face, with the built-in model."""

import json
import threading
from pathlib import Path

import jsonschema
import pytest

import helium_jax
from helium_jax.errors import RequestError

CONFIG = helium_jax.EngineConfig(
    page_size=16, num_pages=128, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=256
)
ROWS = [{"topic": "rivers"}, {"topic": "hills"}]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with helium_jax.load(config=CONFIG, state_dir=tmp_path_factory.mktemp("state")) as lm:
        yield lm


def refine():
    builder = helium_jax.PlanBuilder("refine")
    topic = builder.input("topic")
    first = builder.chat(user="Write about " + topic, max_tokens=6)
    better = builder.loop(
        carry={"draft": first},
        count=2,
        body=lambda b, draft: {"draft": b.chat(user="Improve: " + draft, max_tokens=6)},
    )
    builder.output("text", better)
    return builder


def test_a_batch_gives_what_single_calls_give(lm):
    prompts = ["One", "Two", "Three"]
    singles = [lm.generate(prompt, max_tokens=4).text for prompt in prompts]
    assert [answer.text for answer in lm.generate_batch(prompts, max_tokens=4)] == singles


def test_pieces_of_a_stream_make_the_answer(lm):
    messages = [{"role": "user", "content": "Hello"}]
    whole = lm.chat(messages, max_tokens=6)
    assert "".join(lm.stream_chat(messages, max_tokens=6)) == whole.text
    assert whole.usage.completion_tokens == len(whole.token_ids)


def test_a_stream_that_is_left_early_frees_its_pages(lm):
    pieces = lm.stream("Count: 1 2 3", max_tokens=100, ignore_eos=True)
    next(pieces)
    pieces.close()
    lm.generate("and on", max_tokens=1)
    assert lm.statistics()[0].num_running == 0


def test_a_plan_is_explained_run_and_then_served_from_the_cache(lm):
    plan = refine().build()
    before = lm.statistics()[0].num_prefill_tokens
    assert lm.explain(plan, ROWS).result is None
    assert lm.statistics()[0].num_prefill_tokens == before
    first = lm.run(plan, ROWS)
    assert first.status == "completed"
    report = lm.analyze(plan, ROWS)
    assert report.result.statistics.num_calls == 0
    assert [row.outputs for row in report.result.rows] == [row.outputs for row in first.rows]
    assert "Execution:" in helium_jax.explain_stages(report)
    naive = lm.run(plan, ROWS, options=helium_jax.NAIVE)
    assert [row.outputs for row in naive.rows] == [row.outputs for row in first.rows]
    assert naive.statistics.num_calls == 6


def test_plans_that_are_run_together_give_what_they_give_apart(lm):
    first, second = refine(), refine()
    prompt = "Once more: " + second.input("more")
    second.output("more", second.completion(prompt, name="again", max_tokens=4))
    plans = [first.build(), second.build()]
    rows = [ROWS, [row | {"more": row["topic"]} for row in ROWS]]
    apart = [lm.run(plan, own) for plan, own in zip(plans, rows, strict=True)]
    options = helium_jax.RunOptions(output_cache=False)
    together = lm.run_together([(plans[0], rows[0]), (plans[1], rows[1], {})], options=options)
    assert [[row.outputs for row in result.rows] for result in together] == [
        [row.outputs for row in result.rows] for result in apart
    ]
    assert together[1].statistics.num_calls == len(ROWS)
    with pytest.raises(RequestError, match=r"a Plan is no \(plan, rows\) or"):
        lm.run_together([plans[0]])


def test_what_is_no_plan_is_refused_with_a_hint(lm):
    with pytest.raises(RequestError, match=r"a PlanBuilder is no plan; call build\(\) first"):
        lm.run(refine(), ROWS)
    with pytest.raises(RequestError, match="a dict is no plan; give a Plan or a file"):
        lm.run({"ops": {}}, ROWS)


def test_a_closed_model_leaves_no_thread_and_says_so():
    before = set(threading.enumerate())
    lm = helium_jax.load(config=CONFIG)
    lm.close()
    lm.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RequestError, match="closed; load it again"):
        lm.generate("x")


def test_several_workers_give_the_same_answers(lm):
    plan = refine().build()
    alone = lm.run(plan, ROWS)
    with helium_jax.load(config=CONFIG, num_workers=2) as pool:
        together = pool.run(plan, ROWS)
        assert len(pool.statistics()) == 2
    assert [row.outputs for row in together.rows] == [row.outputs for row in alone.rows]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}


def test_answers_look_as_they_must(lm):
    wanted = {"type": "json_schema", "schema": PERSON}
    prompts = ["Who?", "And you?"]
    answers = lm.generate_batch(prompts, max_tokens=60, temperature=1.0, response_format=wanted)
    for answer in answers:
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), PERSON)
    question = [{"role": "user", "content": "Yes or no?"}]
    choice = {"type": "choice", "choices": ["yes", "no"]}
    assert lm.chat(question, response_format=choice).text in ("yes", "no")
    pieces = lm.stream_chat(question, response_format={"type": "regex", "pattern": "[0-9]{3}"})
    assert "".join(pieces).isdecimal()


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"type": "regex", "pattern": "(a"}, "response_format"),
        ({"type": "regex"}, "response_format.pattern"),
        ({"type": "nothing"}, "response_format.type"),
    ],
)
def test_a_wrong_response_format_is_a_request_error(lm, wanted, param):
    with pytest.raises(RequestError) as caught:
        lm.generate("x", response_format=wanted)
    assert caught.value.param == param


def test_a_plan_maps_over_a_list_that_the_model_had_to_make(lm):
    example = Path(__file__).parent / "plan" / "examples" / "structured.yaml"
    rows = [{"text": "Rivers are wet. Hills are high."}, {"text": "Two and two."}]
    result = lm.run(example, rows)
    assert result.errors == ()
    for row in result.rows:
        claims = json.loads(row.outputs["claims"])
        assert 1 <= len(claims) <= 2
        assert all(isinstance(claim, str) and len(claim) <= 8 for claim in claims)
        assert row.outputs["verdict"] in ("true", "false")
    # Answers that had to look like something are kept as such: the same plan asks for nothing.
    again = lm.run(example, rows)
    assert [row.outputs for row in again.rows] == [row.outputs for row in result.rows]
    assert again.statistics.computed == 0

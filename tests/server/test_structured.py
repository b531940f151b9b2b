"""response_format and vLLM's spellings over HTTP: what they allow, and that they mean the same."""

import json

import pytest

from helium_jax.testing import FakeGenerator

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "label": {"enum": ["é", "b"]}},
    "required": ["x", "label"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "point", "strict": True, "schema": POINT}}
OBJECT = {"type": "json_object"}
LARK = 'start: "yes" | "no"'


def say(text, words, **options):
    """A generator that says `words`, as far as it may."""
    ids = tuple(text.encode(words, add_special_tokens=False))
    return FakeGenerator(reply=lambda request: ids, **options)


@pytest.mark.parametrize(
    ("fields", "wanted", "said"),
    [
        ({"response_format": NAMED}, '{"x": 12, "label": "é"}', '{"x": 12, "label": "é"}'),
        ({"response_format": OBJECT}, '{"a": [1, null]}', '{"a": [1, null]}'),
        ({"guided_json": POINT}, '{"x": 1, "label": "b"}', '{"x": 1, "label": "b"}'),
        ({"guided_regex": "[a-c]{3}"}, "abcabc", "abc"),
        ({"guided_choice": ["left", "right"]}, "right now", "right"),
        ({"guided_grammar": LARK}, "no way", "no"),
        ({"structured_outputs": {"json_object": True}}, "{}", "{}"),
    ],
    ids=json.dumps,
)
async def test_an_answer_is_held_to_its_format(serve, text, fields, wanted, said):
    async with serve(say(text, wanted)) as served:
        (chosen,) = (await served.chat(max_tokens=100, **fields)).json()["choices"]
        assert (chosen["message"]["content"], chosen["finish_reason"]) == (said, "stop")
        (completed,) = (await served.complete(max_tokens=100, **fields)).json()["choices"]
        assert (completed["text"], completed["finish_reason"]) == (said, "stop")


async def test_what_a_model_would_rather_say_is_not_said(serve, text):
    async with serve(say(text, "Sure! Here it is: {}")) as served:
        body = (await served.chat(max_tokens=200, guided_regex="[0-9]{3}")).json()
    assert body["choices"][0]["message"]["content"].isdecimal()


@pytest.mark.parametrize(
    "spellings",
    [
        [
            {"response_format": NAMED},
            {"guided_json": POINT},
            {"guided_json": json.dumps(POINT)},
            {"structured_outputs": {"json": POINT}},
            {"structured_outputs": {"json": json.dumps(POINT)}},
        ],
        [{"response_format": OBJECT}, {"structured_outputs": {"json_object": True}}],
        [{"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}}],
        [{"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}],
        [{"guided_grammar": LARK}, {"structured_outputs": {"grammar": LARK}}],
    ],
    ids=["schema", "object", "regex", "choice", "grammar"],
)
async def test_spellings_mean_the_same_grammar(serve, spellings):
    async with serve() as served:
        for fields in spellings:
            assert (await served.chat(**fields)).status == 200
            assert (await served.complete(**fields)).status == 200
        keys = {request.grammar.key for request in served.generator.requests}
    assert len(keys) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"response_format": None, "structured_outputs": {}, "guided_json": None},
        {"structured_outputs": {"json_object": False}},
    ],
    ids=json.dumps,
)
async def test_without_a_format_there_is_no_grammar(serve, fields):
    async with serve() as served:
        assert (await served.chat(**fields)).status == 200
        assert served.generator.requests[0].grammar is None


async def test_a_stream_says_what_the_whole_answer_says(serve, text):
    async with serve(say(text, '{"x": 5, "label": "b"}')) as served:
        fields = {"response_format": NAMED, "max_tokens": 100}
        whole = (await served.chat(**fields)).json()["choices"][0]["message"]["content"]
        *chunks, _ = (await served.chat(**fields, stream=True)).events()
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == whole


async def test_every_answer_and_every_prompt_is_held_to_the_format(serve):
    async with serve() as served:
        body = (await served.complete(prompt=["a", "b"], n=2, guided_choice=["up", "down"])).json()
    assert all(choice["text"] in ("up", "down") for choice in body["choices"])
    assert len(body["choices"]) == 4


async def test_a_schema_is_compiled_once_and_kept(serve, text):
    async with serve() as served:
        for _ in range(3):
            await served.chat(response_format=NAMED)
        first, *others = [request.grammar for request in served.generator.requests]
    assert all(other is first for other in others)


@pytest.mark.parametrize("field", ["whitespace_pattern", "structural_tag"])
async def test_fields_of_vllms_with_an_effect_that_is_not_here_are_refused(serve, field):
    async with serve() as served:
        answer = await served.chat(structured_outputs={"choice": ["a"], field: "x"})
        assert (answer.status, answer.error["code"]) == (400, "unsupported_parameter")
        assert answer.error["param"] == f"structured_outputs.{field}"


async def test_the_answers_before_and_after_a_bad_schema_are_the_same(serve):
    async with serve() as served:
        before = (await served.chat(response_format=NAMED)).json()["choices"]
        for schema in ({"type": "odd"}, {"enum": []}, {"pattern": "(?=a)"}):
            wrong = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
            assert (await served.chat(response_format=wrong)).status == 400
        assert (await served.chat(response_format=NAMED)).json()["choices"] == before

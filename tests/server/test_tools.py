"""Tools over HTTP: what the model is told, what it is held to, and how its calls come back."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helium_jax.errors import RequestError
from helium_jax.server.tools import HERMES
from helium_jax.testing import FakeGenerator

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "How it is outside.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ASKED = {"tools": [WEATHER, NOW], "max_tokens": 1000}
ROME = HERMES.write_call("get_weather", '{"city": "Rom é"}')
TIME = HERMES.write_call("now", "{}")


def say(text, words, **options):
    """A generator that always says `words`."""
    ids = tuple(text.encode(words, add_special_tokens=False))
    return FakeGenerator(reply=lambda request: ids, **options)


def without_ids(message):
    """A message whose calls have numbers for ids, which must be unlike each other."""
    calls = message.get("tool_calls") or []
    assert len({call["id"] for call in calls}) == len(calls)
    assert all(call["id"].startswith("call_") for call in calls)
    return {**message, "tool_calls": [{**call, "id": i} for i, call in enumerate(calls)]}


def put_together(chunks):
    """Message and finish reason out of a stream, each call's id, type and name coming once."""
    message, reason = {"content": None, "tool_calls": []}, None
    for chunk in chunks:
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        if delta.get("content") is not None:
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(message["tool_calls"]):
                assert set(call) == {"index", "id", "type", "function"}
                entry = {key: call[key] for key in ("id", "type", "function")}
                message["tool_calls"].append(entry)
            else:
                assert set(call) == {"index", "function"}
                assert set(call["function"]) == {"arguments"}
                entry = message["tool_calls"][call["index"]]
                entry["function"]["arguments"] += call["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    return message, reason


async def test_calls_come_back_beside_the_text(serve, text):
    async with serve(say(text, f"Let me see.\n{ROME}\n{TIME}")) as served:
        (choice,) = (await served.chat(**ASKED)).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert without_ids(choice["message"]) == {
        "role": "assistant",
        "content": "Let me see.",
        "refusal": None,
        "tool_calls": [
            {
                "id": 0,
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Rom é"}'},
            },
            {"id": 1, "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }


async def test_an_answer_of_calls_alone_has_no_content(serve, text):
    async with serve(say(text, ROME)) as served:
        (choice,) = (await served.chat(**ASKED)).json()["choices"]
        assert choice["message"]["content"] is None
        *chunks, _ = (await served.chat(**ASKED, stream=True)).events()
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
        assert all("content" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])


async def test_an_answer_without_calls_is_as_ever(serve, text):
    async with serve(say(text, "No need.")) as served:
        (choice,) = (await served.chat(**ASKED)).json()["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["message"] == {"role": "assistant", "content": "No need.", "refusal": None}


ANSWERS = st.builds(
    lambda words, calls: words + "\n".join(calls),
    st.text(alphabet="ab<\n é", max_size=12),
    st.lists(st.sampled_from((ROME, TIME)), max_size=3),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(answer=ANSWERS, tokens=st.integers(1, 40), limit=st.integers(1, 200))
async def test_a_stream_put_together_is_the_whole_answer(serve, text, answer, tokens, limit):
    async with serve(say(text, answer, tokens_per_event=tokens)) as served:
        asked = {**ASKED, "max_tokens": limit}
        (choice,) = (await served.chat(**asked)).json()["choices"]
        *chunks, done = (await served.chat(**asked, stream=True)).events()
    assert done == "[DONE]"
    message, reason = put_together(chunks)
    assert reason == choice["finish_reason"]
    whole = without_ids(choice["message"])
    assert without_ids(message) == {key: whole[key] for key in ("content", "tool_calls")}


async def test_several_answers_have_calls_of_their_own(serve, text):
    async with serve(say(text, f"{TIME}\n{TIME}")) as served:
        choices = (await served.chat(**ASKED, n=3)).json()["choices"]
    ids = [call["id"] for choice in choices for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 6


async def test_a_call_that_was_cut_off_is_no_finished_call(serve, text):
    limit = len(HERMES.opening) + len('get_weather", "arguments": {"city"')
    async with serve(say(text, ROME)) as served:
        (choice,) = (await served.chat(**{**ASKED, "max_tokens": limit})).json()["choices"]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city"'


async def test_a_stop_string_within_a_call_leaves_the_reason_stop(serve, text):
    async with serve(say(text, ROME)) as served:
        (choice,) = (await served.chat(**ASKED, stop="Rom")).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "'


async def test_log_probabilities_cover_calls_too(serve, text):
    async with serve(say(text, f"Hm. {TIME}")) as served:
        body = (await served.chat(**ASKED, logprobs=True)).json()
        *chunks, _ = (await served.chat(**ASKED, logprobs=True, stream=True)).events()
    entries = body["choices"][0]["logprobs"]["content"]
    assert len(entries) == body["usage"]["completion_tokens"]
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry for one in streamed if one for entry in one["content"]] == entries


async def test_the_model_is_told_of_tools_calls_and_results(serve, text):
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "noon"}]},
    ]
    async with serve() as served:
        assert (await served.chat(**ASKED, messages=messages)).status == 200
        (request,) = served.generator.requests
        counted = await served.post("/tokenize", {"messages": messages, "tools": ASKED["tools"]})
    prompt = text.decode(request.token_ids)
    assert prompt.startswith("system: You can call functions.")
    assert '{"name": "get_weather", "description": "How it is outside."' in prompt
    assert f"assistant: {TIME}\n" in prompt
    assert "user: <tool_response>\nnoon\n</tool_response>\n" in prompt
    assert counted.json()["tokens"] == list(request.token_ids)


async def test_tool_choice_none_says_nothing_of_tools(serve, text):
    async with serve(say(text, ROME)) as served:
        body = (await served.chat(**ASKED, tool_choice="none")).json()
        plain = (await served.chat(max_tokens=1000)).json()
        with_tools, without = served.generator.requests
    assert with_tools.token_ids == without.token_ids
    assert with_tools.grammar is None
    assert body["choices"] == plain["choices"]


def allows(text, grammar, words):
    state = grammar.start()
    try:
        for token in text.encode(words, add_special_tokens=False):
            state.accept(token)
    except RequestError:
        return False
    return state.is_accepting


NAMED = {"type": "function", "function": {"name": "now"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({}, ["text", ROME, TIME, f"text {ROME}\n{TIME}"]),
        ({"tool_choice": "auto"}, ["text", ROME, TIME, f"text {ROME}\n{TIME}"]),
        ({"parallel_tool_calls": False}, ["text", ROME, TIME]),
        ({"tool_choice": "required"}, [ROME, TIME]),
        ({"tool_choice": NAMED}, [TIME]),
        ({"tool_choice": ALLOWED}, ["text", TIME]),
        (
            {"response_format": {"type": "json_object"}},
            [ROME, TIME, '{"a": 1}'],
        ),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, [ROME, TIME]),
    ],
    ids=json.dumps,
)
async def test_the_answer_is_held_to_the_choice(serve, text, fields, allowed):
    async with serve() as served:
        assert (await served.chat(**ASKED, **fields)).status == 200
        (request,) = served.generator.requests
    wrong = HERMES.write_call("get_weather", '{"town": "Rome"}')
    answers = ["text", ROME, TIME, f"text {ROME}\n{TIME}", '{"a": 1}', wrong]
    held = [one for one in answers if allows(text, request.grammar, one)]
    expected = {*allowed, '{"a": 1}'} if "text" in allowed else set(allowed)
    assert set(held) == expected


async def test_arguments_that_are_no_object_are_shown_to_the_model_as_they_are(serve, text):
    call = {"id": "c1", "function": {"name": "now", "arguments": '{"cut off'}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "?"}]
    async with serve() as served:
        assert (await served.chat(messages=messages)).status == 200
        (request,) = served.generator.requests
    assert '"arguments": "{\\"cut off"' in text.decode(request.token_ids)

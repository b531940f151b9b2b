"""Formats and tools before the real engine: a small model that knows neither is held to both."""

import asyncio
import json

import anthropic
import jsonschema
import openai
import pytest
import pytest_asyncio

from helium_jax.config import EngineConfig
from helium_jax.runtime import open_runtime
from tests.server.conftest import serve_runtime
from tests.server.test_tools import put_together, without_ids

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENGINE = EngineConfig(
    page_size=16,
    num_pages=80,
    max_num_seqs=2,
    max_num_batched_tokens=8,
    max_model_len=640,
    deterministic=True,
)
CITY = {"enum": ["Rome", "Oslo"]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "How it is.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": CITY,
                    "days": {"type": "integer", "minimum": 0, "maximum": 9},
                },
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in TOOLS}
ASK = {
    "model": "helium-tiny",
    "messages": [{"role": "user", "content": "How is it in Rome?"}],
    "temperature": 0,
    "max_tokens": 64,
}
POINT = {
    "type": "object",
    "properties": {"city": CITY, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served():
    async with open_runtime("helium-tiny", ENGINE) as runtime, serve_runtime(runtime) as running:
        yield running


def check_call(call):
    arguments = json.loads(call["function"]["arguments"])
    jsonschema.validate(arguments, SCHEMAS[call["function"]["name"]])


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "now"}),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}),
    ],
    ids=["required", "named"],
)
async def test_a_model_that_knows_no_tools_makes_valid_calls(served, choice, names):
    fields = {**ASK, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
    (whole,) = (await served.chat(**fields)).json()["choices"]
    assert whole["finish_reason"] == "tool_calls"
    message = without_ids(whole["message"])
    (call,) = message["tool_calls"]
    assert call["function"]["name"] in names
    jsonschema.validate(
        json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]]
    )
    *chunks, done = (await served.chat(**fields, stream=True)).events()
    assert done == "[DONE]"
    streamed, reason = put_together(chunks)
    assert (without_ids(streamed)["tool_calls"], reason) == (message["tool_calls"], "tool_calls")


async def test_sampled_calls_are_valid_too(served):
    fields = {**ASK, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    body = (await served.chat(**{**fields, "temperature": 2, "n": 4, "seed": 3})).json()
    for choice in body["choices"]:
        (call,) = choice["message"]["tool_calls"]
        check_call(call)


async def test_with_a_free_choice_the_model_may_answer_in_words(served):
    free = (await served.chat(**{**ASK, "max_tokens": 12}, tools=TOOLS)).json()
    assert free["choices"][0]["message"]["content"]
    assert free["usage"]["completion_tokens"] <= 12


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="schema")
async def test_an_answer_meets_its_schema_through_the_openai_client(served):
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none") as client:
        wanted = {"type": "json_schema", "json_schema": {"name": "point", "schema": POINT}}
        answer = await client.chat.completions.create(**ASK, response_format=wanted)
        jsonschema.validate(json.loads(answer.choices[0].message.content), POINT)
        assert answer.choices[0].finish_reason == "stop"
        stream = await client.chat.completions.create(**ASK, response_format=wanted, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == answer.choices[0].message.content


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="tools, real engine")
async def test_calls_meet_their_schemas_through_the_anthropic_client(served):
    schema = SCHEMAS["weather"]
    async with anthropic.AsyncAnthropic(base_url=served.url, api_key="none") as client:
        fields = {
            "model": "helium-tiny",
            "messages": ASK["messages"],
            "max_tokens": 64,
            "tools": [{"name": "weather", "input_schema": schema}],
            "tool_choice": {"type": "tool", "name": "weather"},
            "extra_body": {"temperature": 0},
        }
        whole = await client.messages.create(**fields)
        async with client.messages.stream(**fields) as stream:
            streamed = await stream.get_final_message()
    for answer in (whole, streamed):
        (call,) = answer.content
        jsonschema.validate(call.input, schema)
        assert answer.stop_reason == "tool_use"
    assert streamed.content[0].input == whole.content[0].input


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="tools, real engine")
async def test_calls_meet_their_schemas_through_the_responses_api(served):
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none") as client:
        fields = {
            "model": "helium-tiny",
            "input": ASK["messages"],
            "temperature": 0,
            "max_output_tokens": 64,
            "tools": [{"type": "function", **TOOLS[0]["function"]}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        }
        whole = await client.responses.create(**fields)
        stream = [event async for event in await client.responses.create(**fields, stream=True)]
    for response in (whole, stream[-1].response):
        (call,) = response.output
        jsonschema.validate(json.loads(call.arguments), SCHEMAS["weather"])
        assert sum(response.usage.helium.values()) == response.usage.input_tokens
    assert stream[-1].response.output[0].arguments == whole.output[0].arguments


async def test_held_and_free_answers_run_side_by_side_and_stay_what_they_were(served):
    free = {**ASK, "max_tokens": 24}
    held = {**ASK, "guided_regex": "[a-z]{3} [a-z]{3}"}
    alone = [(await served.chat(**fields)).json()["choices"] for fields in (free, held)]
    answers = await asyncio.gather(*(served.chat(**fields) for fields in [free, held] * 3))
    for i, answer in enumerate(answers):
        assert answer.json()["choices"] == alone[i % 2]


async def test_after_a_bad_schema_the_next_answer_is_the_same_bit_for_bit(served):
    good = {**ASK, "guided_choice": ["Rome", "Oslo"], "logprobs": True}
    await served.chat(**good)  # from here on its prompt is read from the cache
    before = (await served.chat(**good)).json()["choices"]
    for wrong in ({"guided_choice": []}, {"guided_choice": None, "guided_regex": "(?=a)"}):
        assert (await served.chat(**{**good, **wrong})).status == 400
    assert (await served.chat(**good)).json()["choices"] == before


async def test_nothing_was_compiled_after_the_start(served):
    lines = (await served.get("/metrics")).body.decode().splitlines()
    assert 'helium:recompiles_after_warmup_total{worker="0"} 0.0' in lines

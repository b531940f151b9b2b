"""The official openai client with tools and parsed outputs: sync, async, streamed, errors."""

import asyncio
from typing import Literal

import openai
import pydantic
import pytest

from helium_jax.server.tools import HERMES
from helium_jax.testing import FakeGenerator

ASK = {
    "model": "fake",
    "messages": [{"role": "user", "content": "How is it in Rome?"}],
    "temperature": 0,
    "max_tokens": 300,
}


class Report(pydantic.BaseModel):
    """What is wanted as an answer."""

    city: Literal["Rome", "Oslo"]
    degrees: int
    words: list[str] = pydantic.Field(max_length=2)


class GetWeather(pydantic.BaseModel):
    """How it is outside."""

    city: str
    days: int | None = None


TOOL = openai.pydantic_function_tool(GetWeather, name="get_weather")
CALL = HERMES.write_call("get_weather", '{"city": "Rome", "days": null}')
REPORT = '{"city": "Rome", "degrees": 21, "words": ["mild"]}'


def say(text, *answers):
    """A generator that says one answer after the other, as far as it may."""
    left = [tuple(text.encode(words, add_special_tokens=False)) for words in answers]
    return FakeGenerator(reply=lambda request: left.pop(0) if len(left) > 1 else left[0])


def connect(served):
    return openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="parsed output")
async def test_an_answer_is_parsed_into_a_model(serve, text):
    async with serve(say(text, REPORT)) as served, connect(served) as client:
        answer = await client.chat.completions.parse(**ASK, response_format=Report)
        assert answer.choices[0].message.parsed == Report(city="Rome", degrees=21, words=["mild"])


async def test_a_model_that_will_not_say_json_is_made_to(serve, text):
    async with serve(say(text, "I would rather not.")) as served, connect(served) as client:
        answer = await client.chat.completions.parse(
            **{**ASK, "max_tokens": 3000}, response_format=Report
        )
        assert isinstance(answer.choices[0].message.parsed, Report)


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="tools")
async def test_calls_are_parsed_into_models_and_their_results_go_back(serve, text):
    async with serve(say(text, CALL, "It is mild.")) as served, connect(served) as client:
        answer = await client.chat.completions.parse(**ASK, tools=[TOOL])
        message = answer.choices[0].message
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = message.tool_calls
        assert call.function.parsed_arguments == GetWeather(city="Rome")
        messages = [
            *ASK["messages"],
            message.model_dump(exclude={"parsed"}),
            {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"},
        ]
        after = await client.chat.completions.create(**{**ASK, "messages": messages}, tools=[TOOL])
        assert after.choices[0].message.content == "It is mild."
        prompt = text.decode(served.generator.requests[-1].token_ids)
        assert CALL in prompt
        assert "21 degrees" in prompt


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="tools, streamed")
async def test_the_streaming_helper_puts_calls_together(serve, text):
    async with (
        serve(say(text, "Let me see. " + CALL)) as served,
        connect(served) as client,
        client.chat.completions.stream(**ASK, tools=[TOOL]) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert final.choices[0].message.content == "Let me see."
    assert final.choices[0].finish_reason == "tool_calls"
    assert call.function.parsed_arguments == GetWeather(city="Rome")
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert "".join(e.arguments_delta for e in deltas) == call.function.arguments
    assert [e.name for e in events if e.type == "tool_calls.function.arguments.done"] == [
        "get_weather"
    ]


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="parsed, streamed")
async def test_the_streaming_helper_parses_outputs(serve, text):
    async with (
        serve(say(text, REPORT)) as served,
        connect(served) as client,
        client.chat.completions.stream(**ASK, response_format=Report) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Report(city="Rome", degrees=21, words=["mild"])


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="tools and parsed")
async def test_outputs_and_tools_may_be_wanted_together(serve, text):
    fields = {"response_format": Report, "tools": [TOOL]}
    async with serve(say(text, REPORT, CALL)) as served, connect(served) as client:
        said = await client.chat.completions.parse(**ASK, **fields)
        called = await client.chat.completions.parse(**ASK, **fields)
    assert said.choices[0].message.parsed.degrees == 21
    assert called.choices[0].message.tool_calls[0].function.name == "get_weather"


async def test_an_answer_that_was_cut_off_is_the_clients_own_error(serve, text):
    async with serve(say(text, REPORT)) as served, connect(served) as client:
        with pytest.raises(openai.LengthFinishReasonError):
            await client.chat.completions.parse(**{**ASK, "max_tokens": 9}, response_format=Report)


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="tools, sync")
async def test_the_sync_client(serve, text):
    def talk(url):
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(**ASK, tools=[TOOL], tool_choice="required")
            with client.chat.completions.stream(**ASK, tools=[TOOL]) as stream:
                final = stream.get_final_completion()
            parsed = client.chat.completions.parse(**ASK, response_format=Report)
        return whole, final, parsed

    async with serve(say(text, CALL, CALL, REPORT)) as served:
        whole, final, parsed = await asyncio.to_thread(talk, served.url)
    calls = [one.choices[0].message.tool_calls[0].function for one in (whole, final)]
    assert calls[0].arguments == calls[1].arguments == '{"city": "Rome", "days": null}'
    assert parsed.choices[0].message.parsed.city == "Rome"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "odd"}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
    ],
)
@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="errors of tools")
async def test_faults_of_tools_and_formats_are_bad_requests(serve, fields, param):
    async with serve() as served, connect(served) as client:
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.chat.completions.create(**ASK, **fields)
    assert wrong.value.param == param

"""The official openai client on /v1/responses: sync, async, streamed, tools, parsed, errors."""

import asyncio

import openai
import pydantic
import pytest

from helium_jax.errors import CapacityError
from helium_jax.server.tools import HERMES
from helium_jax.testing import FakeGenerator

ASK = {"model": "fake", "input": "How is it in Rome?", "temperature": 0, "max_output_tokens": 300}


class Report(pydantic.BaseModel):
    """What is wanted as an answer."""

    city: str
    degrees: int


class GetWeather(pydantic.BaseModel):
    """How it is outside."""

    city: str


TOOL = openai.pydantic_function_tool(GetWeather, name="get_weather")["function"]
TOOL = {"type": "function", **TOOL}
CALL = HERMES.write_call("get_weather", '{"city": "Rome"}')
REPORT = '{"city": "Rome", "degrees": 21}'


def say(text, *answers, **options):
    """A generator that says one answer after the other."""
    left = [tuple(text.encode(words, add_special_tokens=False)) for words in answers]
    return FakeGenerator(reply=lambda request: left.pop(0) if len(left) > 1 else left[0], **options)


def connect(served, **options):
    url = served.url + "/v1"
    return openai.AsyncOpenAI(base_url=url, **{"api_key": "none", "max_retries": 0, **options})


def seen(response):
    """The output without the ids, which differ from answer to answer."""
    kept = {"type", "status", "name", "arguments", "content", "role"}
    items = [item.model_dump(include=kept) for item in response.output]
    for part in (part for item in items for part in item.get("content", ())):
        part.pop("parsed", None)
    return items


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="whole and stream")
async def test_a_stream_adds_up_to_the_whole(serve, text):
    async with serve(say(text, "Mild, and € 3.")) as served, connect(served) as client:
        whole = await client.responses.create(**ASK)
        assert (whole.status, whole.output_text) == ("completed", "Mild, and € 3.")
        texts, types = [], []
        async for event in await client.responses.create(**ASK, stream=True):
            types.append(event.type)
            assert event.sequence_number == len(types) - 1
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
        assert "".join(texts) == whole.output_text
        assert len(texts) > 3
        assert [one for one in types if one != "response.output_text.delta"] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert seen(event.response) == seen(whole)
        assert event.response.usage.total_tokens == whole.usage.total_tokens
        cost = event.response.usage.helium
        assert cost["computed"] + cost["kv_cached"] == event.response.usage.input_tokens


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="tools, conversation by id")
async def test_calls_and_their_outputs_go_on_from_the_earlier_response(serve, text):
    generator = say(text, "Let me see. " + CALL, "It is mild.")
    async with serve(generator) as served, connect(served) as client:
        asked = await client.responses.create(**ASK, tools=[TOOL], instructions="Be brief.")
        said, call = asked.output
        assert (said.content[0].text, call.name) == ("Let me see.", "get_weather")
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
        after = await client.responses.create(
            **{**ASK, "input": [output]}, tools=[TOOL], previous_response_id=asked.id
        )
        assert after.output_text == "It is mild."
        by_id = text.decode(served.generator.requests[-1].token_ids)
        assert "Be brief." in text.decode(served.generator.requests[-2].token_ids)
        assert "Be brief." not in by_id
        for words in ("How is it in Rome?", CALL, "21 degrees"):
            assert words in by_id
        # The same conversation sent whole is the same prompt.
        items = [{"role": "user", "content": ASK["input"]}, *asked.output, output]
        await client.responses.create(**{**ASK, "input": items}, tools=[TOOL])
        assert text.decode(served.generator.requests[-1].token_ids) == by_id


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="tools, streamed")
async def test_the_streaming_helper_puts_calls_together(serve, text):
    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    async with serve(say(text, f"Hm.\n{CALL}\n{CALL}")) as served, connect(served) as client:
        whole = await client.responses.create(**ASK, tools=[TOOL])
        async with client.responses.stream(**ASK, tools=[tool]) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    assert seen(final) == seen(whole)
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    calls = final.output[1:]
    assert [call.parsed_arguments for call in calls] == [GetWeather(city="Rome")] * 2
    assert calls[0].call_id != calls[1].call_id
    for i, call in enumerate(calls, start=1):
        own = [e for e in events if getattr(e, "output_index", None) == i]
        deltas = [e.delta for e in own if e.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == call.arguments
        (done,) = [e for e in own if e.type == "response.function_call_arguments.done"]
        assert done.arguments == call.arguments


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="parsed output")
async def test_an_answer_is_parsed_into_a_model(serve, text):
    async with serve(say(text, "Sure! " + REPORT, REPORT)) as served, connect(served) as client:
        made = await client.responses.parse(
            **{**ASK, "max_output_tokens": 3000}, text_format=Report
        )
        assert isinstance(made.output_parsed, Report)
        told = await client.responses.parse(**ASK, text_format=Report)
        assert told.output_parsed == Report(city="Rome", degrees=21)
        async with client.responses.stream(**ASK, text_format=Report) as stream:
            final = await stream.get_final_response()
        assert final.output_parsed == told.output_parsed


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="sync")
async def test_the_sync_client(serve, text):
    def talk(url):
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            whole = client.responses.create(**ASK)
            with client.responses.create(**ASK, stream=True) as stream:
                *_, last = stream
            kept = client.responses.retrieve(whole.id)
            with pytest.raises(openai.BadRequestError) as unknown:
                client.responses.create(**ASK, tools=[{"type": "web_search"}])
        return whole, last, kept, unknown.value

    async with serve(say(text, "Mild.")) as served:
        whole, last, kept, unknown = await asyncio.to_thread(talk, served.url)
    assert seen(whole) == seen(last.response)
    assert kept == whole
    assert (unknown.code, unknown.param) == ("unsupported_parameter", "tools[0].type")
    assert "web_search" in unknown.message


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="errors")
async def test_errors_are_the_clients_own_classes(serve, text):
    full = FakeGenerator(fail=lambda request, sent: CapacityError("full"))
    async with (
        serve(full, api_keys=("right",)) as served,
        connect(served, api_key="wrong") as client,
    ):
        with pytest.raises(openai.AuthenticationError):
            await client.responses.create(**ASK)
    async with serve(full) as served, connect(served) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.responses.create(**ASK, previous_response_id="resp_0")
        assert unknown.value.code == "previous_response_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.responses.create(**{**ASK, "top_p": 7})
        assert bad.value.param == "top_p"
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(**ASK)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete("resp_0")


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="stream error")
async def test_an_error_in_mid_stream_raises_and_is_told(serve):
    def fail(request, sent):
        return CapacityError("gone") if sent == 1 else None

    async with serve(FakeGenerator(fail=fail)) as served, connect(served) as client:
        stream = await client.responses.create(**ASK, stream=True, extra_body={"min_tokens": 3})
        events = []

        async def read():
            async for event in stream:
                events.append(event)

        with pytest.raises(openai.APIError, match="gone"):
            await read()
        assert events[-1].type == "response.failed"
        assert events[-1].response.error.code == "rate_limit_exceeded"
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(events[0].response.id)


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="cancel")
async def test_closing_a_stream_cancels_the_request(serve):
    async def slowly(request, num_sent):
        await asyncio.sleep(0.02)

    generator = FakeGenerator(before_event=slowly, max_answer_tokens=500)
    async with serve(generator) as served, connect(served) as client:
        stream = await client.responses.create(
            **{**ASK, "max_output_tokens": 500}, stream=True, extra_body={"min_tokens": 400}
        )
        async for _ in stream:
            break
        await stream.close()
        async with asyncio.timeout(30):
            while not generator.cancelled:
                await asyncio.sleep(0.01)


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="incomplete")
async def test_an_answer_that_was_cut_off_says_so(serve, text):
    short = {**ASK, "max_output_tokens": len(CALL) - 25}
    async with serve(say(text, CALL)) as served, connect(served) as client:
        whole = await client.responses.create(**short, tools=[TOOL])
        *_, last = [
            event
            async for event in await client.responses.create(**short, tools=[TOOL], stream=True)
        ]
        assert last.type == "response.incomplete"
        for response in (whole, last.response):
            assert response.status == "incomplete"
            assert response.incomplete_details.reason == "max_output_tokens"
            (call,) = response.output
            assert (call.status, CALL.find(call.arguments) > 0) == ("incomplete", True)


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses", what="logprobs")
async def test_logprobs(serve, text):
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with serve(say(text, "a€b")) as served, connect(served) as client:
        whole = await client.responses.create(**ASK, **wanted)
        entries = whole.output[0].content[0].logprobs
        assert len(entries) == whole.usage.output_tokens
        assert all(len(entry.top_logprobs) == 2 for entry in entries)
        stream = [e async for e in await client.responses.create(**ASK, **wanted, stream=True)]
        (done,) = [e for e in stream if e.type == "response.output_text.done"]
        assert [e.token for e in done.logprobs] == [e.token for e in entries]
        assert seen(stream[-1].response) == seen(whole)


@pytest.mark.shows(client="openai", endpoint="GET /v1/responses/{id}/input_items", what="list")
async def test_the_items_of_the_input_are_listed_and_can_be_sent_again(serve, text):
    generator = say(text, CALL, "It is mild.")
    async with serve(generator) as served, connect(served) as client:
        asked = await client.responses.create(**ASK, tools=[TOOL], instructions="Be brief.")
        (call,) = asked.output
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
        after = await client.responses.create(
            **{**ASK, "input": [output]}, tools=[TOOL], previous_response_id=asked.id
        )
        listed = client.responses.input_items.list(after.id, order="asc", limit=2)
        items = [item async for item in await listed]
        assert [item.type for item in items] == [
            "message",
            "function_call",
            "function_call_output",
        ]
        assert items[0].content[0].text == ASK["input"]
        assert (items[1].call_id, items[1].arguments) == (call.call_id, call.arguments)
        assert items[2].output == "21 degrees"
        backwards = [item async for item in await client.responses.input_items.list(after.id)]
        assert backwards == items[::-1]
        used = generator.requests[-1].token_ids
        await client.responses.create(**{**ASK, "input": items}, tools=[TOOL])
        assert generator.requests[-1].token_ids == used


@pytest.mark.shows(client="openai", endpoint="POST /v1/responses/input_tokens", what="count")
async def test_tokens_are_counted_as_they_will_be_used(serve, text):
    asked = {key: ASK[key] for key in ("model", "input")}
    more = {"instructions": "Be brief.", "tools": [TOOL]}
    async with serve(say(text, "ok")) as served, connect(served) as client:
        counted = await client.responses.input_tokens.count(**asked, **more)
        used = await client.responses.create(**ASK, **more)
        assert counted.input_tokens == used.usage.input_tokens

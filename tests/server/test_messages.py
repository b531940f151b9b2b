"""POST /v1/messages and count_tokens, as Anthropic's own client and a plain one see them."""

import asyncio

import anthropic
import pytest

from helium_jax.errors import CapacityError
from helium_jax.testing import FakeGenerator
from tests.server.plans import until

ASK = {
    "model": "fake",
    "max_tokens": 8,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Who are you?"}],
}
STREAMED = {k: v for k, v in ASK.items() if k != "temperature"}  # the helper knows none
KNOWN = "0123456789abcdef" * 4  # four pages of the fake store


@pytest.fixture
async def connect(serve):
    """An async client of a running server."""
    clients = []

    def make(served, **options):
        client = anthropic.AsyncAnthropic(
            base_url=served.url, **{"api_key": "none", "max_retries": 0, **options}
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


def create(client, **fields):
    """`messages.create` with the parameters that this client no longer names."""
    known = {**ASK, **fields}
    extra = {name: known.pop(name) for name in ("temperature", "top_k") if name in known}
    return client.messages.create(**known, extra_body=extra)


def saying(text):
    """A generator whose every answer is `text`."""
    return FakeGenerator(reply=lambda request: tuple(text.encode()))


def prompt_of(served):
    return served.text.decode(served.generator.requests[-1].token_ids)


def events_of(answer):
    """(name, data) of each event."""
    events = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), data.removeprefix("data: ")))
    return events


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="whole and stream")
async def test_whole_and_streamed_answers_agree(serve, connect):
    async with serve(saying("Hello.")) as served:
        client = connect(served)
        whole = await create(client)
        assert (whole.type, whole.role, whole.model) == ("message", "assistant", "fake")
        assert whole.stop_reason == "end_turn"
        assert whole.content[0].text == "Hello."
        async with client.messages.stream(**STREAMED) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
        assert "".join(texts) == whole.content[0].text
        assert final.content[0].text == "Hello."
        assert final.stop_reason == "end_turn"
        assert final.usage.output_tokens == whole.usage.output_tokens


async def test_the_sequence_of_events(serve):
    async with serve(saying("ab")) as served:
        answer = await served.post("/v1/messages", {**ASK, "stream": True})
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        assert [name for name, _ in events_of(answer)] == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]


async def test_a_silent_stream_sends_ping_events(serve):
    async def slowly(request, num_sent):
        await asyncio.sleep(0.1)

    generator = FakeGenerator(before_event=slowly, reply=lambda request: b"a")
    async with serve(generator, ping_interval_s=0.03) as served:
        answer = await served.post("/v1/messages", {**ASK, "stream": True})
        assert ("ping", '{"type":"ping"}') in events_of(answer)


async def test_system_comes_first_and_turns_of_one_role_are_one(serve):
    async with serve() as served:
        await served.post(
            "/v1/messages",
            {
                **ASK,
                "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "user", "content": [{"type": "text", "text": "b"}]},
                    {"role": "assistant", "content": "c"},
                    {"role": "user", "content": "d"},
                ],
            },
        )
        assert prompt_of(served) == (
            "system: Be\nbrief.\nuser: a\nb\nassistant: c\nuser: d\nassistant: "
        )


async def test_the_answer_goes_on_from_the_assistants_last_words(serve):
    async with serve() as served:
        turns = [*ASK["messages"], {"role": "assistant", "content": "I am"}]
        await served.post("/v1/messages", {**ASK, "messages": turns})
        assert prompt_of(served) == "user: Who are you?\nassistant: I am"


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="stop sequences")
async def test_a_stop_sequence_is_named_and_not_part_of_the_answer(serve, connect):
    async with serve(saying("one two three")) as served:
        answer = await create(connect(served), max_tokens=50, stop_sequences=["zzz", " thr"])
        assert answer.content[0].text == "one two"
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " thr")
        whole = await served.post(
            "/v1/messages",
            {**ASK, "max_tokens": 50, "stop_sequences": ["one"], "stream": True},
        )
        assert "content_block_start" not in [name for name, _ in events_of(whole)]
        assert '"stop_sequence":"one"' in whole.body.decode()


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="ends for length")
async def test_the_two_ends_for_length(serve, connect):
    async with serve(saying("x" * 5000)) as served:
        client = connect(served)
        assert (await create(client, max_tokens=3)).stop_reason == "max_tokens"
        room = served.generator.info.max_model_len
        long = [{"role": "user", "content": "y" * (room - 30)}]
        cut = await create(client, messages=long, max_tokens=9_000)
        assert cut.stop_reason == "model_context_window_exceeded"
        with pytest.raises(anthropic.BadRequestError, match="exceeds the context"):
            await create(client, messages=[{"role": "user", "content": "y" * room}])


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="sampling")
async def test_sampling_parameters_arrive_and_the_rest_is_the_models(serve, connect):
    async with serve() as served:
        await create(connect(served), top_k=5, temperature=0.3)
        sampling = served.generator.requests[-1].sampling
        assert (sampling.top_k, sampling.temperature, sampling.top_p) == (5, 0.3, 0.9)
        assert sampling.max_tokens == 8


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="usage")
async def test_usage_parts_add_up_to_the_prompt(serve, connect):
    async with serve() as served:
        client = connect(served)
        messages = [{"role": "user", "content": KNOWN + "?"}]
        counted = await client.messages.count_tokens(model="fake", messages=messages)
        first = (await create(client, messages=messages)).usage
        assert (first.input_tokens, first.cache_read_input_tokens) == (counted.input_tokens, 0)
        again = (await create(client, messages=messages)).usage
        assert again.cache_read_input_tokens > 0
        assert again.input_tokens + again.cache_read_input_tokens == counted.input_tokens
        assert again.cache_creation_input_tokens == 0


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="cache_control")
async def test_cache_control_pins_the_prefix_and_a_second_use_holds_it_longer(serve, connect):
    async with serve() as served:
        client = connect(served)
        system = [{"type": "text", "text": KNOWN, "cache_control": {"type": "ephemeral"}}]
        first = (await create(client, system=system)).usage
        assert first.cache_creation_input_tokens == 64
        (pin,) = (await served.get("/v1/cache/pins")).json()["data"]
        assert pin["tokens"] == 64
        assert pin["expires"] - pin["created"] == pytest.approx(300)
        hour = [{**system[0], "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
        second = (await create(client, system=hour)).usage
        assert second.cache_creation_input_tokens == 0
        assert second.cache_read_input_tokens >= 64
        (renewed,) = (await served.get("/v1/cache/pins")).json()["data"]
        assert renewed["id"] == pin["id"]
        assert renewed["expires"] > pin["expires"] + 3000


async def test_a_hint_gives_way_to_a_newer_one_but_not_to_a_real_pin(serve):
    def marked(text):
        control = {"type": "ephemeral"}
        turn = {"role": "user", "content": [{"type": "text", "text": text}]}
        return {**ASK, "messages": [turn], "cache_control": control}

    async with serve() as served:
        limit = served.config.limits.pins
        warm = {"text": KNOWN, "pin": True}
        for _ in range(limit - 1):
            assert (await served.post("/v1/cache/warm", warm)).status == 200
        for text in ("a" * 64, "b" * 64):
            answer = await served.post("/v1/messages", marked(text))
            assert "warnings" not in answer.json()
        pins = (await served.get("/v1/cache/pins")).json()["data"]
        assert len(pins) == limit
        hint = next(pin for pin in pins if pin["expires"] is not None)
        await served.ask("DELETE", f"/v1/cache/pins/{hint['id']}")
        assert (await served.post("/v1/cache/warm", warm)).status == 200
        answer = await served.post("/v1/messages", marked("c" * 64))
        assert "not held" in answer.json()["warnings"][0]


async def test_what_is_too_short_to_be_held_is_said(serve):
    async with serve() as served:
        block = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
        answer = await served.post("/v1/messages", {**ASK, "system": [block]})
        assert "shorter than a page" in answer.json()["warnings"][0]


BAD = {
    "no max_tokens": ({"max_tokens": None}, "max_tokens"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages[0].content[0].type",
    ),
    "system role": (
        {"messages": [{"role": "system", "content": "x"}]},
        "messages[0].role",
    ),
    "empty text": ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
    "no messages": ({"messages": []}, "messages"),
    "empty stop": ({"stop_sequences": [""]}, "stop_sequences[0]"),
    "thinking": ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    "five marks": (
        {
            "system": [
                {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
                for _ in range(5)
            ]
        },
        "cache_control",
    ),
    "odd ttl": ({"cache_control": {"type": "ephemeral", "ttl": "2d"}}, "cache_control.ttl"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_wrong_is_named_in_anthropics_envelope(serve, case):
    fields, param = BAD[case]
    async with serve() as served:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            if path.endswith("tokens") and set(fields) & {"max_tokens", "stop_sequences"}:
                continue
            body = {k: v for k, v in {**ASK, **fields}.items() if v is not None}
            answer = await served.post(path, body)
            assert answer.status == 400
            error = answer.json()
            assert error["type"] == "error"
            assert error["error"]["type"] == "invalid_request_error"
            assert error["error"]["param"] == param
            assert error["request_id"] == answer.headers["request-id"]


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="errors")
async def test_errors_are_the_clients_own_classes(serve, connect):
    full = FakeGenerator(fail=lambda request, sent: CapacityError("full"))
    async with serve(full, api_keys=("right",)) as served:
        with pytest.raises(anthropic.AuthenticationError) as unauthorized:
            await create(connect(served, api_key="wrong"))
        assert unauthorized.value.request_id
        client = connect(served, api_key="right")
        with pytest.raises(anthropic.NotFoundError, match="is not served here"):
            await create(client, model="other")
        with pytest.raises(anthropic.BadRequestError, match="top_k"):
            await create(client, top_k=-7)
        with pytest.raises(anthropic.RateLimitError):
            await create(client)
        with pytest.raises(anthropic.RateLimitError):
            await create(client, stream=True)


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="stream error")
async def test_an_error_in_mid_stream_is_an_error_event(serve, connect):
    def fail(request, sent):
        return CapacityError("gone") if sent == 1 else None

    async with serve(FakeGenerator(fail=fail, reply=lambda request: b"abc")) as served:
        with pytest.raises(anthropic.APIStatusError, match="gone"):
            async for _ in await create(connect(served), stream=True):
                pass


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="cancel")
async def test_leaving_a_stream_cancels_the_request(serve, connect):
    async def slowly(request, num_sent):
        await asyncio.sleep(0.01)

    generator = FakeGenerator(before_event=slowly, reply=lambda request: b"x" * 500)
    async with serve(generator) as served:
        stream = await create(connect(served), max_tokens=500, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await until(lambda: bool(generator.cancelled))


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="sync")
async def test_the_sync_client(serve):
    def talk(url):
        with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
            whole = create(client)
            with client.messages.stream(**STREAMED) as stream:
                streamed = stream.get_final_text()
            count = client.messages.count_tokens(model="fake", messages=ASK["messages"])
            return whole, streamed, count.input_tokens

    async with serve(saying("Hi there")) as served:
        whole, streamed, count = await asyncio.to_thread(talk, served.url)
        assert whole.content[0].text == streamed == "Hi there"
        assert count == whole.usage.input_tokens

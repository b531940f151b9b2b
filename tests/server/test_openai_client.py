"""The official openai client: sync, async, streams, errors, log-probabilities."""

import asyncio

import openai
import pytest

from helium_jax.errors import CapacityError
from helium_jax.testing import FakeGenerator

ASK = {
    "model": "fake",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "temperature": 0,
    "max_tokens": 8,
}


@pytest.fixture
async def connect(serve):
    """An async client of a running server."""
    clients = []

    def make(served, **options):
        client = openai.AsyncOpenAI(
            base_url=served.url + "/v1", **{"api_key": "none", "max_retries": 0, **options}
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="whole and stream")
async def test_chat_and_stream_agree(serve, connect):
    async with serve() as served:
        client = connect(served)
        whole = await client.chat.completions.create(**ASK)
        assert whole.usage.prompt_tokens_details.cached_tokens == 0
        assert whole.model_extra is not None
        stream = await client.chat.completions.create(
            **ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="stream helper")
async def test_the_streaming_helper_assembles_the_answer(serve, connect):
    async with serve() as served:
        client = connect(served)
        whole = await client.chat.completions.create(**ASK)
        async with client.chat.completions.stream(**ASK) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == whole.choices[0].message.content
        assert final.choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="extra_body")
async def test_parameters_of_other_engines_pass_through_extra_body(serve, connect):
    async with serve() as served:
        await connect(served).chat.completions.create(
            **ASK, extra_body={"top_k": 5, "min_p": 0.1, "priority": 2}
        )
        (request,) = served.generator.requests
        assert (request.sampling.top_k, request.sampling.min_p, request.priority) == (5, 0.1, 2)


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="logprobs")
async def test_logprobs(serve, connect):
    async with serve() as served:
        answer = await connect(served).chat.completions.create(**ASK, logprobs=True, top_logprobs=2)
        content = answer.choices[0].logprobs.content
        assert len(content) == answer.usage.completion_tokens
        assert all(len(entry.top_logprobs) == 2 for entry in content)


@pytest.mark.shows(client="openai", endpoint="POST /v1/completions", what="whole and stream")
async def test_completions(serve, connect):
    async with serve() as served:
        client = connect(served)
        fields = {"model": "fake", "prompt": ["a", "b"], "temperature": 0, "max_tokens": 5}
        whole = await client.completions.create(**fields, logprobs=1)
        assert len(whole.choices) == 2
        texts = ["", ""]
        async for chunk in await client.completions.create(**fields, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == [choice.text for choice in whole.choices]


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="errors")
async def test_errors_are_the_clients_own_classes(serve, connect):
    full = FakeGenerator(fail=lambda request, sent: CapacityError("full"))
    async with serve(full, api_keys=("right",)) as served:
        with pytest.raises(openai.AuthenticationError) as unauthorized:
            await connect(served, api_key="wrong").models.list()
        assert unauthorized.value.code == "invalid_api_key"
        client = connect(served, api_key="right")
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(**{**ASK, "model": "other"})
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(**{**ASK, "top_p": 7})
        assert bad.value.param == "top_p"
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**ASK)
        with pytest.raises(openai.BadRequestError) as tools:
            await client.chat.completions.create(
                **ASK, tools=[{"type": "custom", "custom": {"name": "f"}}]
            )
        assert (tools.value.code, tools.value.param) == ("unsupported_parameter", "tools[0].type")


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="stream error")
async def test_an_error_in_mid_stream_raises(serve, connect):
    def fail(request, sent):
        return CapacityError("gone") if sent == 1 else None

    async with serve(FakeGenerator(fail=fail)) as served:
        stream = await connect(served).chat.completions.create(
            **ASK, stream=True, extra_body={"min_tokens": 3}
        )
        with pytest.raises(openai.APIError, match="gone"):
            async for _ in stream:
                pass


@pytest.mark.shows(client="openai", endpoint="GET /v1/models", what="list, one")
async def test_models(serve, connect):
    async with serve() as served:
        client = connect(served)
        listed = await client.models.list()
        assert [model.id for model in listed.data] == ["fake"]
        assert (await client.models.retrieve("fake")).id == "fake"


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="cancel")
async def test_closing_a_stream_cancels_the_request(serve, connect):
    async def slowly(request, num_sent):
        await asyncio.sleep(0.02)

    generator = FakeGenerator(before_event=slowly, max_answer_tokens=500)
    async with serve(generator) as served:
        stream = await connect(served).chat.completions.create(
            **{**ASK, "max_tokens": 500}, stream=True, extra_body={"min_tokens": 400}
        )
        async for _ in stream:
            break
        await stream.close()
        async with asyncio.timeout(5):
            while not generator.cancelled:
                await asyncio.sleep(0.01)


@pytest.mark.shows(client="openai", endpoint="POST /v1/chat/completions", what="sync")
async def test_the_sync_client(serve):
    def talk(url):
        with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(**ASK)
            with client.chat.completions.create(**ASK, stream=True) as stream:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            with pytest.raises(openai.BadRequestError):
                client.completions.create(model="fake", prompt="")
            return whole.choices[0].message.content, text

    async with serve() as served:
        whole, streamed = await asyncio.to_thread(talk, served.url)
        assert whole == streamed

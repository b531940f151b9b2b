"""The server in front of the real engine with a tiny random model: answers, reuse, cancelling.

One engine serves all tests of the file, so that it compiles once; each leaves it as it was.
"""

import asyncio
import math

import openai
import pytest
import pytest_asyncio

from helium_jax.config import EngineConfig
from helium_jax.runtime import open_runtime
from tests.server.conftest import serve_runtime
from tests.server.test_batches import finish, line, start, written

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENGINE = EngineConfig(
    page_size=16,
    num_pages=64,
    max_num_seqs=4,
    max_num_batched_tokens=16,
    deterministic=True,
)
LONG = {"prompt": "a prompt of more than two pages of sixteen tokens each", "max_tokens": 6}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(model_folder):
    async with (
        open_runtime(str(model_folder), ENGINE) as runtime,
        serve_runtime(runtime) as running,
    ):
        yield running


async def until_idle(served):
    async with asyncio.timeout(20):
        while served.generator.statistics()[0].cache.num_used:
            await asyncio.sleep(0.01)


async def test_it_is_ready_and_names_the_folder(served):
    assert (await served.get("/health/ready")).status == 200
    assert (await served.get("/v1/models")).json()["data"][0]["id"] == "fake"


@pytest.mark.shows(
    client="openai", endpoint="POST /v1/chat/completions", what="logprobs, real engine"
)
async def test_whole_and_streamed_answers_agree_through_the_openai_client(served):
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none") as client:
        fields = {
            "model": "fake",
            "messages": [{"role": "user", "content": "Hello"}],
            "temperature": 0,
            "max_tokens": 8,
        }
        whole = await client.chat.completions.create(**fields, logprobs=True, top_logprobs=2)
        entries = whole.choices[0].logprobs.content
        assert len(entries) == whole.usage.completion_tokens
        assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)
        stream = await client.chat.completions.create(**fields, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == whole.choices[0].message.content


async def test_a_repeated_prompt_is_read_from_the_cache_with_the_same_answer(served):
    salted = {**LONG, "cache_salt": "repeat", "logprobs": 3}
    first, second = [(await served.complete(**salted)).json() for _ in range(2)]
    assert first["choices"] == second["choices"]
    assert first["usage"]["helium"]["kv_cached"] == 0
    assert second["usage"]["helium"]["kv_cached"] >= 32
    for body in (first, second):
        assert sum(body["usage"]["helium"].values()) == body["usage"]["prompt_tokens"]


async def test_a_stop_string_tells_what_was_cached_although_it_ends_the_request(served):
    salted = {**LONG, "cache_salt": "stop", "logit_bias": {"97": 100}}  # only "a"
    assert (await served.complete(**salted)).json()["choices"][0]["text"] == "aaaaaa"
    body = (await served.complete(**salted, stop="aaa")).json()
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("", "stop")
    assert body["usage"]["helium"]["kv_cached"] >= 32
    await until_idle(served)


async def test_equal_seeds_give_equal_answers_whatever_else_runs(served):
    fields = {"prompt": "x", "temperature": 1.5, "seed": 7, "max_tokens": 12}
    alone = (await served.complete(**fields)).json()["choices"][0]["text"]
    many = await asyncio.gather(
        served.complete(**fields),
        *(served.complete(prompt=f"{i}", temperature=1, max_tokens=12) for i in range(6)),
        served.complete(**fields),
    )
    assert [one.status for one in many] == [200] * 8
    assert many[0].json()["choices"][0]["text"] == alone
    assert many[-1].json()["choices"][0]["text"] == alone


async def test_a_closed_stream_frees_its_pages(served):
    fields = {"model": "fake", "prompt": "go on", "max_tokens": 200, "ignore_eos": True}
    response = await served.session.post(
        served.url + "/v1/completions", json={**fields, "stream": True}
    )
    await response.content.readuntil(b"\n\n")
    assert served.generator.statistics()[0].cache.num_used > 0
    response.close()
    await until_idle(served)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"prompt": "x" * 300}, "context_length_exceeded"),
        ({"prompt": "x" * 100, "max_tokens": 200}, "context_length_exceeded"),
        ({"prompt": ""}, "invalid_request"),
        ({"prompt": [257]}, "invalid_request"),
        ({"prompt": [-1]}, "invalid_request"),
        ({"max_tokens": 0}, "invalid_request"),
        ({"top_p": 0}, "invalid_request"),
        ({"logit_bias": {"257": 1}}, "invalid_request"),
    ],
)
async def test_after_a_bad_request_the_next_answer_is_the_same_bit_for_bit(served, change, code):
    good = {**LONG, "logprobs": 3}
    before = (await served.complete(**good)).json()["choices"]
    bad = await served.complete(**change)
    assert (bad.status, bad.error["code"]) == (400, code)
    assert (await served.complete(**good)).json()["choices"] == before


async def test_nothing_was_compiled_after_the_start(served):
    lines = (await served.get("/metrics")).body.decode().splitlines()
    assert 'helium:recompiles_after_warmup_total{worker="0"} 0.0' in lines
    await until_idle(served)


async def test_a_plan_is_warmed_run_and_explained(served):
    plan = {
        "version": "helium/v1",
        "inputs": {"q": {"type": "text"}},
        "ops": {
            "a": {"type": "llm.completion", "prompt": LONG["prompt"] + "{{q}}", "max_tokens": 4},
            "b": {"type": "llm.completion", "prompt": "{{q}}{{a}}", "max_tokens": 4},
        },
        "outputs": {"b": "b"},
    }
    await served.post("/v1/cache/reset", {})
    warmed = (await served.post("/v1/cache/warm", {"plan": plan, "pin": True})).json()
    (prefix,) = warmed["prefixes"]
    assert prefix["resident"] == prefix["computed"] == 48
    body = {"plan": plan, "inputs": [{"q": text} for text in "xyz"]}
    run = (await served.post("/v1/runs", body)).json()
    assert (run["state"], run["result"]) == ("completed", "whole")
    assert run["usage"]["kv_cached"] >= 3 * 48
    again = (await served.post("/v1/runs", {**body, "policy": "naive"})).json()
    assert again["outputs"] == run["outputs"]
    assert again["usage"]["calls"] == 0
    report = await served.get(f"/v1/runs/{run['id']}/explain?analyze=true&format=json")
    assert report.json()["operators"]["a"]["actual"]["kv_cached"] >= 3 * 48
    pin = prefix["pin"]["id"]
    assert (await served.get("/v1/cache")).json()["kv"][0]["pinned"] == 3
    assert (await served.ask("DELETE", f"/v1/cache/pins/{pin}")).status == 200
    assert (await served.get("/v1/cache")).json()["kv"][0]["pinned"] == 0
    await until_idle(served)


@pytest.mark.shows(client="openai", endpoint="POST /v1/embeddings", what="vectors, errors")
async def test_vectors_of_texts_through_the_openai_client(served):
    compiled = served.generator.statistics()[0].num_compiles_after_warmup
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none") as client:
        texts = ["a heron", "a heron waits"]
        by_default = await client.embeddings.create(model="fake", input=texts)
        as_floats = await client.embeddings.create(
            model="fake", input=texts[1], encoding_format="float"
        )
        assert by_default.data[1].embedding == pytest.approx(as_floats.data[0].embedding)
        assert all(math.hypot(*one.embedding) == pytest.approx(1) for one in by_default.data)
        assert by_default.usage.prompt_tokens == sum(map(len, texts))
        with pytest.raises(openai.BadRequestError) as too_long:
            await client.embeddings.create(model="fake", input="x" * 500)
        assert too_long.value.code == "context_length_exceeded"
    assert served.generator.statistics()[0].num_compiles_after_warmup == compiled


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 5},
        {"structured_outputs": {"regex": "[a-c]+"}},
    ],
    ids=["greedy", "seeded", "held to a form"],
)
async def test_a_batch_gives_token_by_token_what_single_requests_give(served, settings):
    context = {"role": "system", "content": "A context of two pages of the store, or so it says."}
    settings = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, **settings}
    lines = [
        line(f"{n}", messages=[context, {"role": "user", "content": f"{n}?"}], **settings)
        for n in range(6)
    ]
    compiled = served.generator.statistics()[0].num_compiles_after_warmup
    batch = await finish(served, (await start(served, lines)).json())
    assert (len(batch["runs"]), batch["request_counts"]["completed"]) == (1, 6)
    answers = await written(served, batch["output_file_id"])
    cached = [
        answer["response"]["body"]["usage"]["prompt_tokens_details"]["cached_tokens"]
        for answer in answers.values()
    ]
    assert sorted(cached)[1] >= 32, "all but the first read the context from the store"
    for one in lines:
        direct = await served.post("/v1/chat/completions", {**one["body"], "cache_salt": "apart"})
        body = answers[one["custom_id"]]["response"]["body"]
        assert body["choices"] == direct.json()["choices"]
    assert served.generator.statistics()[0].num_compiles_after_warmup == compiled
    await until_idle(served)

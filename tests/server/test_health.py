"""Health proves that the engine advances; metrics carry our names and vLLM's."""

from dataclasses import replace

import pytest

from helium_jax.errors import InternalError
from helium_jax.testing import FAKE_MODEL, FakeGenerator


class Aged(FakeGenerator):
    """A generator whose loop last went round `age` seconds ago."""

    age = 0.0
    error: InternalError | None = None

    def statistics(self):
        if self.error is not None:
            raise self.error
        return tuple(
            replace(worker, last_step_age_seconds=self.age) for worker in super().statistics()
        )


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_ready_falls_when_the_engine_stalls_and_rises_again(serve, path):
    generator = Aged()
    async with serve(generator, max_step_age_s=5.0) as served:
        assert (await served.get(path)).status == 200
        generator.age = 6.0
        answer = await served.get(path)
        assert (answer.status, answer.json()["reason"]) == (503, "engine_stalled")
        assert answer.headers["Retry-After"]
        assert (await served.get("/health/live")).status == 200
        generator.age = 0.0
        assert (await served.get(path)).status == 200


async def test_ready_falls_when_the_engine_is_dead(serve):
    generator = Aged()
    async with serve(generator) as served:
        generator.error = InternalError("dead")
        answer = await served.get("/health/ready")
        assert (answer.status, answer.json()["reason"]) == (503, "internal_error")
        assert (await served.get("/metrics")).status == 200


async def test_metrics_count_requests_and_tokens_under_both_names(serve):
    async with serve() as served:
        usage = (await served.chat()).json()["usage"]
        await served.get("/nothing/user/text")
        answer = await served.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = set(answer.body.decode().splitlines())
        prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
        assert f"helium:prompt_tokens_total {prompt:.1f}" in lines
        assert f'vllm:prompt_tokens_total{{model_name="fake"}} {prompt:.1f}' in lines
        assert f'vllm:generation_tokens_total{{model_name="fake"}} {completion:.1f}' in lines
        assert 'vllm:num_requests_running{model_name="fake",worker="0"} 0.0' in lines
        assert 'vllm:e2e_request_latency_seconds_count{model_name="fake"} 1.0' in lines
        assert 'vllm:time_to_first_token_seconds_count{model_name="fake"} 1.0' in lines
        assert 'helium:recompiles_after_warmup_total{worker="0"} 0.0' in lines
        assert 'helium:http_requests_total{route="unknown",status="404"} 1.0' in lines
        assert not any("user/text" in line for line in lines)


async def test_version_and_models(serve):
    async with serve(served_names=("org/alias",)) as served:
        assert (await served.get("/version")).json()["version"]
        listed = (await served.get("/v1/models")).json()
        assert [card["id"] for card in listed["data"]] == ["fake", "org/alias"]
        one = (await served.get("/v1/models/org/alias")).json()
        assert one == {**listed["data"][1]}
        assert one["max_model_len"] == 4096
        assert (await served.chat(model="org/alias")).status == 200


async def test_tokenize_and_detokenize_are_inverse(serve, text):
    async with serve() as served:
        answer = (
            await served.post("/tokenize", {"prompt": "naïve", "return_token_strs": True})
        ).json()
        assert answer["tokens"] == list(text.encode("naïve", add_special_tokens=True))
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        assert answer["max_model_len"] == 4096
        back = (await served.post("/detokenize", {"tokens": answer["tokens"], "foo": 1})).json()
        assert back == {"prompt": "naïve", "warnings": ["foo: unknown field, ignored"]}


async def test_tokenize_renders_conversations_as_chat_does(serve):
    async with serve() as served:
        messages = [{"role": "user", "content": "Hi"}]
        ids = (await served.post("/tokenize", {"messages": messages})).json()["tokens"]
        await served.chat(messages=messages)
        assert served.generator.requests[0].token_ids == tuple(ids)
        body = {"messages": messages, "add_generation_prompt": False}
        shorter = (await served.post("/tokenize", body)).json()["tokens"]
        assert ids[: len(shorter)] == shorter
        assert len(shorter) < len(ids)


def references(schema):
    """The names of the components that a schema refers to."""
    if isinstance(schema, list):
        return set().union(*map(references, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"].rpartition("/")[2]} if "$ref" in schema else set()
    return own.union(*map(references, schema.values()))


async def test_openapi_describes_every_route_from_the_body_types(serve):
    async with serve() as served:
        document = (await served.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        assert set(document["paths"]) >= {"/v1/chat/completions", "/v1/models/{model}", "/metrics"}
        schemas = document["components"]["schemas"]
        assert schemas["ChatBody"]["required"] == ["model", "messages"]
        top_p = schemas["ChatBody"]["properties"]["top_p"]
        assert {"type": "number", "exclusiveMinimum": 0, "maximum": 1} in top_p["anyOf"]
        assert document["paths"]["/version"]["get"]["security"] == []
        for path in document["paths"].values():
            for operation in path.values():
                for answer in operation["responses"].values():
                    for content in answer.get("content", {}).values():
                        names = references(content["schema"])
                        assert names
                        assert names <= schemas.keys()


async def test_ready_as_long_as_one_worker_lives(serve):
    generator = FakeGenerator(info=replace(FAKE_MODEL, num_workers=2))
    async with serve(generator) as served:
        generator.kill(0)
        assert (await served.get("/health/ready")).status == 200
        generator.kill(1)
        answer = await served.get("/health/ready")
        assert (answer.status, answer.json()["reason"]) == (503, "engine_dead")
        assert b'worker_up{worker="0"} 0.0' in (await served.get("/metrics")).body

"""Hints of other systems: each is used, or named in the warnings; none changes an answer."""

import dataclasses

import msgspec
import pytest

from helium_jax.server.config import Limits
from helium_jax.server.hint_bodies import AgentHints, HintFields, Nvext
from helium_jax.server.hints import HINTS, affine_worker, check_hints
from helium_jax.server.reading import Findings
from helium_jax.testing import FakeGenerator
from helium_jax.testing.generator import FAKE_MODEL

ASK = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 3},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 3},
}
COMMON = {"model": "fake", "temperature": 0}
USED = {"/v1/responses": {"metadata", "store"}}  # by the endpoint itself
VALUES = {
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "user": "u",
    "metadata": {"user_id": "u"},
    "store": True,
    "service_tier": "flex",
    "nvext.agent_hints.strict_priority": 1,
    "nvext.agent_hints.latency_sensitivity": 2.5,
    "nvext.agent_hints.osl": 100,
    "nvext.agent_hints.speculative_prefill": True,
}


def body_with(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def what_was_said(reply):
    said = reply.get("choices") or reply.get("content") or reply["output"]
    return [{k: v for k, v in one.items() if k != "id"} for one in said]


def two_workers():
    return FakeGenerator(info=dataclasses.replace(FAKE_MODEL, num_workers=2))


def test_the_table_and_the_types_name_the_same_hints():
    fields = {f.name for f in msgspec.structs.fields(HintFields)} - {"agent_hints", "nvext"}
    agent = {f"nvext.agent_hints.{f.name}" for f in msgspec.structs.fields(AgentHints)}
    assert {hint.name for hint in HINTS} == fields | agent
    assert {hint.name for hint in HINTS if hint.use is None} == set(VALUES)


@pytest.mark.parametrize("path", ASK)
async def test_what_is_not_used_is_said_and_changes_nothing(serve, path):
    async with serve(strict=True) as served:
        plain = (await served.post(path, {**COMMON, **ASK[path]})).json()
        for name, value in VALUES.items():
            answer = await served.post(path, {**COMMON, **ASK[path], **body_with(name, value)})
            assert answer.status == 200
            reply = answer.json()
            told = [] if name in USED.get(path, ()) else [name]
            assert [one.split(":")[0] for one in reply.get("warnings", ())] == told
            assert what_was_said(reply) == what_was_said(plain)


@pytest.mark.parametrize("path", ASK)
async def test_the_values_that_ask_for_nothing_are_not_mentioned(serve, path):
    async with serve() as served:
        for hint in HINTS:
            for value in (None, *hint.neutral):
                body = {**COMMON, **ASK[path], **body_with(hint.name, value)}
                assert "warnings" not in (await served.post(path, body)).json(), hint.name


@pytest.mark.parametrize("path", ASK)
async def test_dynamos_priority_is_turned_round_and_the_bodys_own_counts_more(serve, path):
    async with serve() as served:
        for hints in (
            {"agent_hints": {"priority": 5}},
            {"nvext": {"agent_hints": {"priority": 5}}},
        ):
            answer = await served.post(path, {**COMMON, **ASK[path], **hints})
            assert "warnings" not in answer.json()
            assert served.generator.requests[-1].priority == -5
        both = {**COMMON, **ASK[path], "priority": 3, "agent_hints": {"priority": 5}}
        assert "of its own" in (await served.post(path, both)).json()["warnings"][0]
        assert served.generator.requests[-1].priority == 3


@pytest.mark.parametrize("path", ASK)
async def test_requests_with_one_prompt_cache_key_share_a_worker(serve, path):
    async with serve(two_workers()) as served:
        seen = set()
        for key in "abcdefgh":
            for _ in range(2):
                body = {**COMMON, **ASK[path], "prompt_cache_key": key}
                assert (await served.post(path, body)).status == 200
            first, second = served.generator.requests[-2:]
            assert first.worker == second.worker
            seen.add(first.worker)
        assert seen == {0, 1}
        too_long = {**COMMON, **ASK[path], "prompt_cache_key": "x" * 300}
        assert (await served.post(path, too_long)).status == 400


def test_only_the_keys_of_a_dead_worker_move():
    alive = FakeGenerator(info=dataclasses.replace(FAKE_MODEL, num_workers=3)).statistics()
    dead = (alive[0], dataclasses.replace(alive[1], is_alive=False), alive[2])
    for i in range(50):
        before, after = (affine_worker(f"{i}", "t", one) for one in (alive, dead))
        assert after != 1
        assert before in (1, after)
    assert affine_worker(None, "t", alive) is None
    assert affine_worker("x", "t", alive[:1]) is None


def test_hints_of_both_places_are_not_mixed():
    body = HintFields(
        agent_hints=AgentHints(priority=1), nvext=Nvext(agent_hints=AgentHints(priority=2))
    )
    assert check_hints(body, None, Limits(), Findings()).priority == -1


async def test_embeddings_name_the_hints_that_only_other_endpoints_use(serve):
    async with serve(strict=True) as served:
        hints = {"prompt_cache_key": "k", "agent_hints": {"priority": 1}}
        answer = await served.post("/v1/embeddings", {"model": "fake", "input": "Hi", **hints})
        assert [one.split(":")[0] for one in answer.json()["warnings"]] == [
            "prompt_cache_key",
            "nvext.agent_hints.priority",
        ]

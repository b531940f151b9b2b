"""The caches over HTTP: what they hold, warming, pins and reset."""

import asyncio

import pytest

from helium_jax.server import Limits
from helium_jax.testing import FakeGenerator
from tests.server.plans import DEBATE, QUESTIONS, RUN, bearer, until

LONG = "You are a fair judge of everything that there is to be judged. " * 4
PLAN = {
    "version": "helium/v1",
    "inputs": {"q": {"type": "text"}, "n": {"type": "int"}},
    "ops": {
        "a": {"type": "llm.completion", "prompt": LONG + "{{q}} {{n}}", "max_tokens": 2},
        "b": {"type": "llm.completion", "prompt": LONG + "{{q}} {{a}}", "max_tokens": 2},
        "short": {"type": "llm.completion", "prompt": "{{q}}", "max_tokens": 2},
    },
    "outputs": {"a": "a", "b": "b", "short": "short"},
}


async def test_the_caches_tell_what_they_hold(serve):
    async with serve() as served:
        empty = (await served.get("/v1/cache")).json()
        assert (empty["outputs"]["entries"], empty["pins"]) == (0, [])
        await served.post("/v1/runs", RUN)
        await served.post("/v1/runs", RUN)
        full = (await served.get("/v1/cache")).json()
        assert full["outputs"]["entries"] == 3 * len(QUESTIONS)
        assert full["outputs"]["file"] == "none"
        (worker,) = full["kv"]
        assert worker["free"] + worker["cached"] + worker["used"] == worker["pages"]
        assert worker["queried_tokens"] > 0


async def test_a_warmed_text_is_found_by_the_next_request(serve):
    async with serve() as served:
        warmed = await served.post("/v1/cache/warm", {"text": LONG})
        (prefix,) = warmed.json()["prefixes"]
        assert prefix["tokens"] == len(LONG)
        assert prefix["resident"] == prefix["computed"] == len(LONG) // 16 * 16
        assert prefix["pin"] is None
        answer = await served.complete(prompt=LONG + "x")
        cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached == prefix["resident"]
        again = (await served.post("/v1/cache/warm", {"text": LONG})).json()["prefixes"][0]
        assert again["computed"] == 0


async def test_warmed_messages_are_the_beginning_of_a_conversation(serve):
    messages = [{"role": "system", "content": LONG}]
    async with serve() as served:
        warmed = (await served.post("/v1/cache/warm", {"messages": messages})).json()
        body = {"messages": [*messages, {"role": "user", "content": "x"}]}
        usage = (await served.chat(**body)).json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert cached == warmed["prefixes"][0]["resident"] > 0


async def test_of_a_plan_what_all_rows_share_is_warmed(serve):
    async with serve() as served:
        answer = await served.post("/v1/cache/warm", {"plan": PLAN, "pin": True})
        (prefix,) = answer.json()["prefixes"]
        assert prefix["operators"] == ["a", "b"]
        assert prefix["resident"] == len(LONG) // 16 * 16
        assert not served.generator.requests
        run = await served.post("/v1/runs", {"plan": PLAN, "inputs": [{"q": "x", "n": 5}]})
        assert run.json()["usage"]["kv_cached"] == 2 * prefix["resident"]


async def test_pins_belong_to_a_key_and_are_given_back_once(serve):
    async with serve(api_keys=("a", "b")) as served:
        body = {"text": LONG, "pin": True}
        warmed = (await served.post("/v1/cache/warm", body, headers=bearer("a"))).json()
        pin = warmed["prefixes"][0]["pin"]
        assert pin["expires"] is None
        listed = (await served.get("/v1/cache/pins", headers=bearer("a"))).json()["data"]
        assert listed == (await served.get("/v1/cache", headers=bearer("a"))).json()["pins"]
        assert listed == [pin]
        assert (await served.get("/v1/cache/pins", headers=bearer("b"))).json()["data"] == []
        path = f"/v1/cache/pins/{pin['id']}"
        assert (await served.ask("DELETE", path, headers=bearer("b"))).status == 404
        assert (await served.ask("DELETE", path, headers=bearer("a"))).status == 200
        gone = await served.ask("DELETE", path, headers=bearer("a"))
        assert (gone.status, gone.error["code"]) == (404, "pin_not_found")


async def test_a_pin_ends_with_its_time(serve):
    class Watched(FakeGenerator):
        unpinned = 0

        async def unpin(self, pin_id):
            await super().unpin(pin_id)
            self.unpinned += 1

    generator = Watched()
    async with serve(generator, limits=Limits(pin_ttl_s=0.05)) as served:
        body = {"text": LONG, "pin": True, "ttl_s": 10 * 365 * 24 * 3600}
        answer = (await served.post("/v1/cache/warm", body)).json()
        assert answer["warnings"] == ["ttl_s: cut to this server's 0.05 s"]
        assert answer["prefixes"][0]["pin"]["expires"] is not None
        await until(lambda: generator.unpinned == 1)
        assert (await served.get("/v1/cache/pins")).json()["data"] == []


async def test_a_key_has_only_so_many_pins(serve):
    async with serve(limits=Limits(pins=2)) as served:
        body = {"text": LONG, "pin": True}
        answers = [await served.post("/v1/cache/warm", body) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[-1].error["code"] == "too_many_pins"


async def test_a_prefix_longer_than_the_context_is_cut_and_told(serve):
    async with serve() as served:
        answer = (await served.post("/v1/cache/warm", {"text": "x" * 50_000, "pin": True})).json()
        (prefix,) = answer["prefixes"]
        assert prefix["tokens"] == 50_000
        assert prefix["resident"] < 4096
        assert "4095 tokens" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "plan"),
        ({"text": "x", "plan": DEBATE}, "plan"),
        ({"text": ""}, "text"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"text": "x", "params": {"a": 1}}, "params"),
        ({"text": "x", "ttl_s": 5}, "ttl_s"),
        ({"text": "x", "pin": True, "ttl_s": 0}, "ttl_s"),  # 60
        ({"text": "x", "pin": True, "ttl_s": -1}, "ttl_s"),
        ({"text": "x", "cache_salt": "x" * 1000}, "cache_salt"),
    ],
)
async def test_a_bad_warming_is_refused(serve, body, param):
    async with serve() as served:
        answer = await served.post("/v1/cache/warm", body)
        assert (answer.status, answer.error["param"]) == (400, param)
        assert not served.generator.warmed


async def test_reset_forgets_what_it_is_told_to(serve):
    async with serve() as served:
        await served.post("/v1/runs", RUN)
        kept = (await served.post("/v1/cache/reset", {"outputs": False})).json()
        assert kept["pages"] > 0
        assert kept["outputs"] == 0
        rest = (await served.post("/v1/cache/reset", b"")).json()
        assert (rest["pages"], rest["outputs"]) == (0, 12)
        assert (await served.get("/v1/cache")).json()["outputs"]["entries"] == 0


async def test_reset_takes_an_admin_key_where_there_is_one(serve):
    async with serve(api_keys=("a",), admin_keys=("root",)) as served:
        refused = await served.post("/v1/cache/reset", {}, headers=bearer("a"))
        assert (refused.status, refused.error["code"]) == (403, "forbidden")
        assert (await served.post("/v1/cache/reset", {}, headers=bearer("root"))).status == 200
        assert (await served.get("/v1/models", headers=bearer("root"))).status == 200
        assert (await served.post("/v1/cache/reset", {})).status == 401
    async with serve(admin_keys=("root",)) as served:
        assert (await served.get("/v1/models")).status == 401


async def test_warming_and_runs_go_side_by_side(serve):
    async with serve() as served:
        answers = await asyncio.gather(
            *(served.post("/v1/cache/warm", {"plan": PLAN}) for _ in range(4)),
            *(served.post("/v1/runs", RUN) for _ in range(4)),
        )
        assert {answer.status for answer in answers} == {200}

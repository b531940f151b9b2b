"""Keys: needed everywhere but on two paths, in two headers; tenants share no prefix cache."""

import pytest

from helium_jax.server.routes import ROUTES

KEYS = ("first-key", "zweiter-schlüssel")
LONG = {"messages": [{"role": "user", "content": "many words " * 20}]}


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("wrong"),
        bearer("first-key2"),
        {"Authorization": "Basic first-key"},
        {"Authorization": "first-key"},
        {"x-api-key": "wrong"},
        {"Authorization": "Bearer wrong", "x-api-key": "first-key"},
    ],
)
async def test_without_a_known_key_nothing_is_told(serve, headers):
    async with serve(api_keys=KEYS) as served:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing", "/health"):
            answer = await served.get(path, headers=headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        answer = await served.post("/v1/completions", b"{", headers=headers)
        assert answer.status == 401


@pytest.mark.parametrize("key", KEYS)
async def test_every_key_works_in_both_headers(serve, key):
    async with serve(api_keys=KEYS) as served:
        for headers in (bearer(key), {"x-api-key": key}, {"authorization": f"bearer  {key} "}):
            assert (await served.get("/v1/models", headers=headers)).status == 200


async def test_three_paths_are_open(serve):
    async with serve(api_keys=KEYS) as served:
        open_paths = [route.operation.path for route in ROUTES if route.operation.is_open]
        assert sorted(open_paths) == ["/docs", "/health/live", "/version"]
        for path in open_paths:
            assert (await served.get(path)).status == 200


async def test_tenants_do_not_share_the_prefix_cache(serve):
    async with serve(api_keys=("a", "b")) as served:

        async def cached(key, **fields):
            body = {"model": "fake", "temperature": 0, **LONG, **fields}
            answer = await served.post("/v1/chat/completions", body, headers=bearer(key))
            return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert await cached("a") == 0
        assert await cached("a") > 0
        assert await cached("b") == 0
        assert await cached("a", cache_salt="own") == 0
        assert await cached("a", cache_salt="own") > 0
        assert await cached("b", cache_salt="own") == 0


async def test_the_key_is_not_in_the_salt(serve):
    async with serve(api_keys=("first-key",)) as served:
        await served.post(
            "/v1/chat/completions", {"model": "fake", **LONG}, headers=bearer("first-key")
        )
        (request,) = served.generator.requests
        assert "first-key" not in request.cache_salt
        assert request.cache_salt


async def test_without_keys_a_salt_still_divides_the_cache(serve):
    async with serve() as served:
        await served.chat(cache_salt="x")
        await served.chat(cache_salt="y")
        await served.chat()
        salts = [request.cache_salt for request in served.generator.requests]
        assert len(set(salts)) == 3
        assert salts[2] == ""

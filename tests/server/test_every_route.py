"""What every route owes: the same care for broken bodies, odd paths, queries, headers and keys."""

import asyncio
import re

import pytest

from helium_jax.server.routes import ROUTES
from tests.server.plans import RUN
from tests.server.raw_http import exchange, request_bytes
from tests.server.test_bad_requests import RAW_ROWS

GOOD = {"model": "fake", "prompt": "Once upon", "temperature": 0, "max_tokens": 8, "logprobs": 2}
OPERATIONS = [route.operation for route in ROUTES]
WITH_BODY = [one for one in OPERATIONS if one.body is not None]
ODD_PARTS = {
    "unknown": "x",
    "NUL": "%00",
    "up": "..%2F..%2Fetc%2Fpasswd",
    "dots": "%2e%2e",
    "emoji": "%F0%9F%98%80",
    "no UTF-8": "%ff",
    "cut escape": "%",
    "negative": "-1",
    "new line": "a%0d%0aset-cookie:%20b",
    "markup": "%3Cscript%3E",
    "long": "x" * 3000,
}
ODD_QUERIES = [
    *("", "-1", "0.5", "1e999", "NaN", "null", "true", "%00", "%ff", "%D9%A3", "x" * 3000),
    *("9" * 400, "%F0%9F%98%80", "{}", "..%2F..", "a%0d%0ab"),
]
QUERY_NAMES = ("limit", "after", "order", "purpose", "operator", "row", "index", "format")
QUERY_NAMES += ("analyze", "stream", "unknown")
ODD_HEADERS = {
    "last_event_id": ["", "x", "1.-1", "9" * 400, "1." + "9" * 400, "\udcff", "٣.1"],
    "idempotency_key": ["", "x" * 300, "\udcff", "a\tb"],
    "accept": ["", "text/html", "x" * 3000],
    "accept_encoding": ["br;q=9", "x"],
    "range": ["bytes=5-1", "bytes=-1", "x"],
    "if_none_match": ["*", '"'],
    "origin": ["http://evil.example", "null"],
    "transfer_encoding": ["x", "chunked, identity"],
    "content_length": ["-1", "9" * 30, "1e3", "٣", "1, 2"],
    "upgrade": ["websocket", "h2c"],
    "x_request_id": ["x" * 500, "\udcff", "a b"],
    "authorization": ["Bearer", "Basic eDp5", "Bearer \udcff"],
}


@pytest.fixture
async def served(serve):
    """A server with a finished run, whose good answer is at the end what it was before."""
    async with serve() as running:
        before = await running.post("/v1/completions", GOOD)
        assert before.status == 200
        yield running
        after = await running.post("/v1/completions", GOOD)
        assert after.json()["choices"] == before.json()["choices"]
        assert not running.generator.running


async def target(served, operation, part=None):
    """The path of an operation: with `part` for its parameter, or with that of a finished run."""
    path = operation.path
    if part is None and "{run_id}" in path:
        part = (await served.post("/v1/runs", RUN)).json()["id"]
    return re.sub(r"\{[^}]*\}", (part or "x").replace("\\", "\\\\"), path)


def describe(operation):
    return f"{operation.method} {operation.path}"


@pytest.mark.parametrize("operation", WITH_BODY, ids=describe)
async def test_bytes_that_are_no_json_object_are_refused_by_every_route(served, operation):
    path = await target(served, operation)
    for data, status, code in RAW_ROWS:
        if not data and operation.may_lack_body:
            continue
        answer = await served.post(path, data)
        assert (answer.status, answer.error["code"]) == (status, code), data[:40]
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ";"):
        answer = await served.post(path, b"{}", headers={"Content-Type": kind})
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    answer = await served.post(path, b"{}", headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


async def test_a_method_that_a_path_has_not_is_named_with_those_that_it_has(served):
    methods = {}
    for operation in OPERATIONS:
        methods.setdefault(operation.path, set()).add(operation.method.upper())
    for path, own in methods.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - own:
            sent = request_bytes(method, re.sub(r"\{[^}]*\}", "x", path), {})
            answer = await exchange(served.server.port, sent)
            if answer.status == 404:  # plans/explain could be a plan's id
                assert answer.error["code"] in ("plan_not_found", "response_not_found")
                continue
            assert (answer.status, answer.error["code"]) == (405, "method_not_allowed"), path
            allowed = answer.head.partition("\r\nallow: ")[2].partition("\r\n")[0].upper()
            assert own <= set(allowed.split(","))


async def test_without_a_key_every_route_but_the_open_ones_is_closed(serve):
    async with serve(api_keys=("key",)) as served:
        for operation in OPERATIONS:
            path = re.sub(r"\{[^}]*\}", "x", operation.path)
            for odd in ("", "/", "//", "/%2e%2e/docs", "?key=key"):
                sent = request_bytes(operation.method.upper(), path + odd, b"{")
                answer = await exchange(served.server.port, sent)
                if operation.is_open and odd in ("", "?key=key"):
                    assert answer.status == 200
                else:
                    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("what", ODD_PARTS)
async def test_an_odd_part_of_a_path_finds_nothing(served, what):
    for operation in OPERATIONS:
        if "{" not in operation.path:
            continue
        path = await target(served, operation, ODD_PARTS[what])
        body = {} if operation.body is not None else None
        answer = await exchange(
            served.server.port, request_bytes(operation.method.upper(), path, body)
        )
        assert answer.status in (400, 404, 405), (path[:80], answer.status)
        assert answer.error["code"]
        assert "set-cookie" not in answer.head


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if one.method == "get"], ids=describe
)
async def test_an_odd_query_is_refused_or_ignored(served, operation):
    path = await target(served, operation)
    sent = [
        request_bytes("GET", f"{path}?{name}={value}")
        for name in QUERY_NAMES
        for value in ODD_QUERIES
    ]
    sent += [request_bytes("GET", path + odd) for odd in ("?", "?&&=&", "?limit=1&limit=x", "?%")]
    for answer in await asyncio.gather(*(exchange(served.server.port, one) for one in sent)):
        assert answer.status in (200, 400, 404), answer
        if answer.status != 200:
            assert answer.error["code"]


@pytest.mark.parametrize("name", ODD_HEADERS)
async def test_an_odd_header_harms_no_route(served, name):
    for operation in OPERATIONS:
        path = await target(served, operation)
        body = {} if operation.body is not None else None
        for value in ODD_HEADERS[name]:
            sent = request_bytes(operation.method.upper(), path, body, **{name: value})
            answer = await exchange(served.server.port, sent)
            assert answer.status < 500, (path, value, answer)
            if answer.status >= 400:
                assert answer.error["code"]

"""The table of bad requests, row by row, as bytes on a socket: what each gets, and that the next
good request is answered as the one before it was.

What a fault's place is, and its kin, is in test_bad_requests.py and the files of each endpoint;
rows that need more than one request are below the table.
"""

import asyncio
import json

import pytest

from helium_jax.server import Limits
from helium_jax.testing import FakeGenerator
from tests.server.plans import DEBATE, QUESTIONS, bearer, until_state
from tests.server.raw_http import exchange, request_bytes

CHAT, TEXT, RUNS = "/v1/chat/completions", "/v1/completions", "/v1/runs"
GOOD_CHAT = {
    "model": "fake",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "temperature": 0,
    "max_tokens": 8,
    "logprobs": True,
}
GOOD_TEXT = {"model": "fake", "prompt": "Once upon", "temperature": 0, "max_tokens": 8}
GOOD_RUN = {"plan": DEBATE, "inputs": QUESTIONS}
TOOL = {"type": "function", "function": {"name": "f"}}
LARGE = 1024 * 1024  # what a body may have here
PLAN = {
    "version": "helium/v1",
    "inputs": {"question": {"type": "text"}},
    "ops": {"o": {"type": "llm.completion", "prompt": "{{question}}", "max_tokens": 4}},
    "outputs": {"o": "o"},
}


OPS = {**PLAN["ops"], **{f"c{i}": {"type": "const", "value": ""} for i in range(10_001)}}


def chat(**change):
    return request_bytes("POST", CHAT, {**GOOD_CHAT, **change})


def text(**change):
    return request_bytes("POST", TEXT, {**GOOD_TEXT, **change})


def run(**change):
    return request_bytes("POST", RUNS, {**GOOD_RUN, **change})


def plan(**change):
    return request_bytes("POST", "/v1/plans", {"plan": {**PLAN, **change}})


def op(**fields):
    return plan(ops={"o": {"type": "llm.completion", "prompt": "x", "max_tokens": 4, **fields}})


def raw(data, **headers):
    return request_bytes("POST", CHAT, data, **headers)


def without(body, name):
    return {key: value for key, value in body.items() if key != name}


IRE = "invalid_request"
JSON = "invalid_json"
# row: (bytes, status, code); status 0 is a connection that is closed without a word
TABLE = {
    1: [(request_bytes("GET", "/v1/nothing"), 404, "not_found")],
    2: [(request_bytes("GET", CHAT), 405, "method_not_allowed")],
    3: [(raw(b"{a"), 400, JSON)],
    4: [(raw(data), 400, IRE) for data in (b"[]", b'"x"', b"null", b"5", b"true")],
    5: [
        (raw(b"{}", content_type="text/plain"), 415, "unsupported_media_type"),
        (
            request_bytes("POST", CHAT, GOOD_CHAT).replace(
                b"content-type: application/json\r\n", b""
            ),
            200,
            None,
        ),
    ],
    6: [(raw(b'{"model": "' + b"x" * LARGE + b'"}'), 413, "request_too_large")],
    7: [(raw(b"{}", content_encoding="x-odd"), 415, "unsupported_media_type")],
    8: [
        (raw(b"{}", content_length="-5"), 400, "invalid_http"),
        (raw(b"0\r\n\r\n", transfer_encoding="chunked"), 400, "invalid_http"),
    ],
    9: [(raw(b'{"model": "\xff"}'), 400, JSON)],
    10: [
        (raw(b'{"temperature": %s}' % word), 400, JSON) for word in (b"NaN", b"Infinity", b"1e999")
    ],
    11: [(raw(b'{"seed": ' + b"9" * 5000 + b"}"), 400, JSON)],
    12: [
        (raw(b'{"model": "fake", "model": "fake"}'), 400, JSON),
        (raw(json.dumps(GOOD_CHAT).encode()[:-1] + b', "seed": 1, "seed": 2}'), 200, None),
    ],
    13: [(chat(messages=[{"role": "user", "content": "a\0b\x1b[31m\r\nFAKE"}]), 200, None)],
    14: [(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50, 400, "invalid_http")],
    15: [(raw(b"", content_length="9", expect="100-continue"), 408, "request_timeout")],
    16: [
        (request_bytes("GET", "/version", x_request_id="x" * 10_000), 400, "invalid_http"),
        (request_bytes("GET", "/version", x_request_id="a\rb: c"), 400, "invalid_http"),
        (request_bytes("GET", "/version", x_request_id="x" * 500), 200, None),
    ],
    # 17, 18: keys, below
    19: [
        (request_bytes("POST", CHAT, without(GOOD_CHAT, "model")), 400, IRE),
        (chat(model="other"), 404, "model_not_found"),
        (chat(model=5), 400, IRE),
        (chat(model="x" * (LARGE // 2)), 400, IRE),
    ],
    20: [
        (request_bytes("POST", CHAT, without(GOOD_CHAT, "messages")), 400, IRE),
        *((chat(messages=value), 400, IRE) for value in ([], {}, "x", [None])),
    ],
    21: [
        (
            chat(
                messages=[{"role": "user", "content": [{"type": kind, kind: {"url": "http://x"}}]}]
            ),
            400,
            "unsupported_content",
        )
        for kind in ("image_url", "input_audio")
    ],
    22: [(text(prompt=value), 400, IRE) for value in ("", [], [[]], [""])],
    23: [(text(prompt=[5, value]), 400, IRE) for value in (-1, 10**6, 1.0, True, 2**63)],
    24: [
        (text(prompt=[5] * 5000), 400, "context_length_exceeded"),
        (chat(messages=[{"role": "user", "content": "x" * 5000}]), 400, "context_length_exceeded"),
    ],
    25: [
        *((chat(max_tokens=value), 400, IRE) for value in (0, -1, 1e9, "5", True, 1.5)),
        (text(max_tokens=0), 400, IRE),
        (chat(max_tokens=10**9), 400, "context_length_exceeded"),
        (chat(max_tokens=None), 200, None),
    ],
    26: [(chat(max_tokens=5, max_completion_tokens=6), 400, IRE)],
    27: [
        *((chat(top_p=value), 400, IRE) for value in (0, 1.1, -1)),
        *((chat(top_k=value), 400, IRE) for value in (-2, 0.01, 10**12)),
        *((chat(top_k=value), 200, None) for value in (0, -1)),
    ],
    28: [
        *((chat(n=value), 400, IRE) for value in (0, -1, 129, 10**9, 1.5)),
        (text(n=2, best_of=1), 400, IRE),
    ],
    29: [
        (chat(logit_bias=value), 400, IRE)
        for value in (
            {"x": 1},
            {"9999999": 1},
            {"1": 1e9},
            {"1": -1e9},
            {str(number): 1 for number in range(5000)},
        )
    ],
    30: [
        (chat(seed=-1), 200, None),  # modulo 2**63
        *((chat(seed=value), 400, IRE) for value in (2**64, 1.5, "x")),
    ],
    31: [(chat(stream="yes"), 400, IRE), (chat(stream_options={"include_usage": True}), 400, IRE)],
    32: [
        (chat(tools=value), 400, IRE)
        for value in (
            {},
            [{"type": "function", "function": {}}],
            [TOOL, TOOL],
            [{"type": "function", "function": {"name": "a b"}}],
            [{"type": "function", "function": {"name": f"f{i}"}} for i in range(1000)],
        )
    ],
    33: [
        (chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}), 400, IRE),
        (chat(tool_choice="required"), 400, IRE),
    ],
    34: [
        (chat(response_format={"type": "x"}), 400, IRE),
        (chat(response_format={"type": "json_schema"}), 400, IRE),
    ],
    35: [
        (chat(guided_regex="(a"), 400, "invalid_grammar"),
        (chat(guided_regex="(" * 500 + "a" + ")+" * 500), 400, "invalid_grammar"),
        (chat(guided_grammar="start: nothing"), 400, "invalid_grammar"),
    ],
    36: [(chat(guided_grammar='start: ""'), 400, "invalid_grammar")],
    37: [(chat(chat_template="{{ 'a' * 10**9 }}"), 400, "unsupported_parameter")],
    38: [(chat(priority=value), 400, IRE) for value in ("high", 1e30)],
    39: [(chat(cache_salt=value), 400, IRE) for value in ("", "x" * (LARGE // 2), 5)],
    40: [(chat(foo=1), 200, None)],  # and 400 with --strict, below
    41: [
        *(
            (request_bytes("POST", "/v1/embeddings", {"model": "fake", "input": value}), 400, IRE)
            for value in ("", [], ["a", 5])
        ),
        (
            request_bytes(
                "POST", "/v1/embeddings", {"model": "fake", "input": "x", "dimensions": 4}
            ),
            400,
            "unsupported_parameter",
        ),
        (
            request_bytes(
                "POST", "/v1/embeddings", {"model": "fake", "input": "x", "encoding_format": "x"}
            ),
            400,
            IRE,
        ),
    ],
    42: [
        (request_bytes("POST", "/tokenize", {"prompt": "x", "add_special_tokens": "x"}), 400, IRE),
        *(
            (request_bytes("POST", "/detokenize", {"tokens": value}), 400, IRE)
            for value in ([-1], [10**6], [True], "x")
        ),
    ],
    43: [
        (
            request_bytes(
                "POST",
                "/v1/responses",
                {"model": "fake", "input": "x", "previous_response_id": "resp_none"},
            ),
            404,
            "previous_response_not_found",
        ),
        (
            request_bytes(
                "POST",
                "/v1/responses",
                {"model": "fake", "input": "x", "background": True, "store": False},
            ),
            400,
            None,
        ),
    ],
    # 44, 45: test_batches.py, BAD_FILES and what follows it
    46: [
        (request_bytes("GET", "/v1/batches/batch_none"), 404, "batch_not_found"),
        (request_bytes("POST", "/v1/batches/batch_none/cancel"), 404, "batch_not_found"),
        (request_bytes("GET", "/v1/files/file-none"), 404, "file_not_found"),
        (request_bytes("GET", "/v1/files/file-none/content"), 404, "file_not_found"),
        (request_bytes("DELETE", "/v1/files/file-none"), 404, "file_not_found"),
    ],  # cancelled twice, or when done: test_batches.py
    47: [
        (
            request_bytes("POST", "/v1/plans", {"plan": without(PLAN, "version")}),
            400,
            "unknown_version",
        ),
        (plan(version="helium/v9"), 400, "unknown_version"),
    ],
    48: [(op(prompt="{{nobody}}"), 400, "unknown_reference")],
    49: [
        (
            request_bytes(
                "POST",
                "/v1/plans",
                json.dumps({"plan": PLAN}).replace('"o": {', '"o": {}, "o": {', 1).encode(),
            ),
            400,
            JSON,
        )
    ],
    50: [
        (op(type="shell"), 400, "unknown_op_type"),
        (op(max_tokens="x"), 400, None),
    ],
    51: [(plan(outputs={}), 400, "no_outputs")],
    52: [
        (plan(ops=OPS), 400, "plan_too_large"),
        (run(inputs=[{"question": "x"}] * 1_001), 400, "plan_too_large"),
    ],
    53: [
        (run(inputs=[{"question": "x"}, {"question": value}]), 400, None) for value in (None, 5, {})
    ],
    54: [
        (op(prompt=value), 400, "template_syntax")
        for value in ("{{", "{{ x.y }}", "{{ x | f }}", "{% if %}", "{{{{x}}}}")
    ],
    55: [
        (
            plan(ops={"o": {"type": "branch", "if": "__import__('os')", "then": "question"}}),
            400,
            None,
        )
    ],
    # 56: YAML is read from files, not from HTTP: tests/plan/test_wire.py
    57: [
        (run(limits={"max_llm_calls": -1}), 400, IRE),
        (run(limits={"timeout_s": 0}), 400, IRE),
    ],  # larger than the server's are cut with a warning: test_runs.py
    # 58: the same Idempotency-Key with another body, below
    59: [(request_bytes("POST", f"{RUNS}/run_none/cancel"), 404, "run_not_found")],
    60: [
        (
            request_bytes("POST", "/v1/cache/warm", {"text": "x", "pin": True, "ttl_s": value}),
            400,
            IRE,
        )
        for value in (0, -1)
    ],  # more than fits, and years: test_cache.py
    # 61: below, and another model's version in test_run_journal.py
    62: [
        (plan(webhook="http://169.254.169.254/"), 400, None),
        (op(url="http://169.254.169.254/"), 400, None),
        (op(image="http://169.254.169.254/"), 400, None),
    ],
}
BELOW = {17, 18, 58, 61}
ELSEWHERE = {44, 45, 56}


def test_no_row_is_left_out():
    assert {*TABLE} | BELOW | ELSEWHERE == {*range(1, 63)}


async def good_answers(served):
    answers = [await served.chat(logprobs=True, top_logprobs=2), await served.complete()]
    answers.append(await served.post("/tokenize", {"prompt": "Hi"}))
    assert [answer.status for answer in answers] == [200] * 3
    return [body.get("choices", body) for body in (answer.json() for answer in answers)]


@pytest.mark.parametrize("row", TABLE)
async def test_a_row_of_the_table_gets_its_answer_and_the_next_is_as_before(serve, row):
    limits = Limits(body_bytes=LARGE, run_rows=1000)
    async with serve(limits=limits, body_timeout_s=0.2) as served:
        before = await good_answers(served)
        num_requests = len(served.generator.requests)
        for sent, status, code in TABLE[row]:
            answer = await exchange(served.server.port, sent)
            assert answer.status == status, (sent[:300], answer)
            if status >= 400:
                assert code in (None, answer.error["code"]), answer.error
                assert len(answer.body) < 20_000
            if status in (405, 401):
                assert "\r\nallow: " in answer.head or "\r\nwww-authenticate: " in answer.head
            if all(one >= 400 for _, one, _ in TABLE[row]):
                assert len(served.generator.requests) == num_requests, "refused before any work"
            assert await good_answers(served) == before
            num_requests = len(served.generator.requests)
        assert not served.generator.running


async def test_row_17_a_missing_wrong_or_misnamed_key(serve):
    async with serve(api_keys=("right",)) as served:
        for headers in ({}, bearer("wrong"), {"Authorization": "Basic right"}):
            answer = await served.get("/v1/models", headers=headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await served.get("/v1/models", headers=bearer("right"))).status == 200


async def test_row_18_a_key_that_is_no_admins(serve):
    async with serve(api_keys=("user",), admin_keys=("root",)) as served:
        answer = await served.post("/v1/cache/reset", {}, headers=bearer("user"))
        assert (answer.status, answer.error["code"]) == (403, "forbidden")


async def test_row_40_an_unknown_field_where_the_server_is_strict(serve):
    async with serve(strict=True) as served:
        answer = await served.chat(foo=1)
        assert (answer.status, answer.error["param"]) == (400, "foo")


async def test_row_58_the_same_idempotency_key_with_another_body(serve):
    async with serve() as served:
        key = {"Idempotency-Key": "once"}
        assert (await served.post(RUNS, GOOD_RUN, headers=key)).status == 200
        other = await served.post(RUNS, {**GOOD_RUN, "inputs": QUESTIONS[:1]}, headers=key)
        assert (other.status, other.error["code"]) == (409, "idempotency_conflict")


async def test_rows_59_and_61_a_run_in_the_wrong_state(serve):
    gate = asyncio.Event()

    async def wait(request, num_sent):
        await gate.wait()

    async with serve(FakeGenerator(before_event=wait)) as served:
        run_id = (await served.post(RUNS, {**GOOD_RUN, "background": True})).json()["id"]
        await until_state(served, run_id, "in_progress")
        deleted = await served.ask("DELETE", f"{RUNS}/{run_id}")
        assert (deleted.status, deleted.error["code"]) == (409, "run_not_finished")
        gate.set()
        await until_state(served, run_id, "completed")
        resumed = await served.ask("POST", f"{RUNS}/{run_id}/resume")
        assert resumed.status == 409

"""On the socket: silence, nonsense, clients that leave and clients that do not read."""

import asyncio
import contextlib
import json
import socket

import pytest

from helium_jax.testing import FakeGenerator
from tests.server.plans import DEBATE, QUESTIONS

BODY = {"model": "fake", "prompt": "Hi", "max_tokens": 4, "temperature": 0}
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}


def http(path, body, *headers):
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


@contextlib.asynccontextmanager
async def connect(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def eventually(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def stuck():
    """A generator whose requests never gain a token."""

    async def forever(request, num_sent):
        await asyncio.Event().wait()

    return FakeGenerator(before_event=forever)


def stuck_after(count):
    async def wait(request, num_sent):
        if num_sent >= count:
            await asyncio.Event().wait()

    return FakeGenerator(before_event=wait, max_answer_tokens=50)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_token_cancels_its_sequences(serve, stream):
    generator = stuck()
    async with serve(generator) as served, connect(served) as (_, writer):
        writer.write(http("/v1/completions", {**BODY, "n": 3, "stream": stream}))
        await eventually(lambda: len(generator.running) == 3)
        writer.close()
        await eventually(lambda: len(generator.cancelled) == 3)
        assert not generator.running
        answer = await served.get("/metrics")
        assert b"helium:requests_cancelled_total 1.0" in answer.body


async def test_a_client_that_does_not_read_is_dropped(serve, text):
    big = tuple(text.encode("x" * 3000, add_special_tokens=False))
    generator = FakeGenerator(reply=lambda request: big)
    async with serve(generator, write_timeout_s=0.2) as served:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it is soon full
        client.connect(("127.0.0.1", served.server.port))
        reader, writer = await asyncio.open_connection(sock=client, limit=1024)
        fields = {"stream": True, "n": 8, "max_tokens": 1000, "logprobs": 20, "temperature": 1}
        writer.write(http("/v1/completions", {**BODY, **fields}))
        await eventually(lambda: generator.running)
        await eventually(lambda: not generator.running)
        await eventually(lambda: served.server.num_connections == 0)
        assert not reader.at_eof()
        writer.transport.abort()


STREAMS = [
    ("/v1/completions", {**BODY, "stream": True, "min_tokens": 4}),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/messages", {**CHAT, "stream": True}),
    ("/v1/responses", {"model": "fake", "input": "Hi", "stream": True}),
    ("/v1/runs", {"plan": DEBATE, "inputs": QUESTIONS, "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_client_that_leaves_in_mid_stream_cancels_what_it_asked_for(serve, path, body):
    generator = stuck_after(2)
    async with serve(generator) as served, connect(served) as (reader, writer):
        writer.write(http(path, body))
        await reader.readuntil(b"data: ")
        await eventually(lambda: generator.running)
        writer.close()
        await eventually(lambda: generator.cancelled and not generator.running)


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_client_that_leaves_while_the_server_aborts_is_no_bug(serve, caplog, path, body):
    generator = stuck_after(2)
    async with serve(generator) as served, connect(served) as (reader, writer):
        writer.write(http(path, body))
        await reader.readuntil(b"data: ")
        (connection,) = served.server._runner.server.connections
        with caplog.at_level("INFO"):
            connection.transport.abort()  # what the loop sees of a client that leaves
            await served.server.close()
    assert not [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert "client went away" in caplog.text
    await eventually(lambda: not generator.running)


@pytest.mark.parametrize("path", ["events", "outputs"])
async def test_a_client_that_does_not_read_a_run_is_dropped_and_is_no_bug(
    serve, text, caplog, path
):
    big = tuple(text.encode("x" * 3000, add_special_tokens=False))
    generator = FakeGenerator(reply=lambda request: big, tokens_per_event=len(big))
    ask = {"type": "llm.chat", "user": "{{question}}", "max_tokens": 3500}
    plan = {**DEBATE, "ops": {"pro": ask}, "outputs": {"pro": "pro"}}
    rows = [{"question": f"{number}?"} for number in range(60)]
    async with serve(generator, write_timeout_s=0.2) as served:
        run = (await served.post("/v1/runs", {"plan": plan, "inputs": rows})).json()
        assert run["state"] == "completed"
        await served.session.close()
        await eventually(lambda: served.server.num_connections == 0)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it is soon full
        client.connect(("127.0.0.1", served.server.port))
        await eventually(lambda: served.server.num_connections == 1)
        (connection,) = served.server._runner.server.connections
        ours = connection.transport.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with client, caplog.at_level("INFO"):
            client.send(f"GET /v1/runs/{run['id']}/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await eventually(lambda: "client went away" in caplog.text)
    assert not [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]


@pytest.mark.parametrize("sent", [b"", b"POST /v1/compl", b"GET /version HTTP/1.1\r\nHost: x\r\n"])
async def test_half_a_header_is_not_waited_for(serve, sent):
    async with serve(header_timeout_s=0.2) as served, connect(served) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(5):
            assert await reader.read() == b""


async def test_drops_of_a_header_do_not_keep_the_connection(serve):
    async with serve(header_timeout_s=0.3) as served, connect(served) as (reader, writer):
        writer.write(b"GET /version HTTP/1.1\r\n")

        async def drip():
            for i in range(1000):
                writer.write(b"x-a%d: b\r\n" % i)
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        dripping.cancel()
        await asyncio.wait({dripping})


@pytest.mark.parametrize("header", [(), ("Expect: 100-continue",)])
async def test_half_a_body_is_not_waited_for(serve, header):
    async with serve(body_timeout_s=0.2) as served, connect(served) as (reader, writer):
        head, _, _ = http("/v1/completions", BODY, *header).partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n" + b"{")
        async with asyncio.timeout(5):
            answer = await reader.read()
        if header:
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert b"HTTP/1.1 408" in answer
        assert b'"request_timeout"' in answer
        assert not served.generator.requests


@pytest.mark.parametrize("expectation", ["100-continue", "200-magic"])
async def test_expectations_do_not_disturb_the_answer(serve, expectation):
    async with serve() as served, connect(served) as (reader, writer):
        writer.write(http("/v1/completions", BODY, f"Expect: {expectation}", "Connection: close"))
        answer = await reader.read()
        assert b"HTTP/1.1 200" in answer
        assert b'"text_completion"' in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"GET\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: x\r\nx-request-id: a\rb: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"<script>" * 2000 + b"\r\n\r\n",
    ],
    ids=["tls", "no http", "negative length", "two lengths", "newline in header", "long header"],
)
async def test_what_is_not_http_gets_a_400_without_echo_and_is_closed(serve, sent):
    async with serve() as served:
        async with connect(served) as (reader, writer):
            writer.write(sent)
            async with asyncio.timeout(5):
                answer = await reader.read()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400") or head.startswith(b"HTTP/1.0 400")
        assert b"x-request-id" in head.lower()
        assert json.loads(body)["error"]["code"] == "invalid_http"
        assert b"script" not in answer
        assert (await served.complete()).status == 200


async def test_an_expectation_on_an_unknown_path_is_still_answered(serve):
    async with serve() as served, connect(served) as (reader, writer):
        writer.write(b"GET /no HTTP/1.1\r\nHost: x\r\nExpect: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 4")


async def test_connections_over_the_limit_are_told_so(serve):
    async with serve(max_connections=2) as served:
        async with connect(served) as _, connect(served) as _:
            await eventually(lambda: served.server.num_connections == 2)
            async with connect(served) as (reader, _):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"retry-after" in answer
            assert b'"too_many_connections"' in answer
        await eventually(lambda: served.server.num_connections < 2)
        assert (await served.complete()).status == 200


async def test_pipelined_requests_are_answered_in_order(serve):
    async with serve() as served, connect(served) as (reader, writer):
        last = http("/v1/completions", {"model": "x"}, "Connection: close")
        writer.write(http("/v1/completions", BODY) + last)
        answer = await reader.read()
        assert answer.index(b"HTTP/1.1 200") < answer.index(b"HTTP/1.1 400")

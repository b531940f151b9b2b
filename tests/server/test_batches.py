"""/v1/batches: through OpenAI's client; lines fail alone, tenants apart, ends of every kind."""

import asyncio
import itertools
import json

import openai
import pytest

from helium_jax.errors import CapacityError, InternalError
from helium_jax.server import Limits
from helium_jax.server.batches import service as batch_service
from helium_jax.testing import FakeGenerator
from tests.server.test_files import upload

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def line(custom_id, url=CHAT, **body):
    if url == CHAT:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, **body}
    body = {"model": "fake", **({"temperature": 0} if url != EMBEDDINGS else {}), **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(lines):
    return "\n".join(json.dumps(one) for one in lines).encode()


async def start(served, lines, url=CHAT, headers=None, **fields):
    content = lines if isinstance(lines, bytes) else jsonl(lines)
    file = (await upload(served, content, headers=headers)).json()
    body = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h", **fields}
    return await served.post("/v1/batches", body, headers=headers or {})


async def finish(served, batch, headers=None):
    """The batch once it is over."""
    final = ("completed", "failed", "expired", "cancelled")
    async with asyncio.timeout(20):
        while batch["status"] not in final:
            await asyncio.sleep(0.01)
            path = f"/v1/batches/{batch['id']}"
            batch = (await served.get(path, headers=headers or {})).json()
    return batch


async def written(served, file_id):
    """The lines of an output or error file by custom id."""
    content = (await served.get(f"/v1/files/{file_id}/content")).body
    assert content.endswith(b"\n")
    lines = [json.loads(one) for one in content.splitlines()]
    assert len({one["custom_id"] for one in lines}) == len(lines)
    return {one["custom_id"]: one for one in lines}


@pytest.mark.shows(
    client="openai", endpoint="POST /v1/files, /v1/batches", what="from file to answers"
)
async def test_the_openai_client_runs_a_batch_from_file_to_answers(serve):
    async with (
        serve() as served,
        openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client,
    ):
        direct = await client.chat.completions.create(**line("x")["body"])
        content = jsonl([line(f"id-{i}") for i in range(5)])
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"why": "test"},
        )
        async with asyncio.timeout(30):
            while batch.status not in ("completed", "failed"):
                await asyncio.sleep(0.01)
                batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (5, 0)
        assert batch.metadata == {"why": "test"}
        assert batch.error_file_id is None
        assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
        answers = (await client.files.content(batch.output_file_id)).text.splitlines()
        first = json.loads(answers[0])["response"]
        assert first["status_code"] == 200
        assert first["body"]["choices"][0]["message"]["content"] == (
            direct.choices[0].message.content
        )
        assert first["body"]["usage"]["prompt_tokens"] == direct.usage.prompt_tokens
        assert [one.id async for one in client.batches.list()] == [batch.id]
        assert {one.id async for one in client.files.list()} == {file.id, batch.output_file_id}


async def test_every_endpoint_can_be_asked(serve):
    async with serve() as served:
        lines = {
            CHAT: line("a", n=2, logprobs=True),
            COMPLETIONS: line("a", COMPLETIONS, prompt=["x", "y"], max_tokens=3),
            EMBEDDINGS: line("a", EMBEDDINGS, input=["x", "y"]),
        }
        for url, one in lines.items():
            batch = await finish(served, (await start(served, [one], url)).json())
            assert batch["status"] == "completed", batch
            body = (await written(served, batch["output_file_id"]))["a"]["response"]["body"]
            assert len(body.get("choices") or body["data"]) == 2


async def test_a_line_that_is_refused_or_fails_does_so_alone(serve):
    def fail(request, sent):
        is_bad = bytes(request.token_ids).endswith(b"BAD\nassistant: ")
        return InternalError("broken") if is_bad else None

    async with serve(FakeGenerator(fail=fail)) as served:
        lines = [
            line("good"),
            line("refused", max_tokens=-1),
            line("unknown", model="other"),
            line("streamed", stream=True),
            line("broken", messages=[{"role": "user", "content": "BAD"}]),
            line("good too"),
        ]
        batch = await finish(served, (await start(served, lines)).json())
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 6, "completed": 2, "failed": 4}
        assert set(await written(served, batch["output_file_id"])) == {"good", "good too"}
        errors = await written(served, batch["error_file_id"])
        statuses = {name: one["response"]["status_code"] for name, one in errors.items()}
        assert statuses == {"refused": 400, "unknown": 404, "streamed": 400, "broken": 500}
        assert errors["refused"]["response"]["body"]["error"]["param"] == "max_tokens"


@pytest.mark.parametrize("settings", [{}, {"logprobs": True}], ids=["rows", "by themselves"])
async def test_lines_go_behind_other_requests_and_by_their_prefixes(serve, settings):
    async with serve() as served:
        words = [f"{letter * 64} {place}" for place in range(3) for letter in "bac"]
        lines = [
            line(one, messages=[{"role": "user", "content": one}], **settings) for one in words
        ]
        batch = await finish(served, (await start(served, lines)).json())
        assert len(batch["runs"]) == (not settings)
        requests = served.generator.requests
        order = [bytes(one.token_ids).split()[1][:1] for one in requests]
        assert len([*itertools.groupby(order)]) == 3
        assert all(one.priority > 100_000 for one in requests)


BAD_FILES = {
    "not json": (b'{"custom_id": "a"', "invalid_json", 1),
    "no object": (b"[]\n", "invalid_json", 1),
    "missing fields": (b'{"custom_id": "a"}', "invalid_request", 1),
    "other url": (jsonl([line("a"), line("b", COMPLETIONS, prompt="x")]), "mismatched_url", 2),
    "twice": (jsonl([line("a"), line("a")]), "duplicate_custom_id", 2),
    "nothing": (b"\n\n", "empty_file", None),
    "too many": (jsonl([line(f"{i}") for i in range(5)]), "too_many_lines", 5),
    "get": (jsonl([{**line("a"), "method": "GET"}]), "invalid_request", 1),
}


@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_file_that_cannot_be_read_fails_the_batch_before_anything_runs(serve, case):
    content, code, number = BAD_FILES[case]
    async with serve(limits=Limits(batch_lines=4)) as served:
        batch = await finish(served, (await start(served, content)).json())
        assert batch["status"] == "failed"
        first = batch["errors"]["data"][0]
        assert (first["code"], first["line"]) == (code, number)
        assert served.generator.requests == []


async def test_cancelling_keeps_what_is_answered(serve):
    gate = asyncio.Event()

    async def wait(request, num_sent):
        if b"slow" in bytes(request.token_ids):
            await gate.wait()

    async with serve(FakeGenerator(before_event=wait)) as served:
        slow = [{"role": "user", "content": "slow"}]
        lines = [line("fast"), line("slow", messages=slow)]
        batch = (await start(served, lines)).json()
        async with asyncio.timeout(30):
            while batch["request_counts"]["completed"] < 1:
                await asyncio.sleep(0.01)
                batch = (await served.get(f"/v1/batches/{batch['id']}")).json()
        cancelling = await served.ask("POST", f"/v1/batches/{batch['id']}/cancel")
        assert cancelling.json()["status"] == "cancelling"
        batch = await finish(served, cancelling.json())
        assert batch["status"] == "cancelled"
        assert set(await written(served, batch["output_file_id"])) == {"fast"}
        errors = await written(served, batch["error_file_id"])
        assert errors["slow"]["error"]["code"] == "batch_cancelled"
        assert len(served.generator.cancelled) == 1
        again = await served.ask("POST", f"/v1/batches/{batch['id']}/cancel")
        assert again.status == 409


async def test_a_batch_that_is_not_done_in_its_window_expires(serve, monkeypatch):
    monkeypatch.setattr(batch_service, "DAY_S", -1.0)
    async with serve() as served:
        batch = await finish(served, (await start(served, [line("a"), line("b")])).json())
        assert (batch["status"], batch["output_file_id"]) == ("expired", None)
        assert batch["expired_at"] >= batch["expires_at"]
        assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
        errors = await written(served, batch["error_file_id"])
        assert {one["error"]["code"] for one in errors.values()} == {"batch_expired"}
        assert {one["response"] for one in errors.values()} == {None}


async def test_answers_wait_for_room_for_their_file(serve):
    async with serve(limits=Limits(files=1)) as served:
        batch = (await start(served, [line("a")])).json()
        async with asyncio.timeout(20):
            while not batch["errors"]:
                await asyncio.sleep(0.01)
                batch = (await served.get(f"/v1/batches/{batch['id']}")).json()
        assert batch["status"] == "finalizing"
        assert batch["errors"]["data"][0]["code"] == "too_many_files"
        await served.ask("DELETE", f"/v1/files/{batch['input_file_id']}")
        batch = await finish(served, batch)
        assert (batch["status"], batch["errors"]) == ("completed", None)
        assert set(await written(served, batch["output_file_id"])) == {"a"}


async def test_a_full_engine_is_waited_for(serve):
    tries = []

    def fail(request, sent):
        tries.append(request.request_id)
        return CapacityError("full", retry_after_s=0) if len(tries) < 3 else None

    async with serve(FakeGenerator(fail=fail)) as served:
        batch = await finish(served, (await start(served, [line("a")])).json())
        assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


async def test_other_keys_see_no_batch_and_cannot_use_a_file(serve):
    async with serve(api_keys=("one", "two")) as served:
        one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
        batch = (await start(served, [line("a")], headers=one)).json()
        assert (await served.get("/v1/batches", headers=two)).json()["data"] == []
        path = f"/v1/batches/{batch['id']}"
        assert (await served.get(path, headers=two)).status == 404
        assert (await served.ask("POST", f"{path}/cancel", headers=two)).status == 404
        body = {
            "input_file_id": batch["input_file_id"],
            "endpoint": CHAT,
            "completion_window": "24h",
        }
        stolen = await served.post("/v1/batches", body, headers=two)
        assert (stolen.status, stolen.error["code"]) == (404, "file_not_found")
        await finish(served, batch, one)
        salts = {request.cache_salt for request in served.generator.requests}
        direct = await served.post(CHAT, line("x")["body"], headers=one)
        assert direct.status == 200
        assert salts == {served.generator.requests[-1].cache_salt}


async def test_a_key_has_only_so_many_unfinished_batches(serve):
    gate = asyncio.Event()

    async def wait(request, num_sent):
        await gate.wait()

    async with serve(
        FakeGenerator(before_event=wait), limits=Limits(batches_unfinished=2)
    ) as served:
        batches = [(await start(served, [line("a")])).json() for _ in range(2)]
        third = await start(served, [line("a")])
        assert (third.status, third.error["code"]) == (429, "too_many_batches")
        gate.set()
        for batch in batches:
            assert (await finish(served, batch))["status"] == "completed"
        assert (await start(served, [line("a")])).status == 200


async def test_lines_may_ask_for_responses(serve):
    async with serve() as served:
        lines = [
            {**line("a", "/v1/responses", input="Hi", max_output_tokens=5)},
            {**line("kept", "/v1/responses", input="Hi", max_output_tokens=5, store=True)},
            {**line("b", "/v1/responses", input="Hi", max_tokens=5)},
        ]
        started = await start(served, lines, "/v1/responses")
        batch = await finish(served, started.json())
        assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        answers = await written(served, batch["output_file_id"])
        body = answers["kept"]["response"]["body"]
        assert (await served.get(f"/v1/responses/{body['id']}")).json() == body
        body = answers["a"]["response"]["body"]  # it is in the file: nobody asked for more
        assert body["store"] is False
        assert (await served.get(f"/v1/responses/{body['id']}")).status == 404
        error = (await written(served, batch["error_file_id"]))["b"]["response"]["body"]["error"]
        assert error["param"] == "max_tokens"

"""Background runs outlive their server: what was finished stays, the rest can be resumed."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import urllib.request
import zlib
from dataclasses import replace

import pytest

from helium_jax.errors import RequestError
from helium_jax.executor import Session
from helium_jax.executor.journal import Journal
from helium_jax.plan import plan_from_document
from helium_jax.server import Limits
from helium_jax.testing import FakeGenerator, FakeText
from helium_jax.testing.generator import FAKE_MODEL
from tests.server.plans import (
    DEBATE,
    QUESTIONS,
    RUN,
    bearer,
    read_events,
    read_rows,
    until,
    until_state,
)

BACKGROUND = {**RUN, "background": True}
# The first two rows' questions; calls of others wait.
NUM_FREE = 2


def stuck(**kwargs):
    """A generator that answers the first two rows and never the others."""

    async def wait(request, num_sent):
        text = bytes(i for i in request.token_ids if i < 256)
        if not any(b"Is %d a" % row in text for row in range(NUM_FREE)):
            await asyncio.Event().wait()

    return FakeGenerator(before_event=wait, **kwargs)


async def interrupt(serve, folder, body=BACKGROUND, **config):
    """Starts a run, lets two rows finish, and ends the server; the run's id."""
    async with serve(stuck(), state_dir=folder, **config) as served:
        headers = bearer(config["api_keys"][0]) if "api_keys" in config else {}
        answer = await served.post("/v1/runs", body, headers=headers)
        run = answer.json()
        assert (answer.status, run["durable"]) == (202, True)
        async with asyncio.timeout(30):
            while run["rows"]["finished"] < NUM_FREE:
                run = (await served.get(f"/v1/runs/{run['id']}", headers=headers)).json()
                await asyncio.sleep(0.005)
    return run["id"]


async def test_an_interrupted_run_keeps_its_rows_and_resumes_the_others(serve, tmp_path):
    async with serve() as served:
        whole = (await served.post("/v1/runs", RUN)).json()["outputs"]
    run_id = await interrupt(serve, tmp_path)
    # Without the output cache only the journal can spare work.
    (tmp_path / "outputs.sqlite").unlink()
    async with serve(state_dir=tmp_path) as served:
        run = (await served.get(f"/v1/runs/{run_id}")).json()
        assert (run["state"], run["attempt"], run["durable"]) == ("interrupted", 1, True)
        assert run["rows"] == {"total": 4, "finished": 2, "failed": 0}
        rows = read_rows(await served.get(f"/v1/runs/{run_id}/outputs"))
        assert rows == whole[:2]
        events = read_events((await served.get(f"/v1/runs/{run_id}/events")).body)
        assert [e["type"] for _, e in events] == [
            "run.created",
            "row.completed",
            "row.completed",
            "run.completed",
        ]
        assert not served.generator.requests
        resumed = await served.post(f"/v1/runs/{run_id}/resume", b"")
        assert (resumed.status, resumed.json()["attempt"]) == (202, 2)
        run = await until_state(served, run_id, "completed")
        assert run["rows"] == {"total": 4, "finished": 4, "failed": 0}
        assert len(served.generator.requests) == 6
        assert read_rows(await served.get(f"/v1/runs/{run_id}/outputs")) == whole
        last = {"Last-Event-ID": events[-1][0]}
        rest = read_events((await served.get(f"/v1/runs/{run_id}/events", headers=last)).body)
        told = [e["row"] for _, e in rest if e["type"] == "row.completed"]
        assert sorted(told) == [2, 3]
        assert {e["row"] for _, e in rest if e["type"] == "op.row"} == {2, 3}
        again = await served.post(f"/v1/runs/{run_id}/resume", b"")
        assert (again.status, again.error["code"]) == (409, "run_not_interrupted")
    async with serve(state_dir=tmp_path) as served:
        run = (await served.get(f"/v1/runs/{run_id}")).json()
        assert (run["state"], run["attempt"]) == ("completed", 2)
        assert read_rows(await served.get(f"/v1/runs/{run_id}/outputs")) == whole


async def test_unfinished_rows_find_their_finished_calls_in_the_output_cache(serve, tmp_path):
    async def wait(request, num_sent):
        if b"fair judge" in bytes(i for i in request.token_ids if i < 256):
            await asyncio.Event().wait()

    generator = FakeGenerator(before_event=wait)
    async with serve(generator, state_dir=tmp_path) as served:
        run_id = (await served.post("/v1/runs", BACKGROUND)).json()["id"]
        await until(lambda: len(generator.finished) == 8)
    async with serve(state_dir=tmp_path) as served:
        await served.post(f"/v1/runs/{run_id}/resume", b"")
        await until_state(served, run_id, "completed")
        assert len(served.generator.requests) == 4


async def test_constant_columns_are_cut_to_the_rows_that_are_left(serve, tmp_path):
    questions = [row["question"] for row in QUESTIONS]
    plan = {
        "version": "helium/v1",
        "ops": {
            "q": {"type": "const", "values": questions},
            "o": {"type": "llm.completion", "prompt": "{{q}}", "max_tokens": 8},
        },
        "outputs": {"o": "o", "q": "q"},
    }
    async with serve() as served:
        whole = (await served.post("/v1/runs", {"plan": plan})).json()["outputs"]
    run_id = await interrupt(serve, tmp_path, {"plan": plan, "background": True})
    async with serve(state_dir=tmp_path) as served:
        await served.post(f"/v1/runs/{run_id}/resume", b"")
        await until_state(served, run_id, "completed")
        assert read_rows(await served.get(f"/v1/runs/{run_id}/outputs")) == whole
        assert len(served.generator.requests) == 2


async def test_what_a_run_cost_outlives_the_server_and_adds_up(serve, tmp_path):
    async with serve(state_dir=tmp_path) as served:
        run_id = (await served.post("/v1/runs", BACKGROUND)).json()["id"]
        usage = (await until_state(served, run_id, "completed"))["usage"]
        assert usage["calls"] == 12
    async with serve(state_dir=tmp_path) as served:
        assert (await served.get(f"/v1/runs/{run_id}")).json()["usage"] == usage


VIEWS = (
    "",
    "/graph",
    "/timeline",
    "/timeline?limit=3",
    *(f"/explain?analyze=true&format={form}" for form in ("text", "json", "mermaid", "dot")),
)


async def test_what_a_finished_run_is_drawn_from_outlives_the_server(serve, tmp_path):
    async with serve(state_dir=tmp_path) as served:
        run_id = (await served.post("/v1/runs", BACKGROUND)).json()["id"]
        await until_state(served, run_id, "completed")
        before = {view: await served.get(f"/v1/runs/{run_id}{view}") for view in VIEWS}
        picture = (await served.get(f"/v1/runs/{run_id}/timeline.svg")).body
    async with serve(state_dir=tmp_path) as served:
        for view, answer in before.items():
            again = await served.get(f"/v1/runs/{run_id}{view}")
            assert (again.status, again.body) == (200, answer.body), view
            assert again.headers["Content-Type"] == answer.headers["Content-Type"]
        again = await served.get(f"/v1/runs/{run_id}/timeline.svg")
        assert sorted(again.body.splitlines()) == sorted(picture.splitlines())
        assert (await served.get(f"/v1/runs/{run_id}/explain")).status == 200
        assert not served.generator.requests
    assert len(json.loads(before["/timeline"].body)["spans"]) == 12


async def test_damaged_figures_cost_the_figures_alone(serve, tmp_path):
    async with serve(state_dir=tmp_path) as served:
        run_id = (await served.post("/v1/runs", BACKGROUND)).json()["id"]
        await until_state(served, run_id, "completed")
    for damage in (b"no figures", zlib.compress(b"{}")):
        journal = Journal(tmp_path)
        journal.set_note(run_id, "figures", damage)
        journal.close()
        async with serve(state_dir=tmp_path) as served:
            answer = await served.get(f"/v1/runs/{run_id}/explain?analyze=true")
            assert (answer.status, answer.error["code"]) == (409, "no_result")
            assert len(read_rows(await served.get(f"/v1/runs/{run_id}/outputs"))) == 4


async def test_why_a_run_failed_outlives_the_server(serve, tmp_path):
    body = {**BACKGROUND, "limits": {"max_llm_calls": 2, "on_row_error": "fail"}}
    async with serve(state_dir=tmp_path) as served:
        run_id = (await served.post("/v1/runs", body)).json()["id"]
        run = await until_state(served, run_id, "failed")
        assert "max_llm_calls=2" in run["error"]["message"]
    async with serve(state_dir=tmp_path) as served:
        assert (await served.get(f"/v1/runs/{run_id}")).json() == run


async def test_limits_count_over_all_attempts(serve, tmp_path):
    body = {**BACKGROUND, "limits": {"max_llm_calls": 8}}
    run_id = await interrupt(serve, tmp_path, body)
    (tmp_path / "outputs.sqlite").unlink()
    async with serve(state_dir=tmp_path) as served:
        before = (await served.get(f"/v1/runs/{run_id}")).json()["usage"]
        assert before["calls"] >= 6
        await served.post(f"/v1/runs/{run_id}/resume", b"")
        run = await until_state(served, run_id, "completed")
        assert (run["result"], run["usage"]["calls"]) == ("partial", 8)
        assert len(served.generator.requests) == 8 - before["calls"]
        assert run["usage"]["completion_tokens"] >= before["completion_tokens"]
        rows = read_rows(await served.get(f"/v1/runs/{run_id}/outputs"))
        messages = [error["message"] for row in rows for error in row["errors"]]
        assert any("max_llm_calls=8" in message for message in messages)


async def test_another_model_version_resumes_nothing(serve, tmp_path):
    run_id = await interrupt(serve, tmp_path)
    other = FakeGenerator(info=replace(FAKE_MODEL, version="fake-2"))
    async with serve(other, state_dir=tmp_path) as served:
        answer = await served.post(f"/v1/runs/{run_id}/resume", b"")
        assert (answer.status, answer.error["code"]) == (409, "model_changed")


async def test_restored_runs_belong_to_their_key_and_their_idempotency_key(serve, tmp_path):
    run_id = await interrupt(serve, tmp_path, api_keys=("a", "b"))
    async with serve(state_dir=tmp_path, api_keys=("a", "b")) as served:
        path = f"/v1/runs/{run_id}"
        assert (await served.get(path, headers=bearer("a"))).status == 200
        assert (await served.get(path, headers=bearer("b"))).status == 404
        refused = await served.post(path + "/resume", b"", headers=bearer("b"))
        assert refused.status == 404
        headers = {**bearer("a"), "Idempotency-Key": "k"}
        first = (await served.post("/v1/runs", BACKGROUND, headers=headers)).json()["id"]
        await until_state(served, first, "completed", headers=bearer("a"))
    async with serve(state_dir=tmp_path, api_keys=("a", "b")) as served:
        again = await served.post("/v1/runs", BACKGROUND, headers=headers)
        assert again.json()["id"] == first
        other = await served.post("/v1/runs", RUN, headers=headers)
        assert other.status == 409


async def test_a_deleted_run_does_not_come_back_and_a_waiting_one_is_interrupted(serve, tmp_path):
    limits = Limits(runs_running=1)
    async with serve(stuck(), state_dir=tmp_path, limits=limits) as served:
        ids = [(await served.post("/v1/runs", BACKGROUND)).json()["id"] for _ in range(4)]
        await served.post(f"/v1/runs/{ids[2]}/cancel", b"")
        await served.ask("DELETE", f"/v1/runs/{ids[2]}")
        await served.post(f"/v1/runs/{ids[3]}/cancel", b"")
    async with serve(state_dir=tmp_path) as served:
        runs = (await served.get("/v1/runs")).json()["data"]
        states = {run["id"]: run["state"] for run in runs}
        assert states == {**dict.fromkeys(ids[:2], "interrupted"), ids[3]: "cancelled"}


async def test_only_background_runs_are_kept(serve, tmp_path):
    async with serve(state_dir=tmp_path) as served:
        assert (await served.post("/v1/runs", RUN)).json()["durable"] is False
    async with serve(state_dir=tmp_path) as served:
        assert (await served.get("/v1/runs")).json()["data"] == []


async def test_a_second_server_on_the_folder_is_refused(serve, tmp_path):
    async with serve(state_dir=tmp_path) as served:
        with pytest.raises(RequestError, match="another server uses the state directory"):
            async with serve(state_dir=tmp_path):
                pass
        assert (await served.get("/health")).status == 200
    async with serve(state_dir=tmp_path):
        pass


@pytest.mark.parametrize("kind", ["damaged", "full"])
async def test_a_bad_journal_costs_durability_and_says_so(serve, tmp_path, kind):
    limits = Limits(journal_bytes=32 * 1024)
    if kind == "damaged":
        (tmp_path / "runs.sqlite").write_bytes(b"no database" * 1000)
    rows = [{"question": f"{row} " + "x" * 5000} for row in range(20)]
    body = {"plan": DEBATE, "inputs": rows, "background": True}
    plain = None
    async with serve(state_dir=tmp_path, limits=limits) as served:
        answer = await served.post("/v1/runs", body)
        assert (answer.status, answer.json()["durable"]) == (202, False)
        run = await until_state(served, answer.json()["id"], "completed")
        assert run["rows"]["finished"] == 20
        ready = (await served.get("/health/ready")).json()
        assert ready["status"] == "ready"
        assert "runs.sqlite" in ready["degraded"]["journal"]
        assert str(tmp_path) not in ready["degraded"]["journal"]
        plain = (await served.get("/metrics")).body.decode()
    assert "helium:journal_up 0.0" in plain


SERVER = """
import asyncio, contextlib, sys
from pathlib import Path
from types import SimpleNamespace
from helium_jax.config import EngineConfig
from helium_jax.runtime import open_runtime
from helium_jax.server import ServerConfig, make_app, start_server
from helium_jax.testing import FakeGenerator, FakeText

def make_runtime():
    if sys.argv[2] == "helium-tiny":
        return open_runtime("helium-tiny", EngineConfig(deterministic=True))
    async def wait(request, num_sent):
        await asyncio.sleep(0.02)
    generator = FakeGenerator(before_event=wait)
    return contextlib.nullcontext(SimpleNamespace(generator=generator, text=FakeText()))

async def main():
    config = ServerConfig(port=0, state_dir=Path(sys.argv[1]))
    async with make_runtime() as runtime:
        server = await start_server(make_app(runtime, config), config)
        print(server.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
PLAN = {**DEBATE, "name": "crash"}
ROWS = [{"question": f"What is {number} plus {number}?"} for number in range(24)]


class Process:
    """A server in a process of its own."""

    def __init__(self, port, process):
        self.port, self.process = port, process

    def ask(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()


@contextlib.asynccontextmanager
async def process_server(folder, model):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(folder), model, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield Process(port, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def crash_until_done(folder, model, num_crashes, draw):
    """Runs a plan through so many kill -9; its rows, of which none may vanish or come twice."""
    run_id, seen = None, {}
    for crash in range(num_crashes + 1):
        async with process_server(folder, model) as server:
            if run_id is None:
                body = {"plan": PLAN, "inputs": ROWS, "background": True}
                run_id = json.loads(server.ask("POST", "/v1/runs", body))["id"]
            else:
                path = f"/v1/runs/{run_id}"
                lines = server.ask("GET", f"{path}/outputs").splitlines()
                found = {row["row"]: row for row in map(json.loads, lines)}
                assert len(found) == len(lines), "a row is there twice"
                assert all(found.get(row) == value for row, value in seen.items())
                state = json.loads(server.ask("GET", path))["state"]
                if state == "interrupted":
                    server.ask("POST", f"{path}/resume")
            path = f"/v1/runs/{run_id}"
            until_s = time.monotonic() + (draw.random() * 0.6 if crash < num_crashes else 60)
            while time.monotonic() < until_s:
                lines = (await asyncio.to_thread(server.ask, "GET", f"{path}/outputs")).splitlines()
                seen = {row["row"]: row for row in map(json.loads, lines)}
                if json.loads(server.ask("GET", path))["state"] == "completed":
                    break
    return seen


@pytest.mark.parametrize(
    ("model", "num_crashes"),
    [("fake", 1), pytest.param("helium-tiny", 20, marks=pytest.mark.slow)],
)
async def test_a_run_survives_kill_9_at_random_points(tmp_path, model, num_crashes):
    draw = random.Random(7)
    rows = await crash_until_done(tmp_path / "crashed", model, num_crashes, draw)
    assert sorted(rows) == list(range(len(ROWS)))
    assert not any(row["errors"] for row in rows.values())
    if model != "fake":
        assert rows == await crash_until_done(tmp_path / "whole", model, 0, draw)
        return
    text = FakeText()
    plan, _ = plan_from_document(PLAN)
    whole = await Session(FakeGenerator(), text).run(plan, ROWS)
    assert [rows[row]["outputs"] for row in range(len(ROWS))] == [
        dict(row.outputs) for row in whole.rows
    ]


def upload_lines(server, num_lines):
    """Uploads a batch's lines as a form; the file's id."""
    lines = [
        {
            "custom_id": f"{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "fake",
                "messages": [{"role": "user", "content": f"What is {number}?"}],
                "max_tokens": 4,
            },
        }
        for number in range(num_lines)
    ]
    content = "\n".join(map(json.dumps, lines))
    parts = (
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        f"{content}\r\n--b--\r\n"
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/files",
        data=parts.encode(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["id"]


@pytest.mark.slow
async def test_a_batch_survives_kill_9_at_random_points(tmp_path):
    draw, batch = random.Random(5), None
    for _ in range(100):
        async with process_server(tmp_path, "fake") as server:
            if batch is None:
                body = {
                    "input_file_id": upload_lines(server, 200),
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                }
                batch = json.loads(server.ask("POST", "/v1/batches", body))
            until_s = time.monotonic() + draw.random()
            while batch["status"] != "completed" and time.monotonic() < until_s:
                path = f"/v1/batches/{batch['id']}"
                batch = json.loads(await asyncio.to_thread(server.ask, "GET", path))
                await asyncio.sleep(0.01)
            if batch["status"] == "completed":
                path = f"/v1/files/{batch['output_file_id']}/content"
                lines = [*map(json.loads, server.ask("GET", path).splitlines())]
                break
    assert batch["request_counts"] == {"total": 200, "completed": 200, "failed": 0}
    assert [line["custom_id"] for line in lines] == [f"{number}" for number in range(200)]
    assert len(batch["runs"]) > 1, "it was interrupted"

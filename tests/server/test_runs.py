"""Runs over HTTP: outputs, events, cancelling, keys, and bounds."""

import asyncio
import json

import pytest

from helium_jax.errors import InternalError
from helium_jax.executor import Session
from helium_jax.plan import plan_from_document
from helium_jax.server import Limits
from helium_jax.testing import FakeGenerator
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


def gated(num_free=0):
    """A generator whose requests wait for the gate, but for the first ones."""
    gate = asyncio.Event()
    started = []

    async def wait(request, num_sent):
        if num_sent == 0:
            started.append(request.request_id)
        if started.index(request.request_id) >= num_free:
            await gate.wait()

    return FakeGenerator(before_event=wait), gate


async def expected_rows(text):
    """The outputs of a run from Python."""
    result = await Session(FakeGenerator(), text).run(plan_from_document(DEBATE)[0], QUESTIONS)
    return [dict(row.outputs) for row in result.rows]


async def test_a_run_answers_with_the_outputs_that_python_gets(serve, text):
    async with serve() as served:
        answer = await served.post("/v1/runs", RUN)
        assert answer.status == 200
        run = answer.json()
        assert (run["state"], run["result"]) == ("completed", "whole")
        assert [row["outputs"] for row in run["outputs"]] == await expected_rows(text)
        assert run["rows"] == {"total": 4, "finished": 4, "failed": 0}
        usage = run["usage"]
        sources = ("computed", "kv_cached", "single_flight_saved", "result_cached", "merged_saved")
        assert usage["needed"] == sum(usage[source] for source in sources)
        assert usage["calls"] == 12
        found = (await served.get(f"/v1/runs/{run['id']}")).json()
        assert found == {name: value for name, value in run.items() if name != "outputs"}
        lines = read_rows(await served.get(f"/v1/runs/{run['id']}/outputs"))
        assert lines == run["outputs"]


async def test_a_stream_tells_what_happens_and_ends_with_the_run(serve, text):
    async with serve() as served:
        answer = await served.post("/v1/runs", {**RUN, "stream": True})
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = [event for _, event in read_events(answer.body)]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        kinds = [event["type"] for event in events]
        assert kinds[:2] == ["run.created", "run.planned"]
        assert kinds[-1] == "run.completed"
        assert set(kinds) >= {"op.started", "op.row", "op.completed", "row.completed"}
        rows = {e["row"]: e["outputs"] for e in events if e["type"] == "row.completed"}
        assert [rows[row] for row in range(4)] == await expected_rows(text)
        assert events[-1]["state"] == "completed"
        assert len([kind for kind in kinds if kind == "op.row"]) == 12
        times = [event["t_ms"] for event in events]
        assert times[1:] == sorted(times[1:])


async def test_events_resume_behind_any_event_without_gap_or_repeat(serve):
    async with serve() as served:
        run = (await served.post("/v1/runs", RUN)).json()
        path = f"/v1/runs/{run['id']}/events"
        whole = read_events((await served.get(path)).body)
        for index, (event_id, _) in enumerate(whole[:-1]):
            rest = await served.get(path, headers={"Last-Event-ID": event_id})
            assert read_events(rest.body) == whole[index + 1 :]
        done = await served.get(path, headers={"Last-Event-ID": whole[-1][0]})
        assert (done.status, done.body) == (204, b"")


async def test_a_reader_that_breaks_off_again_and_again_sees_every_event_once(serve):
    generator, gate = gated(num_free=6)
    async with serve(generator) as served:
        run = (await served.post("/v1/runs", {**RUN, "background": True})).json()
        path, seen, last = f"/v1/runs/{run['id']}/events", [], None
        opener = asyncio.get_running_loop().call_later(0.1, gate.set)
        while not seen or seen[-1][1]["type"] != "run.completed":
            headers = {"Last-Event-ID": last} if last else {}
            async with served.session.get(served.url + path, headers=headers) as response:
                chunk = b""
                while b"\n\n" not in chunk:
                    chunk += await response.content.readany()
            got = read_events(chunk[: chunk.rindex(b"\n\n")])
            seen += got
            last = seen[-1][0]
        opener.cancel()
        whole = read_events((await served.get(path)).body)
        assert seen == whole


@pytest.mark.parametrize("last", ["x", "1", "1.x", "1.-1", "1." + "9" * 99, "٣.1"])
async def test_an_odd_last_event_id_is_refused(serve, last):
    async with serve() as served:
        run = (await served.post("/v1/runs", RUN)).json()
        headers = {"Last-Event-ID": last}
        answer = await served.get(f"/v1/runs/{run['id']}/events", headers=headers)
        assert (answer.status, answer.error["param"]) == (400, "Last-Event-ID")


async def test_events_that_are_not_kept_any_more_are_not_skipped_in_silence(serve):
    async with serve(limits=Limits(run_events=5)) as served:
        run = (await served.post("/v1/runs", RUN)).json()
        path = f"/v1/runs/{run['id']}/events"
        assert len(read_events((await served.get(path)).body)) == 5
        answer = await served.get(path, headers={"Last-Event-ID": "1.0"})
        assert (answer.status, answer.error["code"]) == (410, "gone")


async def test_a_background_run_answers_at_once_and_goes_on(serve, text):
    generator, gate = gated()
    async with serve(generator) as served:
        answer = await served.post("/v1/runs", {**RUN, "background": True})
        assert answer.status == 202
        run = answer.json()
        assert run["state"] in ("queued", "planning")
        assert run["durable"] is False
        await until_state(served, run["id"], "in_progress")
        refused = await served.ask("DELETE", f"/v1/runs/{run['id']}")
        assert (refused.status, refused.error["code"]) == (409, "run_not_finished")
        early = await served.get(f"/v1/runs/{run['id']}/explain?analyze=true")
        assert (early.status, early.error["code"]) == (409, "no_result")
        assert read_rows(await served.get(f"/v1/runs/{run['id']}/outputs")) == []
        gate.set()
        run = await until_state(served, run["id"], "completed")
        rows = read_rows(await served.get(f"/v1/runs/{run['id']}/outputs"))
        assert [row["outputs"] for row in rows] == await expected_rows(text)
        assert [one["id"] for one in (await served.get("/v1/runs")).json()["data"]] == [run["id"]]
        deleted = await served.ask("DELETE", f"/v1/runs/{run['id']}")
        assert (deleted.status, deleted.json()["deleted"]) == (200, True)
        assert (await served.get(f"/v1/runs/{run['id']}")).status == 404


async def test_a_cancelled_run_keeps_what_it_has(serve):
    generator, _ = gated(num_free=3)
    async with serve(generator) as served:
        run = (await served.post("/v1/runs", {**RUN, "background": True})).json()
        path = f"/v1/runs/{run['id']}/cancel"
        await until(lambda: len(generator.finished) == 3)
        first = await served.post(path, b"")
        assert first.status == 200
        assert first.json()["state"] in ("cancelling", "cancelled")
        ended = await until_state(served, run["id"], "cancelled")
        assert ended["rows"]["finished"] == 4
        assert not generator.running
        again = await served.post(path, {})
        assert (again.status, again.json()["state"]) == (200, "cancelled")
        events = read_events((await served.get(f"/v1/runs/{run['id']}/events")).body)
        assert events[-1][1]["state"] == "cancelled"
        rows = read_rows(await served.get(f"/v1/runs/{run['id']}/outputs"))
        assert all(row["errors"][0]["code"] == "cancelled" for row in rows)


async def test_a_completed_run_cannot_be_cancelled(serve):
    async with serve() as served:
        run = (await served.post("/v1/runs", RUN)).json()
        answer = await served.post(f"/v1/runs/{run['id']}/cancel", {})
        assert (answer.status, answer.error["code"]) == (409, "run_finished")


async def test_a_row_and_an_operator_can_be_cancelled_alone(serve):
    generator, gate = gated()
    async with serve(generator) as served:
        run = (await served.post("/v1/runs", {**RUN, "background": True})).json()
        path = f"/v1/runs/{run['id']}/cancel"
        await until_state(served, run["id"], "in_progress")
        for body, param in (
            ({"row": 4}, "row"),
            ({"operator": "king"}, "operator"),
            ({"row": 1, "operator": "judge"}, "row"),
        ):
            answer = await served.post(path, body)
            assert (answer.status, answer.error["param"]) == (400, param)
        await served.post(path, {"row": 1})
        gate.set()
        ended = await until_state(served, run["id"], "completed")
        assert (ended["result"], ended["rows"]["failed"]) == ("partial", 1)
        rows = read_rows(await served.get(f"/v1/runs/{run['id']}/outputs"))
        assert [bool(row["errors"]) for row in rows] == [False, True, False, False]


async def test_the_run_of_a_client_that_goes_away_is_cancelled_unless_it_shall_continue(serve):
    for field in ({}, {"stream": True}):
        for choice, state in (("cancel", "cancelled"), ("continue", "completed")):
            generator, gate = gated()
            async with serve(generator) as served:
                body = {**RUN, **field, "on_disconnect": choice}
                asking = asyncio.create_task(served.post("/v1/runs", body))
                await until(lambda generator=generator: generator.running)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                (run,) = (await served.get("/v1/runs")).json()["data"]
                if choice == "continue":
                    await asyncio.sleep(0.02)
                    gate.set()
                await until_state(served, run["id"], state)
                assert not generator.running


async def test_an_idempotency_key_makes_one_run(serve):
    generator, gate = gated()
    async with serve(generator) as served:
        headers = {"Idempotency-Key": "k1"}
        body = {**RUN, "background": True}
        many = (served.post("/v1/runs", body, headers=headers) for _ in range(4))
        answers = await asyncio.gather(*many)
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = await served.post("/v1/runs", RUN, headers=headers)
        assert (other.status, other.error["code"]) == (409, "idempotency_conflict")
        gate.set()
        run_id = answers[0].json()["id"]
        await until_state(served, run_id, "completed")
        again = await served.post("/v1/runs", body, headers=headers)
        assert (again.json()["id"], again.json()["state"]) == (run_id, "completed")
        await served.ask("DELETE", f"/v1/runs/{run_id}")
        fresh = await served.post("/v1/runs", body, headers=headers)
        assert fresh.json()["id"] != run_id
        for key in ("", "x" * 256, "\xe9"):
            answer = await served.post("/v1/runs", RUN, headers={"Idempotency-Key": key})
            assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")


async def test_runs_wait_in_a_queue_by_priority_and_a_full_one_is_429(serve):
    generator, gate = gated()
    limits = Limits(runs_running=1, runs_queued=2)
    async with serve(generator, limits=limits) as served:

        async def ask(**fields):
            salt = str(fields)  # so that no run finds another's answers
            body = {**RUN, "background": True, "cache_salt": salt, **fields}
            return await served.post("/v1/runs", body)

        first = (await ask()).json()["id"]
        late, soon = (await ask(priority=5)).json(), (await ask(priority=-5)).json()
        assert (late["state"], soon["state"]) == ("queued", "queued")
        refused = await ask()
        assert (refused.status, refused.error["code"]) == (429, "server_overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        cancelled = await served.post(f"/v1/runs/{late['id']}/cancel", b"")
        assert cancelled.json()["state"] == "cancelled"
        last = (await ask(priority=0)).json()["id"]
        gate.set()
        for run_id in (first, soon["id"], last):
            await until_state(served, run_id, "completed")
        order = list(dict.fromkeys(r.request_id.split(".")[0] for r in generator.requests))
        assert order == [first, soon["id"], last]


async def test_finished_runs_are_kept_within_bounds(serve):
    async with serve(limits=Limits(runs_kept=2)) as served:
        ids = [(await served.post("/v1/runs", RUN)).json()["id"] for _ in range(4)]
        kept = [one["id"] for one in (await served.get("/v1/runs")).json()["data"]]
        assert kept == ids[:1:-1]
    async with serve(limits=Limits(runs_bytes=1)) as served:
        ids = [(await served.post("/v1/runs", RUN)).json()["id"] for _ in range(3)]
        kept = [one["id"] for one in (await served.get("/v1/runs")).json()["data"]]
        assert kept == ids[-1:]


async def test_keys_see_only_their_runs_and_share_no_answers(serve):
    async with serve(api_keys=("a", "b")) as served:
        run = (await served.post("/v1/runs", RUN, headers=bearer("a"))).json()
        num_calls = len(served.generator.requests)
        for method, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/outputs"),
            ("GET", "/explain"),
            ("GET", "/timeline.svg"),
            ("POST", "/cancel"),
            ("DELETE", ""),
        ):
            answer = await served.ask(method, f"/v1/runs/{run['id']}{path}", headers=bearer("b"))
            assert (answer.status, answer.error["code"]) == (404, "run_not_found")
        assert (await served.get("/v1/runs", headers=bearer("b"))).json()["data"] == []
        other = (await served.post("/v1/runs", RUN, headers=bearer("b"))).json()
        assert len(served.generator.requests) == 2 * num_calls
        assert other["usage"]["result_cached"] == 0
        assert other["outputs"] == run["outputs"]
        mine = (await served.post("/v1/runs", RUN, headers=bearer("a"))).json()
        assert len(served.generator.requests) == 2 * num_calls
        assert mine["usage"]["result_cached"] == mine["usage"]["needed"]
        salted = {**RUN, "cache_salt": "own"}
        await served.post("/v1/runs", salted, headers=bearer("a"))
        assert len(served.generator.requests) == 3 * num_calls


async def test_an_idempotency_key_is_one_per_api_key(serve):
    async with serve(api_keys=("a", "b")) as served:
        ids = set()
        for key in ("a", "b"):
            headers = {**bearer(key), "Idempotency-Key": "same"}
            ids.add((await served.post("/v1/runs", RUN, headers=headers)).json()["id"])
        assert len(ids) == 2


async def test_analyze_puts_what_happened_beside_what_was_expected(serve):
    async with serve() as served:
        run = (await served.post("/v1/runs", RUN)).json()
        path = f"/v1/runs/{run['id']}/explain"
        report = (await served.get(f"{path}?analyze=true&format=json")).json()
        assert report["actual"]["status"] == "completed"
        assert report["actual"]["num_calls"] == 12
        assert report["operators"]["judge"]["actual"]["calls"] == 4
        plain = (await served.get(f"{path}?format=json")).json()
        assert "actual" not in plain
        text = await served.get(f"{path}?analyze=true")
        assert b"judge" in text.body
        for form in ("mermaid", "dot"):
            assert (await served.get(f"{path}?analyze=true&format={form}")).status == 200
        for query in ("format=png", "analyze=yes"):
            assert (await served.get(f"{path}?{query}")).status == 400
        picture = await served.get(f"/v1/runs/{run['id']}/timeline.svg")
        assert picture.headers["Content-Type"].startswith("image/svg+xml")
        assert picture.body.startswith(b"<svg")


async def test_a_row_that_fails_makes_the_result_partial(serve):
    def fail(request, num_sent):
        is_bad = b"Is 2 a" in bytes(i for i in request.token_ids if i < 256)
        return InternalError("broken", code="broken") if is_bad else None

    async with serve(FakeGenerator(fail=fail)) as served:
        run = (await served.post("/v1/runs", RUN)).json()
        assert (run["state"], run["result"], run["rows"]["failed"]) == ("completed", "partial", 1)
        assert run["outputs"][2]["outputs"] == {"verdict": None, "for": None}
        assert run["outputs"][2]["errors"][0]["code"] == "broken"
        strict = {**RUN, "limits": {"on_row_error": "fail"}, "cache_salt": "x"}
        run = (await served.post("/v1/runs", strict)).json()
        assert (run["state"], run["error"]["code"]) == ("failed", "broken")


async def test_limits_narrow_the_plan_and_never_widen_it(serve):
    plan = {**DEBATE, "limits": {"max_llm_calls": 6}}
    async with serve(limits=Limits(run_timeout_s=60)) as served:
        body = {"plan": plan, "inputs": QUESTIONS, "limits": {"max_llm_calls": 100}}
        assert (await served.post("/v1/runs", body)).json()["usage"]["calls"] == 6
        narrow = {**RUN, "limits": {"max_llm_calls": 3}, "cache_salt": "x"}
        run = (await served.post("/v1/runs", narrow)).json()
        assert run["usage"]["calls"] == 3
        assert run["plan_id"] == (await served.post("/v1/plans", {"plan": DEBATE})).json()["id"]
        long = {**RUN, "limits": {"timeout_s": 1e9}}
        assert "limits.timeout_s" in (await served.post("/v1/runs", long)).json()["warnings"][0]


async def test_a_run_that_takes_too_long_expires(serve):
    generator, _ = gated()
    async with serve(generator) as served:
        run = (await served.post("/v1/runs", {**RUN, "limits": {"timeout_s": 0.05}})).json()
        assert (run["state"], run["rows"]["failed"]) == ("expired", 4)


async def test_params_reach_the_prompts(serve):
    plan = {
        "version": "helium/v1",
        "params": {"tone": {"type": "text"}},
        "ops": {"o": {"type": "llm.completion", "prompt": "Be {{tone}}.", "max_tokens": 2}},
        "outputs": {"o": "o"},
    }
    async with serve() as served:
        run = (await served.post("/v1/runs", {"plan": plan, "params": {"tone": "kind"}})).json()
        assert len(run["outputs"]) == 1
        (request,) = served.generator.requests
        assert bytes(request.token_ids) == b"Be kind."
        for params, code in (({}, "plan_invalid"), ({"tone": "x", "y": 1}, "unknown_reference")):
            answer = await served.post("/v1/runs", {"plan": plan, "params": params})
            assert (answer.status, answer.error["code"]) == (400, code)


# What is changed in a good body, and where the fault is.
BAD_RUNS = [
    ({"plan": None}, "plan"),
    ({"plan_id": "plan_x"}, "plan"),
    ({"inputs": None}, "inputs"),
    ({"inputs": [{"question": None}]}, "inputs[0].question"),  # 53
    ({"inputs": [{"question": "x"}, {"question": 5}]}, "inputs[1].question"),
    ({"inputs": [{"question": "x"}, {}]}, "inputs[1].question"),
    ({"inputs": [{"question": "x", "more": "y"}]}, "inputs[0].more"),
    ({"inputs": ["x"]}, "inputs[0]"),
    ({"inputs": [{"question": "x"}] * 11}, "inputs"),
    ({"policy": "best"}, "policy"),
    ({"disable": ["all"]}, "disable[0]"),
    ({"weight": 0}, "weight"),
    ({"priority": 1e30}, "priority"),  # 38
    ({"cache_salt": ""}, "cache_salt"),  # 39
    ({"cache_salt": "x" * 1000}, "cache_salt"),
    ({"limits": {"max_llm_calls": -1}}, "limits.max_llm_calls"),  # 57
    ({"limits": {"timeout_s": 0}}, "limits.timeout_s"),
    ({"stream": True, "background": True}, "background"),
    ({"background": True, "on_disconnect": "cancel"}, "on_disconnect"),
    ({"on_disconnect": "pray"}, "on_disconnect"),
]


@pytest.mark.parametrize(("change", "param"), BAD_RUNS)
async def test_a_bad_run_is_refused_before_any_work(serve, change, param):
    async with serve(limits=Limits(run_rows=10)) as served:
        answer = await served.post("/v1/runs", {**RUN, **change})
        assert answer.status == 400, answer.body
        assert answer.error["param"] == param
        assert (await served.get("/v1/runs")).json()["data"] == []
        assert not served.generator.requests


async def test_a_drain_waits_for_runs_and_what_outlives_it_is_interrupted(serve):
    generator, gate = gated()
    async with serve(generator, limits=Limits(runs_running=1)) as served:
        body = {**RUN, "background": True}
        ids = [(await served.post("/v1/runs", body)).json()["id"] for _ in range(2)]
        draining = asyncio.create_task(served.server.drain(5))
        await asyncio.sleep(0.01)
        assert (await served.post("/v1/runs", body)).status == 503
        assert not draining.done()
        gate.set()
        assert await draining is True
        for run_id in ids:
            assert (await served.get(f"/v1/runs/{run_id}")).json()["state"] == "completed"
    generator, _ = gated()
    async with serve(generator) as served:
        streaming = asyncio.create_task(served.post("/v1/runs", {**RUN, "stream": True}))
        await until(lambda: generator.running)
        assert await served.server.drain(0.01) is False
        await served.server.close()
        await asyncio.gather(streaming, return_exceptions=True)
        assert not generator.running


async def test_runs_are_counted(serve):
    async with serve() as served:
        run = (await served.post("/v1/runs", RUN)).json()
        await served.post("/v1/runs", RUN)
        await served.get(f"/v1/runs/{run['id']}")
        lines = (await served.get("/metrics")).body.decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert values['helium:runs_total{state="completed"}'] == "2.0"
        assert values['helium:op_seconds_count{op_type="llm.chat"}'] == "12.0"
        assert values['helium:plan_seconds_count{phase="run"}'] == "2.0"
        assert values["helium:result_cache_hits_total"] == "12.0"
        assert values['helium:run_rows_total{outcome="whole"}'] == "8.0"
        assert values["helium:runs_running"] == "0.0"
        assert "judge" not in "".join(lines)
        plan = (await served.get("/v1/plans")).json()["data"][0]
        assert (plan["totals"]["runs"], plan["totals"]["rows"]) == (2, 8)
        json.dumps(plan)

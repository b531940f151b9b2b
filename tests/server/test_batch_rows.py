"""Lines of a batch as rows of a run: equal answers, one run, failures and ends of every kind."""

import asyncio
import contextlib
import json

import pytest

from helium_jax.errors import InternalError
from helium_jax.executor.journal import Journal
from helium_jax.testing import FakeGenerator
from tests.server.plans import until
from tests.server.test_batches import CHAT, COMPLETIONS, finish, line, start, written

SYSTEM = {"role": "system", "content": "You are brief. " * 8}


def asking(text, *before):
    return [*before, {"role": "user", "content": text}]


def chat(custom_id, text, *before, **fields):
    return line(custom_id, messages=asking(text, *before), **fields)


def prompt(request):
    """What a request asks, as far as it is text."""
    return bytes(i for i in request.token_ids if i < 256)


def gated(word=b"slow"):
    """A generator that answers prompts with the word once it is told to."""
    gate = asyncio.Event()

    async def wait(request, num_sent):
        if word in prompt(request):
            await gate.wait()

    return FakeGenerator(before_event=wait), gate


async def until_done(served, batch_id, count):
    """The batch once so many of its lines have an answer."""
    async with asyncio.timeout(20):
        while True:
            batch = (await served.get(f"/v1/batches/{batch_id}")).json()
            if batch["request_counts"]["completed"] >= count:
                return batch
            await asyncio.sleep(0.01)


async def replies(served, batch):
    """The bodies of a batch's answers by custom id."""
    lines = await written(served, batch["output_file_id"])
    assert all(one["response"]["status_code"] == 200 for one in lines.values())
    assert all(one["error"] is None for one in lines.values())
    return {name: one["response"]["body"] for name, one in lines.items()}


async def test_lines_that_share_their_settings_are_rows_of_one_run(serve):
    async with serve() as served:
        lines = [chat(f"{i}", f"What is {i}?", SYSTEM) for i in range(6)]
        batch = await finish(served, (await start(served, lines)).json())
        (run_id,) = batch["runs"]
        run = (await served.get(f"/v1/runs/{run_id}")).json()
        assert (run["state"], run["plan_name"]) == ("completed", "batch")
        assert run["rows"] == {"total": 6, "finished": 6, "failed": 0}
        plan = (await served.get(f"/v1/plans/{run['plan_id']}")).json()["plan"]
        operator = plan["ops"]["answer"]
        assert (operator["system"], operator["user"]) == (SYSTEM["content"], "{{turn_1}}")
        events = (await served.get(f"/v1/runs/{run_id}/events")).body
        assert b"op.answer" not in events
        bodies = await replies(served, batch)
        usages = [body["usage"] for body in bodies.values()]
        assert sum(one["helium"]["kv_cached"] for one in usages) == run["usage"]["kv_cached"] > 0
        for usage in usages:
            own = usage["helium"]
            assert (
                own["computed"] + own["kv_cached"] + own["result_cached"]
                == (usage["prompt_tokens"])
            )


SAME = {
    "greedy": {},
    "seeded": {"temperature": 0.9, "seed": 3, "top_p": 0.8},
    "stopped": {"stop": ["e", "xx"], "max_tokens": 12},
    "cut": {"max_tokens": 1},
    "as the model's own file says": {"temperature": None, "seed": 1},
    "to the end": {"max_tokens": None, "max_completion_tokens": 9, "ignore_eos": True},
    "ids": {"stop_token_ids": [101, 102], "logit_bias": {"97": 5}, "presence_penalty": 0.5},
    "a choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "a schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"enum": ["a", "b"]}, "strict": True},
        }
    },
    "hints": {"user": "me", "metadata": {"a": "b"}, "priority": 3, "cache_salt": "s"},
}


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
async def test_a_row_gets_the_answer_that_its_endpoint_gives(serve, endpoint, case):
    texts = ["One?", "Two?", "Really, {{two}}?", "Über"]
    fields = {name: value for name, value in SAME[case].items() if value is not None}
    if endpoint == CHAT:
        lines = [chat(text, text, {"role": "developer", "content": "Hm."}) for text in texts]
    else:
        fields.pop("max_completion_tokens", None)
        lines = [line(text, COMPLETIONS, prompt=text) for text in texts]
    for one in lines:
        for name, value in SAME[case].items():
            if value is None:
                one["body"].pop(name, None)
        one["body"].update(fields)
    async with serve() as served:
        batch = await finish(served, (await start(served, lines, endpoint)).json())
        assert len(batch["runs"]) == 1, "they are rows"
        assert len(served.generator.requests) == len(texts)
        bodies = await replies(served, batch)
    async with serve() as served:
        for one in lines:
            direct = (await served.post(endpoint, one["body"])).json()
            batched = bodies[one["custom_id"]]
            assert batched["choices"] == direct["choices"]
            assert batched.get("warnings") == direct.get("warnings")
            assert batched.keys() == direct.keys()
            for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
                assert batched["usage"][name] == direct["usage"][name]


async def test_equal_lines_are_computed_once_and_say_so_also_in_the_next_batch(serve):
    async with serve() as served:
        lines = [chat(f"{i}", "Same", max_tokens=2) for i in range(3)]
        for expected in ([0, 1, 1], [1, 1, 1]):
            batch = await finish(served, (await start(served, lines)).json())
            usages = [body["usage"] for body in (await replies(served, batch)).values()]
            served_by = sorted(u["helium"]["result_cached"] // u["prompt_tokens"] for u in usages)
            assert served_by == expected
            assert all(
                u["prompt_tokens_details"]["cached_tokens"] >= u["helium"]["result_cached"]
                for u in usages
            )
            reasons = {
                body["choices"][0]["finish_reason"]
                for body in (await replies(served, batch)).values()
            }
            assert reasons == {"length"}
        assert len(served.generator.requests) == 1


ALONE = {
    "several answers": {"n": 2},
    "log-probabilities": {"logprobs": True},
    "a stop string in the text": {"stop": ["e"], "include_stop_str_in_output": True},
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    "an unknown field": {"colour": "red"},
}


@pytest.mark.parametrize("case", ALONE)
async def test_what_a_plan_cannot_say_is_asked_by_itself(serve, case):
    async with serve() as served:
        lines = [line(name, **ALONE[case]) for name in "ab"]
        batch = await finish(served, (await start(served, lines)).json())
        assert (batch["status"], batch["runs"]) == ("completed", [])
        assert batch["request_counts"]["completed"] == 2


async def test_lines_of_several_kinds_are_rows_of_several_runs_and_single_requests(serve):
    async with serve() as served:
        lines = [chat(f"short {i}", f"{i}", max_tokens=2) for i in range(3)]
        lines += [chat(f"long {i}", f"{i}", max_tokens=9) for i in range(2)]
        lines += [chat("other", "x", max_tokens=3), chat("two", "y", n=2)]
        batch = await finish(served, (await start(served, lines)).json())
        assert batch["request_counts"] == {"total": 7, "completed": 7, "failed": 0}
        found = [(await served.get(f"/v1/runs/{one}")).json() for one in batch["runs"]]
        assert [run["rows"]["finished"] for run in found] == [3, 2]
        assert len(served.generator.requests) == 8


async def test_a_row_that_fails_is_told_in_its_endpoints_words(serve):
    def fail(request, sent):
        return InternalError("broken", code="odd") if b"BAD" in prompt(request) else None

    async with serve(FakeGenerator(fail=fail)) as served:
        lines = [chat("good", "1"), chat("bad", "BAD"), chat("fine", "2")]
        batch = await finish(served, (await start(served, lines)).json())
        assert len(batch["runs"]) == 1
        assert set(await replies(served, batch)) == {"good", "fine"}
        errors = await written(served, batch["error_file_id"])
        direct = await served.post(CHAT, lines[1]["body"])
        told = errors["bad"]["response"]
        assert (told["status_code"], told["body"]) == (direct.status, direct.json())
        assert told["body"]["error"]["code"] == "odd"


async def test_cancelling_a_batch_cancels_its_run(serve):
    generator, _ = gated()
    async with serve(generator) as served:
        lines = [chat("fast", "1"), chat("slow", "slow")]
        batch = (await start(served, lines)).json()
        batch = await until_done(served, batch["id"], 1)
        await served.ask("POST", f"/v1/batches/{batch['id']}/cancel")
        batch = await finish(served, batch)
        assert batch["status"] == "cancelled"
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 0}
        assert set(await replies(served, batch)) == {"fast"}
        errors = await written(served, batch["error_file_id"])
        assert errors["slow"]["error"]["code"] == "batch_cancelled"
        await until(lambda: not generator.running)
        path = f"/v1/runs/{batch['runs'][0]}"
        async with asyncio.timeout(30):
            while (await served.get(path)).json()["state"] != "cancelled":
                await asyncio.sleep(0.01)


async def test_cancelling_the_run_cancels_its_batch(serve):
    generator, _ = gated()
    async with serve(generator) as served:
        lines = [chat("fast", "1"), chat("slow", "slow")]
        batch = await until_done(served, (await start(served, lines)).json()["id"], 1)
        await served.ask("POST", f"/v1/runs/{batch['runs'][0]}/cancel")
        batch = await finish(served, batch)
        assert batch["status"] == "cancelled"
        assert set(await replies(served, batch)) == {"fast"}


async def test_an_interactive_request_passes_a_batch_that_waits(serve):
    generator, gate = gated()
    async with serve(generator) as served:
        lines = [chat(f"{i}", f"slow {i}") for i in range(40)]
        batch = (await start(served, lines)).json()
        await until(lambda: generator.running)
        assert (await served.chat()).status == 200
        gate.set()
        assert (await finish(served, batch))["request_counts"]["completed"] == 40


async def test_a_drain_does_not_wait_for_a_batch(serve):
    generator, _ = gated()
    async with serve(generator) as served:
        lines = [chat("fast", "1"), chat("slow", "slow")]
        batch = await until_done(served, (await start(served, lines)).json()["id"], 1)
        assert await served.server.drain(20) is True
        batch = await finish(served, batch)
        assert batch["status"] == "cancelled"
        assert set(await replies(served, batch)) == {"fast"}
        errors = await written(served, batch["error_file_id"])
        assert errors["slow"]["error"]["code"] == "shutting_down"


@contextlib.asynccontextmanager
async def interrupted(serve, folder, lines, count, **config):
    """A server that ends when so many lines of a batch are done; the batch as it was then."""
    generator, _ = gated()
    async with serve(generator, state_dir=folder, **config) as served:
        batch = (await start(served, lines)).json()
        yield await until_done(served, batch["id"], count)


async def test_an_interrupted_batch_goes_on_with_the_lines_that_are_left(serve, tmp_path):
    lines = [chat(f"row {i}", f"{'slow' if i % 2 else 'fast'} {i}") for i in range(6)]
    lines += [chat("alone", "fast", n=2), chat("refused", "x", max_tokens=-1)]
    async with interrupted(serve, tmp_path, lines, 4) as before:
        assert before["status"] == "in_progress"
    (tmp_path / "outputs.sqlite").unlink()  # only the journal can spare work
    async with serve(state_dir=tmp_path) as served:
        batch = (await served.get(f"/v1/batches/{before['id']}")).json()
        assert batch["in_progress_at"] == before["in_progress_at"]
        batch = await finish(served, batch)
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 8, "completed": 7, "failed": 1}
        asked = sorted(prompt(request) for request in served.generator.requests)
        assert len(asked) == 3
        assert all(b"slow" in one for one in asked)
        bodies = await replies(served, batch)
        direct = {one["custom_id"]: await served.post(CHAT, one["body"]) for one in lines[:7]}
        for name, answer in direct.items():
            assert bodies[name]["choices"] == answer.json()["choices"]
        assert set(await written(served, batch["error_file_id"])) == {"refused"}
    async with serve(state_dir=tmp_path) as served:
        again = (await served.get(f"/v1/batches/{batch['id']}")).json()
        assert again == batch
        assert await replies(served, again) == bodies
        assert not served.generator.requests


async def test_a_batch_whose_input_is_gone_fails_with_what_was_answered(serve, tmp_path):
    lines = [chat("fast", "1"), chat("slow", "slow")]
    async with interrupted(serve, tmp_path, lines, 1) as before:
        pass
    for path in (tmp_path / "files").glob(f"{before['input_file_id']}.*"):
        path.unlink()
    async with serve(state_dir=tmp_path) as served:
        batch = await finish(served, (await served.get(f"/v1/batches/{before['id']}")).json())
        assert batch["status"] == "failed"
        assert batch["errors"]["data"][0]["code"] == "file_not_found"
        assert set(await replies(served, batch)) == {"fast"}


async def test_a_batch_that_was_being_cancelled_is_cancelled_by_the_next_server(serve, tmp_path):
    lines = [chat("fast", "1"), chat("slow", "slow")]
    async with interrupted(serve, tmp_path, lines, 1, api_keys=()) as before:
        pass
    journal = Journal(tmp_path)
    (found,) = journal.take_found("batch_")
    reply = {**json.loads(found.notes["reply"]), "status": "cancelling"}
    journal.set_note(found.run_id, "reply", json.dumps(reply).encode())
    journal.close()
    async with serve(state_dir=tmp_path) as served:
        batch = await finish(served, (await served.get(f"/v1/batches/{before['id']}")).json())
        assert batch["status"] == "cancelled"
        assert set(await replies(served, batch)) == {"fast"}
        assert not served.generator.requests


async def test_an_entry_of_the_journal_that_cannot_be_read_is_left_out(serve, tmp_path):
    journal = Journal(tmp_path)
    journal.begin("batch_x", b"no batch", on_done=lambda: None)
    journal.begin("run_x", b"no run", on_done=lambda: None)
    journal.close()
    async with serve(state_dir=tmp_path) as served:
        assert (await served.get("/v1/batches")).json()["data"] == []
        assert (await served.get("/v1/runs")).json()["data"] == []

"""What runs and KV stores are drawn from: graphs, calls, prompts, pages; and their events."""

import asyncio
import dataclasses
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.executor.watch import KeptPrompt
from helium_jax.server.runs.prompts import split_prompt
from helium_jax.testing import FakeGenerator
from tests.server.plans import DEBATE, QUESTIONS, RUN, bearer, read_events, until_state
from tests.server.test_runs import gated

LOOP = {
    "version": "helium/v1",
    "name": "refine",
    "inputs": {"topic": {"type": "text"}},
    "ops": {
        "first": {"type": "llm.chat", "user": "Write about {{topic}}", "max_tokens": 4},
        "better": {
            "type": "loop",
            "carry": {"draft": {"from": "first", "next": "improved"}},
            "count": 2,
            "body": {
                "ops": {
                    "improved": {"type": "llm.chat", "user": "Improve: {{draft}}", "max_tokens": 4}
                },
                "result": "improved",
            },
        },
    },
    "outputs": {"text": "better"},
}


async def run(served, body=RUN, **kwargs):
    answer = await served.post("/v1/runs", body, **kwargs)
    assert answer.status == 200, answer.body
    return answer.json()


def spell(events):
    texts = {}
    for event in events:
        if event["type"] == "op.delta":
            place = event["operator"], event["row"], tuple(event.get("index", ()))
            texts[place] = texts.get(place, "")[: event["offset"]] + event["text"]
    return texts


async def test_deltas_spell_the_outputs_for_those_who_ask(serve):
    async with serve() as served:
        answer = await served.post("/v1/runs", {**RUN, "stream": True, "stream_deltas": True})
        events = [event for _, event in read_events(answer.body)]
        rows = {e["row"]: e["outputs"] for e in events if e["type"] == "row.completed"}
        texts = spell(events)
        assert len(texts) == 12
        for row, outputs in rows.items():
            assert texts["judge", row, ()] == outputs["verdict"]
            assert texts["pro", row, ()] == outputs["for"]
        for place in texts:
            kinds = [e["type"] for e in events if (e.get("operator"), e.get("row")) == place[:2]]
            assert kinds[-1] == "op.row", "a value's deltas come before it"
        plain = await served.post("/v1/runs", {**RUN, "stream": True})
        assert "op.delta" not in {event["type"] for _, event in read_events(plain.body)}


async def test_deltas_of_a_background_run_can_be_read_again(serve):
    async with serve() as served:
        body = {**RUN, "background": True, "stream_deltas": True}
        run_id = (await served.post("/v1/runs", body)).json()["id"]
        await until_state(served, run_id, "completed")
        path = f"/v1/runs/{run_id}/events"
        whole = read_events((await served.get(path)).body)
        place = next(i for i, (_, event) in enumerate(whole) if event["type"] == "op.delta")
        rest = await served.get(path, headers={"Last-Event-ID": whole[place][0]})
        assert read_events(rest.body) == whole[place + 1 :]


class Evicting(FakeGenerator):
    """Says that its stores evict a page with every request."""

    def statistics(self):
        num_evicted = len(self.requests)
        return tuple(
            dataclasses.replace(
                worker,
                cache=dataclasses.replace(
                    worker.cache,
                    evicted_pages=num_evicted,
                    evicted_then_needed_tokens=16 * (num_evicted // 2),
                ),
            )
            for worker in super().statistics()
        )


async def test_a_run_tells_what_the_stores_evict_meanwhile(serve):
    async with serve(Evicting()) as served:
        await run(served)
        answer = await served.post("/v1/runs", {**RUN, "plan": LOOP_OF_DEBATE, "stream": True})
        events = [event for _, event in read_events(answer.body)]
        evicted = [event for event in events if event["type"] == "cache.evicted"]
        assert sum(event["pages"] for event in evicted) == 12, (
            "those of the run before are not ours"
        )
        assert sum(event["needed_tokens"] for event in evicted) == 96
        assert {event["worker"] for event in evicted} == {0}
        assert events[-1]["type"] == "run.completed"


LOOP_OF_DEBATE = {
    **DEBATE,
    "ops": {name: {**op, "max_tokens": 7} for name, op in DEBATE["ops"].items()},
}


async def test_the_graph_has_bodies_and_what_operators_did(serve):
    rows = [{"topic": "rivers"}, {"topic": "hills"}]
    async with serve() as served:
        done = await run(served, {"plan": LOOP, "inputs": rows})
        graph = (await served.get(f"/v1/runs/{done['id']}/graph")).json()
        nodes = {node["name"]: node for node in graph["nodes"]}
        assert [(n["name"], n["type"], n["inside"]) for n in graph["nodes"]] == [
            ("topic", "input", None),
            ("first", "llm.chat", None),
            ("better", "loop", None),
            ("improved", "llm.chat", "better"),
            ("output text", "output", None),
        ]
        assert {(e["source"], e["target"]) for e in graph["edges"]} == {
            ("topic", "first"),
            ("first", "better"),
            ("better", "output text"),
        }
        assert (nodes["first"]["done"], nodes["improved"]["done"]) == (2, 4)
        assert nodes["improved"]["lines"][0].startswith("Chat improved")
        assert nodes["improved"]["lines"][1].startswith("(actual values=4")


async def test_a_graph_can_be_had_before_the_run_began(serve):
    generator, gate = gated()
    async with serve(generator) as served:
        body = {**RUN, "background": True}
        run_id = (await served.post("/v1/runs", body)).json()["id"]
        graph = (await served.get(f"/v1/runs/{run_id}/graph")).json()
        judge = next(node for node in graph["nodes"] if node["name"] == "judge")
        assert judge["lines"][0].startswith("Chat judge")
        assert judge["done"] == 0
        gate.set()
        await until_state(served, run_id, "completed")


async def test_calls_are_told_while_they_go_on_and_afterwards(serve):
    generator, gate = gated()
    async with serve(generator) as served:
        run_id = (await served.post("/v1/runs", {**RUN, "background": True})).json()["id"]
        async with asyncio.timeout(30):
            while len(generator.running) < 8:
                await asyncio.sleep(0.002)
        path = f"/v1/runs/{run_id}/timeline"
        live = (await served.get(path)).json()["spans"]
        assert {span["source"] for span in live} == {"running"}
        assert {span["operator"] for span in live} == {"pro", "con"}
        assert all(span["admitted"] is not None for span in live)
        assert all(span["first_token"] is None for span in live)
        gate.set()
        await until_state(served, run_id, "completed")
        spans = (await served.get(path)).json()["spans"]
        assert len(spans) == 12
        assert {span["source"] for span in spans} <= {"computed", "kv"}
        for span in spans:
            moments = ("ready", "encoded", "submitted", "admitted", "first_token", "finished")
            times = [span[moment] for moment in moments]
            assert times == sorted(times)


async def test_the_latest_calls_can_be_asked_for_alone(serve):
    async with serve() as served:
        path = f"/v1/runs/{(await run(served))['id']}/timeline"
        whole = (await served.get(path)).json()
        assert whole["left_out"] == 0
        latest = (await served.get(f"{path}?limit=2")).json()
        assert latest["spans"] == whole["spans"][-2:]
        assert latest["left_out"] == 10
        assert (await served.get(f"{path}?limit=0")).json()["spans"] == []
        answer = await served.get(f"{path}?limit=-1")
        assert (answer.status, answer.error["param"]) == (400, "limit")


async def test_a_prompt_tells_what_others_begin_with_too(serve):
    async with serve() as served:
        done = await run(served)
        path = f"/v1/runs/{done['id']}"
        listed = (await served.get(f"{path}/prompts?operator=judge")).json()
        assert listed["whole"] is True
        assert [place["row"] for place in listed["data"]] == [0, 1, 2, 3]
        prompt = (await served.get(f"{path}/prompt?operator=judge&row=2")).json()
        assert prompt["parts"][0] == {
            "shared": "operator",
            "text": "system: You are a fair judge.\nuser: Is ",
            "tokens": 39,
        }
        assert prompt["parts"][-1]["shared"] == "none"
        assert sum(part["tokens"] for part in prompt["parts"]) == prompt["prompt_tokens"]
        text = "".join(part["text"] for part in prompt["parts"])
        assert text.startswith("system: You are a fair judge.\nuser: Is 2 a good number?\nFOR: ")
        assert prompt["kv_cached"] % 16 == 0


async def test_prompts_that_are_not_there_are_404(serve):
    async with serve() as served:
        done = await run(served)
        for query in (
            "operator=judge&row=9",
            "operator=nobody&row=0",
            "operator=judge&row=0&index=1",
        ):
            answer = await served.get(f"/v1/runs/{done['id']}/prompt?{query}")
            assert (answer.status, answer.error["code"]) == (404, "prompt_not_found")
        for query, param in (
            ("operator=judge", "row"),
            ("row=-1", "row"),
            ("row=1&index=x", "index"),
        ):
            answer = await served.get(f"/v1/runs/{done['id']}/prompt?{query}")
            assert (answer.status, answer.error["param"]) == (400, param)


async def test_views_of_anothers_run_are_404(serve):
    async with serve(api_keys=("one", "two")) as served:
        done = await run(served, headers=bearer("one"))
        for view in ("graph", "timeline", "timeline.svg", "prompts", "prompt?operator=pro&row=0"):
            path = f"/v1/runs/{done['id']}/{view}"
            assert (await served.get(path, headers=bearer("one"))).status == 200
            assert (await served.get(path, headers=bearer("two"))).status == 404
            assert (await served.get(path)).status == 401


def texts_of(reply):
    return {prefix["text"] for worker in reply["workers"] for prefix in worker["prefixes"]}


async def test_the_map_tells_sizes_to_all_and_texts_to_their_owner(serve):
    keys = {"api_keys": ("one", "two"), "admin_keys": ("chief",)}
    async with serve(**keys) as served:
        await run(served, headers=bearer("one"))
        await run(served, {**RUN, "plan": LOOP_OF_DEBATE}, headers=bearer("two"))
        salted = {**RUN, "inputs": [{"question": "A salted question of mine?"}], "cache_salt": "s"}
        await run(served, salted, headers=bearer("one"))
        maps = {
            key: (await served.get("/v1/cache/map", headers=bearer(key))).json()
            for key in ("one", "two", "chief")
        }
        sizes = {key: [len(w["prefixes"]) for w in maps[key]["workers"]] for key in maps}
        assert sizes["one"] == sizes["two"] == sizes["chief"]
        assert None in texts_of(maps["one"])
        assert None in texts_of(maps["two"])
        assert None not in texts_of(maps["chief"])
        assert any("salted" in (text or "") for text in texts_of(maps["one"]))
        assert not any("salted" in (text or "") for text in texts_of(maps["two"]))


async def test_without_admin_keys_no_key_reads_the_others_texts(serve):
    async with serve(api_keys=("one", "two")) as served:
        await run(served, headers=bearer("one"))
        found = (await served.get("/v1/cache/map", headers=bearer("two"))).json()
        assert texts_of(found) == {None}
    async with serve() as served:
        await run(served)
        assert None not in texts_of((await served.get("/v1/cache/map")).json())


async def test_many_who_ask_for_the_map_get_one(serve):
    class Counting(FakeGenerator):
        num_maps = 0

        async def cache_map(self, *, salts):
            self.num_maps += 1
            await asyncio.sleep(0)
            return await super().cache_map(salts=salts)

    async with serve(Counting()) as served:
        answers = await asyncio.gather(*(served.get("/v1/cache/map") for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert served.generator.num_maps == 1


def kept(ids, operator="a", row=0):
    return KeptPrompt(operator=operator, row=row, index=(), token_ids=array("i", ids))


def decode(ids):
    return bytes([*ids]).decode("utf-8", "replace")


def test_a_part_that_ends_within_a_character_leaves_it_to_the_next():
    euro, cent = [*"x€".encode()], [*"x₭".encode()]
    parts = split_prompt(kept(euro), [kept(cent, row=1)], decode)
    assert [(part.shared, part.text, part.tokens) for part in parts] == [
        ("operator", "x", 3),
        ("none", "€", 1),
    ]


@given(
    st.lists(st.lists(st.sampled_from([*b"ab\xe2\x82\xac"]), min_size=1, max_size=9), min_size=1)
)
def test_the_parts_of_a_prompt_spell_it(prompts):
    known = [kept(ids, operator="ab"[i % 2], row=i) for i, ids in enumerate(prompts)]
    for prompt in known:
        parts = split_prompt(prompt, known, decode)
        assert "".join(part.text for part in parts) == decode(prompt.token_ids)
        assert sum(part.tokens for part in parts) == len(prompt.token_ids)


@pytest.mark.parametrize("path", ["/viewer/", "/viewer/main.js", "/viewer/viewer.css"])
async def test_the_viewer_needs_no_key_and_says_what_may_run(serve, path):
    async with serve(api_keys=("secret",)) as served:
        answer = await served.get(path)
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        again = await served.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")


async def test_nothing_beside_the_viewers_files_is_open(serve):
    async with serve(api_keys=("secret",)) as served:
        lead = await served.get("/", allow_redirects=False)
        assert (lead.status, lead.headers["Location"]) == (307, "/viewer/")
        for path in (
            "/viewer/assets.py",
            "/viewer/../app.py",
            "/viewer/%2e%2e/app.py",
            "/viewer/x",
        ):
            assert (await served.get(path)).status == 401, path


async def test_a_resumed_run_tells_rows_by_their_place_in_the_batch(serve, tmp_path):
    async def wait(request, num_sent):
        if b"Is 1 a" in bytes(i for i in request.token_ids if i < 256):
            await asyncio.Event().wait()

    async with serve(FakeGenerator(before_event=wait), state_dir=tmp_path) as served:
        body = {**RUN, "inputs": QUESTIONS[:2], "background": True}
        run_id = (await served.post("/v1/runs", body)).json()["id"]
        path = f"/v1/runs/{run_id}"
        async with asyncio.timeout(30):
            while not (await served.get(path)).json()["rows"]["finished"]:
                await asyncio.sleep(0.005)
    async with serve(state_dir=tmp_path) as served:
        assert (await served.get(f"{path}/timeline")).json()["spans"] == []
        assert (await served.get(f"{path}/prompts")).json()["data"] == []
        assert (await served.get(f"{path}/graph")).status == 200
        await served.post(f"{path}/resume", {})
        await until_state(served, run_id, "completed")
        spans = (await served.get(f"{path}/timeline")).json()["spans"]
        assert [(span["operator"], span["row"]) for span in spans] != []
        assert {span["row"] for span in spans} == {1}
        prompt = (await served.get(f"{path}/prompt?operator=judge&row=1")).json()
        assert "Is 1 a good number?" in "".join(part["text"] for part in prompt["parts"])

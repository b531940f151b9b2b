"""/v1/responses as it stands on the wire: what is kept, echoed, continued and refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.errors import CapacityError
from helium_jax.server.errors import NotFoundError
from helium_jax.server.responses.items import ItemWriter
from helium_jax.server.responses.replies import ItemAdded, ItemDone, ResponseReply
from helium_jax.server.responses.shelf import ResponseShelf
from helium_jax.server.tools import HERMES, ToolParser
from helium_jax.testing import FakeGenerator

PATH = "/v1/responses"
ASK = {"model": "fake", "input": "Hi", "max_output_tokens": 40, "temperature": 0}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "4"}
F = HERMES.write_call("f", "{}")
G = HERMES.write_call("g", '{"a": [1, "}"]}')


async def respond(served, **fields):
    answer = await served.post(PATH, {**ASK, **fields})
    assert answer.status == 200, answer.body
    return answer.json()


def prompt_of(served):
    return served.text.decode(served.generator.requests[-1].token_ids)


async def test_a_response_says_what_was_asked_for_and_what_it_cost(serve):
    async with serve() as served:
        fields = {
            "instructions": "Be brief.",
            "metadata": {"a": "b"},
            "prompt_cache_key": "k",
            "tools": [TOOL],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "text": {"format": {"type": "json_object"}},
        }
        made = await respond(served, **fields)
        assert "warnings" not in made
        assert {name: made[name] for name in fields if name != "tools"} == {
            name: value for name, value in fields.items() if name != "tools"
        }
        assert made["tools"] == [{**TOOL, "description": None, "strict": False}]
        usage = made["usage"]
        assert usage["helium"]["computed"] + usage["helium"]["kv_cached"] == usage["input_tokens"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_the_prompt_is_chats(serve):
    async with serve() as served:
        items = [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "message", "role": "assistant", "content": "Hello."},
            CALL,
            OUTPUT,
            {"role": "user", "content": "And?"},
        ]
        await respond(served, input=items, tools=[TOOL])
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        await served.chat(
            messages=[
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello.", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "4"},
                {"role": "user", "content": "And?"},
            ],
            tools=[{"type": "function", "function": {k: TOOL[k] for k in ("name", "parameters")}}],
        )
        ours, chats = (request.token_ids for request in served.generator.requests)
        assert ours == chats


async def test_instructions_join_a_system_message_and_are_not_repeated(serve):
    async with serve() as served:
        system = {"role": "system", "content": "Be kind."}
        first = await respond(served, input=[system, {"role": "user", "content": "Hi"}])
        await respond(served, instructions="Now.", previous_response_id=first["id"], input="So?")
        assert prompt_of(served).startswith("system: Now.\nBe kind.\nuser: Hi\nassistant: ")
        assert prompt_of(served).endswith("user: So?\nassistant: ")
        third = await respond(served, previous_response_id=first["id"], input=None)
        assert prompt_of(served).count("system") == 1
        assert third["previous_response_id"] == first["id"]


async def test_what_is_not_stored_or_deleted_is_not_found(serve):
    async with serve() as served:
        unstored = await respond(served, store=False)
        stored = await respond(served)
        assert (await served.get(f"{PATH}/{stored['id']}")).json() == stored
        assert (await served.get(f"{PATH}/{unstored['id']}")).error["code"] == "response_not_found"
        streamed = await served.get(f"{PATH}/{stored['id']}?stream=true")
        assert (streamed.status, streamed.error["param"]) == (400, "stream")
        deleted = await served.ask("DELETE", f"{PATH}/{stored['id']}")
        assert deleted.json() == {"id": stored["id"], "object": "response", "deleted": True}
        for method in ("GET", "DELETE"):
            assert (await served.ask(method, f"{PATH}/{stored['id']}")).status == 404
        assert (await served.get(f"{PATH}/{stored['id']}/input_items")).status == 404
        for gone in (stored, unstored):
            answer = await served.post(PATH, {**ASK, "previous_response_id": gone["id"]})
            assert (answer.status, answer.error["param"]) == (404, "previous_response_id")


async def test_a_key_sees_only_its_own_responses(serve):
    async with serve(api_keys=("one", "two")) as served:
        mine, other = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
        made = (await served.post(PATH, ASK, headers=mine)).json()
        assert (await served.get(f"{PATH}/{made['id']}", headers=mine)).status == 200
        assert (await served.get(f"{PATH}/{made['id']}", headers=other)).status == 404
        assert (await served.ask("DELETE", f"{PATH}/{made['id']}", headers=other)).status == 404
        going_on = {**ASK, "previous_response_id": made["id"]}
        assert (await served.post(PATH, going_on, headers=other)).status == 404
        assert (await served.post(PATH, going_on, headers=mine)).status == 200


async def test_a_streamed_response_is_kept_before_it_ends(serve):
    async with serve() as served:
        answer = await served.post(PATH, {**ASK, "stream": True})
        blocks = answer.body.decode().strip().split("\n\n")
        name, data = blocks[-1].split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == "event: response.completed"
        assert event["type"] == "response.completed"
        kept = await served.get(f"{PATH}/{event['response']['id']}")
        assert kept.json() == event["response"]


async def test_an_error_before_the_first_event_has_its_own_status(serve):
    full = FakeGenerator(fail=lambda request, sent: CapacityError("full"))
    async with serve(full) as served:
        answer = await served.post(PATH, {**ASK, "stream": True})
        assert (answer.status, answer.error["message"]) == (429, "full")


async def test_the_fields_of_other_engines_are_used(serve):
    async with serve() as served:
        await respond(served, top_k=5, seed=7, priority=2, cache_salt="s", stop=["x"])
        request = served.generator.requests[-1]
        assert (request.sampling.top_k, request.sampling.seed, request.priority) == (5, 7, 2)
        assert request.cache_salt


BAD = {
    "nothing": ({"input": None}, "input"),
    "empty text": ({"input": ""}, "input"),
    "no items": ({"input": []}, "input"),
    "no role": ({"input": [{"content": "x"}]}, "input[0].role"),
    "odd role": ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    "role tool": ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    "no content": ({"input": [{"role": "user"}]}, "input[0].content"),
    "image": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
    ),
    "reasoning": ({"input": [{"type": "reasoning", "id": "r"}]}, "input[0].type"),
    "reference": ({"input": [{"type": "item_reference", "id": "r"}]}, "input[0].type"),
    "call without name": ({"input": [{**CALL, "name": None}, OUTPUT]}, "input[0].name"),
    "call without output": ({"input": [CALL]}, "input"),
    "two calls of an id": ({"input": [CALL, CALL, OUTPUT]}, "input[1].call_id"),
    "output of no call": ({"input": [OUTPUT]}, "input[0].call_id"),
    "namespace": ({"input": [{**CALL, "namespace": "n"}, OUTPUT]}, "input[0].namespace"),
    "built-in tool": ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    "nameless tool": ({"tools": [{"type": "function"}]}, "tools[0].name"),
    "nested tool": ({"tools": [{"type": "function", "function": TOOL}]}, "tools[0].name"),
    "two tools of a name": ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    "deferred tool": ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
    "bad schema": ({"tools": [{**TOOL, "parameters": {"type": "array"}}]}, "tools[0].parameters"),
    "choice of no tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}},
        "tool_choice.name",
    ),
    "choice without name": (
        {"tools": [TOOL], "tool_choice": {"type": "function"}},
        "tool_choice.name",
    ),
    "choice of a built-in tool": (
        {"tools": [TOOL], "tool_choice": {"type": "web_search"}},
        "tool_choice.type",
    ),
    "allowed mode": (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": [TOOL]}},
        "tool_choice.mode",
    ),
    "allowed tool": (
        {
            "tools": [TOOL],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "g"}],
            },
        },
        "tool_choice.tools[0].name",
    ),
    "format": ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    "nameless schema": (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        "text.format.name",
    ),
    "no schema": (
        {"text": {"format": {"type": "json_schema", "name": "n"}}},
        "text.format.schema",
    ),
    "schema of text": ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format"),
    "verbosity": ({"text": {"verbosity": "low"}}, "text.verbosity"),
    "background": ({"background": True, "store": False}, "background"),
    "conversation": ({"conversation": "conv_1"}, "conversation"),
    "prompt": ({"prompt": {"id": "p"}}, "prompt"),
    "truncation": ({"truncation": "auto"}, "truncation"),
    "reasoning effort": ({"reasoning": {"effort": "high"}}, "reasoning"),
    "chat's length": ({"max_tokens": 5}, "max_tokens"),
    "chat's messages": ({"messages": []}, "messages"),
    "two answers": ({"n": 2}, "n"),
    "include": ({"include": ["x"]}, "include[0]"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
    "logprobs with tools": (
        {"include": ["message.output_text.logprobs"], "tools": [TOOL]},
        "include",
    ),
    "metadata": ({"metadata": {"k" * 65: "v"}}, "metadata"),
    "too long": ({"max_output_tokens": 100_000}, "input"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_wrong_is_named(serve, case):
    fields, param = BAD[case]
    async with serve() as served:
        for path in (PATH, f"{PATH}/input_tokens"):
            if case == "too long" and path != PATH:
                continue
            answer = await served.post(path, {**ASK, **fields})
            assert answer.status == 400, answer.body
            assert answer.error["param"].startswith(param), answer.body


async def test_what_asks_for_nothing_is_taken(serve):
    async with serve(strict=True) as served:
        fields = {
            "background": False,
            "include": ["reasoning.encrypted_content"],
            "max_tool_calls": 3,
            "reasoning": {"effort": "none"},
            "service_tier": "auto",
            "stream_options": {"include_obfuscation": False},
            "text": {"verbosity": "medium"},
            "truncation": "disabled",
        }
        assert "warnings" not in await respond(served, **fields)
        told = {
            "type": "message",
            "role": "assistant",
            "phase": "final_answer",
            "status": "completed",
        }
        part = {"type": "output_text", "text": "x", "annotations": [], "logprobs": []}
        items = [{**told, "id": "msg_1", "content": [part]}, {"role": "user", "content": "y"}]
        assert "warnings" not in await respond(served, input=items)


def reply(name, size=0):
    return ResponseReply(
        id=name,
        created_at=0,
        model="m" * size,
        status="completed",
        temperature=0,
        top_p=1,
        text={},
        tool_choice="auto",
        tools=[],
        parallel_tool_calls=True,
        store=True,
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "remove"]),
            st.sampled_from("ab"),
            st.integers(0, 9),
            st.integers(0, 400),
        ),
        max_size=40,
    )
)
def test_the_shelf_holds_its_bounds_and_forgets_the_least_used(steps):
    shelf = ResponseShelf(max_responses=3, max_bytes=3000)
    model = {"a": {}, "b": {}}  # in the order of their last use
    for number, (verb, key, which, size) in enumerate(steps):
        own = model[key]
        name = next((one for i, one in enumerate(own) if i == which), "none")
        if verb == "put":
            messages = [{"role": "user", "content": "x" * size}]
            shelf.put(key, reply(f"r{number}"), messages, num_inputs=1)
            kept = shelf.get(key, f"r{number}", param="p", code="c")
            assert kept.read_messages() == messages
            own[f"r{number}"] = kept.num_bytes
            while len(own) > 1 and (len(own) > 3 or sum(own.values()) > 3000):
                del own[next(iter(own))]
        elif name == "none":
            with pytest.raises(NotFoundError):
                shelf.remove(key, name)
        elif verb == "remove":
            shelf.remove(key, name)
            del own[name]
        else:
            shelf.get(key, name, param="p", code="c")
            own[name] = own.pop(name)
    for key, own in model.items():
        for name in own:
            shelf.get(key, name, param="p", code="c")
        with pytest.raises(NotFoundError):
            shelf.get({"a": "b", "b": "a"}[key], next(iter(own), "none"), param="p", code="c")


ANSWERS = st.sampled_from(
    ["", "just text", F, f"Hm.\n{F}", f"{F}\n{G}", f"a {G} b", F[:-20], G[:30]]
)


@given(answer=ANSWERS, cuts=st.lists(st.integers(0, 120), max_size=8), is_cut=st.booleans())
@settings(deadline=None)
def test_items_do_not_depend_on_the_pieces(answer, cuts, is_cut):
    def write(pieces):
        ids, numbers = iter(range(9)), iter(range(10_000))
        writer = ItemWriter(
            ToolParser(HERMES, ["f", "g"], lambda: f"{next(ids)}"), lambda: next(numbers)
        )
        events = [event for piece in pieces for event in writer.write(piece)]
        events += writer.finish(is_cut=is_cut)
        assert [event.sequence_number for event in events] == [*range(len(events))]
        added = [event.output_index for event in events if isinstance(event, ItemAdded)]
        done = [event for event in events if isinstance(event, ItemDone)]
        assert added == [event.output_index for event in done] == [*range(len(done))]
        assert [event.item for event in done] == writer.items
        assert writer.items
        return [
            (item.status, item.content[0].text)
            if item.__struct_config__.tag == "message"
            else (item.status, item.call_id, item.name, item.arguments)
            for item in writer.items
        ]

    ends = sorted({min(cut, len(answer)) for cut in cuts} | {len(answer)})
    pieces = [answer[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert write(pieces) == write([answer])

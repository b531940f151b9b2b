"""Tools of the Messages API: what the model is told and held to, and calls as Anthropic's client
reads them."""

import json

import anthropic
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helium_jax.errors import RequestError
from helium_jax.server.messages.blocks import BlockWriter, join_blocks
from helium_jax.server.tools import HERMES, ToolParser
from helium_jax.testing import FakeGenerator

WEATHER = {
    "name": "get_weather",
    "description": "How it is outside.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
NOW = {"name": "now", "input_schema": {"type": "object"}}
ASK = {
    "model": "fake",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "Weather?"}],
    "tools": [WEATHER, NOW],
}
ROME = HERMES.write_call("get_weather", '{"city": "Rom é"}')
TIME = HERMES.write_call("now", "{}")
CALLED = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}},
        ],
    },
]


def say(text, words):
    ids = tuple(text.encode(words, add_special_tokens=False))
    return FakeGenerator(reply=lambda request: ids)


def without_ids(blocks):
    return [{k: v for k, v in block.items() if k != "id"} for block in blocks]


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="tools, stream")
async def test_calls_come_back_as_blocks_whole_and_streamed(serve, text):
    async with (
        serve(say(text, f"Let me see.\n{ROME}\n{TIME}")) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="none", max_retries=0) as client,
    ):
        whole = await client.messages.create(**ASK)
        assert whole.stop_reason == "tool_use"
        said, rome, time = whole.content
        assert said.text == "Let me see."
        assert (rome.name, rome.input) == ("get_weather", {"city": "Rom é"})
        assert (time.name, time.input) == ("now", {})
        assert rome.id != time.id
        async with client.messages.stream(**ASK) as stream:
            final = await stream.get_final_message()
        assert final.stop_reason == "tool_use"
        kept = {"type", "text", "name", "input"}
        blocks = [[block.model_dump(include=kept) for block in m.content] for m in (whole, final)]
        assert blocks[0] == blocks[1]


async def test_the_model_is_told_of_tools_calls_and_results(serve, text):
    async with serve(say(text, "ok")) as served:
        result = {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no station"}],
                },
                {"type": "text", "text": "So?"},
            ],
        }
        answer = await served.post("/v1/messages", {**ASK, "messages": [*CALLED, result]})
        assert answer.status == 200
        prompt = served.text.decode(served.generator.requests[-1].token_ids)
        assert "How it is outside." in prompt
        assert HERMES.write_call("get_weather", '{"city": "Rome"}') in prompt
        assert "Error: no station" in prompt
        assert prompt.index("no station") < prompt.index("So?")
        counted = await served.post(
            "/v1/messages/count_tokens",
            {k: v for k, v in {**ASK, "messages": [*CALLED, result]}.items() if k != "max_tokens"},
        )
        assert counted.json()["input_tokens"] == len(served.generator.requests[-1].token_ids)


BOTH = f"{ROME}\n{TIME}"


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ({"type": "auto"}, ["text", ROME, TIME, BOTH]),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["text", ROME, TIME]),
        ({"type": "any"}, [ROME, TIME, BOTH]),
        ({"type": "tool", "name": "now"}, [TIME]),
    ],
    ids=json.dumps,
)
async def test_the_answer_is_held_to_the_choice(serve, text, choice, allowed):
    async with serve(say(text, "x")) as served:
        assert (await served.post("/v1/messages", {**ASK, "tool_choice": choice})).status == 200
        grammar = served.generator.requests[-1].grammar
    answers = ["text", ROME, TIME, BOTH, HERMES.write_call("get_weather", "{}")]
    assert [one for one in answers if allows(text, grammar, one)] == allowed


def allows(text, grammar, words):
    state = grammar.start()
    try:
        for token in text.encode(words, add_special_tokens=False):
            state.accept(token)
    except RequestError:
        return False
    return state.is_accepting


async def test_no_tools_no_grammar(serve, text):
    async with serve(say(text, ROME)) as served:
        answer = await served.post("/v1/messages", {**ASK, "tool_choice": {"type": "none"}})
        assert answer.json()["content"] == [{"type": "text", "text": ROME}]
        assert served.generator.requests[-1].grammar is None


async def test_a_call_that_was_cut_off_is_no_call(serve, text):
    async with serve(say(text, ROME)) as served:
        answer = await served.post("/v1/messages", {**ASK, "max_tokens": len(ROME) - 25})
        assert answer.json()["content"] == []
        assert answer.json()["stop_reason"] == "max_tokens"


@pytest.mark.shows(client="anthropic", endpoint="POST /v1/messages", what="parsed output")
async def test_an_answer_is_parsed_into_a_model(serve, text):
    class Report(pydantic.BaseModel):
        city: str
        degrees: int

    async with (
        serve(say(text, 'Sure! {"city": "Rome", "degrees": 21}')) as made,
        serve(say(text, '{"city": "Rome", "degrees": 21}')) as told,
    ):
        for served in (made, told):
            async with anthropic.AsyncAnthropic(base_url=served.url, api_key="none") as client:
                plain = {**ASK, "tools": [], "max_tokens": 3000}
                answer = await client.messages.parse(**plain, output_format=Report)
                assert isinstance(answer.parsed_output, Report)
        assert answer.parsed_output == Report(city="Rome", degrees=21)


async def test_an_output_format_holds_the_answer(serve, text):
    async with serve(say(text, '{"a": 1}')) as served:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        config = {"format": {"type": "json_schema", "schema": schema}}
        body = {**ASK, "tools": None, "output_config": config}
        answer = await served.post("/v1/messages", body)
        assert json.loads(answer.json()["content"][0]["text"]) == {"a": 1}
        assert served.generator.requests[-1].grammar is not None


BAD = {
    "server tool": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tools[0].type",
    ),
    "no schema": ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    "bad schema": (
        {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": 7}}]},
        "tools[0].input_schema",
    ),
    "array schema": (
        {"tools": [{"name": "f", "input_schema": {"type": "array"}}]},
        "tools[0].input_schema.type",
    ),
    "two of a name": ({"tools": [NOW, NOW]}, "tools[1].name"),
    "odd name": ({"tools": [{**NOW, "name": "a b"}]}, "tools[0].name"),
    "unknown choice": ({"tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    "choice without tools": ({"tools": [], "tool_choice": {"type": "any"}}, "tool_choice"),
    "unknown result": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "x", "content": "y"}],
                }
            ]
        },
        "messages[0].content[0].tool_use_id",
    ),
    "call without input": (
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f"}]}
            ]
        },
        "messages[0].content[0].input",
    ),
    "call of the user": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                }
            ]
        },
        "messages[0].content[0].type",
    ),
    "calls without results": ({"messages": CALLED}, "messages"),
    "effort": ({"output_config": {"effort": "high"}}, "output_config.effort"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_wrong_with_tools_is_named(serve, case):
    fields, param = BAD[case]
    async with serve() as served:
        answer = await served.post("/v1/messages", {**ASK, **fields})
        assert (answer.status, answer.json()["error"]["param"]) == (400, param), answer.body


ANSWERS = st.sampled_from(["just text", ROME, f"Hm.\n{ROME}", f"{ROME}\n{TIME}", f"a {TIME} b"])


@given(answer=ANSWERS, cuts=st.lists(st.integers(0, 120), max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_do_not_depend_on_the_pieces(answer, cuts):
    def write(pieces):
        ids = iter(range(9))
        parser = ToolParser(HERMES, ["get_weather", "now"], lambda: f"{next(ids)}")
        writer = BlockWriter(parser)
        events = [
            event
            for i, piece in enumerate(pieces)
            for event in writer.write(piece, is_last=i == len(pieces) - 1)
        ]
        opened = [event.index for event in events if type(event).__name__ == "BlockStart"]
        closed = [event.index for event in events if type(event).__name__ == "BlockStop"]
        assert opened == closed == [*range(len(opened))]
        return join_blocks(events)

    ends = sorted({min(cut, len(answer)) for cut in cuts} | {len(answer)})
    pieces = [answer[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert write(pieces) == write([answer])

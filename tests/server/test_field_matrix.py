"""Every field of every body under every odd value: answered in the envelope, never a 500."""

import json
from typing import get_args

import msgspec
import pytest

from helium_jax.server.files.bodies import ExpiresAfter
from helium_jax.server.hint_bodies import AgentHints, Nvext
from helium_jax.server.messages.bodies import (
    FOREIGN_MESSAGES_FIELDS,
    FOREIGN_OUTPUT_FIELDS,
    Block,
    CacheControl,
    OutputConfig,
    OutputFormat,
    ResultBlock,
    Tool,
    Turn,
)
from helium_jax.server.messages.bodies import ToolChoice as MessagesToolChoice
from helium_jax.server.openai.bodies import (
    FOREIGN_CHAT_FIELDS,
    FOREIGN_COMPLETION_FIELDS,
    FOREIGN_FIELDS,
    FOREIGN_MESSAGE_FIELDS,
    FOREIGN_STRUCTURED_FIELDS,
    ContentPart,
    DecodingFields,
    Message,
    StreamOptions,
)
from helium_jax.server.openai.embeddings import FOREIGN_EMBEDDINGS_FIELDS
from helium_jax.server.openai.format_bodies import (
    JsonSchemaBody,
    ResponseFormatBody,
    StructuredOutputsBody,
    TextFormatBody,
)
from helium_jax.server.plans.bodies import RunLimitsBody
from helium_jax.server.responses.bodies import (
    FOREIGN_ITEM_FIELDS,
    FOREIGN_RESPONSE_FIELDS,
    FOREIGN_TEXT_FIELDS,
    FOREIGN_TOOL_FIELDS,
    FunctionChoice,
    FunctionTool,
    Item,
    ItemPart,
    TextConfig,
)
from helium_jax.server.routes import ROUTES
from helium_jax.server.tools.bodies import (
    AllowedTools,
    CalledFunction,
    ChosenFunction,
    FunctionBody,
    ToolBody,
    ToolCallBody,
    ToolChoiceBody,
)
from tests.server.plans import until

MISSING = object()
# JSON texts, because some of them are no Python values
ODD_VALUES = {
    "missing": MISSING,
    "null": "null",
    "true": "true",
    "zero": "0",
    "negative": "-1",
    "fraction": "0.5",
    "huge integer": "1" + "0" * 30,
    "very huge integer": "1" + "0" * 390,
    "beyond digits": "1" + "0" * 5000,
    "huge number": "1e308",
    "overflow": "1e999",
    "NaN": "NaN",
    "minus infinity": "-Infinity",
    "empty string": '""',
    "string": '"x"',
    "long string": '"' + "x" * 100_000 + '"',
    "NUL": '"a\\u0000b"',
    "lone surrogate": '"\\udfff"',
    "right to left": '"\u202e\ufeff\U0001f600\u0301"',
    "empty list": "[]",
    "list of null": "[null]",
    "list of lists": "[[[]]]",
    "list of objects": "[{}]",
    "mixed list": '[1, "a", null, {}, []]',
    "empty object": "{}",
    "object": '{"x": {"y": [1]}}',
    "deep": "[" * 2000 + "]" * 2000,
}
PLAN = {
    "version": "helium/v1",
    "inputs": {"q": {"type": "text"}},
    "ops": {"o": {"type": "llm.completion", "prompt": "{{q}}", "max_tokens": 2}},
    "outputs": {"o": "o"},
}
ROWS = [{"q": "Hi"}]
GOOD = {
    "/v1/chat/completions": {
        "model": "fake",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "temperature": 0,
    },
    "/v1/completions": {"model": "fake", "prompt": "Hi", "max_tokens": 3, "temperature": 0},
    "/v1/messages": {
        "model": "fake",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 3,
        "temperature": 0,
    },
    "/v1/messages/count_tokens": {
        "model": "fake",
        "messages": [{"role": "user", "content": "Hi"}],
    },
    "/v1/responses": {"model": "fake", "input": "Hi", "max_output_tokens": 3, "temperature": 0},
    "/v1/embeddings": {"model": "fake", "input": "Hi"},
    "/v1/batches": {
        "input_file_id": "file-0",
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    },
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [72]},
    "/v1/plans": {"plan": PLAN},
    "/v1/plans/explain": {"plan": PLAN, "inputs": ROWS, "format": "json"},
    "/v1/runs": {"plan": PLAN, "inputs": ROWS},
    "/v1/runs/{run_id}/cancel": {},
    "/v1/cache/warm": {"text": "Hi"},
    "/v1/cache/reset": {},
}
STATUSES = {  # when all is well
    "/v1/runs": (200, 202),
    "/v1/runs/{run_id}/cancel": (409,),
    "/v1/batches": (404,),
}
VOLATILE = (
    "id",
    "created",
    "created_at",
    "completed_at",
    "output",
    "started",
    "finished",
    "usage",
    "totals",
    "pages",
    "outputs",
    "planning_seconds",
)
FOREIGN = {
    "/v1/chat/completions": FOREIGN_CHAT_FIELDS,
    "/v1/completions": FOREIGN_COMPLETION_FIELDS,
    "/v1/messages": FOREIGN_MESSAGES_FIELDS,
    "/v1/messages/count_tokens": FOREIGN_MESSAGES_FIELDS,
    "/v1/responses": FOREIGN_RESPONSE_FIELDS,
    "/v1/embeddings": FOREIGN_EMBEDDINGS_FIELDS,
}


def names(kind):
    return [field.encode_name for field in msgspec.structs.fields(kind)]


# Read and refused by the same code for every endpoint: asked of chat alone, for time's sake.
OF_ALL = {*names(DecodingFields), *FOREIGN_FIELDS} - {"model", "stream", "metadata", "store"}


def fields_of(path, kind):
    fields = [*names(kind), *FOREIGN.get(path, ()), "unknown"]
    return [f for f in fields if path == "/v1/chat/completions" or f not in OF_ALL]


def bodies(good, kind, fields):
    """(what, body text) for every field x value."""
    for field in fields:
        for what, value in ODD_VALUES.items():
            rest = {name: one for name, one in good.items() if name != field}
            yield f"{field}={what}", with_field(rest, field, value)
    if "messages" not in names(kind):
        return
    good = {name: one for name, one in good.items() if name not in ("messages", "prompt")}
    for field in [*names(Message), *FOREIGN_MESSAGE_FIELDS]:
        for what, value in ODD_VALUES.items():
            rest = {k: v for k, v in (("role", "user"), ("content", "x")) if k != field}
            message = with_field(rest, field, value)
            yield f"messages[0].{field}={what}", with_field(good, "messages", f"[{message}]")
    for field in names(ContentPart):
        for what, value in ODD_VALUES.items():
            rest = {k: v for k, v in (("type", "text"), ("text", "x")) if k != field}
            part = with_field(rest, field, value)
            message = with_field({"role": "user"}, "content", f"[{part}]")
            yield f"part.{field}={what}", with_field(good, "messages", f"[{message}]")


# Bodies within a chat body: a good one, and where it goes.
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
INNER = {
    ResponseFormatBody: (
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}},
        '{"response_format": %s}',
    ),
    JsonSchemaBody: (
        {"name": "n", "schema": {"type": "integer"}},
        '{"response_format": {"type": "json_schema", "json_schema": %s}}',
    ),
    StructuredOutputsBody: ({}, '{"structured_outputs": %s}'),
    ToolBody: (TOOL, '{"tools": [%s]}'),
    FunctionBody: (TOOL["function"], '{"tools": [{"type": "function", "function": %s}]}'),
    ToolChoiceBody: (TOOL, json.dumps({"tools": [TOOL]})[:-1] + ', "tool_choice": %s}'),
    AllowedTools: (
        {"mode": "auto", "tools": [TOOL]},
        json.dumps({"tools": [TOOL]})[:-1]
        + ', "tool_choice": {"type": "allowed_tools", "allowed_tools": %s}}',
    ),
    ToolCallBody: (
        {"id": "c", "function": {"name": "f", "arguments": "{}"}},
        '{"messages": [{"role": "assistant", "tool_calls": [%s]}]}',
    ),
    CalledFunction: (
        {"name": "f", "arguments": "{}"},
        '{"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": %s}]}]}',
    ),
    ChosenFunction: (
        {"name": "f"},
        json.dumps({"tools": [TOOL]})[:-1]
        + ', "tool_choice": {"type": "function", "function": %s}}',
    ),
}
BLOCK = {"type": "text", "text": "x"}
MESSAGES_INNER = {
    Turn: ({"role": "user", "content": "x"}, '{"messages": [%s]}'),
    Block: (BLOCK, '{"messages": [{"role": "user", "content": [%s]}]}'),
    ResultBlock: (
        BLOCK,
        '{"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": '
        '"f", "input": {}}]}, {"role": "user", "content": [{"type": "tool_result", '
        '"tool_use_id": "a", "content": [%s]}]}]}',
    ),
    Tool: ({"name": "f", "input_schema": {"type": "object"}}, '{"tools": [%s]}'),
    MessagesToolChoice: (
        {"type": "auto"},
        '{"tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": %s}',
    ),
    CacheControl: ({"type": "ephemeral"}, '{"cache_control": %s}'),
    OutputFormat: (
        {"type": "json_schema", "schema": {"type": "integer"}},
        '{"output_config": {"format": %s}}',
    ),
    OutputConfig: ({}, '{"output_config": %s}'),
    Nvext: ({}, '{"nvext": %s}'),
    AgentHints: ({}, '{"nvext": {"agent_hints": %s}}'),
}
FLAT_TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
RESPONSES_INNER = {
    Item: ({"role": "user", "content": "x"}, '{"input": [%s]}'),
    ItemPart: (
        {"type": "input_text", "text": "x"},
        '{"input": [{"role": "user", "content": [%s]}]}',
    ),
    FunctionTool: (FLAT_TOOL, '{"tools": [%s]}'),
    FunctionChoice: (
        {"type": "function", "name": "f"},
        json.dumps({"tools": [FLAT_TOOL]})[:-1] + ', "tool_choice": %s}',
    ),
    TextConfig: ({}, '{"text": %s}'),
    TextFormatBody: (
        {"type": "json_schema", "name": "n", "schema": {"type": "integer"}},
        '{"text": {"format": %s}}',
    ),
}
FOREIGN_INNER = {
    StructuredOutputsBody: FOREIGN_STRUCTURED_FIELDS,
    Item: FOREIGN_ITEM_FIELDS,
    FunctionTool: FOREIGN_TOOL_FIELDS,
    TextConfig: FOREIGN_TEXT_FIELDS,
    OutputConfig: FOREIGN_OUTPUT_FIELDS,
}
BATCH_INNER = {
    ExpiresAfter: ({"anchor": "created_at", "seconds": 3600}, '{"output_expires_after": %s}')
}
ALL_INNER = {
    "/v1/chat/completions": INNER,
    "/v1/messages": MESSAGES_INNER,
    "/v1/responses": RESPONSES_INNER,
    "/v1/batches": BATCH_INNER,
    "/v1/runs": {RunLimitsBody: ({}, '{"limits": %s}')},
}
PLACES = [(path, kind) for path, kinds in ALL_INNER.items() for kind in kinds]


@pytest.mark.parametrize(("path", "kind"), PLACES)
async def test_no_value_of_an_inner_field_breaks_the_server(serve, path, kind):
    inner, place = ALL_INNER[path][kind]
    statuses = (*STATUSES.get(path, (200,)), 400)
    async with serve() as served:
        before = await served.post(path, GOOD[path])
        for field in [*names(kind), *FOREIGN_INNER.get(kind, ()), "unknown"]:
            for what, value in ODD_VALUES.items():
                rest = {name: one for name, one in inner.items() if name != field}
                outer = place % with_field(rest, field, value)
                good = {name: one for name, one in GOOD[path].items() if f'"{name}"' not in outer}
                body = json.dumps(good)[:-1] + ", " + outer[1:]
                answer = await served.post(path, body.encode())
                assert answer.status in statuses, (field, what, answer.body[:300])
                if answer.status not in (200, 202):
                    message = answer.error["message"]
                    assert "Traceback" not in message
                    assert "object at 0x" not in message
                    assert len(answer.body) < 20_000, (field, what)
            after = await served.post(path, GOOD[path])
            assert volatile_less(after) == volatile_less(before), field
        await until(lambda: not served.generator.running)


def with_field(rest, field, value):
    if value is MISSING:
        return json.dumps(rest)
    begin = json.dumps(rest)[:-1]  # without its brace
    comma = ", " if rest else ""
    return f"{begin}{comma}{json.dumps(field)}: {value}}}"


POSTS = [
    (route.operation.path, route.operation.body, stream)
    for route in ROUTES
    for stream in ([False, True] if route.operation.streams else [False])
    if route.operation.body is not None
    and route.operation.path != "/v1/responses/input_tokens"  # reads what /v1/responses reads
]


@pytest.mark.parametrize(("path", "kind", "stream"), POSTS)
async def test_no_value_of_any_field_breaks_the_server(serve, path, kind, stream):
    async with serve() as served:
        good, statuses = GOOD[path], STATUSES.get(path, (200,))
        fields = fields_of(path, kind)
        if "{run_id}" in path:
            run = await served.post("/v1/runs", GOOD["/v1/runs"])
            path = path.replace("{run_id}", run.json()["id"])
        before = await served.post(path, good)
        assert before.status == statuses[0]
        for what, body in bodies(good, kind, fields):
            if stream:
                body = body.replace("{", '{"stream": true, ', 1)
            answer = await served.post(path, body.encode())
            assert answer.status in (*statuses, 400, 404), (
                what,
                answer.status,
                answer.body[:300],
            )
            assert answer.headers["x-request-id"], what
            if answer.status not in (200, 202):
                message = answer.error["message"]
                assert "Traceback" not in message
                assert "object at 0x" not in message
                assert len(answer.body) < 20_000, what
        after = await served.post(path, good)
        assert volatile_less(after) == volatile_less(before)
        await until(lambda: not served.generator.running)


def volatile_less(answer):
    body = answer.json()
    return {k: v for k, v in body.items() if k not in VOLATILE}


def test_no_part_of_any_body_is_left_out():
    """A type that is added to a body needs its place in ALL_INNER."""

    def enter(kind):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind in found:
                return
            found.add(kind)
            for field in msgspec.structs.fields(kind):
                enter(field.type)
        for argument in get_args(kind):
            enter(argument)

    found, bodies = set(), {route.operation.body for route in ROUTES} - {None}
    for body in bodies:
        enter(body)
    tried = {kind for kinds in ALL_INNER.values() for kind in kinds}
    assert found - bodies - tried == {Message, ContentPart, StreamOptions}  # have their own tests


@pytest.mark.parametrize("value", ODD_VALUES)
async def test_stream_options_take_no_odd_value(serve, value):
    async with serve() as served:
        for field in names(StreamOptions):
            options = with_field({}, field, ODD_VALUES[value])
            body = with_field(
                {**GOOD["/v1/completions"], "stream": True}, "stream_options", options
            )
            answer = await served.post("/v1/completions", body.encode())
            assert answer.status in (200, 400)

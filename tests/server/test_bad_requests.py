"""Bad requests: each gets its status, code and place, and the next good one answers as before."""

import json

import pytest

CHAT_PATH, COMPLETION_PATH = "/v1/chat/completions", "/v1/completions"
IMAGE = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA_PATH = "response_format.json_schema.schema"


def many(count):
    return list(map(str, range(count)))


def tool(**function):
    return {"type": "function", "function": {"name": "f", **function}}


def allowed(mode, tools):
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def schema(value, strict=False):
    wanted = {"name": "a", "schema": value, "strict": strict}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


# (what is changed in a good chat body, status, code, param); rows of bad_requests.md by number
CHAT_ROWS = [
    # 19: model
    ({"model": None}, 400, "invalid_request", "model"),
    ({"model": "other"}, 404, "model_not_found", "model"),
    ({"model": 5}, 400, "invalid_request", "model"),
    ({"model": ""}, 400, "invalid_request", "model"),
    ({"model": "x" * 2**20}, 400, "invalid_request", "model"),
    # 20: messages
    ({"messages": None}, 400, "invalid_request", "messages"),
    ({"messages": []}, 400, "invalid_request", "messages"),
    ({"messages": "hi"}, 400, "invalid_request", "messages"),
    ({"messages": {}}, 400, "invalid_request", "messages"),
    ({"messages": [None]}, 400, "invalid_request", "messages[0]"),
    ({"messages": [{"role": "user"}]}, 400, "invalid_request", "messages[0].content"),
    ({"messages": [{"content": "x"}]}, 400, "invalid_request", "messages[0].role"),
    ({"messages": [{"role": "king", "content": ""}]}, 400, "invalid_request", "messages[0].role"),
    (
        {"messages": [{"role": "function", "content": "x", "name": "f"}]},
        400,
        "unsupported_parameter",
        "messages[0].role",
    ),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        400,
        "invalid_request",
        "messages[0].tool_call_id",
    ),
    (
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "nobody"}]},
        400,
        "invalid_request",
        "messages[0].tool_call_id",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "tool_call_id": "a"}]},
        400,
        "invalid_request",
        "messages[0].tool_call_id",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]},
        400,
        "invalid_request",
        "messages[0].tool_calls[0]",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
        400,
        "invalid_request",
        "messages[0].tool_calls",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
        400,
        "unsupported_parameter",
        "messages[0].tool_calls[0].type",
    ),
    (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        400,
        "invalid_request",
        "messages[0].content",
    ),
    # 21: parts for other models; no URL is fetched because nothing here can
    (
        {"messages": [{"role": "user", "content": IMAGE}]},
        400,
        "unsupported_content",
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": []}]},
        400,
        "invalid_request",
        "messages[0].content",
    ),
    # 24
    (
        {"messages": [{"role": "user", "content": "long " * 5000}]},
        400,
        "context_length_exceeded",
        "messages",
    ),
    ({"max_tokens": 10**9}, 400, "context_length_exceeded", "messages"),
    # 25
    ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
    ({"max_tokens": -1}, 400, "invalid_request", "max_tokens"),
    ({"max_tokens": 1e9}, 400, "invalid_request", "max_tokens"),
    ({"max_tokens": 2**80}, 400, "invalid_request", "max_tokens"),
    ({"max_tokens": "5"}, 400, "invalid_request", "max_tokens"),
    ({"max_tokens": True}, 400, "invalid_request", "max_tokens"),
    ({"max_tokens": 1.5}, 400, "invalid_request", "max_tokens"),
    # 26
    (
        {"max_tokens": 5, "max_completion_tokens": 6},
        400,
        "invalid_request",
        "max_completion_tokens",
    ),
    # 27
    ({"top_p": 0}, 400, "invalid_request", "top_p"),
    ({"top_p": 1.1}, 400, "invalid_request", "top_p"),
    ({"top_p": -1}, 400, "invalid_request", "top_p"),
    ({"top_k": -2}, 400, "invalid_request", "top_k"),
    ({"top_k": 0.01}, 400, "invalid_request", "top_k"),
    ({"top_k": 10**12}, 400, "invalid_request", "top_k"),
    ({"min_p": 1.5}, 400, "invalid_request", "min_p"),
    ({"temperature": -0.1}, 400, "invalid_request", "temperature"),
    ({"temperature": 2.1}, 400, "invalid_request", "temperature"),
    ({"presence_penalty": 3}, 400, "invalid_request", "presence_penalty"),
    ({"frequency_penalty": -3}, 400, "invalid_request", "frequency_penalty"),
    ({"repetition_penalty": 0}, 400, "invalid_request", "repetition_penalty"),
    # 28
    ({"n": 0}, 400, "invalid_request", "n"),
    ({"n": -1}, 400, "invalid_request", "n"),
    ({"n": 129}, 400, "invalid_request", "n"),
    ({"n": 10**9}, 400, "invalid_request", "n"),
    ({"n": 1.5}, 400, "invalid_request", "n"),
    # 29
    ({"logit_bias": {"x": 1}}, 400, "invalid_request", "logit_bias"),
    ({"logit_bias": {"-1": 1}}, 400, "invalid_request", "logit_bias"),
    ({"logit_bias": {"1.0": 1}}, 400, "invalid_request", "logit_bias"),
    ({"logit_bias": {"99999999": 1}}, 400, "invalid_request", "logit_bias"),
    ({"logit_bias": {"٣": 1}}, 400, "invalid_request", "logit_bias"),
    ({"logit_bias": {"1": 1e9}}, 400, "invalid_request", "logit_bias"),
    ({"logit_bias": dict.fromkeys(many(100_000), 1)}, 400, "invalid_request", "logit_bias"),
    # 30: below 2**63 in absolute value it is taken modulo 2**63
    ({"seed": 2**64}, 400, "invalid_request", "seed"),
    ({"seed": 1.5}, 400, "invalid_request", "seed"),
    ({"seed": "x"}, 400, "invalid_request", "seed"),
    # 31
    ({"stream": "yes"}, 400, "invalid_request", "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "invalid_request", "stream_options"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        400,
        "invalid_request",
        "stream_options.include_usage",
    ),
    # 32
    ({"tools": {}}, 400, "invalid_request", "tools"),
    ({"tools": [None]}, 400, "invalid_request", "tools[0]"),
    ({"tools": [{"type": "function"}]}, 400, "invalid_request", "tools[0].function"),
    ({"tools": [tool(name=None)]}, 400, "invalid_request", "tools[0].function.name"),
    ({"tools": [tool(name="a b")]}, 400, "invalid_request", "tools[0].function.name"),
    ({"tools": [tool(name="x" * 65)]}, 400, "invalid_request", "tools[0].function.name"),
    ({"tools": [tool(name='f"')]}, 400, "invalid_request", "tools[0].function.name"),
    ({"tools": [TOOL, TOOL]}, 400, "invalid_request", "tools[1].function.name"),
    ({"tools": [TOOL] * 1000}, 400, "invalid_request", "tools"),
    ({"tools": [tool(description="x" * 300_000)]}, 400, "invalid_request", "tools"),
    ({"tools": [tool(parameters=[])]}, 400, "invalid_request", "tools[0].function.parameters"),
    (
        {"tools": [tool(parameters={"type": "string"})]},
        400,
        "invalid_request",
        "tools[0].function.parameters.type",
    ),
    (
        {"tools": [TOOL, tool(name="g", parameters={"properties": {"a": {"type": "odd"}}})]},
        400,
        "invalid_grammar",
        "tools[1].function.parameters",
    ),
    (
        {"tools": [tool(parameters={"properties": {"a": {"$ref": "http://x/y"}}})]},
        400,
        "invalid_grammar",
        "tools[0].function.parameters",
    ),
    (
        {"tools": [tool(parameters={"properties": {"a": {"enum": ["x" * 200_000]}}})]},
        400,
        "invalid_grammar",
        "tools[0].function.parameters",
    ),
    ({"tools": [{"type": "web_search"}]}, 400, "unsupported_parameter", "tools[0].type"),
    ({"tools": [TOOL], "parallel_tool_calls": 1}, 400, "invalid_request", "parallel_tool_calls"),
    ({"functions": [{"name": "f"}]}, 400, "unsupported_parameter", "functions"),
    # 33
    ({"tool_choice": "required"}, 400, "invalid_request", "tool_choice"),
    ({"tool_choice": "sometimes"}, 400, "invalid_request", "tool_choice"),
    ({"tool_choice": TOOL}, 400, "invalid_request", "tool_choice.function.name"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        400,
        "invalid_request",
        "tool_choice.function.name",
    ),
    ({"tools": [TOOL], "tool_choice": {}}, 400, "invalid_request", "tool_choice.type"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function"}},
        400,
        "invalid_request",
        "tool_choice.function",
    ),
    (
        {"tools": [TOOL], "tool_choice": {"type": "custom"}},
        400,
        "invalid_request",
        "tool_choice.type",
    ),
    (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}},
        400,
        "invalid_request",
        "tool_choice.allowed_tools",
    ),
    (
        {"tools": [TOOL], "tool_choice": allowed("auto", [])},
        400,
        "invalid_request",
        "tool_choice.allowed_tools.tools",
    ),
    (
        {"tools": [TOOL], "tool_choice": allowed("none", [TOOL])},
        400,
        "invalid_request",
        "tool_choice.allowed_tools.mode",
    ),
    (
        {"tools": [TOOL], "tool_choice": allowed("auto", [tool(name="g")])},
        400,
        "invalid_request",
        "tool_choice.allowed_tools.tools[0].function.name",
    ),
    # 34
    ({"response_format": "json"}, 400, "invalid_request", "response_format"),
    ({"response_format": {}}, 400, "invalid_request", "response_format.type"),
    ({"response_format": {"type": "x"}}, 400, "invalid_request", "response_format.type"),
    (
        {"response_format": {"type": "json_schema"}},
        400,
        "invalid_request",
        "response_format.json_schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        400,
        "invalid_request",
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        400,
        "invalid_request",
        "response_format.json_schema.name",
    ),
    (
        {"response_format": {"type": "json_object", "json_schema": {"name": "a", "schema": {}}}},
        400,
        "invalid_request",
        "response_format.json_schema",
    ),
    (schema({"type": "odd"}), 400, "invalid_grammar", SCHEMA_PATH),
    (schema({"not": {}}, strict=True), 400, "invalid_grammar", SCHEMA_PATH),
    (schema({"$ref": "#/$defs/none"}), 400, "invalid_grammar", SCHEMA_PATH),
    (schema({"enum": ["x" * 200_000]}), 400, "invalid_grammar", SCHEMA_PATH),
    (schema({"allOf": [{"pattern": "a.*b.*"}] * 50}), 400, "invalid_grammar", SCHEMA_PATH),
    # 35
    ({"guided_regex": "(a"}, 400, "invalid_grammar", "guided_regex"),
    ({"guided_regex": "(?=a)b"}, 400, "invalid_grammar", "guided_regex"),
    ({"guided_regex": ""}, 400, "invalid_grammar", "guided_regex"),
    ({"guided_grammar": "start: nothing"}, 400, "invalid_grammar", "guided_grammar"),
    ({"guided_choice": []}, 400, "invalid_grammar", "guided_choice"),
    ({"guided_choice": ["a", "a"]}, 400, "invalid_grammar", "guided_choice"),
    ({"guided_choice": ["a", 1]}, 400, "invalid_request", "guided_choice[1]"),
    ({"guided_choice": many(100_000)}, 400, "invalid_grammar", "guided_choice"),
    ({"guided_json": "{oops"}, 400, "invalid_grammar", "guided_json"),
    ({"guided_json": "[]"}, 400, "invalid_grammar", "guided_json"),
    ({"guided_json": [1]}, 400, "invalid_request", "guided_json"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, 400, "invalid_request", "guided_choice"),
    (
        {"structured_outputs": {"regex": "a", "json_object": True}},
        400,
        "invalid_request",
        "structured_outputs.json_object",
    ),
    (
        {"structured_outputs": {"choice": ["a", ""]}},
        400,
        "invalid_grammar",
        "structured_outputs.choice",
    ),
    ({"guided_regex": "a", "tools": [TOOL]}, 400, "invalid_request", "guided_regex"),
    # 36: a grammar that permits nothing
    (schema({"enum": []}), 400, "invalid_grammar", SCHEMA_PATH),
    ({"guided_grammar": 'start: ""'}, 400, "invalid_grammar", "guided_grammar"),
    # 37
    ({"chat_template": "{{ 'a' * 10**9 }}"}, 400, "unsupported_parameter", "chat_template"),
    ({"chat_template_kwargs": {"messages": "x"}}, 400, "invalid_request", "chat_template_kwargs"),
    ({"chat_template_kwargs": {"self": 1}}, 400, "invalid_request", "chat_template_kwargs"),
    ({"chat_template_kwargs": {"bos_token": "x"}}, 400, "invalid_request", "chat_template_kwargs"),
    ({"chat_template_kwargs": {"a b": "x"}}, 400, "invalid_request", "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x": [1]}}, 400, "invalid_request", "chat_template_kwargs"),
    (
        {"chat_template_kwargs": {"x": "x" * 9999}},
        400,
        "invalid_request",
        "chat_template_kwargs.x",
    ),
    # 38
    ({"priority": "high"}, 400, "invalid_request", "priority"),
    ({"priority": 1e30}, 400, "invalid_request", "priority"),
    # 39
    ({"cache_salt": ""}, 400, "invalid_request", "cache_salt"),
    ({"cache_salt": "x" * 2**20}, 400, "invalid_request", "cache_salt"),
    ({"cache_salt": 5}, 400, "invalid_request", "cache_salt"),
    # of the same kind
    ({"stop": ""}, 400, "invalid_request", "stop"),
    ({"stop": ["a", ""]}, 400, "invalid_request", "stop[1]"),
    ({"stop": many(33)}, 400, "invalid_request", "stop"),
    ({"stop": ["x" * 513]}, 400, "invalid_request", "stop[0]"),
    ({"stop": [5]}, 400, "invalid_request", "stop[0]"),
    ({"stop_token_ids": [-1]}, 400, "invalid_request", "stop_token_ids[0]"),
    ({"stop_token_ids": [10**6]}, 400, "invalid_request", "stop_token_ids[0]"),
    ({"stop_token_ids": [1] * 1000}, 400, "invalid_request", "stop_token_ids"),
    ({"top_logprobs": 5}, 400, "invalid_request", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_request", "top_logprobs"),
    ({"logprobs": 3}, 400, "invalid_request", "logprobs"),
    ({"min_tokens": 9, "max_tokens": 8}, 400, "invalid_request", "min_tokens"),
    ({"user": 7}, 400, "invalid_request", "user"),
]
COMPLETION_ROWS = [
    # 22: empty in any form is an error
    ({"prompt": None}, 400, "invalid_request", "prompt"),
    ({"prompt": ""}, 400, "invalid_request", "prompt"),
    ({"prompt": []}, 400, "invalid_request", "prompt"),
    ({"prompt": [[]]}, 400, "invalid_request", "prompt[0]"),
    ({"prompt": [""]}, 400, "invalid_request", "prompt[0]"),
    ({"prompt": ["a", ""]}, 400, "invalid_request", "prompt[1]"),
    ({"prompt": {}}, 400, "invalid_request", "prompt"),
    # 23
    ({"prompt": [5, -1]}, 400, "invalid_request", "prompt[1]"),
    ({"prompt": [10**6]}, 400, "invalid_request", "prompt[0]"),
    ({"prompt": [5, 1.0]}, 400, "invalid_request", "prompt[1]"),
    ({"prompt": [True]}, 400, "invalid_request", "prompt[0]"),
    ({"prompt": [2**63]}, 400, "invalid_request", "prompt[0]"),
    ({"prompt": [None]}, 400, "invalid_request", "prompt[0]"),
    ({"prompt": [[5], [6, "x"]]}, 400, "invalid_request", "prompt[1][1]"),
    ({"prompt": ["a", 5]}, 400, "invalid_request", "prompt[1]"),
    ({"prompt": [[5], "a"]}, 400, "invalid_request", "prompt[1]"),
    ({"prompt": ["x"] * 2000}, 400, "invalid_request", "prompt"),
    ({"prompt": ["x"] * 100, "n": 20}, 400, "invalid_request", "n"),
    # 24
    ({"prompt": [5] * 5000}, 400, "context_length_exceeded", "prompt"),
    ({"prompt": ["a", "long " * 5000]}, 400, "context_length_exceeded", "prompt[1]"),
    # 25, 28
    ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
    ({"n": 2, "best_of": 1}, 400, "invalid_request", "best_of"),
    ({"n": 1, "best_of": 3}, 400, "unsupported_parameter", "best_of"),
    ({"logprobs": True}, 400, "invalid_request", "logprobs"),
    ({"logprobs": 21}, 400, "invalid_request", "logprobs"),
    ({"echo": True, "logprobs": 1}, 400, "unsupported_parameter", "logprobs"),
    ({"echo": "x"}, 400, "invalid_request", "echo"),
    ({"suffix": "end"}, 400, "unsupported_parameter", "suffix"),
    ({"prompt_logprobs": 0}, 400, "unsupported_parameter", "prompt_logprobs"),
]
OTHER_ROWS = [
    # 42
    ("/tokenize", {"prompt": "x", "add_special_tokens": "x"}, "add_special_tokens"),
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": "x", "messages": []}, "prompt"),
    ("/tokenize", {"prompt": 5}, "prompt"),
    ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ("/detokenize", {}, "tokens"),
    ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ("/detokenize", {"tokens": [10**6]}, "tokens[0]"),
    ("/detokenize", {"tokens": [1, True]}, "tokens[1]"),
    ("/detokenize", {"tokens": "x"}, "tokens"),
]
# (body bytes, status, code)
RAW_ROWS = [
    (b"{a", 400, "invalid_json"),  # 3
    (b"", 400, "invalid_json"),
    (b"[]", 400, "invalid_request"),  # 4
    (b'"x"', 400, "invalid_request"),
    (b"null", 400, "invalid_request"),
    (b"5", 400, "invalid_request"),
    (b'{"model": "\xff"}', 400, "invalid_json"),  # 9
    (b'{"model": "fake", "temperature": NaN}', 400, "invalid_json"),  # 10
    (b'{"model": "fake", "temperature": Infinity}', 400, "invalid_json"),
    (b'{"model": "fake", "temperature": 1e999}', 400, "invalid_json"),
    (b'{"model": "fake", "seed": ' + b"9" * 5000 + b"}", 400, "invalid_json"),  # 11
    (b'{"model": "fake", "model": "fake"}', 400, "invalid_json"),  # 12
    (b'{"model": "\\ud800"}', 400, "invalid_json"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "invalid_json"),
]


def describe(row):
    return json.dumps(row[0])[:60] if isinstance(row[0], dict) else str(row[0])[:60]


@pytest.fixture
async def served(serve):
    """A server whose good answers are the same before and after the test's bad request."""
    async with serve() as running:
        before = await running.chat(), await running.complete()
        yield running
        after = await running.chat(), await running.complete()
        for one, other in zip(before, after, strict=True):
            assert one.status == other.status == 200
            assert one.json()["choices"] == other.json()["choices"]
        assert not running.generator.running


@pytest.mark.parametrize("row", CHAT_ROWS, ids=describe)
async def test_a_bad_chat_body_is_refused_with_its_place(served, row):
    change, status, code, param = row
    answer = await served.chat(**change)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert len(answer.body) < 4096, "the input is not echoed at length"


@pytest.mark.parametrize("row", COMPLETION_ROWS, ids=describe)
async def test_a_bad_completion_body_is_refused_with_its_place(served, row):
    change, status, code, param = row
    answer = await served.complete(**change)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)


@pytest.mark.parametrize(("path", "body", "param"), OTHER_ROWS)
async def test_bad_tokenizer_bodies_are_refused_with_their_place(served, path, body, param):
    answer = await served.post(path, body)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize("path", [CHAT_PATH, COMPLETION_PATH, "/tokenize", "/detokenize"])
@pytest.mark.parametrize("row", RAW_ROWS, ids=describe)
async def test_bytes_that_are_no_json_object_are_refused(served, path, row):
    data, status, code = row
    answer = await served.post(path, data)
    assert (answer.status, answer.error["code"]) == (status, code)
    if code == "invalid_json":
        assert "at byte" in answer.error["message"]


async def test_every_fault_of_a_body_is_named_at_once(served):
    messages = [{"role": "user", "content": "x"}, {"role": 5}, {"role": "user", "content": 7}]
    answer = await served.chat(messages=messages, n=0, temperature="hot", tools=[1])
    assert answer.status == 400
    faults = {problem["param"] for problem in answer.error["problems"]}
    assert faults >= {"n", "temperature", "tools[0]", "messages[1].role", "messages[2].content"}
    for path in faults:
        assert path in answer.error["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [None] * 1_000_000,
        [{}] * 100_000,
        [{"role": "user", "content": [{"type": "text", "text": "x"}] * 30} for _ in range(3000)],
        [{"role": "king", "content": "x"}] * 4000,
    ],
    ids=["nulls", "empty", "parts", "many faults"],
)
async def test_a_flood_of_objects_is_refused_with_a_short_answer(served, messages):
    answer = await served.chat(messages=messages)
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert len(answer.body) < 10_000


async def test_a_flood_of_unknown_fields_is_warned_of_in_short(served):
    answer = await served.chat(**{f"field{i}": i for i in range(10_000)})
    assert answer.status == 200
    assert answer.json()["warnings"][-1] == "9968 more unknown fields, ignored"


async def test_an_unknown_path_is_404(served):  # 1
    answer = await served.get("/v1/nothing")
    assert (answer.status, answer.error["code"]) == (404, "not_found")


async def test_a_wrong_method_is_405_and_says_which_are_right(served):  # 2
    answer = await served.get(CHAT_PATH)
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"
    answer = await served.post("/v1/models", {})
    assert answer.status == 405
    assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
async def test_other_media_types_are_415(served, kind):  # 5
    answer = await served.post(CHAT_PATH, b"{}", headers={"Content-Type": kind})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "br", "x-odd"])
async def test_encoded_bodies_are_415(served, encoding):  # 7
    answer = await served.post(CHAT_PATH, b"{}", headers={"Content-Encoding": encoding})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


async def test_control_characters_are_text(served):  # 13
    message = {"role": "user", "content": "a\0b\x1b[31m\r\nFAKE"}
    assert (await served.chat(messages=[message])).status == 200


@pytest.mark.parametrize("given", ["x" * 10_000, "a b", "é", "a\tb"])
async def test_an_odd_request_id_is_replaced(serve, given):  # 16
    async with serve() as served:
        headers = {"x-request-id": given}
        if len(given) > 8000:
            answer = await served.get("/version", headers=headers)
            assert answer.status == 400
        else:
            answer = await served.get("/version", headers=headers)
        assert answer.headers["x-request-id"].startswith("req-")


async def test_a_harmless_request_id_is_echoed(served):
    for path in ("/version", "/nothing"):
        answer = await served.get(path, headers={"x-request-id": "my-id.1"})
        assert answer.headers["x-request-id"] == "my-id.1"


async def test_a_body_over_the_limit_is_413(serve):  # 6
    from helium_jax.server import Limits

    async with serve(limits=Limits(body_bytes=1000)) as served:
        large = b'{"model": "' + b"x" * 2000 + b'"}'
        answer = await served.post(CHAT_PATH, large)
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")

        async def parts():
            for _ in range(20):
                yield b"x" * 100

        answer = await served.ask(
            "POST", CHAT_PATH, data=parts(), headers={"Content-Type": "application/json"}
        )
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert (await served.chat()).status == 200


async def test_a_body_of_many_megabytes_is_read(serve):
    async with serve() as served:
        answer = await served.complete(user="x" * (5 * 2**20))
        assert answer.status == 200


async def test_unknown_models_are_listed_under_their_error(served):
    answer = await served.get("/v1/models/other/model")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")

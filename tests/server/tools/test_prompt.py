"""write_tools: as the template writes tools, or in words when it does not know them."""

import pytest

from helium_jax.builtin import tiny_folder
from helium_jax.server.tools import HERMES, LLAMA, ToolSpec, recognise_syntax, write_tools
from helium_jax.text import ChatTemplate, load_text

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
KNOWS = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}<tool_call>"
    '{"name": , "arguments": }{% endif %}'
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.arguments.city }}>{% endfor %}{% endfor %}"
)
LLAMA_KNOWS = (
    "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}"
    """{% if 'tool_calls' in m %}{{ '{"name": "' + m.tool_calls[0].function.name + '", ' }}"""
    """{{ '"parameters": ' }}{{ m.tool_calls[0].function.arguments | tojson }}{{ '}' }}"""
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
OTHER = "{% for t in tools %}[AVAILABLE_TOOLS]{{ t }}{% endfor %}"
WEATHER = ToolSpec(
    name="get_weather",
    description="How it is outside.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
)
CONVERSATION = [
    {"role": "user", "content": "Rome and Oslo?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "1", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}},
            {"id": "2", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}},
        ],
    },
    {"role": "tool", "content": "warm", "tool_call_id": "1"},
    {"role": "tool", "content": "cold", "tool_call_id": "2"},
]


def template(source):
    return ChatTemplate(source, {})


@pytest.mark.parametrize(
    ("source", "syntax"),
    [(PLAIN, None), (KNOWS, HERMES), (LLAMA_KNOWS, LLAMA), (OTHER, None)],
    ids=["plain", "hermes", "llama", "other"],
)
def test_a_template_tells_its_syntax(source, syntax):
    assert recognise_syntax(template(source)) == syntax


def test_a_model_without_a_template_has_no_syntax():
    assert recognise_syntax(None) is None


def test_a_template_that_knows_tools_gets_them_as_they_are():
    written = write_tools(CONVERSATION, [WEATHER], template(KNOWS))
    assert (written.messages, written.syntax) == (CONVERSATION, HERMES)
    text = template(KNOWS).render(written.messages, tools=written.tools)
    assert text.startswith('{"type": "function", "function": {"name": "get_weather"')
    assert "[assistant]<Rome><Oslo>[tool]warm[tool]cold" in text


def test_a_call_is_read_as_the_llama_template_writes_it():
    call = CONVERSATION[1] | {"tool_calls": CONVERSATION[1]["tool_calls"][:1]}
    written = write_tools([CONVERSATION[0], call], [WEATHER], template(LLAMA_KNOWS))
    text = template(LLAMA_KNOWS).render(written.messages, tools=written.tools)
    assert text.endswith(written.syntax.write_call("get_weather", '{"city": "Rome"}'))


def test_a_template_that_knows_tools_is_told_of_none_when_there_are_none():
    assert write_tools(CONVERSATION, [], template(KNOWS)).tools is None


@pytest.mark.parametrize("source", [PLAIN, OTHER])
def test_other_templates_get_tools_calls_and_results_in_words(source):
    written = write_tools(CONVERSATION, [WEATHER], template(source))
    assert written.tools is None
    system, *rest = written.messages
    assert '"name": "get_weather", "description": "How it is outside."' in system["content"]
    assert HERMES.marker in system["content"]
    assert rest == [
        {"role": "user", "content": "Rome and Oslo?"},
        {
            "role": "assistant",
            "content": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n'
            '</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n'
            "</tool_call>",
        },
        {
            "role": "user",
            "content": "<tool_response>\nwarm\n</tool_response>\n"
            "<tool_response>\ncold\n</tool_response>",
        },
    ]


def test_the_tools_follow_the_words_of_the_system_message():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    system, user = write_tools(messages, [WEATHER], template(PLAIN)).messages
    assert system["content"].startswith("Be brief.\n\nYou can call functions.")
    assert user == messages[1]
    assert messages[0]["content"] == "Be brief."


def test_a_conversation_without_tools_stays_as_it_is():
    messages = [{"role": "user", "content": "Hi"}]
    assert write_tools(messages, [], template(PLAIN)).messages == messages


def test_arguments_that_were_no_object_are_shown_as_they_are():
    call = {"id": "1", "function": {"name": "f", "arguments": "{oops"}}
    (message,) = write_tools(
        [{"role": "assistant", "content": "Hm.", "tool_calls": [call]}], [], template(PLAIN)
    ).messages
    assert message["content"] == "Hm.\n" + HERMES.write_call("f", '"{oops"')


def test_the_built_in_model_is_told_in_words():
    with tiny_folder() as folder:
        text = load_text(folder)
    written = write_tools(CONVERSATION, [WEATHER], text.template)
    assert text.template is not None
    prompt = text.template.render(written.messages, tools=written.tools)
    assert prompt.count("<|im_start|>system") == prompt.count('get_weather", "desc') == 1

"""Calls in Mistral's syntaxes, whose marks are special tokens: told, held to and read over HTTP."""

import dataclasses
import json
import string

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from helium_jax.errors import RequestError
from helium_jax.server.tools import (
    MISTRAL,
    MISTRAL_BLANK,
    MISTRAL_NAMED,
    ToolChoice,
    ToolMode,
    ToolSpec,
    compile_tools,
    recognise_syntax,
    write_tools,
)
from helium_jax.testing import FAKE_EOS_ID, FakeGenerator
from helium_jax.testing.generator import FAKE_MODEL
from helium_jax.text import ChatTemplate, TextModel, load_text
from helium_jax.text.byte_level import BYTE_OF_CHAR
from tests.server.conftest import StubRuntime, serve_runtime

LIST = (
    "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS]BLANK[{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    '{{ (c.function | tojson)[:-1] }}, "id": "{{ c.id }}"}{{ \', \' if not loop.last }}'
    "{% endfor %}]{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }} {{ m.tool_call_id }}"
    "[/TOOL_RESULTS]{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
NAMED = (
    "{{ tools | tojson }}{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    "{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    MISTRAL: LIST.replace("BLANK", ""),
    MISTRAL_BLANK: LIST.replace("BLANK", " "),
    MISTRAL_NAMED: NAMED,
}
SYNTAXES = pytest.mark.parametrize("syntax", TEMPLATES, ids=["list", "list, blank", "named"])
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "additionalProperties": False}
SPECS = [ToolSpec(name="weather", parameters=WEATHER), ToolSpec(name="now", parameters=NOTHING)]
TOOLS = [
    {"type": "function", "function": {"name": one.name, "parameters": one.parameters}}
    for one in SPECS
]
ROME, NOW = ("weather", '{"city": "Rom: ]}"}'), ("now", "{}")


def bytes_tokenizer():
    tokenizer = Tokenizer(BPE(dict(BYTE_OF_CHAR), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pieces_tokenizer():
    """As SentencePiece's: a blank is "▁", the first one is dropped, and no token is a byte."""
    words = ["<unk>", "▁", "▁[", "▁{", '"name"', *string.printable[:95]]
    words += [f"<unused_{i}>" for i in range(256 - len(words))]
    tokenizer = Tokenizer(BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return tokenizer


@pytest.fixture(params=[bytes_tokenizer, pieces_tokenizer])
def folder(request, tmp_path):
    tokenizer = request.param()
    tokenizer.add_special_tokens(["</s>", "[TOOL_CALLS]", "[ARGS]"])
    assert tokenizer.token_to_id("</s>") == FAKE_EOS_ID
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return tmp_path


@pytest.fixture
def mistral(folder):
    """A model's text with the template of a syntax."""

    def load(syntax) -> TextModel:
        template = ChatTemplate(TEMPLATES[syntax], {})
        return dataclasses.replace(load_text(folder), template=template)

    return load


@SYNTAXES
def test_a_template_tells_its_syntax(syntax):
    assert recognise_syntax(ChatTemplate(TEMPLATES[syntax], {})) == syntax


def test_ids_between_name_and_arguments_are_not_known():
    template = ChatTemplate(NAMED.replace("[ARGS]", "[CALL_ID]{{ c.id }}[ARGS]"), {})
    assert recognise_syntax(template) is None


@SYNTAXES
def test_calls_are_written_as_the_template_writes_them(syntax):
    calls = [
        {"id": f"call_{i}", "function": {"name": name, "arguments": json.loads(arguments)}}
        for i, (name, arguments) in enumerate([ROME, NOW])
    ]
    conversation = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_0", "content": "warm"},
    ]
    template = ChatTemplate(TEMPLATES[syntax], {})
    written = write_tools(conversation, SPECS, template)
    text = template.render(written.messages, tools=written.tools)
    if syntax.id_length is not None:
        ids = [call["id"] for call in written.messages[1]["tool_calls"]]
        assert written.messages[2]["tool_call_id"] == ids[0] != ids[1]
        for short in ids:
            text = text.replace(f', "id": "{short}"', "")
    assert syntax.write_calls([ROME, NOW]) in text


@SYNTAXES
async def test_an_answer_is_held_to_the_choice_by_its_tokens(mistral, syntax):
    text = mistral(syntax)

    async def judge(choice, answer):
        state = (await compile_tools(text, SPECS, choice, syntax)).start()
        try:
            for token in text.encode(answer, add_special_tokens=False):
                state.accept(token)
        except RequestError:
            return "no"
        return "yes" if state.is_accepting else "begun"

    auto = ToolChoice(mode=ToolMode.AUTO, max_calls=2)
    required = ToolChoice(mode=ToolMode.REQUIRED, max_calls=1)
    both, one = syntax.write_calls([ROME, NOW]), syntax.write_calls([ROME])
    wrong = syntax.write_calls([("now", '{"city": "Rome"}')])
    verdicts = {
        answer: (await judge(auto, answer), await judge(required, answer))
        for answer in ("", "text", one, both, "Well: " + one, one[:-1], one + "!", wrong)
    }
    assert verdicts == {
        "": ("yes", "begun"),
        "text": ("yes", "no"),
        one: ("yes", "yes"),
        both: ("yes", "no"),
        "Well: " + one: ("yes", "no"),
        one[:-1]: ("begun", "begun"),
        one + "!": ("no", "no"),
        wrong: ("no", "no"),
    }


@SYNTAXES
async def test_no_text_may_spell_a_call(mistral, syntax):
    text = mistral(syntax)
    grammar = await compile_tools(text, SPECS, ToolChoice(mode=ToolMode.AUTO), syntax)
    state = grammar.start()
    for char in "[TOOL_CALLS":
        state.accept(text.tokenizer.id_of(char))
    with pytest.raises(RequestError):
        state.accept(text.tokenizer.id_of("]"))


@SYNTAXES
@pytest.mark.parametrize("calls", [[], [ROME], [ROME, NOW, ROME]], ids=len)
async def test_calls_come_back_whole_and_streamed(mistral, syntax, calls):
    text = mistral(syntax)
    said = "Well, see." + (syntax.write_calls(calls) if calls else "")
    ids = tuple(text.encode(said, add_special_tokens=False))
    size = text.tokenizer.vocab_size
    generator = FakeGenerator(
        reply=lambda request: ids, info=dataclasses.replace(FAKE_MODEL, vocab_size=size)
    )
    async with serve_runtime(StubRuntime(generator=generator, text=text)) as served:
        fields = {"tools": TOOLS, "max_tokens": 400}
        (choice,) = (await served.chat(**fields)).json()["choices"]
        *chunks, done = (await served.chat(stream=True, **fields)).events()
    message = choice["message"]
    read = [call["function"] for call in message.get("tool_calls", ())]
    assert [(one["name"], one["arguments"]) for one in read] == calls
    assert message["content"] == "Well, see."
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    streamed: list[list[str]] = []
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        if "name" in part["function"]:
            streamed.append([part["function"]["name"], ""])
        streamed[part["index"]][1] += part["function"]["arguments"]
    assert [tuple(one) for one in streamed] == calls
    assert done == "[DONE]"

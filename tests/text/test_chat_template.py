"""Chat templates: as transformers renders them, and never longer or slower than allowed."""

import time
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.builtin import tiny_folder
from helium_jax.errors import RequestError
from helium_jax.text import ChatTemplate

transformers = pytest.importorskip("transformers")  # the oracle of most tests here

UNHURRIED = settings(deadline=None, max_examples=40)  # the oracle's first call takes long
FILES = Path(__file__).parent
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
CONVERSATIONS = st.builds(
    lambda system, turns, last: [
        *([{"role": "system", "content": system}] if system else []),
        *(
            {"role": role, "content": content}
            for pair in turns
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ),
        {"role": "user", "content": last},
    ],
    TEXTS,
    st.lists(st.tuples(TEXTS, TEXTS), max_size=2),
    TEXTS,
)
SPECIALS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"}


@pytest.fixture(scope="module")
def oracle():
    with tiny_folder() as folder:
        yield transformers.AutoTokenizer.from_pretrained(folder)


def template(name: str) -> str:
    return (FILES / f"{name}.jinja").read_text()


@UNHURRIED
@given(CONVERSATIONS, st.booleans())
def test_tiny_encodes_conversations_as_transformers_does(tiny, oracle, messages, prompt):
    expected = oracle.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]
    assert tiny.encode_chat(messages, add_generation_prompt=prompt) == expected


@UNHURRIED
@given(TEXTS)
def test_tiny_encodes_and_decodes_texts_as_transformers_does(tiny, oracle, text):
    ids = tiny.encode(text)
    assert ids == oracle.encode(text)
    for skip in (True, False):
        expected = oracle.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert tiny.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("chatml", {}),
        ("chatml", {"enable_thinking": False}),
        ("chatml", {"tools": [{"type": "function", "function": {"name": "f<é>", "n": [1, 2.5]}}]}),
        ("headers", {}),
        ("headers", {"date_string": "1 Jan 2030"}),
    ],
)
@UNHURRIED
@given(messages=CONVERSATIONS, prompt=st.booleans())
def test_renders_as_transformers_does(oracle, name, variables, messages, prompt):
    oracle.bos_token = SPECIALS["bos_token"]
    expected = oracle.apply_chat_template(
        messages,
        chat_template=template(name),
        add_generation_prompt=prompt,
        tokenize=False,
        **variables,
    )
    ours = ChatTemplate(template(name), SPECIALS)
    assert ours.render(messages, add_generation_prompt=prompt, **variables) == expected


def test_text_parts_become_one_text(tiny):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert tiny.encode_chat([{"role": "user", "content": parts}]) == tiny.encode_chat(
        [{"role": "user", "content": "one\ntwo"}]
    )


def test_refuses_a_part_that_is_no_text(tiny):
    parts = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(RequestError, match=r"messages\[1\]\.content\[0\] .* text only") as caught:
        tiny.encode_chat([{"role": "user", "content": "a"}, {"role": "user", "content": parts}])
    assert caught.value.param == "messages[1].content[0]"


def test_a_template_may_refuse_messages():
    with pytest.raises(RequestError, match="roles must alternate"):
        ChatTemplate(template("headers"), SPECIALS).render([{"role": "assistant", "content": "a"}])


def test_the_clock_is_an_argument():
    ours = ChatTemplate("{{ strftime_now('%d %b %Y') }}", {}, now=lambda: datetime(2030, 1, 2))
    assert ours.render([]) == "02 Jan 2030"


def test_names_the_line_of_a_syntax_error():
    with pytest.raises(RequestError, match="not valid Jinja: line 2"):
        ChatTemplate("a\n{% if %}", {})


LOOP = "{% for a in range(99000) %}{% for b in range(99000) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(s='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set ns.s = ns.s OPERATOR ns.s %}{% endfor %}"
)


@pytest.mark.parametrize(
    "source",
    [
        LOOP,
        "{% set r = range(99000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(60) }}",
        "{{ 'a' * 10**9 }}",
        "{{ ['a'] * 10**9 }}",
        "{{ 10**(10**10) }}",
        "{{ 2**60 * 2**60 * 2 ** 9999999 }}",
        DOUBLING.replace("OPERATOR", "~"),
        DOUBLING.replace("OPERATOR", "+"),
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'|center(10**9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ ('a' * 100000).replace('a', 'a' * 100000) }}",
        "{{ ('a' * 100000)|replace('a', 'a' * 100000) }}",
        "{{ (['a' * 100000] * 100000)|join }}",
        "{{ ''.join(['a' * 100000] * 100000) }}",
        "{{ ('\\n' * 9000000)|indent(9000, true, true) }}",
        "{% for i in range(99000) %}{{ 'a' * 9000 }}{% endfor %}",
        "{{ ''.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_stops_a_template_that_asks_for_too_much(source):
    start = time.monotonic()
    with pytest.raises(RequestError, match="refuses the messages"):
        ChatTemplate(source, {}, max_seconds=1.0).render([{"role": "user", "content": "a"}])
    assert time.monotonic() - start < 60, "it was stopped, but not by the clock"


def test_the_limit_counts_what_comes_out():
    ours = ChatTemplate("{{ messages[0].content }}", {}, max_chars=10)
    assert ours.render([{"role": "user", "content": "0123456789"}]) == "0123456789"
    with pytest.raises(RequestError, match="more than 10 characters"):
        ours.render([{"role": "user", "content": "0123456789a"}])

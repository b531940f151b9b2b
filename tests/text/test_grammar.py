"""Grammars: what they allow, against brute force; and that no source of one can do harm."""

import asyncio
import json
import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from helium_jax.errors import CapacityError, RequestError
from helium_jax.text import GrammarSpec
from helium_jax.text.grammar import MAX_WAITING, GrammarCache, Vocabulary, compile_grammar
from helium_jax.types import GrammarState

WORDS = ["ab", "abc", "bc", "true", "false", "null", '{"', '":', '",', "é", "10"]
TOKENS = [b"", *(bytes([byte]) for byte in range(0x20, 0x7F)), b"\n", *(w.encode() for w in WORDS)]
TOKENS += [bytes([byte]) for byte in "é😀".encode()]
SPECIAL = 0


def encode(text):
    return [TOKENS.index(bytes([byte])) for byte in text.encode()]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(TOKENS, [SPECIAL], encode)


def allowed_by(state: GrammarState) -> set[int]:
    mask = bytearray(64)
    mask[-1] = 255  # must be written over
    state.fill_mask(memoryview(mask))
    return {i for i in range(len(mask) * 8) if mask[i // 8] >> i % 8 & 1}


@settings(max_examples=60, deadline=None)
@given(
    choices=st.lists(
        st.text('abc{}"\\é \n', min_size=1, max_size=6), min_size=1, max_size=6, unique=True
    ),
    data=st.data(),
)
def test_a_choice_allows_exactly_what_begins_one_of_its_texts(vocabulary, choices, data):
    state = compile_grammar(GrammarSpec.of_choice(choices), vocabulary).start()
    texts = [choice.encode() for choice in choices]
    said = b""
    while not state.is_finished:
        expected = {
            i
            for i, token in enumerate(TOKENS)
            if token and any(text.startswith(said + token) for text in texts)
        }
        allowed = allowed_by(state)
        # Where there is no choice about the text, there is none about its tokens.
        going_on = {text[len(said) :][:1] for text in texts if text.startswith(said)}
        if len(going_on) > 1:
            assert allowed == expected
        else:
            assert allowed <= expected
            assert allowed
        assert state.is_accepting == (said in texts)
        token_id = data.draw(st.sampled_from(sorted(allowed)))
        state.accept(token_id)
        said += TOKENS[token_id]
    assert said in texts


@pytest.mark.parametrize(
    "spec",
    [
        GrammarSpec.of_json_object(),
        GrammarSpec.of_regex("(ab|bc)*c{2}[0-9]+"),
        GrammarSpec.of_lark('start: "{" start "}" | "a" | start "b"'),
        GrammarSpec.of_json_schema({"type": "array", "items": {"type": "number"}, "minItems": 1}),
    ],
    ids=lambda spec: spec.kind,
)
def test_a_mask_allows_exactly_the_tokens_that_are_accepted(vocabulary, spec):
    grammar = compile_grammar(spec, vocabulary)

    def follow(token_ids):
        state = grammar.start()
        for token_id in token_ids:
            state.accept(token_id)
        return state

    said: list[int] = []
    for place in range(8):
        state = follow(said)
        if state.is_finished:
            break
        allowed = allowed_by(state)
        for token_id in range(len(TOKENS)):
            if token_id in allowed:
                follow([*said, token_id])
            else:
                with pytest.raises(RequestError):
                    follow([*said, token_id])
        said.append(sorted(allowed)[place * 7 % len(allowed)])


def test_the_mask_is_written_to_its_end_and_cut_where_the_model_has_fewer_tokens(vocabulary):
    state = compile_grammar(GrammarSpec.of_regex("[a-z]"), vocabulary).start()
    letters = {i for i, token in enumerate(TOKENS) if len(token) == 1 and token.islower()}
    assert allowed_by(state) == letters
    short = bytearray(4)
    state.fill_mask(memoryview(short))
    assert not any(short)  # the first 32 tokens are signs and digits


def test_states_of_one_grammar_do_not_know_each_other(vocabulary):
    grammar = compile_grammar(GrammarSpec.of_choice(["ab", "c"]), vocabulary)
    one, other = grammar.start(), grammar.start()
    one.accept(TOKENS.index(b"ab"))
    assert one.is_finished
    assert not other.is_finished
    assert TOKENS.index(b"c") in allowed_by(other)


def test_a_key_tells_grammars_and_vocabularies_apart(vocabulary):
    specs = [
        GrammarSpec.of_regex("a"),
        GrammarSpec.of_choice(["a"]),
        GrammarSpec.of_lark('start: "a"'),
        GrammarSpec.of_json_schema({"const": "a"}),
    ]
    keys = {compile_grammar(spec, vocabulary).key for spec in specs}
    assert len(keys) == len(specs)
    assert compile_grammar(specs[0], vocabulary).key in keys
    other = Vocabulary([*TOKENS, b"zz"], [SPECIAL], encode)
    assert compile_grammar(specs[0], other).key not in keys


def test_blanks_between_the_parts_of_json_are_bounded(vocabulary):
    state = compile_grammar(GrammarSpec.of_json_object(), vocabulary).start()
    blank = TOKENS.index(b" ")
    state.accept(TOKENS.index(b"{"))
    state.accept(blank)
    assert blank not in allowed_by(state)


def test_properties_keep_their_order_and_specs_know_it():
    one = GrammarSpec.of_json_schema({"properties": {"a": {}, "b": {}}})
    other = GrammarSpec.of_json_schema({"properties": {"b": {}, "a": {}}})
    assert one != other


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GrammarSpec.of_regex(""), "the regex is empty"),
        (lambda: GrammarSpec.of_lark(""), "the lark is empty"),
        (lambda: GrammarSpec.of_regex("\ud800"), r"lone surrogate U\+D800"),
        (lambda: GrammarSpec.of_json_schema({"enum": ["\udfff"]}), r"lone surrogate U\+DFFF"),
        (lambda: GrammarSpec.of_lark("a" * 200_000), "200000 bytes; at most"),
        (lambda: GrammarSpec.of_choice([]), "0 choices"),
        (lambda: GrammarSpec.of_choice(["a"] * 2_000), "2000 choices"),
        (lambda: GrammarSpec.of_choice(["a", "b", "a"]), "'a' is given twice"),
        (lambda: GrammarSpec.of_choice(["a", ""]), "choice 1 is ''"),
        (lambda: GrammarSpec.of_json_schema({"const": float("nan")}), "no JSON"),
        (lambda: GrammarSpec.of_json_schema({"const": b"x"}), "no JSON"),
        (lambda: GrammarSpec.of_json_schema(_nested(100)), "deeper than 64"),
    ],
)
def test_a_spec_is_refused_with_its_fault(make, message):
    with pytest.raises(RequestError, match=message) as caught:
        make()
    assert caught.value.code == "invalid_grammar"


def _nested(depth):
    schema = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def _chain(length):
    definitions = {
        f"d{i}": {
            "type": "object",
            "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}},
            "required": ["a"],
        }
        for i in range(length)
    }
    return {"$defs": definitions | {f"d{length}": {}}, "$ref": "#/$defs/d0"}


def _patterns(count, key="allOf"):
    return {key: [{"type": "string", "pattern": f".*{i}.*"} for i in range(count)]}


SCHEMA, REGEX, LARK = GrammarSpec.of_json_schema, GrammarSpec.of_regex, GrammarSpec.of_lark


@pytest.mark.parametrize(
    "make",
    [
        lambda: SCHEMA(False),
        lambda: SCHEMA({"enum": []}),
        lambda: SCHEMA({"type": "integer", "minimum": 3, "maximum": 2}),
        lambda: SCHEMA({"$ref": "#"}),
        lambda: SCHEMA({"$ref": "http://127.0.0.1:9/x.json"}),
        lambda: SCHEMA({"$ref": "#/$defs/gone"}),
        lambda: SCHEMA({"type": "object", "not": {}, "x-guidance": {"lenient": True}}),
        lambda: SCHEMA(_patterns(30)),
        lambda: SCHEMA({"type": "string", "pattern": "a", "allOf": [_patterns(5), _patterns(5)]}),
        lambda: SCHEMA({"const": "a" * 10_000}),
        lambda: SCHEMA(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(10)]}
                    for i in range(12)
                ]
            }
        ),
        lambda: REGEX("(a"),
        lambda: REGEX("(a)\\1"),
        lambda: REGEX("a(?=b)"),
        lambda: REGEX("[^\\s\\S]"),
        lambda: REGEX("x{0}"),
        lambda: REGEX("(" * 5_000 + "a" + ")" * 5_000),
        lambda: REGEX("a" * 20_000),
        lambda: LARK("start: start"),
        lambda: LARK("start: A\nA: A"),
        lambda: LARK("start: " + "(" * 9_000 + '"a"' + ")" * 9_000),
        lambda: LARK("start: A\nA: " + " & ".join(f"/.*{i}.*/" for i in range(200))),
        lambda: LARK("\x00{{{"),
        lambda: LARK("start: @other"),
        lambda: LARK("start: " + '"a"' * 20_000),
        lambda: LARK("r: r0\n" + "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(40))),
    ],
)
async def test_a_hostile_or_impossible_grammar_is_a_request_error(vocabulary, make):
    with pytest.raises(RequestError) as caught:
        await GrammarCache(lambda: vocabulary).compile(make(), param="the.path")
    assert caught.value.code == "invalid_grammar"
    assert caught.value.param == "the.path"
    assert len(caught.value.message) < 600


@pytest.mark.parametrize(
    "make",
    [
        lambda: SCHEMA(_chain(1_500)),  # ends the process on a usual stack
        lambda: SCHEMA({"enum": [f"value {i}" for i in range(1_000)]}),
        lambda: SCHEMA({"properties": {f"p{i}": {"type": "string"} for i in range(300)}}),
        lambda: SCHEMA(_patterns(30, "anyOf")),
        lambda: SCHEMA({"type": "string", "minLength": 100_000}),
        lambda: SCHEMA({"type": "array", "items": {"$ref": "#"}}),
        lambda: REGEX("(x+x+)+y"),
        lambda: REGEX("(a|b)*a(a|b){40}"),
        lambda: REGEX("(.*a.{20}){20}"),
        lambda: LARK('start: start "a" | "b"'),
        lambda: LARK('start: s\ns: s s | "a" | '),
        lambda: LARK(
            "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(2_500)) + '\nr2500: "a"'
        ),
    ],
)
async def test_a_large_grammar_can_be_followed_in_bounded_time(vocabulary, make):
    grammar = await GrammarCache(lambda: vocabulary).compile(make())
    state = grammar.start()
    for step in range(20):
        if state.is_finished:
            break
        allowed = sorted(allowed_by(state))
        state.accept(allowed[step * 31 % len(allowed)])


def test_a_grammar_that_grows_too_complex_while_it_is_followed_says_so(vocabulary):
    grammar = compile_grammar(REGEX("((a{1,100}){1,100}){1,100}"), vocabulary)
    state = grammar.start()

    def follow():
        for _ in range(1_000):
            state.accept(TOKENS.index(b"a"))
            allowed_by(state)

    with pytest.raises(RequestError, match="the grammar cannot go on") as caught:
        follow()
    assert caught.value.code == "grammar_failed"


class TestGrammarCache:
    async def test_one_grammar_is_compiled_once_however_many_ask(self, vocabulary):
        made = []

        def make():
            made.append(threading.current_thread())
            return vocabulary

        cache = GrammarCache(make)
        spec = GrammarSpec.of_regex("[a-z]+")
        grammars = await asyncio.gather(*(cache.compile(spec) for _ in range(8)))
        assert all(grammar is grammars[0] for grammar in grammars)
        assert len(made) == 1
        assert made[0] is not threading.main_thread()

    async def test_what_is_prepared_is_not_made_for_the_first_grammar(self, vocabulary):
        made = []

        def make():
            made.append(threading.current_thread())
            return vocabulary

        cache = GrammarCache(make)
        cache.prepare()
        await cache.compile(GrammarSpec.of_regex("a"))
        assert made == [threading.current_thread()]

    async def test_the_event_loop_goes_on_meanwhile(self, vocabulary):
        goes = threading.Event()

        def slow():
            assert goes.wait(60)
            return vocabulary

        compiling = asyncio.create_task(GrammarCache(slow).compile(GrammarSpec.of_regex("a")))
        await asyncio.sleep(0.01)
        assert not compiling.done()
        goes.set()
        await compiling

    async def test_it_forgets_what_was_not_used_for_longest(self, vocabulary):
        cache = GrammarCache(lambda: vocabulary, max_cached=2)
        specs = [GrammarSpec.of_choice([choice]) for choice in "abc"]
        first = [await cache.compile(spec) for spec in specs[:2]]
        assert await cache.compile(specs[0]) is first[0]
        await cache.compile(specs[2])
        assert await cache.compile(specs[0]) is first[0]
        assert await cache.compile(specs[1]) is not first[1]

    async def test_too_many_that_wait_are_a_capacity_error(self, vocabulary):
        gate = threading.Event()

        def wait():
            gate.wait(10)
            return vocabulary

        cache = GrammarCache(wait)
        specs = [GrammarSpec.of_choice([f"{i}"]) for i in range(MAX_WAITING)]
        waiting = [asyncio.create_task(cache.compile(spec)) for spec in specs]
        await asyncio.sleep(0)
        with pytest.raises(CapacityError, match="wait to be compiled"):
            await cache.compile(GrammarSpec.of_regex("a"))
        gate.set()
        await asyncio.gather(*waiting)
        await cache.compile(GrammarSpec.of_regex("a"))

    async def test_who_goes_away_does_not_take_the_grammar_from_others(self, vocabulary):
        gate = threading.Event()

        def wait():
            gate.wait(10)
            return vocabulary

        cache = GrammarCache(wait)
        spec = GrammarSpec.of_regex("a")
        one, other = (asyncio.create_task(cache.compile(spec)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert (await other).start() is not None

    async def test_a_failure_has_the_path_of_whoever_asks(self, vocabulary):
        cache = GrammarCache(lambda: vocabulary)
        for path in ("a", "b.c"):
            with pytest.raises(RequestError) as caught:
                await cache.compile(GrammarSpec.of_regex("(a"), param=path)
            assert caught.value.param == path


async def test_a_models_own_tokenizer_speaks_json(tiny):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    grammar = await tiny.compile_grammar(GrammarSpec.of_json_schema(schema))
    state = grammar.start()
    for token_id in tiny.encode(json.dumps({"a": 17}), add_special_tokens=False):
        assert not state.is_finished
        state.accept(token_id)
    assert state.is_finished


@pytest.mark.parametrize("text", ["the cats.", " the cats", "cats", "é s"])
async def test_a_tokenizer_that_adds_spaces_still_spells_what_the_grammar_says(
    sentencepiece_like, text
):
    tokenizer = sentencepiece_like.tokenizer
    state = (await sentencepiece_like.compile_grammar(GrammarSpec.of_choice([text]))).start()
    said: list[int] = []
    while not state.is_finished:
        mask = bytearray(64)
        state.fill_mask(memoryview(mask))
        said.append(max(i for i in range(512) if mask[i // 8] >> i % 8 & 1))
        state.accept(said[-1])
    assert b"".join(map(tokenizer.token_bytes, said)).decode() == text

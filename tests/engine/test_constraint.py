"""Sequences held to grammars: the engine end to end, against an oracle that knows every logit."""

import dataclasses
import json
import random
import re

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import given, settings

from helium_jax.engine import Engine
from helium_jax.errors import InternalError, RequestError
from helium_jax.text import GrammarSpec
from helium_jax.types import FinishReason, GenerateRequest, SamplingParams
from tests.engine.conftest import EOS, MODEL, oracle_greedy
from tests.engine.grammars import Stubborn, encode, grammar_of, oracle_constrained, text_of

PERSON = GrammarSpec.of_json_schema(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 4},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
            "ok": {"type": "boolean"},
        },
        "required": ["name", "age", "ok"],
        "additionalProperties": False,
    }
)
SPECS = [
    PERSON,
    GrammarSpec.of_regex("[ab]{2,5}-[0-9]{1,3}"),
    GrammarSpec.of_choice(["yes", "no", "no idea", "12", "é"]),
    GrammarSpec.of_lark('start: "(" | list\nlist: "[" (list ("," list)*)? "]" | /[0-9]/'),
    GrammarSpec.of_regex("[a-z]*"),
]


def make_request(name, prompt, grammar=None, **sampling):
    return GenerateRequest(
        request_id=str(name),
        token_ids=tuple(prompt),
        sampling=SamplingParams(**sampling),
        grammar=grammar,
    )


def make_prompts(seed, num):
    rng = random.Random(seed)
    shared = tuple(rng.randrange(1, MODEL.vocab_size) for _ in range(20))
    return [
        rng.choice([(), shared]) + tuple(rng.randrange(1, MODEL.vocab_size) for _ in range(5))
        for _ in range(num)
    ]


def finish(engine, request):
    """A request's tokens and why they ended."""
    engine.submit(request)
    return read(engine, request)


def read(engine, request):
    events = list(engine.stream(request.request_id))
    return tuple(i for event in events for i in event.token_ids), events[-1].finish_reason


@pytest.fixture(scope="module")
def engine(make_loop_module):
    with Engine(make_loop_module(steps_in_flight=2)) as opened:
        yield opened


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_in_flight": 2},
        {"num_pages": 7, "steps_in_flight": 2},  # constant preemption
        {"deterministic": True},
    ],
    ids=str,
)
def test_tokens_equal_the_oracle_whatever_runs_beside_them(make_loop, options):
    prompts = make_prompts(5, 12)
    grammars = [grammar_of(SPECS[i % len(SPECS)]) if i % 3 else None for i in range(12)]
    requests = [
        make_request(i, prompt, grammar, max_tokens=14)
        for i, (prompt, grammar) in enumerate(zip(prompts, grammars, strict=True))
    ]
    expected = [
        oracle_constrained(prompt, SPECS[i % len(SPECS)], 14)
        if i % 3
        else oracle_greedy(prompt, 14)
        for i, prompt in enumerate(prompts)
    ]
    with Engine(make_loop(**options)) as engine:
        assert engine.generate(requests) == expected
        statistics = engine.statistics()
        sampled = [
            dataclasses.replace(
                request,
                request_id=f"s{request.request_id}",
                sampling=SamplingParams(max_tokens=14, temperature=1.0, seed=i),
            )
            for i, request in enumerate(requests)
        ]
        together = engine.generate(sampled)
        for i in (1, 2, 3, 7):
            alone = dataclasses.replace(sampled[i], request_id="alone")
            assert engine.generate([alone]) == [together[i]]
    assert statistics.cache.num_used == 0
    if "num_pages" in options:
        assert statistics.num_preemptions > 0


def schemas():
    """Schemas whose texts are short, so that most answers come to their end."""
    names = st.sampled_from(["a", "bc", "d"])
    leaves = st.one_of(
        st.sampled_from(
            [{"type": "boolean"}, {"type": "null"}, {"const": "ab"}, {"enum": [1, "x", None]}]
        ),
        st.integers(0, 3).map(lambda n: {"type": "string", "maxLength": n}),
        st.integers(-20, 20).map(lambda n: {"type": "integer", "minimum": n, "maximum": n + 13}),
    )

    def objects(inner):
        return st.dictionaries(names, inner, max_size=3).flatmap(
            lambda properties: st.lists(st.sampled_from([*properties] or ["a"]), unique=True).map(
                lambda required: {
                    "type": "object",
                    "properties": properties,
                    "required": [name for name in required if name in properties],
                    "additionalProperties": False,
                }
            )
        )

    def extend(inner):
        arrays = st.builds(
            lambda items, low: {"type": "array", "items": items, "minItems": low, "maxItems": 2},
            inner,
            st.integers(0, 2),
        )
        return st.one_of(
            objects(inner), arrays, st.lists(inner, min_size=1, max_size=3).map(_any_of)
        )

    return st.recursive(leaves, extend, max_leaves=4)


def _any_of(parts):
    return {"anyOf": parts}


def test_every_finished_answer_is_valid_json_of_its_schema(engine):
    num_finished = 0

    @settings(max_examples=25, deadline=None)
    @given(schema=schemas(), seed=st.integers(0, 2**32))
    def check(schema, seed):
        nonlocal num_finished
        grammar = grammar_of(GrammarSpec.of_json_schema(schema))
        requests = [
            make_request("greedy", (1, 2), grammar, max_tokens=100),
            make_request("drawn", (3,), grammar, max_tokens=100, temperature=1.0, seed=seed),
        ]
        for request in requests:
            engine.submit(request)
        for request in requests:
            token_ids, reason = read(engine, request)
            if reason is FinishReason.STOP:
                num_finished += 1
                value = json.loads(text_of(token_ids))
                jsonschema.validate(value, schema)

    # Hypothesis calls it again and again; what it found is kept here.
    check()
    assert num_finished >= 25


@pytest.mark.parametrize("pattern", ["[ab]{2,5}-[0-9]{1,3}", "(yes|no)+", "a?b?c?[x-z]", "-?[0-9]"])
def test_answers_match_the_whole_expression(engine, pattern):
    grammar = grammar_of(GrammarSpec.of_regex(pattern))
    requests = [
        make_request(i, (i + 1,), grammar, max_tokens=40, temperature=float(i > 0), seed=i)
        for i in range(4)
    ]
    for request in requests:
        token_ids, reason = finish(engine, request)
        assert reason is FinishReason.STOP
        assert re.fullmatch(pattern, text_of(token_ids))


def test_an_answer_ends_without_a_token_of_its_own_when_nothing_may_follow(engine):
    grammar = grammar_of(GrammarSpec.of_choice(["yes"]))
    token_ids, reason = finish(engine, make_request("a", (1, 2), grammar, max_tokens=20))
    assert (text_of(token_ids), reason) == ("yes", FinishReason.STOP)
    assert EOS not in token_ids
    # The last token that max_tokens leaves room for completes it.
    exact = make_request("b", (1, 2), grammar, max_tokens=len(token_ids))
    assert finish(engine, exact) == (token_ids, FinishReason.STOP)
    if len(token_ids) > 1:
        short = make_request("c", (1, 2), grammar, max_tokens=len(token_ids) - 1)
        assert finish(engine, short) == (token_ids[:-1], FinishReason.LENGTH)


def test_end_of_sequence_is_possible_exactly_where_the_grammar_accepts(engine):
    eager = ((EOS, 100.0),)  # would end at once
    grammar = grammar_of(GrammarSpec.of_regex("[a-z]{3}[a-z]*"))
    token_ids, reason = finish(engine, make_request("a", (1,), grammar, logit_bias=eager))
    assert reason is FinishReason.STOP
    assert token_ids[-1] == EOS
    text = text_of(token_ids)
    assert len(text) >= 3
    # The first place where it could end is where it does: one token less is too little.
    assert len(text_of(token_ids[:-2])) < 3


def test_without_end_of_sequence_an_answer_goes_on_until_nothing_may_follow(engine):
    grammar = grammar_of(GrammarSpec.of_regex("[a-z]{0,6}"))
    request = make_request("a", (1,), grammar, ignore_eos=True, logit_bias=((EOS, 100.0),))
    token_ids, reason = finish(engine, request)
    assert reason is FinishReason.STOP
    assert EOS not in token_ids
    assert len(text_of(token_ids)) == 6


def test_min_tokens_gives_way_to_the_grammar_and_never_breaks_it(engine):
    done = grammar_of(GrammarSpec.of_choice(["no"]))
    token_ids, reason = finish(engine, make_request("a", (1,), done, min_tokens=9, max_tokens=20))
    assert (text_of(token_ids), reason) == ("no", FinishReason.STOP)
    long = grammar_of(GrammarSpec.of_regex("[a-z]*"))
    token_ids, _ = finish(
        engine,
        make_request("b", (1,), long, min_tokens=5, max_tokens=20, logit_bias=((EOS, 100.0),)),
    )
    assert len(token_ids) == 6  # five and the end
    assert text_of(token_ids).isalpha()


def test_stop_ids_end_an_answer_and_one_that_blocks_it_is_an_error_not_a_hang(engine):
    (dash,) = encode("-")
    grammar = grammar_of(GrammarSpec.of_regex("-[0-9]"))
    stopped = make_request("a", (1,), grammar, stop_token_ids=(dash,))
    assert finish(engine, stopped) == ((dash,), FinishReason.STOP)
    blocked = make_request("b", (1,), grammar, stop_token_ids=(dash,), min_tokens=2)
    with pytest.raises(RequestError, match="no token that the model has and that min_tokens"):
        finish(engine, blocked)


def test_no_bias_makes_a_forbidden_token_possible_or_the_allowed_ones_impossible(engine):
    allowed, forbidden = encode("ax")
    bias = ((allowed, -100.0), (forbidden, 100.0))
    grammar = grammar_of(GrammarSpec.of_regex("a{4}"))
    for temperature in (0.0, 1.0):
        request = make_request("a", (1,), grammar, logit_bias=bias, temperature=temperature)
        token_ids, reason = finish(engine, request)
        assert (text_of(token_ids), reason) == ("aaaa", FinishReason.STOP)


def test_filters_and_penalties_choose_among_the_allowed_only(engine):
    grammar = grammar_of(GrammarSpec.of_regex("[ab]{12}"))
    for sampling in (
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 5.0, "top_p": 0.5, "min_p": 0.1},
        {"frequency_penalty": 2.0, "repetition_penalty": 2.0},
    ):
        token_ids, reason = finish(engine, make_request("a", (1, 2), grammar, seed=3, **sampling))
        assert reason is FinishReason.STOP
        assert re.fullmatch("[ab]{12}", text_of(token_ids))


def test_logprobs_are_those_of_the_unmodified_logits(engine):
    grammar = grammar_of(GrammarSpec.of_choice(["yes", "no"]))
    prompt = (1, 2, 3)
    free = make_request("free", prompt, max_tokens=1, logprobs=5)
    engine.submit(free)
    (expected,) = [entry for event in engine.stream("free") for entry in event.logprobs]
    engine.submit(make_request("held", prompt, grammar, max_tokens=1, logprobs=5))
    (event,) = engine.stream("held")
    assert event.logprobs[0].top == expected.top
    assert event.token_ids[0] not in dict(expected.top)
    assert event.logprobs[0].logprob < expected.top[-1][1]


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ([[5], RequestError("too complex")], RequestError, "too complex"),
        ([[5], ZeroDivisionError("oops")], InternalError, "the grammar failed: oops"),
        ([ZeroDivisionError("at once")], InternalError, "at once"),
        ([[5], []], RequestError, "after 1 tokens the grammar allows no token"),
        ([[MODEL.vocab_size + 3]], RequestError, "after 0 tokens the grammar allows no token"),
    ],
)
def test_a_grammar_that_fails_takes_nobody_with_it(engine, masks, error, message):
    others = [make_request(f"o{i}", (i + 1, 7), max_tokens=8) for i in range(3)]
    for other in others:
        engine.submit(other)
    with pytest.raises(error, match=message):
        finish(engine, make_request("bad", (1,), Stubborn(*masks), max_tokens=9))
    for other in others:
        assert read(engine, other)[0] == oracle_greedy(other.token_ids, 8)


def test_a_grammar_that_is_finished_before_it_begins_gives_the_empty_answer(engine):
    assert finish(engine, make_request("a", (1,), Stubborn())) == ((), FinishReason.STOP)


def test_an_accepting_grammar_without_a_possible_token_ends_the_answer(engine):
    grammar = Stubborn([5], [], is_accepting=True)
    request = make_request("a", (1,), grammar, ignore_eos=True)
    assert finish(engine, request) == ((5,), FinishReason.STOP)


def test_a_cancelled_answer_leaves_nothing_behind(engine):
    grammar = grammar_of(GrammarSpec.of_regex("[a-z]*"))
    engine.submit(make_request("a", (1, 2), grammar, ignore_eos=True))
    stream = engine.stream("a")
    next(stream)
    engine.cancel("a")
    assert list(stream)[-1].finish_reason is FinishReason.CANCELLED
    # The next one's answer shows that the engine is as it was.
    spec = SPECS[1]
    request = make_request("b", (1, 2), grammar_of(spec), max_tokens=14)
    assert finish(engine, request)[0] == oracle_constrained((1, 2), spec, 14)


def test_whoever_waited_when_a_step_failed_still_follows_its_grammar(make_loop, caplog):
    failures = []

    def build():
        loop = make_loop()()
        collect = loop._runner.collect

        def fail_once(ticket):
            if not failures and loop._queues.waiting:
                failures.append(ticket)
                raise RuntimeError("device lost")
            return collect(ticket)

        loop._runner.collect = fail_once
        return loop

    endless = grammar_of(GrammarSpec.of_regex("[a-z]*"))
    with Engine(build) as engine:
        running = [
            make_request(i, (1, 2), endless, ignore_eos=True, max_tokens=100) for i in range(4)
        ]
        waiting = make_request("b", (3, 4), grammar_of(SPECS[1]), max_tokens=14)
        for request in (*running, waiting):
            engine.submit(request)
        for request in running:
            with pytest.raises(InternalError, match="device lost"):
                read(engine, request)
        assert read(engine, waiting)[0] == oracle_constrained((3, 4), SPECS[1], 14)

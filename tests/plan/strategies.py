"""Random small plans that are valid."""

from hypothesis import strategies as st

from helium_jax.plan import (
    CachePolicy,
    CallSettings,
    Chat,
    Completion,
    Const,
    Input,
    Message,
    Output,
    Param,
    Plan,
    RunLimits,
    Slot,
    Template,
)
from helium_jax.plan.template import normalize
from helium_jax.testing import FAKE_MODEL
from helium_jax.text import GrammarSpec
from helium_jax.types import SamplingParams

FORMATS = [
    GrammarSpec.of_choice(["yes", "no"]),
    GrammarSpec.of_json_schema({"type": "array", "items": {"enum": ["b", 1]}, "maxItems": 2}),
]
LITERALS = st.text(alphabet="ab {}\\%é\n", max_size=6)


def texts(names):
    parts = st.one_of(LITERALS, st.sampled_from(names).map(lambda n: Slot(name=n)))
    return st.lists(parts, max_size=4).map(normalize)


@st.composite
def samplings(draw, *, deterministic=False):
    temperature = draw(st.sampled_from([0.0, 0.0, 0.0, 0.7]))
    seeds = st.integers(0, 3) if deterministic and temperature else st.none() | st.integers(0, 3)
    return SamplingParams(
        temperature=temperature,
        seed=draw(seeds),
        max_tokens=draw(st.integers(1, 6)),
        top_k=draw(st.sampled_from([0, 5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.5])),
        logit_bias=draw(st.sampled_from([(), ((7, 1.5), (9, -2.0))])),
    )


@st.composite
def settings(draw, *, deterministic=False):
    return CallSettings(
        sampling=draw(samplings(deterministic=deterministic)),
        model=draw(st.sampled_from([None, FAKE_MODEL.name])),
        stop=draw(st.sampled_from([(), ("e",), ("ab", "q")])),
        response_format=draw(st.sampled_from([None, None, None, *FORMATS])),
        priority=draw(st.integers(-2, 2)),
        cache=CachePolicy(results=draw(st.booleans()), kv=draw(st.booleans())),
    )


@st.composite
def ops(draw, name, names, *, deterministic=False):
    kind = draw(st.sampled_from(["const", "template", "chat", "chat", "completion"]))
    if kind == "const":
        return Const(name=name, value=draw(st.one_of(LITERALS, st.integers(-9, 9), st.booleans())))
    if kind == "template":
        return Template(name=name, text=draw(texts(names)))
    call = draw(settings(deterministic=deterministic))
    if kind == "completion":
        # The engine refuses an empty prompt; a plan cannot know, a row would fail.
        return Completion(name=name, prompt=normalize(["> ", *draw(texts(names))]), settings=call)
    turns = st.builds(
        Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts(names)
    )
    messages = draw(st.lists(turns, min_size=1, max_size=3))
    return Chat(name=name, messages=tuple(messages), settings=call)


@st.composite
def plans(draw, *, deterministic=False):
    inputs = [Input(name="q"), Input(name="n", type="int")]
    params = [Param(name="p", default="P{{q}}")]
    names = ["q", "n", "p"]
    operators = []
    for index in range(draw(st.integers(1, 6))):
        operators.append(draw(ops(f"op{index}", names, deterministic=deterministic)))
        names.append(f"op{index}")
    sources = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    return Plan(
        name=draw(st.sampled_from(["", "a plan"])),
        inputs=tuple(inputs),
        params=tuple(params),
        ops=tuple(operators),
        outputs=tuple(Output(name=f"out{i}", source=s) for i, s in enumerate(sources)),
        limits=RunLimits(max_llm_calls=draw(st.none() | st.just(10_000))),
    )


def rows(min_size=0, max_size=6):
    row = st.fixed_dictionaries(
        {"q": st.text(alphabet="xy{}é", max_size=3), "n": st.integers(-2, 2)}
    )
    return st.lists(row, min_size=min_size, max_size=max_size)

"""The executor over the real engine and the built-in model: what only tokens and pages can show."""

from helium_jax.config import EngineConfig
from helium_jax.executor import NAIVE, RunOptions, Session
from helium_jax.plan import PlanBuilder
from helium_jax.runtime import open_runtime

PAGE = 16
# That of another test, so that its programs are compiled once.
CONFIG = EngineConfig(
    max_num_seqs=2, max_num_batched_tokens=8, num_pages=16, max_model_len=128, page_size=PAGE
)


def conversation():
    builder = PlanBuilder()
    q = builder.input("q")
    system = "Be brief."
    first = builder.chat(system=system, user=q, name="first", max_tokens=30, min_tokens=30)
    second = builder.chat(user="Again.", history=first, name="second", max_tokens=8)
    again = builder.loop(
        count=2,
        carry={"text": second},
        body=lambda b, text: b.completion("Repeat: " + text, max_tokens=6, name="again"),
    )
    builder.output("o", again)
    builder.output("all", builder.view(second, "history"))
    return builder.build()


async def test_on_the_real_engine_a_conversation_finds_the_pages_of_what_was_generated():
    rows = [{"q": f"Colour {row}?"} for row in range(2)]
    async with open_runtime("helium-tiny", CONFIG) as runtime:
        session = Session(runtime.generator, runtime.text)
        result = await session.run(conversation(), rows)
        naive = await session.run(conversation(), rows, options=NAIVE)
        op_wise = await session.run(conversation(), rows, options=RunOptions(policy="op_wise"))
        (statistics,) = runtime.generator.statistics()
    assert result.errors == ()
    outputs = [row.outputs for row in result.rows]
    assert outputs == [row.outputs for row in naive.rows]
    assert outputs == [row.outputs for row in op_wise.rows]
    spans = {(span.operator, span.row): span for span in result.statistics.spans}
    for row in range(2):
        first, second = spans["first", row], spans["second", row]
        # The last generated token has no KV yet when the call ends.
        known = first.prompt_tokens + first.completion_tokens - 1
        assert second.kv_cached >= known // PAGE * PAGE > first.prompt_tokens
    assert statistics.cache.num_pinned == 0
    assert statistics.cache.num_used == 0


class Recording:
    """A generator that remembers prompts and answers in the order in which they were asked for."""

    def __init__(self, generator):
        self._generator = generator
        self.calls = []

    def __getattr__(self, name):
        return getattr(self._generator, name)

    async def generate(self, request):
        tokens = [*request.token_ids]
        self.calls.append((len(tokens), tokens))
        async for event in self._generator.generate(request):
            tokens += event.token_ids
            yield event


def recount(calls):
    """Prompt tokens of each call whose pages an earlier one left, one call after the other."""
    known, counts = set(), []
    for num_prompt, tokens in calls:
        found = 0
        # The last token of a prompt is always computed.
        while found + PAGE < num_prompt and tuple(tokens[: found + PAGE]) in known:
            found += PAGE
        counts.append(found)
        # The last generated token has no KV.
        known |= {tuple(tokens[:end]) for end in range(PAGE, len(tokens), PAGE)}
    return counts


async def test_5_11_hit_rates_of_the_real_engine_equal_a_recount_from_the_recorded_order():
    rows = [{"q": f"Colour {row}?"} for row in range(2)]
    async with open_runtime("helium-tiny", CONFIG) as runtime:
        recording = Recording(runtime.generator)
        session = Session(recording, runtime.text)
        options = RunOptions(max_in_flight=1, precompute=False, prefill_ahead=False)
        result = await session.run(conversation(), rows, options=options)
        (statistics,) = runtime.generator.statistics()
    assert result.errors == ()
    assert statistics.cache.evicted_pages == 0
    counts = recount(recording.calls)
    spans = [span for span in result.statistics.spans if span.source in ("computed", "kv")]
    spans.sort(key=lambda span: span.submitted)
    assert [span.kv_cached for span in spans] == counts
    assert sum(counts) > 0
    cache = statistics.cache
    assert (cache.hit_tokens, cache.queried_tokens) == (
        sum(counts),
        sum(num_prompt for num_prompt, _ in recording.calls),
    )

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

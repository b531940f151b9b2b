"""Static prefixes computed ahead, their pins, and what is known of a prompt computed early."""

import asyncio
from dataclasses import replace

from helium_jax.errors import CapacityError
from helium_jax.executor import RunOptions, Session
from helium_jax.executor.policy import dispatch_setting
from helium_jax.executor.precompute import StaticPrefix, weigh_prefixes
from helium_jax.plan import PlanBuilder
from helium_jax.schedule.roofline import Roofline
from helium_jax.testing import FakeGenerator, FakeText, settle
from helium_jax.types import ModelInfo
from tests.executor.test_executor import rows_of, to_bytes

PAGE = 16
SYSTEM = "You are an expert of many things and answer at length, in verse if you can."


class Recording(FakeGenerator):
    """Remembers what was unpinned, and when."""

    def __init__(self, **options):
        self.unpinned = []
        self.done_at_unpin = []
        super().__init__(page_size=PAGE, **options)

    async def unpin(self, pin_id, **where):
        await super().unpin(pin_id, **where)
        self.unpinned.append(pin_id)
        self.done_at_unpin.append(len(self.finished))


def two_steps():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(system=SYSTEM, user=q, name="first")
    second = builder.chat(system="Judge: " + SYSTEM, user=first, name="second")
    builder.output("o", second)
    return builder.build()


async def run(engine, plan, rows, **options):
    session = Session(engine, FakeText())
    return await session.run(plan, rows, options=RunOptions(**options))


async def test_5_10_static_prefixes_are_computed_ahead_of_the_calls():
    engine = Recording()
    plain = FakeGenerator(page_size=PAGE)
    result = await run(engine, two_steps(), rows_of(6))
    without = await run(plain, two_steps(), rows_of(6), precompute=False)
    first, second = sorted(engine.warmed, key=lambda prefix: len(prefix.token_ids))
    assert len(first.token_ids) % PAGE == len(second.token_ids) % PAGE == 0
    assert SYSTEM[:40].encode() in to_bytes(first)
    cost = result.statistics
    assert cost.precomputed == len(first.token_ids) + len(second.token_ids)
    assert cost.computed + cost.precomputed == without.statistics.computed
    for span in cost.spans:
        length = {"first": len(first.token_ids), "second": len(second.token_ids)}
        assert span.kv_cached >= length[span.operator]


async def test_5_10_pins_go_when_their_last_consumer_is_done_and_none_is_left():
    engine = Recording()
    await run(engine, two_steps(), rows_of(6), policy="op_wise")
    assert engine.unpinned == []  # op_wise warms nothing
    await run(engine, two_steps(), rows_of(6), single_flight=False)
    assert len(engine.unpinned) == 2
    assert engine.done_at_unpin[0] < len(engine.finished)
    assert engine._pins == {}


async def test_5_10_a_cancelled_run_gives_its_pins_back():
    engine = Recording(before_event=lambda *_: asyncio.sleep(10))
    task = asyncio.create_task(run(engine, two_steps(), rows_of(6)))
    await settle(60)
    assert len(engine._pins) == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert engine._pins == {}


async def test_calls_do_not_wait_for_a_prefix_whose_last_consumer_may_be_quicker():
    class Late(Recording):
        async def warm(self, prefix):
            while len(self.finished) < 11:  # of twelve calls: all of "first" are over
                await asyncio.sleep(0)
            return await super().warm(prefix)

    engine = Late()
    result = await run(engine, two_steps(), rows_of(6))
    assert result.errors == ()
    assert len(engine.unpinned) == len(engine.warmed) == 2
    assert engine._pins == {}


async def test_a_prefix_that_cannot_be_warmed_is_only_slower():
    class Full(Recording):
        async def warm(self, prefix):
            raise CapacityError("no room")

    result = await run(Full(), two_steps(), rows_of(3))
    assert result.errors == ()
    assert result.statistics.precomputed == 0


async def test_precomputing_can_be_left_out():
    for options in ({"precompute": False}, {"share_kv": False}, {"policy": "as_ready"}):
        engine = Recording()
        await run(engine, two_steps(), rows_of(3), prefill_ahead=False, **options)
        assert engine.warmed == []


def test_prefixes_are_chosen_while_they_are_worth_it_and_there_is_room():
    def weighed(*prefixes, kv_tokens=10_000, roofline=None):
        found = [
            StaticPrefix(token_ids=(1,) * tokens, operators=("a",), uses=uses)
            for tokens, uses in prefixes
        ]
        return weigh_prefixes(found, roofline, page_size=16, kv_tokens=kv_tokens)

    verdicts = weighed((4096, 1.0), (64, 3.0), (64, 4.0), (16, 6.0), (16, 7.0), kv_tokens=40_000)
    assert [one.is_chosen for one in verdicts] == [False, False, True, False, True]
    assert verdicts[2].reason == "4 uses save 192 tokens, threshold 160 tokens"
    both, first = weighed((64, 9.0), (32, 9.0), kv_tokens=4 * 80)
    assert (both.is_chosen, first.is_chosen) == (True, False)
    assert first.reason.endswith("but no room within 25% of the KV store")
    # On an engine whose steps are cheap, fewer uses are enough.
    fast = Roofline(step_s=1e-6, token_s=1e-4)
    (cheap,) = weighed((16, 3.0), roofline=fast)
    assert (cheap.is_chosen, cheap.reason) == (True, "3 uses save 3.2 ms, threshold 2.4 ms")


async def test_what_is_known_of_a_prompt_is_computed_while_its_producer_decodes():
    builder = PlanBuilder()
    q = builder.input("q")
    context = "The context is long enough for some pages: " + q
    opinion = builder.completion("Opinion? " + q, name="opinion")
    builder.output("o", builder.completion(context + " Opinion: " + opinion, name="judge"))
    plan = builder.build()
    engine = Recording()
    result = await run(engine, plan, rows_of(2), precompute=False)
    known = [f"The context is long enough for some pages: question {row}" for row in range(2)]
    warmed = sorted(to_bytes(prefix).decode() for prefix in engine.warmed)
    assert [text[: len(prefix)] for text, prefix in zip(warmed, known, strict=True)] == known
    off = FakeGenerator(page_size=PAGE)
    without = await run(off, plan, rows_of(2), precompute=False, prefill_ahead=False)
    assert [row.outputs for row in result.rows] == [row.outputs for row in without.rows]
    judged = [span for span in result.statistics.spans if span.operator == "judge"]
    assert all(span.kv_cached >= 48 for span in judged)


async def test_what_is_computed_early_is_kept_for_its_call_and_no_longer():
    """Pages without a planned use are evicted first; and what is told must be taken back."""
    builder = PlanBuilder()
    q = builder.input("q")
    opinion = builder.completion("Opinion? " + q, name="opinion")
    text = "The context is long enough for some pages: " + q + " Opinion: " + opinion
    builder.output("o", builder.completion(text, name="judge"))
    engine = Recording()
    await run(engine, builder.build(), rows_of(2), precompute=False)
    uses = [prefix.planned_next_use for prefix in engine.warmed]
    assert None not in uses
    assert len({*uses}) == len(uses) == 2
    last = {}
    for _, use in engine.foreseen:
        for end in range(PAGE, len(use.token_ids) + 1, PAGE):
            last[use.token_ids[:end]] = use.next_use
    for prefix in engine.warmed:
        pages = len(prefix.token_ids) // PAGE * PAGE
        assert last[prefix.token_ids[:pages]] is None
    engine = Recording()
    await run(engine, builder.build(), rows_of(2), precompute=False, policy="as_ready")
    assert [prefix.planned_next_use for prefix in engine.warmed] == [None, None]


async def test_nothing_is_computed_early_while_the_engine_is_full():
    builder = PlanBuilder()
    q = builder.input("q")
    opinion = builder.completion("Opinion? " + q, name="opinion")
    builder.output("o", builder.completion("Judge " + q + opinion, name="judge"))
    engine = Recording()
    options = {"precompute": False, "max_in_flight": 2}
    await run(engine, builder.build(), rows_of(8), **options)
    assert len(engine.warmed) <= 2


async def test_nothing_is_computed_early_that_would_evict():
    class Full(Recording):
        def statistics(self):
            (worker,) = super().statistics()
            return (replace(worker, cache=replace(worker.cache, num_free=3)),)

    builder = PlanBuilder()
    q = builder.input("q")
    opinion = builder.completion("Opinion? " + q, name="opinion")
    builder.output("o", builder.completion("Judge " + q + opinion, name="judge"))
    engine = Full()
    result = await run(engine, builder.build(), rows_of(2), precompute=False)
    assert engine.warmed == []
    assert result.statistics.precomputed == 0


async def test_nothing_is_computed_early_for_a_call_that_waits_for_a_whole_chain():
    builder = PlanBuilder()
    q = builder.input("q")
    note = builder.completion("Note " + q, name="note")
    more = builder.completion("More " + note, name="more")
    builder.output("o", builder.completion("Judge at length " + q + note + more, name="judge"))
    engine = Recording()
    await run(engine, builder.build(), rows_of(2), precompute=False)
    judged = [to_bytes(prefix) for prefix in engine.warmed if b"Judge" in to_bytes(prefix)]
    assert len(judged) <= 2  # once a row, and not before the note is there
    assert all(len(text) > len(b"Judge at length question 0") for text in judged)


async def test_nothing_is_computed_early_where_the_call_may_not_go():
    builder = PlanBuilder()
    q = builder.input("q")
    opinion = builder.completion("Opinion? " + q, name="opinion")
    builder.output("o", builder.completion("Judge " + q + opinion, name="judge"))
    info = ModelInfo(
        name="fake", vocab_size=300, max_model_len=1000, num_workers=2, max_num_seqs=4, version="1"
    )
    engine = Recording(info=info)
    await run(engine, builder.build(), rows_of(2), precompute=False)
    assert engine.warmed == []


def test_policies_are_told_the_pool_and_not_the_models_context():
    info = ModelInfo(
        name="fake", vocab_size=300, max_model_len=10_000_000, max_num_seqs=4, version="1"
    )
    generator = FakeGenerator(info=info, page_size=PAGE)
    cache = generator.statistics()[0].cache
    setting = dispatch_setting(generator, RunOptions())
    assert setting.kv_tokens == cache.num_pages * PAGE < info.max_model_len

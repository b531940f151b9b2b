"""The engine end to end, on a tiny random model, against dense attention without a cache."""

import asyncio
import dataclasses
import math
import random
import time
from itertools import pairwise

import numpy as np
import pytest

from helium_jax.engine import AsyncEngine, Engine
from helium_jax.errors import CapacityError, InternalError, RequestError
from helium_jax.text import GrammarSpec
from helium_jax.types import (
    FinishReason,
    GenerateRequest,
    PlannedUse,
    SamplingParams,
    WarmPrefix,
    WarmReceipt,
)
from tests.engine.conftest import (
    EOS,
    INFO,
    MAX_MODEL_LEN,
    MODEL,
    oracle_greedy,
    oracle_logits,
)
from tests.engine.grammars import grammar_of


def make_prompts(seed, num=10):
    """Prompts of 1 to 70 tokens, half of which share one of two prefixes."""
    rng = random.Random(seed)

    def ids(count):
        return tuple(rng.randrange(1, MODEL.vocab_size) for _ in range(count))

    shared = [ids(33), ids(20)]
    return [rng.choice([(), (), *shared]) + ids(rng.randrange(1, 38)) for _ in range(num)]


def make_request(name, prompt, **sampling):
    return GenerateRequest(
        request_id=str(name), token_ids=tuple(prompt), sampling=SamplingParams(**sampling)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_in_flight": 2},
        {"num_pages": 7},  # little more than one sequence: constant preemption
        {"num_pages": 7, "steps_in_flight": 2},
        {"prefix_caching": False},
        {"cascade": False},
        {"deterministic": True},
        {"page_size": 64, "max_num_batched_tokens": 5},
    ],
    ids=str,
)
def test_greedy_tokens_equal_the_oracle_under_every_configuration(make_loop, options):
    prompts = make_prompts(3)
    expected = [oracle_greedy(prompt, 12) for prompt in prompts]
    with Engine(make_loop(**options)) as engine:
        for round_number in range(2):  # the second round finds the first one's pages
            requests = [
                make_request(f"{round_number}-{index}", prompt, max_tokens=12)
                for index, prompt in enumerate(prompts)
            ]
            assert engine.generate(requests) == expected
        statistics = engine.statistics()
    assert statistics.cache.num_used == 0
    if options.get("num_pages") == 7:
        assert statistics.num_preemptions > 0


async def test_wishes_pins_hints_and_displacement_change_no_token(make_loop):
    prompts = make_prompts(3, 14)
    requests = [
        GenerateRequest(
            request_id=str(i),
            token_ids=prompt,
            sampling=SamplingParams(max_tokens=12),
            priority=-(i % 3),  # what comes later is often more urgent
            prefer_cached=i % 2 == 0,
            planned_next_use=i,
        )
        for i, prompt in enumerate(prompts)
    ]
    async with AsyncEngine(make_loop(num_pages=10, pin_budget=1.0, max_num_seqs=2)) as engine:
        for i, prompt in enumerate(prompts[:4]):
            await engine.warm(WarmPrefix(token_ids=prompt + (1,) * 16, pin=True, value=i))

        async def ask(i, request):
            while engine.statistics()[0].num_steps < 6 * i:  # the earlier ones are running
                await asyncio.sleep(0.002)
            await engine.foresee([PlannedUse(token_ids=request.token_ids, next_use=i)])
            return await collect(engine, request)

        answers = await asyncio.gather(*(ask(i, each) for i, each in enumerate(requests)))
        statistics = engine.statistics()[0]
    assert answers == [oracle_greedy(prompt, 12) for prompt in prompts]
    assert statistics.num_preemptions > 0
    assert statistics.cache.surrendered_pins > 0
    assert statistics.cache.num_used == 0


def test_nothing_is_compiled_after_warm_up(make_loop):
    samplings = [{}, {"temperature": 1.0}, {"top_k": 3, "temperature": 1.0}, {"logprobs": 2}]
    grammars = [None, grammar_of(GrammarSpec.of_regex("[0-9]*"))]
    with Engine(make_loop(warm_up=True)) as engine:
        for count in (1, 2, 3, 4, 9):
            for sampling in samplings:
                prompts = make_prompts(count, count)
                engine.generate(
                    [
                        dataclasses.replace(
                            make_request(index, prompt, max_tokens=3, **sampling),
                            grammar=grammars[index % 2],
                        )
                        for index, prompt in enumerate(prompts)
                    ]
                )
        assert engine.statistics().num_compiles_after_warmup == 0


def test_a_conversation_extends_its_own_pages(make_loop):
    with Engine(make_loop()) as engine:
        prompt = make_prompts(4, 1)[0] + tuple(range(1, 30))
        engine.submit(make_request("first", prompt, max_tokens=40, ignore_eos=True))
        events = list(engine.stream("first"))
        answer = tuple(token for event in events for token in event.token_ids)
        again = prompt + answer + (5, 6, 7)
        engine.submit(make_request("second", again, max_tokens=4))
        usage = list(engine.stream("second"))[-1].usage
    # All full blocks of prompt and answer whose KV was computed: the last token's never is.
    assert usage.kv_cached == (len(prompt) + len(answer) - 1) // 16 * 16
    assert usage.computed + usage.kv_cached == len(again)


def test_equal_prompts_submitted_together_compute_their_prefix_once(make_loop):
    prompt = tuple(range(1, 65))
    with Engine(make_loop()) as engine:
        requests = [make_request(i, (*prompt, 70 + i), max_tokens=3) for i in range(4)]
        outputs = engine.generate(requests)
        statistics = engine.statistics()
    assert outputs == [oracle_greedy((*prompt, 70 + i), 3) for i in range(4)]
    assert statistics.num_prefill_tokens == 64 + 4


def test_seeded_samples_do_not_depend_on_the_batch(make_loop):
    prompts = make_prompts(5)
    requests = [
        make_request(i, prompt, max_tokens=10, temperature=1.0, top_p=0.9, seed=i)
        for i, prompt in enumerate(prompts)
    ]
    with Engine(make_loop()) as engine:
        together = engine.generate(requests)
        alone = [engine.generate([request])[0] for request in requests]
    assert together == alone
    assert len(set(together)) == len(together)


def test_sampled_frequencies_follow_the_models_distribution(make_loop):
    prompt = (3, 1, 4, 1, 5)
    logits = oracle_logits(prompt)[-1]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    with Engine(make_loop()) as engine:
        requests = [
            make_request(i, prompt, max_tokens=1, temperature=1.0, seed=i) for i in range(800)
        ]
        counts = np.bincount(
            [token for (token,) in engine.generate(requests)], minlength=MODEL.vocab_size
        )
    assert np.abs(counts / 800 - probabilities).sum() < 0.35  # expected about 0.2 by chance


def test_logprobs_are_those_of_the_unmodified_distribution(make_loop):
    prompt = (9, 8, 7)
    request = make_request("a", prompt, max_tokens=3, logprobs=4, temperature=0.8, seed=3)
    with Engine(make_loop()) as engine:
        engine.submit(request)
        events = list(engine.stream("a"))
    tokens = prompt
    for event in events:
        (token,), (entry,) = event.token_ids, event.logprobs
        logits = oracle_logits(tokens)[-1].astype(np.float64)
        expected = logits - math.log(np.exp(logits).sum())
        assert entry.logprob == pytest.approx(expected[token], abs=1e-4)
        assert [i for i, _ in entry.top] == np.argsort(-expected)[:4].tolist()
        tokens = (*tokens, token)


def test_penalties_count_the_tokens_of_a_cached_prefix(make_loop):
    """The prefix is never scheduled for the second request, yet its tokens are penalised."""
    prompt = tuple(range(1, 50))
    request = make_request("a", prompt, max_tokens=12, repetition_penalty=5.0, ignore_eos=True)
    with Engine(make_loop()) as engine:
        (first,) = engine.generate([request])
        (second,) = engine.generate([dataclasses.replace(request, request_id="b")])
        hits = engine.statistics().cache.hit_tokens
    assert first == second
    assert hits == 48
    assert first != oracle_greedy(prompt, 12)


def test_logit_bias_and_stop_ids_decide_the_end(make_loop):
    with Engine(make_loop()) as engine:
        engine.submit(
            make_request(
                "a", (1, 2), max_tokens=50, logit_bias=((17, 100.0),), stop_token_ids=(17,)
            )
        )
        (last,) = list(engine.stream("a"))
        assert (last.token_ids, last.finish_reason) == ((17,), FinishReason.STOP)
        engine.submit(
            make_request(
                "b",
                (1, 2),
                max_tokens=50,
                min_tokens=4,
                logit_bias=((EOS, 100.0), (17, 50.0)),
            )
        )
        events = list(engine.stream("b"))
    tokens = [token for event in events for token in event.token_ids]
    assert tokens == [17, 17, 17, 17, EOS]
    assert events[-1].finish_reason is FinishReason.STOP


def test_a_sequence_ends_at_the_context(make_loop):
    prompt = tuple(range(1, 80))
    with Engine(make_loop()) as engine:
        engine.submit(make_request("a", prompt, ignore_eos=True))
        events = list(engine.stream("a"))
    assert sum(len(event.token_ids) for event in events) == MAX_MODEL_LEN - len(prompt)
    assert events[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": ()}, "empty"),
        ({"token_ids": (1, MODEL.vocab_size)}, r"prompt.*|token id 89 at position 1"),
        ({"token_ids": (-1,)}, "token id -1"),
        ({"token_ids": (True,)}, "token id True"),
        ({"token_ids": (1,) * MAX_MODEL_LEN}, "context of 128"),
        ({"sampling": SamplingParams(max_tokens=0)}, "max_tokens=0"),
        ({"sampling": SamplingParams(max_tokens=1000)}, "max_tokens=1000"),
        ({"sampling": SamplingParams(temperature=math.nan)}, "temperature=nan"),
        ({"sampling": SamplingParams(temperature=-1.0)}, "temperature=-1"),
        ({"sampling": SamplingParams(top_p=0.0)}, "top_p=0"),
        ({"sampling": SamplingParams(top_k=-5)}, "top_k=-5"),
        ({"sampling": SamplingParams(logprobs=21)}, "logprobs=21"),
        ({"sampling": SamplingParams(seed=-1)}, "seed=-1"),
        ({"sampling": SamplingParams(logit_bias=((500, 1.0),))}, "logit_bias=500"),
        ({"worker": 3}, "worker=3"),
    ],
    ids=str,
)
async def test_wrong_requests_are_refused_and_the_engine_goes_on(make_loop, change, message):
    async with AsyncEngine(make_loop()) as engine:
        good = make_request("good", (1, 2, 3), max_tokens=3)
        wrong = dataclasses.replace(good, request_id="wrong", **change)
        with pytest.raises(RequestError, match=message):
            await collect(engine, wrong)
        assert await collect(engine, good) == oracle_greedy((1, 2, 3), 3)


async def collect(engine, request):
    return tuple([token async for event in engine.generate(request) for token in event.token_ids])


async def test_a_prompt_larger_than_the_pool_is_refused(make_loop):
    async with AsyncEngine(make_loop(num_pages=2)) as engine:
        with pytest.raises(RequestError, match="whole pool holds 32"):
            await collect(engine, make_request("a", (1,) * 40, max_tokens=1))


async def test_closing_a_stream_frees_its_pages_within_one_step(make_loop):
    async with AsyncEngine(make_loop()) as engine:
        stream = engine.generate(make_request("a", (1, 2, 3), ignore_eos=True))
        await anext(stream)
        assert engine.statistics()[0].cache.num_used > 0
        await stream.aclose()
        for _ in range(200):
            if engine.statistics()[0].cache.num_used == 0:
                break
            await asyncio.sleep(0.01)
        statistics = engine.statistics()[0]
    assert (statistics.cache.num_used, statistics.num_running) == (0, 0)


def test_a_cancelled_stream_ends_with_its_reason(make_loop):
    with Engine(make_loop()) as engine:
        engine.submit(make_request("a", (1, 2, 3), ignore_eos=True))
        stream = engine.stream("a")
        next(stream)
        engine.cancel("a")
        assert list(stream)[-1].finish_reason is FinishReason.CANCELLED


async def test_a_full_queue_is_a_capacity_error(make_loop):
    async with AsyncEngine(make_loop(max_waiting_requests=2, max_num_seqs=2)) as engine:
        tasks = [
            asyncio.create_task(collect(engine, make_request(i, (1, 2), max_tokens=20)))
            for i in range(12)
        ]
        results = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [result for result in results if isinstance(result, CapacityError)]
    served = [result for result in results if not isinstance(result, CapacityError)]
    assert refused
    assert set(served) == {oracle_greedy((1, 2), 20)}


def slowed(build):
    """The same loop, whose steps take long enough for a test to meet a request in mid-answer."""

    def build_slowed():
        loop = build()
        step = loop.step

        def slow_step():
            time.sleep(0.02)
            return step()

        loop.step = slow_step
        return loop

    return build_slowed


async def test_closing_the_engine_answers_everyone(make_loop):
    engine = AsyncEngine(slowed(make_loop()))
    await engine.start()
    task = asyncio.create_task(
        collect(engine, make_request("a", (1, 2), ignore_eos=True, max_tokens=100))
    )
    await asyncio.sleep(0.01)
    await engine.close()
    with pytest.raises(CapacityError, match="shutting down"):
        await task
    with pytest.raises(CapacityError, match="shutting down"):
        await collect(engine, make_request("b", (1, 2)))


async def test_a_dead_engine_answers_everyone(make_loop, caplog):
    def build():
        loop = slowed(make_loop())()
        submit = loop.submit

        def die_on_bomb(request):
            if request.request_id == "bomb":
                raise SystemExit("out of memory")
            submit(request)

        loop.submit = die_on_bomb
        return loop

    async with AsyncEngine(build) as engine:
        await collect(engine, make_request("first", (1, 2), max_tokens=2))  # compiles
        waiting = asyncio.create_task(
            collect(engine, make_request("a", (1, 2), ignore_eos=True, max_tokens=100))
        )
        await asyncio.sleep(0.01)
        with pytest.raises(InternalError, match="engine failed"):
            await asyncio.wait_for(collect(engine, make_request("bomb", (1,))), 2)
        with pytest.raises(InternalError, match="engine failed"):
            await asyncio.wait_for(waiting, 2)


def test_a_failed_step_fails_its_sequences_only(make_loop, caplog):
    failures = []

    def build():
        loop = make_loop()()
        collect_step = loop._runner.collect

        def fail_once(ticket):
            if not failures:
                failures.append(ticket)
                raise RuntimeError("device lost")
            return collect_step(ticket)

        loop._runner.collect = fail_once
        return loop

    with Engine(build) as engine:
        engine.submit(make_request("a", (1, 2), max_tokens=3))
        with pytest.raises(InternalError, match="device lost"):
            list(engine.stream("a"))
        assert engine.generate([make_request("b", (1, 2), max_tokens=3)]) == [
            oracle_greedy((1, 2), 3)
        ]
        assert engine.statistics().cache.num_used == 0


async def test_5_10_a_warmed_and_pinned_prefix_survives_other_load(make_loop):
    prefix = tuple(range(1, 40))
    async with AsyncEngine(make_loop(num_pages=12)) as engine:
        receipt = await engine.warm(WarmPrefix(token_ids=prefix, pin=True))
        assert (receipt.resident, receipt.computed) == (32, 32)
        assert receipt.pin_id is not None
        for i, prompt in enumerate(make_prompts(9, 30)):
            await collect(engine, make_request(i, prompt, max_tokens=8))
        assert engine.statistics()[0].cache.evicted_pages > 0
        again = await engine.warm(WarmPrefix(token_ids=prefix))
        assert (again.resident, again.computed) == (32, 0)
        await engine.unpin(receipt.pin_id)
        with pytest.raises(RequestError, match="not pinned"):
            await engine.unpin(receipt.pin_id)
        one_chunk = await engine.warm(WarmPrefix(token_ids=(7,) * 16))
        assert (one_chunk.resident, one_chunk.computed) == (16, 16)
        short = await engine.warm(WarmPrefix(token_ids=(1, 2)))
        assert (short.resident, short.pin_id) == (0, None)
        await engine.reset_cache()
        assert engine.statistics()[0].cache.num_free == 12


async def test_what_is_computed_ahead_with_a_planned_use_outlives_what_has_none(make_loop):
    async with AsyncEngine(make_loop(num_pages=12)) as engine:
        planned, unplanned = (1,) * 32, (2,) * 32
        await engine.warm(WarmPrefix(token_ids=planned, planned_next_use=7))
        await engine.warm(WarmPrefix(token_ids=unplanned))
        await collect(engine, make_request("a", range(1, 89), max_tokens=39, ignore_eos=True))
        await collect(engine, make_request("b", (3, 4) * 20, max_tokens=24, ignore_eos=True))
        receipts = [await engine.warm(WarmPrefix(token_ids=ids)) for ids in (planned, unplanned)]
    assert [receipt.computed for receipt in receipts] == [0, 32]


async def test_a_warming_that_is_cancelled_pins_nothing_and_harms_nobody(make_loop):
    async with AsyncEngine(make_loop()) as engine:
        warming = asyncio.create_task(
            engine.warm(WarmPrefix(token_ids=tuple(range(1, 80)), pin=True))
        )
        while engine.statistics()[0].num_steps == 0:
            await asyncio.sleep(0)
        warming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await warming
        await collect(engine, make_request("a", (1, 2, 3), max_tokens=2))
        statistics = engine.statistics()[0]
        assert (statistics.cache.num_pinned, statistics.cache.num_used) == (0, 0)


@pytest.mark.parametrize("rounds", range(4))
async def test_who_leaves_before_the_receipt_arrives_keeps_no_pin(make_loop, rounds):
    async with AsyncEngine(make_loop()) as engine:
        prefix = WarmPrefix(token_ids=tuple(range(1, 80)), pin=True)
        warming = asyncio.create_task(engine.warm(prefix))
        await asyncio.sleep(0)  # it is asked for
        while engine.statistics()[0].cache.num_pinned == 0:
            time.sleep(0.001)  # the engine's thread pins while nobody here can be told
        for _ in range(rounds):
            await asyncio.sleep(0)
        warming.cancel()
        (receipt,) = await asyncio.gather(warming, return_exceptions=True)
        if isinstance(receipt, WarmReceipt):
            await engine.unpin(receipt.pin_id)
        else:
            assert isinstance(receipt, asyncio.CancelledError)
        await collect(engine, make_request("a", (1, 2, 3), max_tokens=2))
        assert engine.statistics()[0].cache.num_pinned == 0


def test_pins_of_a_store_that_was_lost_can_be_given_back(make_loop, caplog):
    loop = make_loop()()
    receipt = loop.warm(WarmPrefix(token_ids=tuple(range(1, 33)), pin=True), "warm")
    while loop.has_work:
        loop.step()
    loop.take_outcomes()
    pin_id = receipt.result().pin_id
    loop.submit(make_request("a", (1, 2), max_tokens=3))
    loop._runner.collect = lambda ticket: 1 / 0
    loop.step()
    again = loop.warm(WarmPrefix(token_ids=(1, 2)), "again")
    loop.unpin(pin_id)
    loop.take_outcomes()
    assert again.done()
    assert loop.statistics().cache.num_pinned == 0
    with pytest.raises(RequestError, match="not pinned"):
        loop.unpin(pin_id + 1)


async def test_a_hint_that_makes_no_sense_is_logged_and_harms_nobody(make_loop, caplog):
    async with AsyncEngine(make_loop()) as engine:
        await engine.foresee([PlannedUse(token_ids=(2**40,) * 16, next_use=1)])
        with pytest.raises(RequestError, match="worker=1 does not exist"):
            await engine.foresee([], worker=1)
        await collect(engine, make_request("a", (1, 2, 3), max_tokens=2))
    await engine.foresee([PlannedUse(token_ids=(1,) * 16, next_use=1)])
    assert [record.message.split(": ")[1] for record in caplog.records] == [
        "signed integer is greater than maximum",
        "the engine is shutting down",
    ]


async def test_different_salts_share_nothing(make_loop):
    async with AsyncEngine(make_loop()) as engine:
        request = make_request("a", range(1, 60), max_tokens=2)
        for salt in ("", "x", "y"):
            salted = dataclasses.replace(request, request_id=salt, cache_salt=salt)
            last = [event async for event in engine.generate(salted)][-1]
            assert last.usage.kv_cached == 0


async def test_the_heartbeat_goes_on_when_idle(make_loop):
    async with AsyncEngine(make_loop()) as engine:
        ages, num_falls = [0.0], 0
        async with asyncio.timeout(60):
            while num_falls < 3:  # an age falls only where the loop has gone round again
                await asyncio.sleep(0.01)
                ages.append(engine.statistics()[0].last_step_age_seconds)
                num_falls = sum(later < sooner for sooner, later in pairwise(ages))


async def test_a_model_that_does_not_load_is_one_clear_error():
    def build():
        raise RequestError("no such folder")

    engine = AsyncEngine(build)
    with pytest.raises(RequestError, match="no such folder"):
        await engine.start()
    await engine.close()


def test_info_is_the_loops(make_loop):
    with Engine(make_loop()) as engine:
        assert engine.info == INFO

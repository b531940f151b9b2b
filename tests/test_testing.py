"""The test doubles keep the promises of the real parts."""

import asyncio
import dataclasses
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.errors import InternalError, RequestError
from helium_jax.testing import FAKE_EOS_ID, FAKE_MODEL, FakeGenerator, FakeText, ManualClock, settle
from helium_jax.types import (
    FinishReason,
    GenerateRequest,
    PlannedUse,
    SamplingParams,
    TokenEvent,
    WarmPrefix,
)


def request(prompt="hello", *, request_id="r", salt="", **sampling):
    return GenerateRequest(
        request_id=request_id,
        token_ids=tuple(prompt.encode()),
        sampling=SamplingParams(**sampling),
        cache_salt=salt,
    )


async def collect(generator, req) -> list[TokenEvent]:
    return [event async for event in generator.generate(req)]


async def tokens(generator, req) -> tuple[int, ...]:
    return tuple(i for event in await collect(generator, req) for i in event.token_ids)


async def test_equal_prompts_get_equal_answers_and_others_different_ones():
    generator = FakeGenerator()
    prompts = [f"row {i}" for i in range(50)]
    first = [await tokens(generator, request(p)) for p in prompts]
    second = [await tokens(generator, request(p)) for p in reversed(prompts)]
    assert first == second[::-1]
    assert len(set(first)) > 45


async def test_only_the_last_event_has_a_reason_and_the_first_and_last_have_usage():
    events = await collect(
        FakeGenerator(), request("a longer prompt", ignore_eos=True, max_tokens=4)
    )
    assert [e.finish_reason for e in events] == [None, None, None, FinishReason.LENGTH]
    assert [e.usage is not None for e in events] == [True, False, False, True]
    assert events[-1].usage.completion_tokens == 4


async def test_an_answer_that_ends_by_itself_closes_with_end_of_sequence():
    events = await collect(FakeGenerator(), request())
    assert events[-1].token_ids == (FAKE_EOS_ID,)
    assert events[-1].finish_reason == FinishReason.STOP


async def test_a_stop_token_id_ends_the_answer_but_not_before_min_tokens():
    generator = FakeGenerator(reply=lambda _: b"xyxyxy")
    stop = ord("y")
    assert await tokens(generator, request(stop_token_ids=(stop,))) == tuple(b"xy")
    assert await tokens(generator, request(stop_token_ids=(stop,), min_tokens=2)) == tuple(b"xyxy")


@given(st.integers(1, 20), st.integers(0, 20), st.booleans(), st.integers(1, 5))
def test_max_tokens_and_min_tokens_hold_for_every_answer(most, least, ignore_eos, per_event):
    least = min(least, most)
    generator = FakeGenerator(tokens_per_event=per_event)
    req = request(max_tokens=most, min_tokens=least, ignore_eos=ignore_eos)
    answer = asyncio.run(tokens(generator, req))
    assert answer == generator.answer(req)[0]
    assert least <= len(answer) <= most
    assert not (ignore_eos and len(answer) != most)


async def test_sampled_requests_differ_unless_seeded():
    generator = FakeGenerator()
    free = [await tokens(generator, request(temperature=1.0)) for _ in range(10)]
    seeded = [await tokens(generator, request(temperature=1.0, seed=7)) for _ in range(10)]
    assert len(set(free)) > 5
    assert len(set(seeded)) == 1


async def test_closing_the_iterator_early_is_a_cancellation():
    generator = FakeGenerator()
    async with aclosing(generator.generate(request(ignore_eos=True))) as events:
        await anext(events)
        assert generator.running == {"r"}
    assert generator.cancelled == ["r"]
    assert generator.running == set()


async def test_cancelling_the_consuming_task_is_a_cancellation():
    clock = ManualClock()
    generator = FakeGenerator(before_event=lambda *_: clock.sleep(1))
    task = asyncio.create_task(tokens(generator, request()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert generator.cancelled == ["r"]


async def test_failures_are_raised_by_request_id_and_in_the_middle():
    generator = FakeGenerator(
        failures={"bad": InternalError("lost")},
        fail=lambda req, sent: (
            RequestError("no") if req.request_id == "mid" and sent == 2 else None
        ),
    )
    with pytest.raises(InternalError, match="lost"):
        await tokens(generator, request(request_id="bad"))
    with pytest.raises(RequestError, match="no"):
        await tokens(generator, request(request_id="mid", ignore_eos=True, max_tokens=5))
    await tokens(generator, request(request_id="good"))
    assert (generator.failed, generator.finished) == (["bad", "mid"], ["good"])


@pytest.mark.parametrize(
    ("req", "message"),
    [
        (GenerateRequest(request_id="r", token_ids=()), "empty"),
        (GenerateRequest(request_id="r", token_ids=(1, 600)), "token_id=600 is not in"),
        (GenerateRequest(request_id="r", token_ids=(1,) * 4096), "exceeds the context"),
    ],
)
async def test_a_prompt_the_engine_would_refuse_is_refused(req, message):
    with pytest.raises(RequestError, match=message):
        await collect(FakeGenerator(), req)


async def test_a_running_request_id_cannot_be_used_twice():
    generator = FakeGenerator()
    async with aclosing(generator.generate(request(ignore_eos=True))) as events:
        await anext(events)
        with pytest.raises(RequestError, match="still running"):
            await tokens(generator, request())
        assert generator.running == {"r"}


async def test_full_pages_seen_before_count_as_cached_under_the_same_salt_only():
    generator = FakeGenerator(page_size=4)
    usages = [
        (await collect(generator, request(prompt, salt=salt)))[-1].usage
        for prompt, salt in [
            ("abcdefghij", ""),
            ("abcdefghXX", ""),
            ("abcdefgh", ""),
            ("abcd_", "s"),
        ]
    ]
    # A prompt of whole pages still computes its last one.
    assert [u.kv_cached for u in usages] == [0, 8, 4, 0]
    assert generator.statistics()[0].cache.hit_tokens == 12
    assert generator.statistics()[0].num_prefill_tokens == 10 + 2 + 4 + 5


async def test_a_warm_prefix_is_a_hit_and_its_pin_can_be_given_back_once():
    generator = FakeGenerator(page_size=4)
    receipt = await generator.warm(WarmPrefix(token_ids=tuple(b"abcdef"), pin=True))
    assert (receipt.resident, receipt.computed) == (4, 4)
    assert (await collect(generator, request("abcdzz")))[-1].usage.kv_cached == 4
    await generator.unpin(receipt.pin_id)
    with pytest.raises(RequestError, match="not pinned"):
        await generator.unpin(receipt.pin_id)
    assert await generator.reset_cache() == 1
    assert (await collect(generator, request("abcdzz")))[-1].usage.kv_cached == 0


async def test_every_worker_has_its_own_store_and_the_idle_one_is_chosen():
    gate = asyncio.Event()

    async def wait(req, num_sent):
        await gate.wait()

    generator = FakeGenerator(
        info=dataclasses.replace(FAKE_MODEL, num_workers=2), page_size=4, before_event=wait
    )
    tasks = [
        asyncio.create_task(collect(generator, request("abcdefgh", request_id=name)))
        for name in ("a", "b")
    ]
    await settle()
    gate.set()
    usages = [(await task)[-1].usage for task in tasks]
    assert generator.worker_of == {"a": 0, "b": 1}
    assert [usage.kv_cached for usage in usages] == [0, 0]
    receipt = await generator.warm(WarmPrefix(token_ids=tuple(b"wxyz"), worker=1))
    assert (receipt.worker, receipt.computed) == (1, 4)
    assert [s.cache.num_cached for s in generator.statistics()] == [2, 3]
    assert await generator.reset_cache(worker=0) == 2
    with pytest.raises(RequestError, match="workers are 0 to 1"):
        await generator.warm(WarmPrefix(token_ids=(1,), worker=2))


async def test_a_killed_worker_fails_what_it_runs_and_the_others_go_on():
    generator = FakeGenerator(info=dataclasses.replace(FAKE_MODEL, num_workers=2))
    async with aclosing(generator.generate(request(ignore_eos=True))) as events:
        await anext(events)
        generator.kill(0)
        with pytest.raises(InternalError) as failure:
            await anext(events)
    assert failure.value.code == "worker_failed"
    assert [s.is_alive for s in generator.statistics()] == [False, True]
    await tokens(generator, request())
    assert generator.worker_of == {"r": 1}


async def test_what_is_foreseen_is_noted_with_its_worker():
    generator = FakeGenerator()
    use = PlannedUse(token_ids=(1, 2), next_use=3)
    await generator.foresee([use], worker=0)
    assert generator.foreseen == [(0, use)]


async def test_logprobs_come_with_every_token_when_asked_for():
    events = await collect(FakeGenerator(), request(logprobs=3, ignore_eos=True, max_tokens=3))
    assert all(len(e.logprobs) == len(e.token_ids) for e in events)
    assert all(e.logprobs[0].top[0][0] == e.token_ids[0] for e in events)


async def test_the_manual_clock_wakes_sleepers_in_order_of_their_time():
    clock = ManualClock()
    woken = []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append((seconds, clock.time()))

    tasks = [asyncio.create_task(sleeper(s)) for s in (3, 1, 2)]
    await settle()
    assert clock.num_sleeping == 3
    await clock.advance(2.5)
    assert woken == [(1, 1), (2, 2)]
    await clock.advance(1)
    assert woken == [(1, 1), (2, 2), (3, 3)]
    assert clock.time() == 3.5
    await asyncio.gather(*tasks)


def test_fake_text_is_read_back_and_marks_the_roles():
    text = FakeText()
    ids = text.encode_chat([{"role": "user", "content": "né"}])
    assert ids == [258, 110, 195, 169, FAKE_EOS_ID, 259]
    assert text.decode(ids) == "né"
    assert b"".join(map(text.token_bytes, ids)).decode() == "né"


@given(
    st.text(alphabet="abé", max_size=12),
    st.lists(st.text(alphabet="abé", min_size=1, max_size=3), max_size=2),
)
def test_a_fake_detokenizer_gives_the_text_up_to_the_first_stop_string(text, stop):
    detokenizer = FakeText().detokenizer(stop)
    said = ""
    for token_id in FakeText().encode(text):
        said += detokenizer.push([token_id])
    said += detokenizer.finish()
    ends = [text.index(one) for one in stop if one in text]
    if not ends:
        assert said == text
    else:
        assert detokenizer.is_stopped
        assert text.startswith(said)
        assert not any(one in said for one in stop)

"""Several engines behind one generator, on the tiny random model."""

import asyncio

import pytest

from helium_jax.engine import AsyncEngine, EnginePool
from helium_jax.errors import CapacityError, InternalError, RequestError
from helium_jax.types import GenerateRequest, PlannedUse, SamplingParams, WarmPrefix
from tests.engine.conftest import oracle_greedy


def request(name, prompt, *, worker=None, **sampling):
    return GenerateRequest(
        request_id=str(name),
        token_ids=tuple(prompt),
        sampling=SamplingParams(**sampling),
        worker=worker,
    )


async def collect(pool, req):
    return tuple([token async for event in pool.generate(req) for token in event.token_ids])


@pytest.fixture
def make_pool(make_loop):
    """A function of the number of workers; a request called "bomb" kills the one it reaches."""

    def build_pool(count, **options):
        first = make_loop(**options)()

        def build_loop():
            loop = first.replica()
            submit = loop.submit

            def die_on_bomb(req):
                if req.request_id == "bomb":
                    raise SystemExit("device lost")
                submit(req)

            loop.submit = die_on_bomb
            return loop

        return EnginePool([AsyncEngine(build_loop) for _ in range(count)])

    return build_pool


async def test_requests_go_to_the_worker_they_name_or_to_the_least_loaded(make_pool):
    async with make_pool(3) as pool:
        assert pool.info.num_workers == 3
        requests = [request(i, (5, 6, 7 + i), max_tokens=20) for i in range(4)]
        requests += [request(9, (1, 2), worker=2, max_tokens=3)]
        answers = await asyncio.gather(*(collect(pool, req) for req in requests))
        assert answers == [
            oracle_greedy(req.token_ids, req.sampling.max_tokens) for req in requests
        ]
        tokens = [each.num_prefill_tokens for each in pool.statistics()]
        assert tokens == [6, 3, 3 + 2]
        with pytest.raises(RequestError, match="workers are 0 to 2"):
            await collect(pool, request("a", (1,), worker=3))


async def test_a_request_id_is_in_use_on_all_workers(make_pool):
    async with make_pool(2) as pool:
        events = pool.generate(request("a", (1, 2), max_tokens=50, ignore_eos=True))
        await anext(events)
        with pytest.raises(RequestError, match="in use"):
            await collect(pool, request("a", (1, 2), worker=1))
        await events.aclose()
        await collect(pool, request("a", (1, 2), max_tokens=1))
        assert [each.num_running for each in pool.statistics()] == [0, 0]


async def test_a_dead_worker_fails_its_requests_and_the_others_go_on(make_pool, caplog):
    async with make_pool(2) as pool:
        await collect(pool, request("first", (3, 4), max_tokens=2))  # compiles for both
        lost, kept = (
            asyncio.create_task(
                collect(pool, request(i, (3, 4), worker=i, max_tokens=90, ignore_eos=True))
            )
            for i in (0, 1)
        )
        await asyncio.sleep(0.01)
        for req in (request("bomb", (1,), worker=0), request("late", (1,), worker=0)):
            with pytest.raises(InternalError) as failure:
                await asyncio.wait_for(collect(pool, req), 2)
            assert failure.value.code == "worker_failed"
        with pytest.raises(InternalError) as failure:
            await asyncio.wait_for(lost, 2)
        assert failure.value.code == "worker_failed"
        assert len(await kept) == 90
        assert [each.is_alive for each in pool.statistics()] == [False, True]
        # Whoever names no worker does not notice.
        assert await collect(pool, request("b", (1, 2), max_tokens=3)) == oracle_greedy((1, 2), 3)
        assert await pool.reset_cache() > 0
        with pytest.raises(InternalError) as failure:
            await collect(pool, request("bomb", (1,)))
        assert failure.value.code == "engine_dead"
        with pytest.raises(InternalError, match="the engine failed"):
            await collect(pool, request("c", (1,)))


async def test_pins_hints_and_resets_belong_to_their_worker(make_pool):
    prefix = tuple(range(1, 40))
    async with make_pool(2) as pool:
        receipts = [
            await pool.warm(WarmPrefix(token_ids=prefix, pin=True, worker=worker))
            for worker in (0, 1, 1)
        ]
        assert [(each.worker, each.computed) for each in receipts] == [(0, 32), (1, 32), (1, 0)]
        assert len({each.pin_id for each in receipts}) == 3
        await pool.foresee([PlannedUse(token_ids=prefix, next_use=3)], worker=1)
        await pool.foresee([PlannedUse(token_ids=prefix)])
        assert await pool.reset_cache() == 0
        await pool.unpin(receipts[0].pin_id)
        with pytest.raises(RequestError, match="not pinned"):
            await pool.unpin(receipts[0].pin_id)
        assert await pool.reset_cache(worker=1) == 0
        assert await pool.reset_cache(worker=0) == 2
        assert [each.cache.num_pinned for each in pool.statistics()] == [0, 2]


async def test_a_worker_that_cannot_start_ends_those_that_did(make_loop):
    started = []

    def build():
        if started:
            raise RequestError("no room for another")
        started.append(make_loop()())
        return started[0]

    pool = EnginePool([AsyncEngine(build), AsyncEngine(build)])
    with pytest.raises(RequestError, match="no room"):
        await pool.start()
    with pytest.raises(CapacityError, match="shutting down"):
        await collect(pool, request("a", (1,)))

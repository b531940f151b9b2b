"""A session under everything at once: runs, cancels of all kinds, dead workers, full queues, few
pages, a small cache. Whatever happens, what ended well is right, and nothing is left over."""

import asyncio
import dataclasses

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from helium_jax.errors import CapacityError
from helium_jax.executor import RunControl, RunOptions, Session, run_plan
from helium_jax.executor.output_cache import OutputCache
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeGenerator, FakeText, settle
from helium_jax.testing.generator import FAKE_MODEL

PAGE = 16
NUM_PAGES = 24
MODEL = dataclasses.replace(FAKE_MODEL, num_workers=2, max_num_seqs=3)
OVERLOADED = CapacityError("the queue is full", code="server_overloaded")
SHARED = "A rule that all rows and plans begin with, long enough for several pages of it. " * 2


def conversation():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(system=SHARED, user=q, name="a", retries=2, timeout=60)
    builder.output("o", builder.chat(user="Go on.", history=first, name="b"))
    return builder.build()


def nested():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(system=SHARED, user=q, name="a")
    value = builder.loop(
        count=2,
        carry={"text": first},
        body=lambda b, text: b.branch(
            'contains(text, "e")',
            then=lambda b: b.chat(system=SHARED, user=text, name="c"),
            otherwise=lambda b: b.completion("Say " + text, name="d"),
            name="if",
        ),
        name="b",
    )
    builder.output("o", value)
    return builder.build()


def race():
    builder = PlanBuilder()
    q = builder.input("q")
    value = builder.race(
        [
            lambda b: b.completion("one " + b.completion("a " + q, name="a"), name="c"),
            lambda b: b.chat(system=SHARED, user=q, name="b", on_error="empty"),
        ],
        k=1,
        name="r",
    )
    builder.output("o", builder.template("[" + value + "]"))
    return builder.build()


PLANS = {"conversation": conversation(), "nested": nested(), "race": race()}
OPTIONS = st.builds(
    RunOptions,
    policy=st.sampled_from(["helium", "as_ready", "op_wise", "lspf"]),
    strict_order=st.booleans(),
    max_in_flight=st.sampled_from([None, 1, 2]),
    encode_ahead=st.sampled_from([1, 2_048]),
    single_flight=st.booleans(),
    output_cache=st.booleans(),
    share_kv=st.booleans(),
    weight=st.sampled_from([1.0, 3.0]),
)


class Engine(FakeGenerator):
    """Two workers with few pages, whose queue may be full for a while."""

    def __init__(self):
        self.is_overloaded = False
        super().__init__(info=MODEL, page_size=PAGE, max_answer_tokens=6, fail=self._refuse)

    def _refuse(self, request, num_sent):
        return OVERLOADED if self.is_overloaded and not num_sent else None

    def statistics(self):
        return tuple(
            dataclasses.replace(
                worker,
                cache=dataclasses.replace(
                    worker.cache,
                    num_pages=NUM_PAGES,
                    num_free=max(NUM_PAGES - 8 * worker.num_running, 0),
                    num_cached=0,
                ),
            )
            for worker in super().statistics()
        )


@dataclasses.dataclass
class Run:
    plan: str
    num_rows: int
    task: asyncio.Task
    control: RunControl
    is_disturbed: bool = False


def rows_of(num_rows):
    return [{"q": f"question {row % 3}"} for row in range(num_rows)]  # some are equal


async def expected(plan):
    result = await run_plan(
        PLANS[plan],
        rows_of(3),
        generator=FakeGenerator(info=MODEL, max_answer_tokens=6),
        codec=FakeText(),
    )
    return [row.outputs for row in result.rows]


class SessionMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.events = asyncio.new_event_loop()
        self.runs: list[Run] = []

    def wait(self, coroutine):
        return self.events.run_until_complete(coroutine)

    @initialize()
    def open_session(self):
        self.engine = Engine()
        self.right = {plan: self.wait(expected(plan)) for plan in PLANS if plan != "race"}
        self.session = Session(
            self.engine,
            FakeText(),
            output_cache=OutputCache(max_bytes=2_000),
            sleep=lambda seconds: asyncio.sleep(0) if seconds < 30 else asyncio.sleep(3600),
        )

    @rule(plan=st.sampled_from(sorted(PLANS)), num_rows=st.integers(1, 5), options=OPTIONS)
    def start(self, plan, num_rows, options):
        control = RunControl()
        work = self.session.run(PLANS[plan], rows_of(num_rows), options=options, control=control)
        task = self.events.create_task(work)
        self.runs.append(Run(plan, num_rows, task, control))

    @rule(rounds=st.integers(1, 60))
    def go_on(self, rounds):
        self.wait(settle(rounds))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), what=st.sampled_from(["run", "row", "operator", "task"]))
    def cancel(self, data, what):
        run = data.draw(st.sampled_from(self.runs))
        run.is_disturbed = True
        match what:
            case "run":
                run.control.cancel()
            case "row":
                run.control.cancel_row(data.draw(st.integers(0, run.num_rows - 1)))
            case "operator":
                run.control.cancel_operator(data.draw(st.sampled_from("abcdr")))
            case "task":
                run.task.cancel()

    @rule()
    def lose_a_worker(self):
        self.engine.kill(1)

    @rule(is_overloaded=st.booleans())
    def fill_the_queue(self, is_overloaded):
        if is_overloaded:
            for run in self.runs:  # attempts come to an end
                run.is_disturbed |= not run.task.done()
        self.engine.is_overloaded = is_overloaded

    @rule()
    def empty_the_cache(self):
        self.session.output_cache.clear()

    def teardown(self):
        try:
            self.wait(asyncio.wait_for(self.check_the_end(), 60))
        finally:
            self.events.close()

    async def check_the_end(self):
        was_overloaded, self.engine.is_overloaded = self.engine.is_overloaded, False
        tasks = [run.task for run in self.runs]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for run, result in zip(self.runs, done, strict=True):
            if run.is_disturbed or was_overloaded:
                assert isinstance(result, asyncio.CancelledError) or result.status
                continue
            assert result.status == "completed"
            assert result.errors == ()
            if run.plan in self.right:
                right = self.right[run.plan]
                for row in result.rows:
                    assert row.outputs == right[row.row % 3]
        await settle(3)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert [task.get_name() for task in left if task.get_name().startswith("run_")] == []
        assert self.engine.running == set()
        assert self.engine._pins == {}
        assert self.session._resources.on_their_way == {}
        gate = self.session._resources.gate
        assert gate._num_waiting == 0
        assert not any(line.waiting for line in gate._lines.values())
        assert gate._room._num_inside == 0
        assert all((e.num_wanted, e.left) == (0, 0) for e in gate._room._engines)
        last = {}
        for worker, use in self.engine.foreseen:
            for end in range(PAGE, len(use.token_ids) + 1, PAGE):
                last[worker, use.token_ids[:end]] = use.next_use
        assert set(last.values()) <= {None}


SessionMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=14,
    deadline=None,
    phases=(Phase.reuse, Phase.generate),  # to make a failure smaller takes minutes
)
TestSession = SessionMachine.TestCase

"""Prints what planning and running decide for some workloads: a program for `test_determinism`."""

import asyncio
import hashlib
import itertools
import json
from dataclasses import asdict, replace

from helium_jax.builtin import tiny_folder
from helium_jax.executor import RunOptions, run_plan
from helium_jax.executor.preparing import Prepared, prepare_run
from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Workload
from helium_jax.experiments.workloads import WORKLOADS
from helium_jax.optimizer import Profile, format_trace
from helium_jax.plan import explain_text
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.policies import POLICIES
from helium_jax.schedule.roofline import Roofline
from helium_jax.schedule.simulate import simulate
from helium_jax.schedule.soft_schedule import plan_schedule
from helium_jax.testing import FAKE_MODEL, FakeGenerator, FakeText
from helium_jax.text import load_text

ROOF = Roofline(step_s=0.004, token_s=2e-4, knee_tokens=8.0, kv_token_s=1e-7, pair_s=1e-8)
SETTINGS = (
    DispatchSetting(page_size=16, kv_tokens=2048, max_num_seqs=8),
    DispatchSetting(page_size=16, kv_tokens=1024, max_num_seqs=8, num_workers=3),
    DispatchSetting(page_size=16, kv_tokens=1024, max_num_seqs=8, num_workers=2, roofline=ROOF),
)


def digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def workloads() -> list[Workload]:
    with tiny_folder() as folder:
        fill = Filler(load_text(folder), scale=0.04, seed=0)
    return [WORKLOADS[name](fill, num_rows=2) for name in ("trading", "debate-tatqa", "reflection")]


async def prepared(workload: Workload, setting: DispatchSetting, *, merge: bool) -> Prepared:
    disabled = frozenset() if merge else frozenset({"merge_equal_subplans"})
    return await prepare_run(
        workload.plan,
        workload.rows,
        params={},
        model=FAKE_MODEL,
        setting=setting,
        codec=FakeText(),
        options=RunOptions(disabled_rules=disabled),
        output_cache=None,
        profile=Profile(),
    )


async def requests_of(workload: Workload, policy: str) -> list[tuple[str, int | None]]:
    """What reaches the engine, in its order."""
    engine = FakeGenerator(info=replace(FAKE_MODEL, num_workers=3, max_model_len=8192))
    options = RunOptions(policy=policy, max_in_flight=6)
    await run_plan(
        workload.plan, workload.rows, generator=engine, codec=FakeText(), options=options
    )
    return [(digest(request.token_ids), request.worker) for request in engine.requests]


async def main() -> None:
    trace: dict[str, object] = {}
    for workload, setting in itertools.product(workloads(), SETTINGS):
        name = f"{workload.name}, {setting.num_workers} workers"
        made = await prepared(workload, setting, merge=setting.num_workers == 3)
        graph = made.planned.graph
        capacities = [float(setting.kv_tokens)] * setting.num_workers
        schedule = plan_schedule(graph, capacities)
        trace[name] = {
            "rewrites": digest(format_trace(made.optimized.trace)),
            "plan": digest(explain_text(made.optimized.plan, num_rows=made.num_rows)),
            "steps": digest([op.name for op in made.physical.all_operators]),
            "needs": digest([(n, tuple(of)) for n, of in made.physical.needs.items()]),
            "graph": digest([asdict(node) for node in graph.nodes]),
            "schedule": digest((schedule.sequences, schedule.placement, schedule.refined)),
        }
    # Every policy on some of them, the whole way of every call.
    for number, (workload, policy) in enumerate(itertools.product(workloads(), POLICIES)):
        if policy != "helium" and number % 4:
            continue
        setting = SETTINGS[1]
        graph = (await prepared(workload, setting, merge=False)).planned.graph
        most = max(n.prompt_tokens + n.output_tokens for n in graph.nodes)
        setting = replace(setting, kv_tokens=max(setting.kv_tokens, int(2 * most)))
        run = simulate(graph, POLICIES[policy], setting, ROOF.seconds)
        trace[f"{workload.name}, {policy}"] = digest(run.spans)
        if policy == "helium":
            trace[f"{workload.name}, run"] = digest(await requests_of(workload, policy))
    print(json.dumps(trace))


if __name__ == "__main__":
    asyncio.run(main())

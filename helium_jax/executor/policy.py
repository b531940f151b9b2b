"""From the name of a policy to the dispatcher of a run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helium_jax.errors import RequestError
from helium_jax.executor.as_ready import AsReady
from helium_jax.executor.codec import TextCodec
from helium_jax.executor.options import AS_READY, RunOptions
from helium_jax.executor.rates import EngineRates
from helium_jax.optimizer.profile import Profile
from helium_jax.physical import PhysicalPlan
from helium_jax.schedule.building import PlannedCalls, build_call_graph
from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import Dispatcher, DispatchSetting
from helium_jax.schedule.policies import POLICIES
from helium_jax.types import Generator, ModelInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What planning a run's calls gave.

    Attributes:
        dispatcher: orders them.
        calls: the graph and prefixes it was made from; None if nothing was planned.
    """

    dispatcher: Dispatcher
    calls: PlannedCalls | None = None

    @property
    def graph(self) -> CallGraph:
        """The calls as they were planned; none if nothing was."""
        return CallGraph(nodes=(), num_rows=0) if self.calls is None else self.calls.graph


def plan_calls(
    physical: PhysicalPlan,
    num_rows: int,
    columns: Mapping[str, Sequence[str]],
    *,
    codec: TextCodec,
    setting: DispatchSetting,
    options: RunOptions,
    profile: Profile,
) -> Planned:
    """The dispatcher that `options` name, for a batch.

    Raises:
        RequestError: there is no such policy.
    """
    if options.policy == AS_READY:
        return Planned(dispatcher=AsReady())
    make_policy = POLICIES.get(options.policy)
    if make_policy is None:
        names = ", ".join((AS_READY, *POLICIES))
        raise RequestError(
            f"policy={options.policy[:64]!r} does not exist; policies are {names}", param="policy"
        )
    settings = {call.name: call.settings for call in physical.calls}
    estimates = profile.estimate_outputs(settings)
    try:
        calls = build_call_graph(physical, codec, estimates, num_rows, columns, profile.repeats)
    except Exception:
        # A value that cannot be encoded fails its own row later; without a plan runs are slower.
        log.warning("the calls of %s cannot be planned", physical.plan_id, exc_info=True)
        return Planned(dispatcher=AsReady())
    return Planned(dispatcher=make_policy(calls.graph, setting), calls=calls)


def dispatch_setting(
    generator: Generator, options: RunOptions, rates: EngineRates | None = None
) -> DispatchSetting:
    """What a policy knows of the engines behind a generator.

    Args:
        generator: the token side.
        options: of the run.
        rates: what is known of the engines' speed; a run plans by the roofline if that is the model
            it names, or the one that predicted earlier runs better.
    """
    cache = generator.statistics()[0].cache
    return engine_setting(generator.info, cache.page_size, cache.num_pages, options, rates)


def engine_setting(
    info: ModelInfo,
    page_size: int,
    num_pages: int,
    options: RunOptions,
    rates: EngineRates | None = None,
) -> DispatchSetting:
    """The same for engines that are known by their sizes alone."""
    roofline = None
    if rates is not None:
        model = rates.better if options.cost_model == "best" else options.cost_model
        roofline = rates.roofline if model == "roofline" else None
    return DispatchSetting(
        num_workers=info.num_workers,
        page_size=page_size,
        kv_tokens=page_size * num_pages or info.max_model_len,
        max_num_seqs=info.max_num_seqs,
        max_num_batched_tokens=info.max_num_batched_tokens,
        seed=options.seed,
        strict=options.strict_order,
        roofline=roofline,
    )

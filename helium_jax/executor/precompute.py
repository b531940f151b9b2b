"""Static prefixes whose KV is computed ahead of a run's calls, and pinned while it is needed."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from helium_jax.errors import HeliumError
from helium_jax.executor.options import RunOptions
from helium_jax.executor.preparing import Prepared
from helium_jax.physical import PhysicalPlan
from helium_jax.schedule.building import PlannedCalls
from helium_jax.schedule.roofline import Roofline
from helium_jax.schedule.warming import worth_warming
from helium_jax.types import Generator, WarmPrefix

log = logging.getLogger(__name__)

MAX_KV_SHARE = 0.25  # of a worker's store, so that pins leave room for what runs


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPrefix:
    """A prompt's beginning that all rows of some operators share.

    Attributes:
        token_ids: whole pages of it.
        operators: whose prompts begin with it.
        uses: expected calls of these.
    """

    token_ids: tuple[int, ...]
    operators: tuple[str, ...]
    uses: float

    @property
    def saved_tokens(self) -> float:
        """Prompt tokens that are not computed because it is resident."""
        return (self.uses - 1.0) * len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedPrefix:
    """A static prefix and what was decided.

    Attributes:
        prefix: which.
        is_chosen: it is computed ahead of the calls.
        reason: what it saves, and from what on that is worth it.
    """

    prefix: StaticPrefix
    is_chosen: bool
    reason: str


def static_prefixes(
    physical: PhysicalPlan, calls: PlannedCalls, *, page_size: int
) -> tuple[StaticPrefix, ...]:
    """The static prefixes of a plan's calls in whole pages, the one that saves most first.

    Calls whose KV is not shared are left out.
    """
    operators: dict[tuple[int, ...], list[str]] = {}
    for call in physical.calls:
        ids = calls.tree.static_prefix(call.name)
        # The last token of a prompt is always computed: its logits give the first new one.
        is_whole = all(segment.is_static for segment in calls.tree.segments(call.name))
        num_pages = (len(ids) - is_whole) // page_size
        pages = tuple(ids[: num_pages * page_size])
        if pages and call.settings.cache.kv:
            operators.setdefault(pages, []).append(call.name)
    graph = calls.graph
    found = [
        StaticPrefix(
            token_ids=pages,
            operators=tuple(names),
            uses=sum(graph.by_name[name].repeats * graph.num_rows for name in names),
        )
        for pages, names in operators.items()
    ]
    return tuple(sorted(found, key=lambda prefix: -prefix.saved_tokens))


def weigh_prefixes(
    prefixes: Iterable[StaticPrefix], roofline: Roofline | None, *, page_size: int, kv_tokens: int
) -> tuple[WeighedPrefix, ...]:
    """Chooses those worth computing ahead, in their order, as far as a share of the store goes.

    Args:
        prefixes: of a plan, the best first.
        roofline: of the engines; None if they were not measured.
        page_size: tokens per page.
        kv_tokens: capacity of a worker's store.
    """
    weighed: list[WeighedPrefix] = []
    left = MAX_KV_SHARE * kv_tokens
    for prefix in prefixes:
        size = len(prefix.token_ids)
        is_worth, reason = worth_warming(prefix.uses, size, roofline, page_size=page_size)
        if is_worth and size > left:
            reason += f", but no room within {MAX_KV_SHARE:.0%} of the KV store"
        is_chosen = is_worth and size <= left
        left -= size if is_chosen else 0
        weighed.append(WeighedPrefix(prefix=prefix, is_chosen=is_chosen, reason=reason))
    return tuple(weighed)


def make_warmer(prepared: Prepared, generator: Generator, options: RunOptions) -> "Warmer | None":
    """What computes a run's static prefixes, if its policy, options and prefixes call for it."""
    planned = prepared.planned
    if not (options.precompute and options.share_kv and planned.dispatcher.warms):
        return None
    if planned.calls is None:
        return None
    cache = generator.statistics()[0].cache
    weighed = weigh_prefixes(
        static_prefixes(prepared.physical, planned.calls, page_size=cache.page_size),
        prepared.roofline,
        page_size=cache.page_size,
        kv_tokens=cache.page_size * cache.num_pages or generator.info.max_model_len,
    )
    prefixes = tuple(one.prefix for one in weighed if one.is_chosen)
    if not prefixes:
        return None
    return Warmer(generator=generator, prefixes=prefixes, cache_salt=options.cache_salt)


@dataclass(slots=True, kw_only=True)
class Warmer:
    """Warms and pins the chosen prefixes of one run, and gives the pins back.

    Attributes:
        computed: prompt tokens that were computed for it.
    """

    generator: Generator
    prefixes: tuple[StaticPrefix, ...]
    cache_salt: str
    computed: int = 0
    pins: dict[StaticPrefix, list[int]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    async def warm(self) -> None:
        """Computes the prefixes on every worker; one that cannot be is only slower later."""
        workers = range(self.generator.info.num_workers)
        await asyncio.gather(
            *(self._warm(prefix, worker) for prefix in self.prefixes for worker in workers)
        )

    async def complete(self, operator: str) -> None:
        """An operator makes no further call: pins of which it was the last consumer go."""
        self.done.add(operator)
        for prefix, pin_ids in self.pins.items():
            if self.done.issuperset(prefix.operators):
                await self._unpin(pin_ids)

    async def close(self) -> None:
        """Gives all pins back."""
        for pin_ids in self.pins.values():
            await self._unpin(pin_ids)

    async def _warm(self, prefix: StaticPrefix, worker: int) -> None:
        try:
            receipt = await self.generator.warm(
                WarmPrefix(
                    token_ids=prefix.token_ids,
                    cache_salt=self.cache_salt,
                    pin=True,
                    value=prefix.saved_tokens,
                    worker=worker,
                )
            )
        except HeliumError as error:
            log.warning("a static prefix was not computed ahead: %s", error)
            return
        self.computed += receipt.computed
        if receipt.pin_id is not None:
            self.pins.setdefault(prefix, []).append(receipt.pin_id)
            if self.done.issuperset(prefix.operators):  # its last consumer was quicker
                await self._unpin(self.pins[prefix])

    async def _unpin(self, pin_ids: list[int]) -> None:
        while pin_ids:
            pin_id = pin_ids.pop()
            try:
                await self.generator.unpin(pin_id)
            except asyncio.CancelledError:
                pin_ids.append(pin_id)  # `close` will give it back
                raise
            except HeliumError as error:
                log.warning("a pin was not given back: %s", error)

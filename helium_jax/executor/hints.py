"""News of prefixes on their way from a run's policy to the KV stores."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from helium_jax.errors import HeliumError
from helium_jax.schedule.dispatch import PrefixUse
from helium_jax.types import Generator, PlannedUse

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Hints:
    """Passes news on in order, all that there is at once: an engine listens once a step.

    Without them runs are only slower, so what goes wrong is a warning.
    """

    generator: Generator
    cache_salt: str
    _news: asyncio.Queue[PrefixUse] = field(default_factory=asyncio.Queue)

    def tell(self, uses: Iterable[PrefixUse]) -> None:
        """Takes news; of equal prefixes on one worker the latest counts."""
        for use in uses:
            self._news.put_nowait(use)

    async def run(self) -> None:
        """Passes news on until cancelled."""
        while True:
            await self._pass_on([await self._news.get(), *self._drain()])

    async def flush(self) -> None:
        """Passes on what is left, such as that the plan needs nothing more."""
        await self._pass_on(self._drain())

    def _drain(self) -> list[PrefixUse]:
        news: list[PrefixUse] = []
        while not self._news.empty():
            news.append(self._news.get_nowait())
        return news

    async def _pass_on(self, news: list[PrefixUse]) -> None:
        latest: dict[int | None, dict[tuple[int, ...], int | None]] = {}
        for use in news:
            latest.setdefault(use.worker, {})[use.token_ids] = use.next_use
        for worker, uses in latest.items():
            planned = [
                PlannedUse(token_ids=token_ids, cache_salt=self.cache_salt, next_use=next_use)
                for token_ids, next_use in uses.items()
            ]
            try:
                await self.generator.foresee(planned, worker=worker)
            except HeliumError as error:
                log.warning("planned uses were not taken: %s", error)

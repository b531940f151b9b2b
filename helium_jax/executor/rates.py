"""How fast an engine is, as far as plans need to know: measured once, kept, held to its runs."""

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from helium_jax.executor.calibration import measure_roofline
from helium_jax.executor.result import CallSpan
from helium_jax.schedule import CallGraph
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.order_cost import ModelName
from helium_jax.schedule.prediction import ModelComparison, TimedCall, compare_models
from helium_jax.schedule.roofline import Roofline
from helium_jax.types import Generator, ModelInfo

log = logging.getLogger(__name__)

MIN_CALLS = 64  # of a run that is worth a measurement before it
MAX_COMPARED_CALLS = 5_000  # of a run that is held against both models
LEAST_SHARE = 0.1  # of the last run in the mean errors, so that they follow changes
MAX_FILE_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRates:
    """What is known of an engine's speed.

    Attributes:
        roofline: seconds of its steps.
        num_runs: that were held against the cost models.
        token_step_error: mean error of the ends of their calls as fractions of their makespans, by
            the token-step model; later runs count more.
        roofline_error: the same by the roofline.
    """

    roofline: Roofline
    num_runs: int = 0
    token_step_error: float = 0.0
    roofline_error: float = 0.0

    @property
    def better(self) -> ModelName:
        """The model that predicted the runs so far better; the paper's before there were any."""
        is_roofline = self.num_runs > 0 and self.roofline_error < self.token_step_error
        return "roofline" if is_roofline else "token_step"

    def after(self, run: ModelComparison) -> "EngineRates":
        """What is known when one more run is over."""
        share = max(1.0 / (self.num_runs + 1), LEAST_SHARE)
        return EngineRates(
            roofline=self.roofline.observe(predicted_s=run.roofline_s, actual_s=run.actual_s),
            num_runs=self.num_runs + 1,
            token_step_error=_mixed(self.token_step_error, run.token_step_error, share),
            roofline_error=_mixed(self.roofline_error, run.roofline_error, share),
        )


class RateStore:
    """Rates in a folder, one JSON file per engine; one that cannot be used costs a warning."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: is made when the first rates are saved.
        """
        self._folder = folder

    def load(self, engine: str) -> EngineRates | None:
        """What is known of an engine; None if nothing is."""
        path = self._folder / f"{engine}.json"
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"is larger than {MAX_FILE_BYTES} bytes")
            rates = msgspec.json.decode(path.read_bytes(), type=EngineRates)
            _check(rates)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("rates %s are not read: %s", path, error)
            return None
        return rates

    def save(self, engine: str, rates: EngineRates) -> None:
        """Keeps what is known of an engine."""
        path = self._folder / f"{engine}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Under a name of its own until it is whole: a reader never sees half a file.
            partial = path.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(rates), indent=1))
            partial.replace(path)
        except OSError as error:
            log.warning("rates %s are not saved: %s", path, error)


@dataclass(slots=True, eq=False)
class RunMark:
    """A run that goes on; `is_alone` until another one goes on beside it."""

    is_alone: bool


class RateKeeper:
    """The rates of one generator's engines; belongs to one event loop."""

    def __init__(
        self,
        generator: Generator,
        *,
        store: RateStore | None = None,
        measures: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            generator: the token side.
            store: where rates outlive the process.
            measures: an engine of unknown speed is measured before the first large run.
            clock: seconds.
        """
        self._generator = generator
        self._store = store
        self._measures = measures
        self._clock = clock
        self._rates: EngineRates | None = None
        self._is_loaded = store is None
        self._gate = asyncio.Lock()
        self._running: list[RunMark] = []

    async def known(self) -> EngineRates | None:
        """What is known so far; nothing is measured."""
        if not self._is_loaded:
            self._is_loaded = True
            assert self._store is not None
            self._rates = await asyncio.to_thread(self._store.load, self._engine)
        return self._rates

    async def measured(self) -> EngineRates | None:
        """What is known, after a measurement if that is nothing; None if it fails."""
        async with self._gate:
            if await self.known() is None:
                roofline = await measure_roofline(self._generator, clock=self._clock)
                if roofline is not None:
                    await self._keep(EngineRates(roofline=roofline))
        return self._rates

    async def before(self, num_calls: int) -> EngineRates | None:
        """What is known before a run of so many calls. A large one may wait for a measurement,
        which takes a part of a second, if the engine has nothing else to do."""
        rates = await self.known()
        if rates is not None or not self._measures or num_calls < MIN_CALLS:
            return rates
        if self._gate.locked() or self._running or not self._is_idle:
            return None
        return await self.measured()

    @contextlib.contextmanager
    def running(self) -> Iterator[RunMark]:
        """Marks a run, and those it meets: their times say little about either model."""
        mark = RunMark(is_alone=not self._running)
        for other in self._running:
            other.is_alone = False
        self._running.append(mark)
        try:
            yield mark
        finally:
            self._running.remove(mark)

    async def after(
        self, graph: CallGraph, setting: DispatchSetting, spans: Iterable[CallSpan]
    ) -> ModelComparison | None:
        """Holds both models against a run, and corrects the rates by it.

        None where they cannot be compared: rates are not known, no call was made, or too many.
        """
        rates = await self.known()
        calls = [
            TimedCall(span.operator, span.row, span.worker or 0, span.submitted, span.finished)
            for span in spans
            if span.submitted is not None and span.source in ("computed", "kv")
        ]
        if rates is None or not calls or len(calls) > MAX_COMPARED_CALLS:
            return None
        try:
            found = await asyncio.to_thread(compare_models, graph, setting, rates.roofline, calls)
        except ValueError:  # an order that no model can follow
            return None
        await self._keep(rates.after(found))
        return found

    @property
    def _engine(self) -> str:
        return name_engine(self._generator.info, self._generator.statistics()[0].cache.page_size)

    @property
    def _is_idle(self) -> bool:
        return not any(one.num_running or one.num_waiting for one in self._generator.statistics())

    async def _keep(self, rates: EngineRates) -> None:
        self._rates = rates
        if self._store is not None:
            await asyncio.to_thread(self._store.save, self._engine, rates)


def name_engine(info: ModelInfo, page_size: int) -> str:
    """A name for engines that are equally fast as far as anybody knows."""
    what = (
        info.speed_class,
        info.num_workers,
        info.max_num_seqs,
        info.max_num_batched_tokens,
        page_size,
    )
    return hashlib.blake2b(repr(what).encode(), digest_size=12).hexdigest()


def _mixed(mean: float, last: float, share: float) -> float:
    return mean + share * (last - mean)


def _check(rates: EngineRates) -> None:
    """Refuses numbers that no measurement can have left: every plan would inherit them."""
    for name, value in dataclasses.asdict(rates.roofline).items():
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError(f"{name} is no rate")

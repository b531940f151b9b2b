"""A roofline of the real engine: seconds of its steps, calibrated by a few measured ones.

A step takes a fixed time, the time of its tokens (at least that of reading the weights once, which
is the flat part of the roof), of the context its decodes read, and of the context its prefills
attend to. Batch limits, page rounding, sharing and eviction are the simulated engine's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from helium_jax.schedule.step_work import StepWork

_LEARNING_RATE = 0.3
_RIDGE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Seconds of an engine's steps.

    Attributes:
        step_s: of a step, whatever it does.
        token_s: per token of a step, padding included.
        knee_tokens: tokens that take no longer than one: until then weights are being read.
        kv_token_s: per token of context read by a decode.
        pair_s: per token of context attended to by a token of a prefill.
        buckets: sizes to which the engine pads a step's tokens, ascending; empty: none.
        scale: what runs showed all of it to be multiplied by.
    """

    step_s: float
    token_s: float
    knee_tokens: float = 0.0
    kv_token_s: float = 0.0
    pair_s: float = 0.0
    buckets: tuple[int, ...] = ()
    scale: float = 1.0

    def seconds(self, work: StepWork) -> float:
        """How long the steps of `work` take; a `StepCost`."""
        step, tokens, kv, pairs = _features(work, self.knee_tokens, self.buckets)
        seconds = step * self.step_s + tokens * self.token_s
        return self.scale * (seconds + kv * self.kv_token_s + pairs * self.pair_s)

    def step_seconds(self, tokens: float, kv_tokens: float, pair_tokens: float) -> float:
        """How long one step takes that has so many tokens, contexts of decodes and of prefills."""
        if self.buckets:
            tokens = next((float(bucket) for bucket in self.buckets if bucket >= tokens), tokens)
        seconds = self.step_s + max(tokens, self.knee_tokens) * self.token_s
        return self.scale * (seconds + kv_tokens * self.kv_token_s + pair_tokens * self.pair_s)

    def prefill_seconds(self, num_tokens: int, *, start: int = 0) -> float:
        """How long a prefill takes beside other work: its tokens and what they attend to."""
        pairs = num_tokens * (start + (num_tokens + 1) / 2)
        return self.scale * (num_tokens * self.token_s + pairs * self.pair_s)

    def observe(self, *, predicted_s: float, actual_s: float) -> "Roofline":
        """The same roof, lifted or lowered by a part of what a run was mispredicted."""
        if predicted_s <= 0.0 or actual_s <= 0.0:
            return self
        return replace(self, scale=self.scale * (actual_s / predicted_s) ** _LEARNING_RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSample:
    """A measurement: what some steps did, and the seconds they took together."""

    work: StepWork
    seconds: float


def from_hardware(
    *,
    num_params: int,
    weight_bytes: int,
    kv_bytes_per_token: int,
    operations_per_s: float,
    bytes_per_s: float,
    step_s: float = 0.0,
) -> Roofline:
    """A roof from datasheets, for an engine that was never measured.

    Args:
        num_params: weights that a token is multiplied with.
        weight_bytes: of all of them.
        kv_bytes_per_token: of K and V over all layers.
        operations_per_s: of the matrix units, in the weights' type.
        bytes_per_s: of the memory.
        step_s: of launching a step.
    """
    token_s = 2 * num_params / operations_per_s
    kv_token_s = kv_bytes_per_token / bytes_per_s
    return Roofline(
        step_s=step_s,
        token_s=token_s,
        knee_tokens=weight_bytes / bytes_per_s / token_s,
        kv_token_s=kv_token_s,
        pair_s=kv_token_s / 64,  # a tile of queries reads a key once
    )


def calibrate(samples: Sequence[CostSample], *, buckets: tuple[int, ...] = ()) -> Roofline:
    """The roof that fits measurements best: least squares of relative errors, no time negative.

    Samples should differ: a few sizes of prefill, and decodes of few and many sequences with short
    and long contexts. What they do not tell apart counts as zero.

    Raises:
        ValueError: there is no sample with steps and time.
    """
    usable = [s for s in samples if s.work.num_steps > 0 and s.seconds > 0.0]
    if not usable:
        raise ValueError(f"none of {len(samples)} samples has steps and took time")
    best: tuple[float, Roofline] | None = None
    for knee in (0.0, *sorted({_tokens_per_step(s.work, buckets) for s in usable})):
        rows = [_features(sample.work, knee, buckets) for sample in usable]
        weighted = [
            [value / sample.seconds for value in row]
            for row, sample in zip(rows, usable, strict=True)
        ]
        step, token, kv, pair = _fit(weighted)
        roof = Roofline(
            step_s=step,
            token_s=token,
            knee_tokens=knee,
            kv_token_s=kv,
            pair_s=pair,
            buckets=buckets,
        )
        error = sum((roof.seconds(s.work) / s.seconds - 1.0) ** 2 for s in usable)
        if best is None or error < best[0] * (1 - 1e-6) - 1e-12:
            best = error, roof
    assert best is not None
    return best[1]


def _features(
    work: StepWork, knee: float, buckets: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """Steps, tokens as the roof counts them, context of decodes, context of prefills."""
    tokens = work.num_steps * max(_tokens_per_step(work, buckets), knee)
    return float(work.num_steps), tokens, float(work.kv_tokens), float(work.pair_tokens)


def _tokens_per_step(work: StepWork, buckets: tuple[int, ...]) -> float:
    tokens = (work.prefill_tokens + work.decode_tokens) / max(work.num_steps, 1)
    return next((float(bucket) for bucket in buckets if bucket >= tokens), tokens)


def _fit(rows: list[list[float]]) -> tuple[float, float, float, float]:
    """Coefficients x >= 0 that bring every row's product with x close to one.

    The best of all choices of which coefficients are zero; with four there are only fifteen.
    """
    best: tuple[float, list[float]] = (float(len(rows)), [0.0] * 4)
    for chosen in _subsets(4):
        columns = [[row[i] for row in rows] for i in chosen]
        solution = _least_squares(columns)
        if min(solution) < 0.0:
            continue
        full = [0.0] * 4
        for i, value in zip(chosen, solution, strict=True):
            full[i] = value
        products = (sum(x * value for x, value in zip(full, row, strict=True)) for row in rows)
        error = sum((product - 1.0) ** 2 for product in products)
        if error < best[0] * (1 - 1e-9):
            best = error, full
    step, token, kv, pair = best[1]
    return step, token, kv, pair


def _subsets(count: int) -> Iterator[list[int]]:
    """Every choice of columns but none, the smaller ones first."""
    masks = sorted(range(1, 1 << count), key=lambda mask: (mask.bit_count(), mask))
    for mask in masks:
        yield [i for i in range(count) if mask >> i & 1]


def _least_squares(columns: list[list[float]]) -> list[float]:
    """x for which the columns, weighted by x, add up to ones as well as possible."""
    norms = [sum(value * value for value in column) ** 0.5 or 1.0 for column in columns]
    scaled = [[value / n for value in column] for column, n in zip(columns, norms, strict=True)]
    size = len(scaled)
    system = [
        [sum(a * b for a, b in zip(first, second, strict=True)) for second in scaled] + [sum(first)]
        for first in scaled
    ]
    for i in range(size):
        system[i][i] += _RIDGE  # columns that say the same share what they explain
    for i in range(size):
        pivot = max(range(i, size), key=lambda row: abs(system[row][i]))
        system[i], system[pivot] = system[pivot], system[i]
        for row in range(size):
            if row != i:
                factor = system[row][i] / system[i][i]
                system[row] = [a - factor * b for a, b in zip(system[row], system[i], strict=True)]
    return [system[i][size] / system[i][i] / norms[i] for i in range(size)]

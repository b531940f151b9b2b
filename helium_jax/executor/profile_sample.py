"""Profiles a plan on a few rows of its own batch; their outputs are not computed again."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from helium_jax.errors import RequestError
from helium_jax.executor.profile import profile_of
from helium_jax.executor.result import RunResult
from helium_jax.optimizer.profile import Profile

Row = Mapping[str, object]

_GOLDEN_RATIO = (5**0.5 - 1) / 2


async def profile_sample(
    run: Callable[[Sequence[Row]], Awaitable[RunResult]], rows: Sequence[Row], *, size: int
) -> tuple[Profile, RunResult]:
    """Runs a sample of the rows; what it shows, and the sample's result.

    The answers of deterministic calls go to the output cache like those of any run, and from there
    to the run of the whole batch. So the sample costs nothing but its smaller batches, provided
    that `run` uses the output cache of that later run.

    Args:
        run: of the plan over some rows.
        rows: of the whole batch.
        size: rows of the sample, at most.

    Raises:
        RequestError: the size is not positive.
    """
    sample = [rows[row] for row in pick_sample(len(rows), size)]
    result = await run(sample)
    return profile_of(result.statistics, len(sample)), result


def pick_sample(num_rows: int, size: int) -> tuple[int, ...]:
    """Rows spread over the batch: neighbours are often alike, and so are rows at equal distances.

    Multiples of the golden ratio leave gaps of few lengths that no period of the rows fits.

    Raises:
        RequestError: the size is not positive.
    """
    if size < 1:
        raise RequestError(f"a sample of {size=} rows shows nothing; take at least 1")
    if size >= num_rows:
        return tuple(range(num_rows))
    picked: set[int] = set()
    position = 0.5
    while len(picked) < size:
        picked.add(int(position * num_rows))
        position = (position + _GOLDEN_RATIO) % 1.0
    return tuple(sorted(picked))

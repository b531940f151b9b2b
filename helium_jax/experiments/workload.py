"""What an experiment runs: a plan with its batches, and the lengths it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from helium_jax.plan import Plan

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """What the paper's workload is like (reference: its section on workloads), unscaled.

    Attributes:
        calls: LLM operators per row.
        prompt_tokens: of all prompts of one row.
        output_tokens: of all answers of one row.
        rows: the largest batch.
    """

    calls: int
    prompt_tokens: int
    output_tokens: int
    rows: int

    @property
    def tokens(self) -> int:
        """Of one row, prompts and answers."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A plan and batches of rows for it; equal arguments and seeds make equal workloads.

    Attributes:
        name: such as "trading".
        plan: what to compute; output lengths are forced, so that every policy does the same work.
        rows: the batch that is measured.
        earlier: a batch that runs before, unmeasured: the day before. None for a cold start.
        lengths: of the paper's workload.
        scale: what its token lengths were multiplied by.
    """

    name: str
    plan: Plan
    rows: tuple[Row, ...]
    earlier: tuple[Row, ...] | None = None
    lengths: Lengths
    scale: float

    def head(self, num_rows: int | None) -> "Workload":
        """The same with the first rows of its batches only; all of them for None."""
        earlier = None if self.earlier is None else self.earlier[:num_rows]
        return replace(self, rows=self.rows[:num_rows], earlier=earlier)

"""What a rule may know besides the plan: one frozen snapshot, taken before the rewriting starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from helium_jax.optimizer.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """One column of the batch.

    Attributes:
        values: the number of each row's value, counted from 0 in order of first appearance: rows
            with equal numbers have equal values.
        mean_chars: mean length of its distinct values.
    """

    values: tuple[int, ...]
    mean_chars: float

    @property
    def num_distinct(self) -> int:
        """How many different values there are."""
        return max(self.values, default=-1) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of the engine, the batch and the caches; the defaults know nothing.

    Attributes:
        deterministic: the engine gives equal tokens for equal requests bit for bit.
        num_rows: of the batch; None when only the plan is looked at.
        columns: by input.
        known: the answers that the output cache has, by operator and row.
        profile: of earlier calls.
    """

    deterministic: bool = False
    num_rows: int | None = None
    columns: Mapping[str, ColumnFacts] = field(default_factory=dict)
    known: Mapping[tuple[str, int], str] = field(default_factory=dict)
    profile: Profile = field(default_factory=Profile)


def describe_column(values: Sequence[str]) -> ColumnFacts:
    """What a rule needs to know of a column's values, one per row."""
    numbers: dict[str, int] = {}
    rows = tuple(numbers.setdefault(value, len(numbers)) for value in values)
    mean_chars = sum(map(len, numbers)) / len(numbers) if numbers else 0.0
    return ColumnFacts(values=rows, mean_chars=mean_chars)

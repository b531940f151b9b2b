"""What a rule may know besides the plan: one frozen snapshot, taken before the rewriting starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from helium_jax.plan import Const, Plan


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
        columns: by input, and by constant that is a column.
        known: the answers that the output cache has, by operator and row.
    """

    deterministic: bool = False
    num_rows: int | None = None
    columns: Mapping[str, ColumnFacts] = field(default_factory=dict)
    known: Mapping[tuple[str, int], str] = field(default_factory=dict)


def describe_column(values: Sequence[str]) -> ColumnFacts:
    """What a rule needs to know of a column's values, one per row."""
    numbers: dict[str, int] = {}
    rows = tuple(numbers.setdefault(value, len(numbers)) for value in values)
    mean_chars = sum(map(len, numbers)) / len(numbers) if numbers else 0.0
    return ColumnFacts(values=rows, mean_chars=mean_chars)


def gather_facts(
    plan: Plan,
    num_rows: int,
    columns: Mapping[str, Sequence[str]],
    *,
    deterministic: bool = False,
    known: Mapping[tuple[str, int], str] | None = None,
) -> Facts:
    """The snapshot for a plan over a batch.

    Args:
        plan: the plan.
        num_rows: rows of the batch.
        columns: their values by name; names that are no columns of the plan are left out.
        deterministic: see `Facts`.
        known: see `Facts`.
    """
    names = {node.name for node in plan.inputs}
    names |= {op.name for op in plan.ops if isinstance(op, Const) and op.is_column}
    return Facts(
        deterministic=deterministic,
        num_rows=num_rows,
        columns={name: describe_column(columns[name]) for name in columns if name in names},
        known=known or {},
    )

"""Which rows have equal values where: columns with few distinct values make shared prefixes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from helium_jax.optimizer.facts import Facts
from helium_jax.optimizer.rewriting import is_repeatable
from helium_jax.plan import Chat, Completion, Const, Input, Param, Plan, references

# Shorter values fill no KV page: rows that share them share nothing more than rows that do not.
MIN_CHARS = 64

Rows = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Which rows are alike; says nothing of when they run.

    Attributes:
        values: for every input and operator outside bodies that some rows have in common, the
            number of each row's value: rows with equal numbers have equal values. So an operator
            makes as many calls as it has numbers, and a prompt with this value in a slot is the
            same for rows with equal numbers, if what stands before it is.
        columns: the columns among them whose values are long enough to share KV, the ones that
            save most first.
        row_order: every row once; rows with equal values in `columns` are together.
    """

    values: Mapping[str, Rows] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    row_order: Rows = ()

    def count_distinct(self, name: str) -> int | None:
        """How many values a node has over the batch; None if no two rows are known to be alike."""
        rows = self.values.get(name)
        return None if rows is None else max(rows, default=-1) + 1


def group_rows_by_value(plan: Plan, facts: Facts) -> Grouping:
    """Finds the rows that share values, and an order that keeps them together.

    The plan stays as it is: this annotates it for the schedule.

    Rewrite:       column c = [u, v, u, v]  ->  order of rows 0, 2, 1, 3
    Legal when:    rows are equal in everything that a value depends on, and every operator in
                   between is deterministic: no call, greedy, or seeded where the engine is
                   deterministic. The order of rows never changes outputs.
    Pays off when: some rows are equal in a column that stands in a prompt, and its values are at
                   least `MIN_CHARS` long on average.
    """
    if not facts.num_rows:
        return Grouping()
    values = dict(_find_values(plan, facts, facts.num_rows))
    columns = _worthwhile(plan, facts, values)
    order = sorted(range(facts.num_rows), key=lambda row: [values[name][row] for name in columns])
    return Grouping(values=values, columns=columns, row_order=tuple(order))


def _find_values(plan: Plan, facts: Facts, num_rows: int) -> Iterator[tuple[str, Rows]]:
    numbers: dict[str, Rows] = {}
    for name in plan.topological_order:
        node = plan.nodes[name]
        match node:
            case Input() | Const() if name in facts.columns:
                rows = facts.columns[name].values
            case Const(value=tuple() as column):
                rows = _number([(repr(value),) for value in column])
            case Param():
                rows = (0,) * num_rows
            case Input():
                rows = tuple(range(num_rows))  # nothing is known of it
            case _ if is_repeatable((node,), facts):
                needs = [numbers[need] for need in references(node)]
                rows = _number([tuple(need[row] for need in needs) for row in range(num_rows)])
            case _:
                rows = tuple(range(num_rows))
        numbers[name] = rows
        if len(rows) == num_rows and max(rows) + 1 < num_rows:
            yield name, rows


def _number(keys: list[tuple[object, ...]]) -> Rows:
    """Equal keys get equal numbers, counted in order of first appearance."""
    seen: dict[tuple[object, ...], int] = {}
    return tuple(seen.setdefault(key, len(seen)) for key in keys)


def _worthwhile(plan: Plan, facts: Facts, values: Mapping[str, Rows]) -> tuple[str, ...]:
    """Input columns by the characters of prompts that their repeated values stand for."""
    uses = {name: 0 for name in facts.columns}
    for op in plan.all_ops:
        if isinstance(op, Chat | Completion):
            for name in references(op):
                if name in uses:
                    uses[name] += 1
    saved = {}
    for name, column in facts.columns.items():
        if name in values and uses[name] and column.mean_chars >= MIN_CHARS:
            num_repeated = len(column.values) - column.num_distinct
            saved[name] = uses[name] * num_repeated * column.mean_chars
    return tuple(sorted(saved, key=lambda name: -saved[name]))

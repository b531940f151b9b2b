"""What can be expected of operators before they ran: tokens of their values, executions per row.

Never zero for what is not known. What depends on a decision of the run (how often a loop goes on,
how long a list is) gets a plain guess within the plan's own bounds.
"""

from collections.abc import Mapping, Sequence

from helium_jax.physical import (
    Apply,
    Branch,
    Generate,
    Hold,
    Invoke,
    Loop,
    Map,
    PhysicalOperator,
    PhysicalPlan,
    Race,
    Read,
    Slice,
    View,
    regions,
)
from helium_jax.plan import Slot, Text
from helium_jax.schedule.templates import PromptEncoder

DEFAULT_TOKENS = 64.0  # of a value about which nothing is known
BRANCH_SHARE = 0.5  # of the rows that take a way
LIST_ITEMS = 4.0  # of a list that the run produces
CHARS_PER_TOKEN = 4.0

_SAMPLED_ROWS = 8
_SAMPLED_CHARS = 2000


def expect_repeats(physical: PhysicalPlan) -> dict[str, float]:
    """Per operator how often it is executed for a row."""
    repeats: dict[str, float] = {}
    pending: list[tuple[PhysicalOperator, float]] = [(op, 1.0) for op in physical.operators]
    while pending:
        op, times = pending.pop()
        repeats[op.name] = times
        match op:
            case Branch():
                inside = times * BRANCH_SHARE
            case Loop(count=int() as count):
                inside = times * count
            case Loop(max_iterations=most):
                inside = times * (1 + most) / 2
            case Map(max_items=most):
                inside = times * min(LIST_ITEMS, most)
            case _:
                inside = times
        pending += [(one, inside) for region in regions(op) for one in region.operators]
    return repeats


def expect_tokens(
    physical: PhysicalPlan,
    codec: PromptEncoder,
    estimates: Mapping[str, float],
    columns: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """Per operator and bound name the tokens of its value.

    Args:
        physical: the plan.
        codec: the model's text.
        estimates: of operators that ran before or are otherwise known.
        columns: values that are known.
    """
    expected = _Expected(codec, estimates, columns)
    expected.add(physical.operators)
    return expected.tokens


class _Expected:
    """Goes through operators in the order in which they run."""

    def __init__(
        self,
        codec: PromptEncoder,
        estimates: Mapping[str, float],
        columns: Mapping[str, Sequence[str]],
    ) -> None:
        self._codec = codec
        self._estimates = estimates
        self._columns = columns
        self.tokens: dict[str, float] = {}

    def add(self, operators: Sequence[PhysicalOperator]) -> None:
        """Adds what `operators` and all in their regions give."""
        for op in operators:
            self._bind(op)
            for region in regions(op):
                self.add(region.operators)
            if isinstance(op, Loop):  # once more with what later iterations begin with
                for one in op.carried:
                    self.tokens[one.name] = max(self.tokens[one.name], self._of(one.next))
                self.add(op.body.operators)
            self.tokens[op.name] = self._estimate(op)

    def _bind(self, op: PhysicalOperator) -> None:
        match op:
            case Loop(carried=carried):
                self.tokens |= {one.name: self._of(one.initial) for one in carried}
            case Map(item=item, over=over):
                whole = sum(self._of(name) for name in over.names)
                self.tokens[item] = whole / LIST_ITEMS or DEFAULT_TOKENS
            case _:
                pass

    def _of(self, name: str) -> float:
        return self.tokens.get(name, DEFAULT_TOKENS)

    def _estimate(self, op: PhysicalOperator) -> float:
        if op.name in self._columns:
            return mean_tokens(self._codec, self._columns[op.name])
        if op.name in self._estimates:
            return self._estimates[op.name]
        match op:
            case Hold(values=values):
                return mean_tokens(self._codec, values)
            case Generate(settings=settings):
                return float(settings.sampling.max_tokens or DEFAULT_TOKENS)
            case Apply(text=text):
                return self._text(text)
            case Slice(source=source) | View(source=source):
                return self._of(source)
            case Branch():
                return max(self._of(region.result) for region in regions(op))
            case Loop():
                return self._of(op.final)
            case Map(body=body, reduce=reduce, max_items=most):
                times = min(LIST_ITEMS, most) if reduce.kind == "concat" else 1.0
                return self._of(body.result) * times
            case Race(arms=arms, k=k, reduce=reduce):
                times = k if reduce.kind == "concat" else 1
                return max(self._of(arm.result) for arm in arms) * times
            case Read() | Invoke():
                return DEFAULT_TOKENS

    def _text(self, text: Text) -> float:
        parts = (
            self._of(part.name) if isinstance(part, Slot) else len(part) / CHARS_PER_TOKEN
            for part in text
        )
        return sum(parts)


def mean_tokens(codec: PromptEncoder, values: Sequence[str]) -> float:
    """Mean length of a column, from the beginnings of some of its values."""
    if not values:
        return DEFAULT_TOKENS
    num_special = len(codec.encode(""))
    sample = values[:: -(-len(values) // _SAMPLED_ROWS)]
    beginnings = [value[:_SAMPLED_CHARS] for value in sample]
    num_tokens = sum(len(codec.encode(text)) - num_special for text in beginnings)
    num_chars = sum(map(len, beginnings))
    if not num_chars:
        return 0.0
    return num_tokens / num_chars * sum(map(len, values)) / len(values)

"""What a scheduler sees of a plan: calls, what their prompts are made of, and who waits for whom.

Prompts are told in segments, not in token ids: to schedule, it is enough to know which stretches
are equal and how long they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One stretch of a prompt template.

    Attributes:
        key: segments with equal keys, after equal segments, are equal tokens. Static text: a digest
            of its token ids; a slot: the name of the operator or input whose value stands there.
            The empty key is never shared.
        num_tokens: how long it is; for a slot, as far as is known beforehand.
        is_static: the same for every row. A slot's value is shared only within its row.
        group: name of a column with few distinct values; rows in which it is equal share this
            segment although it is a slot.
    """

    key: str
    num_tokens: float
    is_static: bool
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallNode:
    """An operator that calls the language model.

    Attributes:
        name: of the operator.
        segments: its prompt, from the first token.
        needs: the calls whose values it waits for, directly or through texts put together.
        output_tokens: of its answer, as far as is known beforehand.
        role: which agent it belongs to: equal for calls that begin with the same static text.
        repeats: expected executions per row; other than 1 in bodies of loops, maps and branches.
    """

    name: str
    segments: tuple[Segment, ...]
    needs: tuple[str, ...] = ()
    output_tokens: float
    role: str
    repeats: float = 1.0

    @property
    def prompt_tokens(self) -> float:
        """How long its prompt is."""
        return sum(segment.num_tokens for segment in self.segments)


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class CallGraph:
    """The calls of a plan over a batch.

    Attributes:
        nodes: every call after those it needs.
        num_rows: rows of the batch.
        values: for every column that is a segment's group, the number of each row's value; rows
            with equal numbers have equal values.
    """

    nodes: tuple[CallNode, ...]
    num_rows: int
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> Mapping[str, CallNode]:
        """The calls under their names."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """The calls that wait for each call, in the order of `nodes`."""
        users: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for need in node.needs:
                users[need].append(node.name)
        return {name: tuple(names) for name, names in users.items()}

    @cached_property
    def place(self) -> Mapping[str, int]:
        """The index of each call in `nodes`."""
        return {node.name: index for index, node in enumerate(self.nodes)}

    def identity(self, segment: Segment, row: int) -> tuple[str, int]:
        """What the segment is in `row`: equal identities after equal ones are equal tokens.

        The second number is -1 for what all rows share. Segments with the empty key have no
        identity; whoever compares them must not ask.
        """
        if segment.is_static:
            return segment.key, -1
        if segment.group:
            return segment.key, self.values[segment.group][row]
        return segment.key, row

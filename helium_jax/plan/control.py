"""The nodes that hold other nodes: branch, loop, map and race, each deciding row by row.

Regions are structured: a body has one result and no jumps. A body sees all names of the scopes
around it and none of its siblings'; every operator, carried name and item is unique in the whole
plan, so that a name means one thing wherever it stands.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from helium_jax.plan.formula import Formula
from helium_jax.plan.nodes import (
    Chat,
    Completion,
    Concat,
    Const,
    Lambda,
    Slice,
    Source,
    Template,
    View,
)

ReduceKind = Literal["concat", "vote", "best_of"]
REDUCE_KINDS: tuple[ReduceKind, ...] = ("concat", "vote", "best_of")
BEST_OF_NAME = "value"  # what the score of a best_of calls the text it judges


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Operators with one result.

    Attributes:
        ops: in the author's order.
        result: a name inside the body or visible from it.
    """

    ops: "tuple[Op, ...]"
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One of two bodies per row; nothing of the other is computed.

    Attributes:
        otherwise: None: the row's value is the empty text.
    """

    name: str
    condition: Formula
    then: Body
    otherwise: Body | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A value that one iteration hands to the next.

    Attributes:
        name: what the body calls it.
        initial: the name, outside the loop, of its value in the first iteration.
        next: the name, inside the body or visible from it, of its value in the next iteration.
    """

    name: str
    initial: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A body that runs again and again, as often as each row needs.

    Its value is that of `body.result` after the last iteration; a carried name as the result means
    its value after its last change. Without any iteration it is the initial value of the carried
    name that is the result or whose `next` is the result, and without either the empty text.

    Attributes:
        count: iterations, or the name of an int parameter; None for a while.
        condition: read before each iteration over outer and carried names; None with a count.
        max_iterations: more fail the row: of a while, when the condition still holds then.
    """

    name: str
    carried: tuple[Carried, ...]
    body: Body
    count: int | str | None = None
    condition: Formula | None = None
    max_iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce:
    """Many texts into one; of no texts, the empty text.

    Attributes:
        kind: concat joins them in order; vote takes the most frequent one, stripped, the first of
            equally frequent ones; best_of the one with the highest score, the first of equals.
        separator: of concat.
        score: of best_of: a number, over the name `value` and all names visible.
    """

    kind: ReduceKind = "concat"
    separator: str = "\n"
    score: Formula | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A body for every item of a list that is only known when the row runs.

    Attributes:
        over: a list of texts.
        item: what the body calls its item.
        max_items: a longer list fails the row.
        reduce: how the results, in the order of the items, become the value.
    """

    name: str
    over: Formula
    item: str
    body: Body
    max_items: int
    reduce: Reduce = Reduce()


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Bodies of which the first `k` to finish count; the others are cancelled.

    An arm that fails leaves the race; a row fails only when all of its arms do.

    Attributes:
        reduce: how the results, in the order of the arms, become the value.
    """

    name: str
    arms: tuple[Body, ...]
    k: int = 1
    reduce: Reduce = Reduce()


Control = Branch | Loop | Map | Race
Op = Const | Template | Chat | Completion | Lambda | Slice | Concat | View | Control
Node = Source | Op


def bodies(op: Op) -> tuple[Body, ...]:
    """The bodies of an operator, in the author's order; of most operators none."""
    match op:
        case Branch(then=then, otherwise=otherwise):
            return (then,) if otherwise is None else (then, otherwise)
        case Loop(body=body) | Map(body=body):
            return (body,)
        case Race(arms=arms):
            return arms
        case _:
            return ()


def body_fields(op: Op) -> tuple[str, ...]:
    """Where the bodies stand in the operator's document, in the order of `bodies`."""
    match op:
        case Branch(otherwise=None):
            return ("then",)
        case Branch():
            return ("then", "else")
        case Loop() | Map():
            return ("body",)
        case Race(arms=arms):
            return tuple(f"arms[{index}]" for index in range(len(arms)))
        case _:
            return ()


def bound_names(op: Op) -> tuple[str, ...]:
    """The names that an operator gives to its bodies: carried names and items."""
    match op:
        case Loop(carried=carried):
            return tuple(one.name for one in carried)
        case Map(item=item):
            return (item,)
        case _:
            return ()


def walk(ops: Iterable[Op]) -> Iterator[Op]:
    """Every operator and those in its bodies, an operator before what it holds."""
    pending = list(ops)[::-1]
    while pending:
        op = pending.pop()
        yield op
        for body in reversed(bodies(op)):
            pending += reversed(body.ops)


def is_call(node: Node) -> bool:
    """Whether the node itself calls a language model."""
    return isinstance(node, Chat | Completion)


def is_deterministic(node: Node) -> bool:
    """Whether equal inputs always give equal values.

    Not so for sampling without a seed, impure functions, a race that time decides, and whatever
    holds one of these.
    """
    match node:
        case Chat(settings=settings) | Completion(settings=settings):
            return settings.sampling.is_deterministic
        case Lambda(function=function):
            return function.is_pure
        case Race(arms=arms, k=k) if k < len(arms):
            return False
        case Branch() | Loop() | Map() | Race():
            return all(is_deterministic(op) for body in bodies(node) for op in body.ops)
        case _:
            return True

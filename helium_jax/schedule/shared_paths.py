"""Which stretches of prompts several calls of a batch have in common, as numbers.

The concrete counterpart of the templated radix tree: a stretch of a row's own values is one per
row, static text is one for all.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from helium_jax.schedule.call_graph import CallGraph


class Stretch(NamedTuple):
    """Tokens that more than one call has at the same place after the same tokens.

    Attributes:
        number: of the stretch.
        end: prompt tokens up to its end.
        is_static: the same for every row, so that it is there once however many rows a row of the
            graph stands for.
    """

    number: int
    end: float
    is_static: bool


class SharedPath(NamedTuple):
    """A call's prompt.

    Attributes:
        stretches: its beginning as far as others have it, too.
        answer: the number of the stretch that its answer is in a prompt that goes on from there;
            -1 if there is none.
    """

    stretches: tuple[Stretch, ...]
    answer: int


def shared_paths(graph: CallGraph, calls: Sequence[int]) -> dict[int, SharedPath]:
    """The paths of some calls, numbered `operator * num_rows + row`.

    Stretches that the same calls have are one; what only one call has is left out.
    """
    numbers: dict[tuple[int, object], int] = {}
    uses: Counter[int] = Counter()
    walks: dict[int, list[tuple[int, float, bool]]] = {}
    for call in calls:
        operator, row = divmod(call, graph.num_rows)
        number, end, is_static, walk = -1, 0.0, True, []
        for segment in graph.nodes[operator].segments:
            if not segment.key:
                break
            number = numbers.setdefault((number, graph.identity(segment, row)), len(numbers))
            end += segment.num_tokens
            is_static = is_static and segment.is_static
            uses[number] += 1
            walk.append((number, end, is_static))
        walks[call] = walk
    answers: dict[int, int] = {}
    for call, walk in walks.items():
        operator, row = divmod(call, graph.num_rows)
        node = graph.nodes[operator]
        if walk and len(walk) == len(node.segments):
            answers[call] = numbers.get((walk[-1][0], (node.name, row)), -1)
    kept = {number for number, count in uses.items() if count > 1} | set(answers.values())
    return {
        call: SharedPath(
            stretches=_joined([Stretch(*step) for step in walk if step[0] in kept], uses),
            answer=answers.get(call, -1),
        )
        for call, walk in walks.items()
    }


def _joined(stretches: list[Stretch], uses: Counter[int]) -> tuple[Stretch, ...]:
    """Leaves out a stretch that is always followed by the next one."""
    whole = [
        one
        for one, after in pairwise(stretches)
        if uses[one.number] != uses[after.number] or one.is_static != after.is_static
    ]
    return (*whole, *stretches[-1:])

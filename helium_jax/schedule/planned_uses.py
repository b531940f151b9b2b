"""When the plan needs each shared prefix again, kept up to date while a run goes on.

Operators whose prompts begin alike share a stem of a trie over segments. A stem stands for one
prefix of tokens per scope: all rows (static text), rows of one value (grouped columns), or one row.
Its next use is the smallest rank among the calls of its operators that are still to come.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from helium_jax.schedule.call_graph import CallGraph, CallNode
from helium_jax.schedule.dispatch import PrefixUse, ReadyCall

Rank = Callable[[str, int], int]


@dataclass(slots=True, kw_only=True)
class _Stem:
    """Leading segments that several calls have in common.

    Attributes:
        path: keys of the segments.
        scope: "all", "row", or the grouped columns whose values must be equal.
        operators: whose prompts begin with it.
    """

    path: tuple[str, ...]
    scope: str | tuple[str, ...]
    operators: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the KV store was last told of a prefix: the first `length` of a call's tokens."""

    next_use: int
    token_ids: tuple[int, ...]
    length: int


class PlannedUses:
    """Next uses of the prefixes of one run.

    Args:
        graph: the plan's calls.
        rank: the place of a call in the planned order.
        patience: how far a static prefix's next use may have moved before it is told again;
            telling costs the engine a lookup of all its pages.
    """

    def __init__(self, graph: CallGraph, rank: Rank, *, patience: int) -> None:
        self._graph = graph
        self._rank = rank
        self._patience = patience
        self._stems = _stems(graph)
        self._open = {node.name: _OpenRows(graph.num_rows, node.name, rank) for node in graph.nodes}
        self._told: dict[tuple[tuple[str, ...], tuple[int, ...]], _Told] = {}
        self._early: set[tuple[str, int]] = set()  # calls whose pages were told of before them
        self._doubtful: dict[tuple[str, int], None] = {}  # closed calls whose prefixes were told
        self._rows_of = _rows_of_values(graph)

    def consume(self, call: ReadyCall) -> None:
        """A call was released; in a loop or map another one of its operator may follow."""
        node = self._graph.by_name.get(call.operator)
        if node is not None and node.repeats == 1.0 and not call.frame:
            self._open[call.operator].close(call.row)

    def close(self, operator: str, row: int) -> None:
        """No further call of the operator comes for the row."""
        if operator in self._open:
            self._open[operator].close(row)
        for stem in self._stems.get(operator, ()):
            if stem.scope != "all" and row < self._graph.num_rows:
                place = (stem.path, self._instance(stem, row))
                if place in self._told:
                    self._doubtful[operator, row] = None

    def expect_early(self, operator: str, row: int) -> int | None:
        """A coming call's prompt is computed in part before the call: when it is needed. What is
        told of these pages now is taken back when the call is over."""
        if operator not in self._open or not self._open[operator].has(row):
            return None
        self._early.add((operator, row))
        return self._rank(operator, row)

    def at_release(self, call: ReadyCall) -> int | None:
        """When all of a prompt, and its answer with it, is needed again by its row: the next turn
        of the same conversation. None where only a part of it is: `started` speaks of parts."""
        node = self._graph.by_name.get(call.operator)
        for stem in self._stems.get(call.operator, ()):
            if node is not None and len(stem.path) == len(node.segments) and stem.scope == "row":
                later = [n for n in stem.operators if self._open[n].has(call.row)]
                return min((self._rank(n, call.row) for n in later), default=None)
        return None

    def next_reader(self, call: ReadyCall) -> tuple[str, int, bool] | None:
        """The next operator that begins with what only this row has of a prompt; how many tokens
        of the prompt that is, and whether the answer comes with it. None if there is no such."""
        node = self._graph.by_name.get(call.operator)
        for stem in self._stems.get(call.operator, ()):
            later = [n for n in stem.operators if self._open[n].has(call.row)]
            if node is not None and stem.scope == "row" and later:
                reader = min(later, key=lambda name: self._rank(name, call.row))
                length = _stem_tokens(node, len(stem.path), len(call.token_ids))
                return reader, length, len(stem.path) == len(node.segments)
        return None

    def started(self, call: ReadyCall) -> list[PrefixUse]:
        """What to say while a call runs: its pages are there now and cannot go yet."""
        return self._tell(call, is_over=False)

    def finished(self, call: ReadyCall) -> list[PrefixUse]:
        """What to say when a call is over: of what only it had needed, that nothing does."""
        return self._tell(call, is_over=True)

    def expired(self, operators: Iterable[str]) -> list[PrefixUse]:
        """Prefixes that were told to be needed, of calls that turned out never to come: static ones
        of these operators that nothing needs any more, and a row's own that is needed later."""
        uses = self._review_rows()
        over = [n for n in operators if n in self._open and self._open[n].first_rank() is None]
        for stem in {s.path: s for name in over for s in self._stems[name]}.values():
            if stem.scope != "all" or self._next_use(stem, 0) is not None:
                continue
            told = self._told.pop((stem.path, ()), None)
            if told is not None:
                uses.append(_use(told, None))
        return uses

    def _review_rows(self) -> list[PrefixUse]:
        """What is not true any more of what was told of the prefixes of rows, because a call was
        closed; the longest part first, as in `_tell`."""
        doubtful, self._doubtful = self._doubtful, {}
        uses: list[PrefixUse] = []
        for operator, row in doubtful:
            before = len(uses)
            for stem in self._stems[operator]:
                place = (stem.path, self._instance(stem, row))
                told = self._told.get(place)
                if told is None:
                    continue
                next_use = self._next_use(stem, row)
                is_news = stem.scope != "all" and next_use != told.next_use
                if not is_news and len(uses) == before:
                    continue
                uses.append(_use(told, next_use))
                if next_use is None:
                    del self._told[place]
                else:
                    self._told[place] = replace(told, next_use=next_use)
        return uses

    def _tell(self, call: ReadyCall, *, is_over: bool) -> list[PrefixUse]:
        """The longest part first, so that a shorter one, which is needed sooner or equally soon,
        has the last word on its own pages."""
        node = self._graph.by_name.get(call.operator)
        if node is None:
            return []
        uses: list[PrefixUse] = []
        stems = self._stems[call.operator]
        longest = stems[0] if stems else None
        has_own_end = (
            longest is not None
            and longest.scope == "row"
            and len(longest.path) < len(node.segments)
        )
        if is_over and (has_own_end or (call.operator, call.row) in self._early):
            # Of what it may have had from an earlier turn, or before it came, too.
            uses.append(PrefixUse(token_ids=call.token_ids, next_use=None))
            self._early.discard((call.operator, call.row))
        for stem in stems:
            length = _stem_tokens(node, len(stem.path), len(call.token_ids))
            next_use = self._next_use(stem, call.row)
            place = (stem.path, self._instance(stem, call.row))
            told = self._told.get(place)
            # A longer part that was told has overwritten what was said of this one.
            if length and (uses or self._is_news(stem, told and told.next_use, next_use)):
                uses.append(PrefixUse(token_ids=call.token_ids[:length], next_use=next_use))
                if next_use is None:
                    self._told.pop(place, None)
                else:
                    self._told[place] = _Told(
                        next_use=next_use, token_ids=call.token_ids, length=length
                    )
        return uses

    def _is_news(self, stem: _Stem, told: int | None, next_use: int | None) -> bool:
        if told is None or next_use is None:
            return told is not next_use
        return abs(next_use - told) >= (self._patience if stem.scope == "all" else 1)

    def _instance(self, stem: _Stem, row: int) -> tuple[int, ...]:
        """Which of the prefixes of a stem the row has."""
        if isinstance(stem.scope, str):
            return (row,) if stem.scope == "row" else ()
        return tuple(self._graph.values[column][row] for column in stem.scope)

    def _next_use(self, stem: _Stem, row: int) -> int | None:
        """The smallest rank of what is to come for a stem's prefix as `row` has it."""
        ranks: list[int] = []
        if stem.scope == "all":
            found = (self._open[name].first_rank() for name in stem.operators)
            ranks = [rank for rank in found if rank is not None]
        elif stem.scope == "row":
            ranks = [self._rank(n, row) for n in stem.operators if self._open[n].has(row)]
        else:
            same = self._rows_of[stem.scope][self._instance(stem, row)]
            ranks = [
                self._rank(name, other)
                for name in stem.operators
                for other in same
                if self._open[name].has(other)
            ]
        return min(ranks, default=None)


def _use(told: _Told, next_use: int | None) -> PrefixUse:
    return PrefixUse(token_ids=told.token_ids[: told.length], next_use=next_use)


class _OpenRows:
    """The rows for which an operator is still to call."""

    __slots__ = ("_first", "_is_open", "_ranks")

    def __init__(self, num_rows: int, operator: str, rank: Rank) -> None:
        self._is_open = bytearray([1]) * num_rows
        self._ranks = sorted((rank(operator, row), row) for row in range(num_rows))
        self._first = 0

    def has(self, row: int) -> bool:
        return row < len(self._is_open) and bool(self._is_open[row])

    def close(self, row: int) -> None:
        if row < len(self._is_open):
            self._is_open[row] = 0

    def first_rank(self) -> int | None:
        while self._first < len(self._ranks) and not self._is_open[self._ranks[self._first][1]]:
            self._first += 1
        return self._ranks[self._first][0] if self._first < len(self._ranks) else None


def _stems(graph: CallGraph) -> dict[str, tuple[_Stem, ...]]:
    """Per operator the stems that it shares with another call, the longest first."""
    stems: dict[tuple[str, ...], _Stem] = {}
    for node in graph.nodes:
        path: tuple[str, ...] = ()
        groups: tuple[str, ...] = ()
        is_row = False
        for segment in node.segments:
            if not segment.key:
                break
            path = (*path, segment.key)
            if segment.group and not segment.is_static:
                groups = (*groups, segment.group)
            is_row = is_row or not (segment.is_static or segment.group)
            scope = "row" if is_row else (tuple(dict.fromkeys(groups)) or "all")
            stems.setdefault(path, _Stem(path=path, scope=scope)).operators.append(node.name)
    result: dict[str, list[_Stem]] = {node.name: [] for node in graph.nodes}
    for stem in sorted(stems.values(), key=lambda stem: -len(stem.path)):
        repeats = any(graph.by_name[name].repeats != 1.0 for name in stem.operators)
        several_rows = stem.scope != "row" and graph.num_rows > 1
        is_shared = len(stem.operators) > 1 or repeats or several_rows
        for name in stem.operators if is_shared else ():
            # A stem that ends where a longer one of the same calls goes on adds nothing.
            longer = result[name][-1] if result[name] else None
            if longer is None or (longer.scope, longer.operators) != (stem.scope, stem.operators):
                result[name].append(stem)
    return {name: tuple(found) for name, found in result.items()}


def _rows_of_values(
    graph: CallGraph,
) -> dict[str | tuple[str, ...], dict[tuple[int, ...], list[int]]]:
    """For every scope of grouped columns the rows that have each combination of values."""
    scopes = {stem.scope for stems in _stems(graph).values() for stem in stems}
    result: dict[str | tuple[str, ...], dict[tuple[int, ...], list[int]]] = {}
    for scope in scopes:
        if isinstance(scope, str):
            continue
        rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row in range(graph.num_rows):
            rows[tuple(graph.values[column][row] for column in scope)].append(row)
        result[scope] = rows
    return result


def _stem_tokens(node: CallNode, num_segments: int, num_tokens: int) -> int:
    """Tokens of a prompt's first segments: exact for static text and for the whole prompt."""
    if num_segments == len(node.segments):
        return num_tokens
    head, tail = node.segments[:num_segments], node.segments[num_segments:]
    length = sum(segment.num_tokens for segment in head)
    if not all(segment.is_static for segment in head):
        if all(segment.is_static for segment in tail):
            length = num_tokens - sum(segment.num_tokens for segment in tail)
        else:  # slots on both sides: as much of the prompt as was expected
            length *= num_tokens / max(node.prompt_tokens, 1.0)
    return max(min(int(length), num_tokens), 0)

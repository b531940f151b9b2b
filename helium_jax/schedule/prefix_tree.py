"""The templated radix tree: which prompts begin alike, over tokens and slots (paper section 4).

A path from the root spells a prompt template; calls stand where theirs ends. Token runs split where
templates part, so always between tokens; slots and segments without ids are never split.
"""

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from helium_jax.schedule.call_graph import CallGraph, Segment

Ids = tuple[int, ...]
Template = Sequence[Ids | Segment]
Decode = Callable[[Ids], str]

_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixNode:
    """A stretch that all prompts below it have at this place.

    Attributes:
        ids: its token ids; empty for the root and where only the segment is known.
        segment: the same stretch for cost models; None for the root.
        parent: its index in the tree; the root is its own.
        children: indices, in the order in which they came.
        calls: those whose prompt ends here.
    """

    ids: Ids
    segment: Segment | None
    parent: int
    children: tuple[int, ...]
    calls: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTree:
    """All prompt templates of a plan.

    Attributes:
        nodes: parents before children; the first is the root.
        leaves: for every call the index of the node where its prompt ends.
        needs: for every call the nearest calls it waits for: the tree's other edges.
    """

    nodes: tuple[PrefixNode, ...]
    leaves: Mapping[str, int]
    needs: Mapping[str, tuple[str, ...]]

    def path(self, call: str) -> tuple[int, ...]:
        """The nodes from below the root to where `call` ends."""
        path = []
        node = self.leaves[call]
        while node:
            path.append(node)
            node = self.nodes[node].parent
        return tuple(reversed(path))

    def segments(self, call: str) -> tuple[Segment, ...]:
        """The call's prompt in segments that are equal exactly where templates are."""
        segments = (self.nodes[node].segment for node in self.path(call))
        return tuple(segment for segment in segments if segment is not None)

    def static_prefix(self, call: str) -> Ids:
        """The token ids with which the call's prompt begins in every row."""
        ids: list[int] = []
        for node in self.path(call):
            if not self.nodes[node].ids:
                break
            ids += self.nodes[node].ids
        return tuple(ids)

    def text(self, decode: Decode | None = None) -> str:
        """The tree, one line a node, for EXPLAIN; `decode` shows token ids as text."""
        lines = ["root"]
        pending = [(child, 1) for child in reversed(self.nodes[0].children)]
        lines += [self._leaf(call, 1) for call in self.nodes[0].calls]
        while pending:
            index, depth = pending.pop()
            node = self.nodes[index]
            lines.append("  " * depth + _label(node, decode))
            lines += [self._leaf(call, depth + 1) for call in node.calls]
            pending += [(child, depth + 1) for child in reversed(node.children)]
        return "\n".join(lines)

    def _leaf(self, call: str, depth: int) -> str:
        needs = ", ".join(self.needs[call])
        return "  " * depth + f"-> {call}" + (f" (needs {needs})" if needs else "")


@dataclass(slots=True)
class _Growing:
    ids: Ids
    segment: Segment | None
    children: "dict[object, _Growing]" = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)


def build_prefix_tree(
    templates: Mapping[str, Template], needs: Mapping[str, tuple[str, ...]]
) -> PrefixTree:
    """The tree of all templates; takes time in proportion to their length.

    Args:
        templates: for every call its prompt: runs of token ids, and segments for the rest.
        needs: for every call the calls it waits for.
    """
    root = _Growing(ids=(), segment=None)
    for call, template in templates.items():
        node = root
        for part in template:
            if isinstance(part, Segment):
                # Without a key it is like nothing else, which an object of its own is.
                key = ("slot", part.key, part.is_static, part.group) if part.key else object()
                node = node.children.setdefault(key, _Growing(ids=(), segment=part))
            elif part:
                node = _descend(node, part)
        node.calls.append(call)
    return _freeze(root, needs)


def tree_of(graph: CallGraph) -> PrefixTree:
    """The tree over a graph's segments."""
    return build_prefix_tree(
        {node.name: node.segments for node in graph.nodes},
        {node.name: node.needs for node in graph.nodes},
    )


def _descend(node: _Growing, ids: Ids) -> _Growing:
    """The node below `node` that ends with `ids`; adds it, and splits what it meets halfway."""
    start = 0
    while start < len(ids):
        child = node.children.get(ids[start])
        if child is None:
            child = node.children[ids[start]] = _Growing(ids=ids[start:], segment=None)
            return child
        length = _common_length(child.ids, ids, start)
        if length < len(child.ids):
            upper = _Growing(ids=child.ids[:length], segment=None)
            child.ids = child.ids[length:]
            upper.children[child.ids[0]] = child
            node.children[ids[start]] = upper
            child = upper
        node = child
        start += length
    return node


def _common_length(run: Ids, ids: Ids, start: int) -> int:
    limit = min(len(run), len(ids) - start)
    if run[:limit] == ids[start : start + limit]:
        return limit
    return next(i for i in range(limit) if run[i] != ids[start + i])


def _freeze(root: _Growing, needs: Mapping[str, tuple[str, ...]]) -> PrefixTree:
    order, parents = [root], [0]
    children: list[list[int]] = [[]]
    for index, node in enumerate(order):  # grows while it is walked
        for child in node.children.values():
            children[index].append(len(order))
            order.append(child)
            parents.append(index)
            children.append([])
    nodes = tuple(
        PrefixNode(
            ids=node.ids,
            segment=_segment_of(node.ids) if node.ids else node.segment,
            parent=parents[index],
            children=tuple(children[index]),
            calls=tuple(node.calls),
        )
        for index, node in enumerate(order)
    )
    leaves = {call: index for index, node in enumerate(nodes) for call in node.calls}
    return PrefixTree(nodes=nodes, leaves=leaves, needs=dict(needs))


def _segment_of(ids: Ids) -> Segment:
    return Segment(key=digest_ids(ids), num_tokens=len(ids), is_static=True)


def digest_ids(ids: Sequence[int]) -> str:
    """A short name for a run of token ids."""
    return hashlib.blake2b(array("I", list(ids)).tobytes(), digest_size=12).hexdigest()


def _label(node: PrefixNode, decode: Decode | None) -> str:
    segment = node.segment
    assert segment is not None
    if not segment.is_static:
        group = f", equal where {segment.group} is" if segment.group else ""
        return f"{{{{{segment.key}}}}} ~{segment.num_tokens:.0f} tokens{group}"
    shown = segment.key or "unknown text"
    if node.ids and decode is not None:
        shown = repr(_shorten(decode(node.ids)))
    return f"{shown} {segment.num_tokens:g} tokens"


def _shorten(text: str) -> str:
    half = _SHOWN_CHARS // 2
    return text if len(text) <= _SHOWN_CHARS else f"{text[:half]}...{text[-half:]}"

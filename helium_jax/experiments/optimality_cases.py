"""Small graphs whose best order can be proved: seven scaled-down workflows, and random ones."""

import random
from collections.abc import Iterable, Mapping

from helium_jax.schedule import CallGraph, CallNode, Segment


def _static(key: str, num_tokens: float) -> Segment:
    return Segment(key=key, num_tokens=num_tokens, is_static=True)


def _slot(key: str, num_tokens: float) -> Segment:
    return Segment(key=key, num_tokens=num_tokens, is_static=False)


def _call(name: str, output: float, *segments: Segment, needs: Iterable[str] = ()) -> CallNode:
    role = segments[0].key
    return CallNode(
        name=name, segments=segments, needs=tuple(needs), output_tokens=output, role=role
    )


# --- cases ---------------------------------------------------------------------------------------


def map_reduce(num_experts: int, num_rows: int, question: float, output: float) -> CallGraph:
    """Experts with roles of their own answer a question; a summariser reads them."""
    q = _slot("q", question)
    names = [f"expert{i}" for i in range(num_experts)]
    experts = [_call(name, output, _static(name, 50), q) for name in names]
    answers = [_slot(name, output) for name in names]
    last = _call("summary", 170, _static("summary", 60), q, *answers, needs=names)
    return CallGraph(nodes=(*experts, last), num_rows=num_rows)


def debate(num_agents: int, num_rows: int, question: float, output: float) -> CallGraph:
    """Agents answer, then answer again after their own answer and those of the others."""
    q = _slot("q", question)
    names = [f"agent{i}" for i in range(num_agents)]
    first = [_call(f"{name}-1", output, _static(name, 60), q) for name in names]
    second = []
    for name in names:
        others = [_slot(f"{other}-1", output) for other in names if other != name]
        segments = (_static(name, 60), q, _slot(f"{name}-1", output), *others)
        needs = [f"{other}-1" for other in names]
        second.append(_call(f"{name}-2", output * 1.2, *segments, needs=needs))
    return CallGraph(nodes=(*first, *second), num_rows=num_rows)


def reflection(num_rows: int) -> CallGraph:
    """An expert drafts, two critics review one after the other, the expert refines."""
    context, draft = _slot("context", 650), _slot("draft", 120)
    one, two = _slot("one", 258), _slot("two", 511)
    expert = _static("expert", 78)
    critic = _static("critic", 60)
    return CallGraph(
        nodes=(
            _call("draft", 120, expert, context),
            _call("one", 258, critic, context, _static("one", 20), draft, needs=["draft"]),
            _call("two", 511, critic, context, _static("two", 20), draft, one, needs=["one"]),
            _call("final", 139, expert, context, draft, one, two, needs=["two"]),
        ),
        num_rows=num_rows,
    )


def iterative(num_chunks: int, num_rows: int) -> CallGraph:
    """A summary that is refined with every chunk."""
    nodes = []
    for i in range(num_chunks):
        before = [_slot(f"summary{i - 1}", 300)] if i else []
        needs = [f"summary{i - 1}"] if i else []
        segments = (_static("summariser", 100), *before, _slot(f"chunk{i}", 980))
        nodes.append(_call(f"summary{i}", 216 + 60 * i, *segments, needs=needs))
    return CallGraph(nodes=tuple(nodes), num_rows=num_rows)


def parallel_chains(num_experts: int, num_chunks: int, num_rows: int) -> CallGraph:
    """Experts read the same chunks for their own aspects and sum up; a writer reads the sums."""
    nodes = []
    for e in range(num_experts):
        for c in range(num_chunks):
            before = [_slot(f"note{e}-{c - 1}", 435)] if c else []
            needs = [f"note{e}-{c - 1}"] if c else []
            segments = (_static(f"expert{e}", 90), *before, _slot(f"chunk{c}", 980))
            nodes.append(_call(f"note{e}-{c}", 435, *segments, needs=needs))
    last = [f"note{e}-{num_chunks - 1}" for e in range(num_experts)]
    notes = [_slot(name, 435) for name in last]
    nodes.append(_call("writer", 512, _static("writer", 120), *notes, needs=last))
    return CallGraph(nodes=tuple(nodes), num_rows=num_rows)


WORKFLOWS: Mapping[str, CallGraph] = {
    "map-reduce, questions": map_reduce(3, 4, 115, 290),
    "map-reduce, contexts": map_reduce(3, 3, 530, 390),
    "debate, questions": debate(2, 4, 100, 300),
    "debate, contexts": debate(3, 2, 510, 375),
    "reflection": reflection(4),
    "iterative": iterative(3, 4),
    "parallel chains": parallel_chains(2, 2, 3),
}


def random_graph(rng: random.Random, max_calls: int = 8) -> CallGraph:
    """Calls of few roles over few columns, with random needs and lengths."""
    num_operators = rng.randint(2, 4)
    num_rows = rng.randint(1, max_calls // num_operators)
    lengths = {f"role{i}": rng.randint(20, 600) for i in range(2)}
    columns = {f"column{i}": rng.randint(20, 600) for i in range(2)}
    nodes: list[CallNode] = []
    for index in range(num_operators):
        role = rng.choice(sorted(lengths))
        segments = [_static(role, lengths[role])]
        segments += [_slot(c, columns[c]) for c in columns if rng.random() < 0.6]
        needs = [node for node in nodes if rng.random() < 0.4]
        segments += [_slot(node.name, node.output_tokens) for node in needs]
        segments.append(_static(f"tail{index}", rng.randint(1, 100)))
        output = rng.randint(10, 200)
        names = [node.name for node in needs]
        nodes.append(_call(f"op{index}", output, *segments, needs=names))
    return CallGraph(nodes=tuple(nodes), num_rows=num_rows)

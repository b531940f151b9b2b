"""How far schedules are from the best one, in the paper's token-step model (paper section 8).

One JSON line per case and policy: `python -m bench.bench_optimality`. The cases are random graphs
of up to eight calls and seven scaled-down workflows, on one worker; the best order is proved for
each by branch and bound, and for some graphs again by a mixed-integer program. `nested` is our
schedule without its refinement call by call, which only small batches get.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from bench.harness import Recorder
from helium_jax.schedule import CallGraph, CallNode, Segment
from helium_jax.schedule.optimum import find_optimum
from helium_jax.schedule.optimum_milp import find_optimum_milp
from helium_jax.schedule.soft_schedule import PlanningEffort, plan_schedule
from helium_jax.schedule.token_step import TokenSteps

Order = list[int]
Policy = Callable[[TokenSteps, random.Random], Order]

CAPACITY = 8192.0  # KV tokens, as in the paper


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


# --- policies ------------------------------------------------------------------------------------


def ours(steps: TokenSteps, rng: random.Random) -> Order:
    """The soft schedule."""
    return _planned(steps, PlanningEffort())


def nested(steps: TokenSteps, rng: random.Random) -> Order:
    """The soft schedule without refinement: nested sequences of operators only."""
    return _planned(steps, PlanningEffort(refined_calls=0))


def _planned(steps: TokenSteps, effort: PlanningEffort) -> Order:
    schedule = plan_schedule(steps.graph, steps.capacities, effort=effort)
    rows, place = steps.graph.num_rows, steps.graph.place
    return [place[name] * rows + row for name, row in schedule.order(0)]


def query_wise(steps: TokenSteps, rng: random.Random) -> Order:
    """Rows one after the other."""
    rows = steps.graph.num_rows
    return sorted(steps.calls, key=lambda call: (call % rows, call))


def op_wise(steps: TokenSteps, rng: random.Random) -> Order:
    """Operators one after the other."""
    return list(steps.calls)


def shuffled(steps: TokenSteps, rng: random.Random) -> Order:
    """Any call that can start at once, at random."""
    return _online(steps, lambda previous, call: rng.random())


def longest_prefix(steps: TokenSteps, rng: random.Random) -> Order:
    """Of the calls that can start at once the one that shares most with the call before."""
    return _online(steps, lambda p, call: 0.0 if p is None else -steps.shared(p, call))


def _online(steps: TokenSteps, key: Callable[[int | None, int], float]) -> Order:
    """Takes the call with the least key among those that can start, else the first that can."""
    order: Order = []
    ends = [-1.0] * steps.num_calls
    clock = 0.0
    while len(order) < len(steps.calls):
        previous = order[-1] if order else None
        starts = {
            call: start
            for call in steps.calls
            if ends[call] < 0.0 and (start := steps.earliest(call, clock, ends)) is not None
        }
        first = min(starts.values())
        now = [call for call in starts if starts[call] <= max(first, clock)]
        call = min(now, key=lambda call: (key(previous, call), call))
        clock = ends[call] = starts[call] + steps.usage(0, previous, call)
        order.append(call)
    return order


POLICIES: Mapping[str, Policy] = {
    "ours": ours,
    "nested": nested,
    "query-wise": query_wise,
    "op-wise": op_wise,
    "random": shuffled,
    "lspf": longest_prefix,
}


# --- measuring -----------------------------------------------------------------------------------


def gaps(graph: CallGraph, rng: random.Random) -> dict[str, float]:
    """Per policy, by how many percent its schedule is longer than the best one.

    Raises:
        RuntimeError: the best schedule was not proved to be that.
    """
    steps = TokenSteps(graph=graph, capacities=(CAPACITY,))
    makespans = {
        name: steps.evaluate([policy(steps, rng)]).makespan for name, policy in POLICIES.items()
    }
    optimum = find_optimum(steps, known=ours(steps, rng))
    if not optimum.is_proved:
        raise RuntimeError(f"no proof in {optimum.num_prefixes} steps for {graph!r}")
    return {name: 100 * (m / optimum.makespan - 1) for name, m in makespans.items()}


def program_difference(graph: CallGraph) -> float:
    """By how many percent HiGHS and branch and bound differ about the best makespan."""
    steps = TokenSteps(graph=graph, capacities=(CAPACITY,))
    searched = find_optimum(steps)
    solved = find_optimum_milp(steps, known=list(searched.order))
    return 100 * abs(solved.makespan / searched.makespan - 1) if solved.is_proved else float("inf")


def summary(measured: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """Mean and greatest gap of a policy."""
    values = [gaps[name] for gaps in measured]
    return {
        "mean_gap_percent": statistics.fmean(values),
        "max_gap_percent": max(values),
        "num_cases": len(values),
    }


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=1000, help="random graphs")
    parser.add_argument("--programs", type=int, default=50, help="of them, solved by HiGHS too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    recorder = Recorder("optimality")
    by_workflow = []
    for case, graph in WORKFLOWS.items():
        by_workflow.append(gaps(graph, rng))
        for name, gap in by_workflow[-1].items():
            recorder.record(case, name, gap_percent=gap)
    graphs = [random_graph(rng) for _ in range(options.graphs)]
    by_graph = [gaps(graph, rng) for graph in graphs]
    for case, measured in (("seven workflows", by_workflow), ("random graphs", by_graph)):
        for name in POLICIES:
            recorder.record(case, name, **summary(measured, name))
    differences = [program_difference(graph) for graph in graphs[: options.programs]]
    if differences:
        worst, count = max(differences), len(differences)
        recorder.record("programs", "milp", max_difference_percent=worst, num_cases=count)


if __name__ == "__main__":
    main()

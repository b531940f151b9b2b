"""How far schedules are from the best one, in the paper's token-step model (paper section 8).

One JSON line per case and policy: `python -m bench.bench_optimality`. The cases are random graphs
of up to eight calls and seven scaled-down workflows, on one worker; the best order is proved for
each by branch and bound, and for some graphs again by a mixed-integer program.
"""

import argparse
import random

from bench.harness import Recorder
from helium_jax.experiments.optimality import POLICIES, gaps, program_difference, summary
from helium_jax.experiments.optimality_cases import WORKFLOWS, random_graph


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

"""Expected answer lengths per operator, corrected by what a run shows."""

from dataclasses import replace

from helium_jax.schedule.call_graph import CallGraph

MIN_SAMPLES = 4
TOLERANCE = 1.5  # a mean this many times off its estimate is worth planning again for


class OutputLengths:
    """Running means over a run's finished calls, beside the estimates of the graph."""

    def __init__(self, graph: CallGraph) -> None:
        self._graph = graph
        self._planned = {node.name: node.output_tokens for node in graph.nodes}
        self._counts: dict[str, int] = {}
        self._sums: dict[str, float] = {}

    def expected(self, operator: str) -> float | None:
        """Tokens of the operator's next answer; None for one that nothing is known of."""
        count = self._counts.get(operator, 0)
        planned = self._planned.get(operator)
        if planned is None:
            return self._sums[operator] / count if count else None
        # The estimate weighs as much as the first few observations.
        total = planned * MIN_SAMPLES + self._sums.get(operator, 0.0)
        return total / (MIN_SAMPLES + count)

    def observe(self, operator: str, output_tokens: int) -> bool:
        """Notes an answer; True when the plan's estimate has become too wrong to plan by.

        Answers without tokens (failed or cancelled calls) say nothing.
        """
        if output_tokens <= 0:
            return False
        self._counts[operator] = self._counts.get(operator, 0) + 1
        self._sums[operator] = self._sums.get(operator, 0.0) + output_tokens
        planned = self._planned.get(operator)
        if planned is None or self._counts[operator] < MIN_SAMPLES:
            return False
        mean = self._sums[operator] / self._counts[operator]
        if mean <= planned * TOLERANCE and planned <= mean * TOLERANCE:
            return False
        self._planned[operator] = mean
        self._counts[operator], self._sums[operator] = 0, 0.0
        return True

    def corrected(self) -> CallGraph:
        """The graph with what is expected now."""
        nodes = tuple(replace(n, output_tokens=self._planned[n.name]) for n in self._graph.nodes)
        return replace(self._graph, nodes=nodes)

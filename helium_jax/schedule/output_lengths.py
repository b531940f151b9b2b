"""Expected answer lengths per operator, corrected by what a run shows."""

from helium_jax.schedule.call_graph import CallGraph

MIN_SAMPLES = 4
TOLERANCE = 1.5  # a mean this many times off its estimate is worth planning again for


class OutputLengths:
    """Running means over a run's finished calls, beside the estimates of the graph."""

    def __init__(self, graph: CallGraph) -> None:
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

    def observe(self, operator: str, output_tokens: int) -> None:
        """Notes an answer; one without tokens (a failed or cancelled call) says nothing."""
        if output_tokens > 0:
            self._counts[operator] = self._counts.get(operator, 0) + 1
            self._sums[operator] = self._sums.get(operator, 0.0) + output_tokens

    def corrections(self) -> dict[str, float]:
        """Means of the operators whose estimate was too wrong to plan by, since the last time they
        were asked for; all observed means if there is any such operator, else nothing."""
        means = {
            name: self._sums[name] / count
            for name, count in self._counts.items()
            if count >= MIN_SAMPLES and name in self._planned
        }
        if all(
            mean <= self._planned[name] * TOLERANCE and self._planned[name] <= mean * TOLERANCE
            for name, mean in means.items()
        ):
            return {}
        self._planned |= means
        return means

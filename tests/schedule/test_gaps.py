"""How far schedules are from the best ones: a small version of bench/bench_optimality.py."""

import importlib
import random
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch):
    """The benchmark; bench/ is run from the root, never installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.bench_optimality")


def test_5_7_mean_and_greatest_gap_are_at_most_the_papers_and_below_every_baseline(bench):
    rng = random.Random(7)
    for measured in (
        [bench.gaps(bench.random_graph(rng), rng) for _ in range(30)],
        [bench.gaps(graph, rng) for graph in bench.WORKFLOWS.values()],
    ):
        ours = bench.summary(measured, "ours")
        assert ours["mean_gap_percent"] <= 0.9
        assert ours["max_gap_percent"] <= 3.6
        nested = bench.summary(measured, "nested")
        assert ours["mean_gap_percent"] <= nested["mean_gap_percent"]
        for name in ("query-wise", "op-wise", "random", "lspf"):
            assert nested["mean_gap_percent"] < bench.summary(measured, name)["mean_gap_percent"]


def test_the_search_and_the_program_agree_on_the_best_makespan(bench):
    rng = random.Random(8)
    for _ in range(5):
        assert bench.program_difference(bench.random_graph(rng)) <= 1e-6

"""What the paper measured (arXiv 2603.16104; Qwen3-8B on two H100 NVL, vLLM underneath).

Ratios are seconds of a policy over Helium's seconds on the same workload; more is slower. Those per
workload are read off its figure 5, so their second digit is uncertain.
"""

from collections.abc import Mapping

_POLICIES = ("op_wise", "langgraph", "agentscope", "parrot", "kvflow")
_FIGURE_5 = {
    "map-reduce-mmlu": (1.58, 1.28, 1.24, 1.79, 1.40),
    "map-reduce-tatqa": (1.27, 1.15, 1.23, 1.59, 1.41),
    "debate-mmlu": (1.27, 1.23, 1.93, 1.07, 1.26),
    "debate-tatqa": (1.14, 1.15, 1.78, 1.24, 1.56),
    "reflection": (1.21, 1.23, 3.12, 2.21, 1.34),
    "iterative": (1.02, 1.83, 4.32, 1.02, 1.16),
    "parallel-chains": (1.24, 1.09, 1.07, 1.11, 1.14),
}
_TRADING_SECONDS = {  # batch 16, the second day
    "helium": 130,
    "kvflow": 174,
    "agentscope": 190,
    "langgraph": 193,
    "parrot": 307,
    "op_wise": 419,
    "naive": 4675,
}

# workload -> policy -> ratio
TIMES_HELIUM: Mapping[str, Mapping[str, float]] = {
    **{name: dict(zip(_POLICIES, row, strict=True)) for name, row in _FIGURE_5.items()},
    "trading-day-two": {
        policy: seconds / _TRADING_SECONDS["helium"]
        for policy, seconds in _TRADING_SECONDS.items()
        if policy != "helium"
    },
}
# Seconds without a part over the seconds of all of Helium; trading, batch 16.
ABLATION: Mapping[str, float] = {
    "minus KV precompute": 1 / (1 - 0.0355),
    "minus plan pruning": 1 / (1 - 0.2335),
    "minus prompt cache": 1 / (1 - 0.1356),
    "minus scheduling": 1 / (1 - 0.1766),
}
# Scheduling alone, caches off; trading, batch 16.
SCHEDULING: Mapping[str, float] = {
    "query_wise": 4.40,
    "op_wise": 2.80,
    "random": 1.29,
    "lspf": 1.26,
}
SCHEDULING_HIT_RATE: Mapping[str, float] = {
    "helium": 0.565,
    "query_wise": 0.423,
    "op_wise": 0.408,
    "random": 0.371,
    "lspf": 0.379,
}
# Percent above the optimum of the cost model, (mean, greatest), over seven configurations.
OPTIMALITY_GAP: Mapping[str, tuple[float, float]] = {
    "ours": (0.9, 3.6),
    "query-wise": (72.4, 149.2),
    "op-wise": (17.6, 30.7),
    "random": (16.3, 30.3),
    "lspf": (14.5, 30.5),
}

"""How large an experiment is: the model, the scale of the lengths, rows and KV capacity."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log2

from helium_jax.config import EngineConfig
from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Workload
from helium_jax.experiments.workloads import PROMPT_SHAPES, WORKLOADS
from helium_jax.text import TextModel

PAGE_SIZE = 16
POLICIES = ("helium", "op_wise", "langgraph", "agentscope", "parrot", "kvflow", "lspf")
# Of the paper's two workers together: 94 GB each, less weights, at 144 KiB a token of Qwen3-8B,
# is a little more than this; it is also the largest capacity that the paper varies.
PAPER_KV_TOKENS = 2 * 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """The engines that a case runs on; equal ones are opened once.

    Attributes:
        model: as `open_runtime` takes it.
        kv_tokens: KV capacity of each worker.
        num_workers: engines.
        max_num_seqs: most sequences of a step, of each worker.
        cascade: read a prefix that rows of a step share once.
        deterministic: a row's bits do not depend on its neighbours.
    """

    model: str
    kv_tokens: int
    num_workers: int = 1
    max_num_seqs: int = 32
    cascade: bool = True
    deterministic: bool = False

    def config(self) -> EngineConfig:
        """For `open_runtime`."""
        return EngineConfig(
            page_size=PAGE_SIZE,
            num_pages=self.kv_tokens // PAGE_SIZE,
            max_num_seqs=self.max_num_seqs,
            cascade=self.cascade,
            deterministic=self.deterministic,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The size of an experiment.

    Attributes:
        model: that runs it.
        scale: of all lengths in tokens.
        scales: of workloads whose prompts would not fit the model at that scale.
        rows: of each workload's batch; others have `default_rows`.
        default_rows: see `rows`.
        kv_tokens: KV capacity of all workers together; None: per workload what makes tokens over
            capacity the same as in the paper, rounded to a power of two.
        max_num_seqs: most sequences of a step: few enough that calls wait, as they did in the
            paper, where hundreds of rows met 256 places on each of two workers.
        workloads: of table a.
        policies: of table a, Helium first: every ratio is over it.
        merges: whether equal greedy calls are made once, by every policy: table a has both.
        repeats: runs of each variant, interleaved.
        seed: of the texts and of what policies draw.
    """

    model: str
    scale: float
    scales: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    default_rows: int = 8
    kv_tokens: int | None = None
    max_num_seqs: int = 32
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    policies: tuple[str, ...] = (*POLICIES, "naive")
    merges: tuple[bool, ...] = (False, True)
    repeats: int = 3
    seed: int = 0

    def make(self, name: str, text: TextModel, *, num_rows: int | None = None) -> Workload:
        """The workload of that name at this size."""
        make = {**WORKLOADS, **PROMPT_SHAPES}[name]
        return make(self.filler(name, text), num_rows=num_rows or self.num_rows(name))

    def filler(self, name: str, text: TextModel) -> Filler:
        """Writes the texts of a workload."""
        return Filler(text, scale=self.scales.get(name, self.scale), seed=self.seed)

    def num_rows(self, name: str) -> int:
        """Of a workload's batch."""
        return self.rows.get(name, self.default_rows)

    def kv_capacity(self, workload: Workload) -> int:
        """Tokens of all workers together, for the paper's tokens over capacity."""
        if self.kv_tokens is not None:
            return self.kv_tokens
        share = len(workload.rows) / workload.lengths.rows
        return 2 ** round(log2(PAPER_KV_TOKENS * workload.scale * share))


# Five minutes on two cores: one pool size, so that programs are compiled once. Rows are such that
# tokens over capacity are within a factor of 3.3 of the paper's.
QUICK = Setting(
    model="random:bench-2m",
    scale=0.15,
    scales={"parallel-chains": 0.12, "trading": 0.08, "trading-day-two": 0.08},
    rows={
        "map-reduce-mmlu": 8,
        "map-reduce-tatqa": 2,
        "debate-mmlu": 12,
        "debate-tatqa": 2,
        "reflection": 4,
        "iterative": 10,
        "parallel-chains": 2,
        "trading": 2,
        "trading-day-two": 2,
    },
    kv_tokens=4_096,
    max_num_seqs=16,
    workloads=tuple(name for name in WORKLOADS if name != "trading-day-two"),
    policies=POLICIES,
    merges=(False,),
    repeats=1,
)
# About an hour on two cores.
FULL = Setting(
    model="random:bench-5m",
    scale=0.25,
    rows={
        "map-reduce-mmlu": 16,
        "map-reduce-tatqa": 4,
        "debate-mmlu": 24,
        "debate-tatqa": 4,
        "reflection": 8,
        "iterative": 16,
        "parallel-chains": 4,
        "trading": 4,
        "trading-day-two": 4,
    },
)

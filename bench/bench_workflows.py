"""The paper's experiments, recorded here: `helium-jax bench` with a results file by default.

python -m bench.bench_workflows --quick
"""

import sys

from bench.harness import RESULTS
from helium_jax.cli.bench import bench
from helium_jax.experiments.environment import environment

if __name__ == "__main__":
    stamp = environment()["date"].replace(":", "")
    arguments = sys.argv[1:]
    if "--out" not in arguments:
        arguments += ["--out", str(RESULTS / f"workflows-{stamp}.jsonl")]
    bench(arguments)

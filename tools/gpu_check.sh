#!/usr/bin/env bash
# One command for a machine with a GPU, within 10 minutes and without a network: parity of every
# kernel and of a generation with the CPU, then the benchmarks, as a table and JSON lines in
# bench/results. PYTHON names an interpreter with jax[cuda13] 0.11.2 or later, flax, scipy
# and jaxtyping. `--tiny` runs the same in small on any machine; other arguments go to bench_gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
  echo "there is no $python; name an interpreter with PYTHON=" >&2
  exit 2
fi
cache=${JAX_COMPILATION_CACHE_DIR:-build/gpu-check-cache}
mkdir -p "$cache"
export JAX_COMPILATION_CACHE_DIR="$cache" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
export XLA_PYTHON_CLIENT_PREALLOCATE=false
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
"$python" -c 'import jax; print("jax", jax.__version__, *jax.devices())'
exec timeout 600 "$python" -m bench.bench_gpu "$@"

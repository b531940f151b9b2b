#!/usr/bin/env bash
# What GPU and TPU kernels must pass on a machine that has neither: their interpreters against the
# reference, ahead-of-time compilation for six chips, and a rehearsal of gpu_check.sh through the
# interpreter. The compilers run beside the interpreters: two cores. Skipped, and said so, where there
# is no Python 3.12, and where .venv-aot cannot be made unless `--required`.
set -euo pipefail
cd "$(dirname "$0")/.."
made=0
bash tools/aot_env.sh || made=$?
if [ $made -ne 0 ]; then
  [ "${1:-}" = --required ] && [ $made -ne 3 ] && exit $made
  echo "SKIPPED: the kernels were neither interpreted on jax 0.11 nor compiled for any chip" >&2
  exit 0
fi
python=.venv-aot/bin/python
mkdir -p build
"$python" tools/aot_check.py --small >build/aot_check.log 2>&1 &
compilers=$!
export PYTHONPATH=. JAX_PLATFORMS=cpu
"$python" -m pytest -q tests/kernels/test_mosaic.py -o cache_dir=build/aot-pytest-cache
"$python" -m bench.bench_gpu --tiny --interpret mosaic_gpu --parts parity,steps
"$python" -m bench.bench_gpu --tiny --parts ceilings,attention
status=0
wait $compilers || status=$?
cat build/aot_check.log
exit $status

#!/usr/bin/env bash
# Makes .venv-aot: compilers for NVIDIA GPUs and TPUs on a machine that has neither, for
# aot_check.py and the interpreters of the kernels. About 0.5 GB come from the package registry once,
# without CUDA's own libraries: compiling needs none of them. Free when it is there already.
# Exit code 3: this machine has no Python 3.12 or newer, which these versions of jax need.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${VENV:-.venv-aot}
# The versions that aot_baseline.json was recorded with.
jax=0.11.2 libtpu=0.0.48.1
needed="jax==$jax jaxlib==$jax libtpu==$libtpu absl-py flax ml_dtypes msgspec numpy scipy safetensors
  orbax-checkpoint jaxtyping pytest pytest-asyncio hypothesis"
plugins="jax-cuda13-plugin==$jax jax-cuda13-pjrt==$jax"
stamp="$folder/.stamp-$(echo "$needed $plugins" | cksum | cut -d' ' -f1)"
[ -e "$stamp" ] && exit 0

python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 \
  "$HOME"/.pyenv/versions/3.12*/bin/python3; do
  if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "the ahead-of-time checks need Python 3.12 or 3.13; set PYTHON=/path/to/python3.12" >&2
  exit 3
fi
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip="$folder/bin/python -m pip install --quiet --disable-pip-version-check"
$pip $needed
$pip --no-deps $plugins  # their dependencies are gigabytes of CUDA libraries
touch "$stamp"

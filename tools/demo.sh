#!/usr/bin/env bash
# The first command of the README: sets everything up, then runs the demo. Arguments go to it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/_venv.sh
use_venv .venv "$(find_python)"
exec .venv/bin/helium-jax demo "$@"

#!/usr/bin/env bash
# The second command of the README: sets everything up, then runs the tests, a process per core.
# Arguments go to pytest, which then runs in one process.
# The oracles (torch, transformers) are installed where the interpreter is 3.11; elsewhere the
# tests that need them are skipped and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/_venv.sh
python=$(find_python)
groups=(--group test)
if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  groups+=(--group oracle)
fi
use_venv "${VENV:-.venv}" "$python" "${groups[@]}"
if [ $# -eq 0 ]; then
  set -- -n "$("$python" -c 'import os; print(min(os.cpu_count() or 1, 8))')" --dist loadfile
fi
exec "${VENV:-.venv}/bin/python" -m pytest "$@"

#!/usr/bin/env bash
# The second command of the README: sets everything up, then runs the tests. Arguments go to pytest.
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
exec "${VENV:-.venv}/bin/python" -m pytest "$@"

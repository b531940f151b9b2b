#!/usr/bin/env bash
# Formatter, linter, type checker and import contracts: everything that is not a test.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/_venv.sh
python=$(find_python)
use_venv .venv "$python" --group test --group lint
.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/pyright
.venv/bin/lint-imports
.venv/bin/python tools/client_table.py --check

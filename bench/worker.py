"""One implementation in a process of its own: JSON lines in, JSON lines out.

A process each keeps thread pools and virtual environments apart. Standard output carries the
protocol alone; whatever a library prints goes to standard error.
"""

import argparse
import importlib
import json
import os
import sys
import time

from bench.driver import Adapter, run_calls
from bench.workloads import Call

# name: module with `open_adapter(model, options) -> Adapter`
ADAPTERS = {
    "helium": "bench.adapters.helium",
    "openvino": "bench.adapters.openvino_batching",
    "transformers": "bench.adapters.transformers_batching",
    "openai": "bench.adapters.openai_server",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", choices=ADAPTERS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--options", default="{}", help="JSON, as the adapter wants it")
    arguments = parser.parse_args()
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    start = time.perf_counter()
    module = importlib.import_module(ADAPTERS[arguments.adapter])
    adapter: Adapter = module.open_adapter(arguments.model, json.loads(arguments.options))
    try:
        print(json.dumps({"start_s": time.perf_counter() - start}), file=protocol)
        for line in sys.stdin:
            print(json.dumps(_answer(adapter, line)), file=protocol)
    finally:
        adapter.close()


def _answer(adapter: Adapter, line: str) -> dict[str, object]:
    calls = [Call(**fields) for fields in json.loads(line)]
    try:
        run = run_calls(adapter, calls)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"wall_s": run.wall_s, "outputs": run.outputs, "counters": run.counters}


if __name__ == "__main__":
    main()

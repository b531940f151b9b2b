"""Equal plans, rows and rates give equal decisions in every process."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


async def trace_of(hash_seed: str) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.schedule.planning_trace",
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(stdout)


async def test_plans_and_runs_do_not_depend_on_how_python_hashes_strings():
    first, second = await asyncio.gather(trace_of("1"), trace_of("2"))
    assert len(first) > 12
    assert first == second

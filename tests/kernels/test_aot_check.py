"""The ahead-of-time check: what it calls a fault, and that it says what it skips."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def aot():
    """The tool as a module; it must not reach jax or the environment before it is run."""
    spec = importlib.util.spec_from_file_location("aot_check", TOOLS / "aot_check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["aot_check"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOLS))
    del sys.modules["aot_check"]


def faults(aot, baseline=None, **changes):
    numbers = dict(
        implementation="mosaic_gpu", temp_bytes=2**20, registers=168, spilled_bytes=0,
        shared_bytes=180 * 1024, flops=0.0, bytes_accessed=1e9, launches=30,
    )  # fmt: skip
    program = SimpleNamespace(pool_bytes=2**30)
    measured = aot.Measured(**numbers | changes)
    return list(aot.find_faults(measured, program, aot.CHIPS["h200"], baseline or {}))


def test_a_program_within_its_bounds_has_no_fault(aot):
    assert faults(aot) == []
    assert faults(aot, baseline=dict(temp_bytes=2**20, bytes_accessed=0.9e9)) == []


def test_names_spills_shared_memory_pool_copies_and_growth(aot):
    assert faults(aot, spilled_bytes=24) == ["24 bytes of registers are spilled"]
    assert faults(aot, shared_bytes=2**18) == ["shared memory exceeds the chip's 232448"]
    assert faults(aot, temp_bytes=2**30) == [
        "temporaries are no small part of the pool's 1073741824 bytes"
    ]
    assert faults(aot, baseline=dict(launches=20)) == ["launches was 20 and is 30"]
    assert faults(aot, baseline=dict(temp_bytes=2**18, bytes_accessed=1e8)) == [
        "bytes_accessed was 100000000 and is 1000000000"
    ]


def test_reads_what_the_assembler_prints(aot):
    printed = """
    0 bytes stack frame, 16 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 16 barriers, 1 bytes smem
Resources(smem_scratch_bytes=183296, tmem_scratch_cols=0)
    0 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 2 barriers, 1 bytes smem
    """
    compiled = SimpleNamespace(
        as_text=lambda: (
            "f { %a = b[] fusion() } ENTRY { %c = d[] custom-call(%e)\n %g = copy(%h) }"
        ),
        memory_analysis=lambda: SimpleNamespace(temp_size_in_bytes=5),
        cost_analysis=lambda: {"flops": 2.0, "bytes accessed": 3.0},
    )
    assert aot.measure(compiled, printed, "mosaic_gpu") == aot.Measured(
        implementation="mosaic_gpu", temp_bytes=5, registers=168, spilled_bytes=20,
        shared_bytes=183296, flops=2.0, bytes_accessed=3.0, launches=2,
    )  # fmt: skip


def test_compiles_or_says_what_is_missing():
    done = subprocess.run(
        [sys.executable, TOOLS / "aot_check.py", "--chips=a100", "--only=page_write/decode"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line, end = done.stdout.splitlines()[-2:]
    assert line.startswith(("skip  a100  no CUDA plugin is installed", "ok    a100  page_write"))
    assert "nothing was run" in end

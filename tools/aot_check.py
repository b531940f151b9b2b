"""Compiles every kernel and whole steps for chips that are not here; one line per program and chip.

`python tools/aot_check.py` compares with tools/aot_baseline.json and exits with 1 when a program
does not compile, spills registers, exceeds a chip's shared memory, copies the pool, or needs more
than the baseline says; `--record` writes the baseline anew. `--small` compiles what a change must
pass, all of which the baseline must have. The numbers of another jax are not compared. Chips whose
compiler is not installed are skipped and say so. It needs neither GPU nor TPU, and reads nothing
from the network.
"""

import argparse
import dataclasses
import fnmatch
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from aot_targets import CHIPS, Chip, open_devices, prepare_environment, why_missing

if TYPE_CHECKING:
    from aot_programs import Compilable

BASELINE = Path(__file__).with_name("aot_baseline.json")
# Two registers, in the kernels of heads of 256.
MAX_SPILLED_BYTES = 16
# A baseline may be exceeded by so much: compilers differ a little between patch releases.
SLACK, SLACK_BYTES, SLACK_LAUNCHES = 1.25, 2**20, 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the compiler said of one program.

    Attributes:
        implementation: of attention.
        temp_bytes: memory beside arguments and results.
        registers: most of any of our kernels' threads; 0 where there is none.
        spilled_bytes: stored by all of them because registers ran out.
        shared_bytes: most shared memory of a thread block.
        flops: the compiler's estimate; 0 where it gives none.
        bytes_accessed: likewise.
        launches: fusions, products, copies and kernels that the program starts one by one.
    """

    implementation: str
    temp_bytes: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    flops: float
    bytes_accessed: float
    launches: int


def compile_for(devices: list, program: "Compilable", platform: str) -> Any:
    """The compiled program, for one abstract device."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(devices), ("device",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(
        program.function,
        in_shardings=everywhere,
        out_shardings=everywhere,
        donate_argnums=program.donated,
    )
    with jax.set_mesh(mesh):
        traced = jitted.trace(*program.arguments)
        return traced.lower(lowering_platforms=(platform,)).compile()


def measure(compiled: Any, printed: str, implementation: str) -> Measured:
    """Reads the compiled program, and what the kernels' assembler printed."""
    memory = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}

    def numbers(pattern: str) -> list[int]:
        return [int(found) for found in re.findall(pattern, printed)]

    return Measured(
        implementation=implementation,
        temp_bytes=memory.temp_size_in_bytes,
        registers=max(numbers(r"Used (\d+) registers"), default=0),
        spilled_bytes=sum(numbers(r"(\d+) bytes spill stores")),
        shared_bytes=max(numbers(r"smem_scratch_bytes=(\d+)"), default=0),
        flops=costs.get("flops", 0.0),
        bytes_accessed=costs.get("bytes accessed", 0.0),
        launches=count_launches(compiled.as_text()),
    )


def count_launches(text: str) -> int:
    """Operations of the entry computation of a compiled program that are launches of their own."""
    entry = text[text.find("ENTRY") :]
    return len(re.findall(r"= .*\b(?:fusion|custom-call|copy|call|while)\(", entry))


def find_faults(
    measured: Measured, program: "Compilable", chip: Chip, baseline: dict[str, Any]
) -> Iterator[str]:
    """What is wrong with a program that compiled; what its baseline lacks is not compared."""
    if measured.spilled_bytes > MAX_SPILLED_BYTES:
        yield f"{measured.spilled_bytes} bytes of registers are spilled"
    if measured.shared_bytes > chip.shared_bytes > 0:
        yield f"shared memory exceeds the chip's {chip.shared_bytes}"
    if measured.temp_bytes > program.pool_bytes / 2 and measured.implementation != "xla":
        yield f"temporaries are no small part of the pool's {program.pool_bytes} bytes"
    slacks = (
        ("temp_bytes", SLACK_BYTES),
        ("bytes_accessed", SLACK_BYTES),
        ("flops", SLACK_BYTES),
        ("launches", SLACK_LAUNCHES),
    )
    for name, slack in slacks:
        before = baseline.get(name)
        now = getattr(measured, name)
        if before is not None and now > before * SLACK + slack:
            yield f"{name} was {before:.0f} and is {now:.0f}"


@contextmanager
def captured_output() -> Iterator[Callable[[], str]]:
    """Collects what native code prints to both streams; Python's own prints too."""
    with tempfile.TemporaryFile() as file:
        saved = [os.dup(number) for number in (1, 2)]
        sys.stdout.flush()
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)

        def read() -> str:
            sys.stdout.flush()
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield read
        finally:
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)


def check(
    name: str,
    chip_name: str,
    devices: list,
    program: "Compilable",
    baseline: dict[str, Any] | None,
) -> tuple[Measured | None, bool]:
    """Compiles one program for one chip and prints its line; None for a baseline that lacks it."""
    chip = CHIPS[chip_name]
    started = time.monotonic()
    measured, faults = None, []
    try:
        with captured_output() as printed:
            compiled = compile_for(devices, program, chip.platform)
            measured = measure(compiled, printed(), program.implementation)
        faults = list(find_faults(measured, program, chip, baseline or {}))
        if baseline is None:
            faults.append("it is not in the baseline: --record it")
    except Exception as error:  # every way a compiler fails is a line of the report
        faults = [f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"]
    line = (
        f"{'FAULT' if faults else 'ok':<5} {chip_name:<5} {name:<24} {program.implementation:<10}"
    )
    line += f" {time.monotonic() - started:5.1f}s"
    if measured is not None:
        line += f" temp {measured.temp_bytes / 2**20:8.2f} MiB"
        if measured.registers:
            line += f" {measured.registers} registers {measured.spilled_bytes} spilled"
            line += f" shared {measured.shared_bytes / 1024:.0f} KiB"
        line += f" {measured.launches} launches"
        if measured.bytes_accessed:
            line += f" reads+writes {measured.bytes_accessed / 2**20:.0f} MiB"
    print(line, *faults, sep=" | ", flush=True)
    return measured, not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", default=",".join(CHIPS), help="comma-separated")
    parser.add_argument("--only", default="*", help="programs, as a shell pattern")
    parser.add_argument("--small", action="store_true", help="only what a change must pass")
    parser.add_argument("--record", action="store_true", help="write the baseline anew")
    arguments = parser.parse_args()
    chips = arguments.chips.split(",")
    for chip_name in chips:
        if chip_name not in CHIPS:
            parser.error(f"{chip_name!r} is no chip; choose from {', '.join(CHIPS)}")
    prepare_environment()
    import jax
    from aot_programs import is_small, make_programs

    recorded = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    # Another jax is another compiler: its numbers are no fault of ours.
    is_comparable = recorded.get("jax") == jax.__version__
    before = recorded["programs"] if is_comparable else {}
    after: dict[str, Any] = {}
    programs = make_programs()
    is_well, num_checked = True, 0
    for chip_name in chips:
        missing = why_missing(CHIPS[chip_name])
        if missing is not None:
            print(f"skip  {chip_name:<5} {missing}", flush=True)
            continue
        with captured_output():
            devices = open_devices(chip_name, CHIPS[chip_name])
        for name, make in programs.items():
            if not fnmatch.fnmatch(name, arguments.only):
                continue
            program = make(CHIPS[chip_name])
            if arguments.small and not is_small(name, program.implementation):
                continue
            key = f"{chip_name} {name}"
            is_needed = arguments.small and is_comparable and not arguments.record
            baseline = before.get(key, None if is_needed else {})
            measured, good = check(name, chip_name, devices, program, baseline)
            is_well &= good
            num_checked += 1
            if measured is not None:
                after[key] = dataclasses.asdict(measured)
    compared = "compared" if is_comparable else "not compared: the baseline is of another jax"
    print(
        f"{num_checked} programs compiled with jax {jax.__version__}, {compared}; nothing was run"
    )
    if arguments.record:
        known = {name for name in before if name.split(" ", 1)[1] in programs}
        programs_recorded = {name: before[name] for name in known} | after
        programs_recorded = dict(sorted(programs_recorded.items()))
        BASELINE.write_text(
            json.dumps({"jax": jax.__version__, "programs": programs_recorded}, indent=1) + "\n"
        )
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())

"""Compile progress in a log: a line now and then, nothing for a quick start."""

import asyncio
import io

from rich.console import Console

from helium_jax.cli.progress import INTERVAL_S, compile_progress
from helium_jax.testing import ManualClock


def test_a_log_gets_a_line_now_and_then():
    out, clock = io.StringIO(), ManualClock()
    with compile_progress(Console(file=out), clock=clock.time) as progress:
        progress(1, 4, "a")
        asyncio.run(clock.advance(INTERVAL_S))
        progress(2, 4, "b")
        progress(3, 4, "c")
        asyncio.run(clock.advance(INTERVAL_S))
        progress(4, 4, "d")
    assert out.getvalue().splitlines() == [
        "compiled 2 of 4 programs: b",
        "compiled 4 of 4 programs: d",
    ]


def test_a_terminal_gets_a_bar_that_vanishes():
    out = io.StringIO()
    with compile_progress(Console(file=out, force_terminal=True, width=80)) as progress:
        progress(1, 2, "step of 16 tokens")
    assert "compiling step of 16 tokens" in out.getvalue()

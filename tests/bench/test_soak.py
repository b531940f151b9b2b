"""The soak in short: over a server process with a fake engine always, over the real one if slow."""

import asyncio
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from bench.harness import ROOT
from bench.serving.process import ServerProcess
from bench.soak import Sample, judge, soak

SCRIPT = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from helium_jax.cli.signals import serve_until_signal
    from helium_jax.server import ServerConfig, make_app, start_server
    from helium_jax.server.watchdog import watch_engine
    from helium_jax.testing import FakeGenerator
    from tests.server.conftest import StubRuntime, load_test_text

    async def wait(request, num_sent):
        await asyncio.sleep(0.002)

    async def main():
        config = ServerConfig(port=0, state_dir=Path(sys.argv[1]))
        runtime = StubRuntime(generator=FakeGenerator(before_event=wait), text=load_test_text())
        server = await start_server(make_app(runtime, config), config)
        print(server.port, flush=True)
        watch = watch_engine(runtime.generator, max_stall_s=60.0)
        return await serve_until_signal(server, 20.0, lambda text: None, watch=watch)

    sys.exit(asyncio.run(main()))
    """
)


@pytest.fixture
def server(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        port = int(popen.stdout.readline())
        yield ServerProcess(popen=popen, url=f"http://127.0.0.1:{port}")
        popen.kill()


def test_a_soaked_server_answers_everybody_and_keeps_nothing(server):
    mixture, checks = asyncio.run(soak(server, 3.0, 6, seed=1))
    faults = [check for check in checks if not check.is_fine]
    assert not faults, [tally.unexpected for tally in mixture.tallies.values()]
    assert len(mixture.tallies) >= 5
    assert server.end() == 0


def test_a_leak_of_each_kind_is_a_fault():
    def sample(**held):
        return Sample(
            **{"at_s": 0.0, "rss_bytes": 2**30, "threads": 9, "files": 9, "tasks": 9} | held
        )

    quiet = SimpleNamespace(num_unanswered=0, tallies={})
    growing = [sample(at_s=float(i), rss_bytes=2**30 + i * 2**22) for i in range(60)]
    kv = {"pages": 8, "free": 3, "cached": 2, "used": 2}
    metrics = {
        'helium:recompiles_after_warmup_total{worker="0"}': 1.0,
        "helium:event_loop_max_block_seconds": 0.01,
        "helium:event_loop_max_busy_seconds": 0.01,
    }
    after = sample(threads=50, files=12, tasks=10)
    checks = judge(quiet, sample(), after, growing, metrics, {"kv": [kv]})
    assert [check.name for check in checks if not check.is_fine] == [
        "pages used",
        "pages lost",
        "tasks gained",
        "files gained",
        "threads gained",
        "growth MiB",
        "compiles",
    ]


@pytest.mark.slow
def test_the_real_engine_is_soaked_for_15_seconds():
    command = [sys.executable, "-m", "bench.soak", "--seconds=15", "--clients=8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

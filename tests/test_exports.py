"""What `import helium_jax` promises."""

import subprocess
import sys

import helium_jax

PUBLIC = [
    "LM",
    "NAIVE",
    "Answer",
    "AsyncLM",
    "CapacityError",
    "EngineConfig",
    "FinishReason",
    "HeliumError",
    "InternalError",
    "Plan",
    "PlanBuilder",
    "PlanError",
    "Report",
    "RequestError",
    "RunOptions",
    "RunResult",
    "SamplingParams",
    "Usage",
    "draw_timeline",
    "explain_stages",
    "load",
    "open_lm",
]


def test_public_names_are_these():
    assert sorted(helium_jax.__all__) == sorted(PUBLIC)


def test_every_public_name_is_there_and_documented():
    for name in helium_jax.__all__:
        assert getattr(helium_jax, name).__doc__


def test_importing_touches_no_device_and_starts_no_thread():
    program = (
        "import sys, threading, helium_jax\n"
        "assert 'jax' not in sys.modules\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_loading_the_python_face_touches_no_device():
    program = (
        "import helium_jax.api, jax\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_are_offered_before_they_are_used():
    assert set(PUBLIC) <= set(dir(helium_jax))

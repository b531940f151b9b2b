"""A model that nobody closes ends quietly with the interpreter, and what it kept is written."""

import os
import subprocess
import sys

import jax
import pytest

SCRIPT = """
import sys
import helium_jax

# Of another test, so that its programs are compiled once.
config = helium_jax.EngineConfig(
    page_size=16, num_pages=16, max_num_seqs=2, max_num_batched_tokens=8, max_model_len=128
)
lm = helium_jax.load(config=config, state_dir=sys.argv[1])
builder = helium_jax.PlanBuilder("p")
builder.output("o", builder.completion("Hi " + builder.input("q"), max_tokens=3))
print(lm.run(builder.build(), [{"q": "x"}]).statistics.num_cached_calls)
if sys.argv[2] == "stops":
    raise SystemExit(3)
if sys.argv[2] == "forgets":
    del lm
    import threading

    print([thread.name for thread in threading.enumerate()])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "said"), [("ends", 0, ""), ("stops", 3, ""), ("forgets", 0, "['MainThread']\n")]
)
def test_a_model_that_nobody_closes_ends_without_a_word(tmp_path, how, code, said):
    cached = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    for count in range(2):  # the second time, the answer of the first is found
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), how],
            env=os.environ | cached,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (code, f"{count}\n{said}", "")

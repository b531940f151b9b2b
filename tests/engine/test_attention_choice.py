"""A kernel that does something wrong on its device is found at start, and XLA's path taken."""

import dataclasses
import logging

import jax.numpy as jnp
import pytest

from helium_jax.engine import Runner
from helium_jax.errors import RequestError
from helium_jax.kernels.attention import IMPLEMENTATIONS, Target
from helium_jax.kernels.attention.self_check import CheckedShape, find_fault
from helium_jax.kernels.attention.xla_worklist import attend_worklist
from helium_jax.kernels.page_write.api import IMPLEMENTATIONS as WRITES
from helium_jax.kernels.page_write.xla_scatter import scatter_pages
from helium_jax.kernels.pallas import tpu
from tests.engine.conftest import MODEL, oracle_greedy, resolved, tiny_params
from tests.engine.test_step import run_one

TARGET = Target(implementation="mosaic_tpu", num_heads=4, num_kv_heads=2)
SHAPE = CheckedShape(dtype="float32", kv_dtype="float32", head_size=8, page_size=16)


def attend(change=lambda out, lse: (out, lse)):
    """XLA's path in a kernel's place, with something done to its result."""
    return lambda *args, **options: change(*attend_worklist(*args, **options))


def raise_unsupported(*_args, **_options):
    raise RuntimeError("INTERNAL: no such\n instruction")


@pytest.fixture
def install(monkeypatch):
    """Puts an attention and a page write into the place of the TPU's."""

    def install(attention, write=scatter_pages):
        monkeypatch.setitem(IMPLEMENTATIONS, "mosaic_tpu", attention)
        monkeypatch.setitem(WRITES, "mosaic_tpu", write)

    return install


def test_a_kernel_that_agrees_has_no_fault(install):
    install(attend())
    assert find_fault(TARGET, SHAPE) is None


@pytest.mark.parametrize(
    ("attention", "fault"),
    [
        (attend(lambda o, s: (o * 1.01, s)), "decode: the output differs from XLA's by up to"),
        (attend(lambda o, s: (o, s + 0.1)), "decode: the log-sum-exp differs from XLA's by up to"),
        (attend(lambda o, s: (o.at[0].set(jnp.nan), s)), "decode: 32 of 160 numbers of the output"),
        (attend(lambda o, s: (o.at[-1].set(1), s)), "the output of padding rows is not empty"),
        (raise_unsupported, "it failed with RuntimeError: INTERNAL: no such instruction"),
    ],
)
def test_names_what_a_kernel_does_wrong(install, attention, fault):
    install(attention)
    assert fault in find_fault(TARGET, SHAPE)


def test_finds_a_fault_that_only_windows_or_only_chunks_have(install):
    def without_windows(*args, **options):
        return attend_worklist(*args, **options | {"window": None})

    install(without_windows)
    windowed = dataclasses.replace(SHAPE, windows=(20,))
    assert "decode, window 20: the output differs" in find_fault(TARGET, windowed)
    install(attend(lambda o, s: (o.at[60:].add(0.1), s)))
    assert "a chunk beside decode: the output" in find_fault(TARGET, SHAPE)


def test_finds_writes_that_go_elsewhere(install):
    install(attend(), lambda pages, layer, k, v, slots: scatter_pages(pages, layer, v, k, slots))
    assert find_fault(TARGET, SHAPE) == "page writes differ from XLA's"


@pytest.fixture
def on_tpu(monkeypatch):
    """This device counts as one that has the kernel."""
    chosen = ("mosaic_tpu", "the Pallas kernel reads it")
    monkeypatch.setattr(
        "helium_jax.kernels.attention.choose.choose_implementation", lambda *_, **__: chosen
    )


def test_an_engine_falls_back_to_xla_with_one_warning_and_answers_right(install, on_tpu, caplog):
    install(attend(lambda out, lse: (out * 1.01, lse)))
    with caplog.at_level(logging.WARNING):
        runner = Runner(tiny_params(), MODEL, resolved())
    assert runner.attention == "xla"
    (record,) = caplog.records
    assert (
        "falls back to XLA's slower path, not mosaic_tpu: its self-check failed: decode: the"
        in (record.getMessage())
    )
    prompt = (5, 4, 3, 2, 1)
    assert run_one(runner, prompt, kv_len=5) == oracle_greedy(prompt, 1)[0]


def test_an_engine_keeps_a_kernel_that_agrees(install, on_tpu, caplog):
    install(attend())
    with caplog.at_level(logging.WARNING):
        runner = Runner(tiny_params(), MODEL, resolved())
    assert (runner.attention, caplog.records) == ("mosaic_tpu", [])
    prompt = (5, 4, 3, 2, 1)
    assert run_one(runner, prompt, kv_len=5) == oracle_greedy(prompt, 1)[0]


def test_a_kernel_that_was_asked_for_by_name_must_work(install):
    install(raise_unsupported)
    with pytest.raises(RequestError, match="attention='mosaic_tpu': it failed with RuntimeError"):
        Runner(tiny_params(), MODEL, resolved(attention="mosaic_tpu"))


def test_xla_by_name_needs_no_check(install, on_tpu):
    install(raise_unsupported)
    assert Runner(tiny_params(), MODEL, resolved(attention="xla")).attention == "xla"


@pytest.mark.slow
def test_the_tpu_kernels_pass_in_their_interpreter():
    shape = CheckedShape(dtype="bfloat16", kv_dtype="bfloat16", head_size=64, page_size=16)
    with tpu.force_tpu_interpret_mode(tpu.InterpretParams()):
        assert find_fault(TARGET, shape) is None

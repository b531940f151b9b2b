"""Tensor parallelism over two CPU devices gives the logits of one; in a process of its own."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import jax
import numpy as np
import pytest

from helium_jax.models.params import param_shapes
from helium_jax.models.shapes import SHAPES
from helium_jax.models.sharding import params_shardings, params_specs

SCRIPT = """
import functools, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from helium_jax.kernels.attention import make_layout, pack_batch, paged_attention, unpack_batch
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import allocate_pages
from helium_jax.models.checkpoint import load_hf
from helium_jax.models.quantize import quantize
from helium_jax.models.sharding import pages_spec, params_shardings, shard_params
from helium_jax.models.transformer import compute_logits, forward

layout = make_layout(num_tokens=8, num_seqs=1, pages_per_seq=2, page_size=4, num_pages=3)
ints = np.empty(layout.num_ints, np.int32)
pack_batch(layout, [8], [8], np.array([[2, 0]]), cascade=False, out=ints)
slots = np.array([8, 9, 10, 11, 0, 1, 2, 3], np.int32)

@functools.partial(jax.jit, static_argnames="config",
    compiler_options={"xla_backend_optimization_level": 0})  # half the compile time
def step(params, config, pages, ids, ints):
    batch = unpack_batch(layout, ints)
    def attend(pages, layer, q, k, v, **options):
        pages = write_pages(pages, layer, k, v, slots)
        out, _ = paged_attention(q, pages, layer, batch, **options)
        return pages, out
    hidden, pages = forward(params, config, ids, jnp.arange(8), attend, pages)
    return compute_logits(params, config, hidden), pages

assert len(jax.devices()) == 2
mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
for folder in sys.argv[1:]:
    one = load_hf(folder)
    c = one.config
    shardings = params_shardings(c, mesh)
    two = load_hf(folder, sharding=shardings)
    assert two.params.layers[0].qkv.addressable_shards[0].data.shape[0] * 2 == (
        one.params.layers[0].qkv.shape[0])
    pages = allocate_pages(num_layers=c.num_layers, num_pages=3, page_size=4,
        num_kv_heads=c.num_kv_heads, head_size=c.head_size, dtype="float32")
    split = jax.device_put(pages, NamedSharding(mesh, pages_spec()))
    ids = np.arange(8, dtype=np.int32)
    expected, _ = step(one.params, c, pages, ids, ints)
    found, after = step(two.params, c, split, ids, ints)
    assert after.k.sharding.spec == pages_spec(), after.k.sharding
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if c.num_experts:
        continue
    expected, _ = step(quantize(one.params), c, pages, ids, ints)
    found, _ = step(shard_params(quantize(one.params), shardings), c, split, ids, ints)
    np.testing.assert_allclose(found, expected, atol=1e-4)
print("equal")
"""


def test_two_devices_give_the_logits_of_one(tmp_path, save_model):
    cases = {
        "llama": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    }
    for family, changes in cases.items():
        save_model(tmp_path / family, family, {"vocab_size": 98, **changes})
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PATH": "/usr/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *(str(tmp_path / f) for f in cases)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr[-3000:]


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_shape_has_a_spec_for_every_leaf(shape):
    config = SHAPES[shape]
    shapes, specs = param_shapes(config), params_specs(config)
    for (path, leaf), spec in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(specs), strict=True
    ):
        assert len(spec) <= len(leaf.shape), path
        if np.prod(leaf.shape) > 2**20:  # only small vectors are on every device
            assert "model" in spec, path


def test_heads_that_do_not_divide_are_refused_by_name():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    params_shardings(SHAPES["bench-110m"], mesh)

    two = jax.sharding.AbstractMesh((2,), ("model",))
    odd = replace(SHAPES["bench-110m"], num_q_heads=3, num_kv_heads=3)
    with pytest.raises(ValueError, match="num_kv_heads=3 cannot be split over 2 devices"):
        params_shardings(odd, two)

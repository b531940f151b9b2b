"""Folders that are as they should be load within their memory; all others are refused by name."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc

import jax
import numpy as np
import pytest

from helium_jax.models.checkpoint import host_leaves, load_hf, open_weights
from helium_jax.models.config import ModelConfig
from helium_jax.models.hf_names import leaves
from helium_jax.models.params import init_params, param_shapes, params_bytes
from helium_jax.models.save import save_hf
from helium_jax.models.shapes import random_params

HF = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "vocab_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
CONFIG = ModelConfig.from_hf(HF)
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    params = init_params(CONFIG, jax.random.key(0))
    save_hf(folder / "single", CONFIG, params)
    save_hf(folder / "sharded", CONFIG, params, max_shard_bytes=16_000)
    return folder


@pytest.fixture
def single(saved, tmp_path):
    return shutil.copytree(saved / "single", tmp_path / "model")


@pytest.fixture
def sharded(saved, tmp_path):
    return shutil.copytree(saved / "sharded", tmp_path / "model")


def edit_header(path, edit):
    """Rewrites a safetensors file with an edited header; the data bytes stay."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    edit(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


def write_tensors(path, edit):
    """Rewrites a safetensors file with edited tensors, consistently."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_a_sharded_folder_is_the_same_model_as_a_single_file(saved):
    a, b = load_hf(saved / "single"), load_hf(saved / "sharded")
    assert a.config == b.config
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_our_files_read_with_the_safetensors_package(single):
    from safetensors.numpy import load_file

    tensors = load_file(single / "model.safetensors")
    assert tensors[Q_PROJ].shape == (32, 32)


def test_host_memory_stays_under_one_and_a_fifth_of_the_largest_leaf(tmp_path):
    config = ModelConfig.from_hf(HF | {"vocab_size": 4096, "hidden_size": 256, "head_dim": 64})
    save_hf(tmp_path, config, init_params(config, jax.random.key(0)))
    files = open_weights(tmp_path)
    owners = {name: file for file in files for name in file.entries}
    wanted = jax.tree.leaves(leaves(config))
    largest = 4096 * 256 * 4
    for dtype in ("float32", "bfloat16"):
        tracemalloc.start()
        for host in host_leaves(wanted, owners, dtype):
            del host
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.2 * largest


def test_a_leaf_that_is_one_tensor_is_not_copied(single):
    files = open_weights(single)
    owners = {name: file for file in files for name in file.entries}
    embedding = next(host_leaves(jax.tree.leaves(leaves(CONFIG)), owners, "float32"))
    tensor = files[0].tensor("model.embed_tokens.weight")
    assert np.shares_memory(embedding, tensor)


def test_the_shapes_of_the_tree_are_those_put_together_from_tensors():
    shapes = param_shapes(CONFIG)
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [
        leaf.shape for leaf in jax.tree.leaves(leaves(CONFIG))
    ]
    assert params_bytes(shapes) == sum(
        4 * int(np.prod(piece.shape))
        for leaf in jax.tree.leaves(leaves(CONFIG))
        for piece in leaf.pieces
    )


def test_generation_config_adds_its_end_of_sequence_ids(single):
    (single / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert load_hf(single).config.eos_token_ids == (2, 7)


def test_a_tied_model_may_carry_its_output_matrix_if_it_is_the_embedding(single):
    path = single / "model.safetensors"
    (single / "config.json").write_text(json.dumps(HF | {"tie_word_embeddings": True}))
    with pytest.raises(ValueError, match=r"lm_head.weight' in .* differs"):
        load_hf(single)
    write_tensors(path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert load_hf(single).params.unembedding is None


def test_the_version_changes_with_weights_config_and_dtype_only(saved, single):
    version = load_hf(saved / "single").version
    assert load_hf(single).version == version
    assert load_hf(single, dtype="bfloat16").version != version
    write_tensors(single / "model.safetensors", lambda t: t[Q_PROJ].__setitem__((0, 0), 9.0))
    changed = load_hf(single).version
    assert changed != version
    (single / "config.json").write_text(json.dumps(HF | {"rms_norm_eps": 1e-4}))
    assert load_hf(single).version not in (version, changed)


# What is wrong with each folder, and the words of the refusal that name it.


def test_a_missing_folder_file_or_config_is_named(single, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        load_hf(tmp_path / "nowhere")
    (single / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor"):
        load_hf(single)
    (single / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        load_hf(single)


def test_a_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        load_hf(sharded)


def test_a_missing_tensor_is_named(single):
    write_tensors(single / "model.safetensors", lambda t: t.pop(Q_PROJ))
    with pytest.raises(ValueError, match=f"'{Q_PROJ}' is missing in .*model.safetensors"):
        load_hf(single)


def test_a_tensor_missing_from_its_shard_is_named(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    shard = index["weight_map"][Q_PROJ]
    write_tensors(sharded / shard, lambda t: t.pop(Q_PROJ))
    with pytest.raises(ValueError, match=f"'{Q_PROJ}' is missing in .*{shard}"):
        load_hf(sharded)


def test_an_extra_tensor_is_named(single):
    extra = {"model.layers.9.mlp.up_proj.weight": np.zeros((2, 2), np.float32)}
    write_tensors(single / "model.safetensors", lambda t: t.update(extra))
    with pytest.raises(ValueError, match=r"'model.layers.9.mlp.up_proj.weight' in .* is extra"):
        load_hf(single)


def test_a_tensor_beyond_the_index_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[0]
    write_tensors(shard, lambda t: t.update({"surprise": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match=f"'surprise' in .*{shard.name} is extra"):
        load_hf(sharded)


def test_a_wrong_shape_is_named(single):
    write_tensors(single / "model.safetensors", lambda t: t.update({Q_PROJ: t[Q_PROJ][:16].copy()}))
    with pytest.raises(ValueError, match=rf"'{Q_PROJ}' in .* has shape \[16, 32\].*\[32, 32\]"):
        load_hf(single)


@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_a_dtype_that_weights_do_not_have_is_named(single, dtype):
    path = single / "model.safetensors"
    write_tensors(path, lambda t: t.update({Q_PROJ: t[Q_PROJ].astype(dtype)}))
    with pytest.raises(ValueError, match=f"'{Q_PROJ}' in .* has dtype .*supported: .*'F32'"):
        load_hf(single)


def test_a_number_that_is_not_finite_is_named(single):
    path = single / "model.safetensors"
    write_tensors(path, lambda t: t[Q_PROJ].__setitem__((3, 4), np.nan))
    with pytest.raises(ValueError, match=f"'{Q_PROJ}' in .* not finite in float32"):
        load_hf(single)
    write_tensors(path, lambda t: t[Q_PROJ].__setitem__((3, 4), 1e6))
    load_hf(single)
    with pytest.raises(ValueError, match=f"'{Q_PROJ}' in .* not finite in float16"):
        load_hf(single, dtype="float16")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_named(single, keep):
    path = single / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated"):
        load_hf(single)


def test_bytes_after_the_last_tensor_are_refused(single):
    with (single / "model.safetensors").open("ab") as file:
        file.write(b"12345")
    with pytest.raises(ValueError, match="5 bytes after its last tensor"):
        load_hf(single)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda e: e.update(data_offsets=[0, 8]), "hold 8 bytes, but F32 of shape"),
        (lambda e: e.update(shape=[32, 33]), r"but F32 of shape=\[32, 33\] takes"),
        (lambda e: e.update(shape=[-32, -32]), "must be whole numbers"),
        (lambda e: e.update(shape=[32.0, 32]), "must be whole numbers"),
        (lambda e: e.update(dtype="F32X"), "unknown dtype 'F32X'"),
        (lambda e: e.update(data_offsets=[8 + o for o in e["data_offsets"]]), "starts at byte"),
        (lambda e: e.update(data_offsets=[10**9, 10**9 + 4096]), "starts at byte|truncated"),
        (lambda e: e.pop("dtype"), "must have dtype, shape, data_offsets"),
    ],
)
def test_a_header_that_lies_is_refused_with_its_tensor(single, edit, words):
    edit_header(single / "model.safetensors", lambda header: edit(header[Q_PROJ]))
    with pytest.raises(ValueError, match=words) as refusal:
        load_hf(single)
    assert "model.safetensors" in str(refusal.value)


@pytest.mark.parametrize("content", [b"\x10" + b"\0" * 7 + b"not json at all!", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_file_is_refused(single, content):
    (single / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors"):
        load_hf(single)


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x", "..", 7],
)
def test_an_index_that_points_out_of_the_folder_is_refused(sharded, name):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][Q_PROJ] = name
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"'{Q_PROJ}' is said to lie in .* not the plain name"):
        load_hf(sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', "[]", "nonsense"])
def test_an_index_that_is_none_is_refused(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index.json"):
        load_hf(sharded)


def test_a_failed_save_leaves_the_old_file(single, monkeypatch):
    before = (single / "model.safetensors").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_hf(single, CONFIG, init_params(CONFIG, jax.random.key(5)))
    assert (single / "model.safetensors").read_bytes() == before
    assert not list(single.glob("*.part"))


PEAK_SCRIPT = """
import sys
import jax
from helium_jax.models.checkpoint import load_hf
from helium_jax.models.params import params_bytes

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(name))

load_hf(sys.argv[1], dtype="float32")  # imports and compiles what loading needs
before = status("VmRSS")
model = load_hf(sys.argv[2], dtype="float32")
print(status("VmHWM") - before - params_bytes(model.params))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_the_process_peaks_below_the_weights_and_one_leaf(tmp_path):
    """The mapped file counts too: 115 MB of bfloat16 that become 230 MB of float32."""
    sizes = {"vocab_size": 32768, "hidden_size": 512, "head_dim": 64, "intermediate_size": 8192}
    for name, vocab_size in (("small", 4096), ("large", 32768)):
        config = ModelConfig.from_hf(HF | sizes | {"vocab_size": vocab_size})
        save_hf(tmp_path / name, config, random_params(config, 0, "bfloat16"))
    done = subprocess.run(
        [sys.executable, "-c", PEAK_SCRIPT, str(tmp_path / "small"), str(tmp_path / "large")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    largest = 32768 * 512 * 4
    assert int(done.stdout) < 1.2 * largest  # beside the weights themselves

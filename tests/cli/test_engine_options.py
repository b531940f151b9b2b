"""Engine options become an EngineConfig; sizes are read as people write them."""

import click
import pytest
from click.testing import CliRunner

from helium_jax.cli.engine_options import engine_config, engine_options
from helium_jax.config import EngineConfig


def parse(*args):
    seen = []

    @click.command()
    @engine_options
    def command(**options):
        seen.append(engine_config(options))

    result = CliRunner().invoke(command, args)
    return (seen[0] if seen else None), result


def test_nothing_given_is_the_default_config():
    config, _ = parse()
    assert config == EngineConfig()


def test_everything_given_arrives():
    config, _ = parse(
        "--dtype=bfloat16", "--kv-dtype=float32", "--quantization=int8", "--page-size=64",
        "--attention=xla",
        "--num-pages=10", "--kv-memory=1.5GiB", "--max-len=512", "--max-seqs=4",
        "--max-batched-tokens=64", "--max-waiting=9", "--no-prefix-caching", "--no-cascade",
        "--deterministic", "--compile-cache=", "--engine-seed=3",
    )  # fmt: skip
    assert config == EngineConfig(
        dtype="bfloat16",
        kv_dtype="float32",
        quantization="int8",
        attention="xla",
        page_size=64,
        num_pages=10,
        kv_memory_bytes=3 * 2**29,
        max_model_len=512,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        max_waiting_requests=9,
        prefix_caching=False,
        cascade=False,
        deterministic=True,
        compile_cache_dir="",
        seed=3,
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("2k", 2048), ("512MiB", 2**29), ("4 GB", 2**32), ("1T", 2**40)],
)
def test_sizes(text, size):
    config, _ = parse(f"--kv-memory={text}")
    assert config.kv_memory_bytes == size


@pytest.mark.parametrize("text", ["", "x", "-5", "5X", "1e9", "٣G"])
def test_what_is_no_size_is_refused(text):
    _, result = parse(f"--kv-memory={text}")
    assert result.exit_code == 2
    assert "is not a size" in result.output

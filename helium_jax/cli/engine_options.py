"""The options that every command with an engine has, as an EngineConfig."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from helium_jax.config import EngineConfig

F = TypeVar("F", bound=Callable[..., Any])
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class ByteSize(click.ParamType):
    """A number of bytes such as 512MiB, 2G (also 1024-based) or 1000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parses the text."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size; write for example 512MiB or 4GiB", param, ctx)
        unit = (match[2] or "").upper().rstrip("I")
        return int(float(match[1]) * 1024 ** _POWERS[unit])


_OPTIONS = (
    click.option("--dtype", help="float32, bfloat16 or float16.  [default: by device]"),
    click.option("--kv-dtype", help="Of the KV pool; also int8 and fp8.  [default: --dtype]"),
    click.option("--quantization", help="int8: weights in int8, dynamic int8 activations."),
    click.option(
        "--attention", help="xla, mosaic_gpu, mosaic_tpu or reference.  [default: by device]"
    ),
    click.option("--page-size", type=int, help="Tokens per KV page."),
    click.option("--num-pages", type=int, help="KV pages.  [default: what fits]"),
    click.option(
        "--kv-memory", "kv_memory_bytes", type=ByteSize(), help="Memory for KV, such as 2GiB."
    ),
    click.option("--max-len", "max_model_len", type=int, help="Most tokens, prompt and output."),
    click.option("--max-seqs", "max_num_seqs", type=int, help="Most sequences of a step."),
    click.option(
        "--max-batched-tokens", "max_num_batched_tokens", type=int, help="Most tokens of a step."
    ),
    click.option("--max-waiting", "max_waiting_requests", type=int, help="Longest queue."),
    click.option(
        "--prefix-caching/--no-prefix-caching", default=None, help="Share KV of equal prefixes."
    ),
    click.option("--cascade/--no-cascade", default=None, help="Read shared prefixes once."),
    click.option("--deterministic", is_flag=True, default=None, help="Same request, same bits."),
    click.option(
        "--compile-cache",
        "compile_cache_dir",
        help='Folder of compiled programs; "" for none.  [default: the user\'s cache folder]',
    ),
    click.option("--engine-seed", "seed", type=int, help="Of the seeds drawn for requests."),
)


def engine_options(command: F) -> F:
    """Adds the options to a command, which gets them as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def engine_config(options: dict[str, Any]) -> EngineConfig:
    """The config of the options that were given; what was not given stays at its default."""
    names = {field.name for field in fields(EngineConfig)}
    return EngineConfig(**{k: v for k, v in options.items() if k in names and v is not None})

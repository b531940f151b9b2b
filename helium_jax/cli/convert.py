"""`helium-jax convert`: the same weights as safetensors or as an Orbax checkpoint."""

import shutil
from pathlib import Path

import click

from helium_jax.errors import RequestError
from helium_jax.models.checkpoint import load_hf
from helium_jax.models.orbax import restore_orbax, save_orbax
from helium_jax.models.save import save_hf

# What a model folder holds beside config.json and weights; both forms carry it along.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
    "LICENSE",
)
ORBAX_PARAMS = "params"


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(["safetensors", "orbax"]),
    help="Form of TARGET.  [default: the one that SOURCE is not]",
)
@click.option("--dtype", help="float32, bfloat16 or float16.  [default: as in SOURCE]")
def convert(source: Path, target: Path, form: str | None, dtype: str | None) -> None:
    """Convert the model folder SOURCE to a new folder TARGET.

    Tokenizer, chat template and generation defaults are copied along.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestError(f"{target} exists and is not empty; name a new folder")
    is_orbax = (source / ORBAX_PARAMS).is_dir()
    if form is None:
        form = "safetensors" if is_orbax else "orbax"
    if is_orbax:
        config, params = restore_orbax(source, dtype=dtype)
    else:
        loaded = load_hf(source, dtype=dtype)
        config, params = loaded.config, loaded.params
    save = save_orbax if form == "orbax" else save_hf
    save(target, config, params)
    copied = [name for name in COMPANIONS if (source / name).is_file()]
    for name in copied:
        shutil.copyfile(source / name, target / name)
    click.echo(f"{target}: {form}, {', '.join(['weights', *copied])}")

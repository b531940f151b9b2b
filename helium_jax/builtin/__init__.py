"""What is shipped inside the package: the model folder helium-tiny and the tasks it was made for.

Not here: reading a model folder (`helium_jax.text`, `helium_jax.models`) and training
(`tools/train_tiny.py`). Imports nothing of ours.
"""

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

TINY_NAME = "helium-tiny"


def tiny_folder() -> AbstractContextManager[Path]:
    """The folder of helium-tiny, as a path that is valid inside the `with`.

    For a package installed in the ordinary way this is its real folder; from a zip file it is a
    temporary copy.
    """
    return as_file(files("helium_jax.builtin") / TINY_NAME)

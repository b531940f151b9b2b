"""The folder of helium-tiny."""

import pytest

from helium_jax.builtin import tiny_folder


@pytest.fixture(scope="session")
def tiny_path():
    with tiny_folder() as folder:
        yield folder

"""Most of the kernels' tests compile much and compute little."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def compiler(quick_compiler):
    """Modules about bits override this, tests about memory ask for `full_compiler`."""

"""Writing the new tokens' keys and values into their pages.

Not here: which slots those are (`helium_jax.engine` and `helium_jax.kvstore`).
"""

from helium_jax.kernels.page_write.api import write_pages

__all__ = ["write_pages"]

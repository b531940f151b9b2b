"""Language models as pure functions over a parameter pytree, and their checkpoints.

Not here: attention over KV pages and page writes (`helium_jax.kernels`, handed in as `attend`),
sampling and batching (`helium_jax.engine`), tokenizers (`helium_jax.text`).
"""

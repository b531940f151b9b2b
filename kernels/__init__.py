"""Device kernels: KV pages, page writes and paged attention, each behind one function.

Imports jax and numpy only. Not here: which sequence owns which page (`helium_jax.kvstore`), what a
step contains (`helium_jax.engine`), layers around attention (`helium_jax.models`).
"""

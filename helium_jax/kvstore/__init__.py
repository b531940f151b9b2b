"""The KV store: which pages hold which tokens, who reads them, and which go first.

Knows page ids, token ids and counts only. Arrays live in the engine's runner, the layout of a page
in `helium_jax.kernels`, queues and batches in `helium_jax.engine`. `store.Store` is the one door.
"""

"""What a text is like, as one vector: the mean of its last hidden states, of length one.

Programs of its own over the engine's weights, without KV pages: a text is alone in its program, so
its vector does not depend, not by a bit, on what else is asked for. Steps and vectors take turns on
the engine's thread. A program is compiled when the first text of its length comes, on the thread
of whoever asks, so that running sequences go on; `num_compiles_after_warmup` is about steps only.
"""

import threading
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled
from jaxtyping import Array, Float, Int

from helium_jax.models.config import ModelConfig
from helium_jax.models.dense_attention import attend_dense_blocks
from helium_jax.models.params import Params
from helium_jax.models.transformer import forward

SHORTEST_BUCKET = 32


def pool_hidden(
    params: Params, packed: Int[Array, " T1"], *, config: ModelConfig
) -> Float[Array, " D"]:
    """The mean of the last hidden states over a text's tokens, divided by its length; float32.

    Args:
        params: the weights.
        packed: int32 [1 + T]: the number of tokens, then the tokens and padding. The model is
            causal, so no token sees the padding behind it.
        config: static.
    """
    num_tokens, ids = packed[0], packed[1:]
    positions = jnp.arange(ids.shape[0])
    hidden, _ = forward(params, config, ids, positions, attend_dense_blocks, None)  # [T, D]
    is_token = positions < num_tokens
    total = jnp.where(is_token[:, None], hidden.astype(jnp.float32), 0.0).sum(axis=0)
    mean = total / num_tokens.astype(jnp.float32)
    return mean / jnp.maximum(jnp.linalg.norm(mean), jnp.finfo(jnp.float32).tiny)


class Embedder:
    """Runs `pool_hidden`, compiled once for each bucket of lengths.

    Args:
        params: the weights, on the device.
        config: the model.
        max_tokens: of a text.
    """

    def __init__(self, params: Params, config: ModelConfig, *, max_tokens: int) -> None:
        self._params = params
        self._config = config
        self._device = min(jax.tree.leaves(params)[0].devices(), key=lambda device: device.id)
        self._max_tokens = max_tokens
        self._jitted = jax.jit(partial(pool_hidden, config=config))
        self._programs: dict[int, Compiled] = {}
        self._compiling = threading.Lock()

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return self._config.width

    @property
    def num_programs(self) -> int:
        """Programs compiled so far."""
        return len(self._programs)

    def prepare(self, num_tokens: int) -> None:
        """Compiles the program for texts of that length unless it is there; from any thread."""
        bucket = self._bucket(num_tokens)
        with self._compiling:
            if bucket not in self._programs:
                packed = jax.ShapeDtypeStruct((1 + bucket,), np.int32)
                with jax.default_device(self._device):
                    lowered = self._jitted.lower(self._params, packed)
                    self._programs[bucket] = lowered.compile()

    def embed(self, token_ids: Sequence[int]) -> np.ndarray:
        """The vector of one text whose length is prepared; waits for the device. float32 [D]."""
        bucket = self._bucket(len(token_ids))
        packed = np.zeros(1 + bucket, np.int32)
        packed[0] = len(token_ids)
        packed[1 : 1 + len(token_ids)] = token_ids
        return np.asarray(self._programs[bucket](self._params, packed))

    def _bucket(self, num_tokens: int) -> int:
        """The power of two, and at most what the longest text needs."""
        assert 0 < num_tokens <= self._max_tokens, "the caller has checked the length"
        return max(SHORTEST_BUCKET, 1 << (num_tokens - 1).bit_length())

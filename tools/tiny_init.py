"""helium-tiny's first weights: random, with a look-up circuit laid out in two layers.

Tiny models learn to look things up only after heads that attend to the token just before, and
heads that use what those wrote, have met by chance; that wait costs more than all the rest of the
training ("In-context Learning and Induction Heads", 2022). So both are laid out at the start:
layer 0 has heads that see one and two tokens back, by position alone; layer 1 has heads that look
for places whose predecessor is the present token, or the one before it, and copy from there.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Ffn, Layer, Params, init_params
from helium_jax.models.rope import inverse_frequencies

_EMBEDDING = 0.05  # deviation; the residual stream must not drown in the first layers' noise
_BRANCH = 0.1  # scale of what attention and feed-forward add to it
_SHARP = 1.5  # query and key norms: look-up needs one key among hundreds
_NUM_FAST = 4  # pairs of rope dimensions that tell neighbours apart
_FIRST_SLOW = 12  # pairs from here on hardly turn within the context: content is matched there


def prepare_params(config: ModelConfig, seed: int) -> Params:
    """Weights to start training from; needs at least two layers, two KV heads of two queries."""
    params = init_params(config, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    constant = rng.standard_normal(config.width).astype(np.float32)
    constant /= np.linalg.norm(constant)
    embedding = np.asarray(params.embedding) * (_EMBEDDING / 0.02)
    embedding += constant * _EMBEDDING * config.width**0.5  # what attention by position reads
    layers = [_scaled(layer) for layer in params.layers]
    layers[:2] = _look_up_layers(layers[0], layers[1], config, constant)
    return replace(params, embedding=jnp.asarray(embedding), layers=tuple(layers))


def _scaled(layer: Layer) -> Layer:
    assert isinstance(layer.ffn, Ffn)
    assert layer.qk_norms is not None
    return replace(
        layer,
        o=layer.o * _BRANCH,
        ffn=replace(layer.ffn, down=layer.ffn.down * _BRANCH),
        qk_norms=layer.qk_norms * _SHARP,
    )


def _look_up_layers(
    first: Layer, second: Layer, config: ModelConfig, constant: np.ndarray
) -> list[Layer]:
    heads, group, size = config.num_kv_heads, config.queries_per_kv_head, config.head_size
    shape = (heads, group + 2, size, config.width)
    qkv0, qkv1 = (np.array(layer.qkv).reshape(shape) for layer in (first, second))
    o0, o1 = (
        np.array(layer.o).reshape(config.width, heads, group, size) for layer in (first, second)
    )

    # Layer 0, KV head 0: its two queries see one and two tokens back, and write that into
    # subspaces at right angles, so that layer 1 can tell them, and the token itself, apart.
    written = np.concatenate([constant[:, None], o0[:, 0, 0], o0[:, 0, 1]], axis=1)
    apart, _ = np.linalg.qr(written)
    one_back, two_back = apart[:, 1 : size + 1].T, apart[:, size + 1 : 2 * size + 1].T
    itself = np.eye(config.width, dtype=np.float32) - apart @ apart.T
    itself *= (config.width / (config.width - apart.shape[1])) ** 0.5
    for query, back in enumerate((one_back, two_back)):
        turned = np.outer(_turned(config, tokens=query + 1), constant)
        qkv0[0, query] = 0.3 * qkv0[0, query] + 1.5 * turned
        o0[:, 0, query] = back.T * _BRANCH
    qkv0[0, group] = 0.3 * qkv0[0, group] + 1.5 * np.outer(_turned(config, tokens=0), constant)
    value = qkv0[0, group + 1] @ itself
    qkv0[0, group + 1] = value

    # Layer 1: keys are what layer 0 wrote of the predecessor, queries are the present token's own.
    slow = (np.arange(size) % (size // 2) >= _FIRST_SLOW).astype(np.float32)[:, None]
    qkv1[0, 0], qkv1[0, group] = slow * value, slow * one_back
    qkv1[1, 0], qkv1[1, group] = slow * value, slow * two_back
    qkv1[1, 1] = slow * one_back  # the token before the present one, seen two back elsewhere
    for head, queries in ((0, 1), (1, 2)):
        copied = qkv1[head, group + 1] @ itself
        qkv1[head, group + 1] = copied
        for query in range(queries):
            o1[:, head, query] = copied.T * _BRANCH

    def put(layer: Layer, qkv: np.ndarray, o: np.ndarray) -> Layer:
        return replace(
            layer,
            qkv=jnp.asarray(qkv.reshape(-1, config.width)),
            o=jnp.asarray(o.reshape(config.width, -1)),
        )

    return [put(first, qkv0, o0), put(second, qkv1, o1)]


def _turned(config: ModelConfig, *, tokens: int) -> np.ndarray:
    """A query that, rotated by its position, points where the key `tokens` earlier does, [H]."""
    angles = inverse_frequencies(config.rope, config.head_size)[:_NUM_FAST] * tokens
    vector = np.zeros(config.head_size, np.float32)
    vector[:_NUM_FAST] = np.cos(angles)
    vector[config.head_size // 2 :][:_NUM_FAST] = -np.sin(angles)
    return vector / _NUM_FAST**0.5

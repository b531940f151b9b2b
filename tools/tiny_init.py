"""helium-tiny's first weights: random, with a look-up circuit laid out in two layers.

Tiny models learn to look things up only after heads that attend to a token just before, and heads
that use what those wrote, have met by chance; that wait costs more than all the rest of the
training ("In-context Learning and Induction Heads", 2022). So both are laid out at the start:
layer 0 has heads that see a fixed number of tokens back; layer 1 has a head that looks for what
stands behind the end of the question, or behind the present words elsewhere, and copies it.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Ffn, Layer, Params, init_params
from helium_jax.models.rope import inverse_frequencies

_EMBEDDING = 0.05  # deviation; the residual stream must not drown in the first layers' noise
_NOISE = 0.02  # scale of what random heads and feed-forwards add to it
_BRANCH = 0.1  # of what the heads that see by position add
_COPY = 1.0  # of what the look-up heads add: it must be heard at once
_SHARP = 1.7  # query and key norms: look-up needs one key among hundreds
_NUM_FAST = 4  # pairs of rope dimensions that tell neighbours apart
_TO_QUESTION = 6  # from the last token of the prompt back to the last word of the question
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
    assert isinstance(layer.ffn.down, jax.Array)
    assert isinstance(layer.o, jax.Array)
    assert layer.qk_norms is not None
    return replace(
        layer,
        o=layer.o * _NOISE,
        ffn=replace(layer.ffn, down=layer.ffn.down * _NOISE),
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

    # Layer 0: three queries see a fixed number of tokens back, by position alone, and write what
    # they see into subspaces at right angles, so that layer 1 can tell them, and the token
    # itself, apart. Only dimensions that rope hardly turns are used: layer 1 compares contents.
    slow = np.arange(size) % (size // 2) >= _FIRST_SLOW
    num_slow = int(slow.sum())
    places = ((0, 0, 1), (0, 1, 2), (1, 0, _TO_QUESTION))  # KV head, query, tokens back
    written = [o0[:, head, query, slow] for head, query, _ in places]
    apart, _ = np.linalg.qr(np.concatenate([constant[:, None], *written], axis=1))
    itself = np.eye(config.width, dtype=np.float32) - apart @ apart.T
    itself *= (config.width / (config.width - apart.shape[1])) ** 0.5
    value = qkv0[0, group + 1] @ itself * slow[:, None]
    readers = []
    for place, (head, query, tokens) in enumerate(places):
        back = apart[:, 1 + place * num_slow :][:, :num_slow]
        qkv0[head, query] = 0.3 * qkv0[head, query] + 1.5 * np.outer(
            _turned(config, tokens=tokens), constant
        )
        qkv0[head, group + 1] = value
        o0[:, head, query] = 0.0
        o0[:, head, query, slow] = back * _BRANCH
        readers.append(_spread(back.T, slow))
    for head in (0, 1):
        unturned = np.outer(_turned(config, tokens=0), constant)
        qkv0[head, group] = 0.3 * qkv0[head, group] + 1.5 * unturned
    one_back, two_back, question = readers

    # Layer 1, KV head 1: keys are what stands two tokens before ("Ada: red"); its first query is
    # both the end of the question and the token before the present one. What is found is copied.
    qkv1[1, 0], qkv1[1, group] = question + one_back, two_back
    copied = qkv1[1, group + 1] @ itself
    qkv1[1, group + 1] = copied
    o1[:, 1, 0] = copied.T * _COPY

    def put(layer: Layer, qkv: np.ndarray, o: np.ndarray) -> Layer:
        return replace(
            layer,
            qkv=jnp.asarray(qkv.reshape(-1, config.width)),
            o=jnp.asarray(o.reshape(config.width, -1)),
        )

    return [put(first, qkv0, o0), put(second, qkv1, o1)]


def _spread(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A matrix with `rows` where `places` is true and zeros elsewhere."""
    matrix = np.zeros((len(places), rows.shape[1]), np.float32)
    matrix[places] = rows
    return matrix


def _turned(config: ModelConfig, *, tokens: int) -> np.ndarray:
    """A query that, rotated by its position, points where the key `tokens` earlier does, [H]."""
    angles = inverse_frequencies(config.rope, config.head_size)[:_NUM_FAST] * tokens
    vector = np.zeros(config.head_size, np.float32)
    vector[:_NUM_FAST] = np.cos(angles)
    vector[config.head_size // 2 :][:_NUM_FAST] = -np.sin(angles)
    return vector / _NUM_FAST**0.5

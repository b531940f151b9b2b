"""The key of a call: everything that changes its answer, and nothing else."""

import dataclasses
import hashlib
from array import array
from collections.abc import Sequence

from helium_jax.plan import CallSettings
from helium_jax.types import ModelInfo

# A change of what a key is made of, or of what an answer means, takes a new number: answers that
# older programs left in a file are then never found again.
KEY_FORMAT = "helium-output/2"

# What may differ between two calls with the same answer. Every other field of the settings, also
# one that is added later, is part of the key.
_WITHOUT_EFFECT = frozenset({"priority", "cache", "retries", "timeout_s", "on_error", "default"})


def call_key(
    model: ModelInfo, token_ids: Sequence[int], settings: CallSettings, *, salt: str = ""
) -> bytes | None:
    """Equal keys mean equal answers; None for a call whose answer must not serve another one.

    Only deterministic calls have a key: greedy ones, and seeded ones where the engine promises
    equal tokens for equal requests bit for bit. The text, the history and the echo of one call are
    derived from its one answer, so they have its one key.

    Args:
        model: who answers; one without a version cannot be told from another and gives no key.
        token_ids: the prompt.
        settings: how the model is called.
        salt: with whom answers are shared, such as a tenant; different salts share nothing.
    """
    sampling = settings.sampling
    is_repeatable = sampling.is_greedy or (sampling.seed is not None and model.deterministic)
    # Log-probabilities are part of an answer and are not kept.
    if not is_repeatable or not settings.cache.results or sampling.logprobs is not None:
        return None
    if not model.version:
        return None
    fields = [
        (field.name, getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.name not in _WITHOUT_EFFECT
    ]
    # The context's length ends an answer that has no max_tokens, and so do the model's own ids.
    numerics = (
        model.version,
        model.deterministic,
        model.vocab_size,
        model.max_model_len,
        sorted(model.eos_token_ids),
    )
    # repr tells 1 from 1.0 from True and quotes strings; lone surrogates have no UTF-8.
    head = repr((KEY_FORMAT, numerics, salt, fields, len(token_ids)))
    digest = hashlib.blake2b(head.encode("utf-8", "surrogatepass"), digest_size=32)
    digest.update(array("q", token_ids).tobytes())
    return digest.digest()

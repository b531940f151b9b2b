"""From a body that is all right to what the engine runs, whatever the endpoint."""

import hashlib
import hmac
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from helium_jax.server.config import Limits
from helium_jax.server.errors import NotFoundError
from helium_jax.server.hints import Hints, affine_worker
from helium_jax.server.openai.formats import Heading
from helium_jax.server.openai.sampling import SEED_RANGE
from helium_jax.server.reading import Findings
from helium_jax.server.state import CONFIG, REQUEST_ID, RUNTIME, TENANT, Asking
from helium_jax.types import GenerateRequest, SamplingParams, TokenGrammar


def model_names(asking: Asking) -> tuple[str, ...]:
    """Names under which the model can be asked for, its own first."""
    own = asking.app[RUNTIME].generator.info.name
    return tuple(dict.fromkeys((own, *asking.app[CONFIG].served_names)))


def check_model(asking: Asking, name: str) -> None:
    """Refuses a model that is not served.

    Raises:
        NotFoundError: lists what is served.
    """
    names = model_names(asking)
    if name not in names:
        raise NotFoundError(
            f"the model {name!r} is not served here; there is {', '.join(names)}",
            code="model_not_found",
            param="model",
        )


def derive_salt(tenant: str, client_salt: str | None) -> str:
    """The salt of the prefix cache: the key's, which the client's own can only narrow."""
    if not tenant and client_salt is None:
        return ""
    message = b"" if client_salt is None else b"+" + client_salt.encode()
    return hmac.new(tenant.encode(), message, hashlib.blake2s).hexdigest()


def check_salt(salt: str | None, limits: Limits, found: Findings) -> None:
    """Checks the length of a cache salt."""
    if salt is not None and len(salt) > limits.salt_chars:
        found.add("cache_salt", f"has {len(salt)} characters; the limit is {limits.salt_chars}")


def make_requests(
    asking: Asking,
    prompts: Sequence[tuple[int, ...]],
    sampling: SamplingParams,
    *,
    hints: Hints,
    cache_salt: str | None,
    grammar: TokenGrammar | None,
    answers_per_prompt: int = 1,
    worker: int | None = None,
) -> tuple[GenerateRequest, ...]:
    """The engine's requests: `answers_per_prompt` for each prompt, side by side.

    Args:
        asking: whose key the KV belongs to.
        prompts: token ids.
        sampling: of answer 0; the others draw from seeds of their own.
        hints: of the body.
        cache_salt: the body's own.
        grammar: that each answer is held to.
        answers_per_prompt: n.
        worker: where the KV is, if that is known; None: as the hints say.
    """
    # The client may reuse its request id; the engine's must be unique among the unfinished.
    unique = f"{asking[REQUEST_ID]}.{uuid.uuid4().hex[:8]}"
    n = answers_per_prompt
    salt = derive_salt(asking[TENANT], cache_salt)
    if worker is None:
        workers = asking.app[RUNTIME].generator.statistics()
        worker = affine_worker(hints.affinity, asking[TENANT], workers)
    return tuple(
        GenerateRequest(
            request_id=f"{unique}.{i * n + j}",
            token_ids=ids,
            sampling=_of_answer(sampling, j),
            priority=hints.priority,
            cache_salt=salt,
            worker=worker,
            grammar=grammar,
        )
        for i, ids in enumerate(prompts)
        for j in range(n)
    )


def _of_answer(sampling: SamplingParams, answer: int) -> SamplingParams:
    """Answer 0 is what n = 1 gives; the others draw from seeds of their own."""
    if sampling.seed is None or answer == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + answer) % SEED_RANGE)


def make_heading(asking: Asking, prefix: str, warnings: list[str]) -> Heading:
    """What an answer says of itself; its id begins with `prefix`."""
    info = asking.app[RUNTIME].generator.info
    return Heading(
        id=f"{prefix}{uuid.uuid4().hex}",
        created=int(time.time()),
        model=info.name,
        fingerprint=f"helium-{info.version[:16]}" if info.version else None,
        warnings=warnings,
    )

"""What a request must be before any work is done for it."""

import math
from collections.abc import Sequence

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.sequence import Queues
from helium_jax.errors import CapacityError, RequestError
from helium_jax.types import GenerateRequest, ModelInfo, SamplingParams

MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 300
MAX_STOP_TOKEN_IDS = 16


def validate_token_ids(ids: Sequence[int], *, vocab_size: int) -> None:
    """Refuses no ids at all, and ids that are no tokens.

    Raises:
        RequestError: names the first one that is wrong.
    """
    if not ids:
        raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
    for index, token_id in enumerate(ids):
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise RequestError(
                f"token id {token_id!r} at position {index} is not in [0, {vocab_size})",
                param=f"prompt[{index}]",
            )


def validate_request(request: GenerateRequest, info: ModelInfo, *, pool_tokens: int) -> None:
    """Refuses what the engine cannot run; JAX gathers clamp bad ids silently, so the host checks.

    Args:
        request: the candidate.
        info: of the engine that is to run it.
        pool_tokens: tokens that the whole KV pool holds.

    Raises:
        RequestError: names the field, its value and the limit.
    """
    vocab_size, max_model_len = info.vocab_size, info.max_model_len
    validate_worker(request.worker, info)
    ids = request.token_ids
    validate_token_ids(ids, vocab_size=vocab_size)
    if len(ids) >= max_model_len:
        raise RequestError(
            f"the prompt has {len(ids)} tokens, which leaves no room to generate in the context "
            f"of {max_model_len}; shorten it",
            code="context_length_exceeded",
            param="prompt",
        )
    validate_sampling(request.sampling, vocab_size=vocab_size)
    # Without max_tokens the sequence may grow to the end of the context or of the pool.
    longest = len(ids) + (request.sampling.max_tokens or 1)
    if longest > max_model_len:
        raise RequestError(
            f"prompt of {len(ids)} tokens plus max_tokens={request.sampling.max_tokens} exceeds "
            f"the context of {max_model_len}; lower one of them",
            code="context_length_exceeded",
            param="max_tokens",
        )
    if longest > pool_tokens:
        raise RequestError(
            f"prompt plus output need {longest} tokens of KV memory but the whole pool holds "
            f"{pool_tokens}; shorten the request, or serve with a larger --kv-memory",
            code="context_length_exceeded",
            param="prompt",
        )


def check_room(request: GenerateRequest, queues: Queues, config: ResolvedEngineConfig) -> None:
    """Refuses a request that would make the queue too long.

    Raises:
        CapacityError: names the limit.
    """
    num_waiting = len(queues.waiting)
    if num_waiting >= config.max_waiting_requests:
        raise CapacityError(
            f"{num_waiting} requests are waiting, the most this engine queues "
            f"(max_waiting_requests={config.max_waiting_requests}); try again later"
        )
    num_tokens = len(request.token_ids)
    if queues.num_waiting_tokens + num_tokens > config.max_waiting_tokens:
        raise CapacityError(
            f"{queues.num_waiting_tokens} prompt tokens are waiting and {num_tokens} more "
            f"exceed max_waiting_tokens={config.max_waiting_tokens}; try again later"
        )


def validate_worker(worker: int | None, info: ModelInfo) -> None:
    """Refuses a worker that does not exist.

    Raises:
        RequestError: names the workers there are.
    """
    if worker is not None and not 0 <= worker < info.num_workers:
        raise RequestError(
            f"{worker=} does not exist; workers are 0 to {info.num_workers - 1}", param="worker"
        )


def validate_sampling(sampling: SamplingParams, *, vocab_size: int) -> None:
    """Refuses sampling parameters that are out of range, NaN or infinite.

    Raises:
        RequestError: names the field and its range.
    """
    if sampling.max_tokens is not None:
        _check_int("max_tokens", sampling.max_tokens, 1, 2**31 - 1)
    _check_int("min_tokens", sampling.min_tokens, 0, sampling.max_tokens or 2**31 - 1)
    _check_float("temperature", sampling.temperature, 0.0, 100.0)
    _check_int("top_k", sampling.top_k, 0, 2**31 - 1)
    _check_float("top_p", sampling.top_p, 0.0, 1.0)
    if sampling.top_p == 0.0:
        raise RequestError("top_p=0 keeps no token; use a value in (0, 1]", param="top_p")
    _check_float("min_p", sampling.min_p, 0.0, 1.0)
    _check_float("presence_penalty", sampling.presence_penalty, -2.0, 2.0)
    _check_float("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)
    _check_float("repetition_penalty", sampling.repetition_penalty, 0.01, 100.0)
    if sampling.seed is not None:
        _check_int("seed", sampling.seed, 0, 2**63 - 1)
    if sampling.logprobs is not None:
        _check_int("logprobs", sampling.logprobs, 0, MAX_LOGPROBS)
    _check_count("logit_bias", len(sampling.logit_bias), MAX_LOGIT_BIAS)
    for token_id, bias in sampling.logit_bias:
        _check_int("logit_bias", token_id, 0, vocab_size - 1)
        _check_float("logit_bias", bias, -100.0, 100.0)
    _check_count("stop_token_ids", len(sampling.stop_token_ids), MAX_STOP_TOKEN_IDS)
    for token_id in sampling.stop_token_ids:
        _check_int("stop_token_ids", token_id, 0, vocab_size - 1)


def _check_count(name: str, count: int, most: int) -> None:
    if count > most:
        raise RequestError(f"{name} has {count} entries; at most {most} are allowed", param=name)


def _check_int(name: str, value: int, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RequestError(
            f"{name}={value!r} must be a whole number in [{low}, {high}]", param=name
        )


def _check_float(name: str, value: float, low: float, high: float) -> None:
    # `not low <= value` is also true for NaN.
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name}={value!r} must be a number in [{low:g}, {high:g}]", param=name)
    if math.isinf(value):
        raise RequestError(f"{name}={value!r} must be finite", param=name)

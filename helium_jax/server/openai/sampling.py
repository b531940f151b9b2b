"""The rules between a body's fields, and its sampling parameters."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from helium_jax.server.config import Limits
from helium_jax.server.openai.bodies import ChatBody, DecodingFields, SamplingFields
from helium_jax.server.reading import Findings
from helium_jax.types import ModelInfo, SamplingParams

T = TypeVar("T")
SEED_RANGE = 2**63
COMPLETION_MAX_TOKENS = (
    16  # OpenAI's default for the older endpoint; chat goes to the context's end
)


def check_foreign(
    raw: dict[str, Any], fields: dict[str, tuple[Any, ...]], path: str, found: Findings
) -> None:
    """Refuses known fields with an effect that we do not have, and drops them from `unknown`."""
    for name, neutral in fields.items():
        if name not in raw:
            continue
        where = f"{path}.{name}" if path else name
        if where in found.unknown:
            del found.unknown[where]
        value = raw[name]
        if value is not None and not any(_same(value, other) for other in neutral):
            message = "is not supported by this server: leave it out"
            if neutral:
                message += " or send " + " or ".join(map(json.dumps, neutral))
            found.add(where, message, "unsupported_parameter")


def _same(value: Any, other: Any) -> bool:
    """Equality under which true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def check_sampling(
    body: DecodingFields,
    info: ModelInfo,
    defaults: SamplingParams,
    limits: Limits,
    found: Findings,
    *,
    max_tokens: int | None,
    logprobs: int | None,
) -> SamplingParams:
    """Checks what no single field's type can say, and builds the parameters of answer 0.

    The result is only meaningful when `found` has gained no problem.

    Args:
        body: how to decode.
        info: the model.
        defaults: the model's own, for what the body leaves out.
        limits: of one request.
        found: gains the faults.
        max_tokens: of an answer; None means up to the end of the context.
        logprobs: alternatives per token; None: no log-probabilities.
    """
    _check_stop(body, info, limits, found)
    min_tokens = body.min_tokens or 0
    if min_tokens > (info.max_model_len if max_tokens is None else max_tokens):
        found.add("min_tokens", f"{min_tokens=} is more than {max_tokens or info.max_model_len=}")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_given(body.temperature, defaults.temperature),
        top_k=max(_given(body.top_k, defaults.top_k), 0),
        top_p=_given(body.top_p, defaults.top_p),
        min_p=_given(body.min_p, defaults.min_p),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=_given(body.repetition_penalty, defaults.repetition_penalty),
        logit_bias=_logit_bias(body.logit_bias or {}, info, limits, found),
        stop_token_ids=tuple(dict.fromkeys(body.stop_token_ids or ())),
        ignore_eos=bool(body.ignore_eos),
        seed=None if body.seed is None else body.seed % SEED_RANGE,
        logprobs=logprobs,
    )


def check_answers(body: SamplingFields, limits: Limits, found: Findings) -> None:
    """Checks how many answers are wanted, and how they are told."""
    if body.stream_options is not None and not body.stream:
        found.add("stream_options", "needs stream: true; set it or leave stream_options out")
    if (body.n or 1) > limits.n:
        found.add("n", f"n={body.n} is over this server's limit of {limits.n}")


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def stop_strings(body: DecodingFields) -> tuple[str, ...]:
    """The stop strings as a tuple."""
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def check_stop_strings(
    stop: str | Sequence[str], name: str, limits: Limits, found: Findings
) -> None:
    """Checks the stop strings that stand in the field `name`."""
    stops = (stop,) if isinstance(stop, str) else stop
    if len(stops) > limits.stop_strings:
        found.add(name, f"has {len(stops)} strings; the limit is {limits.stop_strings}")
        return
    for i, text in enumerate(stops):
        path = name if isinstance(stop, str) else f"{name}[{i}]"
        if not text:
            found.add(path, "is empty, which would stop at once; leave it out")
        elif len(text) > limits.stop_chars:
            found.add(path, f"has {len(text)} characters; the limit is {limits.stop_chars}")


def _check_stop(body: DecodingFields, info: ModelInfo, limits: Limits, found: Findings) -> None:
    check_stop_strings(() if body.stop is None else body.stop, "stop", limits, found)
    ids = body.stop_token_ids or []
    if len(ids) > limits.stop_token_ids:
        found.add("stop_token_ids", f"has {len(ids)} ids; the limit is {limits.stop_token_ids}")
        return
    for i, token in enumerate(ids):
        if token >= info.vocab_size:
            found.add(f"stop_token_ids[{i}]", f"{token} is not below {info.vocab_size=}")


def chat_max_tokens(body: ChatBody, found: Findings) -> int | None:
    """What a chat request says of its length, in either spelling."""
    if body.max_completion_tokens is None:
        return body.max_tokens
    if body.max_tokens is not None and body.max_tokens != body.max_completion_tokens:
        found.add(
            "max_completion_tokens",
            f"{body.max_completion_tokens} differs from max_tokens={body.max_tokens}; send one",
        )
    return body.max_completion_tokens


def chat_logprobs(body: ChatBody, limits: Limits, found: Findings) -> int | None:
    """The alternatives per token that a chat request asks for; None: no log-probabilities."""
    wanted = body.top_logprobs
    if wanted is not None and not body.logprobs:
        found.add("top_logprobs", "needs logprobs: true; set it or leave top_logprobs out")
    if body.logprobs and wanted is None:
        wanted = 0
    return check_logprobs(wanted, "top_logprobs", limits, found)


def check_logprobs(wanted: int | None, path: str, limits: Limits, found: Findings) -> int | None:
    """The alternatives per token that the field `path` asks for."""
    if wanted is not None and wanted > limits.top_logprobs:
        found.add(path, f"{wanted} is over this server's limit of {limits.top_logprobs}")
    return wanted


def _logit_bias(
    bias: dict[str, float], info: ModelInfo, limits: Limits, found: Findings
) -> tuple[tuple[int, float], ...]:
    if len(bias) > limits.logit_bias:
        found.add("logit_bias", f"has {len(bias)} entries; the limit is {limits.logit_bias}")
        return ()
    entries: dict[int, float] = {}
    for key, value in bias.items():
        # isdecimal alone would also take other scripts' digits.
        token = int(key) if key.isascii() and key.isdecimal() and len(key) <= 10 else -1
        if not 0 <= token < info.vocab_size:
            found.add(
                "logit_bias",
                f"{key[:32]!r} is not a token id from 0 to {info.vocab_size - 1}",
            )
        else:
            entries[token] = value
    return tuple(entries.items())

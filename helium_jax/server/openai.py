"""POST /v1/chat/completions and /v1/completions."""

import asyncio
import hashlib
import hmac
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aiohttp import web

from helium_jax.server.admission import working
from helium_jax.server.answering import Job, answer
from helium_jax.server.bodies import (
    FOREIGN_CHAT_FIELDS,
    FOREIGN_COMPLETION_FIELDS,
    ChatBody,
    CompletionBody,
    SamplingFields,
    StreamOptions,
)
from helium_jax.server.chat_format import ChatFormat
from helium_jax.server.completion_format import CompletionFormat
from helium_jax.server.errors import NotFoundError
from helium_jax.server.formats import Heading
from helium_jax.server.hints import Hints, affine_worker, check_hints
from helium_jax.server.prompts import (
    check_fits,
    check_messages,
    check_prompts,
    check_variables,
    encode_prompts,
)
from helium_jax.server.reading import Findings
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.response_format import check_format, compile_answer, compile_format
from helium_jax.server.sampling import SEED_RANGE, check_foreign, check_sampling, stop_strings
from helium_jax.server.state import (
    CONFIG,
    REQUEST_ID,
    RUNTIME,
    TENANT,
    Asking,
)
from helium_jax.server.tool_request import check_tools, parser_maker
from helium_jax.server.tools import write_tools
from helium_jax.types import GenerateRequest, SamplingParams, TokenGrammar


async def post_chat(request: web.Request) -> web.StreamResponse:
    """Continues a conversation."""
    with working(request):
        started = asyncio.get_running_loop().time()
        raw = await receive_object(request)
        job, form = await prepare_chat(request, raw, started)
        return await answer(request, job, form)


async def prepare_chat(
    asking: Asking, raw: dict[str, Any], started: float
) -> tuple[Job, ChatFormat]:
    """Checks a chat body; what is to run, and how its answer is written.

    Raises:
        RequestError: names every fault.
        NotFoundError: the model is not served.
    """
    runtime, config = asking.app[RUNTIME], asking.app[CONFIG]
    body, found = parse_body(ChatBody, raw)
    check_foreign(raw, FOREIGN_CHAT_FIELDS, "", found)
    if body is None:
        finish_reading(found, strict=config.strict)
        raise AssertionError("a body that cannot be read has problems")
    info = runtime.generator.info
    sampling = check_sampling(body, info, runtime.text.sampling, config.limits, found)
    tools, choice = check_tools(body, config.limits, found)
    wanted = check_format(body, raw, found, has_tools=bool(tools))
    messages = check_messages(body.messages, raw["messages"], config.limits, found)
    hints = check_hints(body, body.priority, config.limits, found)
    variables = check_variables(body.chat_template_kwargs or {}, config.limits, found)
    _check_salt(body, config.limits.salt_chars, found)
    warnings = finish_reading(found, strict=config.strict)
    check_model(asking, body.model)
    prompt = write_tools(messages, tools, runtime.text.template)
    ids = await asyncio.to_thread(
        runtime.text.encode_chat, prompt.messages, tools=prompt.tools, **variables
    )
    check_fits(len(ids), sampling.max_tokens, info.max_model_len, "messages")
    grammar = await compile_answer(runtime.text, wanted, tools, choice, prompt.syntax)
    job = _make_job(asking, body, [tuple(ids)], sampling, hints, grammar, started)
    heading = _heading(asking, "chatcmpl", [*warnings, *hints.warnings])
    make_parser = parser_maker(tools, choice, prompt.syntax)
    return job, ChatFormat(heading, runtime.text, make_parser)


async def post_completions(request: web.Request) -> web.StreamResponse:
    """Continues texts."""
    with working(request):
        started = asyncio.get_running_loop().time()
        raw = await receive_object(request)
        job, form = await prepare_completions(request, raw, started)
        return await answer(request, job, form)


async def prepare_completions(
    asking: Asking, raw: dict[str, Any], started: float
) -> tuple[Job, CompletionFormat]:
    """Checks a completions body; as `prepare_chat`."""
    runtime, config = asking.app[RUNTIME], asking.app[CONFIG]
    limits = config.limits
    body, found = parse_body(CompletionBody, raw)
    check_foreign(raw, FOREIGN_COMPLETION_FIELDS, "", found)
    if body is None:
        finish_reading(found, strict=config.strict)
        raise AssertionError("a body that cannot be read has problems")
    info = runtime.generator.info
    sampling = check_sampling(body, info, runtime.text.sampling, limits, found)
    prompts = check_prompts(body.prompt, info, limits, found)
    wanted = check_format(body, raw, found)
    hints = check_hints(body, body.priority, limits, found)
    _check_salt(body, limits.salt_chars, found)
    _check_best_of(body, found)
    if body.echo and body.logprobs is not None:
        found.add_unsupported("logprobs", "log-probabilities of the prompt (echo)")
    if len(prompts) * (body.n or 1) > limits.sequences:
        found.add(
            "n", f"{len(prompts)} prompts times n={body.n} exceeds {limits.sequences} answers"
        )
    warnings = finish_reading(found, strict=config.strict)
    check_model(asking, body.model)
    encoded = await encode_prompts(
        prompts, runtime.text, add_special_tokens=body.add_special_tokens is not False
    )
    for prompt, ids in zip(prompts, encoded, strict=True):
        check_fits(len(ids), sampling.max_tokens, info.max_model_len, prompt.path)
    echoes: tuple[str, ...] = ()
    if body.echo:
        echoes = tuple(
            runtime.text.decode(ids) if prompt.text is None else prompt.text
            for prompt, ids in zip(prompts, encoded, strict=True)
            for _ in range(body.n or 1)
        )
    grammar = await compile_format(runtime.text, wanted)
    job = _make_job(asking, body, encoded, sampling, hints, grammar, started)
    heading = _heading(asking, "cmpl", [*warnings, *hints.warnings])
    return job, CompletionFormat(heading, runtime.text, echoes)


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


def _check_salt(body: SamplingFields, limit: int, found: Findings) -> None:
    if body.cache_salt is not None and len(body.cache_salt) > limit:
        found.add("cache_salt", f"has {len(body.cache_salt)} characters; the limit is {limit}")


def _check_best_of(body: CompletionBody, found: Findings) -> None:
    if body.best_of is None:
        return
    n = body.n or 1
    if body.best_of < n:
        found.add("best_of", f"best_of={body.best_of} is less than {n=}")
    elif body.best_of > n:
        found.add_unsupported("best_of", "choosing the best of more answers than n")


def _make_job(
    asking: Asking,
    body: SamplingFields,
    prompts: Sequence[tuple[int, ...]],
    sampling: SamplingParams,
    hints: Hints,
    grammar: TokenGrammar | None,
    started: float,
) -> Job:
    # The client may reuse its request id; the engine's must be unique among the unfinished.
    unique = f"{asking[REQUEST_ID]}.{uuid.uuid4().hex[:8]}"
    n = body.n or 1
    salt = derive_salt(asking[TENANT], body.cache_salt)
    workers = asking.app[RUNTIME].generator.statistics()
    worker = affine_worker(hints.affinity, asking[TENANT], workers)
    options = body.stream_options or StreamOptions()
    return Job(
        requests=tuple(
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
        ),
        answers_per_prompt=n,
        stop=stop_strings(body),
        include_stop=bool(body.include_stop_str_in_output),
        streams=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        started=started,
    )


def _of_answer(sampling: SamplingParams, answer: int) -> SamplingParams:
    """Answer 0 is what n = 1 gives; the others draw from seeds of their own."""
    if sampling.seed is None or answer == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + answer) % SEED_RANGE)


def _heading(asking: Asking, prefix: str, warnings: list[str]) -> Heading:
    info = asking.app[RUNTIME].generator.info
    return Heading(
        id=f"{prefix}-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=info.name,
        fingerprint=f"helium-{info.version[:16]}" if info.version else None,
        warnings=warnings,
    )

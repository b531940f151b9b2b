"""POST /v1/chat/completions and /v1/completions."""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from helium_jax.server.admission import working
from helium_jax.server.hints import Hints, check_hints
from helium_jax.server.openai.answering import Job, answer
from helium_jax.server.openai.bodies import (
    FOREIGN_CHAT_FIELDS,
    FOREIGN_COMPLETION_FIELDS,
    ChatBody,
    CompletionBody,
    SamplingFields,
    StreamOptions,
)
from helium_jax.server.openai.chat_format import ChatFormat
from helium_jax.server.openai.completion_format import CompletionFormat
from helium_jax.server.openai.jobs import check_model, check_salt, make_heading, make_requests
from helium_jax.server.openai.prompts import (
    check_fits,
    check_messages,
    check_prompts,
    check_variables,
    encode_prompts,
)
from helium_jax.server.openai.response_format import check_format, compile_answer, compile_format
from helium_jax.server.openai.sampling import (
    COMPLETION_MAX_TOKENS,
    chat_logprobs,
    chat_max_tokens,
    check_answers,
    check_foreign,
    check_logprobs,
    check_sampling,
    stop_strings,
)
from helium_jax.server.reading import Findings
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.state import CONFIG, RUNTIME, Asking
from helium_jax.server.tools import shown_tokens, write_tools
from helium_jax.server.tools.request import check_tools
from helium_jax.server.tools.specs import parser_maker
from helium_jax.types import SamplingParams, TokenGrammar


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
    check_answers(body, config.limits, found)
    sampling = check_sampling(
        body,
        info,
        runtime.text.sampling,
        config.limits,
        found,
        max_tokens=chat_max_tokens(body, found),
        logprobs=chat_logprobs(body, config.limits, found),
    )
    tools, choice = check_tools(
        body.tools, body.tool_choice, config.limits, found, is_parallel=body.parallel_tool_calls
    )
    wanted = check_format(body, raw, found, has_tools=bool(tools))
    messages = check_messages(body.messages, raw["messages"], config.limits, found)
    hints = check_hints(body, body.priority, config.limits, found)
    variables = check_variables(body.chat_template_kwargs or {}, config.limits, found)
    check_salt(body.cache_salt, config.limits, found)
    warnings = finish_reading(found, strict=config.strict)
    check_model(asking, body.model)
    prompt = write_tools(messages, tools, runtime.text.template)
    ids = await asyncio.to_thread(
        runtime.text.encode_chat, prompt.messages, tools=prompt.tools, **variables
    )
    check_fits(len(ids), sampling.max_tokens, info.max_model_len, "messages")
    grammar = await compile_answer(runtime.text, wanted, tools, choice, prompt.syntax)
    shown = shown_tokens(runtime.text, tools, prompt.syntax)
    job = _make_job(asking, body, [tuple(ids)], sampling, hints, grammar, started, shown=shown)
    heading = make_heading(asking, "chatcmpl-", [*warnings, *hints.warnings])
    make_parser = parser_maker(tools, choice, prompt.syntax, id_prefix="call_")
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
    check_answers(body, limits, found)
    sampling = check_sampling(
        body,
        info,
        runtime.text.sampling,
        limits,
        found,
        max_tokens=COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        logprobs=check_logprobs(body.logprobs, "logprobs", limits, found),
    )
    prompts = check_prompts(body.prompt, info, limits, found)
    wanted = check_format(body, raw, found)
    hints = check_hints(body, body.priority, limits, found)
    check_salt(body.cache_salt, limits, found)
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
    heading = make_heading(asking, "cmpl-", [*warnings, *hints.warnings])
    return job, CompletionFormat(heading, runtime.text, echoes)


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
    *,
    shown: frozenset[int] = frozenset(),
) -> Job:
    n, options = body.n or 1, body.stream_options or StreamOptions()
    return Job(
        requests=make_requests(
            asking,
            prompts,
            sampling,
            hints=hints,
            cache_salt=body.cache_salt,
            grammar=grammar,
            answers_per_prompt=n,
        ),
        answers_per_prompt=n,
        stop=stop_strings(body),
        include_stop=bool(body.include_stop_str_in_output),
        streams=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        started=started,
        shown=shown,
    )

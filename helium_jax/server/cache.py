"""/v1/cache: what the KV stores and the output cache hold; warming, pins and reset."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from msgspec import UNSET

from helium_jax.errors import CapacityError
from helium_jax.executor import RunOptions
from helium_jax.executor.precompute import static_prefixes
from helium_jax.explain import placeholder_row
from helium_jax.optimizer import Profile
from helium_jax.plan import Plan, Value
from helium_jax.server.admission import working
from helium_jax.server.errors import ForbiddenError
from helium_jax.server.openai.jobs import check_salt, derive_salt
from helium_jax.server.openai.prompts import check_messages
from helium_jax.server.plans.bodies import ResetBody, WarmBody
from helium_jax.server.plans.replies import (
    CacheReply,
    DeletedReply,
    OutputsCache,
    PinList,
    ResetReply,
    WarmedPrefix,
    WarmReply,
    WorkerCache,
)
from helium_jax.server.plans.request import check_one_plan, find_plan
from helium_jax.server.reading import Findings
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.state import CONFIG, IS_ADMIN, RUNS, RUNTIME, TENANT
from helium_jax.server.writing import json_response
from helium_jax.types import EngineStatistics, WarmPrefix

# Other values than the usual placeholders: what two rows have in common is the plan's own text.
_OTHERS: Mapping[str, Value] = {"text": "other", "int": 1, "float": 1.0, "bool": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefix:
    token_ids: tuple[int, ...]
    operators: tuple[str, ...] = ()
    uses: float = 1.0


async def get_cache(request: web.Request) -> web.Response:
    """What is cached, and the pins of the asking key."""
    runs = request.app[RUNS]
    workers = runs.session.generator.statistics()
    outputs = runs.session.output_cache
    reply = None
    if outputs is not None:
        now = outputs.statistics()
        reply = OutputsCache(
            entries=now.num_entries,
            bytes=now.bytes,
            max_bytes=now.max_bytes,
            hits=now.hits,
            misses=now.misses,
            evictions=now.evictions,
            expirations=now.expirations,
            file=now.file,
        )
    return json_response(
        CacheReply(
            kv=[_describe(index, worker) for index, worker in enumerate(workers)],
            outputs=reply,
            pins=runs.pins.list(request[TENANT]),
        )
    )


async def post_warm(request: web.Request) -> web.Response:
    """Computes the KV of a prefix, or of a plan's static prefixes, on every worker."""
    with working(request):
        config, runs, tenant = request.app[CONFIG], request.app[RUNS], request[TENANT]
        raw = await receive_object(request, unique_keys=True)
        body, found = parse_body(WarmBody, raw)
        messages = None
        if body is not None:
            check_one_plan(body.plan, body.plan_id, found, body.text, body.messages)
            check_salt(body.cache_salt, config.limits, found)
            messages = _check_text(body, raw, found, request)
        warnings = finish_reading(found, strict=config.strict)
        assert body is not None, "a body that cannot be read has problems"
        ttl_s = body.ttl_s
        if ttl_s is not None and ttl_s > config.limits.pin_ttl_s:
            ttl_s = config.limits.pin_ttl_s
            warnings.append(f"ttl_s: cut to this server's {ttl_s:g} s")
        prefixes = await _prefixes(request, body, messages)
        generator = runs.session.generator
        longest = generator.info.max_model_len - 1
        if any(len(prefix.token_ids) > longest for prefix in prefixes):
            warnings.append(f"a prefix was cut to the context's {longest} tokens")
        salt = derive_salt(tenant, body.cache_salt)
        num_pins = len(prefixes) * generator.info.num_workers if body.pin else 0
        if len(runs.pins.list(tenant)) + num_pins > config.limits.pins:
            raise CapacityError(
                f"this would make more than {config.limits.pins} pins; give some back",
                code="too_many_pins",
            )
        warmed = []
        for prefix in prefixes:
            for worker in range(generator.info.num_workers):
                ids = prefix.token_ids[:longest]
                receipt = await generator.warm(
                    WarmPrefix(
                        token_ids=ids,
                        cache_salt=salt,
                        pin=bool(body.pin),
                        value=prefix.uses * len(ids),
                        worker=worker,
                    )
                )
                pin = None
                if receipt.pin_id is not None:
                    pin = runs.pins.add(
                        tenant,
                        receipt.pin_id,
                        worker=receipt.worker,
                        tokens=receipt.resident,
                        now=runs.now(),
                        ttl_s=ttl_s,
                        unpin=generator.unpin,
                    )
                warmed.append(
                    WarmedPrefix(
                        tokens=len(prefix.token_ids),
                        resident=receipt.resident,
                        computed=receipt.computed,
                        worker=receipt.worker,
                        operators=list(prefix.operators),
                        pin=pin,
                    )
                )
        return json_response(WarmReply(prefixes=warmed, warnings=warnings or UNSET))


async def get_pins(request: web.Request) -> web.Response:
    """The pins of the asking key."""
    return json_response(PinList(data=request.app[RUNS].pins.list(request[TENANT])))


async def delete_pin(request: web.Request) -> web.Response:
    """Gives a pin back."""
    runs, pin_id = request.app[RUNS], request.match_info["pin_id"]
    await runs.pins.remove(request[TENANT], pin_id, runs.session.generator.unpin)
    return json_response(DeletedReply(id=pin_id, object="cache.pin"))


async def post_reset(request: web.Request) -> web.Response:
    """Forgets KV that nobody reads or pins, and all finished outputs, whosever they are."""
    if not request[IS_ADMIN]:
        raise ForbiddenError("emptying the caches takes an admin key; this one is not")
    raw = await receive_object(request) if request.can_read_body else {}
    body, found = parse_body(ResetBody, raw)
    finish_reading(found, strict=request.app[CONFIG].strict)
    assert body is not None, "a body that cannot be read has problems"
    session = request.app[RUNS].session
    pages = outputs = 0
    if body.kv is not False:
        pages = await session.generator.reset_cache()
    if body.outputs is not False and session.output_cache is not None:
        outputs = session.output_cache.clear()
    return json_response(ResetReply(pages=pages, outputs=outputs))


def _check_text(
    body: WarmBody, raw: dict[str, Any], found: Findings, request: web.Request
) -> list[dict[str, str]] | None:
    """The messages to be warmed, checked."""
    limits = request.app[CONFIG].limits
    if body.text is not None and not body.text:
        found.add("text", "is empty; send the beginning of a prompt")
    if body.text is not None and len(body.text) > limits.prompt_chars:
        found.add("text", f"is over this server's limit of {limits.prompt_chars} characters")
    if body.params is not None and body.plan is None and body.plan_id is None:
        found.add("params", "goes with plan or plan_id only")
    if body.ttl_s is not None and not body.pin:
        found.add("ttl_s", "needs pin: true; set it or leave ttl_s out")
    if body.messages is None:
        return None
    return check_messages(body.messages, raw["messages"], limits, found)


async def _prefixes(
    request: web.Request, body: WarmBody, messages: list[dict[str, str]] | None
) -> list[_Prefix]:
    text = request.app[RUNTIME].text
    if body.text is not None:
        ids = await asyncio.to_thread(text.encode, body.text)
        return [_Prefix(token_ids=tuple(ids))]
    if messages is not None:
        ids = await asyncio.to_thread(text.encode_chat, messages, add_generation_prompt=False)
        return [_Prefix(token_ids=tuple(ids))]
    known = await find_plan(request, body.plan, body.plan_id)
    return await _plan_prefixes(request, known.plan, body.params or {})


async def _plan_prefixes(
    request: web.Request, plan: Plan, params: Mapping[str, Value]
) -> list[_Prefix]:
    session = request.app[RUNS].session
    others = {node.name: _OTHERS[node.type] for node in plan.inputs}
    prepared = await session.prepare(
        plan,
        [placeholder_row(plan), others] if plan.inputs else [],
        params=params,
        options=RunOptions(output_cache=False),
        profile=Profile(),
    )
    calls = prepared.planned.calls
    if calls is None:
        return []
    found = static_prefixes(prepared.physical, calls, page_size=prepared.setting.page_size)
    return [_Prefix(token_ids=p.token_ids, operators=p.operators, uses=p.uses) for p in found]


def _describe(index: int, worker: EngineStatistics) -> WorkerCache:
    cache = worker.cache
    return WorkerCache(
        worker=index,
        page_size=cache.page_size,
        pages=cache.num_pages,
        free=cache.num_free,
        cached=cache.num_cached,
        used=cache.num_used,
        pinned=cache.num_pinned,
        queried_tokens=cache.queried_tokens,
        hit_tokens=cache.hit_tokens,
        evicted_pages=cache.evicted_pages,
        evicted_then_needed_tokens=cache.evicted_then_needed_tokens,
        surrendered_pins=cache.surrendered_pins,
    )

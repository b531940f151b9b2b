"""Health, metrics and version: what an operator or a load balancer asks."""

from aiohttp import web

from helium_jax.errors import HeliumError
from helium_jax.server.config import ServerConfig
from helium_jax.server.lifecycle import ServerState
from helium_jax.server.state import CONFIG, METRICS, RUNS, RUNTIME, STATE
from helium_jax.telemetry.metrics import CONTENT_TYPE, Reading
from helium_jax.types import EngineStatistics, Generator


async def get_live(request: web.Request) -> web.Response:
    """200 while the event loop turns; says nothing of the engine."""
    return web.json_response({"status": "ok"})


async def get_ready(request: web.Request) -> web.Response:
    """200 only if the engine's loop advances and new work is let in, else 503 with the reason."""
    config, state = request.app[CONFIG], request.app[STATE]
    reason = why_not_ready(request.app[RUNTIME].generator, config, state)
    if reason is None:
        failure = request.app[RUNS].journal_failure
        degraded = {} if failure is None else {"degraded": {"journal": failure}}
        return web.json_response({"status": "ready", **degraded})
    return web.json_response(
        {"status": "not_ready", "reason": reason}, status=503, headers={"Retry-After": "1"}
    )


async def get_metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    return web.Response(body=request.app[METRICS].expose(), headers={"Content-Type": CONTENT_TYPE})


def why_not_ready(generator: Generator, config: ServerConfig, state: ServerState) -> str | None:
    """The reason why no work should come here now, None when all is well."""
    if state.is_draining:
        return "shutting_down"
    try:
        statistics = generator.statistics()
    except HeliumError as error:
        return error.code
    if not statistics:
        return "no_engine"
    ages = [worker.last_step_age_seconds for worker in statistics if worker.is_alive]
    if not ages:
        return "engine_dead"
    oldest = max(ages)
    return "engine_stalled" if oldest > config.max_step_age_s else None


def read_engines(generator: Generator) -> list[Reading]:
    """The engines' own counters as metrics, one series per worker; none from a dead engine."""
    try:
        statistics = generator.statistics()
    except HeliumError:
        return []
    return [
        reading for worker, one in enumerate(statistics) for reading in _read_one(one, str(worker))
    ]


def _read_one(one: EngineStatistics, worker: str) -> list[Reading]:
    cache = one.cache
    used = cache.num_used / cache.num_pages if cache.num_pages else 0.0
    gauges = (
        ("num_requests_running", "Sequences that hold pages", one.num_running),
        ("num_requests_waiting", "Requests not yet admitted", one.num_waiting),
        ("kv_cache_usage_perc", "Share of KV pages in use, from 0 to 1", used),
        ("kv_pages_cached", "Pages with reusable blocks that nobody reads", cache.num_cached),
        ("kv_pages_pinned", "Pages that eviction takes last", cache.num_pinned),
        ("worker_up", "1 while the worker lives", float(one.is_alive)),
        ("last_step_age_seconds", "Since the loop last went round", one.last_step_age_seconds),
    )
    counters = (
        ("prefix_cache_queries_total", "Prompt tokens looked up", cache.queried_tokens),
        ("prefix_cache_hits_total", "Prompt tokens found", cache.hit_tokens),
        ("kv_pages_evicted_total", "Pages that lost a reusable block", cache.evicted_pages),
        (
            "evicted_then_needed_tokens_total",
            "Tokens computed again after eviction",
            cache.evicted_then_needed_tokens,
        ),
        ("pins_surrendered_total", "Pins given up for lack of pages", cache.surrendered_pins),
        ("num_preemptions_total", "Sequences sent back for lack of pages", one.num_preemptions),
        ("steps_total", "Steps finished", one.num_steps),
        ("prefill_tokens_total", "Prompt tokens computed", one.num_prefill_tokens),
        ("decode_tokens_total", "Tokens generated", one.num_decode_tokens),
        ("padded_tokens_total", "Rows computed to fill a bucket", one.num_padded_tokens),
        (
            "recompiles_after_warmup_total",
            "Programs compiled by a request; stays 0",
            one.num_compiles_after_warmup,
        ),
        ("step_host_seconds_total", "Deciding, packing, committing", one.host_seconds),
        ("step_device_seconds_total", "Waiting for the device", one.device_seconds),
    )
    labels = {"worker": worker}
    return [
        *(Reading(name=n, kind="gauge", help=h, value=v, labels=labels) for n, h, v in gauges),
        *(Reading(name=n, kind="counter", help=h, value=v, labels=labels) for n, h, v in counters),
    ]

"""POST and GET /v1/plans, its schema, and EXPLAIN, which runs nothing."""

import asyncio

import msgspec
from aiohttp import web

from helium_jax.explain import explain_plan
from helium_jax.server.admission import working
from helium_jax.server.plans.bodies import ExplainBody, PlanBody
from helium_jax.server.plans.replies import PlanList
from helium_jax.server.plans.report_forms import asked_form, form_response, write_report
from helium_jax.server.plans.request import check_plan_fields, find_plan, make_job
from helium_jax.server.plans.schema import plan_schema
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.state import CONFIG, RUNS, TENANT
from helium_jax.server.writing import json_response


async def post_plan(request: web.Request) -> web.Response:
    """Validates and registers a plan; a second time the same plan is the same."""
    with working(request):
        raw = await receive_object(request, unique_keys=True)
        body, found = parse_body(PlanBody, raw)
        warnings = finish_reading(found, strict=request.app[CONFIG].strict)
        assert body is not None, "a body that cannot be read has problems"
        known = await find_plan(request, body.plan, None)
        reply = msgspec.to_builtins(known.describe(whole=True))
        reply["warnings"] += [
            {"param": "", "message": text, "code": "unknown_field"} for text in warnings
        ]
        return json_response(reply)


async def get_plans(request: web.Request) -> web.Response:
    """The plans of the asking key."""
    plans = request.app[RUNS].plans.list(request[TENANT])
    return json_response(PlanList(data=[known.describe(whole=False) for known in plans]))


async def get_plan(request: web.Request) -> web.Response:
    """One plan with its document."""
    plans = request.app[RUNS].plans
    known = plans.get(request[TENANT], request.match_info["plan_id"])
    return json_response(known.describe(whole=True))


async def get_schema(request: web.Request) -> web.Response:
    """The JSON Schema of plan files."""
    return web.Response(
        body=msgspec.json.encode(plan_schema()), content_type="application/schema+json"
    )


async def post_explain(request: web.Request) -> web.Response:
    """How a plan would run: calls no model, compiles nothing, changes no cache."""
    with working(request):
        config, session = request.app[CONFIG], request.app[RUNS].session
        raw = await receive_object(request, unique_keys=True)
        body, found = parse_body(ExplainBody, raw)
        if body is not None:
            check_plan_fields(body, config.limits, found)
        finish_reading(found, strict=config.strict)
        assert body is not None, "a body that cannot be read has problems"
        job = await make_job(request, body, {}, may_lack_rows=True)
        report = await explain_plan(
            session,
            job.plan,
            job.rows,
            params=job.params,
            options=job.options,
            profile=await request.app[RUNS].profile_of(request[TENANT], job.known),
        )
        form = body.format or asked_form(request)
        return form_response(await asyncio.to_thread(write_report, report, form), form)

"""EXPLAIN's report in each form in which clients can have it."""

import msgspec
from aiohttp import web

from helium_jax.explain import (
    Report,
    draw_dot,
    draw_mermaid,
    explain_document,
    explain_stages,
)
from helium_jax.server.parameters import choose

FORMATS = ("text", "json", "mermaid", "dot")


def asked_form(request: web.Request) -> str:
    """The form that a request's query asks for.

    Raises:
        RequestError: there is no such form.
    """
    return choose(request, "format", FORMATS, "text")


def write_report(report: Report, form: str) -> str:
    """A report in one of FORMATS; takes its time for a large plan."""
    match form:
        case "json":
            return msgspec.json.encode(explain_document(report)).decode()
        case "mermaid":
            return draw_mermaid(report)
        case "dot":
            return draw_dot(report)
        case _:
            return explain_stages(report) + "\n"


def form_response(written: str, form: str) -> web.Response:
    """A report that is written, as an answer."""
    content_type = "application/json" if form == "json" else "text/plain"
    return web.Response(text=written, content_type=content_type)

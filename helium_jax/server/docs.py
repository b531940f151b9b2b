"""GET /docs: the API as a page for people; it reads /openapi.json and nothing else."""

from importlib.resources import files

from aiohttp import web

# The page brings its own script and style and talks to this server alone.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def get_docs(request: web.Request) -> web.Response:
    """The page; it needs no key, what it reads does."""
    page = files("helium_jax.server").joinpath("docs.html").read_text(encoding="utf-8")
    return web.Response(text=page, content_type="text/html", headers=_HEADERS)

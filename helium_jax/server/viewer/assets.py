"""The files of the viewer over HTTP: open to all, checked by browsers for what may run."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

ROOT = "/viewer/"
# Only what is named here is served, and only this needs no key.
ASSETS = {
    "index.html": "text/html",
    "viewer.css": "text/css",
    "icon.svg": "image/svg+xml",
    "main.js": "text/javascript",
    "server.js": "text/javascript",
    "dom.js": "text/javascript",
    "words.js": "text/javascript",
    "watch.js": "text/javascript",
    "runs.js": "text/javascript",
    "plan.js": "text/javascript",
    "layers.js": "text/javascript",
    "prompt.js": "text/javascript",
    "timeline.js": "text/javascript",
    "pages.js": "text/javascript",
}
VIEWER_PATHS = frozenset({"/", "/viewer", ROOT, *(ROOT + name for name in ASSETS)})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_viewer(app: web.Application) -> None:
    """Serves the page at /viewer/; / leads there."""
    app.router.add_get("/", _lead)
    app.router.add_get("/viewer", _lead)
    for name, kind in ASSETS.items():
        body = files("helium_jax.server.viewer").joinpath(name).read_bytes()
        handler = _serve(body, kind)
        app.router.add_get(ROOT + name, handler)
        if name == "index.html":
            app.router.add_get(ROOT, handler)


async def _lead(request: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": ROOT})


def _serve(body: bytes, kind: str) -> Handler:
    tag = hashlib.blake2b(body, digest_size=12).hexdigest()

    async def get_asset(request: web.Request) -> web.StreamResponse:
        known = request.if_none_match or ()
        if any(one.value == tag for one in known):
            response = web.Response(status=304, headers=HEADERS)
        else:
            response = web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)
        response.etag = tag
        return response

    return get_asset

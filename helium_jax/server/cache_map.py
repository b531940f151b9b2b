"""GET /v1/cache/map: every page of the KV stores, and the prefixes they hold."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from helium_jax.server.openai.jobs import derive_salt
from helium_jax.server.state import CONFIG, IS_ADMIN, RUNS, RUNTIME, TENANT
from helium_jax.server.view_replies import CacheMapReply, PrefixReply, WorkerMap
from helium_jax.text import TextModel
from helium_jax.types import CacheMap

MAX_AGE_S = 0.2
MAX_SALTS = 64  # of one key


class Maps:
    """The last map of every key: however many ask, an engine draws for a key so often only."""

    def __init__(self) -> None:
        self._drawn: dict[str, tuple[float, asyncio.Task[bytes]]] = {}

    async def get(self, tenant: str, draw: Callable[[], Awaitable[bytes]]) -> bytes:
        """The key's map, drawn now unless that was a moment ago."""
        now = asyncio.get_running_loop().time()
        when, task = self._drawn.get(tenant, (-MAX_AGE_S, None))
        if task is None or (task.done() and now - when >= MAX_AGE_S):
            task = asyncio.ensure_future(draw())
            self._drawn[tenant] = (now, task)
        return await asyncio.shield(task)


MAPS = web.AppKey("maps", Maps)


async def get_map(request: web.Request) -> web.Response:
    """What every page is, and the prefix tree: sizes of all, text under the asking key's salts."""
    runs, config, tenant = request.app[RUNS], request.app[CONFIG], request[TENANT]
    is_open = not (config.api_keys or config.admin_keys)
    # Without admin keys every key may empty the caches, but none may read the others' texts.
    sees_all = is_open or bool(config.admin_keys and request[IS_ADMIN])
    salts = None
    if not sees_all:
        own = (record.job.options.cache_salt for record in runs.shelf.list_runs(tenant))
        salts = frozenset([derive_salt(tenant, None), *list(dict.fromkeys(own))[:MAX_SALTS]])
    text = request.app[RUNTIME].text

    async def draw() -> bytes:
        maps = await runs.session.generator.cache_map(salts=salts)
        return await asyncio.to_thread(_encode, maps, text)

    key = "" if sees_all else tenant
    return web.Response(
        body=await request.app[MAPS].get(key, draw), content_type="application/json"
    )


def _encode(maps: Sequence[CacheMap], text: TextModel) -> bytes:
    workers = [
        WorkerMap(
            worker=drawn.worker,
            page_size=drawn.page_size,
            pages_per_cell=drawn.pages_per_cell,
            cells=drawn.cells,
            prefixes=[
                PrefixReply(
                    parent=prefix.parent,
                    pages=prefix.num_pages,
                    below=prefix.num_below,
                    readers=prefix.num_readers,
                    pinned=prefix.num_pinned,
                    text=_text(prefix.token_ids, text),
                )
                for prefix in drawn.prefixes
            ],
            folded=drawn.num_folded,
        )
        for drawn in maps
    ]
    return msgspec.json.encode(CacheMapReply(workers=workers))


def _text(token_ids: tuple[int, ...], text: TextModel) -> str | None:
    return text.decode(token_ids, skip_special_tokens=False) if token_ids else None

"""A run's events as server-sent events; what Last-Event-ID names is not sent again."""

from aiohttp import web

from helium_jax.server.runs.events import parse_event_id
from helium_jax.server.runs.record import RunRecord
from helium_jax.server.sse import EventStream, ending_in_words
from helium_jax.server.state import CONFIG, RUNS, TENANT


def find_run(request: web.Request) -> RunRecord:
    """The asking key's run that the path names.

    Raises:
        NotFoundError: this key has none of that id.
    """
    return request.app[RUNS].shelf.get(request[TENANT], request.match_info["run_id"])


async def get_events(request: web.Request) -> web.StreamResponse:
    """Every event of a run from its beginning, or from where a client had stopped reading."""
    record = find_run(request)
    place = parse_event_id(request.headers.get("Last-Event-ID"))
    if record.is_final and place is not None and not record.events.after(place):
        return web.Response(status=204)  # tells an EventSource not to come again
    return await send_events(request, record, place)


async def send_events(
    request: web.Request, record: RunRecord, place: tuple[int, int] | None
) -> web.StreamResponse:
    """Sends what comes after `place`, up to and with the event that ends the run.

    Raises:
        GoneError: some of it is no longer kept; nothing was sent.
    """
    config = request.app[CONFIG]
    stream = EventStream(request)
    async with ending_in_words(request, stream):
        while True:
            is_final = record.is_final
            events = record.events.after(place)
            await stream.send_events((event.id, event.type, event.data) for event in events)
            place = events[-1].place if events else place
            if is_final:
                await stream.end()
                break
            if not await record.events.wait(place, config.ping_interval_s):
                await stream.ping()
    return stream.response

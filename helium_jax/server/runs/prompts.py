"""The prompts of a run's calls as the model saw them, and what of each other calls begin with."""

import asyncio
from array import array
from collections.abc import Callable, Iterable, Sequence

from aiohttp import web

from helium_jax.executor.watch import KeptPrompt
from helium_jax.server.errors import NotFoundError
from helium_jax.server.runs.figures import spans_of
from helium_jax.server.runs.record import RunRecord
from helium_jax.server.runs.stream import find_run
from helium_jax.server.runs.views import read_number
from helium_jax.server.state import RUNTIME
from helium_jax.server.view_replies import PromptList, PromptPart, PromptPlace, PromptReply
from helium_jax.server.writing import json_response

MAX_INDEX = 32  # loops and maps around a call

Decode = Callable[[Sequence[int]], str]


async def get_prompts(request: web.Request) -> web.Response:
    """The calls of a run whose prompts can be read."""
    operator = request.query.get("operator")
    return json_response(await asyncio.to_thread(_list_prompts, find_run(request), operator))


def _list_prompts(record: RunRecord, operator: str | None) -> PromptList:
    prompts = () if record.watch is None else record.watch.prompts
    places = [
        PromptPlace(
            operator=prompt.operator,
            row=record.places[prompt.row],
            index=list(prompt.index),
            prompt_tokens=len(prompt.token_ids),
        )
        for prompt in prompts
        if operator in (None, prompt.operator)
    ]
    is_whole = record.watch is not None and record.watch.is_whole
    places.sort(key=lambda place: (place.operator, place.row, place.index))
    return PromptList(run_id=record.id, data=places, whole=is_whole)


async def get_prompt(request: web.Request) -> web.Response:
    """One call's prompt."""
    record, watch = find_run(request), find_run(request).watch
    operator = request.query.get("operator", "")
    row = read_number(request.query.get("row", ""), "row")
    steps = [step for step in request.query.get("index", "").split(".") if step]
    index = tuple(read_number(step, "index") for step in steps[:MAX_INDEX])
    own_row = record.places.index(row) if row in record.places else -1
    prompt = None if watch is None else watch.prompt(operator, own_row, index)
    if watch is None or prompt is None:
        raise NotFoundError(
            f"operator {operator[:64]!r} has no prompt for row {row}: the call was not made, since "
            "an equal one serves it, or is not kept; GET /v1/runs/{run_id}/prompts lists what is",
            code="prompt_not_found",
            param="row",
        )
    text = request.app[RUNTIME].text

    def decode(ids: Sequence[int]) -> str:
        return text.decode(ids, skip_special_tokens=False)

    place = (operator, own_row, index)
    span = next((s for s in spans_of(record) if (s.operator, s.row, s.index) == place), None)
    is_over = span is not None and span.source != "running"
    return json_response(
        PromptReply(
            run_id=record.id,
            operator=operator,
            row=row,
            index=list(index),
            prompt_tokens=len(prompt.token_ids),
            kv_cached=span.kv_cached if span is not None and is_over else None,
            parts=await asyncio.to_thread(split_prompt, prompt, watch.prompts, decode),
        )
    )


def split_prompt(
    prompt: KeptPrompt, prompts: Iterable[KeptPrompt], decode: Decode
) -> list[PromptPart]:
    """A prompt where other calls' prompts part from it; parts without tokens are left out."""
    ids = prompt.token_ids
    others = [other for other in prompts if other is not prompt]
    alike = [_count_common(ids, o.token_ids) for o in others if o.operator == prompt.operator]
    of_operator = min(alike, default=0)
    of_run = max((_count_common(ids, other.token_ids) for other in others), default=0)
    parts, place = [], 0
    whole = decode(ids)
    ends = (("operator", of_operator), ("run", of_run), ("none", len(ids)))
    start = 0
    for shared, end in ends:
        if end <= start:
            continue
        # A part that ends within a character leaves that to the next one.
        shown = decode(ids[:end]).rstrip("\ufffd")
        cut = len(shown) if whole.startswith(shown) else place
        cut = len(whole) if end == len(ids) else cut
        parts.append(PromptPart(shared=shared, text=whole[place:cut], tokens=end - start))
        start, place = end, cut
    return parts


def _count_common(one: "array[int]", other: "array[int]") -> int:
    """Leading ids that both have."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    low, high = 0, most  # one[:low] == other[:low], and one[:high] != other[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low

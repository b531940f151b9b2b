"""Which calls of a plan the output cache will serve, found before the run and without any call."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from helium_jax.errors import RequestError
from helium_jax.executor.codec import TextCodec
from helium_jax.executor.encoding import encode_call
from helium_jax.executor.events import Call
from helium_jax.executor.output_cache import CachedOutput, OutputCache
from helium_jax.executor.output_cache_key import call_key
from helium_jax.executor.values import Answer, Turns, Value, cut, render, view
from helium_jax.physical import Apply, Generate, Hold, PhysicalOperator, PhysicalPlan, Read
from helium_jax.physical.operators import Slice, View
from helium_jax.physical.references import direct_needs
from helium_jax.types import ModelInfo

Place = tuple[str, int]  # an operator's value for a row


async def find_known(
    physical: PhysicalPlan,
    num_rows: int,
    columns: Mapping[str, Sequence[str]],
    *,
    cache: OutputCache,
    model: ModelInfo,
    codec: TextCodec,
    salt: str = "",
) -> dict[Place, CachedOutput]:
    """The cached answers of calls outside regions, by operator and row.

    Goes from inputs to outputs: a call is looked up where everything it reads is known, so hits
    cascade upwards and a miss ends the search along its way, row by row. The cache's order and
    statistics stay as they are, and no function of the plan is run.

    Args:
        physical: the plan.
        num_rows: rows of the batch.
        columns: values of every operator that needs no work.
        cache: where to look.
        model: who would answer.
        codec: its text.
        salt: with whom answers are shared, as the run will say it.
    """
    if not cache.statistics().num_entries:
        return {}
    lookup = _Lookup(physical, columns, cache, model, codec, salt)
    for operator in physical.operators:
        for row in range(num_rows):
            await lookup.find(operator, row)
            if isinstance(operator, Generate):
                await asyncio.sleep(0)  # thousands of prompts: others on this loop go on
    return lookup.known


class _Lookup:
    """One search: the values that are known so far."""

    def __init__(
        self,
        physical: PhysicalPlan,
        columns: Mapping[str, Sequence[str]],
        cache: OutputCache,
        model: ModelInfo,
        codec: TextCodec,
        salt: str,
    ) -> None:
        self.known: dict[Place, CachedOutput] = {}
        self._values: dict[Place, Value] = {}
        self._needs = {op.name: direct_needs(op) for op in physical.operators}
        self._columns = columns
        self._cache = cache
        self._model = model
        self._codec = codec
        self._salt = salt
        # Rows with equal values make equal calls, which are encoded once.
        self._prompts: dict[tuple[Answer | None, Turns], tuple[int, ...] | None] = {}

    async def find(self, operator: PhysicalOperator, row: int) -> None:
        """Adds an operator's value for a row, if it is known."""
        if any((name, row) not in self._values for name in self._needs[operator.name]):
            return
        value: Value | None = None
        match operator:
            case Read() | Hold():
                value = self._columns[operator.name][row]
            case Apply(text=text):
                value = render(text, lambda name: self._values[name, row])
            case Slice(source=source):
                value = cut(operator, self._values[source, row])
            case View(source=source):
                value = view(operator, self._values[source, row])
            case Generate():
                value = await self._fetch(operator, row)
            case _:
                pass  # functions are run when they are needed; regions decide when they run
        if value is not None:
            self._values[operator.name, row] = value

    async def _fetch(self, operator: Generate, row: int) -> Value | None:
        turns = tuple(self._turns(operator, row))
        if len(turns) < len(operator.turns):
            return None
        history = None
        if operator.history is not None:
            before = self._values[operator.history, row]
            assert isinstance(before, Answer), "calls are kept with their conversation here"
            history = before
        prompt_ids = await self._encode(operator, row, history, turns)
        if prompt_ids is None:
            return None
        key = call_key(self._model, prompt_ids, operator.settings, salt=self._salt)
        output = self._cache.peek(key) if key is not None else None
        if output is None:
            return None
        self.known[operator.name, row] = output
        earlier = () if history is None else history.conversation
        return Answer(
            text=output.text,
            turns=(*earlier, *turns),
            prompt_ids=prompt_ids,
            token_ids=output.token_ids,
        )

    def _turns(self, operator: Generate, row: int) -> Iterator[tuple[str | None, str]]:
        """The turns with the row's values, up to one that is too long to make."""
        for turn in operator.turns:
            text = render(turn.content, lambda name: self._values[name, row])
            if text is None:
                return
            yield turn.role, text

    async def _encode(
        self, operator: Generate, row: int, history: Answer | None, turns: Turns
    ) -> tuple[int, ...] | None:
        """The prompt; None where the chat template refuses it, as it will when the call is made."""
        if (history, turns) not in self._prompts:
            call = Call(
                call_id=0,
                operator=operator.name,
                row=row,
                turns=turns,
                settings=operator.settings,
                history=history,
            )
            try:
                self._prompts[history, turns] = await encode_call(self._codec, call)
            except RequestError:
                self._prompts[history, turns] = None
        return self._prompts[history, turns]

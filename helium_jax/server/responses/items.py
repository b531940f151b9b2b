"""From an answer's text to output items, the same whether it is streamed or not."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from helium_jax.server.openai.replies import TokenLogprob
from helium_jax.server.responses.replies import (
    ArgumentsDelta,
    ArgumentsDone,
    FunctionCall,
    ItemAdded,
    ItemDone,
    ItemEvent,
    OutputItem,
    OutputMessage,
    OutputText,
    OutputTextDelta,
    OutputTextDone,
    PartAdded,
    PartDone,
)
from helium_jax.server.tools import ArgumentsGained, CallBegan, TextGained, ToolEvent, ToolParser


@dataclass(slots=True)
class _Open:
    """The item that is being written."""

    item: OutputItem
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class ItemWriter:
    """Opens and closes the items of one answer as its text comes.

    Attributes:
        items: that are whole.
    """

    def __init__(self, parser: ToolParser | None, next_number: Callable[[], int]) -> None:
        """
        Args:
            parser: reads calls out of the text; None: there are no tools.
            next_number: of the next event.
        """
        self._parser = parser
        self._number = next_number
        self._open: _Open | None = None
        self._logprobs: list[TokenLogprob] = []  # of tokens that no text has come of yet
        self.items: list[OutputItem] = []

    def write(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[ItemEvent]:
        """What the items gain by a piece of text."""
        self._logprobs += logprobs
        if self._parser is not None:
            events = self._parser.push(text)
        else:
            events = [TextGained(text=text)] if text else []
        yield from self._take(events)

    def finish(self, *, is_cut: bool) -> Iterator[ItemEvent]:
        """The rest, once no more text comes; an answer without anything is an empty message.

        `is_cut`: the answer was ended by a limit, and so was its last item.
        """
        inside_call = self._parser is not None and self._parser.is_inside_call
        if self._parser is not None:
            yield from self._take(self._parser.finish())
        if self._open is None and not self.items:
            yield from self._begin_message()
        if self._open is not None:
            is_call = isinstance(self._open.item, FunctionCall)
            whole = not is_cut or (is_call and not inside_call)
            yield from self._close("completed" if whole else "incomplete")

    def _take(self, events: Sequence[ToolEvent]) -> Iterator[ItemEvent]:
        for event in events:
            match event:
                case TextGained():
                    if self._open is None or not isinstance(self._open.item, OutputMessage):
                        yield from self._begin_message()
                    yield self._gain_text(event.text)
                case CallBegan():
                    call = FunctionCall(
                        id=f"fc_{uuid.uuid4().hex}",
                        call_id=event.id,
                        name=event.name,
                        arguments="",
                        status="in_progress",
                    )
                    yield from self._begin(call)
                case ArgumentsGained():
                    yield self._gain_arguments(event.text)

    def _begin_message(self) -> Iterator[ItemEvent]:
        message = OutputMessage(id=f"msg_{uuid.uuid4().hex}", content=[], status="in_progress")
        yield from self._begin(message)
        yield PartAdded(
            sequence_number=self._number(),
            item_id=message.id,
            output_index=len(self.items),
            part=OutputText(text=""),
        )

    def _begin(self, item: OutputItem) -> Iterator[ItemEvent]:
        if self._open is not None:
            yield from self._close("completed")
        self._open = _Open(item)
        yield ItemAdded(sequence_number=self._number(), output_index=len(self.items), item=item)

    def _gain_text(self, text: str) -> OutputTextDelta:
        assert self._open is not None, "a message is open"
        logprobs, self._logprobs = self._logprobs, []
        self._open.parts.append(text)
        self._open.logprobs += logprobs
        return OutputTextDelta(
            sequence_number=self._number(),
            item_id=self._open.item.id,
            output_index=len(self.items),
            delta=text,
            logprobs=logprobs,
        )

    def _gain_arguments(self, text: str) -> ArgumentsDelta:
        assert self._open is not None, "a call is open"
        self._open.parts.append(text)
        return ArgumentsDelta(
            sequence_number=self._number(),
            item_id=self._open.item.id,
            output_index=len(self.items),
            delta=text,
        )

    def _close(self, status: str) -> Iterator[ItemEvent]:
        assert self._open is not None, "an item is open"
        done, self._open = self._open, None
        text, index = "".join(done.parts), len(self.items)
        if isinstance(done.item, OutputMessage):
            part = OutputText(text=text, logprobs=[*done.logprobs, *self._logprobs])
            self._logprobs = []
            item = msgspec.structs.replace(done.item, content=[part], status=status)
            yield OutputTextDone(
                sequence_number=self._number(),
                item_id=item.id,
                output_index=index,
                text=text,
                logprobs=part.logprobs,
            )
            yield PartDone(
                sequence_number=self._number(), item_id=item.id, output_index=index, part=part
            )
        else:
            item = msgspec.structs.replace(done.item, arguments=text, status=status)
            yield ArgumentsDone(
                sequence_number=self._number(),
                item_id=item.id,
                output_index=index,
                name=item.name,
                arguments=text,
            )
        self.items.append(item)
        yield ItemDone(sequence_number=self._number(), output_index=index, item=item)

"""From an answer's text to content blocks, the same whether it is streamed or not."""

import json
from collections.abc import Iterable, Iterator

from helium_jax.server.messages.replies import (
    BlockDelta,
    BlockStart,
    BlockStop,
    InputDelta,
    TextBlock,
    TextDelta,
    ToolUseBlock,
)
from helium_jax.server.tools import ArgumentsGained, CallBegan, TextGained, ToolEvent, ToolParser

BlockEvent = BlockStart | BlockDelta | BlockStop


class BlockWriter:
    """Opens and closes the blocks of one answer as its text comes.

    Attributes:
        has_calls: a tool was called.
    """

    def __init__(self, parser: ToolParser | None) -> None:
        """`parser`: reads calls out of the text; None: there are no tools."""
        self._parser = parser
        self._index = -1  # of the block that was opened last
        self._open: type[TextBlock] | type[ToolUseBlock] | None = None
        self.has_calls = False

    def write(self, text: str, *, is_last: bool) -> Iterator[BlockEvent]:
        """What the blocks gain by a piece of text."""
        events: list[ToolEvent] = []
        if self._parser is None:
            events += [TextGained(text=text)] if text else []
        else:
            events += self._parser.push(text)
            if is_last:
                events += self._parser.finish()
        for event in events:
            yield from self._take(event)
        if is_last:
            yield from self._close()

    def _take(self, event: ToolEvent) -> Iterator[BlockEvent]:
        match event:
            case TextGained():
                if self._open is not TextBlock:
                    yield from self._start(TextBlock(text=""))
                yield BlockDelta(index=self._index, delta=TextDelta(text=event.text))
            case CallBegan():
                self.has_calls = True
                yield from self._start(ToolUseBlock(id=event.id, name=event.name, input={}))
            case ArgumentsGained():
                yield BlockDelta(index=self._index, delta=InputDelta(partial_json=event.text))

    def _start(self, block: TextBlock | ToolUseBlock) -> Iterator[BlockEvent]:
        yield from self._close()
        self._index += 1
        self._open = type(block)
        yield BlockStart(index=self._index, content_block=block)

    def _close(self) -> Iterator[BlockEvent]:
        if self._open is not None:
            self._open = None
            yield BlockStop(index=self._index)


def join_blocks(events: Iterable[BlockEvent]) -> list[TextBlock | ToolUseBlock]:
    """The whole blocks that `events` tell of; a call that was cut off is left out."""
    begun: list[TextBlock | ToolUseBlock] = []
    parts: list[list[str]] = []
    for event in events:
        match event:
            case BlockStart():
                begun.append(event.content_block)
                parts.append([])
            case BlockDelta():
                delta = event.delta
                gained = delta.text if isinstance(delta, TextDelta) else delta.partial_json
                parts[event.index].append(gained)
    blocks: list[TextBlock | ToolUseBlock] = []
    for block, gained in zip(begun, map("".join, parts), strict=True):
        if isinstance(block, TextBlock):
            blocks.append(TextBlock(text=gained))
            continue
        try:
            arguments = json.loads(gained)
        except ValueError:
            continue
        blocks.append(ToolUseBlock(id=block.id, name=block.name, input=arguments))
    return blocks

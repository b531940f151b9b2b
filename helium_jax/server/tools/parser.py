"""Reads calls out of an answer as its text comes, whatever the pieces it comes in."""

import enum
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from helium_jax.server.tools.syntax import ToolSyntax
from helium_jax.server.tools.values import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class TextGained:
    """Text beside the calls."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBegan:
    """The answer calls a tool; `index` counts the calls of the answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgumentsGained:
    """A part of the JSON text of a call's arguments."""

    index: int
    text: str


ToolEvent = TextGained | CallBegan | ArgumentsGained


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswer:
    """A whole answer: its text, empty if there is none, and its calls."""

    text: str
    calls: tuple[ToolCall, ...]


def join_events(events: Iterable[ToolEvent]) -> ParsedAnswer:
    """The whole answer that `events` tell of."""
    texts: list[str] = []
    begun: list[CallBegan] = []
    arguments: list[list[str]] = []
    for event in events:
        match event:
            case TextGained():
                texts.append(event.text)
            case CallBegan():
                begun.append(event)
                arguments.append([])
            case ArgumentsGained():
                arguments[event.index].append(event.text)
    calls = [
        ToolCall(id=call.id, name=call.name, arguments="".join(parts))
        for call, parts in zip(begun, arguments, strict=True)
    ]
    return ParsedAnswer(text="".join(texts), calls=tuple(calls))


class _Place(enum.Enum):
    """Where in the answer the next character stands."""

    TEXT = enum.auto()  # a call may begin
    PLAIN = enum.auto()  # no call can begin any more
    ARGUMENTS = enum.auto()
    CLOSING = enum.auto()
    LIST = enum.auto()  # another call of the list, or its end


class ToolParser:
    """The events of one answer.

    Put together, the texts and arguments are the same however the answer was cut into pieces.
    White space before a call is dropped, and so is the beginning of a call that was cut off before
    its arguments. What begins like a call of a known tool but goes on otherwise is text: it comes
    from an answer that was not held to the grammar.

    Attributes:
        num_calls: calls that have begun.
    """

    def __init__(
        self, syntax: ToolSyntax, names: Collection[str], make_id: Callable[[], str]
    ) -> None:
        """
        Args:
            syntax: how calls are written.
            names: of the tools.
            make_id: called once for each call.
        """
        self._syntax = syntax
        # The brace belongs to the arguments, but only with it is this a call.
        self._openings = {syntax.beginning + name + syntax.naming + "{": name for name in names}
        again = (syntax.between or "") + syntax.opening
        self._further = {again + name + syntax.naming + "{": name for name in names}
        self._make_id = make_id
        self._place = _Place.TEXT
        self._held = ""
        self._scanner = _ObjectScanner()
        self.num_calls = 0

    @property
    def is_inside_call(self) -> bool:
        """A call has begun whose arguments have not ended."""
        return self._place is _Place.ARGUMENTS

    def push(self, text: str) -> list[ToolEvent]:
        """What is certain now and was not before."""
        self._held += text
        events: list[ToolEvent] = []
        while self._held and self._step(events):
            pass
        return events

    def finish(self) -> list[ToolEvent]:
        """The rest, once no more text comes."""
        held, self._held = self._held, ""
        if self._place in (_Place.CLOSING, _Place.LIST):
            return []
        if self._place is _Place.TEXT:
            start = self._find_opening(held)
            if held[start:].startswith(self._syntax.marker):
                held = held[:start].rstrip()
            if self.num_calls and not held.strip():
                held = ""
        return [TextGained(text=held)] if held else []

    def _step(self, events: list[ToolEvent]) -> bool:
        """Goes on to the next place in the held text; False if more must come first."""
        match self._place:
            case _Place.TEXT:
                return self._read_text(events)
            case _Place.ARGUMENTS:
                return self._read_arguments(events)
            case _Place.CLOSING:
                return self._read_closing()
            case _Place.LIST:
                return self._read_list(events)
            case _Place.PLAIN:
                self._release(len(self._held), events)
                return False

    def _read_text(self, events: list[ToolEvent]) -> bool:
        start = self._find_opening(self._held)
        if not self._syntax.may_follow_text and start > 0:
            self._place = _Place.PLAIN
            return True
        self._release(len(self._held[:start].rstrip()), events)
        opening = self._held.lstrip()
        whole = next((one for one in self._openings if opening.startswith(one)), None)
        if whole is None:
            return False
        self._begin_call(self._openings[whole], opening[len(whole) - 1 :], events)
        return True

    def _begin_call(self, name: str, rest: str, events: list[ToolEvent]) -> None:
        events.append(CallBegan(index=self.num_calls, id=self._make_id(), name=name))
        self._held = rest
        self._scanner = _ObjectScanner()
        self._place = _Place.ARGUMENTS
        self.num_calls += 1

    def _read_list(self, events: list[ToolEvent]) -> bool:
        for opening, name in self._further.items():
            if self._held.startswith(opening):
                self._begin_call(name, self._held[len(opening) - 1 :], events)
                return True
        if self._held.startswith(self._syntax.suffix):
            self._held = self._held[len(self._syntax.suffix) :]
            self._place = _Place.PLAIN
            return True
        if any(one.startswith(self._held) for one in self._further):
            return False
        self._place = _Place.PLAIN
        return True

    def _find_opening(self, text: str) -> int:
        """Where a call begins or may begin; the length of the text if nowhere."""
        first = self._syntax.beginning[0]
        start = text.find(first)
        while start >= 0:
            tail = text[start:]
            # The names are looked at only where all before them is right.
            if _agree(tail, self._syntax.beginning) and any(
                _agree(tail, opening) for opening in self._openings
            ):
                return start
            start = text.find(first, start + 1)
        return len(text)

    def _read_arguments(self, events: list[ToolEvent]) -> bool:
        end = self._scanner.scan(self._held)
        gained = self._held if end is None else self._held[:end]
        events.append(ArgumentsGained(index=self.num_calls - 1, text=gained))
        self._held = self._held[len(gained) :]
        if end is not None:
            self._place = _Place.CLOSING
        return end is not None

    def _read_closing(self) -> bool:
        closing = self._syntax.closing
        if len(self._held) < len(closing) and closing.startswith(self._held):
            return False
        self._held = self._held.removeprefix(closing)
        if self._syntax.prefix:
            self._place = _Place.LIST
        else:
            self._place = _Place.TEXT if self._syntax.between is not None else _Place.PLAIN
        return True

    def _release(self, length: int, events: list[ToolEvent]) -> None:
        if length:
            events.append(TextGained(text=self._held[:length]))
            self._held = self._held[length:]


def _agree(text: str, opening: str) -> bool:
    """One begins with the other: the text has the opening, or may have it when it goes on."""
    return opening.startswith(text) if len(text) < len(opening) else text.startswith(opening)


class _ObjectScanner:
    """Finds the end of a JSON object in the pieces in which it comes."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def scan(self, text: str) -> int | None:
        """The length up to and with the closing brace; None if it is not there yet."""
        for place, char in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._in_string:
                self._is_escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return None

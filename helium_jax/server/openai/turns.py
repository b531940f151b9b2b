"""A conversation as far as it was read, in the form that chat templates take."""

from dataclasses import dataclass, field
from typing import Any

TemplateMessage = dict[str, Any]


@dataclass(slots=True)
class Turns:
    """The messages so far.

    Attributes:
        messages: as chat templates take them.
        called: ids of calls so far.
        num_chars: of texts so far.
    """

    messages: list[TemplateMessage] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    num_chars: int = 0

    def add_message(self, role: str, text: str) -> None:
        """Adds a message."""
        self.num_chars += len(text)
        self.messages.append({"role": role, "content": text})

    def add_text(self, role: str, text: str) -> None:
        """Adds text, to the last message if it is of the same role."""
        if not self.messages or self.messages[-1]["role"] != role:
            self.add_message(role, text)
            return
        self.num_chars += len(text)
        last = self.messages[-1]
        last["content"] = f"{last['content']}\n{text}" if last["content"] else text

    def add_call(self, call_id: str, name: str, arguments: Any, *, num_chars: int) -> None:
        """Adds a call to the assistant's message; `num_chars` is the length of its arguments."""
        self.num_chars += num_chars
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        last = self.messages[-1]
        last["tool_calls"] = [*last.get("tool_calls", ()), call]
        self.called.add(call_id)

    def add_result(self, call_id: str, text: str) -> None:
        """Adds what a call gave, as a message of its own."""
        self.num_chars += len(text)
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

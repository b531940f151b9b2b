"""Functions that a model may call: told in the prompt, forced by a grammar, read from its answer.

The values and verbs here know no wire format, so that every endpoint with tools shares them.

Not here: the bodies and answers of an endpoint (`server.tools.bodies` for OpenAI's), compiling a
grammar and decoding under it (`helium_jax.text.grammar`, the engine), calling any function (the
client does).
"""

from helium_jax.server.tools.grammar import compile_tools, make_grammar, shown_tokens
from helium_jax.server.tools.parser import (
    ArgumentsGained,
    CallBegan,
    ParsedAnswer,
    TextGained,
    ToolEvent,
    ToolParser,
    join_events,
)
from helium_jax.server.tools.prompt import ToolPrompt, write_tools
from helium_jax.server.tools.syntax import (
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_BLANK,
    MISTRAL_NAMED,
    ToolSyntax,
    recognise_syntax,
)
from helium_jax.server.tools.values import ToolCall, ToolChoice, ToolMode, ToolSpec, allowed_tools

__all__ = [
    "HERMES",
    "LLAMA",
    "MISTRAL",
    "MISTRAL_BLANK",
    "MISTRAL_NAMED",
    "ArgumentsGained",
    "CallBegan",
    "ParsedAnswer",
    "TextGained",
    "ToolCall",
    "ToolChoice",
    "ToolEvent",
    "ToolMode",
    "ToolParser",
    "ToolPrompt",
    "ToolSpec",
    "ToolSyntax",
    "allowed_tools",
    "compile_tools",
    "join_events",
    "make_grammar",
    "recognise_syntax",
    "shown_tokens",
    "write_tools",
]

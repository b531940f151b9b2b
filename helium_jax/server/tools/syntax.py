"""How models write calls, as data, and which syntax a chat template was made for."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from helium_jax.text import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSyntax:
    """A call is `opening + name + naming + arguments + closing`, arguments being a JSON object; all
    calls together stand between `prefix` and `suffix`.

    Attributes:
        opening: text before a call's name; with the prefix it tells a call from text.
        naming: text between the name and the arguments.
        closing: text after the arguments.
        between: text between two calls; None: an answer has one call at most.
        may_follow_text: whether text may come before the first call. If not, an answer is a call
            exactly when it begins as one.
        prefix: text before the first call.
        suffix: text after the last call.
        tokens: parts of these texts that are special tokens in the vocabularies of such models;
            the first of them begins the calls.
        id_length: the template takes only ids of so many letters and digits; None: any ids.
    """

    opening: str
    naming: str
    closing: str
    between: str | None
    may_follow_text: bool
    prefix: str = ""
    suffix: str = ""
    tokens: tuple[str, ...] = ()
    id_length: int | None = None

    @property
    def beginning(self) -> str:
        """What stands before the name of the first call."""
        return self.prefix + self.opening

    @property
    def marker(self) -> str:
        """The part of the beginning that only calls have."""
        return self.tokens[0] if self.tokens else self.beginning.partition("\n")[0]

    def write_call(self, name: str, arguments: str) -> str:
        """A call as the model writes it."""
        return self.write_calls([(name, arguments)])

    def write_calls(self, calls: Iterable[tuple[str, str]]) -> str:
        """Calls, each a name and arguments, as the model writes them."""
        written = [
            self.opening + name + self.naming + arguments + self.closing
            for name, arguments in calls
        ]
        return self.prefix + (self.between or "").join(written) + self.suffix


# Of Hermes and Qwen models; also what models get that were never taught a syntax.
HERMES = ToolSyntax(
    opening='<tool_call>\n{"name": "',
    naming='", "arguments": ',
    closing="}\n</tool_call>",
    between="\n",
    may_follow_text=True,
)
# Of Llama 3.1 and 3.2 for functions of the user: the whole answer is one JSON object.
LLAMA = ToolSyntax(
    opening='{"name": "',
    naming='", "parameters": ',
    closing="}",
    between=None,
    may_follow_text=False,
)
# Of Mistral's models up to version 7 of their tokenizer: one JSON list. Which templates put a blank
# before the list depends on the tokenizer.
MISTRAL = ToolSyntax(
    prefix="[TOOL_CALLS][",
    opening='{"name": "',
    naming='", "arguments": ',
    closing="}",
    between=", ",
    suffix="]",
    may_follow_text=True,
    tokens=("[TOOL_CALLS]",),
    id_length=9,
)
MISTRAL_BLANK = replace(MISTRAL, prefix="[TOOL_CALLS] [")
# Of Mistral's later models.
MISTRAL_NAMED = ToolSyntax(
    opening="[TOOL_CALLS]",
    naming="[ARGS]",
    closing="",
    between="",
    may_follow_text=True,
    tokens=("[TOOL_CALLS]", "[ARGS]"),
)


def recognise_syntax(template: ChatTemplate | None) -> ToolSyntax | None:
    """The syntax that a template teaches.

    None: the template takes no tools, or teaches a syntax that is not here. Its model is then told
    of tools in words (`prompt.write_tools`).
    """
    if template is None or not template.takes_tools:
        return None
    if "<tool_call>" in template.source and '"arguments"' in template.source:
        return HERMES
    if '{"name": "' in template.source and '"parameters": ' in template.source:
        return LLAMA
    if "[TOOL_CALLS]" in template.source:
        return _recognise_mistral(template.source)
    return None


def _recognise_mistral(source: str) -> ToolSyntax | None:
    if "[CALL_ID]" in source:  # between name and arguments, which is not here
        return None
    if "[ARGS]" in source:
        return MISTRAL_NAMED
    return MISTRAL_BLANK if "[TOOL_CALLS] [" in source else MISTRAL

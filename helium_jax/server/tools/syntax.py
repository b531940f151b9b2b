"""How models write calls, as data: two syntaxes, and which one a chat template was made for."""

from dataclasses import dataclass

from helium_jax.text import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSyntax:
    """A call is `opening + name + naming + arguments + closing`, arguments being a JSON object.

    Attributes:
        opening: text before a call's name; it tells a call from text.
        naming: text between the name and the arguments.
        closing: text after the arguments.
        between: text between two calls; None: an answer has one call at most.
        may_follow_text: whether text may come before the first call. If not, an answer is a call
            exactly when it begins as one.
    """

    opening: str
    naming: str
    closing: str
    between: str | None
    may_follow_text: bool

    @property
    def marker(self) -> str:
        """The beginning of the opening that only calls have."""
        return self.opening.partition("\n")[0]

    def write_call(self, name: str, arguments: str) -> str:
        """A call as the model writes it."""
        return self.opening + name + self.naming + arguments + self.closing


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
    return None

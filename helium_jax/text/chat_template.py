"""A model folder's chat template: messages to the text that the model was trained to continue.

Rendered as transformers does it: Jinja, blocks trimmed, immutable sandbox, the same functions.
Templates come from model folders only, never from requests.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, meta

from helium_jax.errors import RequestError
from helium_jax.text.sandbox import LimitedEnvironment

_MAX_CHARS = 16 * 2**20
_MAX_SECONDS = 5.0


class ChatTemplate:
    """One template, parsed once; `render` may be called from several threads.

    Attributes:
        source: Jinja.
        takes_tools: the template looks at `tools`; others leave them out of the prompt.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        *,
        max_chars: int = _MAX_CHARS,
        max_seconds: float = _MAX_SECONDS,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Parses the template.

        Args:
            source: Jinja.
            special_tokens: names and texts the template may use, such as bos_token.
            max_chars: most characters a rendering may make.
            max_seconds: most seconds it may take.
            now: the clock behind strftime_now.

        Raises:
            RequestError: not valid Jinja.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._environment = LimitedEnvironment(max_chars=max_chars, max_seconds=max_seconds)
        self._environment.filters["tojson"] = _to_json
        self._environment.globals |= {
            "raise_exception": _raise,
            "strftime_now": lambda form: now().strftime(form),
        }
        try:
            self._template = self._environment.from_string(source)
            free = meta.find_undeclared_variables(self._environment.parse(source))
        except TemplateSyntaxError as error:
            raise RequestError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}",
                code="bad_model",
            ) from error
        self.takes_tools = "tools" in free

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation.

        Args:
            messages: each with a role and a content: a text, or a list of text parts, which
                become one text with line breaks between them.
            add_generation_prompt: end where the assistant's answer begins.
            tools: JSON schemas of functions, for templates that know them.
            variables: whatever else the template understands, such as enable_thinking.

        Raises:
            RequestError: the template refuses the messages (roles in an order it does not
                know, ...), or takes too long or makes too much.
        """
        self._environment.start_clock()
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(
                messages=[_plain(message, place) for place, message in enumerate(messages)],
                tools=None if tools is None else [dict(tool) for tool in tools],
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
                **variables,
            ):
                size += len(piece)
                self._environment.check_clock()
                self._environment.check_size(size)
                pieces.append(piece)
        except RequestError:
            raise
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _refused(error) from error
        except (AttributeError, RecursionError, MemoryError) as error:
            raise _refused(error) from error
        return "".join(pieces)


def _plain(message: Mapping[str, Any], place: int) -> dict[str, Any]:
    """The message with its content as one text."""
    content = message.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return dict(message)
    texts = []
    for number, part in enumerate(content):
        path = f"messages[{place}].content[{number}]"
        is_text = isinstance(part, Mapping) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            raise RequestError(
                f'{path} is not {{"type": "text", "text": ...}}; models here read text only',
                code="unsupported_content",
                param=path,
            )
        texts.append(part["text"])
    return {**message, "content": "\n".join(texts)}


def _refused(error: Exception) -> RequestError:
    return RequestError(
        f"the chat template refuses the messages: {error or type(error).__name__}",
        code="chat_template",
        param="messages",
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; transformers' does not, and templates count on that."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )

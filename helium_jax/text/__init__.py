"""Text to token ids and back: tokenizer, chat template, incremental detokenizer, per model folder.

Not here: token ids in requests and events (`helium_jax.types`), plan templates with slots
(`helium_jax.plan`), end-of-sequence handling (`helium_jax.engine`). No arrays.
"""

from helium_jax.text.chat_template import ChatTemplate
from helium_jax.text.detokenizer import Detokenizer
from helium_jax.text.grammar_spec import GrammarKind, GrammarSpec
from helium_jax.text.text_model import TextModel, load_text
from helium_jax.text.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "GrammarKind",
    "GrammarSpec",
    "TextModel",
    "Tokenizer",
    "load_text",
]

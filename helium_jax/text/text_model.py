"""All that is text about one model folder, in one value."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from helium_jax.errors import RequestError
from helium_jax.text.chat_template import ChatTemplate
from helium_jax.text.conversation import continue_chat
from helium_jax.text.detokenizer import Detokenizer
from helium_jax.text.grammar import GrammarCache, vocabulary_of
from helium_jax.text.grammar_spec import GrammarSpec
from helium_jax.text.tokenizer import Tokenizer
from helium_jax.types import SamplingParams, TokenGrammar

TEMPLATE_FILE = "chat_template.jinja"
_GREEDY = SamplingParams()
_SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextModel:
    """Tokenizer, chat template and defaults of one model; safe to share between threads.

    Attributes:
        tokenizer: text to ids and back.
        template: None when the folder has none: a model without conversations.
        eos_token_ids: ids that end an answer, from generation_config.json, config.json or the
            tokenizer, the first that names any.
        sampling: what generation_config.json recommends; greedy when it says nothing.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None = None
    eos_token_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = _GREEDY
    _grammars: GrammarCache = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_grammars", GrammarCache(partial(vocabulary_of, self.tokenizer)))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See Tokenizer.encode."""
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """See Tokenizer.decode."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """See Tokenizer.token_bytes."""
        return self.tokenizer.token_bytes(token_id)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Ids of a conversation up to where the answer begins.

        The template writes the special tokens itself, so none are added a second time.

        Raises:
            RequestError: see ChatTemplate.render; or the model has no template.
        """
        if self.template is None:
            raise RequestError(
                "the model has no chat template; send a bare prompt to completions instead",
                code="no_chat_template",
            )
        text = self.template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
        )
        return self.tokenizer.encode(text, add_special_tokens=False)

    def continue_chat(
        self,
        earlier: Sequence[Mapping[str, str]],
        answer: str,
        later: Sequence[Mapping[str, str]],
        *,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int],
    ) -> list[int] | None:
        """A prompt that goes on from ids that are there already; see `text.conversation`."""
        if self.template is None:
            return None
        return continue_chat(
            self.tokenizer,
            self.template,
            earlier,
            answer,
            later,
            prompt_ids=prompt_ids,
            answer_ids=answer_ids,
            eos_token_ids=self.eos_token_ids,
        )

    def prepare_grammars(self) -> None:
        """Does at the start what would hold up everybody when the first grammar comes."""
        self._grammars.prepare()

    async def compile_grammar(
        self, spec: GrammarSpec, *, param: str = "response_format"
    ) -> TokenGrammar:
        """What `GenerateRequest.grammar` takes; compiled in a thread, and kept for the next time.

        Args:
            spec: what answers must look like.
            param: JSON path of the grammar in the request, for the error.

        Raises:
            RequestError: the grammar is wrong, too large, or allows no text ("invalid_grammar").
            CapacityError: too many grammars wait to be compiled.
        """
        return await self._grammars.compile(spec, param=param)

    def detokenizer(
        self,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        shown: Collection[int] = (),
    ) -> Detokenizer:
        """A new detokenizer for one answer; see Detokenizer."""
        return Detokenizer(self.tokenizer, stop, include_stop=include_stop, shown=shown)


def load_text(folder: Path | str) -> TextModel:
    """Reads a Hugging Face folder's text files.

    Needs tokenizer.json; uses tokenizer_config.json, chat_template.jinja (or .json),
    generation_config.json and config.json where they are.

    Raises:
        RequestError: a file is missing or broken; names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RequestError(f"model folder {folder} does not exist", code="bad_model")
    tokenizer = Tokenizer.from_folder(folder)
    settings = _read_json(folder / "tokenizer_config.json")
    generation = _read_json(folder / "generation_config.json")
    specials = _special_tokens(settings, _read_json(folder / "special_tokens_map.json"))
    source = _template_source(folder, settings)
    return TextModel(
        tokenizer=tokenizer,
        template=None if source is None else ChatTemplate(source, specials),
        eos_token_ids=_eos_ids(generation, _read_json(folder / "config.json"), specials, tokenizer),
        sampling=_sampling(generation, folder / "generation_config.json"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path} is not valid JSON: {error}", code="bad_model") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds no JSON object", code="bad_model")
    return value


def _special_tokens(*sources: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts; files write a token as text or as an object with its content."""
    found: dict[str, str] = {}
    for source in sources:
        for name in _SPECIAL_NAMES:
            value = source.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found.setdefault(name, text)
    return found


def _template_source(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    source = _read_json(folder / "chat_template.json").get("chat_template")
    source = source or settings.get("chat_template")
    if isinstance(source, list):  # several templates with names
        named = {entry.get("name"): entry.get("template") for entry in source}
        source = named.get("default")
    if source is not None and not isinstance(source, str):
        raise RequestError(
            f"{folder / 'tokenizer_config.json'}: chat_template is no text", code="bad_model"
        )
    return source


def _eos_ids(
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    specials: Mapping[str, str],
    tokenizer: Tokenizer,
) -> frozenset[int]:
    for source in (generation, config):
        value = source.get("eos_token_id")
        found = value if isinstance(value, list) else [value]
        ids = [one for one in found if isinstance(one, int) and not isinstance(one, bool)]
        if ids:
            return frozenset(ids)
    eos = tokenizer.id_of(specials.get("eos_token", ""))
    return frozenset() if eos is None else frozenset((eos,))


def _sampling(generation: Mapping[str, Any], path: Path) -> SamplingParams:
    """Only what the file says: what it leaves out stays off, unlike in transformers."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "temperature": (int, float),
        "top_k": int,
        "top_p": (int, float),
        "min_p": (int, float),
        "repetition_penalty": (int, float),
    }
    values: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = generation.get(name)
        if value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RequestError(f"{path}: {name}={value!r} is no number", code="bad_model")
        values[name] = value if name == "top_k" else float(value)
    if not generation.get("do_sample", False):
        return SamplingParams(repetition_penalty=values.get("repetition_penalty", 1.0))
    return SamplingParams(**{"temperature": 1.0, **values})

"""Conversations that go on in token space: later prompts begin with the ids of earlier calls.

Encoding a whole conversation anew can split an answer into other tokens than the model generated,
and then none of its KV is found again. So the later prompt is put together: the ids of the earlier
prompt, the ids that were generated, and the encoding of what follows. This is the same text, cut at
a special token, where tokenizers cut before anything else.
"""

from collections.abc import Mapping, Sequence

from helium_jax.text.chat_template import ChatTemplate
from helium_jax.text.tokenizer import Tokenizer


def continue_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    earlier: Sequence[Mapping[str, str]],
    answer: str,
    later: Sequence[Mapping[str, str]],
    *,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    eos_token_ids: frozenset[int],
) -> list[int] | None:
    """The prompt `earlier`, `answer`, `later` as a continuation of ids that are there already.

    Returns None unless each of these holds, so that the ids always spell the rendered text:
    the rendering of the whole begins with that of `earlier`, up to where the answer begins, and
    the answer; the generated ids, a closing one aside, spell exactly the answer; what follows
    begins with a special token, which is the closing one if one was generated.

    Args:
        tokenizer: of the model.
        template: of the model.
        earlier: messages of the earlier prompt.
        answer: what the model said.
        later: messages that follow it.
        prompt_ids: of the earlier prompt.
        answer_ids: what was generated, a closing end-of-sequence id included.
        eos_token_ids: ids that close an answer.
    """
    if not prompt_ids or not answer_ids:
        return None
    before = template.render(earlier) + answer
    said = {"role": "assistant", "content": answer}
    whole = template.render([*earlier, said, *later])
    if not whole.startswith(before):
        return None
    rest = whole[len(before) :]
    suffix = tokenizer.encode(rest, add_special_tokens=False)
    if not suffix or suffix[0] not in tokenizer.special_ids:
        return None
    boundary = suffix[0]
    if not rest.startswith(tokenizer.decode([boundary], skip_special_tokens=False)):
        return None
    is_closed = answer_ids[-1] in eos_token_ids
    if is_closed and answer_ids[-1] != boundary:
        return None
    spoken = answer_ids[:-1] if is_closed else answer_ids
    if tokenizer.decode(spoken, skip_special_tokens=False) != answer:
        return None
    return [*prompt_ids, *spoken, *suffix]

"""What of a prompt is known while the rest is still being generated.

A consumer's prompt is known up to the first slot whose producer has not answered. That part can be
computed meanwhile, so that only what stands behind it is left when the answer comes. A consumer
that waits for more than what is running would leave its pages idle for long, to be evicted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from helium_jax.executor.frames import Frame
from helium_jax.executor.values import Turns, Value, text_of
from helium_jax.physical import Apply, Generate
from helium_jax.plan import Slot, Text
from helium_jax.types import Generator

MAX_DEPTH = 8  # of texts in texts
MAX_LOOKED_AT = 32  # steps behind a producer


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPrefix:
    """The beginning of a prompt.

    Attributes:
        operator: whose.
        turns: (role, text) pairs; the last text is the known part of its turn.
    """

    operator: str
    turns: Turns


def has_free_pages(generator: Generator, num_tokens: int, worker: int | None) -> bool:
    """Whether KV pages that hold nothing can take so many tokens and leave room to decode.

    Computing ahead must not evict: under pressure its pages would be gone again before their use
    (measured: of 2,720 tokens computed ahead 640 were used).
    """
    workers = generator.statistics()
    if worker is not None:
        workers = workers[worker : worker + 1]
    return all(
        -(-num_tokens // cache.page_size) + cache.num_pages // 8 <= cache.num_free
        for cache in (engine.cache for engine in workers)
    )


def find_known_prefixes(
    frame: Frame, producer: str, peek: Callable[[Frame, str], Value | None]
) -> Iterator[KnownPrefix]:
    """The prompts in a frame whose first unknown slot is the producer's value.

    Only those that have a slot before it (what rows share is computed ahead in other ways) and
    wait for nothing that is not running too. Each prompt is given once; the frame remembers.

    Args:
        frame: where the producer runs.
        producer: the call that is being generated.
        peek: a name's value, seen from a frame; None if it is not there yet.
    """
    for consumer in _consumers(frame, producer):
        may_share = consumer.settings.cache.kv and consumer.history is None
        if may_share and consumer.name not in frame.ahead and _is_next(frame, consumer, peek):
            turns = _known_turns(frame, consumer, producer, peek)
            if turns:
                frame.ahead.add(consumer.name)
                yield KnownPrefix(operator=consumer.name, turns=turns)


def _consumers(frame: Frame, producer: str) -> Iterator[Generate]:
    """The frame's calls that read the producer's value, directly or in a text put together."""
    pending = [producer]
    seen: set[str] = set()
    while pending and len(seen) < MAX_LOOKED_AT:
        for user in frame.scope.users.get(pending.pop(), ()):
            step = frame.scope.steps.get(user)
            if user in seen or step is None:
                continue
            seen.add(user)
            if isinstance(step, Generate):
                yield step
            elif isinstance(step, Apply):
                pending.append(user)


def _is_next(frame: Frame, consumer: Generate, peek: Callable[[Frame, str], Value | None]) -> bool:
    """Whether all that a prompt still lacks is running."""
    return all(
        isinstance(part, str) or part.name in frame.running or peek(frame, part.name) is not None
        for turn in consumer.turns
        for part in _expand(frame, turn.content, MAX_DEPTH)
    )


def _known_turns(
    frame: Frame, consumer: Generate, producer: str, peek: Callable[[Frame, str], Value | None]
) -> Turns:
    """The prompt up to the producer's slot; nothing where another unknown slot comes first."""
    turns: list[tuple[str | None, str]] = []
    has_slot = False
    for turn in consumer.turns:
        pieces: list[str] = []
        for part in _expand(frame, turn.content, MAX_DEPTH):
            if isinstance(part, str):
                pieces.append(part)
                continue
            value = peek(frame, part.name)
            if value is None:
                is_it = part.name == producer and has_slot
                return (*turns, (turn.role, "".join(pieces))) if is_it else ()
            has_slot = True
            pieces.append(text_of(value))
        turns.append((turn.role, "".join(pieces)))
    return ()


def _expand(frame: Frame, text: Text, depth: int) -> Iterator[str | Slot]:
    """The text with unfinished texts of the frame written out."""
    for part in text:
        step = frame.scope.steps.get(part.name) if isinstance(part, Slot) else None
        if isinstance(step, Apply) and step.name not in frame.values and depth:
            yield from _expand(frame, step.text, depth - 1)
        else:
            yield part

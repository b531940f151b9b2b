"""What is measured: calls with token ids as prompts, the same for every implementation.

A call's prompt is its own ids followed by the outputs of the calls it comes after, so a workflow
is a list of calls. Nothing repeats between rounds: a prefix cache may only help within one.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# Ids below it may be special in some tokenizer.
FIRST_ID = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One generation, greedy and without a stop.

    Attributes:
        key: names it within the workload.
        prompt: token ids.
        max_tokens: tokens to generate, all of them.
        after: keys of calls whose outputs are appended to the prompt, in this order.
    """

    key: int
    prompt: tuple[int, ...]
    max_tokens: int
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload and what its speed means.

    Attributes:
        name: as in the results.
        calls: the workload.
        counted_tokens: tokens that a rate divides by the seconds.
    """

    name: str
    calls: tuple[Call, ...]
    counted_tokens: int


class MakeCase(Protocol):
    def __call__(self, vocab_size: int, seed: int, /) -> Case: ...


def prefill(length: int = 512) -> MakeCase:
    """One prompt, one token: counts prompt tokens."""

    def make(vocab_size: int, seed: int) -> Case:
        ids = _ids(vocab_size, seed)
        call = Call(key=0, prompt=ids(length), max_tokens=1)
        return Case(name=f"prefill_{length}", calls=(call,), counted_tokens=length)

    return make


def decode(batch: int, *, prompt: int = 16, out: int = 64) -> MakeCase:
    """Short prompts, long outputs, everything in the time: counts generated tokens."""

    def make(vocab_size: int, seed: int) -> Case:
        ids = _ids(vocab_size, seed)
        calls = tuple(Call(key=k, prompt=ids(prompt), max_tokens=out) for k in range(batch))
        return Case(name=f"decode_{batch}", calls=calls, counted_tokens=batch * out)

    return make


def shared_prefix(
    requests: int = 32, *, shared: int = 192, own: int = 64, out: int = 64
) -> MakeCase:
    """Requests that begin alike and arrive together: counts generated tokens."""

    def make(vocab_size: int, seed: int) -> Case:
        ids = _ids(vocab_size, seed)
        prefix = ids(shared)
        calls = tuple(
            Call(key=key, prompt=prefix + ids(own), max_tokens=out) for key in range(requests)
        )
        return Case(name=f"shared_{requests}", calls=calls, counted_tokens=requests * out)

    return make


def map_reduce(
    rows: int = 8,
    *,
    experts: int = 8,
    context: int = 400,
    role: int = 24,
    opinion: int = 32,
    summary: int = 64,
) -> MakeCase:
    """Per row: experts over the row's context, then a summariser of context and opinions.

    Rows are independent: a row is summarised as soon as its own experts are done.
    """

    def make(vocab_size: int, seed: int) -> Case:
        ids = _ids(vocab_size, seed)
        roles = [ids(role) for _ in range(experts)]
        instruction = ids(role)
        calls = []
        for row in range(rows):
            start = row * (experts + 1)
            text = ids(context)
            keys = tuple(range(start, start + experts))
            calls += [
                Call(key=key, prompt=text + own, max_tokens=opinion)
                for key, own in zip(keys, roles, strict=True)
            ]
            calls.append(
                Call(
                    key=start + experts,
                    prompt=text + instruction,
                    max_tokens=summary,
                    after=keys,
                )
            )
        return Case(
            name=f"map_reduce_{rows}x{experts}",
            calls=tuple(calls),
            counted_tokens=sum(call.max_tokens for call in calls),
        )

    return make


# The full measurement, and one of the same forms that ends in seconds.
FULL: tuple[MakeCase, ...] = (
    prefill(512),
    decode(1),
    decode(8),
    decode(32),
    shared_prefix(),
    map_reduce(),
)
SMALL: tuple[MakeCase, ...] = (
    prefill(64),
    decode(1, out=8),
    decode(4, out=8),
    shared_prefix(4, shared=64, own=16, out=8),
    map_reduce(2, experts=3, context=64, role=8, opinion=6, summary=8),
)
SCALES = {"full": FULL, "small": SMALL}


def _ids(vocab_size: int, seed: int) -> Callable[[int], tuple[int, ...]]:
    source = random.Random(seed)
    return lambda count: tuple(source.randrange(FIRST_ID, vocab_size) for _ in range(count))

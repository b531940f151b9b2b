"""Requests and the moments at which they are sent, drawn from a seed."""

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What clients do.

    Attributes:
        num_requests: in all.
        rate_per_s: mean arrivals a second; inf sends all at once.
        burstiness: shape of the gamma-distributed gaps: 1 is Poisson, less comes in bursts.
        num_prefixes: shared beginnings; each request draws one of them. 0 for none.
        prefix_tokens: of a shared beginning.
        input_tokens: of the rest of a prompt.
        output_tokens: of an answer.
        spread: lengths are uniform within this share around the given ones.
        vocabulary: ids are drawn below it, from 3.
        seed: of all draws.
    """

    num_requests: int = 128
    rate_per_s: float = math.inf
    burstiness: float = 1.0
    num_prefixes: int = 4
    prefix_tokens: int = 64
    input_tokens: int = 64
    output_tokens: int = 32
    spread: float = 0.0
    vocabulary: int = 250
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request: when, in seconds from the start, its prompt, and how many tokens it wants."""

    at_s: float
    token_ids: tuple[int, ...]
    max_tokens: int


def draw_arrivals(traffic: Traffic) -> list[Arrival]:
    """Every request, by time. The same traffic gives the same requests.

    Raises:
        ValueError: a rate, a length or a share that cannot be.
    """
    if not traffic.rate_per_s > 0 or not traffic.burstiness > 0:
        raise ValueError("the rate and the burstiness must be above 0")
    if traffic.input_tokens < 1 or traffic.output_tokens < 1 or not 0 <= traffic.spread < 1:
        raise ValueError("lengths must be at least 1 and the spread from 0 to below 1")
    draws = random.Random(traffic.seed)
    prefixes = [_ids(draws, traffic, traffic.prefix_tokens) for _ in range(traffic.num_prefixes)]
    arrivals, at_s = [], 0.0
    for _ in range(traffic.num_requests):
        prefix = draws.choice(prefixes) if prefixes else ()
        own = _ids(draws, traffic, _length(draws, traffic.input_tokens, traffic.spread))
        arrivals.append(
            Arrival(
                at_s=at_s,
                token_ids=prefix + own,
                max_tokens=_length(draws, traffic.output_tokens, traffic.spread),
            )
        )
        if math.isfinite(traffic.rate_per_s):
            mean_gap_s = 1.0 / traffic.rate_per_s
            at_s += draws.gammavariate(traffic.burstiness, mean_gap_s / traffic.burstiness)
    return arrivals


def _ids(draws: random.Random, traffic: Traffic, count: int) -> tuple[int, ...]:
    return tuple(draws.randrange(3, traffic.vocabulary) for _ in range(count))


def _length(draws: random.Random, mean: int, spread: float) -> int:
    low, high = math.floor(mean * (1 - spread)), math.ceil(mean * (1 + spread))
    return draws.randint(max(low, 1), max(high, 1))

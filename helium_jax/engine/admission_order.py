"""In which order waiting sequences are admitted: as they came, but for those that prefer cached.

Among waiting requests of equal priority with `prefer_cached`, the longest cached prefix goes
first; equal prefixes go together, so that they share a step and its reads of that prefix. They
change places with each other only: a request without the wish keeps its place.
"""

import math
from collections.abc import Iterator
from collections.abc import Sequence as Indexable
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from helium_jax.engine.sequence import Sequence, rank_of
from helium_jax.kvstore.store import Store

# Looking a sequence up costs microseconds and the queue may hold thousands.
MAX_LOOKUPS = 128

# Whoever was overtaken by so many goes first: no order of arrivals can make it wait for ever.
MAX_OVERTAKEN = 128


class Place(NamedTuple):
    """A place in the order of service, and who takes it."""

    rank: tuple[int, int]
    sequence: Sequence


def order_of_admission(waiting: Indexable[Sequence], store: Store) -> Iterator[Place]:
    """Places of the waiting ones, first come first; each priority is looked up when it is reached.

    Args:
        waiting: in order of service.
        store: for matches only.
    """
    for _, group in groupby(waiting, key=lambda sequence: sequence.request.priority):
        members = list(group)
        wishing = [member for member in members if member.request.prefer_cached][:MAX_LOOKUPS]
        ordered = iter(_longest_cached_first(wishing, store))
        looked_up = set(wishing)
        for member in members:
            yield Place(rank_of(member), next(ordered) if member in looked_up else member)


def _longest_cached_first(sequences: list[Sequence], store: Store) -> list[Sequence]:
    """Those overtaken too often; then by cached length, by the first of each prefix group to come,
    by the first of those that go on alike, and as they came."""
    if len(sequences) < 2:
        return sequences
    page_size = store.page_size
    first_of: dict[bytes, int] = {}
    ranked = []
    for sequence in sequences:
        if sequence.num_overtaken >= MAX_OVERTAKEN:
            ranked.append((-math.inf, 0, 0, sequence.arrival, sequence))
            continue
        keys, arrival = sequence.table.keys, sequence.arrival
        count = store.count_match(sequence.table, sequence.num_shareable_blocks(page_size))
        group = keys[count - 1][0] if count else b""
        following = keys[count][0] if count < len(keys) else group
        # The first to come of a group is seen first: sequences are in order of arrival.
        ranks = (first_of.setdefault(group, arrival), first_of.setdefault(following, arrival))
        ranked.append((-count, *ranks, arrival, sequence))
    ranked.sort(key=itemgetter(0, 1, 2, 3))
    return [entry[-1] for entry in ranked]


def count_overtaken(waiting: Indexable[Sequence], admitted: Indexable[Sequence]) -> None:
    """Notes who saw later ones of its own priority admitted before it.

    Args:
        waiting: those that still wait, in order of service.
        admitted: those that do not, in this step.
    """
    wishing = [sequence for sequence in admitted if sequence.request.prefer_cached]
    if not wishing:
        return
    last = max(map(rank_of, wishing))
    for sequence in waiting:
        rank = rank_of(sequence)
        if rank > last:
            return
        if sequence.request.prefer_cached:
            sequence.num_overtaken += sum(
                other.request.priority == sequence.request.priority and rank_of(other) > rank
                for other in wishing
            )

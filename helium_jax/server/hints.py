"""What clients of other systems hint at on plain requests: used here, or said to be not.

A hint changes nothing about an answer, so none is refused; a field that would change the answer
is in `bodies.FOREIGN_*` instead.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from helium_jax.server.config import Limits
from helium_jax.server.hint_bodies import AgentHints, HintFields
from helium_jax.server.reading import Findings
from helium_jax.types import EngineStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What becomes of one field.

    Attributes:
        name: path in the body.
        use: what it does here; None: nothing.
        why: what a client is told when nothing is done.
        neutral: values beside null that ask for nothing.
    """

    name: str
    use: str | None = None
    why: str = ""
    neutral: tuple[Any, ...] = ()


_HINTS_PATH = "nvext.agent_hints."

# Every hint that is known, and what becomes of it.
HINTS: tuple[Hint, ...] = (
    Hint(name="prompt_cache_key", use="equal keys run on the same worker of several"),
    Hint(
        name="prompt_cache_retention",
        why="KV stays while there is room; POST /v1/cache/warm pins it",
        neutral=("in_memory", "in-memory"),
    ),
    Hint(name="safety_identifier", why="this server moderates nothing"),
    Hint(name="user", why="tenants are told apart by their keys"),
    Hint(name="metadata", why="answers are not stored", neutral=({},)),
    Hint(name="store", why="answers are not stored", neutral=(False,)),
    Hint(
        name="service_tier",
        why="there is one tier; send priority",
        neutral=("auto", "default", "standard", "standard_only"),
    ),
    Hint(name=_HINTS_PATH + "priority", use="higher is sooner, unless the body has a priority"),
    Hint(name=_HINTS_PATH + "strict_priority", why="there is one queue; send priority"),
    Hint(name=_HINTS_PATH + "latency_sensitivity", why="the queue goes by priority; send that"),
    Hint(name=_HINTS_PATH + "osl", why="requests are placed without a guess of their length"),
    Hint(
        name=_HINTS_PATH + "speculative_prefill",
        why="the KV of prompt and answer stays while there is room, so nothing is computed ahead",
        neutral=(False,),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What is done with the hints of one request.

    Attributes:
        priority: of the engine's requests: lower is sooner.
        affinity: requests of equal affinity share a worker; None: any worker.
        warnings: what is not done.
    """

    priority: int = 0
    affinity: str | None = None
    warnings: tuple[str, ...] = ()


def check_hints(
    body: HintFields,
    priority: int | None,
    limits: Limits,
    found: Findings,
    *,
    used: Collection[str] = (),
    unused: Collection[str] = (),
) -> Hints:
    """Reads the hints of a body.

    Args:
        body: that has them.
        priority: the body's own, which counts for more than a hint.
        limits: how long a prompt_cache_key may be: as a salt.
        found: gains the fault of one that is longer.
        used: hints that the endpoint itself has a use for.
        unused: hints that other endpoints use and this one does not.
    """
    key, max_chars = body.prompt_cache_key, limits.salt_chars
    if key is not None and len(key) > max_chars:
        found.add("prompt_cache_key", f"has {len(key)} characters; the limit is {max_chars}")
    agent = body.agent_hints or (body.nvext and body.nvext.agent_hints) or AgentHints()
    warnings = []
    for hint in HINTS:
        source = agent if hint.name.startswith(_HINTS_PATH) else body
        value = getattr(source, hint.name.removeprefix(_HINTS_PATH), None)
        is_idle = hint.name in unused or (hint.use is None and hint.name not in used)
        if is_idle and value is not None and value not in hint.neutral:
            warnings.append(
                f"{hint.name}: not used, {hint.why or 'this endpoint has no use for it'}"
            )
    hinted = None if agent.priority is None else -agent.priority
    if priority is not None and hinted is not None:
        warnings.append(f"{_HINTS_PATH}priority: not used, the body has a priority of its own")
    chosen = hinted if priority is None else priority
    return Hints(priority=chosen or 0, affinity=key, warnings=tuple(warnings))


def affine_worker(
    affinity: str | None, tenant: str, workers: Sequence[EngineStatistics]
) -> int | None:
    """The worker for an affinity: always the same one while it lives; None leaves the choice free.

    By rendezvous hashing: when a worker dies, only its own keys move.
    """
    living = [index for index, worker in enumerate(workers) if worker.is_alive]
    if affinity is None or len(living) < 2:
        return None

    def weight(index: int) -> bytes:
        text = f"{index}\0{tenant}\0{affinity}".encode()
        return hashlib.blake2b(text, person=b"helium-affinity", digest_size=16).digest()

    return max(living, key=weight)

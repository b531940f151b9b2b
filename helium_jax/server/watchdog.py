"""Sees when the engine will answer nobody any more: its threads have ended, or a step hangs."""

import asyncio
from dataclasses import dataclass

from helium_jax.errors import HeliumError
from helium_jax.types import Generator

POLL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFailure:
    """Why a server has no reason to go on.

    Attributes:
        message: for people.
        hangs: a thread of the engine is stuck and cannot be waited for.
    """

    message: str
    hangs: bool


def find_failure(generator: Generator, *, max_stall_s: float) -> EngineFailure | None:
    """What is wrong with the engine beyond repair now, None if it may still answer.

    One dead worker of several is none: the others go on. One that hangs is, because the requests
    that it has would wait for ever.
    """
    try:
        workers = generator.statistics()
    except HeliumError as error:
        return EngineFailure(message=error.message, hangs=False)
    ages = [worker.last_step_age_seconds for worker in workers if worker.is_alive]
    if not ages:
        return EngineFailure(message="the engine has ended; the log has its cause", hangs=False)
    if max(ages) > max_stall_s:
        message = f"the engine has been in one step for over {max_stall_s:g} s"
        return EngineFailure(message=message, hangs=True)
    return None


async def watch_engine(
    generator: Generator, *, max_stall_s: float, poll_s: float = POLL_S
) -> EngineFailure:
    """Returns once the engine has failed beyond repair."""
    while True:
        failure = find_failure(generator, max_stall_s=max_stall_s)
        if failure is not None:
            return failure
        await asyncio.sleep(poll_s)

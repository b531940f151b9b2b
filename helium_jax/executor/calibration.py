"""A short measurement of the engine behind a generator, for the roofline of its steps."""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Callable

from helium_jax.errors import HeliumError
from helium_jax.schedule.roofline import CostSample, Roofline, calibrate
from helium_jax.schedule.step_work import StepWork
from helium_jax.types import GenerateRequest, Generator, SamplingParams

log = logging.getLogger(__name__)

PREFILLS = (16, 64, 256)  # tokens of one prompt, as far as the context goes
DECODED = 12  # tokens of each answer
SHORT, LONG = 8, 128  # prompts that answers continue
REPEATS = 2  # of which the faster one counts, because what disturbs only slows down
MAX_SECONDS = 0.8  # of the whole measurement; what does not fit is left out


async def measure_roofline(
    generator: Generator,
    *,
    clock: Callable[[], float] = time.monotonic,
    max_seconds: float = MAX_SECONDS,
) -> Roofline | None:
    """A roofline that fits a few prefills and decodes on the first worker; None if it cannot be.

    Takes the time of about a hundred steps, or of fewer if these are long; the engine should have
    nothing else to do meanwhile. The prompts share no KV with any other.
    """
    info = generator.info
    room = info.max_model_len - DECODED - 1
    shapes = [(1, size, 1) for size in PREFILLS if size <= room]
    for count, size in itertools.product((1, info.max_num_seqs), (SHORT, LONG)):
        if size <= room:
            shapes.append((count, size, DECODED))
    shapes.sort(key=_num_tokens)
    start = clock()
    best: dict[tuple[int, int, int], CostSample] = {}
    try:
        for shape in shapes * REPEATS:
            left = max_seconds - (clock() - start)
            # A small shape says what a larger one takes at most.
            known = [(s, best[s].seconds) for s in best if _num_tokens(s) <= _num_tokens(shape)]
            if known:
                other, seconds = known[-1]
                if seconds * _num_tokens(shape) / _num_tokens(other) > left:
                    continue
            sample = await _measure(generator, *shape, clock=clock)
            if shape not in best or sample.seconds < best[shape].seconds:
                best[shape] = sample
        return calibrate(list(best.values()))
    except (HeliumError, ValueError) as error:
        log.warning("the engine could not be measured: %s", error)
        return None


def _num_tokens(shape: tuple[int, int, int]) -> int:
    count, prompt_tokens, output_tokens = shape
    return count * (prompt_tokens + output_tokens)


async def _measure(
    generator: Generator,
    count: int,
    prompt_tokens: int,
    output_tokens: int,
    *,
    clock: Callable[[], float],
) -> CostSample:
    """`count` requests together; how many steps they took is the engine's word."""
    salt = secrets.token_hex(8)
    vocab = generator.info.vocab_size
    before, start = generator.statistics()[0].num_steps, clock()

    async def ask(number: int) -> None:
        request = GenerateRequest(
            request_id=f"calibrate-{salt}-{number}",
            # Prompts differ from their first token on, as far as there are tokens for it.
            token_ids=tuple((number + 7 * place) % vocab for place in range(prompt_tokens)),
            sampling=SamplingParams(
                max_tokens=output_tokens, min_tokens=output_tokens, ignore_eos=True
            ),
            cache_salt=f"{salt}-{number}",
            worker=0,
        )
        async for _ in generator.generate(request):
            pass

    await asyncio.gather(*(ask(number) for number in range(count)))
    seconds = clock() - start
    decodes = output_tokens - 1  # the first token is the prefill's
    context = sum(prompt_tokens + place + 1 for place in range(decodes))
    work = StepWork(
        num_steps=max(generator.statistics()[0].num_steps - before, 1),
        prefill_tokens=float(count * prompt_tokens),
        decode_tokens=float(count * decodes),
        kv_tokens=float(count * context),
        pair_tokens=count * prompt_tokens * (prompt_tokens + 1) / 2,
    )
    return CostSample(work=work, seconds=seconds)

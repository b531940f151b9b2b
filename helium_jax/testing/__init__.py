"""Public test doubles: a generator without a model and a clock that stands still.

`FakeGenerator` keeps every promise of `types.Generator` (events, usage, cancellation, errors) with
answers that are a hash of the prompt: equal requests give equal tokens, different prompts give
different ones, so a test notices an answer that went to the wrong row.

Not here: doubles of anything that is fast and pure enough to be used itself.
"""

from helium_jax.testing.clock import ManualClock, settle
from helium_jax.testing.generator import FAKE_MODEL, LOWER_CASE, FakeGenerator
from helium_jax.testing.text import FAKE_EOS_ID, FAKE_ROLE_IDS, FakeDetokenizer, FakeText

__all__ = [
    "FAKE_EOS_ID",
    "FAKE_MODEL",
    "FAKE_ROLE_IDS",
    "LOWER_CASE",
    "FakeDetokenizer",
    "FakeGenerator",
    "FakeText",
    "ManualClock",
    "settle",
]

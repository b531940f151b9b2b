"""What a loop counts of its steps."""

from dataclasses import dataclass

from helium_jax.engine.step_plan import StepPlan
from helium_jax.types import CacheSnapshot, EngineStatistics


@dataclass(slots=True)
class Counters:
    """Counts since start; the fields are those of `EngineStatistics`."""

    num_steps: int = 0
    num_prefill_tokens: int = 0
    num_decode_tokens: int = 0
    num_padded_tokens: int = 0
    num_preemptions: int = 0
    host_seconds: float = 0.0
    device_seconds: float = 0.0

    def planned(self, plan: StepPlan) -> None:
        """A plan was carried out, whether it has work or not."""
        self.num_preemptions += len(plan.preemptions) + len(plan.displacements)

    def dispatched(self, plan: StepPlan, *, num_padded: int) -> None:
        """A step went to the device. Prompt tokens computed again count again."""
        self.num_steps += 1
        self.num_padded_tokens += num_padded
        for row in plan.rows:
            end = min(row.start + row.num_tokens, row.sequence.num_prompt)
            self.num_prefill_tokens += max(end - row.start, 0)

    def waited(self, *, device_seconds: float, all_seconds: float) -> None:
        """A round of the loop took `all_seconds`, of which the host waited for the device."""
        self.device_seconds += device_seconds
        self.host_seconds += all_seconds - device_seconds

    def statistics(
        self,
        *,
        num_waiting: int,
        num_running: int,
        num_compiles_after_warmup: int,
        cache: CacheSnapshot,
    ) -> EngineStatistics:
        """These counts and the load now; whoever owns the thread knows its heartbeat."""
        return EngineStatistics(
            num_waiting=num_waiting,
            num_running=num_running,
            num_steps=self.num_steps,
            num_prefill_tokens=self.num_prefill_tokens,
            num_decode_tokens=self.num_decode_tokens,
            num_padded_tokens=self.num_padded_tokens,
            num_preemptions=self.num_preemptions,
            num_compiles_after_warmup=num_compiles_after_warmup,
            host_seconds=self.host_seconds,
            device_seconds=self.device_seconds,
            last_step_age_seconds=0.0,
            cache=cache,
        )

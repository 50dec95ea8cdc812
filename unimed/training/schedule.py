"""Learning rates over the steps: the official schedule to the letter, and the one it was meant to be."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialSchedule:
    """`linear_warmup_cosine_lr` of the official code.

    The cosine counts from step 0, not from the end of the warm-up, so the rate falls by 2.4 % at that step (official
    values: from 9.998e-6 at step 4,999 to 9.758e-6 at step 5,000).

    Attributes:
        peak: Rate that the warm-up leads to.
        floor: Rate that the cosine ends at.
        start: Rate of step 0; negative means the peak, that is no warm-up.
        warmup_steps: Steps of the warm-up.
        steps: All steps.
        steps_per_epoch: None for one epoch. With several the official warm-up counts inside each epoch while its end
            is tested on all steps; that is followed too.
    """

    peak: float
    floor: float
    start: float
    warmup_steps: int
    steps: int
    steps_per_epoch: int | None = None

    def rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        if step < self.warmup_steps:
            inside = step % (self.steps_per_epoch or self.steps)
            first = self.peak if self.start < 0 else self.start
            return min(self.peak, first + (self.peak - first) * inside / max(1, self.warmup_steps))
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineSchedule:
    """A linear warm-up from almost nothing to the peak, then a cosine from there to the floor, without a jump."""

    peak: float
    floor: float
    warmup_steps: int
    steps: int

    def rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * progress))


Schedule = OfficialSchedule | CosineSchedule

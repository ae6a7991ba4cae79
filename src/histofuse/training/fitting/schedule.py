"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

ScheduleKind = Literal["constant", "step", "cosine"]


def make_schedule(
    kind: ScheduleKind,
    epochs: int,
    *,
    step_epochs: int = 1,
    step_factor: float = 1.0,
    warmup_epochs: int = 0,
) -> Callable[[int], float]:
    """Make a schedule: epoch (from 0) -> factor on the learning rates.

    Args:
        kind: ``step`` multiplies by `step_factor` every `step_epochs`; ``cosine`` falls from 1
            towards 0 over the epochs after the warm-up.
        epochs: Epochs in all.
        step_epochs: Length of a step, counted from the end of the warm-up.
        step_factor: Factor of a step.
        warmup_epochs: Epochs of a linear rise that reaches 1 in the first epoch after it.
    """

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return (epoch + 1) / (warmup_epochs + 1)
        done = epoch - warmup_epochs
        if kind == "step":
            return step_factor ** (done // step_epochs)
        if kind == "cosine":
            return (1 + math.cos(math.pi * done / max(1, epochs - warmup_epochs))) / 2
        return 1.0

    return factor

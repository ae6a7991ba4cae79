"""The parts of a study that those who run, show or record it share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

NEAR_END: Final = 0.05
Direction = Literal["maximize", "minimize"]
State = Literal["COMPLETE", "PRUNED", "FAIL"]

# Called by an objective with the step (from 0) and the value so far; raises StopTrial to prune.
Report = Callable[[int, float], None]


class StopTrial(Exception):  # noqa: N818 - no error: a decision
    """The pruner stops the trial."""


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial."""

    value: float  # of the optimised metric
    scores: Mapping[str, float] = field(default_factory=dict)  # others, such as cv/f1/macro
    steps: Mapping[str, Sequence[float]] = field(default_factory=dict)  # of each fold or epoch


# Evaluates a section with a trial's values, reporting each fold or epoch; the same values give the
# same result.
Objective = Callable[[Any, Report], TrialResult]


@dataclass(frozen=True)
class StudySpec:
    """Description of a study."""

    name: str  # that of the model: xgboost, fusion
    study_id: str  # digest of all that a trial's result depends on
    metric: str  # the optimised one, such as auroc
    measured_on: str  # in words: "5 folds of the training patients"
    direction: Direction
    space: dict[str, dict[str, Any]]  # key of the model's section -> its range
    base: dict[str, Any]  # the model's section of params.yaml, which is trial 0
    settings: dict[str, Any]  # sampler, pruner and number of trials
    seed: int
    inputs: dict[str, str]  # name -> SHA-256
    source: str  # of the data, such as simulated


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial; those lost with their worker were repeated and are not listed."""

    number: int  # from 0; trial 0 has the values of params.yaml
    state: State
    value: float | None  # None unless complete
    params: dict[str, Any]  # key of the model's section -> value
    scores: dict[str, float] = field(default_factory=dict)
    steps: dict[str, list[float]] = field(default_factory=dict)  # if pruned: those reported
    reason: str = ""  # why it failed


# Is given all trials finished so far, again and again while a study runs.
Observe = Callable[[StudySpec, Sequence[TrialRecord]], None]


def find_best(spec: StudySpec, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Find the best complete trial, the first of equals; None if none is complete."""
    complete = [t for t in trials if t.state == "COMPLETE" and t.value is not None]
    sign = -1.0 if spec.direction == "maximize" else 1.0
    return min(complete, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


def list_ends(spec: StudySpec, best: TrialRecord) -> list[str]:
    """Say which of the best values lie near an end of their range, beyond which better may lie.

    Near is within `NEAR_END` of the range, on its own scale. Beyond a plain 0 or 1 lies nothing.
    """
    found = []
    for key, value in best.params.items():
        span = spec.space[key]
        if span["type"] == "choice":
            continue
        share = place_value(span, value)
        for end, distance in (("low", share), ("high", 1 - share)):
            if distance <= NEAR_END and (span["log"] or span[end] not in {0.0, 1.0}):
                found.append(f"the best {key} is near {span[end]:g}, the {end} end of its range")
    return found


def place_value(span: Mapping[str, Any], value: Any) -> float:
    """Place a number between the ends of its range, 0 to 1."""
    scale = math.log if span["log"] else float
    low, high, value = (scale(v) for v in (span["low"], span["high"], value))
    return (value - low) / (high - low)


def count_unfinished(trials: Sequence[TrialRecord]) -> str:
    """Count the trials without a result: "3 pruned, 1 failed"."""
    states = [t.state for t in trials]
    return f"{states.count('PRUNED')} pruned, {states.count('FAIL')} failed"

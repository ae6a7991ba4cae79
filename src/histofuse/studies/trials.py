"""The parts of a study that those who run, show or record it share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Direction = Literal["maximize", "minimize"]
State = Literal["COMPLETE", "PRUNED", "FAIL"]

# Called by an objective with the step (from 0) and the value so far; raises StopTrial to prune.
Report = Callable[[int, float], None]


class StopTrial(Exception):  # noqa: N818 - no error: a decision
    """The pruner stops the trial."""


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial.

    Attributes:
        value: The optimised metric.
        scores: Other scores by metric name, such as ``cv/f1/macro``.
        steps: Scores of each fold or epoch by metric name, such as ``cv/auroc``.
    """

    value: float
    scores: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[str, Sequence[float]] = field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """Evaluates one set of params; the same params give the same result."""

    def __call__(self, params: Any, report: Report) -> TrialResult:
        """Evaluate params.

        Args:
            params: The model's section of params.yaml with the trial's values.
            report: Called after each fold or epoch.

        Raises:
            StopTrial: If the pruner stops the trial.
        """
        ...


@dataclass(frozen=True)
class StudyFacts:
    """Description of a study.

    Attributes:
        name: The study's name, which is that of the model: ``xgboost``, ``fusion``.
        study_id: Digest of all that a trial's result depends on; trials of one id are comparable.
        metric: The optimised metric, such as ``auroc``.
        measured_on: What it is measured on: "5 folds of the training patients".
        direction: Whether larger or smaller values are better.
        space: Key of the model's section -> its range, as in params.yaml.
        base: The model's section of params.yaml, which is trial 0.
        settings: Sampler, pruner and number of trials, as in params.yaml.
        seed: The run's seed.
        inputs: Name to SHA-256 of each input.
        source: Source of the data, such as ``simulated``.
    """

    name: str
    study_id: str
    metric: str
    measured_on: str
    direction: Direction
    space: dict[str, dict[str, Any]]
    base: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    source: str


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial.

    Attributes:
        number: Counted from 0; trial 0 has the values of params.yaml.
        state: How it ended. Trials lost with their worker were repeated and are not listed.
        value: The optimised metric; None unless complete.
        params: Key of the model's section -> value.
        scores: As in `TrialResult`.
        steps: As in `TrialResult`; for a pruned trial, what it had reported.
        reason: Why it failed; empty otherwise.
    """

    number: int
    state: State
    value: float | None
    params: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    steps: dict[str, list[float]] = field(default_factory=dict)
    reason: str = ""


def find_best(facts: StudyFacts, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Find the best complete trial, the first of equals; None if none is complete."""
    complete = [t for t in trials if t.state == "COMPLETE" and t.value is not None]
    sign = -1.0 if facts.direction == "maximize" else 1.0
    return min(complete, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


@runtime_checkable
class StudyObserver(Protocol):
    """Observes a running study."""

    def observe(self, facts: StudyFacts, trials: Sequence[TrialRecord]) -> None:
        """Receive all trials finished so far, including those received before."""
        ...


class NullObserver:
    """Ignores the study."""

    def observe(self, facts: StudyFacts, trials: Sequence[TrialRecord]) -> None:
        """Ignore the trials."""

"""What a study is made of; whoever runs, shows or records one needs no more than this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Direction = Literal["maximize", "minimize"]
State = Literal["COMPLETE", "PRUNED", "FAIL"]

# Told (step, from 0, and the value so far) by an objective; raises StopTrial when it may give up.
Report = Callable[[int, float], None]


class StopTrial(Exception):  # noqa: N818 - no error: a decision
    """The trial will not become the best: the pruner says so."""


@dataclass(frozen=True)
class TrialResult:
    """What an objective found for one set of params.

    Attributes:
        value: What the study makes as large (or small) as it can.
        scores: Other scores by their metric's name, such as ``cv/f1/macro``.
        steps: Scores of each fold or epoch by their metric's name, such as ``cv/auroc``.
    """

    value: float
    scores: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[str, Sequence[float]] = field(default_factory=dict)


@runtime_checkable
class Objective(Protocol):
    """Tries one set of params, data and seed being given; the same params give the same result."""

    def __call__(self, params: Any, report: Report) -> TrialResult:
        """Try params.

        Args:
            params: The model's own section of params.yaml with the trial's values in it.
            report: To be called after each fold or epoch.

        Raises:
            StopTrial: Out of `report`.
        """
        ...


@dataclass(frozen=True)
class StudyFacts:
    """What a study is about.

    Attributes:
        name: The study's name, which is that of the model: ``xgboost``, ``fusion``.
        study_id: Digest of all that a trial's outcome depends on; trials of one id are comparable.
        metric: What is optimised, such as ``auroc``, as the objective measures it.
        measured_on: How it measures: "5 folds of the training patients".
        direction: Whether more is better.
        space: Key of the model's section -> its range, as in params.yaml.
        base: The model's section as it stands in params.yaml: trial 0.
        settings: Sampler, pruner and number of trials, as in params.yaml.
        seed: The run's seed.
        inputs: SHA-256 of each input, by what it is.
        source: Whose data these are: ``simulated`` and so on.
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
        state: How it ended. Trials lost with their worker were tried again and are not listed.
        value: Of the objective; None unless complete.
        params: Key of the model's section -> value.
        scores: As in `TrialResult`.
        steps: As in `TrialResult`; of a pruned trial, what it had reported.
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
    """Is told of a study as it goes on."""

    def observe(self, facts: StudyFacts, trials: Sequence[TrialRecord]) -> None:
        """Take note of all trials finished so far; those known already are told again."""
        ...


class NullObserver:
    """Takes note of nothing."""

    def observe(self, facts: StudyFacts, trials: Sequence[TrialRecord]) -> None:
        """Ignore the trials."""

"""Operating points: thresholds chosen on validation rows, and what they do on the split reported.

Source: as asked of diagnostic tests, STARD 2015, items 12 and 24.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from histofuse.core.artifacts import round_number
from histofuse.evaluation.metrics.bootstrap import ClusterBootstrap, Interval
from histofuse.evaluation.metrics.classification import Events, Scores, count_cuts
from histofuse.evaluation.metrics.weighted import PerWeighting
from histofuse.params.evaluation import AssessmentParams

Aim = Literal["specificity", "sensitivity"]
Scored = tuple[np.ndarray, np.ndarray]  # probability of each row, and whether it is positive
RATES: Final = ("sensitivity", "specificity", "ppv", "npv", "flagged")


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and the rates at it."""

    aim: Aim  # the rate aimed at
    target: float  # its value on validation rows
    # probability from which a row is flagged; None where none can be chosen
    threshold: float | None
    # `RATES` on validation, where it was chosen; None where not defined
    chosen_on: Mapping[str, float | None]
    # `RATES` on the split reported, with intervals for the chosen threshold
    rates: Mapping[str, Interval]
    note: str  # why there is no threshold; empty where there is one


def choose_threshold(scores: Scores, positive: Events, aim: Aim, target: float) -> float | None:
    """Choose the threshold, midway between scores, that holds the aim; None without a choice."""
    if not positive.any() or positive.all():
        return None
    cuts = count_cuts(scores, positive)
    levels = np.unique(scores)[::-1]
    # What is flagged when the threshold stands above all scores, then below each in turn.
    flagged_tp = np.append(0, cuts.tp)
    flagged_fp = np.append(0, cuts.fp)
    between = np.concatenate([[levels[0] + 1], (levels[:-1] + levels[1:]) / 2, [levels[-1]]])
    between[0] = (1 + levels[0]) / 2 if levels[0] < 1 else np.nextafter(1.0, 2.0)
    if aim == "specificity":
        held = 1 - flagged_fp / flagged_fp[-1] >= target - 1e-12
        return float(between[np.flatnonzero(held)[-1]])
    held = flagged_tp / flagged_tp[-1] >= target - 1e-12
    return float(between[np.flatnonzero(held)[0]])


def measure_operating_points(
    chosen_by: Scored, rows: Scored, params: AssessmentParams, bootstrap: ClusterBootstrap
) -> list[OperatingPoint]:
    """Choose each threshold on validation rows and measure it on those of the split reported."""
    points = []
    aims: Sequence[tuple[Aim, float]] = (
        *(("specificity", target) for target in params.specificities),
        *(("sensitivity", target) for target in params.sensitivities),
    )
    for aim, target in aims:
        threshold = choose_threshold(*chosen_by, aim, target)
        if threshold is None:
            note = "validation holds no positives, or no negatives, to choose by"
            points.append(OperatingPoint(aim, target, None, {}, {}, note))
            continue
        sums = bootstrap.clusters.add_up(_count_outcomes(*rows, threshold))
        found = bootstrap.estimate(sums, _compute_rates)
        validation = _compute_rates(_count_outcomes(*chosen_by, threshold).sum(axis=0)[None])
        chosen_on = {name: round_number(value[0]) for name, value in validation.items()}
        points.append(OperatingPoint(aim, target, threshold, chosen_on, found, ""))
    return points


def _count_outcomes(scores: Scores, positive: Events, threshold: float) -> Float[np.ndarray, "n 4"]:
    """Mark hits, misses, false alarms and correct rejections."""
    flagged = scores >= threshold
    cells = (flagged & positive, ~flagged & positive, flagged & ~positive, ~flagged & ~positive)
    return np.column_stack(cells).astype(np.float64)


def _compute_rates(sums: Float[np.ndarray, "w 4"]) -> dict[str, PerWeighting]:
    tp, fn, fp, tn = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "flagged": (tp + fp) / (tp + fn + fp + tn),
        }

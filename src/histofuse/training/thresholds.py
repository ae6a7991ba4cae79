"""Decision thresholds, fitted on the calibrated probabilities of validation rows alone.

A small or one-sided validation set never ends a run; ``fitted_on.note`` says what was used instead:
the threshold of argmax for a class that is absent (or the only one); with fewer than
`THRESHOLD_MINIMUM` rows inside or outside, for Youden's J and balance, the class's prevalence,
where both have their optimum if probabilities are true.

Source: paper 3.2 (Youden's J or a precision target; balanced for XGBoost).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from histofuse.core.naming import show_count
from histofuse.params.decision import ThresholdRule, read_precision_target
from histofuse.training.calibrate import FittedOn, count_classes
from histofuse.training.conformal import COVERAGE, fit_conformal, predict_sets

THRESHOLD_MINIMUM = 5
# With fewer rows of a class a threshold is still fitted, with a warning.
THRESHOLD_COMFORT = 10
TINY = 1e-6
_SETS: Final = "lac_by_class"  # the score of the prediction sets


@dataclass(frozen=True)
class Thresholds:
    """Probabilities -> classes: argmax over k of p_k / t_k."""

    rule: ThresholdRule
    # t_k, one per class. A binary model has t_0 = 1 - t_1, so that it decides p_1 >= t_1.
    values: tuple[float, ...]
    fitted_on: FittedOn
    # one limit a class of the prediction sets; empty in bundles of before they were kept
    sets: tuple[float | None, ...] = ()

    def decide(self, probabilities: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
        """Decide on a class for each row."""
        probabilities = np.asarray(probabilities, dtype=np.float64)
        if len(self.values) == 2:
            return (probabilities[:, 1] >= self.values[1]).astype(np.int64)
        return np.argmax(probabilities / np.array(self.values), axis=1).astype(np.int64)

    def predict_sets(self, probabilities: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
        """Tell which classes cannot be ruled out; see `training.conformal`."""
        return predict_sets(probabilities, _SETS, self.sets)

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        return {
            "rule": self.rule,
            "values": list(self.values),
            "fitted_on": self.fitted_on.to_dict(),
            "sets": {"score": _SETS, "coverage": COVERAGE, "limits": list(self.sets)},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Thresholds":
        """Read what `to_dict` rendered."""
        fitted_on = FittedOn.from_dict(values["fitted_on"])
        sets = tuple(values.get("sets", {}).get("limits", ()))
        return cls(values["rule"], tuple(values["values"]), fitted_on, sets)


class _Cuts(NamedTuple):
    """Scores at each possible threshold, from the highest down; precision is 0 where none is."""

    thresholds: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    precision: np.ndarray
    f1: np.ndarray


def fit_thresholds(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], rule: ThresholdRule
) -> Thresholds:
    """Fit decision thresholds on the calibrated probabilities of validation rows.

    A threshold lies half-way between two neighbouring probabilities, so that rounding on disk
    changes no decision. Ties go to the highest threshold. Rules are ``argmax``, or per class
    one-vs-rest ``youden_j`` (sensitivity + specificity highest), ``max_f1``, ``balanced``
    (sensitivity and specificity nearest each other) or ``precision_target:<p>`` (the highest recall
    with at least that precision; if no threshold reaches it, the highest precision, with a note).
    Raises ValueError if the rule is unknown, or labels and probabilities do not match.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    counts = count_classes(probabilities, labels)
    k = len(counts)
    sets = fit_conformal(probabilities, labels, _SETS, COVERAGE, seed=0).quantiles
    if rule == "argmax":
        return Thresholds(rule, (1 / k,) * k, FittedOn(counts), sets)
    choose, n = _chooser(rule), len(labels)
    optimal_at_prevalence = rule in ("youden_j", "balanced")
    notes: list[str] = []
    values: list[float] = []
    for c in (1,) if k == 2 else range(k):
        inside, outside = counts[c], n - counts[c]
        if optimal_at_prevalence and 0 < min(inside, outside) < THRESHOLD_MINIMUM:
            value = (inside + 1) / (n + 2)
            rows = f"{show_count(inside, 'rows')} inside and {outside} outside"
            note = [f"{rows}, threshold at the prevalence"]
        else:
            value, note = _fit_threshold(probabilities[:, c], labels == c, choose)
        values.append(1 / k if value is None else value)
        notes += [f"class {c}: {text}" for text in note]
    if k == 2:
        values = [1 - values[0], values[0]]
    return Thresholds(rule, tuple(values), FittedOn(counts, tuple(notes)), sets)


_Chooser = Callable[[_Cuts], tuple[int, list[str]]]


def _chooser(rule: ThresholdRule) -> _Chooser:
    if (target := read_precision_target(rule)) is not None:
        return lambda cuts: _choose_for_precision(cuts, target)
    goodness: dict[str, Callable[[_Cuts], np.ndarray]] = {
        "youden_j": lambda cuts: cuts.sensitivity + cuts.specificity,
        "max_f1": lambda cuts: cuts.f1,
        "balanced": _balance,
    }
    if rule not in goodness:
        raise ValueError(f"unknown threshold rule {rule!r}")
    # Rounded, so that equal goodness reached by different sums counts as equal.
    return lambda cuts: (int(np.argmax(goodness[rule](cuts).round(12))), [])


def _balance(cuts: _Cuts) -> np.ndarray:
    """Least distance first, the larger sum among equals."""
    distance = np.abs(cuts.sensitivity - cuts.specificity)
    return -distance.round(9) + (cuts.sensitivity + cuts.specificity) * 1e-10


def _choose_for_precision(cuts: _Cuts, target: float) -> tuple[int, list[str]]:
    precision, recall = cuts.precision, cuts.sensitivity
    reached = np.flatnonzero((precision >= target) & (recall > 0))
    if len(reached):
        return int(reached[np.lexsort((-precision[reached], -recall[reached]))[0]]), []
    best = int(np.lexsort((-recall, -precision))[0])
    used = f"{precision[best]:.3f} at recall {recall[best]:.3f}"
    return best, [f"precision {target:g} is out of reach on validation, the highest used: {used}"]


def _fit_threshold(
    scores: Float[np.ndarray, " n"], is_class: np.ndarray, choose: _Chooser
) -> tuple[float | None, list[str]]:
    inside, outside = int(is_class.sum()), int((~is_class).sum())
    if not inside or not outside:
        which = "is absent from" if not inside else "is alone in"
        return None, [f"{which} validation, threshold of argmax"]
    cuts = _count_cuts(scores, is_class)
    best, notes = choose(cuts)
    if inside < THRESHOLD_COMFORT:
        notes = [*notes, f"the threshold rests on {show_count(inside, 'rows')} of the class"]
    return float(np.clip(cuts.thresholds[best], TINY, 1 - TINY)), notes


def _count_cuts(scores: Float[np.ndarray, " n"], is_class: np.ndarray) -> _Cuts:
    # Closer scores count as one: a threshold between them might not survive rounding.
    scores = scores.round(9)
    levels = np.unique(scores)[::-1]
    bounds = np.concatenate([[1.0], levels, [0.0]])
    middles = (bounds[:-1] + bounds[1:]) / 2
    # No threshold lies beyond a score of exactly 0 or 1.
    keep = np.ones(len(middles), dtype=bool)
    keep[0], keep[-1] = levels[0] < 1, levels[-1] > 0
    middles = middles[keep]
    inside, outside = np.sort(scores[is_class]), np.sort(scores[~is_class])
    tp, fp = (len(o) - np.searchsorted(o, middles, side="left") for o in (inside, outside))
    precision, f1 = tp / np.maximum(tp + fp, 1), 2 * tp / (tp + fp + len(inside))
    return _Cuts(middles, tp / len(inside), 1 - fp / len(outside), precision, f1)

"""Post-hoc calibration and decision thresholds, both fitted on validation rows and nothing else.

A small or one-sided validation set never ends a run. What it cannot support is replaced by the next
simpler thing that it can, and the replacement is written into ``fitted_on.note``:

- isotonic needs `ISOTONIC_MINIMUM` rows inside and outside the class, else Platt takes its place;
- Platt's slope needs `PLATT_MINIMUM` of each and must come out positive (a calibrator must not turn
  a model's order round), else the slope is 1 and only the intercept is fitted;
- a threshold for a class that is absent (or alone) is the one of argmax;
- with fewer than `THRESHOLD_MINIMUM` rows inside or outside a class, Youden's J and balance put the
  threshold at the class's prevalence: there both have their optimum if probabilities are true;
- without any row the logits stay as they are.

Source: paper 3.2 (Platt or isotonic on the validation fold; Youden's J or a precision target,
balanced sensitivity and specificity for XGBoost); Platt 1999 for the smoothed targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq, minimize
from scipy.special import expit, logsumexp, softmax

from histofuse.core.artifacts import load_json, write_json
from histofuse.core.progress import report
from histofuse.params.decision import CalibrationMethod, ThresholdRule, read_precision_target

CALIBRATOR = "calibrator.json"
THRESHOLD = "threshold.json"

PLATT_MINIMUM = 5
ISOTONIC_MINIMUM = 10
THRESHOLD_MINIMUM = 5
# Below this many rows of a class a threshold is still fitted, and said to rest on little.
THRESHOLD_COMFORT = 10
TEMPERATURES = (0.05, 20.0)
TINY = 1e-6


# --- what a fit rested on -----------------------------------------------------------------------


@dataclass(frozen=True)
class FittedOn:
    """The rows behind a fit.

    Attributes:
        per_class: Rows of each class.
        notes: What the rows could not support and what stands in its place; empty if nothing.
    """

    per_class: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON; `positives` is null unless the model is binary."""
        return {
            "n": sum(self.per_class),
            "per_class": list(self.per_class),
            "positives": self.per_class[1] if len(self.per_class) == 2 else None,
            "note": "; ".join(self.notes),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FittedOn:
        """Read what `to_dict` rendered."""
        notes = tuple(note for note in values["note"].split("; ") if note)
        return cls(tuple(values["per_class"]), notes)


# --- calibration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SigmoidCurve:
    """Log-odds -> probability: 1 / (1 + exp(-(slope * z + intercept)))."""

    slope: float
    intercept: float

    def __call__(self, log_odds: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Compute the probability of the class."""
        return expit(self.slope * log_odds + self.intercept)

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        return {"curve": "sigmoid", "slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True)
class StepCurve:
    """Log-odds -> probability: linear between rising breakpoints, constant beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, log_odds: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Compute the probability of the class."""
        return np.interp(log_odds, self.x, self.y)

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        return {"curve": "isotonic", "x": list(self.x), "y": list(self.y)}


Curve = SigmoidCurve | StepCurve


@dataclass(frozen=True)
class Calibrator:
    """Logits -> probabilities.

    Attributes:
        method: The method asked for; `fitted_on` says where another took its place.
        temperature: Divides the logits before the softmax; 1 unless the method is temperature.
        curves: One a class, one-vs-rest, from the class's log-odds; a binary model has the one of
            its positive class. Empty where the softmax alone decides.
        fitted_on: The rows behind the fit.
    """

    method: CalibrationMethod
    temperature: float
    curves: tuple[Curve, ...]
    fitted_on: FittedOn

    def probabilities(self, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Compute calibrated probabilities; each row sums to 1.

        Binary models pass their logit as the second of two columns, the first being 0. One-vs-rest
        curves are renormalised; a row that every curve puts at 0 becomes uniform.
        """
        logits = np.asarray(logits, dtype=np.float64)
        if not self.curves:
            return softmax(logits / self.temperature, axis=1)
        log_odds = compute_log_odds(logits)
        if len(self.curves) == 1:
            positive = self.curves[0](log_odds[:, 1])
            return np.column_stack([1 - positive, positive])
        each = np.column_stack([c(z) for c, z in zip(self.curves, log_odds.T, strict=True)])
        total = each.sum(axis=1, keepdims=True)
        uniform = np.full_like(each, 1 / each.shape[1])
        return np.divide(each, total, out=uniform, where=total > 0)

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        return {
            "method": self.method,
            "temperature": self.temperature,
            "curves": [curve.to_dict() for curve in self.curves],
            "fitted_on": self.fitted_on.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibrator:
        """Read what `to_dict` rendered."""
        curves = tuple(_read_curve(curve) for curve in values["curves"])
        fitted_on = FittedOn.from_dict(values["fitted_on"])
        return cls(values["method"], values["temperature"], curves, fitted_on)


def compute_log_odds(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Compute each class's log-odds against all others; for [0, z] that is [-z, z]."""
    k = logits.shape[1]
    others = [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(k)]
    return logits - np.column_stack(others)


def fit_calibrator(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    method: CalibrationMethod,
) -> Calibrator:
    """Fit a calibrator on validation rows.

    Args:
        logits: One column a class; binary models pass ``[0, logit]``.
        labels: Class numbers.
        method: ``temperature`` divides all logits by one number; ``platt`` and ``isotonic`` fit a
            curve a class, one-vs-rest on its log-odds, and renormalise.

    Raises:
        ValueError: If logits are not finite, or labels and logits do not fit each other.
    """
    logits = np.asarray(logits, dtype=np.float64)
    counts = _count_classes(logits, labels)
    notes = [f"class {c} is absent from validation" for c, n in enumerate(counts) if n == 0]
    if method == "none" or not len(labels):
        return Calibrator(method, 1.0, (), FittedOn(counts, tuple(notes)))
    if method == "temperature":
        temperature, note = _fit_temperature(logits, labels)
        return Calibrator(method, temperature, (), FittedOn(counts, (*notes, *note)))

    fit = _fit_isotonic if method == "isotonic" else _fit_platt
    log_odds = compute_log_odds(logits)
    curves: list[Curve] = []
    for c in (1,) if len(counts) == 2 else range(len(counts)):
        curve, note = fit(log_odds[:, c], labels == c)
        curves.append(curve)
        notes += [f"class {c}: {n}" for n in note]
    return Calibrator(method, 1.0, tuple(curves), FittedOn(counts, tuple(notes)))


def _fit_temperature(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[float, list[str]]:
    """Minimise the negative log-likelihood, which is convex in 1 / temperature."""
    true = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        expected = (softmax(inverse * logits, axis=1) * logits).sum(axis=1)
        return float((expected - true).mean())

    sharpest, flattest = (1 / t for t in TEMPERATURES)
    if slope(sharpest) <= 0:
        if slope(flattest) == slope(sharpest):
            return 1.0, ["the logits tell the classes apart in no row, temperature left at 1"]
        return TEMPERATURES[0], [f"validation is separated, temperature held at {TEMPERATURES[0]}"]
    if slope(flattest) >= 0:
        return TEMPERATURES[1], [f"no better than chance, temperature held at {TEMPERATURES[1]}"]
    return 1 / _find_root(slope, flattest, sharpest), []


def _fit_platt(
    log_odds: Float[np.ndarray, " n"], is_class: np.ndarray
) -> tuple[SigmoidCurve, list[str]]:
    inside, outside = int(is_class.sum()), int((~is_class).sum())
    # Platt's smoothed targets keep the optimum finite on separated rows.
    targets = np.where(is_class, (inside + 1) / (inside + 2), 1 / (outside + 2))
    if min(inside, outside) < PLATT_MINIMUM:
        note = f"{_count_rows(inside)} inside and {outside} outside, intercept alone fitted"
        return _fit_intercept(log_odds, targets), [note]
    curve = _fit_sigmoid(log_odds, targets)
    if curve.slope <= 0:
        note = "validation would turn the order round, slope 1 and intercept fitted alone"
        return _fit_intercept(log_odds, targets), [note]
    return curve, []


def _fit_sigmoid(
    log_odds: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]
) -> SigmoidCurve:
    centre, spread = log_odds.mean(), log_odds.std()
    if spread < TINY:
        return SigmoidCurve(0.0, 0.0)
    design = np.column_stack([(log_odds - centre) / spread, np.ones_like(log_odds)])

    def loss(w: np.ndarray) -> float:
        z = design @ w
        return float((np.logaddexp(0, z) - targets * z).mean())

    def gradient(w: np.ndarray) -> np.ndarray:
        return design.T @ (expit(design @ w) - targets) / len(targets)

    def hessian(w: np.ndarray) -> np.ndarray:
        p = expit(design @ w)
        return (design * (p * (1 - p))[:, None]).T @ design / len(targets)

    start = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    options = {"gtol": 1e-10}
    found = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options=options)
    slope = float(found.x[0] / spread)
    return SigmoidCurve(slope, float(found.x[1] - slope * centre))


def _fit_intercept(
    log_odds: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]
) -> SigmoidCurve:
    """Shift the log-odds until the mean probability is the mean target."""
    reach = 50 + float(np.abs(log_odds).max())
    shift = _find_root(lambda b: float((expit(log_odds + b) - targets).mean()), -reach, reach)
    return SigmoidCurve(1.0, shift)


def _find_root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(cast("float", brentq(function, low, high, xtol=1e-12)))


def _fit_isotonic(
    log_odds: Float[np.ndarray, " n"], is_class: np.ndarray
) -> tuple[Curve, list[str]]:
    inside, outside = int(is_class.sum()), int((~is_class).sum())
    if min(inside, outside) < ISOTONIC_MINIMUM:
        curve, notes = _fit_platt(log_odds, is_class)
        note = f"{_count_rows(inside)} inside and {outside} outside: too few for isotonic, Platt"
        return curve, [note, *notes]
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1)
    model.fit(log_odds, is_class.astype(np.float64))
    return StepCurve(tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist())), []


def _read_curve(values: dict[str, Any]) -> Curve:
    if values["curve"] == "sigmoid":
        return SigmoidCurve(values["slope"], values["intercept"])
    return StepCurve(tuple(values["x"]), tuple(values["y"]))


# --- thresholds ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thresholds:
    """Probabilities -> classes: argmax over k of p_k / t_k.

    Attributes:
        rule: The rule asked for.
        values: t_k, one a class. A binary model has t_0 = 1 - t_1, so that it decides p_1 >= t_1.
        fitted_on: The rows behind the fit.
    """

    rule: ThresholdRule
    values: tuple[float, ...]
    fitted_on: FittedOn

    def decide(self, probabilities: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
        """Decide on a class for each row."""
        probabilities = np.asarray(probabilities, dtype=np.float64)
        if len(self.values) == 2:
            return (probabilities[:, 1] >= self.values[1]).astype(np.int64)
        return np.argmax(probabilities / np.array(self.values), axis=1).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        return {
            "rule": self.rule,
            "values": list(self.values),
            "fitted_on": self.fitted_on.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Thresholds:
        """Read what `to_dict` rendered."""
        fitted_on = FittedOn.from_dict(values["fitted_on"])
        return cls(values["rule"], tuple(values["values"]), fitted_on)


@dataclass(frozen=True)
class _Cuts:
    """Confusion counts at each possible threshold, from the highest threshold down."""

    thresholds: Float[np.ndarray, " cuts"]
    tp: Float[np.ndarray, " cuts"]
    fp: Float[np.ndarray, " cuts"]
    positives: int
    negatives: int

    @property
    def sensitivity(self) -> np.ndarray:
        return self.tp / self.positives

    @property
    def specificity(self) -> np.ndarray:
        return 1 - self.fp / self.negatives

    @property
    def precision(self) -> np.ndarray:
        """Precision; 0 where nothing is called positive."""
        return self.tp / np.maximum(self.tp + self.fp, 1)

    @property
    def f1(self) -> np.ndarray:
        return 2 * self.tp / (self.tp + self.fp + self.positives)


def fit_thresholds(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    rule: ThresholdRule,
) -> Thresholds:
    """Fit decision thresholds on the calibrated probabilities of validation rows.

    A threshold lies half-way between two neighbouring probabilities, so that rounding on the way to
    disk changes no decision. Of equally good thresholds the highest is taken.

    Args:
        probabilities: One column a class.
        labels: Class numbers.
        rule: ``argmax``; per class one-vs-rest ``youden_j`` (sensitivity + specificity highest),
            ``max_f1``, ``balanced`` (sensitivity and specificity nearest each other) or
            ``precision_target:<p>`` (the highest recall with at least that precision; where no
            threshold reaches it, the highest precision there is, said in the note).

    Raises:
        ValueError: If the rule is unknown, or labels and probabilities do not fit each other.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    counts = _count_classes(probabilities, labels)
    k = len(counts)
    if rule == "argmax":
        return Thresholds(rule, (1 / k,) * k, FittedOn(counts))
    choose = _chooser(rule)
    optimal_at_prevalence = rule in ("youden_j", "balanced")
    notes: list[str] = []
    values: list[float] = []
    for c in (1,) if k == 2 else range(k):
        if (
            optimal_at_prevalence
            and 0 < min(counts[c], len(labels) - counts[c]) < THRESHOLD_MINIMUM
        ):
            value, note = _take_prevalence(counts[c], len(labels))
        else:
            value, note = _fit_threshold(probabilities[:, c], labels == c, choose)
        values.append(1 / k if value is None else value)
        notes += [f"class {c}: {n}" for n in note]
    if k == 2:
        values = [1 - values[0], values[0]]
    return Thresholds(rule, tuple(values), FittedOn(counts, tuple(notes)))


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
    reached = np.flatnonzero((precision >= target) & (cuts.tp > 0))
    if len(reached):
        return int(reached[np.lexsort((-precision[reached], -recall[reached]))[0]]), []
    best = int(np.lexsort((-recall, -precision))[0])
    note = (
        f"precision {target:g} is out of reach on validation, the highest taken:"
        f" {precision[best]:.3f} at recall {recall[best]:.3f}"
    )
    return best, [note]


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
        notes = [*notes, f"the threshold rests on {_count_rows(inside)} of the class"]
    return float(np.clip(cuts.thresholds[best], TINY, 1 - TINY)), notes


def _take_prevalence(inside: int, n: int) -> tuple[float, list[str]]:
    note = f"{_count_rows(inside)} inside and {n - inside} outside, threshold at the prevalence"
    return (inside + 1) / (n + 2), [note]


def _count_rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def _count_cuts(scores: Float[np.ndarray, " n"], is_class: np.ndarray) -> _Cuts:
    # Scores nearer to each other than this are one: no threshold fits between them for certain.
    scores = scores.round(9)
    levels = np.unique(scores)[::-1]
    bounds = np.concatenate([[1.0], levels, [0.0]])
    middles = (bounds[:-1] + bounds[1:]) / 2
    order = np.sort(scores[is_class]), np.sort(scores[~is_class])
    tp, fp = (len(o) - np.searchsorted(o, middles, side="left") for o in order)
    # An end that a score lies on has no room for a threshold beyond it.
    keep = np.ones(len(middles), dtype=bool)
    keep[0], keep[-1] = levels[0] < 1, levels[-1] > 0
    return _Cuts(
        middles[keep],
        tp[keep].astype(np.float64),
        fp[keep].astype(np.float64),
        len(order[0]),
        len(order[1]),
    )


# --- both together ------------------------------------------------------------------------------


def fit_decision(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    method: CalibrationMethod,
    rule: ThresholdRule,
) -> tuple[Calibrator, Thresholds]:
    """Fit calibrator and thresholds on validation rows, and report what these could not support."""
    calibrator = fit_calibrator(logits, labels, method)
    thresholds = fit_thresholds(calibrator.probabilities(logits), labels, rule)
    for what, fitted_on in (
        ("calibrator", calibrator.fitted_on),
        ("threshold", thresholds.fitted_on),
    ):
        for note in fitted_on.notes:
            report(f"warning: {what}, {sum(fitted_on.per_class)} validation rows: {note}")
    return calibrator, thresholds


def write_decision(calibrator: Calibrator, thresholds: Thresholds, folder: Path) -> None:
    """Write ``calibrator.json`` and ``threshold.json`` into a bundle's folder."""
    write_json(calibrator.to_dict(), folder / CALIBRATOR)
    write_json(thresholds.to_dict(), folder / THRESHOLD)


def load_decision(folder: Path) -> tuple[Calibrator, Thresholds]:
    """Read back what `write_decision` wrote."""
    calibrator = Calibrator.from_dict(load_json(folder / CALIBRATOR))
    return calibrator, Thresholds.from_dict(load_json(folder / THRESHOLD))


def _count_classes(
    columns: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[int, ...]:
    k = columns.shape[1]
    if k < 2 or len(columns) != len(labels):
        raise ValueError(f"expected (n, k >= 2) and n labels: {columns.shape}, {labels.shape}")
    if not np.isfinite(columns).all():
        raise ValueError(f"{int((~np.isfinite(columns)).any(axis=1).sum())} rows are not finite")
    if len(labels) and (labels.min() < 0 or labels.max() >= k):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {k - 1}")
    return tuple(np.bincount(labels, minlength=k).tolist())

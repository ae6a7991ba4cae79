"""Post-hoc calibration, fitted on validation rows alone.

To add a method, write a function that fits a curve from a class's log-odds to its probability, and
enter it in `CURVE_FITS`: params, training, the alarms and serving then take it by name.

A small or one-sided validation set never ends a run. What it is too small for is replaced by
something simpler, and ``fitted_on.note`` says so:

- isotonic needs `ISOTONIC_MINIMUM` rows inside and outside the class, else Platt is used;
- Platt's slope needs `PLATT_MINIMUM` of each and must be positive (a calibrator must not reverse a
  model's ranking), else the slope is 1 and only the intercept is fitted;
- without any rows the logits stay as they are.

Source: paper 3.2 (Platt or isotonic on the validation fold); Platt 1999 for the smoothed targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logsumexp, softmax

from histofuse.core.errors import Fault, InputError
from histofuse.params.decision import CalibrationMethod

PLATT_MINIMUM = 5
ISOTONIC_MINIMUM = 10
TEMPERATURES = (0.05, 20.0)
TINY = 1e-6


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
        method: The method requested; `fitted_on` notes where another was used instead.
        temperature: Divides the logits before the softmax; 1 unless the method is temperature.
        curves: One per class, one-vs-rest, from the class's log-odds; a binary model has only that
            of its positive class. Empty where the softmax alone decides.
        fitted_on: The rows behind the fit.
    """

    method: CalibrationMethod
    temperature: float
    curves: tuple[Curve, ...]
    fitted_on: FittedOn

    def probabilities(self, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Compute calibrated probabilities; each row sums to 1.

        Binary models pass their logit as the second of two columns, the first being 0. One-vs-rest
        curves are renormalised; a row with 0 from every curve becomes uniform.
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
        curves = tuple(
            SigmoidCurve(curve["slope"], curve["intercept"])
            if curve["curve"] == "sigmoid"
            else StepCurve(tuple(curve["x"]), tuple(curve["y"]))
            for curve in values["curves"]
        )
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
        logits: One column per class; binary models pass ``[0, logit]``.
        labels: Class numbers.
        method: ``none``; ``temperature`` divides all logits by one number; those of `CURVE_FITS`
            fit a curve per class, one-vs-rest on its log-odds, and renormalise.

    Raises:
        InputError: If there is no such method.
        ValueError: If logits are not finite, or labels and logits do not match.
    """
    check_method(method)
    logits = np.asarray(logits, dtype=np.float64)
    counts = count_classes(logits, labels)
    notes = [f"class {c} is absent from validation" for c, n in enumerate(counts) if n == 0]
    if method == "none" or not len(labels):
        return Calibrator(method, 1.0, (), FittedOn(counts, tuple(notes)))
    if method == "temperature":
        temperature, note = _fit_temperature(logits, labels)
        return Calibrator(method, temperature, (), FittedOn(counts, (*notes, *note)))

    fit = CURVE_FITS[method]
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
            return 1.0, ["the logits are equal in every row, temperature left at 1"]
        return TEMPERATURES[0], [f"validation is separable, temperature set to {TEMPERATURES[0]}"]
    if slope(flattest) >= 0:
        return TEMPERATURES[1], [f"no better than chance, temperature set to {TEMPERATURES[1]}"]
    return 1 / _find_root(slope, flattest, sharpest), []


def _fit_platt(
    log_odds: Float[np.ndarray, " n"], is_class: np.ndarray
) -> tuple[SigmoidCurve, list[str]]:
    inside, outside = int(is_class.sum()), int((~is_class).sum())
    # Platt's smoothed targets keep the optimum finite on separable rows.
    targets = np.where(is_class, (inside + 1) / (inside + 2), 1 / (outside + 2))
    if min(inside, outside) < PLATT_MINIMUM:
        note = f"{count_rows(inside)} inside and {outside} outside, only the intercept fitted"
        return _fit_intercept(log_odds, targets), [note]
    curve = _fit_sigmoid(log_odds, targets)
    if curve.slope <= 0:
        note = "validation would reverse the ranking, only the intercept fitted"
        return _fit_intercept(log_odds, targets), [note]
    return curve, []


def _fit_sigmoid(
    log_odds: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]
) -> SigmoidCurve:
    from scipy.optimize import minimize

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
    best = minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options=options)
    slope = float(best.x[0] / spread)
    return SigmoidCurve(slope, float(best.x[1] - slope * centre))


def _fit_intercept(
    log_odds: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]
) -> SigmoidCurve:
    """Shift the log-odds until the mean probability is the mean target."""
    reach = 50 + float(np.abs(log_odds).max())
    shift = _find_root(lambda b: float((expit(log_odds + b) - targets).mean()), -reach, reach)
    return SigmoidCurve(1.0, shift)


def _find_root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    return float(cast("float", brentq(function, low, high, xtol=1e-12)))


def _fit_isotonic(
    log_odds: Float[np.ndarray, " n"], is_class: np.ndarray
) -> tuple[Curve, list[str]]:
    inside, outside = int(is_class.sum()), int((~is_class).sum())
    if min(inside, outside) < ISOTONIC_MINIMUM:
        curve, notes = _fit_platt(log_odds, is_class)
        note = f"{count_rows(inside)} inside and {outside} outside: Platt in place of isotonic"
        return curve, [note, *notes]
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1)
    model.fit(log_odds, is_class.astype(np.float64))
    return StepCurve(tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist())), []


CurveFit = Callable[[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]], tuple[Curve, list[str]]]
# Method -> fit of one class's curve, one-vs-rest, from its log-odds and which rows are of the
# class; returns notes on what the rows were too few for.
CURVE_FITS: dict[str, CurveFit] = {"platt": _fit_platt, "isotonic": _fit_isotonic}


def check_method(method: CalibrationMethod) -> None:
    """Check a method before training starts.

    Raises:
        InputError: If there is no such method; names those there are.
    """
    methods = ["none", "temperature", *CURVE_FITS]
    if method not in methods:
        fault = Fault("params.yaml, calibration", f"is {method!r}", f"one of {', '.join(methods)}")
        raise InputError([fault])


@dataclass(frozen=True)
class FittedOn:
    """The rows behind a fit.

    Attributes:
        per_class: Rows of each class.
        notes: What the rows were too few for, and what was used instead.
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


def count_classes(
    columns: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[int, ...]:
    """Count the rows of each class.

    Raises:
        ValueError: If values are not finite, or labels and columns do not match.
    """
    k = columns.shape[1]
    if k < 2 or len(columns) != len(labels):
        raise ValueError(f"expected (n, k >= 2) and n labels: {columns.shape}, {labels.shape}")
    if not np.isfinite(columns).all():
        raise ValueError(f"{int((~np.isfinite(columns)).any(axis=1).sum())} rows are not finite")
    if len(labels) and (labels.min() < 0 or labels.max() >= k):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {k - 1}")
    return tuple(np.bincount(labels, minlength=k).tolist())


def count_rows(n: int) -> str:
    """Render a number of rows for a note."""
    return "1 row" if n == 1 else f"{n} rows"

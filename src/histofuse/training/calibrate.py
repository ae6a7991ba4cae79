"""Post-hoc calibration, fitted on validation rows alone.

To add a method, enter a fit of one class's curve in `CURVE_FITS` or of a `Scaling` of all logits in
`SCALING_FITS`; params, training, alarms and serving take it by name.

``auto`` takes the simpler of `CANDIDATES`, unless the log loss of the other is lower by more than
one standard error over cases, both cross-fitted in folds that keep the rows of a case together.

A small or one-sided validation set never ends a run; ``fitted_on.note`` says what was used instead:

- isotonic needs `ISOTONIC_MINIMUM` rows inside and outside the class, else Platt is used;
- Platt's slope needs `PLATT_MINIMUM` of each and must be positive, else only the intercept is
  fitted;
- biases need `scaling.BIAS_MINIMUM` rows of every class, else the temperature is fitted alone;
- ``auto`` compares nothing where a class is in too few cases to make folds, and takes the last of
  `CANDIDATES`: needless biases cost little, and shifted odds left as they are much;
- without any rows the logits stay as they are.

Sources: paper 3.2 (Platt or isotonic on the validation fold); Platt 1999 for the smoothed targets;
Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 7.10 (one standard error).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import expit, logsumexp

from histofuse.core.errors import InputError
from histofuse.core.naming import show_count
from histofuse.core.privacy import FEWEST_PATIENTS
from histofuse.params.decision import AUTO, CalibrationMethod
from histofuse.training.folds import Folds, split_folds
from histofuse.training.scaling import (
    UNCHANGED,
    Scaling,
    ScalingFit,
    find_root,
    fit_temperature,
    fit_temperature_and_biases,
)

PLATT_MINIMUM = 5
ISOTONIC_MINIMUM = 10
FOLDS = 5
# A constant: alarms and validation fit a stored calibrator again, and know no seed of its model.
FOLD_SEED = 0
TINY = 1e-6
SMALLEST_PROBABILITY = 1e-15  # log loss is finite


@dataclass(frozen=True)
class FittedOn:
    """The rows behind a fit: of each class, or their sum alone; and what they were too few for."""

    per_class: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def hide_few(self) -> "FittedOn":
        """Keep only the sum where a class has fewer rows than may be shown of restricted data."""
        if min(self.per_class, default=0) >= FEWEST_PATIENTS:
            return self
        few = f"a class has fewer than {FEWEST_PATIENTS} rows"
        return FittedOn((sum(self.per_class),), (few,) if self.notes else ())

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON; `positives` is null unless the model is binary."""
        return {
            "n": sum(self.per_class),
            "per_class": list(self.per_class),
            "positives": self.per_class[1] if len(self.per_class) == 2 else None,
            "note": "; ".join(self.notes),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FittedOn":
        """Read what `to_dict` rendered."""
        notes = tuple(note for note in values["note"].split("; ") if note)
        return cls(tuple(values["per_class"]), notes)


@dataclass(frozen=True)
class SigmoidCurve:
    """Log-odds -> probability: 1 / (1 + exp(-(slope * z + intercept)))."""

    slope: float
    intercept: float
    curve: Literal["sigmoid"] = "sigmoid"

    def __call__(self, log_odds: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Compute the probability of the class."""
        return expit(self.slope * log_odds + self.intercept)


@dataclass(frozen=True)
class StepCurve:
    """Log-odds -> probability: linear between rising breakpoints, constant beyond them."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    curve: Literal["isotonic"] = "isotonic"

    def __call__(self, log_odds: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Compute the probability of the class."""
        return np.interp(log_odds, self.x, self.y)


Curve = SigmoidCurve | StepCurve


def _read_curve(values: dict[str, Any]) -> Curve:
    if values["curve"] == "sigmoid":
        return SigmoidCurve(values["slope"], values["intercept"])
    return StepCurve(tuple(values["x"]), tuple(values["y"]))


@dataclass(frozen=True)
class Choice:
    """Which method ``auto`` took, and why.

    `log_loss` of each method is cross-fitted, `standard_error` is of the difference over `groups`
    (cases or patients); empty and None where none were compared.
    """

    method: CalibrationMethod
    log_loss: dict[str, float]
    standard_error: float | None
    folds: int
    groups: int


@dataclass(frozen=True)
class Calibrator:
    """Logits -> probabilities."""

    method: CalibrationMethod  # as requested; `fitted_on` notes where another was used instead
    scaling: Scaling
    # one per class, one-vs-rest, from its log-odds; of a binary model the positive class's alone.
    # Empty where the softmax of the scaled logits decides.
    curves: tuple[Curve, ...]
    fitted_on: FittedOn
    choice: Choice | None  # what ``auto`` took; None for the other methods

    @property
    def taken(self) -> CalibrationMethod:
        """The method that was fitted: under ``auto`` the one it took."""
        return self.choice.method if self.choice else self.method

    def probabilities(self, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Compute calibrated probabilities; each row sums to 1.

        Binary models pass ``[0, logit]``. A row with 0 from every curve becomes uniform.
        """
        logits = np.asarray(logits, dtype=np.float64)
        if not self.curves:
            return self.scaling.probabilities(logits)
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
        values = asdict(self)
        return values | values.pop("scaling") | {"fitted_on": self.fitted_on.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibrator":
        """Read what `to_dict` rendered; versions without biases and choice are read as well."""
        curves = tuple(map(_read_curve, values["curves"]))
        scaling = Scaling(values["temperature"], tuple(values.get("biases", ())))
        fitted_on = FittedOn.from_dict(values["fitted_on"])
        choice = values.get("choice")
        return cls(values["method"], scaling, curves, fitted_on, choice and Choice(**choice))


def compute_log_odds(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Compute each class's log-odds against all others; for [0, z] that is [-z, z]."""
    k = logits.shape[1]
    others = [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(k)]
    return logits - np.column_stack(others)


def fit_calibrator(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    method: CalibrationMethod,
) -> Calibrator:
    """Fit a calibrator on validation rows; binary models pass ``[0, logit]``.

    `groups` is the case or patient of each row, by whom ``auto`` makes its folds. Raises InputError
    if there is no such method; ValueError if logits are not finite, or labels and logits do not
    match.
    """
    check_method(method)
    logits = np.asarray(logits, dtype=np.float64)
    counts = count_classes(logits, labels)
    notes = [f"class {c} is absent from validation" for c, n in enumerate(counts) if n == 0]
    choice, taken = None, method
    if method == AUTO:
        choice, note = _choose(logits, labels, groups)
        taken, notes = choice.method, [*notes, *note]
    scaling, curves, note = _fit(logits, labels, taken)
    return Calibrator(method, scaling, curves, FittedOn(counts, (*notes, *note)), choice)


def _fit(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], method: CalibrationMethod
) -> tuple[Scaling, tuple[Curve, ...], list[str]]:
    if method == "none" or not len(labels):
        return UNCHANGED, (), []
    if method in SCALING_FITS:
        scaling, notes = SCALING_FITS[method](logits, labels)
        return scaling, (), notes
    log_odds, k = compute_log_odds(logits), logits.shape[1]
    curves: list[Curve] = []
    notes: list[str] = []
    for c in (1,) if k == 2 else range(k):
        curve, note = CURVE_FITS[method](log_odds[:, c], labels == c)
        curves.append(curve)
        notes += [f"class {c}: {n}" for n in note]
    return UNCHANGED, tuple(curves), notes


CANDIDATES: Final = ("temperature", "temperature_bias")  # the simpler one first


def _choose(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
) -> tuple[Choice, list[str]]:
    names, number = np.unique(groups, return_inverse=True)
    simple, other = CANDIDATES
    folds = split_folds(labels, number, logits.shape[1], FOLDS, FOLD_SEED)
    if not folds:
        where = f"a class is in too few of {len(names)} cases or patients"
        note = f"{where}, methods not compared: {other} used"
        return Choice(other, {}, None, 0, len(names)), [note]
    losses = {m: _cross_fit(logits, labels, m, folds) for m in CANDIDATES}
    gain = losses[simple] - losses[other]
    deviation = np.bincount(number, gain - gain.mean())
    error = (len(names) / (len(names) - 1) * (deviation**2).sum()) ** 0.5 / len(labels)
    taken = other if gain.mean() > error else simple
    means = {method: float(loss.mean()) for method, loss in losses.items()}
    return Choice(taken, means, float(error), len(folds), len(names)), []


def _cross_fit(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    method: CalibrationMethod,
    folds: Folds,
) -> Float[np.ndarray, " n"]:
    """Compute the log loss of each row by a fit on the folds it is not in."""
    loss = np.empty(len(labels))
    for rest, held_out in folds:
        scaling, *_ = SCALING_FITS[method](logits[rest], labels[rest])
        p = scaling.probabilities(logits[held_out])[np.arange(len(held_out)), labels[held_out]]
        loss[held_out] = -np.log(np.maximum(p, SMALLEST_PROBABILITY))
    return loss


def _fit_platt(
    log_odds: Float[np.ndarray, " n"], is_class: np.ndarray
) -> tuple[SigmoidCurve, list[str]]:
    inside, outside = int(is_class.sum()), int((~is_class).sum())
    # Platt's smoothed targets keep the optimum finite on separable rows.
    targets = np.where(is_class, (inside + 1) / (inside + 2), 1 / (outside + 2))
    if min(inside, outside) < PLATT_MINIMUM:
        note = (
            f"{show_count(inside, 'rows')} inside and {outside} outside, only the intercept fitted"
        )
        return _fit_intercept(log_odds, targets), [note]
    curve = _fit_sigmoid(log_odds, targets)
    if curve.slope <= 0:
        note = "validation would reverse the ranking, only the intercept fitted"
        return _fit_intercept(log_odds, targets), [note]
    return curve, []


def _fit_sigmoid(
    log_odds: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]
) -> SigmoidCurve:
    from sklearn.linear_model import LogisticRegression

    centre, spread = log_odds.mean(), log_odds.std()
    if spread < TINY:
        return SigmoidCurve(0.0, 0.0)
    # Each row counts twice: by its target as one of the class, by the rest as one of the others.
    rows = np.tile((log_odds - centre) / spread, 2)[:, None]
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    model.fit(rows, np.repeat([1, 0], len(targets)), np.append(targets, 1 - targets))
    slope = float(model.coef_[0, 0] / spread)
    return SigmoidCurve(slope, float(np.ravel(model.intercept_)[0] - slope * centre))


def _fit_intercept(
    log_odds: Float[np.ndarray, " n"], targets: Float[np.ndarray, " n"]
) -> SigmoidCurve:
    """Shift the log-odds until the mean probability is the mean target."""
    reach = 50 + float(np.abs(log_odds).max())
    shift = find_root(lambda b: float((expit(log_odds + b) - targets).mean()), -reach, reach)
    return SigmoidCurve(1.0, shift)


def _fit_isotonic(
    log_odds: Float[np.ndarray, " n"], is_class: np.ndarray
) -> tuple[Curve, list[str]]:
    inside, outside = int(is_class.sum()), int((~is_class).sum())
    if min(inside, outside) < ISOTONIC_MINIMUM:
        curve, notes = _fit_platt(log_odds, is_class)
        note = (
            f"{show_count(inside, 'rows')} inside and {outside} outside: Platt in place of isotonic"
        )
        return curve, [note, *notes]
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1)
    model.fit(log_odds, is_class.astype(np.float64))
    return StepCurve(tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist())), []


CurveFit = Callable[[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]], tuple[Curve, list[str]]]
# Method -> fit of one class's curve, one-vs-rest, from its log-odds and which rows are of the
# class; returns notes on what the rows were too few for.
CURVE_FITS: dict[str, CurveFit] = {"platt": _fit_platt, "isotonic": _fit_isotonic}
# Method -> fit of a scaling of all logits, from them and the class numbers; notes likewise.
SCALING_FITS: dict[str, ScalingFit] = {
    "temperature": fit_temperature,
    "temperature_bias": fit_temperature_and_biases,
}


def check_method(method: CalibrationMethod) -> None:
    """Check a method before training starts; an `InputError` names those there are."""
    methods = ["none", AUTO, *SCALING_FITS, *CURVE_FITS]
    if method not in methods:
        raise InputError.of(
            "params.yaml, calibration", f"is {method!r}", f"one of {', '.join(methods)}"
        )


def count_classes(
    columns: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[int, ...]:
    """Count the rows of each class.

    Raises ValueError if values are not finite, or labels and columns do not match.
    """
    k = columns.shape[1]
    if k < 2 or len(columns) != len(labels):
        raise ValueError(f"expected (n, k >= 2) and n labels: {columns.shape}, {labels.shape}")
    if not np.isfinite(columns).all():
        raise ValueError(f"{int((~np.isfinite(columns)).any(axis=1).sum())} rows are not finite")
    if len(labels) and (labels.min() < 0 or labels.max() >= k):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {k - 1}")
    return tuple(np.bincount(labels, minlength=k).tolist())

"""Fits of softmax(logits / temperature + biases), one bias a class.

Class weights, or a sampler that balances classes, shift every class's log-odds by a constant, which
one temperature cannot undo and a bias a class can.

Sources: Guo et al. 2017, On Calibration of Modern Neural Networks (temperature); Alexandari et al.
2020, Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation
(temperature with biases).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, softmax

from histofuse.core.naming import show_count

# 1 / temperature lies between these.
FLATTEST: Final = 0.05
SHARPEST: Final = 20.0
# A class's bias is fitted from this many of its rows.
BIAS_MINIMUM: Final = 5
_FLAT: Final = 1e-10  # of a gradient
_SAME: Final = 1e-9
_SURE: Final = 1e-8  # a loss that only separable rows reach
_LEAST_SLOPE: Final = 0.01  # least slope on scores with a spread of 1: ranks are never reversed


@dataclass(frozen=True)
class Scaling:
    """Logits -> probabilities; biases have a mean of 0, or are empty."""

    temperature: float
    biases: tuple[float, ...]

    def probabilities(self, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Compute probabilities; each row sums to 1."""
        return softmax(logits / self.temperature + np.array(self.biases or 0.0), axis=1)


UNCHANGED: Final = Scaling(1.0, ())
ScalingFit = Callable[[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]], tuple[Scaling, list[str]]]


def fit_temperature(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[Scaling, list[str]]:
    """Minimise the negative log-likelihood, which is convex in 1 / temperature."""
    of_true = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        expected = (softmax(inverse * logits, axis=1) * logits).sum(axis=1)
        return float((expected - of_true).mean())

    if slope(SHARPEST) <= 0:
        if slope(FLATTEST) == slope(SHARPEST):
            return UNCHANGED, ["the logits are equal in every row, temperature left at 1"]
        note = f"validation is separable, temperature set to {1 / SHARPEST:g}"
        return Scaling(1 / SHARPEST, ()), [note]
    if slope(FLATTEST) >= 0:
        note = f"no better than chance, temperature set to {1 / FLATTEST:g}"
        return Scaling(1 / FLATTEST, ()), [note]
    return Scaling(1 / find_root(slope, FLATTEST, SHARPEST), ()), []


def fit_temperature_and_biases(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[Scaling, list[str]]:
    """Minimise the negative log-likelihood, which is convex in 1 / temperature and biases.

    With fewer than `BIAS_MINIMUM` rows of a class the temperature is fitted alone, with a note.
    """
    counts = np.bincount(labels, minlength=logits.shape[1])
    if counts.min() < BIAS_MINIMUM:
        scaling, notes = fit_temperature(logits, labels)
        why = f"class {counts.argmin()}: {show_count(int(counts.min()), 'rows')}, no biases fitted"
        return scaling, [why, *notes]
    centre, spread = logits.mean(axis=0), float((logits - logits.mean(axis=0)).std())
    if spread < _SAME * (1 + np.abs(logits).max()):
        spread = 1.0
    scores = (logits - centre) / spread
    # The bias of the first class is held at 0: only differences count.
    shifts = np.broadcast_to(np.eye(len(counts))[:, 1:], (*logits.shape, len(counts) - 1))
    design = np.concatenate([scores[:, :, None], shifts], axis=2)
    (slope, *biases), loss = _minimise(design, np.zeros_like(scores), labels)
    notes = ["validation is separable"] if loss < _SURE else []
    if slope < _LEAST_SLOPE:
        notes, slope = ["no better than chance, probabilities nearly the shares"], _LEAST_SLOPE
        biases, _ = _minimise(shifts, slope * scores, labels)
    shifted = np.append(0.0, biases) - slope / spread * centre
    return Scaling(spread / slope, tuple((shifted - shifted.mean()).tolist())), notes


def _minimise(
    design: Float[np.ndarray, "n k m"],
    offset: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " m"], float]:
    """Fit w of softmax(offset + design @ w); also return the loss a row."""
    from scipy.optimize import minimize

    n, _, m = design.shape
    of_true = design[np.arange(n), labels].mean(axis=0)

    def measure(w: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(offset + design @ w, axis=1)
        expected = (np.exp(log_p)[:, :, None] * design).sum(axis=1)
        return -float(log_p[np.arange(n), labels].mean()), expected.mean(axis=0) - of_true

    def curve(w: np.ndarray) -> np.ndarray:
        weighted = softmax(offset + design @ w, axis=1)[:, :, None] * design
        expected = weighted.sum(axis=1)
        squares = weighted.reshape(-1, m).T @ design.reshape(-1, m)
        return (squares - expected.T @ expected) / n

    options = {"gtol": _FLAT}
    best = minimize(
        measure, np.zeros(m), jac=True, hess=curve, method="trust-exact", options=options
    )
    return best.x, float(best.fun)


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Find where a rising function crosses 0."""
    from scipy.optimize import brentq

    return float(cast("float", brentq(function, low, high, xtol=1e-12)))
